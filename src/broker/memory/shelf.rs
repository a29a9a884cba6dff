//! The messages that wait in a queue: ten priorities, and within each the order in which they came.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::message::Message;

/// Priorities 0 to 9; what is higher counts as 9.
const LEVELS: usize = 10;

/// A message in a queue.
#[derive(Debug)]
pub(super) struct Stored {
    /// The message; copies of it may wait elsewhere.
    pub(super) message: Arc<Message>,
    /// What it counts against the limits in bytes.
    pub(super) cost: usize,
    /// When it is of no use any more.
    pub(super) expires: Option<Instant>,
    /// How often it was handed out.
    pub(super) deliveries: u32,
    /// A message before it was dropped.
    pub(super) gap: bool,
    sequence: u64,
}

/// Waiting messages in the order in which they leave.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    levels: [VecDeque<Stored>; LEVELS],
    next_sequence: u64,
}

impl Shelf {
    /// Adds a message behind all others of its priority.
    pub(super) fn append(&mut self, message: Arc<Message>, cost: usize, expires: Option<Instant>, gap: bool) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let level = level(&message);
        self.levels[level].push_back(Stored { message, cost, expires, deliveries: 0, gap, sequence });
    }

    /// Puts a message back where it was among those of its priority.
    pub(super) fn restore(&mut self, stored: Stored) {
        let level = &mut self.levels[level(&stored.message)];
        let position = level.partition_point(|waiting| waiting.sequence < stored.sequence);
        level.insert(position, stored); // nearly always at or near the front, where it moves little
    }

    /// The message that leaves next.
    pub(super) fn first(&self) -> Option<&Stored> {
        self.levels.iter().rev().find_map(VecDeque::front)
    }

    /// Takes the message that leaves next.
    pub(super) fn take_first(&mut self) -> Option<Stored> {
        self.levels.iter_mut().rev().find_map(VecDeque::pop_front)
    }

    /// Takes the message that is missed least: the oldest of the lowest priority.
    pub(super) fn take_oldest(&mut self) -> Option<Stored> {
        self.levels.iter_mut().find_map(VecDeque::pop_front)
    }

    /// Takes out all that is expired.
    pub(super) fn remove_expired(&mut self, now: Instant) -> Vec<Stored> {
        let is_expired = |stored: &Stored| stored.expires.is_some_and(|at| at <= now);
        let mut expired = Vec::new();
        for level in self.levels.iter_mut().filter(|level| level.iter().any(is_expired)) {
            let (dead, alive) = std::mem::take(level).into_iter().partition(is_expired);
            *level = alive;
            expired.extend::<VecDeque<_>>(dead);
        }
        expired
    }

    /// When the next message expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.levels.iter().flatten().filter_map(|stored| stored.expires).min()
    }
}

fn level(message: &Message) -> usize {
    usize::from(message.options.priority.unwrap_or(0)).min(LEVELS - 1)
}
