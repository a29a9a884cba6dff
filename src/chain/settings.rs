//! `[app]`: what answers `/app/…`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::message::Separators;
use crate::settings::Faults;

/// `[app]`: the bounds of the interceptor chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Time that the whole chain, handlers included, has for one frame. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Calls of concurrent routes that one session may have under way. Default 16.
    pub max_concurrent: usize,
}

/// Where the result of a route goes. Nothing of it means `/topic/` and what stands after `/app/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TargetSettings {
    /// A destination with `{variables}`.
    pub send_to: Option<String>,
    /// `queue/X` or `topic/X`, with `{variables}`: what the sender reads as `/user/queue/X`.
    pub send_to_user: Option<String>,
    /// For `send_to_user`: every session of the user; else the sender's own. Default true.
    pub broadcast: bool,
    /// The sender's `reply-to`, else its `/user/queue/replies`.
    pub reply: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { timeout: Duration::from_secs(10), max_concurrent: 16 }
    }
}

impl Settings {
    /// What types alone cannot say.
    pub fn check(&self, _separators: Separators) -> Result<(), Faults> {
        let mut faults = Faults::default();
        faults.demand_time("app.timeout", self.timeout);
        faults.demand(self.timeout >= Duration::from_millis(1), "app.timeout", "must be at least 1ms");
        faults.into_result()
    }
}
