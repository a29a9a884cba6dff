//! How a settings struct says what is wrong with its values.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

const LONGEST: Duration = Duration::from_hours(365 * 24);

/// A setting that must not be seen: its `Debug` hides it, and `stompgate config` masks it by its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The value itself, for where it is used.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Secret(secret.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One setting with an impossible value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its full key, such as `server.path`.
    pub key: String,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// Everything that is wrong with some settings; never empty inside an `Err`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds a fault unless `good` holds.
    pub fn demand(&mut self, good: bool, key: &str, why: impl Into<String>) {
        if !good {
            self.add(key, why);
        }
    }

    /// Adds a fault if a time is longer than a year: beyond that the sums of clocks overflow, and nobody means it.
    pub fn demand_time(&mut self, key: &str, time: Duration) {
        self.demand(time <= LONGEST, key, "must be at most 365d");
    }

    /// Adds a fault.
    pub fn add(&mut self, key: &str, why: impl Into<String>) {
        self.0.push(Fault { key: key.to_owned(), why: why.into() });
    }

    /// Adds the faults of another check.
    pub fn join(&mut self, checked: Result<(), Faults>) {
        if let Err(faults) = checked {
            self.0.extend(faults.0);
        }
    }

    /// `Ok` if there is no fault.
    pub fn into_result(self) -> Result<(), Faults> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl IntoIterator for Faults {
    type Item = Fault;
    type IntoIter = std::vec::IntoIter<Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Fault { key, why }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{key}: {why}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
