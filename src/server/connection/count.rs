//! What a client's task counts, apart from the frames that it reads and writes.

use super::Connection;
use crate::message::{CloseCode, Outcome, Refusal};
use crate::metrics::{Authentication, Connect, Publish};
use crate::server::operation::{Pending, Published};
use crate::stomp::Frame;

/// What became of a message.
pub(in crate::server) fn outcome_of(result: &Result<Outcome, Refusal>) -> Publish {
    match result {
        Ok(outcome) if outcome.routed => Publish::Confirmed,
        Ok(_) => Publish::Unroutable,
        Err(refusal) if refusal.close == CloseCode::BROKER_UNAVAILABLE => Publish::Unavailable,
        Err(_) => Publish::Rejected,
    }
}

impl Connection {
    pub(super) fn count_authentication(&self, refused: Option<&Refusal>) {
        self.services.metrics.authentication(match refused.map(|refusal| refusal.close) {
            None => Authentication::Accepted,
            Some(CloseCode::NOT_AUTHENTICATED | CloseCode::NOT_AUTHORISED) => Authentication::Refused,
            Some(_) => Authentication::Failed,
        });
    }

    pub(super) fn count_connected(&mut self) {
        self.has_connected = true;
        self.services.metrics.connect(Connect::Connected);
    }

    /// An ERROR is about to be sent.
    pub(super) fn count_error(&mut self, frame: &Frame) {
        let code = frame.headers.get("code").map_or("internal", |code| code);
        self.services.metrics.error(code);
        if code == Refusal::CONFIRM_TIMEOUT {
            self.count_unanswered(Publish::TimedOut);
        }
    }

    pub(super) fn count_published(&self, published: Option<Published>, outcome: Publish) {
        if let Some(Published { since, messages, mut trace }) = published {
            self.services.metrics.published(outcome, messages, self.handled.saturating_duration_since(since));
            trace.note("stompgate.outcome", outcome.as_str());
            if !outcome.is_success() {
                trace.fail(outcome.as_str());
            }
        }
    }

    /// The connection is over; `code` is the one that is sent, unless the client closed first.
    pub(super) fn count_end(&mut self, code: Option<CloseCode>) {
        self.services.metrics.closed(code);
        self.count_unanswered(Publish::Abandoned);
        if !self.has_connected {
            let outcome = match code {
                None | Some(CloseCode::SERVICE_RESTART) => Connect::Abandoned,
                Some(_) => Connect::Refused,
            };
            self.services.metrics.connect(outcome);
        }
    }

    /// The session is over, and nobody waits for these answers any more.
    fn count_unanswered(&mut self, outcome: Publish) {
        for Pending { published, .. } in self.confirmations.take().into_iter().flatten() {
            self.count_published(published, outcome);
        }
    }
}
