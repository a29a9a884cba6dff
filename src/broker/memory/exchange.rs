//! The exchange: who gets a message, and all that is shared by the links of one in-memory broker.
//!
//! Locks, in the only order in which they are taken together:
//!
//! 1. `gate`: shared by whatever adds messages to queues, retained messages, queues or subscriptions; exclusive for a
//!    commit, which so finds at publishing what it found at checking, and for closing.
//! 2. `durables`
//! 3. `retained`: held from keeping a message to the end of its fan-out, and during a replay, so that a reader gets each
//!    retained message either replayed or live, and never an old one after a new one.
//! 4. those of `listeners`, `replies` and `consumers`: held for a lookup only; what is found is cloned out.
//! 5. that of `queues`
//! 6. the state of one queue; never two at a time.
//!
//! None is held across an await. [`Effects`] are applied when all are free. Only subscribers are called with locks held
//! (the gate and `retained`, when a message is retained or part of a commit): from in there they may drop the guards of
//! shared subscriptions, and nothing else of the broker's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

use super::depth::Rules;
use super::durable::Durables;
use super::effects::{Counters, Dead, Effects, Ledger};
use super::listeners::{Listener, Listeners};
use super::queue::Queue;
use super::queues::Queues;
use super::retained::Retained;
use super::settings::{ConnectError, Settings};
use super::{lock, read, write};
use crate::broker::BrokerError;
use crate::message::{DeliveryId, Destination, Message, Settlement, Text};

/// What the links of one broker share.
pub(super) struct Exchange {
    pub(super) settings: Settings,
    pub(super) durables: Mutex<Durables>,
    pub(super) retained: Mutex<Retained>,
    pub(super) listeners: Listeners,
    pub(super) queues: Queues,
    pub(super) gate: RwLock<()>,
    /// Told when there may be something that time changes, and at the end.
    pub(super) busy: Arc<Notify>,
    closed: AtomicBool,
    replies: RwLock<HashMap<Text, Arc<Queue>>>,
    /// The queue that each dedicated subscription reads.
    consumers: RwLock<HashMap<u64, Arc<Queue>>>,
    ledger: Arc<Ledger>,
    dead_letter: Option<Destination>,
    next_key: AtomicU64,
}

impl Exchange {
    /// An exchange without messages or readers.
    pub(super) fn new(settings: &Settings) -> Result<Self, ConnectError> {
        let ledger = Arc::new(Ledger::new(settings.max_bytes));
        Ok(Exchange {
            durables: Mutex::new(Durables::new(settings.max_durable)),
            retained: Mutex::new(Retained::new(settings)),
            gate: RwLock::default(),
            busy: Arc::default(),
            closed: AtomicBool::new(false),
            replies: RwLock::default(),
            consumers: RwLock::default(),
            queues: Queues::new(settings, &ledger),
            listeners: Listeners::default(),
            ledger,
            dead_letter: settings.dead_letter()?,
            next_key: AtomicU64::new(1),
            settings: settings.clone(),
        })
    }

    /// The shared gate, unless the broker is closed.
    pub(super) fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, BrokerError> {
        let gate = read(&self.gate);
        self.check_open().map(|()| gate)
    }

    /// A key that nobody else has.
    pub(super) fn next_key(&self) -> u64 {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    /// What became of messages that nobody accepted.
    pub(super) fn counters(&self) -> Counters {
        self.ledger.counters()
    }

    /// Bytes that wait in all queues.
    pub(super) fn bytes(&self) -> usize {
        self.ledger.used()
    }

    // --- settling, and what follows ---

    /// Settles deliveries; whether all were there.
    pub(super) fn settle(&self, deliveries: &[DeliveryId], settlement: Settlement) -> bool {
        let mut effects = Effects::default();
        let all = self.settle_with(deliveries, settlement, &mut effects);
        self.apply(effects);
        all
    }

    /// The same, with locks that are not free yet.
    pub(super) fn settle_with(&self, deliveries: &[DeliveryId], settlement: Settlement, effects: &mut Effects) -> bool {
        let mut all = true;
        for run in deliveries.chunk_by(|one, next| one.consumer == next.consumer) {
            all &= self.queue_of(run[0]).is_some_and(|queue| queue.settle(run, settlement, effects));
        }
        all
    }

    /// Where a delivery came from.
    pub(super) fn queue_of(&self, delivery: DeliveryId) -> Option<Arc<Queue>> {
        read(&self.consumers).get(&delivery.consumer).cloned()
    }

    /// Does what is left to be done after locks: wakes tasks, buries the dead. To be called with all of them free.
    pub(super) fn apply(&self, effects: Effects) {
        for waker in effects.wakers {
            waker.wake();
        }
        for dead in effects.dead {
            self.bury(&dead);
        }
    }

    fn bury(&self, dead: &Dead) {
        self.ledger.count(dead.reason);
        let Some(destination) = self.dead_letter.as_ref().filter(|_| dead.buried) else { return };
        // What dies in the dead-letter destination itself is gone, or it would go round for ever.
        if *destination == dead.message.destination {
            return;
        }
        let mut letter = Message::clone(&dead.message);
        letter.destination = destination.clone();
        letter.headers.set("x-first-death-queue", dead.queue.clone());
        letter.headers.set("x-first-death-reason", dead.reason.as_str());
        (letter.options.expiration, letter.options.retain) = (None, false);
        if self.publish(letter).is_ok_and(|outcome| outcome.routed) {
            self.ledger.count_dead_letter();
        }
    }

    /// A new queue that is not `/queue/…`.
    pub(super) fn private_queue(&self, rules: Rules) -> Arc<Queue> {
        Arc::new(Queue::new(rules, Arc::clone(&self.ledger)))
    }

    // --- readers ---

    /// Lets a reply address be written to.
    pub(super) fn open_reply(&self, token: Text, queue: &Arc<Queue>) {
        write(&self.replies).insert(token, Arc::clone(queue));
    }

    /// Where the answers to this address wait, if it is one.
    pub(super) fn reply_queue(&self, token: &Text) -> Option<Arc<Queue>> {
        read(&self.replies).get(token).cloned()
    }

    /// Forgets a reply address.
    pub(super) fn close_reply(&self, token: &Text) {
        write(&self.replies).remove(token);
    }

    /// Remembers which queue a consumer reads.
    pub(super) fn register(&self, consumer: u64, queue: &Arc<Queue>) {
        write(&self.consumers).insert(consumer, Arc::clone(queue));
        self.busy.notify_one();
    }

    /// Forgets a consumer.
    pub(super) fn unregister(&self, consumer: u64) {
        write(&self.consumers).remove(&consumer);
    }

    // --- time and end ---

    /// Passes calls on that were not answered, and frees what expired in `/queue/…`.
    pub(super) fn tick(&self) {
        for (name, queue) in self.queues.all() {
            let mut effects = Effects::default();
            queue.free_expired(&mut effects);
            queue.tick(&mut effects);
            self.apply(effects);
            self.queues.prune(&name, &queue);
        }
    }

    /// Whether there is nothing that a tick or a sweep could change. Whatever ends that tells `busy`.
    pub(super) fn is_idle(&self) -> bool {
        let unread = lock(&self.durables).queues().is_empty() && read(&self.consumers).is_empty();
        unread && self.queues.is_empty() && lock(&self.retained).is_empty() && !self.is_closed()
    }

    /// Frees what expired everywhere else.
    pub(super) fn sweep(&self) {
        lock(&self.retained).sweep();
        let durables = lock(&self.durables).queues();
        let consumers: Vec<_> = read(&self.consumers).values().cloned().collect();
        for queue in durables.iter().chain(&consumers) {
            let mut effects = Effects::default();
            queue.free_expired(&mut effects);
            self.apply(effects);
        }
    }

    /// Whether nothing is taken any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends everything.
    pub(super) fn close(&self) {
        let mut effects = Effects::default();
        let listeners = self.close_with(&mut effects);
        self.apply(effects);
        for listener in listeners {
            if let Listener::Subscriber(subscriber) = listener {
                subscriber.ended(&BrokerError::Unavailable);
            }
        }
    }

    fn close_with(&self, effects: &mut Effects) -> Vec<Listener> {
        let _gate = write(&self.gate);
        self.closed.store(true, Ordering::Release);
        let mut queues = lock(&self.durables).clear();
        lock(&self.retained).clear();
        queues.extend(self.queues.clear());
        queues.extend(read(&self.consumers).values().cloned());
        for queue in queues {
            queue.end(effects);
        }
        write(&self.replies).clear();
        self.busy.notify_one();
        self.listeners.take_all()
    }

    /// Refuses what comes too late.
    pub(super) fn check_open(&self) -> Result<(), BrokerError> {
        if self.is_closed() { Err(BrokerError::Unavailable) } else { Ok(()) }
    }
}

impl Drop for Exchange {
    /// Lets the task that keeps time end.
    fn drop(&mut self) {
        self.busy.notify_one();
    }
}
