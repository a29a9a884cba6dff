//! How much a queue holds, and how much it may.

use super::settings::{Overflow, Settings};
use crate::broker::BrokerError;
use crate::message::{Message, Text};

/// What a message costs beside [`Message::size`], so that empty ones are bounded, too.
const OVERHEAD: usize = 256;

/// What a message counts against the limits in bytes.
pub(super) fn cost(message: &Message) -> usize {
    message.size() + OVERHEAD
}

/// What a queue is for, and how much it may hold.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// How messages call it: a queue's name, a topic's spelling.
    pub(super) label: Text,
    /// Deliveries are to be settled. Otherwise a message is gone once it is handed out.
    pub(super) settled: bool,
    /// It is one of many copies: what does not fit is dropped with a gap, never refused or buried.
    pub(super) copies: bool,
    /// Deliveries of one message; 0 is no limit.
    pub(super) max_deliveries: u32,
    overflow: Overflow,
    max_length: Bound,
    max_bytes: Bound,
}

/// A limit, and the setting that says so.
#[derive(Clone, Copy, Debug)]
struct Bound {
    max: usize,
    setting: &'static str,
}

/// How much a queue holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Depth {
    /// Messages that wait.
    pub(super) ready: usize,
    /// Their bytes.
    pub(super) ready_bytes: usize,
    /// Messages handed out and not settled.
    pub(super) held: usize,
    /// Their bytes.
    pub(super) held_bytes: usize,
}

impl Rules {
    /// For `/queue/…`.
    pub(super) fn queue(label: Text, settings: &Settings) -> Self {
        Rules {
            label,
            settled: true,
            copies: false,
            max_deliveries: settings.max_deliveries,
            overflow: settings.overflow,
            max_length: Bound { max: settings.max_queue_length, setting: "broker.memory.max_queue_length" },
            max_bytes: Bound { max: settings.max_queue_bytes, setting: "broker.memory.max_queue_bytes" },
        }
    }

    /// For a queue bound to a topic: a slow reader must never stop the topic's publishers.
    pub(super) fn topic(label: Text, settings: &Settings) -> Self {
        Rules {
            label,
            settled: true,
            copies: true,
            max_deliveries: settings.max_deliveries,
            overflow: Overflow::DropOldest,
            max_length: Bound { max: settings.max_topic_queue_length, setting: "broker.memory.max_topic_queue_length" },
            max_bytes: Bound { max: settings.max_topic_queue_bytes, setting: "broker.memory.max_topic_queue_bytes" },
        }
    }

    /// For a reply address. There is nobody else to whom an answer could go back, so nothing is settled.
    pub(super) fn reply(label: Text, settings: &Settings) -> Self {
        Rules { settled: false, ..Rules::topic(label, settings) }
    }

    /// Whether messages of these costs fit, by themselves or by dropping older ones.
    pub(super) fn admit(&self, depth: &Depth, costs: &[usize]) -> Result<(), BrokerError> {
        if !self.drops_oldest() {
            return self.check(depth, costs.len(), costs.iter().sum());
        }
        // Each of them can push out all that waits, but nothing that is handed out.
        let emptied = Depth { ready: 0, ready_bytes: 0, ..*depth };
        costs.iter().try_for_each(|cost| self.check(&emptied, 1, *cost))
    }

    /// Whether one more message fits as things are.
    pub(super) fn fits(&self, depth: &Depth, cost: usize) -> bool {
        self.exceeded(depth, 1, cost).is_none()
    }

    /// Whether older messages make room for new ones.
    pub(super) fn drops_oldest(&self) -> bool {
        self.overflow == Overflow::DropOldest
    }

    fn check(&self, depth: &Depth, messages: usize, bytes: usize) -> Result<(), BrokerError> {
        let Some((bound, unit)) = self.exceeded(depth, messages, bytes) else { return Ok(()) };
        let (label, Bound { max, setting }) = (&self.label, bound);
        Err(BrokerError::Rejected(format!("{label} is full: it holds {max} {unit} at most (setting {setting})")))
    }

    fn exceeded(&self, depth: &Depth, messages: usize, bytes: usize) -> Option<(Bound, &'static str)> {
        let length = depth.ready + depth.held + messages;
        let bytes = depth.ready_bytes + depth.held_bytes + bytes;
        if length > self.max_length.max {
            Some((self.max_length, "messages"))
        } else {
            (bytes > self.max_bytes.max).then_some((self.max_bytes, "bytes"))
        }
    }
}
