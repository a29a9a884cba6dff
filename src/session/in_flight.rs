//! Tickets: actions whose answers are still to come, and the receipts that wait for them.

use std::collections::VecDeque;
use std::time::Instant;

use super::SubscriptionKey;
use crate::message::Text;

/// Names one action whose answer is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Connect,
    /// SENDs and settlements are pipelined; everything else holds the next frame back.
    Pipelined,
    Subscribe,
    /// A SUBSCRIBE that a handler answers.
    Answer(SubscriptionKey),
    Unsubscribe(SubscriptionKey),
    ReplyAddress(SubscriptionKey),
    Commit,
}

/// The open tickets, oldest first.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    next: u64,
    open: VecDeque<Open>,
    blocking: usize,
}

#[derive(Debug)]
struct Open {
    ticket: Ticket,
    kind: Kind,
    receipt: Option<Text>,
    deadline: Option<Instant>,
}

/// What is known of a ticket when its answer comes.
pub(super) struct Answered {
    pub(super) kind: Kind,
    pub(super) receipt: Option<Text>,
}

impl InFlight {
    pub(super) fn open(&mut self, kind: Kind, receipt: Option<Text>, deadline: Option<Instant>) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.blocking += usize::from(kind != Kind::Pipelined);
        self.open.push_back(Open { ticket, kind, receipt, deadline });
        ticket
    }

    /// `None` for a ticket that is not open any more.
    pub(super) fn close(&mut self, ticket: Ticket) -> Option<Answered> {
        // Tickets are opened in rising order, and nearly always answered in it.
        let index = self.open.binary_search_by_key(&ticket, |open| open.ticket).ok()?;
        let Open { kind, receipt, .. } = self.open.remove(index)?;
        self.blocking -= usize::from(kind != Kind::Pipelined);
        if self.open.is_empty() {
            self.open = VecDeque::new(); // most sessions are idle, and an idle one keeps no memory for lists
        }
        Some(Answered { kind, receipt })
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether something must end before the next frame begins.
    pub(super) fn is_blocking(&self) -> bool {
        self.blocking > 0
    }

    /// When the oldest answer is overdue.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.open.front().and_then(|open| open.deadline)
    }

    pub(super) fn receipts(&self) -> impl Iterator<Item = &Text> {
        self.open.iter().filter_map(|open| open.receipt.as_ref())
    }
}
