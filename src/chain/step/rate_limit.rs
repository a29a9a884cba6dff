//! `rate_limit`: how often one user may use a route.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Step;
use crate::chain::Failure;
use crate::chain::handler::Request;
use crate::chain::template::Values;

/// Users that are remembered at a time. Those who have not used the route for long are forgotten first.
const MAX_USERS: usize = 10_000;

/// `[app.route.rate_limit]`: how often one user may use a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Frames per second, on average. Default 10.
    pub per_second: u32,
    /// Frames that may come at once. Default 20.
    pub burst: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { per_second: 10, burst: 20 }
    }
}

/// A bucket of tokens for each user.
pub(super) struct RateLimit {
    settings: Settings,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl RateLimit {
    pub(super) fn new(settings: &Settings) -> Result<Self, String> {
        if settings.per_second == 0 || settings.burst == 0 {
            return Err("needs per_second and burst of 1 at least".to_owned());
        }
        Ok(RateLimit { settings: settings.clone(), buckets: Mutex::default() })
    }

    fn take(&self, user: &str) -> bool {
        let now = Instant::now();
        let full = f64::from(self.settings.burst);
        let filled = |bucket: &Bucket| {
            let passed = now.saturating_duration_since(bucket.filled).as_secs_f64();
            (bucket.tokens + passed * f64::from(self.settings.per_second)).min(full)
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_USERS && !buckets.contains_key(user) {
            buckets.retain(|_, bucket| filled(bucket) < full); // a full bucket is as good as none
            if buckets.len() >= MAX_USERS {
                return false;
            }
        }
        let bucket = buckets.entry(user.to_owned()).or_insert(Bucket { tokens: full, filled: now });
        let tokens = filled(bucket);
        let is_enough = tokens >= 1.0;
        *bucket = Bucket { tokens: if is_enough { tokens - 1.0 } else { tokens }, filled: now };
        is_enough
    }
}

impl Step for RateLimit {
    fn run(&self, _: &mut Request, values: &Values<'_>) -> Result<(), Failure> {
        if self.take(values.user) {
            return Ok(());
        }
        let limit = self.settings.per_second;
        Err(Failure::new(429, format!("more than {limit} a second (rate_limit of the route); try again later")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_so_many_a_second_for_each_user() {
        let limit = RateLimit::new(&Settings { per_second: 2, burst: 3 }).unwrap();
        assert_eq!([(); 4].map(|()| limit.take("ada")), [true, true, true, false]);
        assert!(limit.take("bob"));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!([(); 2].map(|()| limit.take("ada")), [true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn users_without_debts_are_forgotten_when_there_are_too_many() {
        let limit = RateLimit::new(&Settings { per_second: 1, burst: 1 }).unwrap();
        for user in 0..MAX_USERS {
            assert!(limit.take(&user.to_string()));
        }
        assert!(!limit.take("one more"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limit.take("one more"));
        assert_eq!(limit.buckets.lock().unwrap().len(), 1);
    }
}
