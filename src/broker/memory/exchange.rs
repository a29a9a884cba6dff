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

use super::depth::{Rules, cost};
use super::durable::Durables;
use super::effects::{Counters, Dead, Effects, Ledger};
use super::listeners::{Listener, Listeners};
use super::queue::{Admission, Queue};
use super::queues::Queues;
use super::retained::Retained;
use super::settings::{ConnectError, Settings};
use super::{lock, read, write};
use crate::broker::{BrokerError, Transaction};
use crate::message::{DeliveryId, Destination, Message, Outcome, Settlement, Text};

/// What the links of one broker share.
pub(super) struct Exchange {
    pub(super) settings: Settings,
    pub(super) durables: Mutex<Durables>,
    pub(super) retained: Mutex<Retained>,
    pub(super) listeners: Listeners,
    pub(super) queues: Queues,
    gate: RwLock<()>,
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

    // --- publishing ---

    /// Publishes one message.
    pub(super) fn publish(&self, message: Message) -> Result<Outcome, BrokerError> {
        let mut effects = Effects::default();
        let outcome = self.publish_with(message, &mut effects);
        self.apply(effects);
        outcome
    }

    fn publish_with(&self, message: Message, effects: &mut Effects) -> Result<Outcome, BrokerError> {
        check_destination(&message)?;
        self.check_open()?;
        match &message.destination {
            Destination::Queue(_) => {
                let _gate = self.enter()?;
                self.enqueue(message, Admission::Check, effects)
            }
            Destination::Topic(_) if message.options.retain => {
                let _gate = self.enter()?;
                let mut retained = lock(&self.retained);
                retained.admit([&message].into_iter())?;
                Ok(self.retain(message, &mut retained, effects))
            }
            // Nothing here can be refused, so that a commit need not be waited for.
            _ => Ok(self.fan_out(message, effects)),
        }
    }

    /// Publishes all messages or none, then settles.
    pub(super) fn commit(&self, transaction: Transaction) -> Result<Outcome, BrokerError> {
        let mut effects = Effects::default();
        let outcome = self.commit_with(transaction, &mut effects);
        self.apply(effects);
        outcome
    }

    fn commit_with(&self, transaction: Transaction, effects: &mut Effects) -> Result<Outcome, BrokerError> {
        let _gate = write(&self.gate);
        self.check_open()?;
        self.check_transaction(&transaction, effects)?;
        let mut outcome = Outcome::DONE;
        for message in transaction.messages {
            outcome.routed &= match &message.destination {
                Destination::Queue(_) => self.enqueue(message, Admission::Checked, effects)?,
                Destination::Topic(_) if message.options.retain => {
                    self.retain(message, &mut lock(&self.retained), effects)
                }
                _ => self.fan_out(message, effects),
            }
            .routed;
        }
        for (deliveries, settlement) in &transaction.settlements {
            outcome.settled &= self.settle_with(deliveries, *settlement, effects);
        }
        Ok(outcome)
    }

    fn check_transaction(&self, transaction: &Transaction, effects: &mut Effects) -> Result<(), BrokerError> {
        let mut settled = transaction.settlements.iter().flat_map(|(deliveries, _)| deliveries);
        if !settled.all(|id| self.queue_of(*id).is_some_and(|queue| queue.holds(*id))) {
            return Err(BrokerError::DeliveryLost);
        }
        transaction.messages.iter().try_for_each(check_destination)?;
        lock(&self.retained).admit(transaction.messages.iter())?;
        let mut costs: HashMap<&Text, Vec<usize>> = HashMap::new();
        for message in &transaction.messages {
            if let Destination::Queue(name) = &message.destination {
                costs.entry(name).or_default().push(cost(message));
            }
        }
        self.queues.admit(&costs, effects)
    }

    fn enqueue(
        &self,
        mut message: Message,
        admission: Admission,
        effects: &mut Effects,
    ) -> Result<Outcome, BrokerError> {
        message.detach();
        let message = Arc::new(message);
        let Destination::Queue(name) = &message.destination else { return Ok(Outcome::UNROUTED) };
        self.queues.with(name, |queue| queue.push(&message, admission, effects)).map(|_| Outcome::DONE)
    }

    fn retain(&self, mut message: Message, retained: &mut Retained, effects: &mut Effects) -> Outcome {
        message.detach();
        let message = Arc::new(message);
        retained.keep(&message);
        deliver(&message, &self.listeners_to(&message.destination), effects);
        Outcome::DONE
    }

    /// Gives everybody who listens a copy.
    fn fan_out(&self, mut message: Message, effects: &mut Effects) -> Outcome {
        let listeners = self.listeners_to(&message.destination);
        if listeners.is_empty() {
            return Outcome::UNROUTED;
        }
        if listeners.iter().any(|listener| matches!(listener, Listener::Queue(_))) {
            message.detach();
        }
        deliver(&Arc::new(message), &listeners, effects);
        Outcome::DONE
    }

    fn listeners_to(&self, destination: &Destination) -> Vec<Listener> {
        match destination {
            Destination::Topic(name) => self.listeners.of_topic(name),
            Destination::User { user: Some(user), name } => self.listeners.of_user(user, name),
            Destination::ReplyQueue(token) => {
                read(&self.replies).get(token).cloned().map(Listener::Queue).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    // --- settling, and what follows ---

    /// Settles deliveries; whether all were there.
    pub(super) fn settle(&self, deliveries: &[DeliveryId], settlement: Settlement) -> bool {
        let mut effects = Effects::default();
        let all = self.settle_with(deliveries, settlement, &mut effects);
        self.apply(effects);
        all
    }

    fn settle_with(&self, deliveries: &[DeliveryId], settlement: Settlement, effects: &mut Effects) -> bool {
        let mut all = true;
        for run in deliveries.chunk_by(|one, next| one.consumer == next.consumer) {
            all &= self.queue_of(run[0]).is_some_and(|queue| queue.settle(run, settlement, effects));
        }
        all
    }

    fn queue_of(&self, delivery: DeliveryId) -> Option<Arc<Queue>> {
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

    /// Forgets a reply address.
    pub(super) fn close_reply(&self, token: &Text) {
        write(&self.replies).remove(token);
    }

    /// Remembers which queue a consumer reads.
    pub(super) fn register(&self, consumer: u64, queue: &Arc<Queue>) {
        write(&self.consumers).insert(consumer, Arc::clone(queue));
    }

    /// Forgets a consumer.
    pub(super) fn unregister(&self, consumer: u64) {
        write(&self.consumers).remove(&consumer);
    }

    // --- time and end ---

    /// Passes calls on that were not answered, and frees what expired in `/queue/…`.
    pub(super) fn tick(&self) {
        for (name, queue) in self.queues.all() {
            self.tick_queue(&queue);
            self.queues.prune(&name, &queue);
        }
    }

    /// Frees what expired everywhere else.
    pub(super) fn sweep(&self) {
        lock(&self.retained).sweep();
        let durables = lock(&self.durables).queues();
        let consumers: Vec<_> = read(&self.consumers).values().cloned().collect();
        for queue in durables.iter().chain(&consumers) {
            self.tick_queue(queue);
        }
    }

    fn tick_queue(&self, queue: &Queue) {
        let mut effects = Effects::default();
        queue.tick(&mut effects);
        self.apply(effects);
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
        self.listeners.take_all()
    }

    fn check_open(&self) -> Result<(), BrokerError> {
        if self.is_closed() { Err(BrokerError::Unavailable) } else { Ok(()) }
    }
}

fn deliver(message: &Arc<Message>, listeners: &[Listener], effects: &mut Effects) {
    for listener in listeners {
        match listener {
            Listener::Subscriber(subscriber) => subscriber.deliver(message),
            // Queues of copies refuse nothing; one that ended meanwhile has nobody to miss the message.
            Listener::Queue(queue) => _ = queue.push(message, Admission::Check, effects),
        }
    }
}

/// Whether a message goes where an in-memory broker can bring it.
fn check_destination(message: &Message) -> Result<(), BrokerError> {
    let unsupported = |what: String, why: &str| Err(BrokerError::Unsupported { what, why: why.to_owned() });
    match &message.destination {
        Destination::Topic(name) | Destination::User { user: Some(_), name } if !name.is_literal() => {
            unsupported(format!("a message to the pattern {name} is"), "a SEND names one destination")
        }
        Destination::Topic(_)
        | Destination::Queue(_)
        | Destination::ReplyQueue(_)
        | Destination::User { user: Some(_), .. } => Ok(()),
        Destination::User { user: None, .. } => {
            unsupported(message.destination.to_string(), "a SEND names the user: /user/{name}/queue/…")
        }
        Destination::Exchange { .. } => unsupported("/exchange".to_owned(), super::USE_TOPIC),
        Destination::ExistingQueue(_) => unsupported("/amq/queue".to_owned(), super::USE_QUEUE),
        Destination::TemporaryQueue(_) => {
            unsupported("a message to /temp-queue".to_owned(), "send to the reply-to that came with the request")
        }
        Destination::Application(_) => {
            unsupported(message.destination.to_string(), "it belongs to the interceptor chain, not to the broker")
        }
    }
}
