//! The settings of the AMQP broker: the keys under `broker.amqp`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::settings::Faults;

/// The settings of the AMQP broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the broker is: one `amqp://` or `amqps://` URI, or those of a cluster's nodes, tried in turn.
    #[serde(deserialize_with = "one_or_many")]
    pub uri: Vec<Uri>,
    /// The topic exchange behind `/topic/…`. It must exist.
    pub exchange: String,
    /// Time between two heart-beats of a connection to the broker, in whole seconds.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Time for a connection to be made.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Bytes of the largest frame, and so of all headers of a message. Memory of a connection is about 60 times this.
    pub frame_max: u32,
    /// Queues through which all plain topic subscriptions are read.
    pub shared_queues: u16,
    /// Unacknowledged messages of each of these queues.
    pub shared_prefetch: u16,
    /// Time for which a topic that nobody reads any more stays bound.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// Channels that messages are published on; those of one user always take the same.
    pub publish_channels: u16,
    /// Messages of all clients that may wait for their confirmation at a time.
    pub max_unconfirmed: usize,
    /// The longest time between two attempts to reach the broker.
    #[serde(with = "humantime_serde")]
    pub reconnect_max: Duration,
    /// Let clients name queue and consumer arguments (`x-…`) in SUBSCRIBE.
    pub queue_arguments: bool,
    /// PEM file with the certificates that sign the broker's. Without it, those of the public web.
    pub ca: Option<PathBuf>,
    /// PEM file with a client certificate.
    pub certificate: Option<PathBuf>,
    /// PEM file with the key of the client certificate.
    pub key: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            uri: vec![Uri("amqp://127.0.0.1:5672/%2f".to_owned())],
            exchange: "amq.topic".to_owned(),
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            frame_max: 65_536,
            shared_queues: 4,
            shared_prefetch: 1_000,
            linger: Duration::from_secs(5),
            publish_channels: 4,
            max_unconfirmed: 10_000,
            reconnect_max: Duration::from_secs(5),
            queue_arguments: false,
            ca: None,
            certificate: None,
            key: None,
        }
    }
}

/// The URI of a broker. Its passcode is not shown when it is debugged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uri(pub String);

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.rsplit('@').next().unwrap_or_default())
    }
}

/// The smallest frame that AMQP 0-9-1 allows to agree on.
const SMALLEST_FRAME: u32 = 4_096;
/// A name that cannot be longer (AMQP 0-9-1, short string).
const LONGEST_NAME: usize = 255;

impl Settings {
    /// What types alone cannot say.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        faults.demand(!self.uri.is_empty(), "broker.amqp.uri", "is empty; write \"amqp://user:passcode@host/vhost\"");
        for Uri(uri) in &self.uri {
            let good = uri.starts_with("amqp://") || uri.starts_with("amqps://");
            faults.demand(good, "broker.amqp.uri", "must begin with amqp:// or amqps://");
            #[cfg(feature = "amqp")]
            if good && let Err(why) = super::connection::check_uri(uri) {
                faults.add("broker.amqp.uri", why);
            }
        }
        let exchange = (1..=LONGEST_NAME).contains(&self.exchange.len());
        faults.demand(exchange, "broker.amqp.exchange", "must be a name of 1 to 255 bytes");
        let seconds = self.heartbeat.as_secs();
        let whole = self.heartbeat == Duration::from_secs(seconds) && (1..=u64::from(u16::MAX)).contains(&seconds);
        faults.demand(whole, "broker.amqp.heartbeat", "must be whole seconds, at least one");
        faults.demand(self.frame_max >= SMALLEST_FRAME, "broker.amqp.frame_max", "must be at least 4096");
        for (key, number) in [
            ("broker.amqp.shared_queues", usize::from(self.shared_queues)),
            ("broker.amqp.shared_prefetch", usize::from(self.shared_prefetch)),
            ("broker.amqp.publish_channels", usize::from(self.publish_channels)),
            ("broker.amqp.max_unconfirmed", self.max_unconfirmed),
        ] {
            faults.demand(number >= 1, key, "must be at least 1");
        }
        for (key, time) in
            [("broker.amqp.connect_timeout", self.connect_timeout), ("broker.amqp.reconnect_max", self.reconnect_max)]
        {
            faults.demand(!time.is_zero(), key, "must be longer than nothing");
            faults.demand_time(key, time);
        }
        faults.demand_time("broker.amqp.linger", self.linger);
        let pair = self.certificate.is_some() == self.key.is_some();
        faults.demand(pair, "broker.amqp.certificate", "goes with broker.amqp.key: set both or none");
        faults.into_result()
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Uri>, D::Error> {
    struct OneOrMany;
    impl<'de> serde::de::Visitor<'de> for OneOrMany {
        type Value = Vec<Uri>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a URI such as \"amqp://user:passcode@host/vhost\", or a list of them")
        }

        fn visit_str<E: serde::de::Error>(self, uri: &str) -> Result<Self::Value, E> {
            Ok(vec![Uri(uri.to_owned())])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut uris = Vec::new();
            while let Some(uri) = items.next_element()? {
                uris.push(uri);
            }
            Ok(uris)
        }
    }
    deserializer.deserialize_any(OneOrMany)
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
        let uri = vec![Uri("http://u:hunter2@host".to_owned())];
        let found = faults(&Settings { uri: uri.clone(), ..Settings::default() });
        assert_eq!(found, "broker.amqp.uri: must begin with amqp:// or amqps://");
        assert_eq!(format!("{uri:?}"), "[host]");
        let found = faults(&Settings { heartbeat: Duration::from_millis(1500), ..Settings::default() });
        assert_eq!(found, "broker.amqp.heartbeat: must be whole seconds, at least one");
    }
}
