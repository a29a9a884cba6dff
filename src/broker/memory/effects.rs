//! What a change to a queue leaves to be done once its lock is free: tasks to wake, dead messages to bury.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use crate::broker::BrokerError;
use crate::message::{Message, Text};

/// Work for after the lock; [`super::exchange::Exchange::apply`] does it.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Effects {
    /// Tasks that may find a message now.
    pub(super) wakers: Vec<Waker>,
    /// Messages that left a queue without being accepted.
    pub(super) dead: Vec<Dead>,
}

/// A message that no reader of its queue will get any more.
#[derive(Debug)]
pub(super) struct Dead {
    /// The message as it lay in the queue.
    pub(super) message: Arc<Message>,
    /// Why it left.
    pub(super) reason: Reason,
    /// The queue that it left.
    pub(super) queue: Text,
    /// Whether the dead-letter destination gets it, if there is one.
    pub(super) buried: bool,
}

/// Why a message is dead, in RabbitMQ's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A reader refused it for good.
    Rejected,
    /// It waited longer than its sender allowed.
    Expired,
    /// The queue was full, and it was the oldest.
    MaxLength,
    /// It came back more often than `max_deliveries` allows.
    DeliveryLimit,
}

impl Reason {
    /// What `x-first-death-reason` says.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::MaxLength => "maxlen",
            Reason::DeliveryLimit => "delivery_limit",
        }
    }
}

/// What became of messages that nobody accepted, since the broker was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Refused for good by a reader.
    pub rejected: u64,
    /// Expired in a queue.
    pub expired: u64,
    /// Dropped from a full queue, or on the way into one.
    pub overflowed: u64,
    /// Returned more often than `max_deliveries` allows.
    pub exhausted: u64,
    /// Of all these, how many the dead-letter destination took. The others are gone.
    pub dead_lettered: u64,
}

/// What all queues share: the bytes they may hold together, and the counters.
#[derive(Debug)]
pub(super) struct Ledger {
    used: AtomicUsize,
    max_bytes: usize,
    deaths: [AtomicU64; 4],
    dead_lettered: AtomicU64,
}

impl Ledger {
    /// A ledger for queues that hold `max_bytes` at most.
    pub(super) fn new(max_bytes: usize) -> Self {
        Ledger { used: AtomicUsize::new(0), max_bytes, deaths: Default::default(), dead_lettered: AtomicU64::new(0) }
    }

    /// Takes `bytes` of the common budget if that many are left.
    pub(super) fn take(&self, bytes: usize) -> Result<(), BrokerError> {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.max_bytes)
        });
        taken.map(drop).map_err(|_| self.exhausted())
    }

    /// Whether `bytes` are left. Only the exclusive gate makes the answer last.
    pub(super) fn check(&self, bytes: usize) -> Result<(), BrokerError> {
        if self.used.load(Ordering::Relaxed).saturating_add(bytes) > self.max_bytes {
            return Err(self.exhausted());
        }
        Ok(())
    }

    /// Takes `bytes` that were checked before.
    pub(super) fn take_checked(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives bytes back.
    pub(super) fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts one death.
    pub(super) fn count(&self, reason: Reason) {
        self.deaths[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one message that the dead-letter destination took.
    pub(super) fn count_dead_letter(&self) {
        self.dead_lettered.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters now.
    pub(super) fn counters(&self) -> Counters {
        let deaths = |reason: Reason| self.deaths[reason as usize].load(Ordering::Relaxed);
        Counters {
            rejected: deaths(Reason::Rejected),
            expired: deaths(Reason::Expired),
            overflowed: deaths(Reason::MaxLength),
            exhausted: deaths(Reason::DeliveryLimit),
            dead_lettered: self.dead_lettered.load(Ordering::Relaxed),
        }
    }

    /// Bytes taken now.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn exhausted(&self) -> BrokerError {
        BrokerError::LimitExceeded {
            what: "bytes waiting in all queues together".to_owned(),
            limit: self.max_bytes,
            setting: "broker.memory.max_bytes",
        }
    }
}
