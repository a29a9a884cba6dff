//! What waits in an outbox, and the decisions about it: what is dropped for want of room, and when a client is too slow.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;
use std::time::Instant;

use super::{Item, Policy, Settings, Signal};
use crate::hub::settings::WhenFull;
use crate::message::{Refusal, Text};
use crate::stomp::Command;

/// What waits, and what is in the hands of the task.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Places keep their number while they wait: the first one has the number `first`.
    pub(super) queue: VecDeque<Option<Queued>>,
    first: u64,
    /// Places that are not empty.
    pub(super) live: usize,
    /// Bytes waiting, those in the hands of the task among them.
    pub(super) bytes: usize,
    pub(super) in_hand: Option<InHand>,
    /// Since when the client has taken nothing of what waits; absent while nothing does.
    pub(super) stalled_since: Option<Instant>,
    /// Nothing before this number can be dropped.
    droppable_from: u64,
    /// Frames that no policy may drop, those in hand among them.
    pub(super) firm: usize,
    /// Where the newest message of each key waits. Empty until the budget was spent once.
    pub(super) newest: HashMap<Text, u64>,
    pub(super) dropped: u64,
    pub(super) signal: Option<Signal>,
    pub(super) waker: Option<Waker>,
}

/// A frame that waits.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) item: Item,
    since: Instant,
    when_full: WhenFull,
    key: Option<Text>,
}

/// What the task has taken and not yet written.
#[derive(Debug)]
pub(super) struct InHand {
    pub(super) bytes: usize,
    pub(super) firm: usize,
    /// When the first MESSAGE of it came.
    pub(super) since: Option<Instant>,
}

impl State {
    /// When a client that takes nothing must have taken something. Messages that may be dropped can wait for ever.
    pub(super) fn deadline(&self, settings: &Settings) -> Option<Instant> {
        self.stalled_since.filter(|_| self.firm > 0).map(|since| since + settings.max_wait)
    }

    pub(super) fn is_late(&self, now: Instant, settings: &Settings) -> bool {
        self.deadline(settings).is_some_and(|deadline| now >= deadline)
    }

    /// Whether `size` more bytes may wait. One message of any size may where nothing else does.
    pub(super) fn has_room(&self, size: usize, settings: &Settings) -> bool {
        self.bytes + size <= settings.max_bytes || (self.live == 0 && self.in_hand.is_none())
    }

    pub(super) fn slow(&self, now: Instant, settings: &Settings) -> Refusal {
        if self.is_late(now, settings) {
            let wait = settings.max_wait.as_millis();
            return Refusal::slow_consumer(&format!("it took nothing for {wait} ms (setting outbox.max_wait)"));
        }
        let bytes = settings.max_bytes;
        Refusal::slow_consumer(&format!("more than {bytes} bytes wait for it (setting outbox.max_bytes)"))
    }

    pub(super) fn append(&mut self, item: Item, now: Instant, policy: Policy) {
        let Policy { when_full, key } = policy;
        self.stalled_since.get_or_insert(now);
        self.bytes += item.frame.len();
        self.live += 1;
        self.firm += usize::from(when_full == WhenFull::Disconnect);
        // An index of keys exists only once the budget was spent; until then a message costs no look-up. From then on
        // every message replaces the one of its key, until the queue was empty once.
        if !self.newest.is_empty()
            && let Some(key) = key.clone()
            && let Some(older) = self.newest.insert(key, self.first + self.queue.len() as u64)
        {
            self.remove(older);
        }
        if self.queue.capacity() == 0 {
            self.queue.reserve_exact(1); // most clients get one message at a time, and four places are what they would get
        }
        self.queue.push_back(Some(Queued { item, since: now, when_full, key }));
    }

    pub(super) fn take(&mut self, limit: usize, batch: &mut VecDeque<Item>) {
        while let Some(place) = self.queue.front() {
            let size = place.as_ref().map_or(0, |next| next.item.frame.len());
            if self.in_hand.as_ref().is_some_and(|in_hand| in_hand.bytes + size > limit) {
                break;
            }
            self.first += 1;
            if let Some(queued) = self.queue.pop_front().flatten() {
                self.live -= 1;
                let in_hand = self.in_hand.get_or_insert(InHand { bytes: 0, firm: 0, since: None });
                if queued.item.command == Some(Command::Message) {
                    in_hand.since.get_or_insert(queued.since);
                }
                in_hand.bytes += size;
                in_hand.firm += usize::from(queued.is_firm());
                batch.push_back(queued.item);
            }
        }
        if self.queue.is_empty() {
            self.newest = HashMap::new();
            if self.queue.capacity() > 1 {
                self.queue = VecDeque::new();
            }
        }
    }

    /// Empties a place, unless what stood there was taken. The place itself goes when the ones before it have gone.
    fn remove(&mut self, number: u64) {
        let Some(index) = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok()) else { return };
        if let Some(queued) = self.queue.get_mut(index).and_then(Option::take) {
            self.live -= 1;
            self.bytes -= queued.item.frame.len();
            self.firm -= usize::from(queued.is_firm());
            self.dropped += 1;
        }
    }

    /// Drops the oldest messages that may be dropped, until there is room for `size` bytes.
    pub(super) fn drop_oldest(&mut self, size: usize, settings: &Settings) {
        let end = self.first + self.queue.len() as u64;
        let mut number = self.droppable_from.max(self.first);
        while number < end {
            let index = usize::try_from(number - self.first).unwrap_or(usize::MAX);
            if let Some(queued) = &self.queue[index]
                && queued.when_full == WhenFull::DropOldest
            {
                if self.has_room(size, settings) {
                    break;
                }
                self.remove(number);
            }
            number += 1;
        }
        self.droppable_from = number;
        self.trim();
    }

    /// Makes the message of this key that waits give way, and keeps the newest only of every other key, too.
    pub(super) fn conflate(&mut self, key: Option<&Text>) {
        if self.newest.is_empty() {
            for number in self.first..self.first + self.queue.len() as u64 {
                let index = usize::try_from(number - self.first).unwrap_or(usize::MAX);
                let Some(Queued { key: Some(key), .. }) = &self.queue[index] else { continue };
                if let Some(older) = self.newest.insert(key.clone(), number) {
                    self.remove(older);
                }
            }
        }
        if let Some(older) = key.and_then(|key| self.newest.remove(key)) {
            self.remove(older);
        }
        self.trim();
    }

    /// Forgets places that stand empty once they are the larger part: each costs memory, and taking steps over them.
    fn trim(&mut self) {
        while matches!(self.queue.front(), Some(None)) {
            self.queue.pop_front();
            self.first += 1;
        }
        if self.queue.len() < 64 || self.live * 2 > self.queue.len() {
            return;
        }
        self.queue.retain(Option::is_some);
        self.droppable_from = self.first;
        let numbers = (self.first..).zip(self.queue.iter().flatten());
        let keys = numbers.filter_map(|(number, queued)| Some((queued.key.clone()?, number)));
        self.newest = keys.collect();
    }

    pub(super) fn end(&mut self, refusal: Box<Refusal>) {
        if !matches!(self.signal, Some(Signal::End(_))) {
            self.signal = Some(Signal::End(refusal));
        }
    }

    pub(super) fn clear(&mut self) {
        self.first += self.queue.len() as u64;
        let waiting = std::mem::take(&mut self.queue);
        self.firm -= waiting.iter().flatten().filter(|queued| queued.is_firm()).count();
        self.bytes -= waiting.iter().flatten().map(|queued| queued.item.frame.len()).sum::<usize>();
        self.live = 0;
        self.newest = HashMap::new();
        self.stalled_since = None;
    }
}

impl Queued {
    fn is_firm(&self) -> bool {
        self.when_full == WhenFull::Disconnect
    }
}
