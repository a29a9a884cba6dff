//! What is counted of the handlers of one route.

use prometheus::{Histogram, IntCounter};
use tokio::time::Instant;

/// Counts the calls of one route. The one that is there by default counts nothing.
#[derive(Clone, Debug, Default)]
pub struct Meter(Option<Handles>);

#[derive(Clone, Debug)]
struct Handles {
    calls: [IntCounter; Outcome::NAMES.len()],
    seconds: Histogram,
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Answered,
    Refused,
    RateLimited,
    Failed,
    Unfinished,
}

impl Outcome {
    const NAMES: [&str; 5] = ["answered", "refused", "rate-limited", "failed", "unfinished"];
}

/// A call under way. One that is dropped without an end ran out of time, or its client left.
#[derive(Debug)]
#[must_use = "it is counted when it ends"]
pub struct Call<'a> {
    handles: Option<&'a Handles>,
    since: Instant,
}

impl Meter {
    pub(super) const OUTCOMES: [&str; 5] = Outcome::NAMES;

    pub(super) fn new(calls: [IntCounter; Outcome::NAMES.len()], seconds: Histogram) -> Self {
        Meter(Some(Handles { calls, seconds }))
    }

    /// A call begins.
    pub fn begin(&self) -> Call<'_> {
        Call { handles: self.0.as_ref(), since: Instant::now() }
    }
}

impl Call<'_> {
    /// It ended with an answer, or a failure of this status.
    pub fn end(mut self, status: Option<u16>) {
        self.count(match status {
            None => Outcome::Answered,
            Some(429) => Outcome::RateLimited,
            Some(..500) => Outcome::Refused,
            Some(_) => Outcome::Failed,
        });
    }

    fn count(&mut self, outcome: Outcome) {
        if let Some(handles) = self.handles.take() {
            handles.calls[outcome as usize].inc();
            handles.seconds.observe(self.since.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.count(Outcome::Unfinished);
    }
}
