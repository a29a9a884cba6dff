//! `[outbox]`: what may wait for a client that reads more slowly than its subscriptions deliver.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::message::{Destination, Separators, Usage};
use crate::settings::Faults;

/// `[outbox]`: the budget of each client, and what happens when it is spent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Bytes that may wait for one client. Default 1 MiB.
    pub max_bytes: usize,
    /// Time for which a client may take nothing of what waits. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// Bytes of the largest message that an empty outbox takes. Default 16 MiB.
    pub max_delivery: usize,
    /// `[[outbox.policy]]`: what happens when it is full, by destination; the first that matches counts.
    /// Default none, which means `disconnect` for all.
    pub policy: Vec<OutboxPolicy>,
}

/// One `[[outbox.policy]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxPolicy {
    /// A destination as SUBSCRIBE writes it, wildcards allowed: `/topic/prices/#`. `/exchange/E` is for all of E,
    /// `/exchange/E/K` for what has the routing key K.
    pub destination: String,
    /// What happens when there is no room. Default `disconnect`.
    pub when_full: WhenFull,
    /// For `conflate`: the header whose values tell messages apart; the newest of each value is kept.
    pub key: Option<String>,
}

/// What happens to a message for which an outbox has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The client is disconnected.
    #[default]
    Disconnect,
    /// The oldest waiting messages of the subscription make room.
    DropOldest,
    /// The message itself is dropped.
    DropNewest,
    /// The waiting message with the same value of a header is replaced.
    Conflate,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            max_bytes: 1024 * 1024,
            max_wait: Duration::from_secs(10),
            max_delivery: 16 * 1024 * 1024,
            policy: Vec::new(),
        }
    }
}

impl Settings {
    /// What types alone cannot say; destinations are read as `destination.separators` says.
    pub fn check(&self, separators: Separators) -> Result<(), Faults> {
        let mut faults = Faults::default();
        faults.demand(self.max_bytes >= 1, "outbox.max_bytes", "must be at least 1");
        faults.demand(self.max_delivery >= 1, "outbox.max_delivery", "must be at least 1");
        faults.demand_time("outbox.max_wait", self.max_wait);
        faults.demand(self.max_wait >= Duration::from_millis(1), "outbox.max_wait", "must be at least 1ms");
        for (index, policy) in self.policy.iter().enumerate() {
            policy.check(index, separators, &mut faults);
        }
        faults.into_result()
    }
}

impl OutboxPolicy {
    fn check(&self, index: usize, separators: Separators, faults: &mut Faults) {
        let key = |name: &str| format!("outbox.policy.{index}.{name}");
        match Destination::parse(&self.destination, Usage::Subscribe, separators) {
            Ok(Destination::Topic(_) | Destination::User { .. } | Destination::Exchange { .. }) => {}
            Ok(_) => {
                let why = "only /topic/…, /user/… and /exchange/… have a policy, queues pause instead";
                faults.add(&key("destination"), format!("is {:?}; {why}", self.destination));
            }
            Err(refusal) => faults.add(&key("destination"), refusal.detail),
        }
        let has_key = self.key.as_ref().is_some_and(|header| !header.is_empty());
        match self.when_full {
            WhenFull::Conflate => faults.demand(
                has_key,
                &key("key"),
                "is missing: conflate keeps the newest message per value of this header",
            ),
            _ => faults.demand(self.key.is_none(), &key("key"), "goes with when_full = \"conflate\" only"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(checked: Result<(), Faults>) -> Vec<String> {
        checked.err().into_iter().flatten().map(|fault| fault.key).collect()
    }

    #[test]
    fn the_defaults_are_good() {
        assert_eq!(Settings::default().check(Separators::Both), Ok(()));
    }

    #[test]
    fn a_policy_names_a_topic_and_conflate_a_header() {
        let policy = |destination: &str, when_full, key: Option<&str>| OutboxPolicy {
            destination: destination.to_owned(),
            when_full,
            key: key.map(str::to_owned),
        };
        let check = |policy| keys(Settings { policy: vec![policy], ..Settings::default() }.check(Separators::Both));
        assert_eq!(check(policy("/topic/prices/#", WhenFull::Conflate, Some("symbol"))), [""; 0]);
        assert_eq!(check(policy("/topic/a", WhenFull::Conflate, None)), ["outbox.policy.0.key"]);
        assert_eq!(check(policy("/topic/a", WhenFull::DropOldest, Some("symbol"))), ["outbox.policy.0.key"]);
        assert_eq!(check(policy("/exchange/prices", WhenFull::DropOldest, None)), [""; 0]);
        assert_eq!(check(policy("/queue/a", WhenFull::DropOldest, None)), ["outbox.policy.0.destination"]);
        assert_eq!(check(policy("", WhenFull::DropOldest, None)), ["outbox.policy.0.destination"]);
    }
}
