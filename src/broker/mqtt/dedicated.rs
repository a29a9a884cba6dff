//! A dedicated subscription: a mailbox for one reader, filled by a connection of its own or, for replies, by the shared one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};

use async_trait::async_trait;

use super::connection::{Connector, Line, Live, Plan, Trial, Verdict};
use super::durable::{Durable, Durables};
use super::mailbox::{Item, Mailbox};
use super::names;
use super::properties::Reading;
use super::queues::{Member, Queues};
use super::shared::SharedTopics;
use super::upstream::{self, Upstream};
use super::wire::{Arrival, Filter};
use crate::broker::{BrokerError, Event, Shared, Subscriber, Subscription};
use crate::message::{DeliveryId, Message, Pattern, Settlement, Text};

/// The mailboxes of all dedicated subscriptions.
#[derive(Default)]
pub(super) struct Mailboxes(Mutex<HashMap<u64, Home>>);

/// A dedicated subscription.
pub(super) struct Dedicated {
    consumer: u64,
    home: Home,
    mailboxes: Arc<Mailboxes>,
    address: Option<Text>,
}

/// A message that was rejected; the broker has it until it is buried.
pub(super) struct Dead {
    home: Home,
    item: Item,
}

/// Where the messages of a subscription are.
#[derive(Clone)]
pub(super) enum Home {
    /// A member of a queue's shared subscription.
    Queue(Arc<Queues>, Arc<Member>),
    /// A topic with acknowledgements.
    Topic(Arc<Copies>),
    /// A topic's messages that outlive the reader.
    Durable(Arc<Durables>, Arc<Durable>),
    /// A reply address.
    Reply(Arc<Replies>),
}

/// A topic's messages for one reader.
pub(super) struct Copies {
    pattern: Pattern,
    filter: String,
    reading: Reading,
    line: Arc<Line>,
    mailbox: Mailbox,
    /// The connection on which the broker first granted it, and has sent the last values.
    first: OnceLock<u64>,
}

/// What is sent to one reply address.
pub(super) struct Replies {
    mailbox: Arc<Mailbox>,
    shared: Arc<SharedTopics>,
    guard: Mutex<Option<Box<dyn Shared>>>,
    filter: String,
}

/// Puts what comes to a reply address into its mailbox.
struct Letterbox(Arc<Mailbox>);

impl Mailboxes {
    /// Settles what can be settled; whether that was all, and what is to be buried.
    pub(super) fn settle(&self, deliveries: &[DeliveryId], settlement: Settlement) -> (bool, Vec<Dead>) {
        let (mut all, mut dead) = (true, Vec::new());
        for run in deliveries.chunk_by(|one, next| one.consumer == next.consumer) {
            let home = self.lock().get(&run[0].consumer).cloned();
            all &= home.is_some_and(|home| home.settle(run, settlement, &mut dead));
        }
        (all, dead)
    }

    /// Whether this can still be settled.
    pub(super) fn holds(&self, delivery: DeliveryId) -> bool {
        let home = self.lock().get(&delivery.consumer).cloned();
        home.is_some_and(|home| home.mailbox().holds(delivery.tag))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Home>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dedicated {
    /// Hands out what comes to this place.
    pub(super) fn new(consumer: u64, home: Home, mailboxes: &Arc<Mailboxes>) -> Self {
        let address = match &home {
            Home::Reply(replies) => Some(Text::from(replies.filter.as_str())),
            _ => None,
        };
        mailboxes.lock().insert(consumer, home.clone());
        Dedicated { consumer, home, mailboxes: Arc::clone(mailboxes), address }
    }
}

impl Dead {
    /// What is to be buried.
    pub(super) fn message(&self) -> &Message {
        &self.item.message
    }

    /// The broker need not keep it any more.
    pub(super) fn acknowledge(&self) {
        self.home.mailbox().give_away(std::slice::from_ref(&self.item));
    }
}

impl Home {
    fn mailbox(&self) -> &Mailbox {
        match self {
            Home::Queue(_, member) => &member.mailbox,
            Home::Topic(copies) => &copies.mailbox,
            Home::Durable(_, durable) => &durable.mailbox,
            Home::Reply(replies) => &replies.mailbox,
        }
    }

    fn settle(&self, deliveries: &[DeliveryId], settlement: Settlement, dead: &mut Vec<Dead>) -> bool {
        let (all, again) = self.mailbox().settle(deliveries, settlement);
        match self {
            _ if settlement == Settlement::Reject => {
                dead.extend(again.into_iter().map(|item| Dead { home: self.clone(), item }));
            }
            Home::Queue(queues, member) => queues.again(member, again),
            _ => self.mailbox().put_back(again),
        }
        all
    }
}

#[async_trait]
impl Subscription for Dedicated {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        match &self.home {
            Home::Queue(queues, member) => queues.poll(member, context, self.consumer),
            home => home.mailbox().poll(context, self.consumer),
        }
    }

    async fn cancel(&mut self, delete: bool) -> Result<(), BrokerError> {
        match &self.home {
            Home::Queue(queues, member) => queues.stop(member),
            Home::Topic(copies) => copies.stop().await,
            Home::Durable(durables, durable) => durables.stop(durable, delete).await?,
            Home::Reply(replies) => {
                replies.mailbox.stop();
                replies.shared.close_now(&replies.filter).await;
            }
        }
        Ok(())
    }

    fn reply_address(&self) -> Option<&Text> {
        self.address.as_ref()
    }
}

impl Drop for Dedicated {
    fn drop(&mut self) {
        self.mailboxes.lock().remove(&self.consumer);
        match &self.home {
            Home::Queue(queues, member) => queues.leave(member),
            Home::Topic(copies) => copies.line.end(),
            Home::Durable(durables, durable) => durables.leave(durable),
            Home::Reply(replies) => {
                let guard = replies.guard.lock().unwrap_or_else(PoisonError::into_inner).take();
                drop(guard);
                drop(replies.shared.forget(&replies.filter)); // nobody waits for the broker here
            }
        }
    }
}

impl Copies {
    /// Opens a topic for one reader; waits for the broker if need be.
    pub(super) async fn open(
        connector: &Arc<Connector>,
        reading: Reading,
        pattern: Pattern,
        prefetch: u16,
        max_waiting: usize,
    ) -> Result<Arc<Self>, BrokerError> {
        let filter = reading.names.filter(&pattern)?.filter;
        let copies = Arc::new_cyclic(|weak: &Weak<Copies>| {
            let weak = weak.clone();
            let sink = move |live: &Arc<Live>, arrival: Arrival| {
                if let Some(copies) = weak.upgrade() {
                    copies.arrived(live, &arrival);
                }
            };
            Copies {
                pattern,
                filter,
                reading,
                line: Line::start(connector, Plan::dedicated("topic", prefetch), sink),
                mailbox: Mailbox::new(prefetch, max_waiting),
                first: OnceLock::new(),
            }
        });
        let trial = Trial::of(&copies.line);
        let live = upstream::open(&*copies).await?;
        trial.keep();
        let tended = Arc::clone(&copies);
        tokio::spawn(async move { tended.mailbox.end(upstream::tend(&*tended, live).await) });
        Ok(copies)
    }

    /// On the task that drives the connection.
    fn arrived(&self, live: &Arc<Live>, arrival: &Arrival) {
        let wanted = names::read(&arrival.topic).filter(|(name, _)| self.pattern.matches(name));
        // Under 3.1.1 the last values come again with each connection; the reader has had them.
        let is_old = arrival.retain && self.first.get().is_some_and(|first| live.generation > *first);
        match wanted {
            Some((_, destination)) if !is_old => {
                let message = self.reading.message(destination, arrival);
                self.mailbox.arrived(live, arrival, Arc::new(message), arrival.dup);
            }
            // The filter is wider than the pattern. Others may be owed an acknowledgement before this one.
            _ => self.mailbox.skip(live, arrival),
        }
    }

    /// Comes back when nobody is there for the topic any more.
    async fn stop(&self) {
        self.mailbox.stop();
        if let Some(live) = self.line.now() {
            live.client.unsubscribe(self.filter.clone()).await;
        }
    }
}

impl Upstream for Copies {
    fn line(&self) -> &Arc<Line> {
        &self.line
    }

    fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    fn what(&self) -> String {
        format!("the topic {}", self.pattern)
    }

    fn filter(&self, live: &Live) -> Result<Filter, BrokerError> {
        upstream::check_wildcards(&live.granted, &self.filter, self.pattern.as_str())?;
        let retained = self.first.get().is_none();
        Ok(Filter { path: self.filter.clone(), qos: 1, retained, identifier: None })
    }

    fn granted(&self, live: &Live, _qos: u8) -> Result<(), BrokerError> {
        self.first.get_or_init(|| live.generation);
        Ok(())
    }

    fn begun(&self, _live: &Live) {
        self.mailbox.restored();
    }

    fn over(&self) -> BrokerError {
        match self.line.verdict() {
            Some(Verdict::Poisoned) => BrokerError::Poison(self.what()),
            _ => BrokerError::Unavailable,
        }
    }
}

impl Replies {
    /// A new address that nobody guesses.
    pub(super) async fn open(
        shared: &Arc<SharedTopics>,
        node: &str,
        prefetch: u16,
        max_waiting: usize,
    ) -> Result<Arc<Self>, BrokerError> {
        let topic = names::new_reply(node)?;
        let mailbox = Arc::new(Mailbox::new(prefetch, max_waiting));
        let guard = shared.listen(topic.clone(), Arc::new(Letterbox(Arc::clone(&mailbox)))).await?;
        let guard = Mutex::new(Some(guard));
        Ok(Arc::new(Replies { mailbox, shared: Arc::clone(shared), guard, filter: topic }))
    }
}

impl Subscriber for Letterbox {
    fn deliver(&self, message: &Arc<Message>) {
        self.0.push(Arc::clone(message));
    }

    fn replay(&self, _reader: u64, _message: &Arc<Message>) {}

    fn replayed(&self, _reader: u64) {}

    fn restored(&self) {
        self.0.restored();
    }

    fn ended(&self, reason: &BrokerError) {
        self.0.end(reason.clone());
    }
}
