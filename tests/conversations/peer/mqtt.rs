//! The conversations are held with a gateway in front of a Mosquitto, by the version of MQTT that the program names. Each test has its own: MQTT has no virtual hosts.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::Duration;

use stompgate::broker::Kind;
use stompgate::broker::mqtt::{Uri, Version};
use stompgate::config::Config;

pub(crate) use stompgate::gateway::Gateway;

use crate::mosquitto::Mosquitto;
use crate::support::{Client, Place};

/// Long enough for the slowest machine: what takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The details that only a gateway has are looked at, too.
pub(crate) const IS_A_GATEWAY: bool = true;

/// Whether the RECEIPT of what reaches nobody says so.
pub(crate) const TELLS_UNROUTED: bool = matches!(crate::VERSION, Version::V5);

thread_local! {
    /// The brokers of the test that this thread runs; they end with it.
    static BROKERS: RefCell<Vec<Mosquitto>> = const { RefCell::new(Vec::new()) };
    /// The queues of its gateways that have had a reader.
    static READ: RefCell<HashSet<(Place, String)>> = RefCell::default();
}

/// What every gateway of this program is given before the test's own settings.
pub(crate) fn prepare(config: &mut Config) {
    config.broker.kind = Kind::Mqtt;
    config.broker.mqtt.uri = own_broker();
    config.broker.mqtt.version = crate::VERSION;
    if crate::VERSION == Version::V311 {
        // It says neither what it has nor where headers go.
        config.broker.mqtt.shared_subscriptions = true;
        config.broker.mqtt.envelope = true;
    }
    // Each message is answered, and what became of it is known.
    config.broker.mqtt.qos = 1;
    // A queue that has had a reader is there for as long as a test takes.
    config.broker.mqtt.linger = Duration::from_mins(1);
}

/// The `host` of a CONNECT.
pub(crate) fn host() -> &'static str {
    "localhost"
}

/// What puts gateways in front of one broker.
pub(crate) fn at_one_broker() -> impl Fn(&mut Config) {
    let uri = own_broker();
    move |config| {
        config.broker.mqtt.uri = uri.clone();
        // The place of a reader that is gone is not kept, where the other gateway's readers could have it.
        config.broker.mqtt.linger = Duration::ZERO;
    }
}

/// A broker that no other test has.
fn own_broker() -> Uri {
    let start = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(Mosquitto::start(""))
    };
    let broker = std::thread::spawn(start).join().expect("a Mosquitto");
    let uri = Uri(broker.uri());
    BROKERS.with_borrow_mut(|brokers| brokers.push(broker));
    uri
}

/// MQTT keeps nothing for a queue that has never been read: whoever uses one first comes after a reader that has gone.
pub(crate) async fn before_sending(frame: &[u8], gateway: &Place) {
    let Ok(frame) = std::str::from_utf8(frame) else { return };
    let headers = frame.split("\n\n").next().unwrap_or_default();
    let named = |header: &'_ str| {
        header.strip_prefix("will-").unwrap_or(header).strip_prefix("destination:/queue/").map(str::to_owned)
    };
    let Some(queue) = headers.lines().find_map(named) else { return };
    let is_new = READ.with_borrow_mut(|read| read.insert((gateway.clone(), queue.clone())));
    // One who subscribes and waits for the receipt is there before all others.
    let is_first = frame.starts_with("SUBSCRIBE\n") && headers.contains("\nreceipt:");
    if is_new && !is_first {
        Box::pin(read(gateway, &queue)).await;
    }
}

/// Reads a queue, and goes.
async fn read(gateway: &Place, queue: &str) {
    let mut reader = Client::open_at(gateway).await;
    reader.login("1.2", "").await;
    let receipt = reader.asks(&format!("SUBSCRIBE\nid:0\ndestination:/queue/{queue}\nprefetch-count:0")).await;
    // A name that is none, or a session that may not, is what the test is about.
    if reader.expect_any().await.with("receipt-id", &receipt).maybe("code").is_none() {
        reader.disconnect().await;
    }
}
