//! A queue: messages in order, the readers that compete for them, and what these hold unsettled.
//!
//! Every method locks the queue for a short while and returns [`Effects`] to apply once the lock is free, so that no
//! waker and no other queue is ever touched under it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::depth::{Depth, Rules, cost};
use super::effects::{Dead, Effects, Ledger, Reason};
use super::line::{Line, Step};
use super::lock;
use super::shelf::{Shelf, Stored};
use crate::broker::{BrokerError, Event};
use crate::message::{Delivery, DeliveryId, Message, Settlement};

/// A queue that is scanned for expired messages rests for at least so long before it is scanned again.
const SWEEP_REST: Duration = Duration::from_secs(1);

/// A queue, shared by its publishers and readers.
#[derive(Debug)]
pub(super) struct Queue {
    rules: Rules,
    ledger: Arc<Ledger>,
    state: Mutex<State>,
}

/// Why a queue did not do what was asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It was removed a moment ago: look it up again.
    Gone,
    /// The publisher is to know.
    Because(BrokerError),
}

/// Whether a message was checked before it is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Check it now.
    Check,
    /// It was, and must get in: part of a transaction.
    Checked,
}

#[derive(Debug, Default)]
struct State {
    shelf: Shelf,
    depth: Depth,
    line: Line,
    readers: HashMap<u64, Reader>,
    phase: Phase,
    /// The next message handed out follows one that was dropped.
    gap_at_head: bool,
    /// The next message stored follows one that was dropped.
    gap_at_tail: bool,
    /// When something may have expired.
    sweep_at: Option<Instant>,
    taken: u64,
    taken_at_tick: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// Nothing comes back to it: its subscription ended, or it was deleted.
    Discarding,
    /// Removed from the map of queues.
    Gone,
    /// The broker is closed.
    Ended,
}

#[derive(Debug)]
struct Reader {
    credit: usize,
    listening: bool,
    next_tag: u64,
    held: BTreeMap<u64, Stored>,
}

impl Queue {
    /// An empty queue.
    pub(super) fn new(rules: Rules, ledger: Arc<Ledger>) -> Self {
        Queue { rules, ledger, state: Mutex::default() }
    }

    /// Puts a message in.
    pub(super) fn push(
        &self,
        message: &Arc<Message>,
        admission: Admission,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        let mut state = self.open()?;
        if state.phase == Phase::Discarding {
            return Ok(()); // it was looked up before its subscription ended
        }
        let cost = cost(message);
        match self.make_room(&mut state, cost, admission, effects) {
            Ok(()) => {}
            Err(_) if self.rules.copies => {
                state.gap_at_tail = true;
                effects.dead.push(self.dead(Arc::clone(message), Reason::MaxLength));
                return Ok(());
            }
            Err(error) => return Err(Refused::Because(error)),
        }
        let expires = message.options.expiration.and_then(|after| Instant::now().checked_add(after));
        state.expect_expiry(expires);
        let gap = std::mem::take(&mut state.gap_at_tail);
        state.shelf.append(Arc::clone(message), cost, expires, gap);
        state.depth.ready += 1;
        state.depth.ready_bytes += cost;
        state.call(effects);
        Ok(())
    }

    /// How much it holds, once what is expired is gone.
    pub(super) fn depth(&self, effects: &mut Effects) -> Depth {
        let mut state = self.lock();
        self.sweep_if_due(&mut state, effects);
        state.depth
    }

    /// Lets a reader join, which holds `prefetch` messages at most.
    pub(super) fn attach(&self, reader: u64, prefetch: u16) -> Result<(), Refused> {
        let mut state = self.open()?;
        state.line.join(reader);
        let credit = usize::from(prefetch.max(1));
        state.readers.insert(reader, Reader { credit, listening: true, next_tag: 1, held: BTreeMap::new() });
        Ok(())
    }

    /// A reader asks for its next message.
    pub(super) fn poll(&self, reader: u64, context: &mut Context<'_>, effects: &mut Effects) -> Poll<Event> {
        let mut state = self.lock();
        if state.phase == Phase::Ended {
            return Poll::Ready(Event::Ended(BrokerError::Unavailable));
        }
        let Some(known) = state.readers.get(&reader).filter(|known| known.listening) else { return Poll::Pending };
        let has_credit = known.held.len() < known.credit;
        self.drop_expired_head(&mut state, effects);
        let ready = state.depth.ready;
        let step = state.line.poll(reader, ready, has_credit, context.waker());
        let delivery = match step {
            Step::Take => self.hand_out(&mut state, reader),
            Step::Wait => None,
            Step::Back => {
                effects.wakers.push(context.waker().clone());
                None
            }
        };
        state.call(effects);
        delivery.map_or(Poll::Pending, |delivery| Poll::Ready(Event::Delivery(delivery)))
    }

    /// Settles deliveries of one reader; whether all were there.
    pub(super) fn settle(&self, ids: &[DeliveryId], settlement: Settlement, effects: &mut Effects) -> bool {
        let mut state = self.lock();
        let mut all = true;
        for id in ids {
            let held = state.readers.get_mut(&id.consumer).and_then(|reader| reader.held.remove(&id.tag));
            let Some(stored) = held else {
                all = false;
                continue;
            };
            state.line.readmit(id.consumer);
            state.release_hold(&stored);
            match settlement {
                Settlement::Accept => self.ledger.release(stored.cost),
                Settlement::Requeue => self.give_back(&mut state, stored, effects),
                Settlement::Reject => self.bury(stored, Reason::Rejected, effects),
            }
        }
        state.call(effects);
        all
    }

    /// Whether this delivery is unsettled.
    pub(super) fn holds(&self, id: DeliveryId) -> bool {
        self.lock().readers.get(&id.consumer).is_some_and(|reader| reader.held.contains_key(&id.tag))
    }

    /// Hands nothing more to this reader.
    pub(super) fn dismiss(&self, reader: u64, effects: &mut Effects) {
        let mut state = self.lock();
        if let Some(known) = state.readers.get_mut(&reader) {
            known.listening = false;
        }
        effects.wakers.extend(state.line.leave(reader));
        state.call(effects);
    }

    /// Takes a reader out and puts back what it holds.
    pub(super) fn detach(&self, reader: u64, effects: &mut Effects) {
        let mut state = self.lock();
        state.line.leave(reader);
        for stored in state.readers.remove(&reader).into_iter().flat_map(|reader| reader.held.into_values()) {
            state.release_hold(&stored);
            self.give_back(&mut state, stored, effects);
        }
        state.call(effects);
    }

    /// Forgets what waits, and whatever would come back later.
    pub(super) fn discard(&self) {
        let mut state = self.lock();
        state.phase = Phase::Discarding;
        self.clear(&mut state);
    }

    /// Ends it for all readers: the broker closes.
    pub(super) fn end(&self, effects: &mut Effects) {
        let mut state = self.lock();
        state.phase = Phase::Ended;
        self.clear(&mut state);
        state.line.dismiss(&mut effects.wakers);
    }

    /// Marks it as removed if it holds nothing and nobody reads it. Called with the map of queues locked.
    pub(super) fn retire(&self) -> bool {
        let mut state = self.lock();
        let idle = state.is_idle();
        if idle {
            state.phase = Phase::Gone;
        }
        idle
    }

    /// Whether it could be removed.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().is_idle()
    }

    /// Drops what is expired, and stops counting on readers that were called and have not come since the last tick.
    pub(super) fn tick(&self, effects: &mut Effects) {
        let mut state = self.lock();
        self.sweep_if_due(&mut state, effects);
        if state.depth.ready > 0 && state.taken == state.taken_at_tick && state.line.is_anybody_waiting() {
            state.line.pass_over();
            state.call(effects);
        }
        state.taken_at_tick = state.taken;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, Refused> {
        let state = self.lock();
        match state.phase {
            Phase::Open | Phase::Discarding => Ok(state),
            Phase::Gone => Err(Refused::Gone),
            Phase::Ended => Err(Refused::Because(BrokerError::Unavailable)),
        }
    }

    fn make_room(
        &self,
        state: &mut State,
        cost: usize,
        admission: Admission,
        effects: &mut Effects,
    ) -> Result<(), BrokerError> {
        if self.rules.fit(&state.depth, 1, cost).is_err() {
            self.sweep_if_due(state, effects);
        }
        if admission == Admission::Check {
            self.rules.admit(&state.depth, &[cost])?;
            self.ledger.take(cost)?;
        } else {
            self.ledger.take_checked(cost);
        }
        while self.rules.fit(&state.depth, 1, cost).is_err()
            && let Some(oldest) = state.take_oldest()
        {
            state.gap_at_head |= self.rules.copies;
            self.bury(oldest, Reason::MaxLength, effects);
        }
        Ok(())
    }

    fn hand_out(&self, state: &mut State, reader: u64) -> Option<Delivery> {
        let mut stored = state.take_first()?;
        state.taken += 1;
        let redelivered = stored.deliveries > 0;
        stored.deliveries += 1;
        let gap = std::mem::take(&mut state.gap_at_head) | std::mem::take(&mut stored.gap);
        let message = Arc::clone(&stored.message);
        let id = self.hold(state, reader, stored);
        Some(Delivery { message, id, redelivered, gap })
    }

    /// Keeps a delivery until it is settled, if that is what this queue does.
    fn hold(&self, state: &mut State, consumer: u64, stored: Stored) -> Option<DeliveryId> {
        let reader = state.readers.get_mut(&consumer).filter(|_| self.rules.settled);
        let Some(reader) = reader else {
            self.ledger.release(stored.cost);
            return None;
        };
        let tag = reader.next_tag;
        reader.next_tag += 1;
        state.depth.held += 1;
        state.depth.held_bytes += stored.cost;
        reader.held.insert(tag, stored);
        Some(DeliveryId { consumer, tag })
    }

    /// Puts a message back where it was.
    fn give_back(&self, state: &mut State, stored: Stored, effects: &mut Effects) {
        if matches!(state.phase, Phase::Discarding | Phase::Ended) {
            self.ledger.release(stored.cost);
        } else if self.rules.max_deliveries > 0 && stored.deliveries >= self.rules.max_deliveries {
            self.bury(stored, Reason::DeliveryLimit, effects);
        } else {
            state.expect_expiry(stored.expires);
            state.depth.ready += 1;
            state.depth.ready_bytes += stored.cost;
            state.shelf.restore(stored);
        }
    }

    fn drop_expired_head(&self, state: &mut State, effects: &mut Effects) {
        while state.shelf.first().is_some_and(|first| first.expires.is_some_and(|at| at <= Instant::now())) {
            if let Some(expired) = state.take_first() {
                self.bury(expired, Reason::Expired, effects);
            }
        }
    }

    fn sweep_if_due(&self, state: &mut State, effects: &mut Effects) {
        let Some(due) = state.sweep_at else { return };
        let now = Instant::now();
        if due > now {
            return;
        }
        let expired = state.shelf.remove_expired(now);
        for stored in expired {
            state.depth.ready -= 1;
            state.depth.ready_bytes -= stored.cost;
            self.bury(stored, Reason::Expired, effects);
        }
        state.sweep_at = state.shelf.next_expiry().map(|next| next.max(now + SWEEP_REST));
    }

    fn bury(&self, stored: Stored, reason: Reason, effects: &mut Effects) {
        self.ledger.release(stored.cost);
        effects.dead.push(self.dead(stored.message, reason));
    }

    fn dead(&self, message: Arc<Message>, reason: Reason) -> Dead {
        // Of a copy only the reader's own verdict is worth a letter; what it was too slow for, others have read.
        let buried = !self.rules.copies || matches!(reason, Reason::Rejected | Reason::DeliveryLimit);
        Dead { message, reason, queue: self.rules.label.clone(), buried }
    }

    fn clear(&self, state: &mut State) {
        while let Some(stored) = state.take_first() {
            self.ledger.release(stored.cost);
        }
    }
}

impl Drop for Queue {
    /// Gives the common budget back what a queue holds that is simply let go.
    fn drop(&mut self) {
        let depth = self.lock().depth;
        self.ledger.release(depth.ready_bytes + depth.held_bytes);
    }
}

impl State {
    fn call(&mut self, effects: &mut Effects) {
        self.line.call(self.depth.ready, &mut effects.wakers);
    }

    fn take_first(&mut self) -> Option<Stored> {
        let stored = self.shelf.take_first()?;
        self.depth.ready -= 1;
        self.depth.ready_bytes -= stored.cost;
        Some(stored)
    }

    fn take_oldest(&mut self) -> Option<Stored> {
        let stored = self.shelf.take_oldest()?;
        self.depth.ready -= 1;
        self.depth.ready_bytes -= stored.cost;
        Some(stored)
    }

    fn release_hold(&mut self, stored: &Stored) {
        self.depth.held -= 1;
        self.depth.held_bytes -= stored.cost;
    }

    fn expect_expiry(&mut self, expires: Option<Instant>) {
        self.sweep_at = match (self.sweep_at, expires) {
            (Some(known), Some(new)) => Some(known.min(new)),
            (known, new) => known.or(new),
        };
    }

    fn is_idle(&self) -> bool {
        self.phase == Phase::Open && self.depth.ready == 0 && self.readers.is_empty()
    }
}
