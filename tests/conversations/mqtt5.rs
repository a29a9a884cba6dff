//! What a gateway does by MQTT 5 and cannot do by 3.1.1; what becomes of it there, `mqtt311.rs` says.

use std::time::Duration;

use crate::queues::{reader, sender};
use crate::support::{Client, gateway, gateway_with};

#[tokio::test]
async fn a_queue_that_nobody_reads_keeps_nothing() {
    let gateway = gateway_with(|config| config.broker.mqtt.linger = Duration::ZERO);
    let mut client = Client::connect(&gateway, "1.2").await;
    let mut reader = Client::connect(&gateway, "1.2").await;
    client.does_until_unrouted("SEND\ndestination:/queue/a\n\nperhaps").await;
    client.does("SEND\ndestination:/queue/a\n\ngone").await.with("routed", "false");
    reader.subscribe("id:0\ndestination:/queue/a").await;
    client.does("SEND\ndestination:/queue/a\n\nx").await.without("routed");
    let mut message = reader.expect("MESSAGE").await;
    while message.body() == "perhaps" {
        message = reader.expect("MESSAGE").await;
    }
    message.saying("x");
}

#[tokio::test]
async fn control_characters_are_refused_by_name() {
    let gateway = gateway();
    for frame in [
        "SEND\ndestination:/topic/a\na\\nb:c\n\nx",
        "SEND\ndestination:/topic/a\na:b\\nc\n\nx",
        "SEND\ndestination:/topic/a\ncontent-type:b\\rc\n\nx",
        "SEND\ndestination:/topic/a%01\n\nx",
    ] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send(frame).await;
        client.expect_error("rejected", 1008).await.about("control character");
    }
}

#[tokio::test]
async fn an_expiration_is_whole_seconds_rounded_up() {
    let gateway = gateway();
    sender(&gateway, &["expiration:1|short", "expiration:60001|long"]).await;
    let mut reader = reader(&gateway, "").await;
    reader.expect("MESSAGE").await.saying("short").with("expiration", "1000");
    // The broker says how much is left of it.
    let left: u32 = reader.expect("MESSAGE").await.saying("long").get("expiration").parse().unwrap();
    assert!((50_000..=61_000).contains(&left) && left.is_multiple_of(1_000), "{left}");
}
