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

/// Each of these by MQTT 5 and by 3.1.1.
macro_rules! by_both_versions {
    ($($test:ident),+ $(,)?) => {
        by_both_versions! { by_5: V5, $($test),+ }
        by_both_versions! { by_3_1_1: V311, $($test),+ }
    };
    ($name:ident: $version:ident, $($test:ident),+) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(stompgate::broker::mqtt::Version::$version).await;
                }
            )+
        }
    };
}

mod accounting;
mod handshakes;
mod innocents;
mod outages;
mod qualities;
mod refusals;
mod scale;
mod scripted;
mod secure;
mod settings;

use std::time::Duration;

use stompgate::broker::mqtt::{Uri, Version};
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

/// The settings for this version. 3.1.1 is told what it cannot ask, and has its headers in the envelope.
fn by(version: Version) -> impl Fn(&mut Config) {
    move |config| {
        config.broker.mqtt.version = version;
        config.broker.mqtt.shared_subscriptions = version == Version::V311;
        config.broker.mqtt.envelope = version == Version::V311;
    }
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

/// Sends until the reader gets it: a subscription comes back a moment after the connection, and not every version says
/// whether anybody was there. Returns what that one got, up to the last that was sent; all of it is acknowledged.
async fn send_until_read(sender: &mut Client, reader: &mut Client, frame: &str) -> Vec<Received> {
    let mut came = Vec::new();
    let sending = async {
        for attempt in 1.. {
            let attempt = attempt.to_string();
            sender.does(&frame.replacen('\n', &format!("\nattempt:{attempt}\n"), 1)).await;
            while let Ok(message) = timeout(Duration::from_millis(100), reader.expect("MESSAGE")).await {
                if let Some(id) = message.maybe("ack") {
                    reader.send(format!("ACK\nid:{id}")).await;
                }
                let is_last = message.maybe("attempt") == Some(&attempt);
                came.push(message);
                if is_last {
                    return;
                }
            }
        }
    };
    timeout(PATIENCE, sending).await.expect("somebody who reads it");
    came
}

/// Panics unless it says that nobody was there, which 3.1.1 cannot.
fn unrouted(receipt: Received, version: Version) {
    match version {
        Version::V5 => receipt.with("routed", "false"),
        Version::V311 => receipt.without("routed"),
    };
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
