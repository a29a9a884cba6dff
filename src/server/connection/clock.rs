//! What is due when: heart-beats, Pings, and the end of a client that gives no sign of life.

use std::task::{Context, Poll};
use std::time::Instant;

use tracing::debug;

use super::Connection;
use super::event::Event;
use crate::message::Refusal;
use crate::session::Input;

/// Pings without an answer after which a client counts as gone.
const UNANSWERED_PINGS: u32 = 2;

impl Connection {
    /// The timer is set anew only when something is due before it fires: heart-beats move their deadline with every
    /// frame, and most timers would never fire.
    pub(super) fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        loop {
            let deadline = self.deadline();
            if deadline < self.timer.deadline().into_std() || self.timer.is_elapsed() {
                self.timer.as_mut().reset(deadline.into());
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if now() >= self.deadline() {
                return Poll::Ready(Event::Timer);
            }
        }
    }

    fn deadline(&self) -> Instant {
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

/// The clock of the edge; in tests it can be paused.
pub(in crate::server) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
