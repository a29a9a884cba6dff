//! What the embedded broker has and RabbitMQ has otherwise: bounds, dead letters, priorities, and no exchanges.

use serde_json::json;
use stompgate::broker::memory::Overflow;
use stompgate::message::Separators;

use crate::durable::{SPELLINGS, opened, published};
use crate::queues::{reader, sender};
use crate::shutdown::shut_down_in_full_flight;
use crate::support::{Client, connect_frame, gateway, gateway_with, operator};
use crate::topics::{expect_matched, refused_to_send, refused_to_subscribe};
use crate::transactions::begun;

#[tokio::test]
async fn a_full_queue_rejects_and_names_the_setting() {
    let gateway = gateway_with(|config| config.broker.memory.max_queue_length = 2);
    let mut client = sender(&gateway, &["1", "2"]).await;
    client.send("SEND\ndestination:/queue/a\nreceipt:7\n\n3").await;
    let error = client.expect_error("rejected", 1008).await.with("receipt-id", "7");
    error.about("broker.memory.max_queue_length").about("2");
    let gateway = gateway_with(|config| config.broker.memory.max_queue_bytes = 2000);
    let mut client = sender(&gateway, &["x"]).await;
    client.send(format!("SEND\ndestination:/queue/a\n\n{}", "y".repeat(1800))).await;
    client.expect_error("rejected", 1008).await.about("broker.memory.max_queue_bytes");
}

#[tokio::test]
async fn what_a_full_queue_rejects_the_api_says_too_message_by_message() {
    let gateway = gateway_with(|config| {
        config.broker.memory.max_queue_length = 2;
        config.admin.api_key = Some(operator::KEY.into());
    });
    let admin = gateway.admin_address().expect("a port for operators").to_string();
    let message = |body: u32| json!({ "destination": "/queue/a", "body": body.to_string() });
    operator::done(&admin, "POST /messages", message(1)).await;
    let batch = json!({ "messages": [message(2), message(3), { "destination": "/queue/b", "body": "x" }] });
    let told = operator::refused(&admin, "POST /messages/batch", batch, 422, "max_queue_length").await;
    assert_eq!((&told["results"][0], &told["results"][2]), (&json!({ "routed": true }), &json!({ "routed": true })));
    assert_eq!(told["results"][1]["code"], json!("rejected"), "{told}");
    operator::refused(&admin, "POST /messages", message(4), 422, "max_queue_length").await;
    assert_eq!(reader(&gateway, "").await.bodies(2).await, ["1", "2"]);
}

#[tokio::test]
async fn a_full_queue_drops_the_oldest_if_the_setting_says_so() {
    let gateway = gateway_with(|config| {
        config.broker.memory.max_queue_length = 2;
        config.broker.memory.overflow = Overflow::DropOldest;
    });
    sender(&gateway, &["1", "2", "3", "4"]).await;
    let mut reader = reader(&gateway, "").await;
    assert_eq!(reader.bodies(2).await, ["3", "4"]);
    reader.expect_nothing().await;
}

#[tokio::test]
async fn there_is_a_limit_of_queues_and_an_empty_one_that_nobody_reads_is_none() {
    let gateway = gateway_with(|config| config.broker.memory.max_queues = 1);
    sender(&gateway, &["x"]).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/queue/b\nreceipt:7\n\nx").await;
    client.expect_error("limit-exceeded", 1008).await.with("receipt-id", "7").about("broker.memory.max_queues");
    let mut reader = reader(&gateway, "").await;
    reader.expect("MESSAGE").await;
    reader.does("UNSUBSCRIBE\nid:0").await;
    reader.does("SEND\ndestination:/queue/b\n\nx").await;
}

#[tokio::test]
async fn all_that_the_queues_hold_together_is_limited() {
    let gateway = gateway_with(|config| config.broker.memory.max_bytes = 2000);
    let mut client = sender(&gateway, &["x"]).await;
    client.send(format!("SEND\ndestination:/queue/b\nreceipt:7\n\n{}", "y".repeat(1800))).await;
    client.expect_error("limit-exceeded", 1008).await.with("receipt-id", "7").about("broker.memory.max_bytes");
}

#[tokio::test]
async fn higher_priorities_come_first_and_equal_ones_in_order() {
    let gateway = gateway();
    sender(&gateway, &["priority:1|low", "priority:9|high", "priority:9|high, too", "priority:5|middle"]).await;
    let mut reader = reader(&gateway, "").await;
    assert_eq!(reader.bodies(4).await, ["high", "high, too", "middle", "low"]);
}

#[tokio::test]
async fn the_dead_go_to_the_dead_letter_destination() {
    for dead_letter in ["/queue/dead", "/topic/dead"] {
        let gateway = gateway_with(|config| config.broker.memory.dead_letter = Some(dead_letter.to_owned()));
        let mut undertaker = Client::connect(&gateway, "1.2").await;
        undertaker.subscribe(&format!("id:0\ndestination:{dead_letter}")).await;
        sender(&gateway, &["foo:bar|rejected"]).await;
        let mut reader = reader(&gateway, "ack:client").await;
        let ack = reader.expect("MESSAGE").await.get("ack");
        reader.send(format!("NACK\nid:{ack}\nrequeue:false")).await;
        let letter = undertaker.expect("MESSAGE").await.with("destination", dead_letter).saying("rejected");
        letter.with("foo", "bar").with("x-first-death-queue", "a").with("x-first-death-reason", "rejected");
        sender(&gateway, &["expiration:0|expired"]).await;
        undertaker.expect("MESSAGE").await.saying("expired").with("x-first-death-reason", "expired");
    }
}

#[tokio::test]
async fn what_dies_in_the_dead_letter_queue_is_gone() {
    let gateway = gateway_with(|config| config.broker.memory.dead_letter = Some("/queue/a".to_owned()));
    sender(&gateway, &["x"]).await;
    let mut reader = reader(&gateway, "ack:client").await;
    let ack = reader.expect("MESSAGE").await.get("ack");
    reader.does(&format!("NACK\nid:{ack}\nrequeue:false")).await;
    reader.expect_nothing().await;
}

#[tokio::test]
async fn a_message_is_delivered_so_often_and_then_counts_as_dead() {
    let gateway = gateway_with(|config| {
        config.broker.memory.max_deliveries = 2;
        config.broker.memory.dead_letter = Some("/queue/dead".to_owned());
    });
    sender(&gateway, &["poison"]).await;
    let mut reader = reader(&gateway, "ack:client").await;
    for _ in 0..2 {
        let ack = reader.expect("MESSAGE").await.get("ack");
        reader.send(format!("NACK\nid:{ack}")).await;
    }
    reader.expect_nothing().await;
    reader.send("SUBSCRIBE\nid:1\ndestination:/queue/dead").await;
    let letter = reader.expect("MESSAGE").await.saying("poison").with("subscription", "1");
    letter.with("x-first-death-reason", "delivery_limit");
}

#[tokio::test]
async fn queue_arguments_belong_to_amqp() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/a\nx-queue-type:quorum").await;
    client.expect_error("unsupported", 1008).await.about("x-queue-type");
}

#[tokio::test]
async fn the_error_of_one_send_of_many_names_its_receipt() {
    let gateway = gateway_with(|config| config.broker.memory.max_queue_length = 2);
    let mut client = Client::connect(&gateway, "1.2").await;
    let frames = (1..=4)
        .map(|number| format!("SEND\ndestination:/queue/a\nreceipt:{number}\n\nx\0"))
        .collect::<Vec<_>>()
        .concat();
    client.send_message(frames.into_bytes()).await;
    client.expect("RECEIPT").await.with("receipt-id", "1");
    client.expect("RECEIPT").await.with("receipt-id", "2");
    client.expect_error("rejected", 1008).await.with("receipt-id", "3");
}

#[tokio::test]
async fn a_durable_subscription_that_lost_messages_says_so() {
    let gateway = gateway_with(|config| config.broker.memory.max_topic_queue_length = 2);
    let (connect, subscribe, _) = SPELLINGS[0];
    opened(&gateway, connect, subscribe).await;
    published(&gateway, &["1", "2", "3"]).await;
    let mut client = Client::connect_with(&gateway, "1.2", connect).await;
    client.send(format!("SUBSCRIBE\n{subscribe}")).await;
    client.expect("MESSAGE").await.saying("2").with("gap", "true");
    client.expect("MESSAGE").await.saying("3").without("gap");
}

#[tokio::test]
async fn there_is_a_limit_of_durable_subscriptions() {
    let gateway = gateway_with(|config| config.broker.memory.max_durable = 1);
    opened(&gateway, "login:ada", "id:1\ndestination:/topic/a\ndurable:true").await;
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    client.send("SUBSCRIBE\nid:2\ndestination:/topic/a\ndurable:true").await;
    client.expect_error("limit-exceeded", 1008).await.about("broker.memory.max_durable");
}

#[tokio::test]
async fn a_reader_with_acknowledgements_that_lost_messages_is_told_so() {
    let gateway = gateway_with(|config| config.broker.memory.max_topic_queue_length = 2);
    let mut writer = Client::connect(&gateway, "1.2").await;
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/a\nack:client\nprefetch-count:1").await;
    writer.does("SEND\ndestination:/topic/a\n\n1").await;
    let ack = reader.expect("MESSAGE").await.saying("1").without("gap").get("ack");
    for body in ["2", "3", "4"] {
        writer.does(&format!("SEND\ndestination:/topic/a\n\n{body}")).await;
    }
    reader.send(format!("ACK\nid:{ack}")).await;
    reader.expect("MESSAGE").await.saying("4").with("gap", "true");
}

#[tokio::test]
async fn the_memory_broker_has_no_exchanges_and_says_what_it_has() {
    let gateway = gateway();
    for destination in ["/exchange/amq.topic/a", "/exchange/e", "/amq/queue/q"] {
        let body = refused_to_send(&gateway, destination, "unsupported").await;
        assert!(body.contains("/topic") || body.contains("/queue"), "{body}");
        refused_to_subscribe(&gateway, destination, "unsupported").await;
    }
}

#[tokio::test]
async fn a_memory_broker_refuses_an_exchange_when_the_frame_arrives() {
    let gateway = gateway();
    let (mut client, _reader) = begun(&gateway).await;
    client.send("SEND\ndestination:/exchange/e/k\ntransaction:t\nreceipt:7\n\nx").await;
    client.expect_error("unsupported", 1008).await.with("receipt-id", "7");
}

#[tokio::test]
async fn the_memory_broker_commits_all_or_nothing() {
    let gateway = gateway_with(|config| config.broker.memory.max_queue_length = 2);
    let (mut client, mut reader) = begun(&gateway).await;
    client.does("SEND\ndestination:/queue/work\n\njob").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/work\nack:client").await;
    let ack = client.expect("MESSAGE").await.get("ack");
    client.send(format!("ACK\nid:{ack}\ntransaction:t")).await;
    client.send("SEND\ndestination:/topic/a\ntransaction:t\n\nx").await;
    for _ in 0..3 {
        client.send("SEND\ndestination:/queue/full\ntransaction:t\n\nx").await;
    }
    client.send("COMMIT\ntransaction:t\nreceipt:7").await;
    let error = client.expect_error("rejected", 1008).await.with("receipt-id", "7");
    error.about("broker.memory.max_queue_length");
    reader.expect_nothing().await;
    reader.send("SUBSCRIBE\nid:1\ndestination:/queue/work").await;
    reader.expect("MESSAGE").await.saying("job").with("redelivered", "true");
    reader.subscribe("id:2\ndestination:/queue/full").await;
    reader.expect_nothing().await;
}

#[tokio::test]
async fn a_will_to_an_exchange_is_refused_at_connect() {
    let gateway = gateway();
    for destination in ["/exchange/e/k", "/amq/queue/q"] {
        let mut client = Client::open(&gateway).await;
        client.send(connect_frame("1.2", &format!("will-destination:{destination}\nwill-body:x"))).await;
        client.expect_error("unsupported", 1008).await;
    }
}

#[tokio::test]
async fn subscribe_and_unsubscribe_end_before_the_next_frame_begins() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    let frames = [
        "SUBSCRIBE\nid:0\ndestination:/topic/a\n\n\0",
        "SEND\ndestination:/topic/a\n\n1\0",
        "UNSUBSCRIBE\nid:0\n\n\0",
        "SEND\ndestination:/topic/a\n\n2\0",
        "SUBSCRIBE\nid:0\ndestination:/topic/a\n\n\0",
        "SEND\ndestination:/topic/a\n\n3\0",
    ];
    client.send_message(frames.concat().into_bytes()).await;
    assert_eq!(client.bodies(2).await, ["1", "3"]);
}

#[tokio::test]
async fn a_receipt_means_that_every_subscriber_has_it() {
    let gateway = gateway();
    let (receipts, messages) = shut_down_in_full_flight(gateway).await;
    assert_eq!(messages, receipts, "each receipt is true");
}

#[tokio::test]
async fn one_separator_only_leaves_the_other_in_names() {
    let only = |separators| gateway_with(move |config| config.destination.separators = separators);
    let slash = only(Separators::Slash);
    let names = ["/topic/v1.0/x", "/topic/v1/0/x"];
    expect_matched(&slash, "/topic/v1.0/*", &names, &["/topic/v1.0/x"]).await;
    let dot = only(Separators::Dot);
    expect_matched(&dot, "/topic/a/b.*", &["/topic/a/b.c", "/topic/a.b.c"], &["/topic/a/b.c"]).await;
}

#[tokio::test]
async fn a_segment_may_have_a_dot_or_be_an_asterisk() {
    let gateway = gateway();
    let names = ["/topic/a%2Eb", "/topic/a.b", "/topic/%2A"];
    expect_matched(&gateway, "/topic/a%2Eb", &names, &["/topic/a%2Eb"]).await;
    expect_matched(&gateway, "/topic/a/b", &names, &["/topic/a.b"]).await;
    expect_matched(&gateway, "/topic/%2a", &names, &["/topic/%2A"]).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/*").await;
    client.send("SEND\ndestination:/topic/a%2Eb\n\nx").await;
    client.expect("MESSAGE").await.with("destination", "/topic/a%2Eb");
}

#[tokio::test]
async fn a_slash_is_the_default_virtual_host() {
    let gateway = gateway();
    let mut client = Client::open(&gateway).await;
    client.send("CONNECT\naccept-version:1.2\nhost:/").await;
    client.expect("CONNECTED").await;
}

#[tokio::test]
async fn what_rabbitmq_calls_a_direct_reply_is_any_other_name() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/requests").await;
    client.send("SEND\ndestination:/topic/requests\nreply-to:amq.rabbitmq.reply-to\n\nx").await;
    client.expect("MESSAGE").await.with("reply-to", "amq.rabbitmq.reply-to");
}

#[tokio::test]
async fn a_retained_message_that_has_expired_is_gone() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("SEND\ndestination:/topic/a\nretain:true\nexpiration:1\n\nx").await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    client.expect_nothing().await;
}
