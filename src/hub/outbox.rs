//! What waits to be written to one client: a queue with a budget in bytes and in time.
//!
//! Everybody pushes, the client's own task takes. Nobody ever waits to push: when the budget is spent, the policy of
//! the destination decides on the spot (contract, §7). That is why one slow client never slows another.
//!
//! One mutex, short sections, no await inside; wakers are called after it is released.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::settings::{Settings, WhenFull};
use crate::message::{DeliveryId, Refusal, Text};
use crate::metrics::{Dropped, Metrics, Overrun};
use crate::stomp::Command;
use crate::traces::Span;

/// One client's queue of frames to be written. Cheap while it is empty.
#[derive(Debug)]
pub struct Outbox {
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    is_compressed: bool,
    state: Mutex<State>,
}

/// One frame, rendered.
#[derive(Debug)]
pub struct Item {
    /// The whole STOMP frame, or the LF of a heart-beat.
    pub frame: Bytes,
    /// Its command, or `None` for a heart-beat.
    pub command: Option<Command>,
    /// Whether it is UTF-8, and so a text message on the WebSocket.
    pub text: bool,
    /// Settle this once the frame has been written.
    pub settle: Option<DeliveryId>,
    /// Where its compressed form is shared, if others are sent the same frame and the client wants it so.
    pub compressed: Option<Compressed>,
    /// Ends once the frame has been written.
    pub trace: Span,
}

impl Item {
    /// A frame, or a heart-beat, that goes with nothing else.
    pub fn new(frame: Bytes, command: Option<Command>, text: bool) -> Self {
        Item { frame, command, text, settle: None, compressed: None, trace: Span::default() }
    }

    /// The same frame for another reader.
    pub(super) fn copy(&self) -> Self {
        Item::new(self.frame.clone(), self.command, self.text)
    }
}

/// The compressed form of a frame, made by the first of those who are sent it, or found not to be worth it.
///
/// The others wait meanwhile: that is shorter than making it themselves.
#[derive(Clone, Debug, Default)]
pub struct Compressed(Arc<OnceLock<Option<Bytes>>>);

impl Compressed {
    /// The form that there is, or what `make` makes.
    pub fn get_or_make(&self, make: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        self.0.get_or_init(make).clone()
    }
}

/// Something that the client's task must know, apart from frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Somebody asks about the session.
    Asked,
    /// The gateway stops.
    Shutdown,
    /// The session must end, for this reason. Boxed, as there is room for a signal in every outbox.
    End(Box<Refusal>),
}

/// What becomes of a message for which there is no room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What to do.
    pub when_full: WhenFull,
    /// For [`WhenFull::Conflate`]: what the new message replaces has the same key.
    pub key: Option<Text>,
}

#[derive(Debug, Default)]
struct State {
    /// Places keep their number while they wait: the first one has the number `first`.
    queue: VecDeque<Option<Queued>>,
    first: u64,
    /// Places that are not empty.
    live: usize,
    /// Bytes waiting, those in the hands of the task among them.
    bytes: usize,
    in_hand: Option<InHand>,
    /// Since when the client has taken nothing of what waits; absent while nothing does.
    stalled_since: Option<Instant>,
    /// Nothing before this number can be dropped.
    droppable_from: u64,
    /// Frames that no policy may drop, those in hand among them.
    firm: usize,
    /// Where the newest message of each key waits. Empty until the budget was spent once.
    newest: HashMap<Text, u64>,
    dropped: u64,
    signal: Option<Signal>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Queued {
    item: Item,
    since: Instant,
    when_full: WhenFull,
    key: Option<Text>,
}

/// What the task has taken and not yet written.
#[derive(Debug)]
struct InHand {
    bytes: usize,
    firm: usize,
    /// When the first MESSAGE of it came.
    since: Option<Instant>,
}

/// What is to be said of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes that waited, those that were written among them.
    pub waiting: usize,
    /// How long the oldest MESSAGE that was written had waited.
    pub age: Option<Duration>,
}

impl Outbox {
    /// An empty outbox.
    pub fn new(settings: Arc<Settings>, metrics: Arc<Metrics>) -> Self {
        Outbox { settings, metrics, is_compressed: false, state: Mutex::default() }
    }

    /// The same for a client that has frames compressed. What is the same for others, too, should come with a [`Compressed`].
    #[must_use]
    pub fn compressed(self) -> Self {
        Outbox { is_compressed: true, ..self }
    }

    /// Whether the client has frames compressed.
    pub fn is_compressed(&self) -> bool {
        self.is_compressed
    }

    /// Adds a frame that must not be dropped: the session's own, or a delivery that waits for an acknowledgement.
    /// Whoever makes such frames asks [`Outbox::has_room`] first and stops making them.
    pub fn push_firm(&self, item: Item, now: Instant) {
        let mut state = self.lock();
        state.append(item, now, Policy::default());
        wake(state);
    }

    /// Adds a message of a shared subscription, or does what `policy` says if there is no room.
    pub fn push(&self, item: Item, policy: &Policy, now: Instant) {
        let mut state = self.lock();
        if matches!(state.signal, Some(Signal::End(_))) {
            return;
        }
        let size = item.frame.len();
        if size > self.settings.max_delivery {
            drop(state);
            return self.count_dropped();
        }
        let dropped = state.dropped;
        if policy.when_full == WhenFull::Disconnect && state.is_late(now, &self.settings) {
            return end_as_slow(state, now, &self.settings);
        }
        let has_overrun = !state.has_room(size, &self.settings);
        if has_overrun {
            match policy.when_full {
                WhenFull::Disconnect | WhenFull::DropNewest => {}
                WhenFull::DropOldest => state.drop_oldest(size, &self.settings),
                WhenFull::Conflate => state.conflate(policy.key.as_ref()),
            }
        }
        if state.has_room(size, &self.settings) {
            state.append(item, now, policy.clone());
        } else if matches!(policy.when_full, WhenFull::Disconnect | WhenFull::Conflate) {
            return end_as_slow(state, now, &self.settings);
        } else {
            state.dropped += 1;
        }
        let dropped = state.dropped - dropped;
        wake(state);
        if has_overrun || dropped > 0 {
            self.count(policy.when_full, has_overrun, dropped);
        }
    }

    /// Counts what a policy did. Who is disconnected is counted when it happens.
    fn count(&self, policy: WhenFull, has_overrun: bool, messages: u64) {
        let (overrun, dropped) = match policy {
            WhenFull::Disconnect => return,
            WhenFull::DropOldest => (Overrun::DropOldest, Dropped::DropOldest),
            WhenFull::DropNewest => (Overrun::DropNewest, Dropped::DropNewest),
            WhenFull::Conflate => (Overrun::Conflate, Dropped::Conflate),
        };
        if has_overrun {
            self.metrics.overrun(overrun);
        }
        self.metrics.dropped(dropped, messages);
    }

    /// Tells the task something; the first end is the one that counts.
    pub fn signal(&self, signal: Signal) {
        let mut state = self.lock();
        match signal {
            Signal::End(refusal) => state.end(refusal),
            Signal::Shutdown if state.signal == Some(Signal::Asked) => state.signal = Some(Signal::Shutdown),
            signal => {
                state.signal.get_or_insert(signal);
            }
        }
        wake(state);
    }

    /// Bytes that may wait.
    pub fn capacity(&self) -> usize {
        self.settings.max_bytes
    }

    /// Whether more may be made for this client.
    pub fn has_room(&self) -> bool {
        let state = self.lock();
        state.bytes < self.settings.max_bytes
    }

    /// Takes a signal, and moves frames of at most `limit` bytes, or one frame of any size, into `batch`.
    /// The task is woken when there may be more. Nothing is taken while an earlier batch is in hand.
    pub fn poll(&self, context: &mut Context<'_>, limit: usize, batch: &mut VecDeque<Item>) -> Option<Signal> {
        let mut state = self.lock();
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        if state.in_hand.is_none() {
            state.take(limit, batch);
        }
        state.signal.take()
    }

    /// What was in hand has been written, if anything was.
    pub fn written(&self, now: Instant) -> Option<Written> {
        let mut state = self.lock();
        let waiting = state.bytes;
        let in_hand = state.in_hand.take();
        if let Some(in_hand) = &in_hand {
            state.bytes -= in_hand.bytes;
            state.firm -= in_hand.firm;
        }
        state.stalled_since = (state.live > 0).then_some(now);
        let age = |since| now.saturating_duration_since(since);
        in_hand.map(|in_hand| Written { waiting, age: in_hand.since.map(age) })
    }

    /// Bytes that wait, those in the hands of the task among them.
    pub fn waiting(&self) -> usize {
        self.lock().bytes
    }

    /// Part of what was in hand has been written.
    pub fn progressed(&self, now: Instant) {
        let mut state = self.lock();
        if state.stalled_since.is_some() {
            state.stalled_since = Some(now);
        }
    }

    /// Whether nothing waits and nothing is in hand.
    pub fn is_empty(&self) -> bool {
        let state = self.lock();
        state.live == 0 && state.in_hand.is_none()
    }

    /// When the client has been stalled for too long, if nothing moves until then.
    pub fn deadline(&self) -> Option<Instant> {
        self.lock().deadline(&self.settings)
    }

    /// The refusal for a client that has been stalled for too long.
    pub fn check_stalled(&self, now: Instant) -> Option<Refusal> {
        let state = self.lock();
        state.is_late(now, &self.settings).then(|| state.slow(now, &self.settings))
    }

    /// Drops what waits: for a session that ends because its client does not read.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.clear();
    }

    /// Drops what waits, would be settled once written, and is `meant`: its subscription ends, and it goes to another
    /// reader.
    pub fn discard_unsettled(&self, meant: impl Fn(DeliveryId) -> bool) {
        let mut state = self.lock();
        let settles = |queued: &Queued| queued.item.settle.is_some_and(&meant);
        let is_unsettled = |place: &Option<Queued>| place.as_ref().is_some_and(settles);
        let (gone, left) = std::mem::take(&mut state.queue).into_iter().partition::<VecDeque<_>, _>(is_unsettled);
        state.queue = left;
        state.live -= gone.len();
        state.firm -= gone.len();
        state.bytes -= gone.iter().flatten().map(|queued| queued.item.frame.len()).sum::<usize>();
    }

    /// Counts a message that is larger than `outbox.max_delivery`.
    pub fn count_dropped(&self) {
        self.lock().dropped += 1;
        self.metrics.dropped(Dropped::TooLarge, 1);
    }

    /// How many messages were dropped by policy or for their size.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the task once the lock is released. A waker is used up by its first call: a task that is about to run need
/// not be woken for each further frame.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Ends the session of a client that does not read.
fn end_as_slow(mut state: MutexGuard<'_, State>, now: Instant, settings: &Settings) {
    let refusal = state.slow(now, settings);
    state.end(Box::new(refusal));
    wake(state);
}

impl State {
    /// When a client that takes nothing must have taken something. Messages that may be dropped can wait for ever.
    fn deadline(&self, settings: &Settings) -> Option<Instant> {
        self.stalled_since.filter(|_| self.firm > 0).map(|since| since + settings.max_wait)
    }

    fn is_late(&self, now: Instant, settings: &Settings) -> bool {
        self.deadline(settings).is_some_and(|deadline| now >= deadline)
    }

    /// Whether `size` more bytes may wait. One message of any size may where nothing else does.
    fn has_room(&self, size: usize, settings: &Settings) -> bool {
        self.bytes + size <= settings.max_bytes || (self.live == 0 && self.in_hand.is_none())
    }

    fn slow(&self, now: Instant, settings: &Settings) -> Refusal {
        if self.is_late(now, settings) {
            let wait = settings.max_wait.as_millis();
            return Refusal::slow_consumer(&format!("it took nothing for {wait} ms (setting outbox.max_wait)"));
        }
        let bytes = settings.max_bytes;
        Refusal::slow_consumer(&format!("more than {bytes} bytes wait for it (setting outbox.max_bytes)"))
    }

    fn append(&mut self, item: Item, now: Instant, policy: Policy) {
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

    fn take(&mut self, limit: usize, batch: &mut VecDeque<Item>) {
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
    fn drop_oldest(&mut self, size: usize, settings: &Settings) {
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
    fn conflate(&mut self, key: Option<&Text>) {
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

    fn end(&mut self, refusal: Box<Refusal>) {
        if !matches!(self.signal, Some(Signal::End(_))) {
            self.signal = Some(Signal::End(refusal));
        }
    }

    fn clear(&mut self) {
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
