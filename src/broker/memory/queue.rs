//! A queue: messages in order, and the readers that compete for them.
//!
//! Every method locks the queue for a short while and leaves [`Effects`] to apply once the lock is free, so that no
//! waker and no other queue is ever touched under it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use super::depth::{Depth, Rules, cost};
use super::effects::{Dead, Effects, Ledger, Reason};
use super::line::{Line, Step};
use super::lock;
use super::readers::Readers;
use super::shelf::{Shelf, Stored};
use crate::broker::{BrokerError, Event};
use crate::message::{Delivery, DeliveryId, Message, Settlement};

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
    phase: Phase,
    shelf: Shelf,
    readers: Readers,
    line: Line,
    /// The next message handed out follows one that was dropped.
    gap_at_head: bool,
    /// The next message stored follows one that was dropped.
    gap_at_tail: bool,
    taken: u64,
    taken_at_tick: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// Nothing comes in or back: its subscription ended, or it was deleted.
    Discarding,
    /// Removed from the map of queues.
    Gone,
    /// The broker is closed.
    Ended,
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
            Ok(()) => {
                let gap = std::mem::take(&mut state.gap_at_tail);
                state.shelf.append(Arc::clone(message), cost, gap);
                state.call(effects);
                Ok(())
            }
            Err(_) if self.rules.copies => {
                state.gap_at_tail = true;
                effects.dead.push(self.dead(Arc::clone(message), Reason::MaxLength));
                Ok(())
            }
            Err(error) => Err(Refused::Because(error)),
        }
    }

    /// How much it holds, once what is expired is gone.
    pub(super) fn depth(&self, effects: &mut Effects) -> Depth {
        let mut state = self.lock();
        self.sweep(&mut state, effects);
        state.depth()
    }

    /// Lets a reader join, which holds `prefetch` messages at most.
    pub(super) fn join(&self, reader: u64, prefetch: u16) -> Result<(), Refused> {
        let mut state = self.open()?;
        state.line.join(reader);
        state.readers.join(reader, prefetch);
        Ok(())
    }

    /// A reader asks for its next message. One that is dismissed waits for ever.
    pub(super) fn poll(&self, reader: u64, context: &mut Context<'_>, effects: &mut Effects) -> Poll<Event> {
        let mut state = self.lock();
        if state.phase == Phase::Ended {
            return Poll::Ready(Event::Ended(BrokerError::Unavailable));
        }
        let Some(has_credit) = state.readers.has_credit(reader) else { return Poll::Pending };
        while let Some(expired) = state.shelf.take_expired_first() {
            self.bury(expired, Reason::Expired, effects);
        }
        let ready = state.shelf.length();
        let delivery = match state.line.poll(reader, ready, has_credit, context.waker()) {
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
            let Some(stored) = state.readers.release(*id) else {
                all = false;
                continue;
            };
            state.line.readmit(id.consumer);
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
        self.lock().readers.holds(id)
    }

    /// Hands nothing more to this reader.
    pub(super) fn dismiss(&self, reader: u64, effects: &mut Effects) {
        let mut state = self.lock();
        state.readers.dismiss(reader);
        state.line.leave(reader);
        state.call(effects);
    }

    /// Takes a reader out and puts back what it holds.
    pub(super) fn leave(&self, reader: u64, effects: &mut Effects) {
        let mut state = self.lock();
        state.line.leave(reader);
        for stored in state.readers.leave(reader) {
            self.give_back(&mut state, stored, effects);
        }
        state.call(effects);
    }

    /// Forgets what waits, and whatever would come later.
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

    /// Whether it could be removed.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().is_idle()
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

    /// Drops what is expired.
    pub(super) fn free_expired(&self, effects: &mut Effects) {
        self.sweep(&mut self.lock(), effects);
    }

    /// Stops counting on readers that were called if none has come since the last tick.
    pub(super) fn tick(&self, effects: &mut Effects) {
        let mut state = self.lock();
        if state.shelf.length() > 0 && state.taken == state.taken_at_tick && state.line.is_anybody_waiting() {
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
        if !self.rules.fits(&state.depth(), cost) {
            self.sweep(state, effects);
        }
        if admission == Admission::Check {
            self.rules.admit(&state.depth(), &[cost])?;
            self.ledger.take(cost)?;
        } else {
            self.ledger.take_checked(cost);
        }
        while self.rules.drops_oldest()
            && !self.rules.fits(&state.depth(), cost)
            && let Some(oldest) = state.shelf.take_oldest()
        {
            state.gap_at_head |= self.rules.copies;
            self.bury(oldest, Reason::MaxLength, effects);
        }
        Ok(())
    }

    fn hand_out(&self, state: &mut State, reader: u64) -> Option<Delivery> {
        let mut stored = state.shelf.take_first()?;
        state.taken += 1;
        let message = Arc::clone(&stored.message);
        let redelivered = stored.deliveries > 0;
        let gap = std::mem::take(&mut state.gap_at_head) | std::mem::take(&mut stored.gap);
        stored.deliveries += 1;
        let id = if self.rules.settled {
            state.readers.hold(reader, stored)
        } else {
            self.ledger.release(stored.cost);
            None
        };
        Some(Delivery { message, id, redelivered, gap })
    }

    /// Puts a message back where it was.
    fn give_back(&self, state: &mut State, stored: Stored, effects: &mut Effects) {
        if matches!(state.phase, Phase::Discarding | Phase::Ended) {
            self.ledger.release(stored.cost);
        } else if self.rules.max_deliveries > 0 && stored.deliveries >= self.rules.max_deliveries {
            self.bury(stored, Reason::DeliveryLimit, effects);
        } else {
            state.shelf.restore(stored);
        }
    }

    fn sweep(&self, state: &mut State, effects: &mut Effects) {
        for expired in state.shelf.sweep() {
            self.bury(expired, Reason::Expired, effects);
        }
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
        while let Some(stored) = state.shelf.take_first() {
            self.ledger.release(stored.cost);
        }
    }
}

impl Drop for Queue {
    /// Gives the common budget back what a queue holds that is simply let go.
    fn drop(&mut self) {
        let depth = self.lock().depth();
        self.ledger.release(depth.ready_bytes + depth.held_bytes);
    }
}

impl State {
    fn call(&mut self, effects: &mut Effects) {
        self.line.call(self.shelf.length(), &mut effects.wakers);
    }

    fn depth(&self) -> Depth {
        Depth {
            ready: self.shelf.length(),
            ready_bytes: self.shelf.bytes(),
            held: self.readers.held(),
            held_bytes: self.readers.held_bytes(),
        }
    }

    fn is_idle(&self) -> bool {
        self.phase == Phase::Open && self.shelf.length() == 0 && self.readers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Wake, Waker};

    use proptest::prelude::*;

    use super::super::settings::Settings;
    use super::*;
    use crate::message::{Destination, Headers, PublishOptions};

    /// What may happen to a queue.
    #[derive(Clone, Debug)]
    enum Operation {
        Push { priority: u8 },
        Join { prefetch: u16 },
        Poll { reader: usize },
        Settle { delivery: usize, settlement: Settlement },
        Leave { reader: usize },
        Tick,
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let settlement = prop::sample::select(vec![Settlement::Accept, Settlement::Requeue, Settlement::Reject]);
        prop_oneof![
            5 => (0..3_u8).prop_map(|priority| Operation::Push { priority }),
            1 => (1..4_u16).prop_map(|prefetch| Operation::Join { prefetch }),
            8 => any::<usize>().prop_map(|reader| Operation::Poll { reader }),
            4 => (any::<usize>(), settlement).prop_map(|(delivery, settlement)| Operation::Settle { delivery, settlement }),
            1 => any::<usize>().prop_map(|reader| Operation::Leave { reader }),
            1 => Just(Operation::Tick),
        ]
    }

    /// A task that remembers whether it was woken.
    #[derive(Default)]
    struct Task(AtomicBool);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A queue as a list, and what is expected of the real one.
    struct Model {
        queue: Queue,
        /// What waits: higher priorities first, then older ones; and whether each was handed out before.
        ready: BTreeMap<(u8, u64), bool>,
        held: Vec<(DeliveryId, (u8, u64))>,
        readers: Vec<ModelReader>,
        next: u64,
        rejected: usize,
        dead: usize,
    }

    struct ModelReader {
        key: u64,
        prefetch: usize,
        task: Arc<Task>,
        /// It polled and got nothing.
        waits: bool,
    }

    impl Model {
        fn new() -> Self {
            let rules = Rules::queue("q".into(), &Settings::default());
            let queue = Queue::new(rules, Arc::new(Ledger::new(usize::MAX)));
            let (ready, held, readers) = (BTreeMap::new(), Vec::new(), Vec::new());
            Model { queue, ready, held, readers, next: 0, rejected: 0, dead: 0 }
        }

        fn apply(&mut self, effects: Effects) {
            effects.wakers.into_iter().for_each(Waker::wake);
            self.dead += effects.dead.len();
        }

        fn run(&mut self, operation: &Operation) {
            let mut effects = Effects::default();
            match *operation {
                Operation::Push { priority } => self.push(priority, &mut effects),
                Operation::Join { prefetch } => self.join(prefetch),
                Operation::Poll { reader } if !self.readers.is_empty() => self.poll(reader % self.readers.len()),
                Operation::Settle { delivery, settlement } if !self.held.is_empty() => {
                    self.settle(delivery % self.held.len(), settlement, &mut effects);
                }
                Operation::Leave { reader } if !self.readers.is_empty() => {
                    self.leave(reader % self.readers.len(), &mut effects);
                }
                Operation::Tick => self.queue.tick(&mut effects),
                _ => {}
            }
            self.apply(effects);
            self.check();
        }

        fn push(&mut self, priority: u8, effects: &mut Effects) {
            let key = (9 - priority, self.next);
            self.next += 1;
            let message = Message {
                destination: Destination::Queue("q".into()),
                headers: Headers::new(),
                body: format!("{key:?}").into(),
                options: PublishOptions { priority: Some(priority), ..PublishOptions::default() },
            };
            self.queue.push(&Arc::new(message), Admission::Check, effects).unwrap();
            self.ready.insert(key, false);
        }

        fn join(&mut self, prefetch: u16) {
            let key = self.next;
            self.next += 1;
            self.queue.join(key, prefetch).unwrap();
            let prefetch = usize::from(prefetch);
            self.readers.push(ModelReader { key, prefetch, task: Arc::default(), waits: false });
        }

        fn poll(&mut self, index: usize) {
            let has_credit = self.has_credit(&self.readers[index]);
            let mut answer = self.poll_once(index);
            if answer.is_pending() && has_credit && !self.ready.is_empty() {
                // It stepped back, and was told to come again.
                assert!(self.readers[index].task.0.load(Ordering::Relaxed));
                answer = self.poll_once(index);
            }
            self.readers[index].waits = answer.is_pending();
            let Poll::Ready(Event::Delivery(delivery)) = answer else {
                assert!(!has_credit || self.ready.is_empty());
                return;
            };
            let (key, redelivered) = self.ready.pop_first().unwrap();
            assert_eq!(delivery.message.body, format!("{key:?}"));
            assert_eq!(delivery.redelivered, redelivered);
            assert!(has_credit && !delivery.gap);
            self.held.push((delivery.id.unwrap(), key));
        }

        fn has_credit(&self, reader: &ModelReader) -> bool {
            self.held.iter().filter(|(id, _)| id.consumer == reader.key).count() < reader.prefetch
        }

        fn poll_once(&mut self, index: usize) -> Poll<Event> {
            let reader = &self.readers[index];
            reader.task.0.store(false, Ordering::Relaxed);
            let waker = Waker::from(Arc::clone(&reader.task));
            let mut effects = Effects::default();
            let answer = self.queue.poll(reader.key, &mut Context::from_waker(&waker), &mut effects);
            self.apply(effects);
            answer
        }

        fn settle(&mut self, index: usize, settlement: Settlement, effects: &mut Effects) {
            let (id, key) = self.held.remove(index);
            assert!(self.queue.holds(id));
            assert!(self.queue.settle(&[id], settlement, effects));
            assert!(!self.queue.settle(&[id], settlement, effects));
            match settlement {
                Settlement::Accept => {}
                Settlement::Requeue => _ = self.ready.insert(key, true),
                Settlement::Reject => self.rejected += 1,
            }
        }

        fn leave(&mut self, index: usize, effects: &mut Effects) {
            let reader = self.readers.swap_remove(index).key;
            self.queue.leave(reader, effects);
            let (gone, stay) = self.held.drain(..).partition(|(id, _)| id.consumer == reader);
            self.held = stay;
            let gone: Vec<(DeliveryId, (u8, u64))> = gone;
            self.ready.extend(gone.into_iter().map(|(_, key)| (key, true)));
        }

        /// The counts are right, nothing leaks, and nobody waits unwoken while there is something to take.
        fn check(&self) {
            let depth = self.queue.depth(&mut Effects::default());
            assert_eq!((depth.ready, depth.held), (self.ready.len(), self.held.len()));
            assert_eq!(self.queue.ledger.used(), depth.ready_bytes + depth.held_bytes);
            assert_eq!(self.dead, self.rejected);
            assert_eq!(self.queue.is_idle(), self.ready.is_empty() && self.readers.is_empty());
            let waiting: Vec<_> =
                self.readers.iter().filter(|reader| reader.waits && self.has_credit(reader)).collect();
            let woken = waiting.iter().filter(|reader| reader.task.0.load(Ordering::Relaxed)).count();
            assert!(woken >= waiting.len().min(self.ready.len()), "somebody sleeps while messages wait");
        }
    }

    proptest! {
        #[test]
        fn a_queue_is_what_its_model_is(operations in prop::collection::vec(operation(), 1..200)) {
            let mut model = Model::new();
            for operation in &operations {
                model.run(operation);
            }
            while !model.readers.is_empty() {
                model.run(&Operation::Leave { reader: 0 });
            }
            model.run(&Operation::Join { prefetch: u16::MAX });
            while !model.ready.is_empty() {
                model.run(&Operation::Poll { reader: 0 });
            }
        }
    }
}
