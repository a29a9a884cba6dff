//! What a gateway has in front of RabbitMQ and not on its embedded broker, and the other way round (contract, §11).

use std::time::Duration;

use stompgate::message::Separators;

use crate::nodes::{one_at_each, two_gateways};
use crate::queues::{reader, sender};
use crate::support::{Client, Gateway, connect_frame, gateway, gateway_with, until};
use crate::topics::{expect_matched, refused_to_send, refused_to_subscribe};
use crate::transactions::begun;

/// A gateway whose clients may name arguments, and a queue `/queue/a` with these.
async fn with_arguments(arguments: &str) -> Gateway {
    let gateway = gateway_with(|config| config.broker.amqp.queue_arguments = Some(true));
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe(&format!("id:0\ndestination:/queue/a\n{arguments}")).await;
    client.does("UNSUBSCRIBE\nid:0").await;
    client.disconnect().await;
    gateway
}

#[tokio::test]
async fn nothing_is_retained() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/topic/a\nretain:true\nreceipt:7\n\nx").await;
    client.expect_error("unsupported", 1008).await.with("receipt-id", "7").about("retain");
}

#[tokio::test]
async fn nothing_collects_for_an_exchange_without_a_queue_of_a_known_name() {
    let gateway = gateway();
    for header in ["durable:true", "client-id:c\ndurable-subscription-name:s"] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send(format!("SUBSCRIBE\nid:0\ndestination:/exchange/amq.topic/a\n{header}\n\n")).await;
        client.expect_error("unsupported", 1008).await.about("x-queue-name");
    }
}

#[tokio::test]
async fn a_segment_has_no_dot_and_is_no_wildcard() {
    let gateway = gateway();
    refused_to_send(&gateway, "/topic/a%2Eb", "unsupported").await;
    for destination in ["/topic/a%2Eb", "/topic/a/%2A"] {
        let body = refused_to_subscribe(&gateway, destination, "unsupported").await;
        assert!(body.contains("segment"), "{body}");
    }
    let slash = gateway_with(|config| config.destination.separators = Separators::Slash);
    refused_to_send(&slash, "/topic/v1.0/x", "unsupported").await;
    let dot = gateway_with(|config| config.destination.separators = Separators::Dot);
    expect_matched(&dot, "/topic/a/b.*", &["/topic/a/b.c", "/topic/a.b.c"], &["/topic/a/b.c"]).await;
}

#[tokio::test]
async fn exchanges_and_topics_are_one() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:topic\ndestination:/topic/a/*").await;
    client.subscribe("id:exchange\ndestination:/exchange/amq.topic/a.*").await;
    for destination in ["/topic/a/b", "/exchange/amq.topic/a.b"] {
        client.send(format!("SEND\ndestination:{destination}\n\nx")).await;
        let mut subscriptions = [(); 2].map(|()| String::new());
        for subscription in &mut subscriptions {
            *subscription = client.expect("MESSAGE").await.get("subscription");
        }
        subscriptions.sort();
        assert_eq!(subscriptions, ["exchange", "topic"]);
    }
}

#[tokio::test]
async fn what_must_exist_and_does_not_is_an_error() {
    let gateway = gateway();
    for destination in ["/exchange/missing/a", "/amq/queue/missing"] {
        for body in [
            refused_to_subscribe(&gateway, destination, "not-found").await,
            refused_to_send(&gateway, destination, "not-found").await,
        ] {
            assert!(body.contains("missing"), "{body}");
        }
    }
}

#[tokio::test]
async fn a_queue_of_another_program_is_read_by_its_name() {
    let gateway = gateway();
    sender(&gateway, &["x"]).await; // it declares the queue
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("SEND\ndestination:/amq/queue/a\n\ny").await.without("routed");
    client.send("SUBSCRIBE\nid:0\ndestination:/amq/queue/a").await;
    assert_eq!(client.bodies(2).await, ["x", "y"]);
}

#[tokio::test]
async fn priorities_count_in_queues_that_are_declared_so() {
    let messages = ["priority:1|low", "priority:9|high", "priority:5|middle"];
    for (arguments, expected) in [("", ["low", "high", "middle"]), ("x-max-priority:9", ["high", "middle", "low"])] {
        let gateway = with_arguments(arguments).await;
        sender(&gateway, &messages).await;
        assert_eq!(reader(&gateway, "").await.bodies(3).await, expected, "{arguments}");
    }
}

#[tokio::test]
async fn a_full_queue_rejects() {
    let gateway = with_arguments("x-max-length:1\nx-overflow:reject-publish").await;
    let mut client = sender(&gateway, &["1"]).await;
    client.send("SEND\ndestination:/queue/a\nreceipt:7\n\n2").await;
    client.expect_error("rejected", 1008).await.with("receipt-id", "7");
    assert_eq!(reader(&gateway, "").await.bodies(1).await, ["1"]);
}

#[tokio::test]
async fn the_dead_go_where_the_queue_says() {
    let gateway = with_arguments("x-dead-letter-exchange:\nx-dead-letter-routing-key:dead").await;
    let mut undertaker = Client::connect(&gateway, "1.2").await;
    undertaker.subscribe("id:0\ndestination:/queue/dead").await;
    sender(&gateway, &["foo:bar|rejected"]).await;
    let mut reader = reader(&gateway, "ack:client").await;
    let ack = reader.expect("MESSAGE").await.get("ack");
    reader.send(format!("NACK\nid:{ack}\nrequeue:false")).await;
    let letter = undertaker.expect("MESSAGE").await.with("destination", "/queue/dead").saying("rejected");
    let letter = letter.with("foo", "bar").with("x-first-death-queue", "a").with("x-first-death-reason", "rejected");
    assert!(letter.get("x-death").contains("\"reason\":\"rejected\""), "the table, as JSON");
    reader.does("UNSUBSCRIBE\nid:0").await; // or it would be there in time
    sender(&gateway, &["expiration:0|expired"]).await;
    undertaker.expect("MESSAGE").await.saying("expired").with("x-first-death-reason", "expired");
}

#[tokio::test]
async fn a_commit_that_fails_has_published_what_could_be_and_settled_nothing() {
    let gateway = with_arguments("x-max-length:1\nx-overflow:reject-publish").await;
    let (mut client, mut reader) = begun(&gateway).await;
    client.does("SEND\ndestination:/queue/work\n\njob").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/work\nack:client").await;
    let ack = client.expect("MESSAGE").await.get("ack");
    client.send(format!("ACK\nid:{ack}\ntransaction:t")).await;
    client.send("SEND\ndestination:/topic/a\ntransaction:t\n\nx").await;
    for _ in 0..3 {
        client.send("SEND\ndestination:/queue/a\ntransaction:t\n\nx").await;
    }
    client.send("COMMIT\ntransaction:t\nreceipt:7").await;
    client.expect_error("rejected", 1008).await.with("receipt-id", "7");
    reader.expect("MESSAGE").await.saying("x").with("subscription", "0");
    reader.send("SUBSCRIBE\nid:1\ndestination:/queue/work").await;
    reader.expect("MESSAGE").await.saying("job").with("redelivered", "true");
}

#[tokio::test]
async fn a_topic_that_nobody_reads_any_more_is_routed_while_it_lingers() {
    let long = gateway_with(|config| config.broker.amqp.linger = Duration::from_hours(1));
    for (gateway, lingers) in [(long, true), (gateway(), false)] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.subscribe("id:0\ndestination:/topic/a").await;
        client.does("UNSUBSCRIBE\nid:0").await;
        let send = "SEND\ndestination:/topic/a\n\nx";
        if lingers {
            client.does(send).await.without("routed");
        } else {
            client.does_until_unrouted(send).await;
        }
    }
}

#[tokio::test]
async fn a_send_without_its_receipt_may_be_overtaken_by_a_subscribe() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    let frames = [
        "SEND\ndestination:/topic/a\n\nbefore\0",
        "SUBSCRIBE\nid:0\ndestination:/topic/a\n\n\0",
        "SEND\ndestination:/topic/a\n\nafter\0",
    ];
    client.send_message(frames.concat().into_bytes()).await;
    let first = client.expect("MESSAGE").await.body();
    if first == "before" {
        client.expect("MESSAGE").await.saying("after");
    } else {
        assert_eq!(first, "after");
    }
}

#[tokio::test]
async fn a_direct_reply_is_refused_because_it_would_cost_others_their_channel() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/topic/requests\nreply-to:amq.rabbitmq.reply-to\nreceipt:7\n\nx").await;
    client.expect_error("unsupported", 1008).await.with("receipt-id", "7").about("/temp-queue/");
}

#[tokio::test]
async fn a_will_may_go_to_an_exchange() {
    let gateway = gateway();
    let mut heir = Client::connect(&gateway, "1.2").await;
    heir.subscribe("id:0\ndestination:/topic/will").await;
    let mut client = Client::open(&gateway).await;
    client.send(connect_frame("1.2", "will-destination:/exchange/amq.topic/will\nwill-body:gone")).await;
    client.expect("CONNECTED").await;
    client.vanish();
    heir.expect("MESSAGE").await.saying("gone");
}

#[tokio::test]
async fn a_durable_subscription_moves_with_its_user() {
    let gateways = two_gateways();
    let [mut here, mut there] = one_at_each(&gateways, "login:ada").await;
    here.subscribe("id:news\ndestination:/topic/news\ndurable:true").await;
    there.send("SUBSCRIBE\nid:news\ndestination:/topic/news\ndurable:true\nreceipt:7").await;
    there.expect_error("subscription-in-use", 1008).await.with("receipt-id", "7");
    here.disconnect().await;
    until("the session to end", || gateways[0].connections() == 0).await;
    let mut there = Client::connect_with(&gateways[1], "1.2", "login:ada").await;
    there.does("SEND\ndestination:/topic/news\n\nwhile nobody read").await;
    there.send("SUBSCRIBE\nid:news\ndestination:/topic/news\ndurable:true").await;
    there.expect("MESSAGE").await.saying("while nobody read");
}
