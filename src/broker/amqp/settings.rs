//! The settings of the AMQP broker: the keys under `broker.amqp`.

use std::collections::BTreeMap;
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
    /// A slash in the name of a `/topic`: "accept" it as a separator like a dot, or "reject" it as RabbitMQ's plugin does.
    pub topic_slash: TopicSlash,
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
    /// Unacknowledged messages of each of these queues, and of each that is read for all plain subscriptions to an
    /// exchange.
    pub shared_prefetch: u16,
    /// Time for which a topic or an exchange that nobody reads any more stays bound.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// Channels that messages are published on; those of one user always take the same.
    pub publish_channels: u16,
    /// Messages of all clients that may wait for their confirmation at a time.
    pub max_unconfirmed: usize,
    /// Bytes of these messages, with their headers; one more may come in as long as they are fewer.
    pub max_unconfirmed_bytes: usize,
    /// The longest time between two attempts to reach the broker.
    #[serde(with = "humantime_serde")]
    pub reconnect_max: Duration,
    /// Time after which a delivery that is not acknowledged goes back to its queue. RabbitMQ's `consumer_timeout`, 30
    /// minutes by default, must be longer: it closes the channel.
    #[serde(with = "humantime_serde")]
    pub ack_timeout: Duration,
    /// Let clients name queues of topics, and queue and consumer arguments (`x-…`). Without it, only those who have a login of
    /// their own at the broker may: `identity = "per-user"`.
    pub queue_arguments: Option<bool>,
    /// As whom clients are known to the broker.
    pub identity: Identity,
    /// The virtual host for each `host` of CONNECT. With any, a `host` that is not among them is refused.
    pub virtual_hosts: BTreeMap<String, String>,
    /// With `per-user`: links of users at a time, one for each virtual host, user and passcode.
    pub max_user_links: usize,
    /// With `per-user`: time after which a link closes that no session uses.
    #[serde(with = "humantime_serde")]
    pub user_link_idle: Duration,
    /// With `per-user`: the same as `frame_max` for the connections of users, of which there are many.
    pub user_frame_max: u32,
    /// With `per-user`: logins that the broker is asked about at a time.
    pub max_verifications: usize,
    /// With `per-user`: time for which a login that the broker has accepted is not asked about again. It is no key of
    /// this section: [`connect`](crate::broker::connect) takes it from `auth.cache`.
    #[serde(skip)]
    pub verified_for: Duration,
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
            topic_slash: TopicSlash::Accept,
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            frame_max: 65_536,
            shared_queues: 4,
            shared_prefetch: 1_000,
            linger: Duration::from_secs(5),
            publish_channels: 4,
            max_unconfirmed: 10_000,
            max_unconfirmed_bytes: 256 * 1024 * 1024,
            reconnect_max: Duration::from_secs(5),
            ack_timeout: Duration::from_mins(25),
            queue_arguments: None,
            identity: Identity::Service,
            virtual_hosts: BTreeMap::new(),
            max_user_links: 500,
            user_link_idle: Duration::from_mins(1),
            user_frame_max: 32_768,
            max_verifications: 8,
            verified_for: Duration::from_mins(1),
            ca: None,
            certificate: None,
            key: None,
        }
    }
}

/// As whom clients are known to the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// All as the user of `broker.amqp.uri`.
    #[default]
    Service,
    /// Each as the user that its CONNECT names, whom the broker checks. Goes with `auth.kind = "broker"`.
    PerUser,
}

/// What becomes of `/topic/a/b`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TopicSlash {
    /// It is `/topic/a.b`.
    #[default]
    Accept,
    /// It is an error.
    Reject,
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
            if good && let Err(why) = super::dial::check_uri(uri) {
                faults.add("broker.amqp.uri", why);
            }
        }
        let exchange = (1..=LONGEST_NAME).contains(&self.exchange.len());
        faults.demand(exchange, "broker.amqp.exchange", "must be a name of 1 to 255 bytes");
        let seconds = self.heartbeat.as_secs();
        let whole = self.heartbeat == Duration::from_secs(seconds) && (1..=u64::from(u16::MAX)).contains(&seconds);
        faults.demand(whole, "broker.amqp.heartbeat", "must be whole seconds, at least one");
        for (key, bytes) in
            [("broker.amqp.frame_max", self.frame_max), ("broker.amqp.user_frame_max", self.user_frame_max)]
        {
            faults.demand(bytes >= SMALLEST_FRAME, key, "must be at least 4096");
        }
        for (key, number) in [
            ("broker.amqp.max_user_links", self.max_user_links),
            ("broker.amqp.max_verifications", self.max_verifications),
            ("broker.amqp.shared_queues", usize::from(self.shared_queues)),
            ("broker.amqp.shared_prefetch", usize::from(self.shared_prefetch)),
            ("broker.amqp.publish_channels", usize::from(self.publish_channels)),
            ("broker.amqp.max_unconfirmed", self.max_unconfirmed),
            ("broker.amqp.max_unconfirmed_bytes", self.max_unconfirmed_bytes),
        ] {
            faults.demand(number >= 1, key, "must be at least 1");
        }
        for (key, time) in [
            ("broker.amqp.connect_timeout", self.connect_timeout),
            ("broker.amqp.reconnect_max", self.reconnect_max),
            ("broker.amqp.user_link_idle", self.user_link_idle),
            ("broker.amqp.ack_timeout", self.ack_timeout),
        ] {
            faults.demand(!time.is_zero(), key, "must be longer than nothing");
            faults.demand_time(key, time);
        }
        faults.demand_time("broker.amqp.linger", self.linger);
        let pair = self.certificate.is_some() == self.key.is_some();
        faults.demand(pair, "broker.amqp.certificate", "goes with broker.amqp.key: set both or none");
        let is_secured = self.uri.iter().any(|Uri(uri)| uri.starts_with("amqps://"));
        for (key, file) in [("broker.amqp.ca", &self.ca), ("broker.amqp.certificate", &self.certificate)] {
            let why = "means something with amqps:// only, and no URI of broker.amqp.uri begins so";
            faults.demand(file.is_none() || is_secured, key, why);
        }
        faults.into_result()
    }

    /// Whether clients may name queue and consumer arguments.
    pub fn allows_arguments(&self) -> bool {
        self.queue_arguments.unwrap_or(self.identity == Identity::PerUser)
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
