//! What clients notice when an MQTT broker goes away, stalls or refuses (contract, §4 and §12).
//!
//! As in [`faults`](../faults/main.rs), with a real Mosquitto. The names of the tests are the rules, and what each quality
//! of service promises across an outage is held in `qualities.rs`.
#![cfg(feature = "mqtt")]

#[path = "../faults/account.rs"]
mod account;
#[path = "../support/mosquitto.rs"]
mod mosquitto;
#[path = "../conversations/peer/memory.rs"]
mod peer;
#[allow(dead_code, reason = "the faults of AMQP use the rest of it")]
#[path = "../support/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "the faults of AMQP use the rest of it")]
#[path = "../support/rabbitmq.rs"]
mod rabbitmq;
#[allow(dead_code, unused_imports, reason = "the conversations use the rest of it")]
#[path = "../conversations/support/mod.rs"]
mod support;

mod accounting;
mod innocents;
mod outages;
mod qualities;
mod refusals;
mod scale;
mod scripted;
mod secure;

use std::time::Duration;

use stompgate::broker::mqtt::Uri;
use stompgate::broker::{Kind, LinkState};
use stompgate::config::Config;
use stompgate::gateway::Gateway;
use tokio::time::timeout;

use mosquitto::Mosquitto;
use proxy::Proxy;
use support::{Client, Received, gateway_with};

/// What takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(1);

fn uri(port: u16) -> String {
    format!("mqtt://127.0.0.1:{port}")
}

/// A gateway before an MQTT broker, patient enough for a restart of it.
fn gateway_at(uri: String, change: impl FnOnce(&mut Config)) -> Gateway {
    gateway_with(|config| {
        config.broker.kind = Kind::Mqtt;
        config.broker.mqtt.uri = Uri(uri);
        config.broker.mqtt.reconnect_max = Duration::from_millis(500);
        config.session.confirm_timeout = PATIENCE;
        change(config);
    })
}

/// A gateway with a proxy between it and a broker of its own, connected.
async fn behind_a_proxy(change: impl FnOnce(&mut Config)) -> (Gateway, Proxy, Mosquitto) {
    let server = Mosquitto::start("").await;
    let proxy = Proxy::before(server.port());
    let gateway = gateway_at(uri(proxy.port()), change);
    until(&gateway, LinkState::Up).await;
    (gateway, proxy, server)
}

/// Waits until the broker is in this state.
async fn until(gateway: &Gateway, wanted: LinkState) {
    let mut state = gateway.broker_state();
    timeout(PATIENCE, state.wait_for(|state| *state == wanted)).await.unwrap_or_else(|_| panic!("{wanted:?}")).unwrap();
}

/// Sends until somebody is there for it: a subscription comes back a moment after the connection.
async fn send_until_routed(client: &mut Client, frame: &str) {
    while client.does(frame).await.maybe("routed").is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Takes a delivery, and has the receipt for that.
async fn ack(client: &mut Client, delivery: &Received) -> Received {
    client.does(&format!("ACK\nid:{}", delivery.get("ack"))).await
}

/// So many clients.
async fn connect_all<const COUNT: usize>(gateway: &Gateway) -> [Client; COUNT] {
    let mut clients = Vec::new();
    for _ in 0..COUNT {
        clients.push(Client::connect(gateway, "1.2").await);
    }
    clients.try_into().unwrap_or_else(|_| panic!("{COUNT} clients"))
}
