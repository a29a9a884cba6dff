//! Queues in RabbitMQ that clients name and describe, streams, what comes back late and what cannot be read (contract, §11).

use std::time::Duration;

use stompgate::access::RuleSettings;
use stompgate::broker::amqp::TopicSlash;
use stompgate::chain::Answer;
use stompgate::config::Config;

use crate::amqp_bytes::{self, BYTE};
use crate::peer::own_virtual_host;
use crate::queues::{reader, sender};
use crate::support::{Client, Gateway, builder, gateway, gateway_with};

/// A gateway whose clients may describe queues.
fn trusting(change: impl FnOnce(&mut Config)) -> Gateway {
    gateway_with(|config| {
        config.broker.amqp.queue_arguments = Some(true);
        change(config);
    })
}

#[tokio::test]
async fn a_delivery_that_waited_too_long_is_somebody_elses() {
    let gateway = trusting(|config| config.broker.amqp.ack_timeout = Duration::from_secs(2));
    sender(&gateway, &["1"]).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client").await;
    let first = client.expect("MESSAGE").await.without("redelivered").get("ack");
    let second = client.expect("MESSAGE").await.saying("1").with("redelivered", "true").get("ack");
    client.does(&format!("ACK\nid:{first}")).await.with("settled", "false");
    client.does(&format!("ACK\nid:{second}")).await.without("settled");
    client.disconnect().await;
    sender(&gateway, &["2"]).await;
    reader(&gateway, "").await.expect("MESSAGE").await.saying("2");
}

#[tokio::test]
async fn sessions_share_a_queue_that_they_name() {
    let gateway = trusting(|_| {});
    let headers = "id:0\ndestination:/topic/alarms\nx-queue-name:named\nack:client\nprefetch-count:1";
    let mut readers = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.subscribe(headers).await;
        readers.push(client);
    }
    let mut sender = Client::connect(&gateway, "1.2").await;
    for body in ["1", "2"] {
        sender.does(&format!("SEND\ndestination:/topic/alarms\n\n{body}")).await.without("routed");
    }
    let mut bodies = Vec::new();
    for client in &mut readers {
        let message = client.expect("MESSAGE").await.with("destination", "/topic/alarms");
        client.does(&format!("ACK\nid:{}", message.get("ack"))).await;
        bodies.push(message.body());
    }
    bodies.sort();
    assert_eq!(bodies, ["1", "2"]);
    for client in readers {
        client.disconnect().await;
    }
    // It collects while nobody reads it.
    sender.does("SEND\ndestination:/topic/alarms\n\n3").await.without("routed");
    sender.send(format!("SUBSCRIBE\n{headers}")).await;
    sender.expect("MESSAGE").await.saying("3");
}

#[tokio::test]
async fn a_queue_that_is_not_as_asked_is_used_and_the_receipt_says_so() {
    let gateway = trusting(|_| {});
    let mut client = Client::connect(&gateway, "1.2").await;
    let send = |length: u32| format!("SEND\ndestination:/queue/a\nx-max-length:{length}\n\n{length}");
    client.does(&send(5)).await.without("warning");
    for _ in 0..2 {
        let warning = client.does(&send(6)).await.get("warning");
        assert!(warning.contains("the queue a ") && warning.contains("x-max-length"), "{warning}");
    }
    let mut reader = Client::connect(&gateway, "1.2").await;
    let receipt = reader.asks("SUBSCRIBE\nid:0\ndestination:/queue/a\nx-queue-type:quorum").await;
    let mut warned = false;
    for _ in 0..4 {
        let frame = reader.expect_any().await;
        if frame.maybe("receipt-id") == Some(&receipt) {
            assert!(frame.get("warning").contains("the queue a "));
            warned = true;
        }
    }
    assert!(warned);
}

#[tokio::test]
async fn a_subscription_that_begins_with_a_snapshot_is_warned_of_its_queue_too() {
    let routed = builder(|config| config.broker.amqp.queue_arguments = Some(true));
    let gateway = routed.handler("/app/alarms", |_| async { Ok(Some(Answer::text("so far"))) }).start();
    let gateway = gateway.expect("a gateway that starts");
    let headers = "destination:/topic/alarms\nx-queue-name:named\nack:client\nx-snapshot:/app/alarms";
    let mut client = Client::connect(&gateway, "1.2").await;
    for (id, warning) in [(0, None), (1, Some("x-max-length"))] {
        let arguments = format!("id:{id}\n{headers}{}", if warning.is_some() { "\nx-max-length:5" } else { "" });
        let receipt = client.asks(&format!("SUBSCRIBE\n{arguments}")).await;
        client.expect("MESSAGE").await.saying("so far").with("subscription", &id.to_string());
        let done = client.expect("RECEIPT").await.with("receipt-id", &receipt);
        match warning {
            None => drop(done.without("warning")),
            Some(about) => assert!(done.get("warning").contains(about), "{}", done.get("warning")),
        }
    }
}

#[tokio::test]
async fn arguments_are_refused_where_they_are_not_allowed() {
    let gateway = gateway();
    for frame in [
        "SEND\ndestination:/queue/a\nx-max-length:5",
        "SUBSCRIBE\nid:0\ndestination:/queue/a\nx-max-length:5",
        "SUBSCRIBE\nid:0\ndestination:/topic/a\nx-queue-name:b",
    ] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send(format!("{frame}\nreceipt:7")).await;
        let error = client.expect_error("unsupported", 1008).await.with("receipt-id", "7");
        error.about("broker.amqp.queue_arguments");
    }
}

#[tokio::test]
async fn a_stream_is_read_by_everybody_and_again() {
    let gateway = trusting(|_| {});
    let mut sender = Client::connect(&gateway, "1.2").await;
    for body in ["0", "1", "2"] {
        sender.does(&format!("SEND\ndestination:/queue/a\nx-queue-type:stream\n\n{body}")).await;
    }
    for (offset, bodies) in [("first", &["0", "1", "2"][..]), ("1", &["1", "2"]), ("first", &["0", "1", "2"])] {
        let mut client = Client::connect(&gateway, "1.2").await;
        let headers = "id:0\ndestination:/queue/a\nack:client\nprefetch-count:1";
        client.send(format!("SUBSCRIBE\n{headers}\nx-queue-type:stream\nx-stream-offset:{offset}")).await;
        for body in bodies {
            let message = client.expect("MESSAGE").await.saying(body).with("x-stream-offset", body);
            client.send(format!("ACK\nid:{}", message.get("ack"))).await;
        }
        client.disconnect().await;
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_read_ends_its_reader_and_nobody_else() {
    let host = own_virtual_host();
    let gateway = trusting(|config| config.broker.amqp.uri = vec![host.clone()]);
    let mut sick = Client::connect(&gateway, "1.2").await;
    sick.subscribe("id:0\ndestination:/queue/sick").await;
    let mut well = Client::connect(&gateway, "1.2").await;
    well.subscribe("id:0\ndestination:/queue/well").await;
    amqp_bytes::publish(&host.0, "", b"sick".to_vec(), &[BYTE]).await;
    sick.expect_error("poison", 1008).await.about("the queue sick");
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("SEND\ndestination:/queue/well\n\nx").await;
    well.expect("MESSAGE").await.saying("x");
    // Whoever comes back for it is told at once.
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/sick\nreceipt:7").await;
    client.expect_error("poison", 1008).await.with("receipt-id", "7");
}

#[tokio::test]
async fn a_slash_in_a_topic_may_be_refused_as_rabbitmq_does() {
    let gateway = trusting(|config| config.broker.amqp.topic_slash = TopicSlash::Reject);
    for frame in ["SEND\ndestination:/topic/a/b", "SUBSCRIBE\nid:0\ndestination:/topic/a/b"] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send(frame).await;
        client.expect_error("invalid-destination", 1008).await.about("broker.amqp.topic_slash");
    }
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/alarms.*").await;
    client.send("SEND\ndestination:/topic/alarms.b\n\nx").await;
    client.expect("MESSAGE").await.with("destination", "/topic/alarms.b");
}

/// Its queue would be bound to `price.*`, and whoever reads that by its name would get all of it, leave or no leave.
#[tokio::test]
async fn a_queue_of_ones_own_takes_no_wildcard_inside_a_segment() {
    let gateway = trusting(|_| ());
    for arguments in ["x-queue-name:eve", "durable:true\nx-dead-letter-exchange:\nx-dead-letter-routing-key:eve"] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send(format!("SUBSCRIBE\nid:0\ndestination:/topic/price/pub*\n{arguments}\n\n")).await;
        client.expect_error("unsupported", 1008).await.about("price/pub*");
    }
}

#[tokio::test]
async fn a_queue_collects_what_a_rule_allowed_once_and_only_who_may_read_the_queue_reads_that() {
    let uri = own_virtual_host();
    let with_rules = |destinations: &[&str]| {
        trusting(|config| {
            config.broker.amqp.uri = vec![uri.clone()];
            let destinations = destinations.iter().map(|text| (*text).to_owned()).collect();
            config.access.rule = vec![RuleSettings { destinations, ..RuleSettings::default() }];
        })
    };
    let named = "id:0\ndestination:/topic/alarms\nx-queue-name:named\nack:client";
    let before = with_rules(&["/topic/alarms", "/queue/named"]);
    let mut reader = Client::connect(&before, "1.2").await;
    reader.subscribe(named).await;
    reader.disconnect().await;
    before.shut_down().await;

    let publisher = with_rules(&["/topic/alarms"]);
    let mut client = Client::connect(&publisher, "1.2").await;
    client.does("SEND\ndestination:/topic/alarms\n\ncollected").await.without("routed");
    client.send("SUBSCRIBE\nid:1\ndestination:/queue/named").await;
    client.expect_error("access-refused", 4403).await.about("/queue/named");

    let after = with_rules(&["/queue/named"]);
    let mut reader = Client::connect(&after, "1.2").await;
    reader.send(format!("SUBSCRIBE\n{named}")).await;
    reader.expect_error("access-refused", 4403).await.about("/topic/alarms");
    let mut reader = Client::connect(&after, "1.2").await;
    reader.send("SUBSCRIBE\nid:0\ndestination:/queue/named").await;
    reader.expect("MESSAGE").await.saying("collected");
}
