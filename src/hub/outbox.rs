//! What waits to be written to one client: a queue with a budget in bytes and in time.
//!
//! Everybody pushes, the client's own task takes. Nobody ever waits to push: when the budget is spent, the policy of
//! the destination decides on the spot (contract, §7). That is why one slow client never slows another.
//!
//! One mutex, short sections, no await inside; wakers are called after it is released.

mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Context;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::settings::{Settings, WhenFull};
use crate::message::{DeliveryId, Refusal, Text};
use crate::metrics::{Dropped, Metrics, Overrun};
use crate::stomp::Command;
use crate::traces::Span;
use state::{Queued, State};

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
