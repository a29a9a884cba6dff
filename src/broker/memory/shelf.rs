//! The messages that wait in a queue: ten priorities, and within each the order in which they came.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::Message;

/// Priorities 0 to 9; what is higher counts as 9.
const LEVELS: usize = 10;

/// A shelf that was swept rests for at least so long, as a sweep looks at every message.
const SWEEP_REST: Duration = Duration::from_secs(1);

/// A level that has room for more is made smaller once it is mostly empty.
const LARGE: usize = 256;

/// A message in a queue.
#[derive(Debug)]
pub(super) struct Stored {
    /// The message; copies of it may wait elsewhere.
    pub(super) message: Arc<Message>,
    /// What it counts against the limits in bytes.
    pub(super) cost: usize,
    /// How often it was handed out.
    pub(super) deliveries: u32,
    /// A message before it was dropped.
    pub(super) gap: bool,
    expires: Option<Instant>,
    sequence: u64,
}

/// Waiting messages in the order in which they leave.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    levels: [VecDeque<Stored>; LEVELS],
    length: usize,
    bytes: usize,
    next_sequence: u64,
    sweep_at: Option<Instant>,
    /// Until then it is not swept, however much comes in that expires earlier.
    rest_until: Option<Instant>,
}

impl Shelf {
    /// How many messages wait.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// How many bytes they count.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a message behind all others of its priority.
    pub(super) fn append(&mut self, message: Arc<Message>, cost: usize, gap: bool) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let expires = message.options.expiration.and_then(|after| Instant::now().checked_add(after));
        self.restore(Stored { message, cost, deliveries: 0, gap, expires, sequence });
    }

    /// Puts a message back where it was among those of its priority.
    pub(super) fn restore(&mut self, stored: Stored) {
        self.length += 1;
        self.bytes += stored.cost;
        self.sweep_at = earlier(self.sweep_at, stored.expires.max(stored.expires.and(self.rest_until)));
        let level = &mut self.levels[usize::from(stored.message.options.priority.unwrap_or(0)).min(LEVELS - 1)];
        if level.back().is_none_or(|last| last.sequence < stored.sequence) {
            level.push_back(stored);
        } else {
            // What comes back was near the front, so that this moves little.
            let position = level.partition_point(|waiting| waiting.sequence < stored.sequence);
            level.insert(position, stored);
        }
    }

    /// Takes the message that leaves next.
    pub(super) fn take_first(&mut self) -> Option<Stored> {
        let first = self.levels.iter_mut().rev().find_map(pop);
        self.taken(first)
    }

    /// Takes the message that is missed least: the oldest of the lowest priority.
    pub(super) fn take_oldest(&mut self) -> Option<Stored> {
        let oldest = self.levels.iter_mut().find_map(pop);
        self.taken(oldest)
    }

    /// Takes the message that leaves next if it is expired.
    pub(super) fn take_expired_first(&mut self) -> Option<Stored> {
        let first = self.levels.iter().rev().find_map(VecDeque::front)?;
        if first.expires? > Instant::now() {
            return None;
        }
        self.take_first()
    }

    /// Takes all that is expired, if something may be.
    pub(super) fn sweep(&mut self) -> Vec<Stored> {
        let Some(due) = self.sweep_at else { return Vec::new() };
        let now = Instant::now();
        if due > now {
            return Vec::new();
        }
        let expired = self.remove_expired(now);
        let next = self.levels.iter().flatten().filter_map(|stored| stored.expires).min();
        self.rest_until = Some(now + SWEEP_REST);
        self.sweep_at = next.max(next.and(self.rest_until));
        expired
    }

    fn remove_expired(&mut self, now: Instant) -> Vec<Stored> {
        let is_expired = |stored: &Stored| stored.expires.is_some_and(|at| at <= now);
        let mut expired = Vec::new();
        for level in self.levels.iter_mut().filter(|level| level.iter().any(is_expired)) {
            let (dead, alive): (VecDeque<_>, _) = std::mem::take(level).into_iter().partition(is_expired);
            *level = alive;
            expired.extend(dead);
        }
        self.length -= expired.len();
        self.bytes -= expired.iter().map(|stored| stored.cost).sum::<usize>();
        expired
    }

    fn taken(&mut self, stored: Option<Stored>) -> Option<Stored> {
        if let Some(stored) = &stored {
            self.length -= 1;
            self.bytes -= stored.cost;
        }
        stored
    }
}

/// Takes the first message of a level, and gives memory back that a burst has left. Halving what is used to a quarter
/// leaves as many takes until the next time as it moves places.
fn pop(level: &mut VecDeque<Stored>) -> Option<Stored> {
    let first = level.pop_front();
    if level.capacity() > LARGE && level.len() <= level.capacity() / 4 {
        level.shrink_to((level.capacity() / 2).max(LARGE));
    }
    first
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Destination, Headers, PublishOptions};
    use bytes::Bytes;

    fn append(shelf: &mut Shelf, expiration: Option<Duration>) {
        let (destination, headers) = (Destination::Queue("a".into()), Headers::new());
        let options = PublishOptions { expiration, ..PublishOptions::default() };
        shelf.append(Arc::new(Message { destination, headers, body: Bytes::new(), options }), 1, false);
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let mut shelf = Shelf::default();
        (0..100_000).for_each(|_| append(&mut shelf, None));
        (0..99_000).for_each(|_| drop(shelf.take_first()));
        assert!(shelf.levels[0].capacity() <= 4 * 1024, "{}", shelf.levels[0].capacity());
        while shelf.take_oldest().is_some() {}
        assert!(shelf.levels[0].capacity() <= LARGE, "{}", shelf.levels[0].capacity());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shelf_rests_after_a_sweep_whatever_comes_in() {
        let brief = Some(Duration::from_millis(1));
        let mut shelf = Shelf::default();
        let mut swept = Vec::new();
        for _ in 0..5 {
            append(&mut shelf, brief);
            tokio::time::advance(Duration::from_millis(250)).await;
            swept.push(shelf.sweep().len());
        }
        assert_eq!(swept, [1, 0, 0, 0, 4]);
        assert_eq!((shelf.length(), shelf.bytes()), (0, 0));
    }
}
