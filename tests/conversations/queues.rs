//! `/queue/…` (contract, §1 and §3).

use std::time::Duration;

use crate::support::{Client, Gateway, gateway, gateway_with};

/// A client that has sent these to `/queue/a`, each with more headers if they stand before a `|`.
pub(crate) async fn sender(gateway: &Gateway, messages: &[&str]) -> Client {
    let mut client = Client::connect(gateway, "1.2").await;
    for message in messages {
        let (headers, body) = message.split_once('|').unwrap_or(("", message));
        let separator = if headers.is_empty() { "" } else { "\n" };
        client.does(&format!("SEND\ndestination:/queue/a\n{headers}{separator}\n{body}")).await;
    }
    client
}

/// A client that reads `/queue/a`.
pub(crate) async fn reader(gateway: &Gateway, headers: &str) -> Client {
    let mut client = Client::connect(gateway, "1.2").await;
    client.send(format!("SUBSCRIBE\nid:0\ndestination:/queue/a\n{headers}")).await;
    client
}

#[tokio::test]
async fn a_queue_keeps_messages_until_someone_subscribes() {
    let gateway = gateway();
    sender(&gateway, &["1", "2", "3"]).await.disconnect().await;
    let mut reader = reader(&gateway, "ack:auto").await;
    assert_eq!(reader.bodies(3).await, ["1", "2", "3"]);
    reader.expect_nothing().await;
}

#[tokio::test]
async fn one_subscriber_gets_each_message() {
    let gateway = gateway();
    let mut readers = [reader(&gateway, "").await, reader(&gateway, "").await];
    for reader in &mut readers {
        reader.expect_nothing().await;
    }
    sender(&gateway, &["x"]).await;
    let [one, other] = &mut readers;
    let message = tokio::select! {
        message = one.expect("MESSAGE") => message,
        message = other.expect("MESSAGE") => message,
    };
    message.saying("x");
    for reader in &mut readers {
        reader.expect_nothing().await;
    }
}

#[tokio::test]
/// A client that reads `/queue/a`.
pub(crate) async fn readers_compete_fairly() {
    let gateway = gateway();
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut reader = Client::connect(&gateway, "1.2").await;
        reader.subscribe("id:0\ndestination:/queue/a\nack:client-individual\nprefetch-count:1").await;
        readers.push(reader);
    }
    sender(&gateway, &["x"; 4]).await;
    for reader in &mut readers {
        reader.expect("MESSAGE").await;
    }
}

#[tokio::test]
async fn a_queue_is_its_whole_name() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/queue/a/b").await;
    client.subscribe("id:1\ndestination:/queue/a.b").await;
    client.send("SEND\ndestination:/queue/a.b\n\nx").await;
    client.expect("MESSAGE").await.with("subscription", "1").with("destination", "/queue/a.b");
    client.send("SEND\ndestination:/queue/a/b\n\nx").await;
    client.expect("MESSAGE").await.with("subscription", "0").with("destination", "/queue/a/b");
}

#[tokio::test]
async fn a_session_that_dies_gives_its_messages_to_another_at_once() {
    let gateway = gateway();
    let mut first = reader(&gateway, "ack:client").await;
    sender(&gateway, &["1", "2", "3"]).await;
    first.bodies(3).await;
    let mut second = reader(&gateway, "ack:client").await;
    second.expect_nothing().await;
    first.vanish();
    for body in ["1", "2", "3"] {
        second.expect("MESSAGE").await.saying(body).with("redelivered", "true");
    }
}

#[tokio::test]
async fn a_session_that_ends_in_an_error_gives_its_messages_back() {
    let gateway = gateway();
    let mut first = reader(&gateway, "ack:client").await;
    sender(&gateway, &["1"]).await;
    first.bodies(1).await;
    first.send("FOO").await;
    let mut second = reader(&gateway, "").await;
    second.expect("MESSAGE").await.saying("1").with("redelivered", "true");
}

#[tokio::test]
async fn what_was_acknowledged_does_not_come_again() {
    let gateway = gateway();
    let mut first = reader(&gateway, "ack:client-individual").await;
    sender(&gateway, &["1", "2", "3"]).await;
    first.expect("MESSAGE").await;
    let ack = first.expect("MESSAGE").await.get("ack");
    first.expect("MESSAGE").await;
    first.does(&format!("ACK\nid:{ack}")).await;
    first.vanish();
    let mut second = reader(&gateway, "").await;
    assert_eq!(second.bodies(2).await, ["1", "3"]);
    second.expect_nothing().await;
}

#[tokio::test]
async fn with_ack_auto_what_was_written_is_done() {
    let gateway = gateway();
    let mut first = reader(&gateway, "ack:auto").await;
    sender(&gateway, &["1"]).await;
    first.expect("MESSAGE").await.without("ack");
    first.expect_nothing().await;
    first.vanish();
    let mut second = reader(&gateway, "").await;
    second.expect_nothing().await;
}

#[tokio::test]
async fn a_consumer_that_does_not_acknowledge_pauses() {
    let gateway = gateway();
    let mut reader = reader(&gateway, "ack:client-individual\nprefetch-count:2").await;
    sender(&gateway, &["1", "2", "3", "4"]).await;
    let first = reader.expect("MESSAGE").await.saying("1").get("ack");
    let second = reader.expect("MESSAGE").await.saying("2").get("ack");
    reader.expect_nothing().await;
    reader.send(format!("ACK\nid:{second}")).await;
    reader.expect("MESSAGE").await.saying("3");
    reader.expect_nothing().await;
    reader.send(format!("NACK\nid:{first}\nrequeue:false")).await;
    reader.expect("MESSAGE").await.saying("4");
}

#[tokio::test]
async fn one_paused_consumer_does_not_hold_up_another() {
    let gateway = gateway();
    let mut paused = reader(&gateway, "ack:client\nprefetch-count:1").await;
    sender(&gateway, &["1", "2", "3"]).await;
    paused.expect("MESSAGE").await.saying("1");
    let mut other = reader(&gateway, "").await;
    assert_eq!(other.bodies(2).await, ["2", "3"]);
}

#[tokio::test]
async fn prefetch_has_a_default_and_a_maximum() {
    let gateway = gateway_with(|config| (config.session.prefetch, config.session.max_prefetch) = (2, 3));
    for (asked, granted) in
        [("", 2), ("prefetch-count:1\n", 1), ("prefetch-count:60000\n", 3), ("prefetch-count:0\n", 3)]
    {
        let mut reader = reader(&gateway, &format!("{asked}ack:client")).await;
        let mut sender = sender(&gateway, &["x"; 5]).await;
        reader.bodies(granted).await;
        reader.expect_nothing().await;
        reader.disconnect().await;
        sender.subscribe("id:0\ndestination:/queue/a").await;
        sender.bodies(5).await;
        sender.disconnect().await;
    }
}

#[tokio::test]
async fn nack_puts_a_message_back_at_the_head() {
    let gateway = gateway();
    sender(&gateway, &["1", "2"]).await;
    let mut reader = reader(&gateway, "ack:client-individual\nprefetch-count:1").await;
    for _ in 0..3 {
        let ack = reader.expect("MESSAGE").await.saying("1").get("ack");
        reader.send(format!("NACK\nid:{ack}")).await;
    }
    let ack = reader.expect("MESSAGE").await.saying("1").with("redelivered", "true").get("ack");
    reader.send(format!("ACK\nid:{ack}")).await;
    reader.expect("MESSAGE").await.saying("2").without("redelivered");
}

#[tokio::test]
async fn nack_without_requeue_drops_or_buries() {
    let gateway = gateway();
    sender(&gateway, &["1", "2"]).await;
    let mut client = reader(&gateway, "ack:client-individual").await;
    let ack = client.expect("MESSAGE").await.saying("1").get("ack");
    client.expect("MESSAGE").await;
    client.does(&format!("NACK\nid:{ack}\nrequeue:false")).await;
    client.vanish();
    let mut reader = reader(&gateway, "").await;
    reader.expect("MESSAGE").await.saying("2");
    reader.expect_nothing().await;
}

#[tokio::test]
async fn what_was_not_written_before_disconnect_goes_back() {
    let gateway = gateway();
    let mut first = reader(&gateway, "ack:auto").await;
    first.expect_nothing().await;
    let mut other = sender(&gateway, &[]).await;
    let frames = "SEND\ndestination:/queue/a\n\nx\0".repeat(200) + "DISCONNECT\nreceipt:d\n\n\0";
    first.send_message(frames.into_bytes()).await;
    let mut read = 0;
    while first.expect_any().await.maybe("receipt-id").is_none() {
        read += 1;
    }
    first.expect_close(1000).await;
    other.send("SUBSCRIBE\nid:0\ndestination:/queue/a").await;
    other.bodies(200 - read).await;
    other.expect_nothing().await;
}

#[tokio::test]
async fn what_unsubscribe_leaves_goes_to_another_and_nothing_comes_twice() {
    let gateway = gateway();
    let mut leaver = Client::connect(&gateway, "1.2").await;
    leaver.subscribe("id:0\ndestination:/queue/a\n\n").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    for count in 0..500 {
        writer.send(format!("SEND\ndestination:/queue/a\n\n{count}")).await;
    }
    let mut seen = leaver.bodies(1).await;
    leaver.asks("UNSUBSCRIBE\nid:0\n\n").await;
    loop {
        let received = leaver.expect_any().await;
        if received.maybe("receipt-id").is_some() {
            break;
        }
        seen.push(received.body());
    }
    let mut heir = Client::connect(&gateway, "1.2").await;
    heir.subscribe("id:0\ndestination:/queue/a\n\n").await;
    seen.extend(heir.bodies(500 - seen.len()).await);
    heir.expect_nothing().await;
    let mut seen: Vec<usize> = seen.iter().map(|body| body.parse().unwrap()).collect();
    seen.sort_unstable();
    assert!((0..500).eq(seen));
}

#[tokio::test]
async fn deliveries_go_on_when_a_full_outbox_has_drained() {
    let gateway = gateway_with(|config| {
        config.outbox.max_bytes = 64 * 1024;
        // Nothing but the drained outbox wakes the session.
        config.server.ping_interval = Duration::from_hours(1);
        config.outbox.max_wait = Duration::from_hours(1);
    });
    let mut reader = Client::connect_narrow(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/queue/a\nack:client-individual\n\n").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    let large = "x".repeat(1024 * 1024);
    for _ in 0..8 {
        writer.does(&format!("SEND\ndestination:/queue/a\n\n{large}")).await;
    }
    assert_eq!(reader.bodies(8).await.len(), 8);
}

#[tokio::test]
async fn a_long_queue_does_not_keep_its_reader_from_being_heard() {
    let gateway = gateway_with(|config| config.outbox.max_bytes = 64 * 1024);
    let mut writer = Client::connect(&gateway, "1.2").await;
    // More than the buffers of both kernels hold.
    let count = 8_000;
    let body = "x".repeat(2_000);
    for _ in 0..count {
        writer.send(format!("SEND\ndestination:/queue/a\n\n{body}")).await;
    }
    writer.expect_nothing().await;
    let mut reader = Client::connect_narrow(&gateway, "1.2").await;
    reader.send("SUBSCRIBE\nid:0\ndestination:/queue/a\n\n").await;
    let receipt = reader.asks("SEND\ndestination:/topic/a\n\n").await;
    let mut before = 0;
    while reader.expect_any().await.maybe("receipt-id") != Some(&receipt) {
        before += 1;
    }
    assert!(before < count, "the RECEIPT came after all messages");
}

#[tokio::test]
async fn arguments_that_the_broker_does_not_take_are_refused_by_name() {
    for frame in [
        "SEND\ndestination:/queue/a\nx-message-ttl:1000\n\nx",
        "SUBSCRIBE\nid:0\ndestination:/queue/a\nx-message-ttl:1000\n\n",
        "SUBSCRIBE\nid:0\ndestination:/topic/a\nx-message-ttl:1000\n\n",
    ] {
        let gateway = gateway();
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send(frame).await;
        client.expect_error("unsupported", 1008).await.about("x-message-ttl");
    }
}
