//! However many read a topic, it is one subscription at the broker.

use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use stompgate::gateway::Gateway;

use crate::gateway_at;
use crate::mosquitto::Mosquitto;
use crate::support::raw::TEXT;
use crate::support::{Client, Raw, soon, wire};

const CLIENTS: usize = 5_000;
/// So many connect at a time.
const BATCH: usize = 50;
/// Two for each client, since both ends are here; the rest is for the tests beside this one.
const DESCRIPTORS: usize = 2 * CLIENTS + 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_clients_of_a_topic_are_one_subscription() {
    allow_descriptors();
    let server = Mosquitto::start("sys_interval 1\nset_tcp_nodelay true").await;
    let gateway = gateway_at(server.uri(), |config| {
        config.admin.enabled = true;
        config.broker.mqtt.system_topics = true;
        config.server.ping_interval = Duration::from_hours(1);
    });
    let mut clients = Vec::new();
    while clients.len() < CLIENTS {
        clients.extend(join_all((0..BATCH).map(|_| reader(&gateway))).await);
    }
    let mut sender = Client::connect(&gateway, "1.2").await;
    sender.does("SEND\ndestination:/topic/a\n\nx").await.without("routed");
    for client in &mut clients {
        client.expect("MESSAGE").await.saying("x").with("subscription", "0");
    }
    let metrics = scraped(&gateway).await;
    for line in [
        format!("stompgate_sessions {}", CLIENTS + 1),
        "stompgate_mqtt_shared_subscriptions 1".to_owned(),
        "stompgate_mqtt_connections 2".to_owned(),
    ] {
        assert!(metrics.lines().any(|known| known == line), "{line} in {metrics}");
    }
    // As the broker sees it: the topic, and the one that says so; by one connection that publishes, and one that reads.
    for what in ["subscriptions/count", "clients/connected"] {
        let mut observer = Client::connect(&gateway, "1.2").await;
        observer.send(format!("SUBSCRIBE\nid:0\ndestination:/topic/$SYS/broker/{what}")).await;
        // It says so when something has changed, and may be a second behind.
        soon(&format!("{what} 2"), async { while observer.expect("MESSAGE").await.body() != "2" {} }).await;
    }
}

/// One that reads the topic.
async fn reader(gateway: &Gateway) -> Raw {
    let mut client = Raw::connected(gateway, "1.2").await;
    client.frame(TEXT, wire("SUBSCRIBE\nid:0\ndestination:/topic/a\nreceipt:r")).await;
    client.expect("RECEIPT").await.with("receipt-id", "r");
    client
}

/// What the gateway counts.
async fn scraped(gateway: &Gateway) -> String {
    let mut raw = Raw::tcp_to(gateway.admin_address().unwrap()).await;
    raw.write("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    raw.answer().await.body
}

/// A shell's limit is often 1,024.
fn allow_descriptors() {
    let process = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &process, &format!("--nofile={DESCRIPTORS}:")]).output();
    let raised = raised.expect("prlimit, which comes with util-linux");
    let why = String::from_utf8_lossy(&raised.stderr);
    assert!(raised.status.success(), "{DESCRIPTORS} descriptors are needed: {why}");
}
