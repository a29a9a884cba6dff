//! What is due when: heart-beats, Pings, and the end of a client that gives no sign of life.

use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tracing::debug;

use super::Connection;
use super::event::Event;
use crate::message::Refusal;
use crate::session::Input;

/// From when on ticks are counted.
static TICKS_FROM: LazyLock<Instant> = LazyLock::new(now);

/// Pings without an answer after which a client counts as gone.
const UNANSWERED_PINGS: u32 = 2;

impl Connection {
    /// The timer is set anew only when something is due before it fires: heart-beats move their deadline with every
    /// frame, and most timers would never fire.
    pub(super) fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        loop {
            let deadline = self.deadline();
            if deadline < self.due || self.timer.is_elapsed() {
                self.due = deadline;
                self.timer.as_mut().reset(ticked(deadline, now()).into());
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if now() >= self.deadline() {
                return Poll::Ready(Event::Timer);
            }
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        let ping = self.ping_deadline();
        let stalled = if self.socket.is_flushed() { None } else { self.outbox.deadline() };
        [self.session.deadline(), stalled].into_iter().flatten().fold(ping, Instant::min)
    }

    fn ping_deadline(&self) -> Instant {
        self.last_inbound.max(self.last_ping) + self.live.server.ping_interval
    }

    pub(super) fn on_timer(&mut self) {
        let now = now();
        let received = self.socket.stream().received();
        let has_come = std::mem::replace(&mut self.received, received) != received;
        if has_come || !self.is_reading() {
            // Part of a message came, or it is the gateway that does not listen: the silence proves nothing.
            self.last_inbound = now;
            self.unanswered_pings = 0;
            let _ = self.session.received(0, now);
        }
        if let Some(refusal) = self.outbox.check_stalled(now) {
            return self.on_end(refusal);
        }
        if now >= self.ping_deadline() {
            if self.unanswered_pings >= UNANSWERED_PINGS {
                let interval = self.live.server.ping_interval.as_millis();
                return self.input(Input::Refused(Refusal::pings_unanswered(interval)));
            }
            self.unanswered_pings += 1;
            self.last_ping = now;
            if let Err(error) = self.socket.ping() {
                debug!(%error, "ping failed"); // and reading will say why the connection has ended
            }
        }
        self.input(Input::Deadline);
    }
}

/// A time at which other clients' timers fire, too, so that the worker wakes once for many: after `deadline`, by less than
/// a sixteenth of the time until then.
fn ticked(deadline: Instant, now: Instant) -> Instant {
    let Some(bits) = (deadline.saturating_duration_since(now).as_millis() / 16).checked_ilog2() else {
        return deadline;
    };
    let due = deadline.saturating_duration_since(*TICKS_FROM).as_nanos().div_ceil(1_000_000);
    let tick = u64::try_from(due).ok().and_then(|due| due.checked_next_multiple_of(1 << bits));
    tick.map_or(deadline, |tick| *TICKS_FROM + Duration::from_millis(tick))
}

/// The clock of the edge; in tests it can be paused.
pub(in crate::server) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn timers_that_are_set_at_any_time_fire_together_and_hardly_late() {
        let started = *TICKS_FROM;
        let milliseconds = Duration::from_millis;
        for wait in [1, 15, 16, 31, 100, 1000, 9375, 25_000, 86_400_000].map(milliseconds) {
            let mut ticks = BTreeSet::new();
            for set in (0..1000).map(|step| started + 3 * wait + step * (wait / 1000)) {
                let deadline = set + wait;
                let ticked = ticked(deadline, set);
                assert!(ticked >= deadline && ticked < deadline + wait / 16 + milliseconds(1), "after {wait:?}");
                ticks.insert((ticked - *TICKS_FROM).as_nanos().div_ceil(1_000_000)); // as tokio's clock has them
            }
            assert!(ticks.len() <= 35 || wait < milliseconds(32), "{} ticks within {wait:?}", ticks.len());
        }
    }
}
