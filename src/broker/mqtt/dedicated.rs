//! A dedicated subscription: a mailbox for one reader, filled by a connection of its own or, for replies, by the shared one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;

use super::copies::Copies;
use super::durable::{Durable, Durables};
use super::mailbox::{Item, Mailbox};
use super::queues::{Member, Queues};
use super::replies::Replies;
use crate::broker::{BrokerError, Event, Subscription};
use crate::message::{DeliveryId, Message, Settlement, Text};

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
            Home::Reply(replies) => Some(Text::from(replies.address())),
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
            Home::Reply(replies) => replies.stop().await,
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
            Home::Topic(copies) => copies.leave(),
            Home::Durable(durables, durable) => durables.leave(durable),
            Home::Reply(replies) => replies.leave(),
        }
    }
}
