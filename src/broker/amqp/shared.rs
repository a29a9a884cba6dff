//! Plain topic subscriptions: a few exclusive queues with many bindings, and one match for each message.
//!
//! Each pattern belongs to one of the queues, by its hash, and is bound and matched there only. A binding stays for a
//! while when its last reader goes, so that a page that is loaded again costs the broker nothing.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::binder::Binder;
use super::connection::{Line, Live};
use super::errors::{NOT_FOUND, channel_error, short, told};
use super::ledger::begin;
use super::names::{self, USER_EXCHANGE};
use super::properties;
use super::settings::Settings;
use super::topology::{Place, Topology};
use super::unacknowledged::{ACKNOWLEDGED_WITHIN, Unacknowledged};
use crate::broker::topics::TopicIndex;
use crate::broker::{BrokerError, Shared, Subscriber};
use crate::message::{Destination, Message, Pattern, PublishOptions};

/// So many messages are passed on before something else has its turn.
const BATCH: usize = 200;

/// All shared subscriptions of a link.
pub(super) struct SharedQueues(Vec<Arc<Shard>>);

/// One queue and what is read through it.
struct Shard {
    line: Arc<Line>,
    topology: Arc<Topology>,
    exchange: ShortString,
    prefetch: u16,
    linger: Duration,
    /// Time after which the exchanges are looked for.
    look: Duration,
    index: Mutex<Index>,
    queue: watch::Sender<Queue>,
}

/// The queue as it is now.
#[derive(Clone)]
enum Queue {
    Opening,
    Open(Arc<Binder>),
    /// The broker does not let us have it. It is asked for again and again, and meanwhile nobody waits for it.
    Refused(BrokerError),
}

#[derive(Default)]
struct Index {
    next: u64,
    topics: TopicIndex<Arc<dyn Subscriber>>,
    users: TopicIndex<Arc<dyn Subscriber>>,
    bindings: HashMap<Binding, Bound>,
}

/// What the queue is bound to.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Binding {
    users: bool,
    key: ShortString,
}

#[derive(Default)]
struct Bound {
    readers: Vec<(u64, Arc<dyn Subscriber>)>,
    /// Since when there are none.
    idle: Option<Instant>,
    /// By whom it was bound: a queue that was made since then is not.
    by: Weak<Binder>,
}

/// Keeps a shared subscription open.
struct Guard {
    shard: Arc<Shard>,
    binding: Binding,
    pattern: Pattern,
    key: u64,
    subscriber: Arc<dyn Subscriber>,
}

impl SharedQueues {
    /// Starts the tasks. They end with the line.
    pub(super) fn start(
        settings: &Settings,
        exchange: &ShortString,
        line: &Arc<Line>,
        topology: &Arc<Topology>,
    ) -> Self {
        let start = |_| {
            let shard = Arc::new(Shard {
                line: Arc::clone(line),
                topology: Arc::clone(topology),
                exchange: exchange.clone(),
                prefetch: settings.shared_prefetch,
                linger: settings.linger,
                look: settings.heartbeat,
                index: Mutex::default(),
                queue: watch::Sender::new(Queue::Opening),
            });
            tokio::spawn(Arc::clone(&shard).run());
            shard
        };
        SharedQueues((0..settings.shared_queues.max(1)).map(start).collect())
    }

    /// Opens a shared subscription to topics, or to what is sent to `users`; waits for the broker if need be.
    pub(super) async fn share(
        &self,
        users: bool,
        pattern: Pattern,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Box<dyn Shared>, BrokerError> {
        let key = short(&names::binding_key(&pattern)?, "the topic")?;
        let mut hasher = DefaultHasher::new();
        pattern.hash(&mut hasher);
        let shard = usize::try_from(hasher.finish() % self.0.len() as u64).unwrap_or_default();
        let guard = Guard::register(&self.0[shard], Binding { users, key }, pattern, subscriber);
        guard.bind().await?;
        Ok(Box::new(guard))
    }
}

impl Guard {
    fn register(shard: &Arc<Shard>, binding: Binding, pattern: Pattern, subscriber: Arc<dyn Subscriber>) -> Self {
        let mut index = shard.index();
        let key = index.next;
        index.next += 1;
        let bound = index.bindings.entry(binding.clone()).or_default();
        bound.readers.push((key, Arc::clone(&subscriber)));
        bound.idle = None;
        index.of(binding.users).insert(&pattern, key, Arc::clone(&subscriber));
        drop(index);
        Guard { shard: Arc::clone(shard), binding, pattern, key, subscriber }
    }

    /// Comes back when the queue is bound.
    async fn bind(&self) -> Result<(), BrokerError> {
        let shard = &self.shard;
        shard.topology.ensure(&shard.place(&self.binding), &FieldTable::default()).await?;
        let exchange = shard.exchange_of(&self.binding);
        let mut attempt = 0;
        loop {
            let binder = shard.binder().await?;
            if shard.is_bound(&self.binding, &binder) {
                return Ok(());
            }
            match binder.bind(&exchange, &self.binding.key).await {
                Ok(()) => {
                    shard.note_bound([&self.binding], &binder);
                    return Ok(());
                }
                Err(error) if channel_error(&error).is_some() => {
                    if channel_error(&error) == Some(NOT_FOUND) {
                        shard.topology.forget(&shard.place(&self.binding));
                    }
                    // It is not to be asked for again, unless somebody else was let in before.
                    let mut index = shard.index();
                    if index.bindings.get(&self.binding).is_some_and(|bound| bound.readers.len() == 1) {
                        index.bindings.remove(&self.binding);
                    }
                    drop(index);
                    return Err(told(&error, &format!("the topic {} of the exchange {exchange}", self.pattern)));
                }
                Err(_) => {}
            }
            attempt += 1;
            shard.line.connector().pause(attempt).await;
        }
    }
}

#[async_trait]
impl Shared for Guard {
    async fn replay(&self, reader: u64) -> Result<(), BrokerError> {
        self.subscriber.replayed(reader); // nothing is retained
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut index = self.shard.index();
        let gone = index.of(self.binding.users).remove(&self.pattern, self.key);
        if let Some(bound) = index.bindings.get_mut(&self.binding) {
            bound.readers.retain(|(key, _)| *key != self.key);
            bound.idle = bound.readers.is_empty().then(Instant::now);
            if bound.idle.is_some() && matches!(*self.shard.queue.borrow(), Queue::Refused(_)) {
                index.bindings.remove(&self.binding); // nobody else would
            }
        }
        drop(index);
        drop(gone); // its end is no business of our lock
    }
}

impl Shard {
    async fn run(self: Arc<Self>) {
        let mut attempt = 0;
        let mut first = true;
        while let Ok(live) = self.line.up().await {
            match self.begin(live).await {
                Ok((channel, mut consumer, binder)) => {
                    attempt = 0;
                    if !std::mem::take(&mut first) {
                        self.everybody().iter().for_each(|subscriber| subscriber.restored());
                    }
                    self.queue.send_replace(Queue::Open(Arc::clone(&binder)));
                    self.read(&channel, &binder, &mut consumer).await;
                    self.queue.send_replace(Queue::Opening);
                }
                Err(error) => {
                    warn!(%error, "the queue of the topic subscriptions cannot be opened");
                    if error != BrokerError::Unavailable {
                        self.queue.send_replace(Queue::Refused(error));
                    }
                    attempt += 1;
                    self.line.connector().pause(attempt).await;
                }
            }
        }
        self.everybody().iter().for_each(|subscriber| subscriber.ended(&self.line.connector().reason()));
    }

    /// Makes the queue with all its bindings. It has a new name each time, because the broker may not have noticed yet
    /// that the connection is gone that had the old one to itself.
    async fn begin(&self, live: Arc<Live>) -> Result<(Channel, Consumer, Arc<Binder>), BrokerError> {
        let none = FieldTable::default();
        let queue = short(&names::random("stompgate.shared.")?, "the name of the queue")?;
        let begun = async {
            let channel = live.channel().await?;
            channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
            let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.clone(), options, none.clone()).await?;
            // Before it is bound: a queue without a reader would stay if we are not let read it, and collect.
            let options = BasicConsumeOptions::default();
            let consumer = channel.basic_consume(queue.clone(), ShortString::default(), options, none).await?;
            let binder = Arc::new(Binder::new(live, queue).await?);
            self.bind_all(&binder).await?;
            Ok((channel, consumer, binder))
        };
        begun.await.map_err(|error: lapin::Error| told(&error, "the queue of the topic subscriptions"))
    }

    /// Binds to all that is read. Whoever reads what the broker refuses now is told, and nobody else.
    async fn bind_all(&self, binder: &Arc<Binder>) -> Result<(), lapin::Error> {
        let bindings: Vec<_> = self.index().bindings.keys().cloned().collect();
        if bindings.iter().any(|binding| binding.users) {
            // It was there, and a broker that has lost everything is to have it again. What is wrong is said below.
            let _ = self.topology.ensure(&Place::UserExchange, &FieldTable::default()).await;
        }
        let addresses: Vec<_> = bindings.iter().map(|binding| self.exchange_of(binding)).collect();
        let asked = addresses.iter().zip(bindings.iter().map(|binding| &binding.key));
        let refused = binder.bind_all(asked).await?;
        self.note_bound(&bindings, binder);
        for (at, error) in refused {
            let refused = self.index().bindings.remove(&bindings[at]);
            let told = told(&error, "the topic");
            warn!(%error, key = %bindings[at].key, "a topic cannot be read any more");
            for (_, subscriber) in refused.into_iter().flat_map(|bound| bound.readers) {
                subscriber.ended(&told);
            }
        }
        Ok(())
    }

    /// Passes on what comes, until the channel breaks.
    async fn read(&self, channel: &Channel, binder: &Arc<Binder>, consumer: &mut Consumer) {
        let tick = (self.linger / 2).clamp(Duration::from_millis(50), ACKNOWLEDGED_WITHIN);
        let mut tick = tokio::time::interval(tick);
        let mut unacknowledged = Unacknowledged::new(self.prefetch);
        let acknowledge = |tag| begin(channel.basic_ack(tag, BasicAckOptions { multiple: true }));
        let mut look = tokio::time::interval_at(Instant::now() + self.look, self.look);
        let mut exchanges = self.topology.lost();
        loop {
            tokio::select! {
                biased;
                more = self.pass_on(consumer, &mut unacknowledged) => {
                    if !more {
                        return;
                    }
                    unacknowledged.take_many().map(acknowledge);
                    tokio::task::yield_now().await;
                }
                _ = tick.tick() => {
                    unacknowledged.take().map(acknowledge);
                    binder.mend().await;
                    self.unbind_idle(binder);
                }
                _ = look.tick() => self.look(),
                _ = exchanges.changed() => {
                    if self.bind_all(binder).await.is_err() {
                        return;
                    }
                    self.everybody().iter().for_each(|subscriber| subscriber.restored());
                }
                () = self.line.connector().closed() => return,
            }
        }
    }

    /// A broker does not say that an exchange was deleted, and its bindings with it.
    fn look(&self) {
        let places: HashSet<_> = self.index().bindings.keys().map(|binding| self.place(binding)).collect();
        let topology = Arc::clone(&self.topology);
        tokio::spawn(async move {
            for place in places {
                topology.look(&place).await;
            }
        });
    }

    /// Passes on what is there, when there is something; false when nothing comes any more.
    async fn pass_on(&self, consumer: &mut Consumer, unacknowledged: &mut Unacknowledged) -> bool {
        poll_fn(|context| {
            for passed in 0..BATCH {
                match Pin::new(&mut *consumer).poll_next(context) {
                    Poll::Ready(Some(Ok(delivery))) => {
                        unacknowledged.add(delivery.delivery_tag, delivery.data.len());
                        self.deliver(delivery);
                    }
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending if passed == 0 => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(true)
        })
        .await
    }

    fn deliver(&self, delivery: Delivery) {
        let users = delivery.exchange.as_str() == USER_EXCHANGE;
        let topic = names::topic(delivery.routing_key.as_str());
        let mut found = Vec::new();
        self.index().of(users).find(&topic, &mut found);
        if found.is_empty() {
            return; // the binding is wider than the pattern, or lingers
        }
        let destination = match topic.as_str().split_once('/') {
            Some((_, name)) if users => Destination::User { user: None, name: Pattern::canonical(name.to_owned()) },
            _ => Destination::Topic(topic),
        };
        let message = Arc::new(Message {
            destination,
            headers: properties::headers(&delivery.properties),
            body: delivery.data.into(),
            options: PublishOptions::default(),
        });
        for subscriber in found {
            subscriber.deliver(&message);
        }
    }

    fn unbind_idle(&self, binder: &Binder) {
        let mut index = self.index();
        let over = |bound: &Bound| bound.idle.is_some_and(|since| since.elapsed() >= self.linger);
        // Handed over to lapin under the lock: so whoever binds again comes after this on the channel.
        let unbind = |binding: &Binding| binder.unbind(self.exchange_of(binding), binding.key.clone());
        index.bindings.retain(|binding, bound| !over(bound) || !unbind(binding));
    }

    fn is_bound(&self, binding: &Binding, binder: &Arc<Binder>) -> bool {
        self.index().bindings.get(binding).is_some_and(|bound| std::ptr::eq(bound.by.as_ptr(), Arc::as_ptr(binder)))
    }

    fn note_bound<'a>(&self, bindings: impl IntoIterator<Item = &'a Binding>, binder: &Arc<Binder>) {
        let mut index = self.index();
        for binding in bindings {
            if let Some(bound) = index.bindings.get_mut(binding) {
                bound.by = Arc::downgrade(binder);
            }
        }
    }

    fn place(&self, binding: &Binding) -> Place {
        if binding.users { Place::UserExchange } else { Place::Exchange(self.exchange.as_str().into()) }
    }

    fn exchange_of(&self, binding: &Binding) -> ShortString {
        if binding.users { ShortString::try_new(USER_EXCHANGE).unwrap_or_default() } else { self.exchange.clone() }
    }

    /// The queue's binder, when it is open. `Err` when the broker is closed, or does not let us have the queue.
    async fn binder(&self) -> Result<Arc<Binder>, BrokerError> {
        let mut queue = self.queue.subscribe();
        let decided = async {
            let decided = queue.wait_for(|queue| !matches!(queue, Queue::Opening)).await;
            decided.map_or(Queue::Opening, |queue| queue.clone())
        };
        tokio::select! {
            biased;
            () = self.line.connector().closed() => Err(self.line.connector().reason()),
            queue = decided => match queue {
                Queue::Open(binder) => Ok(binder),
                Queue::Refused(why) => Err(why),
                Queue::Opening => Err(BrokerError::Unavailable),
            }
        }
    }

    fn everybody(&self) -> Vec<Arc<dyn Subscriber>> {
        let index = self.index();
        index.topics.all().chain(index.users.all()).cloned().collect()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn of(&mut self, users: bool) -> &mut TopicIndex<Arc<dyn Subscriber>> {
        if users { &mut self.users } else { &mut self.topics }
    }
}
