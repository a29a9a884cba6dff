//! Which local session wants which destination: one shared subscription at the broker for all of them, and fan-out.
//!
//! A message is rendered once per group of readers whose MESSAGE frames are the same to the byte (same subscription
//! id, version and separator), and pushed to the outbox of each. The hub never waits for a session: a full outbox is
//! a decision ([`outbox::Policy`]), not a wait.
//!
//! Locks, in this order, none held across an await: the map of sources; the readers of one source; one outbox.

pub mod outbox;
mod render;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use slab::Slab;
use tokio::sync::OnceCell;

use crate::broker::{BrokerError, Link, Shared, SharedSource, Subscriber};
use crate::message::{Destination, Message, Refusal, Separators, Text, Usage};
use crate::metrics::Metrics;
use crate::stomp::{MessageFrame, Reader};
use crate::traces::{Stage, Traces};

use outbox::{Compressed, Item, Outbox, Policy, Signal};
pub use render::{render, render_frame};
pub use settings::{OutboxPolicy, Settings, WhenFull};

/// All shared subscriptions of this node. A clone is another handle to the same hub.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    sources: Mutex<HashMap<Key, Registered>>,
    common: Arc<Common>,
}

/// A link, by its address, which its entries keep from being reused; and what is read there.
type Key = (usize, SharedSource);

/// An entry and how many readers it has, those included that are still joining.
struct Registered {
    entry: Arc<Entry>,
    readers: usize,
}

/// One source of one link, with its subscription at the broker.
struct Entry {
    key: Key,
    link: Arc<dyn Link>,
    fan_out: Arc<FanOut>,
    shared: OnceCell<Box<dyn Shared>>,
}

/// What every source's fan-out needs.
struct Common {
    policies: Vec<(Destination, Policy, Option<String>)>,
    message_ids: AtomicU64,
    metrics: Arc<Metrics>,
    traces: Traces,
}

/// The readers of one source. This is what the broker calls.
struct FanOut {
    common: Arc<Common>,
    readers: Mutex<Readers>,
}

#[derive(Default)]
struct Readers {
    groups: HashMap<Reader, Slab<Member>>,
    /// Where those stand that have not been given the retained messages yet.
    joining: HashMap<u64, (Reader, usize)>,
    next_joining: u64,
    /// The broker ended the subscription: whoever comes now needs another one.
    ended: bool,
}

struct Member {
    outbox: Arc<Outbox>,
    /// The retained messages come first; a live one that replaces them would come twice.
    joining: bool,
    /// The next message may follow missing ones.
    gap: bool,
    /// What has come and must wait, until [`Membership::release`].
    held: Option<Held>,
}

/// Messages that wait until something else has gone before them, within the bounds of an outbox.
#[derive(Default)]
struct Held {
    items: Vec<(Item, Policy)>,
    bytes: usize,
}

/// A reader's place in the hub; dropping it ends the subscription.
pub struct Membership {
    hub: Arc<Inner>,
    entry: Arc<Entry>,
    reader: Reader,
    place: usize,
    joining: u64,
}

impl Hub {
    /// A hub with these policies for full outboxes. Their destinations have been checked with the settings.
    pub fn new(settings: &Settings, separators: Separators, metrics: Arc<Metrics>, traces: Traces) -> Self {
        let policy = |policy: &OutboxPolicy| {
            let destination = Destination::parse(&policy.destination, Usage::Subscribe, separators).ok()?;
            Some((destination, Policy { when_full: policy.when_full, key: None }, policy.key.clone()))
        };
        let common = Common {
            policies: settings.policy.iter().filter_map(policy).collect(),
            message_ids: AtomicU64::new(0),
            metrics,
            traces,
        };
        Hub(Arc::new(Inner { sources: Mutex::default(), common: Arc::new(common) }))
    }

    /// Adds a reader of `source`; the first one opens the subscription at the broker.
    ///
    /// When this returns, nothing that is published from now on is missed, and retained messages are in the outbox.
    pub async fn subscribe(
        &self,
        link: &Arc<dyn Link>,
        source: SharedSource,
        reader: Reader,
        outbox: Arc<Outbox>,
    ) -> Result<Membership, BrokerError> {
        self.open(self.join(link, source, reader, outbox, None)).await
    }

    /// The same, but nothing goes to the outbox before [`Membership::release`].
    pub async fn subscribe_held(
        &self,
        link: &Arc<dyn Link>,
        source: SharedSource,
        reader: Reader,
        outbox: Arc<Outbox>,
    ) -> Result<Membership, BrokerError> {
        self.open(self.join(link, source, reader, outbox, Some(Held::default()))).await
    }

    async fn open(&self, membership: Membership) -> Result<Membership, BrokerError> {
        let entry = &membership.entry;
        let shared = entry
            .shared
            .get_or_try_init(|| entry.link.share(entry.key.1.clone(), Arc::clone(&entry.fan_out) as _))
            .await?;
        shared.replay(membership.joining).await?;
        Ok(membership)
    }

    /// How many sources are read at brokers.
    pub fn sources(&self) -> usize {
        lock(&self.0.sources).len()
    }

    fn join(
        &self,
        link: &Arc<dyn Link>,
        source: SharedSource,
        reader: Reader,
        outbox: Arc<Outbox>,
        held: Option<Held>,
    ) -> Membership {
        let key = (Arc::as_ptr(link).cast::<()>() as usize, source);
        let entry = {
            let mut sources = lock(&self.0.sources);
            let has_ended = |registered: &Registered| lock(&registered.entry.fan_out.readers).ended;
            if sources.get(&key).is_some_and(has_ended) {
                sources.remove(&key); // those who still hold it are on their way out
            }
            let registered = sources.entry(key.clone()).or_insert_with(|| {
                let fan_out = FanOut { common: Arc::clone(&self.0.common), readers: Mutex::default() };
                let (link, fan_out) = (Arc::clone(link), Arc::new(fan_out));
                Registered { entry: Arc::new(Entry { key, link, fan_out, shared: OnceCell::new() }), readers: 0 }
            });
            registered.readers += 1;
            Arc::clone(&registered.entry)
        };
        let mut readers = lock(&entry.fan_out.readers);
        let joining = readers.next_joining;
        readers.next_joining += 1;
        let group = readers.groups.entry(reader.clone()).or_insert_with(|| Slab::with_capacity(1)); // often the only one
        let place = group.insert(Member { outbox, joining: true, gap: false, held });
        readers.joining.insert(joining, (reader.clone(), place));
        drop(readers);
        Membership { hub: Arc::clone(&self.0), entry, reader, place, joining }
    }
}

impl Membership {
    /// Lets go what [`Hub::subscribe_held`] held back, in its order, and what comes from now on.
    pub fn release(&self) {
        let mut readers = lock(&self.entry.fan_out.readers);
        let group = readers.groups.get_mut(&self.reader);
        let Some(member) = group.and_then(|group| group.get_mut(self.place)) else { return };
        let now = now();
        for (item, policy) in member.held.take().unwrap_or_default().items {
            member.outbox.push(item, &policy, now);
        }
    }
}

impl Member {
    /// To the outbox, or to what is held back. Its bound is the outbox's: a handler that is slow while much comes makes
    /// its client a slow one.
    fn push(&mut self, item: Item, policy: &Policy, now: Instant) {
        match &mut self.held {
            None => self.outbox.push(item, policy, now),
            Some(held) if held.bytes + item.frame.len() > self.outbox.capacity() && held.bytes > 0 => {
                let budget = "what came before the answer of x-snapshot takes more than outbox.max_bytes";
                self.outbox.signal(Signal::End(Box::new(Refusal::slow_consumer(budget))));
            }
            Some(held) => {
                held.bytes += item.frame.len();
                held.items.push((item, policy.clone()));
            }
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        {
            let mut readers = lock(&self.entry.fan_out.readers);
            readers.joined(self.joining);
            if let Some(group) = readers.groups.get_mut(&self.reader) {
                group.try_remove(self.place);
                if group.is_empty() {
                    readers.groups.remove(&self.reader);
                }
            }
        }
        let mut sources = lock(&self.hub.sources);
        let registered = sources.get_mut(&self.entry.key);
        let Some(registered) = registered.filter(|registered| Arc::ptr_eq(&registered.entry, &self.entry)) else {
            return;
        };
        registered.readers -= 1;
        if registered.readers == 0 {
            let last = sources.remove(&self.entry.key);
            drop(sources); // the broker takes locks of its own when the subscription closes
            drop(last);
        }
    }
}

impl Subscriber for FanOut {
    fn deliver(&self, message: &Arc<Message>) {
        let now = now();
        let policy = self.common.policy(message);
        let message_id = self.common.message_id();
        let (mut trace, traced) = self.common.traces.deliver(message);
        let message = traced.as_ref().unwrap_or(message);
        let mut readers = lock(&self.readers);
        let (mut count, mut recorded) = (0, 0);
        for (reader, group) in &mut readers.groups {
            let policy = policy.of(reader);
            let (mut frame, mut compressed) = (None, None::<Compressed>);
            count += group.len();
            for (_, member) in group.iter_mut() {
                if member.joining && message.options.retain {
                    continue;
                }
                let mut item = if std::mem::take(&mut member.gap) {
                    self.common.render(reader, message, &message_id, true)
                } else {
                    let frame = frame.get_or_insert_with(|| self.common.render(reader, message, &message_id, false));
                    let compressed = member.outbox.is_compressed().then(|| compressed.get_or_insert_default().clone());
                    Item { compressed, ..frame.copy() }
                };
                if !trace.is_none() && recorded < self.common.traces.max_open() {
                    item.trace = trace.child(Stage::Write);
                    recorded += 1;
                }
                member.push(item, &policy, now);
            }
        }
        drop(readers);
        if !trace.is_none() {
            trace.note("stompgate.readers", &count.to_string());
        }
        self.common.metrics.delivered(&message.destination, count);
    }

    fn replay(&self, reader: u64, message: &Arc<Message>) {
        let policy = self.common.policy(message);
        let message_id = self.common.message_id();
        let mut readers = lock(&self.readers);
        let Some((reader, place)) = readers.joining.get(&reader).cloned() else { return };
        if let Some(member) = readers.groups.get_mut(&reader).and_then(|group| group.get_mut(place)) {
            member.push(self.common.render(&reader, message, &message_id, false), &policy.of(&reader), now());
        }
    }

    fn replayed(&self, reader: u64) {
        let mut readers = lock(&self.readers);
        let Some((reader, place)) = readers.joined(reader) else { return };
        if let Some(member) = readers.groups.get_mut(&reader).and_then(|group| group.get_mut(place)) {
            member.joining = false;
        }
    }

    fn restored(&self) {
        for member in lock(&self.readers).members() {
            member.gap = true;
        }
    }

    fn ended(&self, reason: &BrokerError) {
        let refusal = Refusal::from(reason.clone());
        let mut readers = lock(&self.readers);
        readers.ended = true;
        for member in readers.members() {
            member.outbox.signal(Signal::End(Box::new(refusal.clone())));
        }
    }
}

impl Readers {
    /// Where the one stands that is not joining any more.
    fn joined(&mut self, number: u64) -> Option<(Reader, usize)> {
        let joined = self.joining.remove(&number);
        if self.joining.is_empty() {
            self.joining = HashMap::new(); // there are many sources, and few that somebody joins
        }
        joined
    }

    fn members(&mut self) -> impl Iterator<Item = &mut Member> {
        self.groups.values_mut().flat_map(|group| group.iter_mut().map(|(_, member)| member))
    }
}

impl Common {
    fn message_id(&self) -> Text {
        // Session-made ids of dedicated subscriptions begin with a digit; these cannot be mistaken for them.
        Text::from(format!("T{}", self.message_ids.fetch_add(1, Ordering::Relaxed)))
    }

    fn render(&self, reader: &Reader, message: &Message, message_id: &str, gap: bool) -> Item {
        let destination = message.destination.spelled(reader.spelling);
        let frame = MessageFrame {
            subscription: reader.subscription.as_deref(),
            message_id,
            ack: None,
            destination: &destination,
            redelivered: false,
            gap,
            headers: &message.headers,
            body: &message.body,
        };
        let (item, left_out) = render(&frame, reader.version);
        self.metrics.headers_left_out(left_out);
        item
    }

    /// The policy of the first entry that matches, with the key that conflation goes by.
    fn policy(&self, message: &Message) -> Policy {
        let Some((_, policy, header)) = self.policies.iter().find(|(about, ..)| about.is_about(&message.destination))
        else {
            return Policy::default();
        };
        let value = header.as_ref().and_then(|header| message.headers.get(header));
        let key = header.as_ref().map(|_| conflation_key(&message.destination, value));
        Policy { key, ..policy.clone() }
    }
}

impl Policy {
    /// The policy for one reader: conflation never crosses subscriptions, even those of one session.
    fn of(&self, reader: &Reader) -> Policy {
        let subscription = reader.subscription.as_deref().unwrap_or_default();
        let key = self.key.as_ref().map(|key| Text::from(format!("{subscription}\n{key}")));
        Policy { when_full: self.when_full, key }
    }
}

/// What a message replaces has the same destination and the same value of the header; none is a value, too.
fn conflation_key(destination: &Destination, value: Option<&Text>) -> Text {
    Text::from(format!("{destination}\n{}", value.map_or("", |value| value)))
}

/// The clock of the edge; in tests it can be paused.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
