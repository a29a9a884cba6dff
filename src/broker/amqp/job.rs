//! A message on its way to the broker, and whom its fate is told.

use lapin::BasicProperties;
use lapin::message::BasicReturnMessage;
use tokio::sync::oneshot;

use super::properties;
use super::publisher::Envelope;
use super::topology::Warning;
use super::window::Held;
use crate::broker::{BrokerError, Permit};
use crate::message::Outcome;

/// A message on its way.
pub(super) struct Job {
    /// Zero until it has had its first turn.
    pub(super) sequence: u64,
    pub(super) owner: u64,
    /// Boxed, since a job passes through many hands.
    pub(super) envelope: Box<Envelope>,
    pub(super) answer: oneshot::Sender<Result<Outcome, BrokerError>>,
    _permit: Permit,
    _held: Held,
    /// It may be there already.
    pub(super) republished: bool,
    /// It goes when nothing else is on its way on this channel.
    pub(super) alone: bool,
    /// It was on its way when the broker ended the connection: it goes when nothing else is, on any channel.
    pub(super) suspect: bool,
    /// How often the broker ended the connection while that was so.
    pub(super) deaths: u32,
    /// Its queue or exchange was gone, and was made once more.
    pub(super) remade: bool,
    /// For its sender, though it was taken.
    pub(super) warning: Option<Warning>,
}

impl Job {
    /// Not on its way yet.
    pub(super) fn new(
        owner: u64,
        envelope: Envelope,
        answer: oneshot::Sender<Result<Outcome, BrokerError>>,
        permit: Permit,
        held: Held,
    ) -> Self {
        Job {
            sequence: 0,
            owner,
            envelope: Box::new(envelope),
            answer,
            _permit: permit,
            _held: held,
            republished: false,
            alone: false,
            suspect: false,
            deaths: 0,
            remade: false,
            warning: None,
        }
    }

    pub(super) fn answer(self, answer: Result<Outcome, BrokerError>) {
        let _ = self.answer.send(answer); // the session may be gone
    }

    /// Its properties; what could be expressed once can be again.
    pub(super) fn properties(&self, frame_max: u32) -> BasicProperties {
        let properties = properties::of_message(&self.envelope.message, frame_max).unwrap_or_default();
        if self.republished { properties::republished(&properties) } else { properties }
    }

    pub(super) fn is_addressed_as(&self, returned: &BasicReturnMessage) -> bool {
        returned.delivery.exchange == self.envelope.exchange && returned.delivery.routing_key == self.envelope.key
    }

    /// Whether this is what was returned, or so like it that it makes no difference.
    pub(super) fn is(&self, returned: &BasicReturnMessage, frame_max: u32) -> bool {
        self.is_addressed_as(returned)
            && *returned.delivery.data == *self.envelope.message.body
            && returned.delivery.properties == self.properties(frame_max)
    }
}
