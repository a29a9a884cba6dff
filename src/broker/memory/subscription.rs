//! Subscriptions: what keeps a reader known to the exchange, and what makes it forgotten.

use std::fmt::Write;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;

use super::depth::Rules;
use super::durable::Durable;
use super::effects::Effects;
use super::exchange::Exchange;
use super::listeners::Listener;
use super::queue::{Admission, Queue};
use super::{lock, own};
use crate::broker::{BrokerError, Event, Shared, SharedSource, Source, Subscribe, Subscriber, Subscription};
use crate::message::{Destination, DurableName, Pattern, Segment, Text};

/// How many `#` one pattern may have.
const MAX_MANY: usize = 3;

/// Keeps a shared subscription open.
pub(super) struct SharedGuard {
    exchange: Arc<Exchange>,
    source: SharedSource,
    key: u64,
    subscriber: Arc<dyn Subscriber>,
}

/// A dedicated subscription: one reader of one queue.
pub(super) struct Reader {
    exchange: Arc<Exchange>,
    queue: Arc<Queue>,
    consumer: u64,
    origin: Origin,
    cancelled: bool,
}

/// Where a reader's queue comes from, and so what goes with the reader.
enum Origin {
    /// `/queue/…`, which goes when it is empty and unread.
    Queue(Text),
    /// Bound to a topic for this reader.
    Topic(SharedSource),
    /// Stays.
    Durable(DurableName),
    /// A reply address.
    Reply(Text),
}

impl SharedGuard {
    /// Lets `subscriber` listen.
    pub(super) fn open(
        exchange: &Arc<Exchange>,
        source: &SharedSource,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Self, BrokerError> {
        let source = match source {
            SharedSource::Topic(pattern) => SharedSource::Topic(owned(pattern, exchange)?),
            SharedSource::User { user, name } => {
                exchange.settings.check_user_levels(name)?;
                SharedSource::User { user: own(user), name: copied(name)? }
            }
            SharedSource::Exchange { .. } => return Err(unsupported("/exchange", super::USE_TOPIC)),
        };
        let _gate = exchange.enter()?;
        let key = exchange.next_key();
        exchange.listeners.insert(&source, key, Listener::Subscriber(Arc::clone(&subscriber)));
        Ok(SharedGuard { exchange: Arc::clone(exchange), source, key, subscriber })
    }
}

#[async_trait]
impl Shared for SharedGuard {
    async fn replay(&self, reader: u64) -> Result<(), BrokerError> {
        let retained = lock(&self.exchange.retained);
        if let SharedSource::Topic(pattern) = &self.source {
            for message in retained.matching(pattern) {
                self.subscriber.replay(reader, &message);
            }
        }
        // Still under the lock: a value that is retained a moment later must find the reader ready for it.
        self.subscriber.replayed(reader);
        Ok(())
    }
}

impl Drop for SharedGuard {
    fn drop(&mut self) {
        self.exchange.listeners.remove(&self.source, self.key);
    }
}

impl Reader {
    /// Opens a dedicated subscription.
    pub(super) fn open(exchange: &Arc<Exchange>, request: Subscribe) -> Result<Self, BrokerError> {
        if let Some((name, _)) = request.arguments.iter().next() {
            return Err(no_arguments(name));
        }
        let _gate = exchange.enter()?;
        let consumer = exchange.next_key();
        let (queue, origin) = match request.source {
            Source::Queue(name) => {
                let (queue, ()) = exchange.queues.with(&name, |queue| queue.join(consumer, request.prefetch))?;
                (queue, Origin::Queue(own(&name)))
            }
            Source::Topic(pattern) => open_topic(exchange, &pattern, consumer, request.prefetch)?,
            Source::Durable(name, pattern) => open_durable(exchange, &name, &pattern, consumer, request.prefetch)?,
            Source::Reply => open_reply(exchange, consumer)?,
            Source::Named { .. } => return Err(unsupported("x-queue-name", super::USE_QUEUE)),
            Source::ExistingQueue(_) => return Err(unsupported("/amq/queue", super::USE_QUEUE)),
            Source::Exchange { .. } => return Err(unsupported("/exchange", super::USE_TOPIC)),
        };
        exchange.register(consumer, &queue);
        Ok(Reader { exchange: Arc::clone(exchange), queue, consumer, origin, cancelled: false })
    }

    /// What ends at UNSUBSCRIBE; what was delivered can be settled until the end.
    fn stop(&mut self) {
        if std::mem::replace(&mut self.cancelled, true) {
            return;
        }
        let mut effects = Effects::default();
        match &self.origin {
            Origin::Queue(_) => {}
            Origin::Topic(source) => {
                self.exchange.listeners.remove(source, self.consumer);
                self.queue.discard();
            }
            Origin::Durable(name) => lock(&self.exchange.durables).release(name, self.consumer),
            Origin::Reply(token) => {
                self.exchange.close_reply(token);
                self.queue.discard();
            }
        }
        self.queue.dismiss(self.consumer, &mut effects);
        self.exchange.apply(effects);
    }
}

#[async_trait]
impl Subscription for Reader {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let mut effects = Effects::default();
        let event = self.queue.poll(self.consumer, context, &mut effects);
        self.exchange.apply(effects);
        event
    }

    async fn cancel(&mut self, delete: bool) -> Result<(), BrokerError> {
        self.stop();
        match &self.origin {
            Origin::Durable(name) if delete => delete_durable(&self.exchange, name),
            _ => Ok(()),
        }
    }

    fn reply_address(&self) -> Option<&Text> {
        match &self.origin {
            Origin::Reply(token) => Some(token),
            _ => None,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop();
        let mut effects = Effects::default();
        self.queue.leave(self.consumer, &mut effects);
        self.exchange.unregister(self.consumer);
        if let Origin::Queue(name) = &self.origin {
            self.exchange.queues.prune(name, &self.queue);
        }
        self.exchange.apply(effects);
    }
}

/// Deletes a durable subscription that nobody reads, and all that waits in it.
pub(super) fn delete_durable(exchange: &Exchange, name: &DurableName) -> Result<(), BrokerError> {
    let mut durables = lock(&exchange.durables);
    let durable = durables.remove(name)?;
    exchange.listeners.remove(&SharedSource::Topic(durable.pattern), durable.key);
    durable.queue.discard();
    Ok(())
}

fn open_topic(
    exchange: &Arc<Exchange>,
    pattern: &Pattern,
    consumer: u64,
    prefetch: u16,
) -> Result<(Arc<Queue>, Origin), BrokerError> {
    let pattern = owned(pattern, exchange)?;
    let queue = exchange.private_queue(topic_rules(exchange, &pattern));
    attach(&queue, consumer, prefetch)?;
    bind(exchange, &queue, &pattern, consumer);
    Ok((queue, Origin::Topic(SharedSource::Topic(pattern))))
}

fn open_durable(
    exchange: &Arc<Exchange>,
    name: &DurableName,
    pattern: &Pattern,
    consumer: u64,
    prefetch: u16,
) -> Result<(Arc<Queue>, Origin), BrokerError> {
    let pattern = owned(pattern, exchange)?;
    let name = DurableName { user: own(&name.user), client: own(&name.client), name: own(&name.name) };
    let mut durables = lock(&exchange.durables);
    if let Some(durable) = durables.unread(&name)? {
        attach(&durable.queue, consumer, prefetch)?;
        if durable.pattern != pattern {
            exchange.listeners.rebind(&durable.pattern, &pattern, durable.key);
            durable.pattern = pattern;
        }
        durable.reader = Some(consumer);
        return Ok((Arc::clone(&durable.queue), Origin::Durable(name)));
    }
    durables.check_room()?;
    let queue = exchange.private_queue(topic_rules(exchange, &pattern));
    attach(&queue, consumer, prefetch)?;
    let key = exchange.next_key();
    bind(exchange, &queue, &pattern, key);
    durables.insert(name.clone(), Durable { pattern, key, queue: Arc::clone(&queue), reader: Some(consumer) });
    Ok((queue, Origin::Durable(name)))
}

fn open_reply(exchange: &Arc<Exchange>, consumer: u64) -> Result<(Arc<Queue>, Origin), BrokerError> {
    let token = unguessable()?;
    let label = Destination::ReplyQueue(token.clone()).to_string();
    let queue = exchange.private_queue(Rules::reply(label.into(), &exchange.settings));
    attach(&queue, consumer, 1)?;
    exchange.open_reply(token.clone(), &queue);
    Ok((queue, Origin::Reply(token)))
}

/// Fills a new queue with what its topics retain, then lets it listen. `retained` is held over both, so that a message
/// which is retained meanwhile comes once: among the former, or live.
fn bind(exchange: &Exchange, queue: &Arc<Queue>, pattern: &Pattern, key: u64) {
    let retained = lock(&exchange.retained);
    let mut effects = Effects::default();
    for message in retained.matching(pattern) {
        // A queue of copies refuses nothing.
        let _ = queue.push(&message, Admission::Check, &mut effects);
    }
    exchange.listeners.insert(&SharedSource::Topic(pattern.clone()), key, Listener::Queue(Arc::clone(queue)));
    // Nobody waits yet, and copies that do not fit are not buried: there is nothing to apply.
    drop(effects);
}

fn attach(queue: &Queue, consumer: u64, prefetch: u16) -> Result<(), BrokerError> {
    queue.join(consumer, prefetch).map_err(|_| BrokerError::Unavailable)
}

fn topic_rules(exchange: &Exchange, pattern: &Pattern) -> Rules {
    Rules::topic(Destination::Topic(pattern.clone()).to_string().into(), &exchange.settings)
}

/// A copy in memory of its own, unless no name has so many levels: each costs the index a node, however short it is.
fn owned(pattern: &Pattern, exchange: &Exchange) -> Result<Pattern, BrokerError> {
    exchange.settings.check_levels(pattern)?;
    copied(pattern)
}

/// A copy in memory of its own, unless a lookup would have to carry along too many places in it: behind each `#` all.
fn copied(pattern: &Pattern) -> Result<Pattern, BrokerError> {
    if pattern.segments().filter(|segment| *segment == Segment::Many).count() > MAX_MANY {
        let what = format!("a pattern with more than {MAX_MANY} #");
        return Err(unsupported(&what, "subscribe to several patterns, each with fewer"));
    }
    Ok(Pattern::canonical(own(pattern.text())))
}

fn unguessable() -> Result<Text, BrokerError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| {
        tracing::error!(%error, "no random numbers for a reply address");
        BrokerError::Unavailable
    })?;
    Ok(random
        .iter()
        .fold(String::with_capacity(32), |mut token, byte| {
            let _ = write!(token, "{byte:02x}"); // writing to a String cannot fail
            token
        })
        .into())
}

/// Queues have the settings' limits, and no others.
pub(super) fn no_arguments(name: &str) -> BrokerError {
    unsupported(&format!("queue argument {name}"), "broker.memory.* sets limits for all queues")
}

fn unsupported(what: &str, why: &str) -> BrokerError {
    BrokerError::Unsupported { what: what.to_owned(), why: why.to_owned() }
}
