//! Leaves a service alone for a while when it has failed too often (a circuit breaker).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Counts failures in a row, and lets nobody through for a while when there are too many. After that one call is let
/// through: it decides for all. What was let through before it opened says nothing about the time after, and is not
/// heard any more.
#[derive(Debug)]
pub(super) struct Breaker {
    failures: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
    is_tried: bool,
    /// How often it has opened.
    epoch: u64,
}

/// A call that has been let through. Dropped without a word it counts as neither good nor bad.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    breaker: &'a Breaker,
    epoch: u64,
}

impl Breaker {
    /// With 0 failures it lets everybody through for ever.
    pub(super) fn new(failures: u32, pause: Duration) -> Self {
        Breaker { failures, pause, state: Mutex::default() }
    }

    /// Lets a call through, or does not.
    pub(super) fn admit(&self) -> Option<Attempt<'_>> {
        let mut state = self.lock();
        if let Some(until) = state.open_until {
            if Instant::now() < until || state.is_tried {
                return None;
            }
            state.is_tried = true;
        }
        Some(Attempt { breaker: self, epoch: state.epoch })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// The service answered.
    pub(super) fn succeeded(self) {
        if let Some(mut state) = self.heard() {
            *state = State { epoch: state.epoch, ..State::default() };
        }
    }

    /// The service failed.
    pub(super) fn failed(self) {
        let Some(mut state) = self.heard() else { return };
        state.failures = state.failures.saturating_add(1);
        if self.breaker.failures > 0 && state.failures >= self.breaker.failures {
            state.open_until = Some(Instant::now() + self.breaker.pause);
            state.is_tried = false;
            state.epoch += 1;
        }
    }

    /// The breaker, if it has not opened since.
    fn heard(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.breaker.lock();
        (state.epoch == self.epoch).then_some(state)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(mut state) = self.heard() {
            state.is_tried = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn too_many_failures_open_it_and_one_attempt_closes_it() {
        let breaker = Breaker::new(2, PAUSE);
        breaker.admit().unwrap().failed();
        breaker.admit().unwrap().succeeded();
        breaker.admit().unwrap().failed();
        assert!(breaker.admit().is_some(), "only failures in a row count");
        breaker.admit().unwrap().failed();
        assert!(breaker.admit().is_none());
        tokio::time::advance(PAUSE).await;
        let attempt = breaker.admit().unwrap();
        assert!(breaker.admit().is_none(), "one is enough to try");
        attempt.failed();
        assert!(breaker.admit().is_none(), "it failed again");
        tokio::time::advance(PAUSE).await;
        drop(breaker.admit().unwrap());
        breaker.admit().expect("the last attempt came to nothing").succeeded();
        assert!(breaker.admit().is_some() && breaker.admit().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_began_before_it_opened_is_not_heard_any_more() {
        let breaker = Breaker::new(1, PAUSE);
        let [opening, abandoned, failing, good] = [(); 4].map(|()| breaker.admit().unwrap());
        opening.failed();
        tokio::time::advance(PAUSE).await;
        let trial = breaker.admit().unwrap();
        drop(abandoned);
        assert!(breaker.admit().is_none(), "one is under way to try");
        failing.failed();
        good.succeeded();
        assert!(breaker.admit().is_none(), "one is under way to try");
        trial.succeeded();
        assert!(breaker.admit().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn with_no_number_it_never_opens() {
        let breaker = Breaker::new(0, PAUSE);
        for _ in 0..100 {
            breaker.admit().unwrap().failed();
        }
        assert!(breaker.admit().is_some());
    }
}
