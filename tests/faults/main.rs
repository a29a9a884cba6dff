//! What clients notice when the broker goes away, stalls, refuses or loses what they use (contract, §4 and §11).
//!
//! Real browsers' frames over real sockets, a whole gateway, a real RabbitMQ, and a proxy in between that does what
//! networks do. The names of the tests are the rules. Nothing is timed: limits only bound the waiting.
#![cfg(feature = "amqp")]

#[path = "../conversations/peer/memory.rs"]
mod peer;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/rabbitmq.rs"]
mod rabbitmq;
#[allow(dead_code, unused_imports, reason = "the conversations use the rest of it")]
#[path = "../conversations/support/mod.rs"]
mod support;

mod account;
mod accounting;
mod cluster;
mod innocents;
mod outages;
mod refusals;
mod rolling;

use std::time::Duration;

use lapin::{Channel, Connection, ConnectionProperties};
use stompgate::broker::amqp::Uri;
use stompgate::broker::{Kind, LinkState};
use stompgate::config::Config;
use stompgate::gateway::Gateway;
use tokio::time::timeout;

use proxy::Proxy;
use rabbitmq::RabbitMq;
use support::{Client, Received, gateway_with};

/// Erlang takes its time to start, and more so on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// A URI of what listens on this port.
fn uri(port: u16) -> String {
    uri_as("guest:guest", port)
}

/// The same for other users.
fn uri_as(user: &str, port: u16) -> String {
    format!("amqp://{user}@127.0.0.1:{port}/%2f")
}

/// A gateway before RabbitMQ, patient enough for a restart of it.
fn gateway_at(uri: String, change: impl FnOnce(&mut Config)) -> Gateway {
    gateway_with(|config| {
        config.broker.kind = Kind::Amqp;
        config.broker.amqp.uri = vec![Uri(uri)];
        config.broker.amqp.reconnect_max = Duration::from_secs(1);
        config.session.confirm_timeout = PATIENCE;
        change(config);
    })
}

/// A gateway with a proxy between it and the common node, connected.
async fn behind_a_proxy(change: impl FnOnce(&mut Config)) -> (Gateway, Proxy) {
    let proxy = Proxy::before(rabbitmq::shared().await.port);
    let gateway = gateway_at(uri(proxy.port()), change);
    until(&gateway, LinkState::Up).await;
    (gateway, proxy)
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

/// A node of its own, for tests that kill it or raise its alarms.
async fn node() -> RabbitMq {
    RabbitMq::start().await
}

/// An AMQP program beside us.
async fn amqp(node: &RabbitMq) -> (Connection, Channel) {
    let connection = Connection::connect(&node.uri(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// So many clients.
async fn connect_all<const COUNT: usize>(gateway: &Gateway) -> [Client; COUNT] {
    let mut clients = Vec::new();
    for _ in 0..COUNT {
        clients.push(Client::connect(gateway, "1.2").await);
    }
    clients.try_into().unwrap_or_else(|_| panic!("{COUNT} clients"))
}
