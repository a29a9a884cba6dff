//! The settings of the MQTT broker: the keys under `broker.mqtt`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::{Address, Scheme};
use crate::broker::amqp::Uri;
use crate::message::{Destination, Separators, Usage};
use crate::settings::Faults;

/// The settings of the MQTT broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the broker is: `mqtt://`, `mqtts://`, `ws://` or `wss://`, with a login if it wants one.
    pub uri: Uri,
    /// The protocol that it speaks.
    pub version: Version,
    /// What the names of our MQTT clients begin with.
    pub client_id: String,
    /// Time between two signs of life on a connection, in whole seconds.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// Time for a connection to be made.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// The longest time between two attempts to reach the broker.
    #[serde(with = "humantime_serde")]
    pub reconnect_max: Duration,
    /// Bytes of the largest packet that is read. MQTT 5 brokers drop larger ones. Under 3.1.1 they come, and break the
    /// connection: set it higher than the broker's own limit.
    pub max_packet: u32,
    /// Messages of all clients that may wait for their confirmation at a time.
    pub max_unconfirmed: usize,
    /// Quality of service of a SEND that asks neither for `qos`, nor for `persistent` or a receipt.
    pub qos: u8,
    /// Quality of service at which plain topics are read: no message comes with a higher one.
    pub subscribe_qos: u8,
    /// Time for which a topic that nobody reads any more stays subscribed.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// Levels of a topic, as the broker sees it: more are refused here, because brokers close connections for them.
    pub max_topic_levels: usize,
    /// Connections for topics whose filters overlap, where the broker does not say which filter a message is for.
    pub max_lanes: usize,
    /// The part of `$share/<group>/queue/N` that all gateways in front of this broker have in common.
    pub group: String,
    /// Queues that the broker keeps for this gateway while nobody reads them, by name. On one gateway only, and its
    /// clients should be those who read them. Default none.
    pub hold_queues: Vec<String>,
    /// With 3.1.1: whether the broker has shared subscriptions, and so `/queue`. MQTT 5 brokers say it themselves.
    pub shared_subscriptions: bool,
    /// Messages that may wait for one reader of a queue, or of a topic with acknowledgements, where the broker does not
    /// wait for it: those of quality of service 0, and answers to a reply address.
    pub max_waiting: usize,
    /// Where messages go that are given up with `NACK requeue:false`, a `/queue` or a `/topic`. Default none: they are
    /// dropped.
    pub dead_letter: Option<String>,
    /// Time for which the broker keeps a durable subscription that nobody reads, in whole seconds. MQTT 5 only.
    #[serde(with = "humantime_serde")]
    pub durable_expiry: Duration,
    /// Durable subscriptions that are open at a time, a connection each.
    pub max_durable: usize,
    /// Let clients read `$SYS/…`, which tells of everybody else.
    pub system_topics: bool,
    /// With 3.1.1: put headers and body into one JSON document. Otherwise headers are dropped.
    pub envelope: bool,
    /// PEM file with the certificates that sign the broker's. Without it, those of the public web.
    pub ca: Option<PathBuf>,
    /// PEM file with a client certificate.
    pub certificate: Option<PathBuf>,
    /// PEM file with the key of the client certificate.
    pub key: Option<PathBuf>,
}

/// The versions of MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// MQTT 5.
    #[default]
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1: no headers, no reasons.
    #[serde(rename = "3.1.1")]
    V311,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            uri: Uri("mqtt://127.0.0.1:1883".to_owned()),
            version: Version::V5,
            client_id: "stompgate".to_owned(),
            keep_alive: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            reconnect_max: Duration::from_secs(5),
            max_packet: 16_777_216,
            max_unconfirmed: 10_000,
            qos: 0,
            subscribe_qos: 1,
            linger: Duration::from_secs(5),
            max_topic_levels: 200,
            max_lanes: 16,
            group: "stompgate".to_owned(),
            hold_queues: Vec::new(),
            shared_subscriptions: false,
            max_waiting: 10_000,
            dead_letter: None,
            durable_expiry: Duration::from_hours(24 * 7),
            max_durable: 1_000,
            system_topics: false,
            envelope: false,
            ca: None,
            certificate: None,
            key: None,
        }
    }
}

/// A length that every broker takes, once random digits are added to it.
const LONGEST_CLIENT_ID: usize = 64;
/// The smallest packet that is worth a limit: all headers of a message have room in it.
const SMALLEST_PACKET: u32 = 65_536;
/// The largest that MQTT can express.
const LARGEST_PACKET: u32 = 268_435_460;

impl Settings {
    /// What types alone cannot say.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        match Address::parse(&self.uri.0) {
            Err(why) => faults.add("broker.mqtt.uri", why),
            Ok(address) => {
                let uses_tls = matches!(address.scheme, Scheme::Mqtts | Scheme::Wss);
                for (key, file) in [("broker.mqtt.ca", &self.ca), ("broker.mqtt.certificate", &self.certificate)] {
                    let good = uses_tls || file.is_none();
                    faults.demand(good, key, "means something to mqtts:// and wss:// only (broker.mqtt.uri)");
                }
            }
        }
        let id = &self.client_id;
        let plain =
            |text: &str| text.chars().all(|character| character.is_ascii_alphanumeric() || "-_.".contains(character));
        let good = (1..=LONGEST_CLIENT_ID).contains(&id.len()) && plain(id);
        faults.demand(good, "broker.mqtt.client_id", "must be 1 to 64 letters, digits, dashes, underscores or dots");
        let good = !self.group.is_empty() && !self.group.contains(['/', '+', '#', '\0']);
        faults.demand(good, "broker.mqtt.group", "must be a name without /, + and #");
        let seconds = self.keep_alive.as_secs();
        let whole = self.keep_alive == Duration::from_secs(seconds) && (1..=u64::from(u16::MAX)).contains(&seconds);
        faults.demand(whole, "broker.mqtt.keep_alive", "must be whole seconds, at least one");
        let seconds = self.durable_expiry.as_secs();
        // The greatest number would mean: for ever.
        let whole = self.durable_expiry == Duration::from_secs(seconds) && (1..u64::from(u32::MAX)).contains(&seconds);
        faults.demand(whole, "broker.mqtt.durable_expiry", "must be whole seconds, at least one");
        for (key, qos) in [("broker.mqtt.qos", self.qos), ("broker.mqtt.subscribe_qos", self.subscribe_qos)] {
            faults.demand(qos <= 2, key, "must be 0, 1 or 2");
        }
        let good = (SMALLEST_PACKET..=LARGEST_PACKET).contains(&self.max_packet);
        faults.demand(good, "broker.mqtt.max_packet", "must be 65536 to 268435460");
        for (key, number) in [
            ("broker.mqtt.max_unconfirmed", self.max_unconfirmed),
            ("broker.mqtt.max_topic_levels", self.max_topic_levels),
            ("broker.mqtt.max_lanes", self.max_lanes),
            ("broker.mqtt.max_waiting", self.max_waiting),
            ("broker.mqtt.max_durable", self.max_durable),
        ] {
            faults.demand(number >= 1, key, "must be at least 1");
        }
        for (key, time) in
            [("broker.mqtt.connect_timeout", self.connect_timeout), ("broker.mqtt.reconnect_max", self.reconnect_max)]
        {
            faults.demand(!time.is_zero(), key, "must be longer than nothing");
            faults.demand_time(key, time);
        }
        faults.demand_time("broker.mqtt.linger", self.linger);
        for (index, name) in self.hold_queues.iter().enumerate() {
            let why = format!("has {name:?} twice; one place at the broker is enough");
            faults.demand(!self.hold_queues[..index].contains(name), "broker.mqtt.hold_queues", why);
            let good = !name.is_empty() && !name.contains(['+', '#', '\0']) && !name.starts_with('/');
            let why = format!("has {name:?}; expected names as they stand after /queue/, without + and #");
            faults.demand(good, "broker.mqtt.hold_queues", why);
        }
        if let Err(why) = self.dead_letter() {
            faults.add("broker.mqtt.dead_letter", why);
        }
        let good = !self.envelope || self.version == Version::V311;
        faults.demand(good, "broker.mqtt.envelope", "goes with broker.mqtt.version = \"3.1.1\"; MQTT 5 has headers");
        let pair = self.certificate.is_some() == self.key.is_some();
        faults.demand(pair, "broker.mqtt.certificate", "goes with broker.mqtt.key: set both or none");
        faults.into_result()
    }

    /// The dead-letter destination, read; or what is wrong with it.
    pub(super) fn dead_letter(&self) -> Result<Option<Destination>, String> {
        let Some(value) = &self.dead_letter else { return Ok(None) };
        match Destination::parse(value, Usage::Send, Separators::default()) {
            Ok(destination @ (Destination::Queue(_) | Destination::Topic(_))) => Ok(Some(destination)),
            Ok(_) => Err(format!("is {value:?}; write /queue/… or /topic/…")),
            Err(refusal) => Err(format!("is {value:?}; {}", refusal.detail)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(settings: &Settings) -> String {
        settings.check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_good() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn a_fault_names_its_key_and_never_a_passcode() {
        let uri = Uri("http://u:hunter2@host".to_owned());
        assert_eq!(
            faults(&Settings { uri, ..Settings::default() }),
            "broker.mqtt.uri: must begin with mqtt://, mqtts://, ws:// or wss://"
        );
        assert!(faults(&Settings { envelope: true, ..Settings::default() }).starts_with("broker.mqtt.envelope: "));
        assert!(
            faults(&Settings { group: "a/b".to_owned(), ..Settings::default() }).starts_with("broker.mqtt.group: ")
        );
        assert!(faults(&Settings { ca: Some("x".into()), ..Settings::default() }).starts_with("broker.mqtt.ca: "));
        let dead_letter = Some("/app/x".to_owned());
        let fault = faults(&Settings { dead_letter, ..Settings::default() });
        assert_eq!(fault, "broker.mqtt.dead_letter: is \"/app/x\"; write /queue/… or /topic/…");
        let hold_queues = vec!["a/#".to_owned()];
        assert!(faults(&Settings { hold_queues, ..Settings::default() }).starts_with("broker.mqtt.hold_queues: "));
        let hold_queues = vec!["a".to_owned(), "a".to_owned()];
        assert!(faults(&Settings { hold_queues, ..Settings::default() }).contains("has \"a\" twice"));
        assert!(faults(&Settings { qos: 3, ..Settings::default() }).starts_with("broker.mqtt.qos: "));
    }
}
