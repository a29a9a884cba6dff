//! `[metrics]`: what is counted beside what always is.

use serde::{Deserialize, Serialize};

use crate::message::{Destination, Separators, Usage};
use crate::settings::Faults;

/// `[metrics]`: what is counted beside what always is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whether frames and messages are counted, and their times. Otherwise those metrics stay at zero, which shows what
    /// counting costs. Default true.
    pub messages: bool,
    /// Destinations whose messages are counted under a label of their own, as SUBSCRIBE writes them, with wildcards; the
    /// first that is about a message counts. Default none.
    pub destinations: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { messages: true, destinations: Vec::new() }
    }
}

/// Each is a series in both directions, and is looked at for each message.
const MOST: usize = 100;

impl Settings {
    /// What types alone cannot say.
    pub fn check(&self, separators: Separators) -> Result<(), Faults> {
        let mut faults = Faults::default();
        let count = self.destinations.len();
        faults.demand(count <= MOST, "metrics.destinations", format!("has {count}; there can be {MOST}"));
        for destination in &self.destinations {
            if let Err(refusal) = Destination::parse(destination, Usage::Subscribe, separators) {
                faults.add("metrics.destinations", refusal.detail);
            }
        }
        faults.into_result()
    }

    /// The label of each, and what it is about.
    pub(super) fn parsed(&self, separators: Separators) -> impl Iterator<Item = (&str, Destination)> {
        let parsed = move |label| Some((label, Destination::parse(label, Usage::Subscribe, separators).ok()?));
        self.destinations.iter().map(String::as_str).filter_map(parsed)
    }
}
