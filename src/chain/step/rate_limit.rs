//! `rate_limit`: how often one user may use a route.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Step;
use crate::chain::Failure;
use crate::chain::handler::Request;
use crate::chain::template::Values;

/// `[app.route.rate_limit]`: how often one user may use a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Frames per second, on average. Default 10.
    pub per_second: u32,
    /// Frames that may come at once. Default 20.
    pub burst: u32,
    /// Users that are remembered at a time; beyond, those who have the most left of their burst are forgotten, and so
    /// begin anew. Default 100,000.
    pub max_users: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { per_second: 10, burst: 20, max_users: 100_000 }
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
        if settings.per_second == 0 || settings.burst == 0 || settings.max_users == 0 {
            return Err("needs per_second, burst and max_users of 1 at least".to_owned());
        }
        Ok(RateLimit { settings: settings.clone(), buckets: Mutex::default() })
    }

    fn take(&self, user: &str) -> bool {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= self.settings.max_users && !buckets.contains_key(user) {
            self.forget(&mut buckets, now);
        }
        let full = Bucket { tokens: f64::from(self.settings.burst), filled: now };
        let bucket = buckets.entry(user.to_owned()).or_insert(full);
        let tokens = self.tokens(bucket, now);
        let is_enough = tokens >= 1.0;
        *bucket = Bucket { tokens: if is_enough { tokens - 1.0 } else { tokens }, filled: now };
        is_enough
    }

    fn tokens(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.filled).as_secs_f64();
        (bucket.tokens + passed * f64::from(self.settings.per_second)).min(f64::from(self.settings.burst))
    }

    /// Forgets the fullest of the buckets, an eighth of all, so that this is seldom. It gives little away: a full one is as
    /// good as none, and who has more names than are remembered has their bursts anyway. To refuse new users would let
    /// those lock out everybody else.
    fn forget(&self, buckets: &mut HashMap<String, Bucket>, now: Instant) {
        let mut tokens: Vec<_> = buckets.values().map(|bucket| self.tokens(bucket, now)).collect();
        let place = tokens.len() - tokens.len().div_ceil(8);
        let (_, least, _) = tokens.select_nth_unstable_by(place, f64::total_cmp);
        let (least, mut many) = (*least, buckets.len() - place);
        buckets.retain(|_, bucket| {
            let is_forgotten = many > 0 && self.tokens(bucket, now) >= least;
            many -= usize::from(is_forgotten);
            !is_forgotten
        });
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
    use crate::chain::step::tests::{run, send};
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_so_many_a_second_for_each_user() {
        let limit = RateLimit::new(&Settings { per_second: 2, burst: 3, ..Settings::default() }).unwrap();
        assert_eq!([(); 4].map(|()| limit.take("ada")), [true, true, true, false]);
        assert!(limit.take("bob"));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!([(); 2].map(|()| limit.take("ada")), [true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_too_often_is_429_and_says_how_often_it_may() {
        let limit = RateLimit::new(&Settings { per_second: 7, burst: 1, ..Settings::default() }).unwrap();
        assert_eq!(run(&limit, &mut send(""), "ada"), Ok(()));
        let failure = run(&limit, &mut send(""), "ada").unwrap_err();
        assert!(failure.status == 429 && failure.reason.contains("more than 7 a second"), "{failure:?}");
        for bad in [
            Settings { per_second: 0, ..Settings::default() },
            Settings { burst: 0, ..Settings::default() },
            Settings { max_users: 0, ..Settings::default() },
        ] {
            assert!(RateLimit::new(&bad).is_err(), "{bad:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_most_left_is_forgotten_when_there_are_too_many_and_nobody_is_locked_out() {
        let limit = RateLimit::new(&Settings { per_second: 1, burst: 2, max_users: 8 }).unwrap();
        let spent = |user: &str| [(); 3].map(|()| limit.take(user)) == [true, true, false];
        for user in 0..7 {
            assert!(spent(&user.to_string()));
        }
        assert!(limit.take("rich"));
        assert!(spent("one more"), "a newcomer is limited as everybody is");
        assert_eq!(limit.buckets.lock().unwrap().len(), 8);
        assert!(!limit.take("0") && !limit.take("6"), "those who have nothing left are remembered");
        assert!(limit.take("rich") && limit.take("rich"), "who had the most left was forgotten");
        for user in 0..1000 {
            assert!(limit.take(&format!("many {user}")));
            assert!(limit.buckets.lock().unwrap().len() <= 8);
        }
    }
}
