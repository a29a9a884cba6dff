//! Which messages the broker has returned, for want of somebody to take them.
//!
//! RabbitMQ sends `basic.return` before the confirm of the same message, and then may confirm many with one frame. lapin
//! gives what was returned to whichever message is confirmed next. So a confirm with a returned message says only that
//! *one* of those confirmed lately was returned; which one, the returned message itself says. Every return that came before
//! a confirm has been given out when all confirms up to that one have been looked at: so when none is left over, all is
//! known.

use lapin::message::BasicReturnMessage;
use tracing::warn;

/// What the broker made of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Stored,
    Returned,
    Refused,
}

/// Confirms and returns of one channel. `T` is a message that was published.
pub(super) struct Returns<T> {
    /// Not known to be anybody's yet.
    strays: Vec<BasicReturnMessage>,
    /// Confirmed, and not known whether returned.
    undecided: Vec<T>,
}

impl<T> Default for Returns<T> {
    fn default() -> Self {
        Returns { strays: Vec::new(), undecided: Vec::new() }
    }
}

impl<T> Returns<T> {
    /// Takes in what was confirmed together, each with what lapin gave it; returns what is decided by that.
    pub(super) fn confirmed(
        &mut self,
        confirmed: Vec<(T, lapin::Confirmation)>,
        is: impl Fn(&T, &BasicReturnMessage) -> bool,
    ) -> Vec<(T, Fate)> {
        let mut decided = Vec::with_capacity(confirmed.len());
        for (message, confirmation) in confirmed {
            let is_refused = confirmation.is_nack();
            self.strays.extend(confirmation.take_message());
            if is_refused {
                decided.push((message, Fate::Refused));
            } else {
                self.undecided.push(message);
            }
        }
        self.decide(&mut decided, is);
        decided
    }

    /// All that was published has been confirmed: what is still open is decided by what is known.
    pub(super) fn all_confirmed(&mut self, is_like: impl Fn(&T, &BasicReturnMessage) -> bool) -> Vec<(T, Fate)> {
        let mut decided = Vec::new();
        self.decide(&mut decided, is_like);
        if !self.strays.is_empty() {
            warn!(count = self.strays.len(), "the broker has returned messages that were not published here");
        }
        decided.extend(self.end().into_iter().map(|message| (message, Fate::Stored)));
        decided
    }

    fn decide(&mut self, decided: &mut Vec<(T, Fate)>, is: impl Fn(&T, &BasicReturnMessage) -> bool) {
        let undecided = &mut self.undecided;
        self.strays.retain(|stray| match undecided.iter().position(|message| is(message, stray)) {
            Some(at) => {
                decided.push((undecided.remove(at), Fate::Returned));
                false
            }
            None => true,
        });
        if self.strays.is_empty() {
            decided.extend(undecided.drain(..).map(|message| (message, Fate::Stored)));
        }
    }

    /// Nothing more comes on the channel: what was confirmed, and may have been returned.
    pub(super) fn end(&mut self) -> Vec<T> {
        self.strays.clear();
        std::mem::take(&mut self.undecided)
    }
}
