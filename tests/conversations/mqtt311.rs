//! What becomes by MQTT 3.1.1 of what 5 can do and 3.1.1 cannot (contract, §12). All conversations are held with it, with
//! headers in the envelope; these are the differences that are expected, each with its reason:
//!
//! - Nobody says whether anybody was there, so a RECEIPT never has `routed:false`: [`Received::unrouted`] holds that.
//! - A message has no headers, so none that only MQTT 5 knows is the broker's to act upon: `mqtt5.rs` has those tests.
//!
//! [`Received::unrouted`]: crate::support::Received::unrouted

use crate::queues::{reader, sender};
use crate::support::operator::ask;
use crate::support::{Client, Gateway, gateway, gateway_with};
use crate::topics::refused_to_send;

/// The broker answers with 1 and 2, and says no more than that it has the message.
#[tokio::test]
async fn everything_counts_as_routed() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    for qos in 0..=2 {
        client.does(&format!("SEND\ndestination:/topic/nobody\nqos:{qos}\n\nx")).await.without("routed");
    }
}

/// Where they would stand in text of MQTT, there is none: JSON has them escaped.
#[tokio::test]
async fn headers_may_have_control_characters_and_names_may_not() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    client.send("SEND\ndestination:/topic/a\na\\nb:c\nd:e\\rf\n\nx").await;
    client.expect("MESSAGE").await.with("a\nb", "c").with("d", "e\rf").saying("x");
    refused_to_send(&gateway, "/topic/a%01", "rejected").await;
}

/// Nobody at the broker reads it, and so nobody counts it down.
#[tokio::test]
async fn an_expiration_stays_as_it_was_sent() {
    let gateway = gateway();
    sender(&gateway, &["expiration:60001|long"]).await;
    reader(&gateway, "").await.expect("MESSAGE").await.saying("long").with("expiration", "60001");
}

/// Two gateways in front of one broker: one with the envelope, one that reads and writes what others would.
fn with_and_without() -> [Gateway; 2] {
    let at_it = crate::peer::at_one_broker();
    [true, false].map(|envelope| {
        gateway_with(|config| {
            at_it(config);
            config.broker.mqtt.envelope = envelope;
        })
    })
}

#[tokio::test]
async fn what_is_no_envelope_is_read_as_it_is() {
    let [with, without] = with_and_without();
    let mut reader = Client::connect(&with, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/a").await;
    let mut other = Client::connect(&without, "1.2").await;
    for body in ["plain", "{\"headers\":1,\"body\":\"b\"}", "{\"headers\":{},\"body\":2}", "[1]"] {
        other.send(format!("SEND\ndestination:/topic/a\n\n{body}")).await;
        reader.expect("MESSAGE").await.saying(body);
    }
    other.send("SEND\ndestination:/topic/a\n\n{\"headers\":{\"foo\":\"bar\",\"n\":1},\"body\":\"b\"}").await;
    reader.expect("MESSAGE").await.saying("b").with("foo", "bar").with("n", "1");
}

#[tokio::test]
async fn an_envelope_is_what_others_see() {
    let [with, without] = with_and_without();
    let mut other = Client::connect(&without, "1.2").await;
    other.subscribe("id:0\ndestination:/topic/a").await;
    let mut writer = Client::connect(&with, "1.2").await;
    writer.send("SEND\ndestination:/topic/a\nfoo:bar\n\nx").await;
    let document: serde_json::Value = serde_json::from_str(&other.expect("MESSAGE").await.body()).expect("JSON");
    assert_eq!((&document["headers"]["foo"], &document["body"]), (&"bar".into(), &"x".into()));
    writer.send(b"SEND\ndestination:/topic/a\ncontent-length:2\n\n\xff\x00".as_slice()).await;
    let document: serde_json::Value = serde_json::from_str(&other.expect("MESSAGE").await.body()).expect("JSON");
    assert_eq!((&document["base64"], document.get("body")), (&"_wA".into(), None));
}

#[tokio::test]
async fn without_the_envelope_headers_are_dropped_and_counted() {
    let gateway = gateway_with(|config| {
        config.broker.mqtt.envelope = false;
        config.admin.enabled = true;
    });
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    client.does("SEND\ndestination:/topic/a\nfoo:bar\n\nx").await;
    client.expect("MESSAGE").await.saying("x").without("foo");
    let admin = gateway.admin_address().expect("a port for operators").to_string();
    let answer = ask(&admin, "GET /metrics", "", b"").await;
    let dropped = answer.body.lines().find_map(|line| line.strip_prefix("stompgate_mqtt_headers_dropped_total "));
    assert!(dropped.is_some_and(|count| count != "0"), "{dropped:?}");
}
