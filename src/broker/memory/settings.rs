//! The settings of the in-memory broker: the keys under `broker.memory`.

use serde::{Deserialize, Serialize};

use crate::broker::BrokerError;
use crate::message::{Destination, Pattern, Separators, Usage};
use crate::settings::Faults;

/// The settings of the in-memory broker.
///
/// Bytes are those of bodies, destinations and headers, 64 more for each header and 256 more for each message in a
/// queue. What is handed out and not settled counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How many queues there may be at a time; a queue goes when it is empty and nobody reads it.
    pub max_queues: usize,
    /// How many messages one queue holds.
    pub max_queue_length: usize,
    /// How many bytes one queue holds.
    pub max_queue_bytes: usize,
    /// How many bytes all queues hold together, those of topic subscriptions included.
    pub max_bytes: usize,
    /// What happens to a message for which a queue has no room: "reject" refuses it, "drop-oldest" drops others.
    pub overflow: Overflow,
    /// Where messages go that nobody accepts: "/queue/…" or "/topic/…". Without it they are dropped.
    pub dead_letter: Option<String>,
    /// How often one message is delivered before it counts as dead; 0 is without limit.
    pub max_deliveries: u32,
    /// How many messages wait for one topic subscription with acknowledgements, or one reply address.
    pub max_topic_queue_length: usize,
    /// How many bytes wait for it.
    pub max_topic_queue_bytes: usize,
    /// How many levels a topic has, be it a name or a pattern; what `/user/topic/` begins is not one.
    ///
    /// Each level of a name is a step of its lookup, and each step may carry along as many places in patterns.
    pub max_topic_levels: usize,
    /// How many durable subscriptions there may be.
    pub max_durable: usize,
    /// How many topics keep a retained message.
    pub max_retained: usize,
    /// How many bytes of retained messages are kept.
    pub max_retained_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Settings {
            max_queues: 10_000,
            max_queue_length: 100_000,
            max_queue_bytes: 64 * MIB,
            max_bytes: 256 * MIB,
            overflow: Overflow::Reject,
            dead_letter: None,
            max_deliveries: 0,
            max_topic_queue_length: 10_000,
            max_topic_queue_bytes: 16 * MIB,
            max_topic_levels: 32,
            max_durable: 1_000,
            max_retained: 10_000,
            max_retained_bytes: 64 * MIB,
        }
    }
}

/// What happens to a message for which a queue has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// The sender is told that it was refused.
    #[default]
    Reject,
    /// The oldest of the lowest priority make room.
    DropOldest,
}

/// Why the in-memory broker does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The dead-letter destination is none.
    #[error("setting broker.memory.dead_letter = {value:?}: {why}")]
    DeadLetter {
        /// What was written.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Settings {
    /// What types alone cannot say.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        for (key, number) in [
            ("broker.memory.max_queue_length", self.max_queue_length),
            ("broker.memory.max_queue_bytes", self.max_queue_bytes),
            ("broker.memory.max_bytes", self.max_bytes),
            ("broker.memory.max_topic_queue_length", self.max_topic_queue_length),
            ("broker.memory.max_topic_queue_bytes", self.max_topic_queue_bytes),
            ("broker.memory.max_topic_levels", self.max_topic_levels),
        ] {
            faults.demand(number >= 1, key, "must be at least 1");
        }
        if let Err(ConnectError::DeadLetter { value, why }) = self.dead_letter() {
            faults.add("broker.memory.dead_letter", format!("is {value:?}; {why}"));
        }
        faults.into_result()
    }

    /// Refuses a topic with more levels than there may be.
    pub(super) fn check_levels(&self, name: &Pattern) -> Result<(), BrokerError> {
        self.bound_levels(name.as_str().split('/').count())
    }

    /// The same for what is sent to users, where the first word only says whether it is a queue or a topic.
    pub(super) fn check_user_levels(&self, name: &Pattern) -> Result<(), BrokerError> {
        self.bound_levels(name.as_str().split('/').skip(1).count())
    }

    fn bound_levels(&self, levels: usize) -> Result<(), BrokerError> {
        let limit = self.max_topic_levels;
        if levels <= limit {
            return Ok(());
        }
        let (what, setting) = ("levels of a topic".to_owned(), "broker.memory.max_topic_levels");
        Err(BrokerError::LimitExceeded { what, limit, setting })
    }

    /// The dead-letter destination, read.
    pub(super) fn dead_letter(&self) -> Result<Option<Destination>, ConnectError> {
        let Some(value) = &self.dead_letter else { return Ok(None) };
        let why = match Destination::parse(value, Usage::Send, Separators::default()) {
            Ok(Destination::Topic(name)) if self.check_levels(&name).is_err() => {
                format!("it has more than {} levels (setting broker.memory.max_topic_levels)", self.max_topic_levels)
            }
            Ok(destination @ (Destination::Queue(_) | Destination::Topic(_))) => return Ok(Some(destination)),
            Ok(_) => "write /queue/… or /topic/…".to_owned(),
            Err(refusal) => refusal.detail,
        };
        Err(ConnectError::DeadLetter { value: value.clone(), why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_destination_is_a_queue_or_a_topic() {
        let settings = |value: &str| Settings { dead_letter: Some(value.to_owned()), ..Settings::default() };
        assert_eq!(settings("/queue/dead").dead_letter(), Ok(Some(Destination::Queue("dead".into()))));
        for bad in ["dead", "/app/dead", "/topic/#", "/queue/"] {
            let error = settings(bad).dead_letter().unwrap_err().to_string();
            assert!(error.starts_with("setting broker.memory.dead_letter = "), "{error}");
        }
        assert!(settings(&format!("/topic/{}", ["x"; 32].join("/"))).dead_letter().is_ok());
        let error = settings(&format!("/topic/{}", ["x"; 33].join("/"))).dead_letter().unwrap_err().to_string();
        assert!(error.contains("broker.memory.max_topic_levels"), "{error}");
    }
}
