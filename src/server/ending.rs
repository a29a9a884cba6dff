//! That interceptors learn how a frame ended, however it does (contract, §10).

use std::sync::Arc;

use super::chained::Chained;
use crate::chain::{Chain, Context, Event};
use crate::message::{Destination, Outcome, Refusal};

/// Frames that the chain has begun to look at, and that end together. All who have an interest in them are told once: how
/// they ended, or, if this is dropped before, that the end of the session cut them off.
pub(super) struct Ending {
    chain: Chain,
    context: Arc<Context>,
    frames: Vec<Frame>,
}

/// A frame whose end matters to the chain.
pub(super) enum Frame {
    Send(Destination),
    Subscribe(Destination),
    Acknowledge(Destination),
}

impl Ending {
    pub(super) fn of(chained: &Chained, frames: Vec<Frame>) -> Self {
        Ending { chain: chained.chain.clone(), context: Arc::clone(&chained.context), frames }
    }

    pub(super) fn tell(mut self, result: Result<&Outcome, &Refusal>) {
        self.tell_all(result);
    }

    fn tell_all(&mut self, result: Result<&Outcome, &Refusal>) {
        for frame in std::mem::take(&mut self.frames) {
            self.chain.completed(frame.event(), result, &self.context);
        }
    }
}

impl Frame {
    fn event(&self) -> Event<'_> {
        match self {
            Frame::Send(destination) => Event::Send(destination),
            Frame::Subscribe(destination) => Event::Subscribe(destination),
            Frame::Acknowledge(destination) => Event::Acknowledge(destination),
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.frames.is_empty() {
            self.tell_all(Err(&Refusal::cut_off()));
        }
    }
}
