//! A session's subscriptions, and the deliveries that wait to be acknowledged.

use std::collections::VecDeque;

use super::headers::required;
use super::{Action, Context, Deliver, Settings, SubscriptionKey};
use crate::access;
use crate::message::{
    Delivery, DeliveryId, Destination, DurableName, Principal, Refusal, Spelling, Text, Usage, detached,
};
use crate::stomp::{Frame, Version};

/// The three ack modes (STOMP 1.2, “SUBSCRIBE ack Header”).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckMode {
    Auto,
    /// Cumulative within the subscription.
    Client,
    ClientIndividual,
}

impl AckMode {
    const fn as_str(self) -> &'static str {
        match self {
            AckMode::Auto => "auto",
            AckMode::Client => "client",
            AckMode::ClientIndividual => "client-individual",
        }
    }
}

/// All subscriptions of a session, those that are cancelled but have deliveries to be settled among them.
///
/// In the order of their keys. A session has few; a search through a thousand costs less than a map's memory in each.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    next: u32,
    all: Vec<Subscription>,
    /// Deliveries of all of them that wait to be acknowledged.
    unsettled: usize,
}

#[derive(Debug)]
struct Subscription {
    key: SubscriptionKey,
    /// Absent only in STOMP 1.0, where the destination takes its place.
    id: Option<Text>,
    /// The destination as the client wrote it.
    destination: Text,
    spelling: Spelling,
    ack: AckMode,
    reply: Option<Box<Reply>>,
    durable: Option<Box<DurableName>>,
    /// The queue that it is read through, if the client named one; rare.
    queue: Option<Box<Text>>,
    cancelled: bool,
    /// The place of the next delivery in this subscription's order.
    next_sequence: u64,
    /// Deliveries before this place went with a link that was lost.
    void_before: u64,
    unsettled: VecDeque<Unsettled>,
    /// Deliveries that open transactions have claimed.
    claimed: usize,
}

/// What SUBSCRIBE says of a new subscription.
pub(super) struct New<'a> {
    pub(super) id: Option<Text>,
    pub(super) destination: Text,
    pub(super) spelling: Spelling,
    pub(super) ack: AckMode,
    pub(super) reply: Option<Reply>,
    pub(super) durable: Option<DurableName>,
    pub(super) queue: Option<&'a Text>,
}

/// A subscription as operators see it.
#[derive(Clone, Debug)]
pub struct Overview {
    /// Its place among all that the session ever had.
    pub number: u32,
    /// The header `id`.
    pub id: Option<Text>,
    /// The destination as the client wrote it.
    pub destination: Text,
    /// `auto`, `client` or `client-individual`.
    pub ack: &'static str,
    /// Whether it outlives the session.
    pub is_durable: bool,
    /// Deliveries that wait for ACK or NACK.
    pub unacknowledged: usize,
}

/// A private reply address.
#[derive(Debug)]
pub(super) struct Reply {
    /// The name after `/temp-queue/`.
    pub(super) name: Text,
    /// What others write after `/reply-queue/`, once it is known.
    pub(super) address: Option<Text>,
}

/// A delivery that waits to be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsettled {
    sequence: u64,
    id: DeliveryId,
}

/// What an ACK or NACK names.
#[derive(Debug)]
pub(super) enum Claim {
    /// These deliveries of that subscription, in their order.
    Deliveries(SubscriptionKey, Vec<Unsettled>),
    /// A delivery that went with its link.
    Void,
}

/// The subscription and the place in its order that a message-id of ours names.
fn delivery_named(message_id: &str) -> Option<(SubscriptionKey, u64)> {
    if !message_id.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        return None;
    }
    let (key, sequence) = message_id.split_once('-')?;
    Some((SubscriptionKey(key.parse().ok()?), sequence.parse().ok()?))
}

impl Subscriptions {
    pub(super) fn add(&mut self, new: New<'_>, settings: &Settings) -> Result<SubscriptionKey, Refusal> {
        if self.all.len() >= settings.max_subscriptions {
            let what = "Subscriptions of one session, those with deliveries still to be acknowledged among them";
            return Err(Refusal::limit_exceeded(what, settings.max_subscriptions, "session.max_subscriptions"));
        }
        let key = SubscriptionKey(self.next);
        self.next += 1;
        if self.all.is_empty() {
            self.all.reserve_exact(1); // most sessions have one, and four times its size is what they would get
        }
        // Copies: these stay for as long as the subscription, the read buffer that they came in need not.
        self.all.push(Subscription {
            key,
            id: new.id.as_ref().map(detached),
            destination: detached(&new.destination),
            spelling: new.spelling,
            ack: new.ack,
            reply: new.reply.map(Box::new),
            durable: new.durable.map(Box::new),
            queue: new.queue.map(|queue| Box::new(detached(queue))),
            cancelled: false,
            next_sequence: 0,
            void_before: 0,
            unsettled: VecDeque::new(),
            claimed: 0,
        });
        Ok(key)
    }

    /// A reply address that a SEND asked for.
    pub(super) fn add_reply(
        &mut self,
        id: Option<Text>,
        name: Text,
        settings: &Settings,
    ) -> Result<SubscriptionKey, Refusal> {
        let destination = Destination::TemporaryQueue(name.clone()).spelled(Spelling::Slash);
        let reply = Some(Reply { name, address: None });
        let new =
            New { id, destination, spelling: Spelling::Slash, ack: AckMode::Auto, reply, durable: None, queue: None };
        self.add(new, settings)
    }

    /// Gives a reply address that a SEND opened the id of an explicit SUBSCRIBE. One that has such an id keeps it.
    pub(super) fn adopt_reply(&mut self, name: &Text, id: Option<&Text>) -> bool {
        let implicit = Destination::TemporaryQueue(name.clone()).spelled(Spelling::Slash);
        let open = self.reply_mut(name).filter(|subscription| subscription.id.as_ref() == Some(&implicit));
        let Some(subscription) = open else { return false };
        subscription.id = id.cloned();
        true
    }

    fn reply_mut(&mut self, name: &Text) -> Option<&mut Subscription> {
        self.all.iter_mut().find(|subscription| {
            !subscription.cancelled && subscription.reply.as_ref().is_some_and(|r| r.name == *name)
        })
    }

    /// What others write after `/reply-queue/` to reach `/temp-queue/name`.
    pub(super) fn reply_address(&self, name: &Text) -> Option<&Text> {
        let open = self.all.iter().filter(|subscription| !subscription.cancelled);
        open.filter_map(|subscription| subscription.reply.as_ref())
            .find(|reply| reply.name == *name)
            .and_then(|reply| reply.address.as_ref())
    }

    /// The name after `/temp-queue/` of what it reads, if it reads a reply address.
    pub(super) fn temporary_queue(&self, key: SubscriptionKey) -> Option<Text> {
        let index = self.all.binary_search_by_key(&key, |subscription| subscription.key).ok()?;
        self.all[index].reply.as_ref().map(|reply| reply.name.clone())
    }

    pub(super) fn set_reply_address(&mut self, key: SubscriptionKey, address: Text) {
        if let Some(Subscription { reply: Some(reply), .. }) = self.get_mut(key) {
            reply.address = Some(address);
        }
    }

    fn get_mut(&mut self, key: SubscriptionKey) -> Option<&mut Subscription> {
        let index = self.all.binary_search_by_key(&key, |subscription| subscription.key).ok()?;
        self.all.get_mut(index)
    }

    /// Changes a subscription, and keeps count of what waits to be acknowledged.
    fn change<T>(&mut self, key: SubscriptionKey, change: impl FnOnce(&mut Subscription) -> T) -> Option<T> {
        let subscription = self.get_mut(key)?;
        let before = subscription.unsettled.len();
        let changed = change(subscription);
        let after = subscription.unsettled.len();
        self.unsettled = self.unsettled + after - before;
        Some(changed)
    }

    /// How many deliveries wait to be acknowledged; those that a transaction has claimed do not.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// The open subscription of that id, or without an id of that destination.
    pub(super) fn find(&self, id: Option<&Text>, destination: &Text) -> Option<SubscriptionKey> {
        let is_meant = |subscription: &&Subscription| match id {
            Some(id) => subscription.id.as_ref() == Some(id),
            None => subscription.id.is_none() && subscription.destination == *destination,
        };
        self.all.iter().filter(|subscription| !subscription.cancelled).find(is_meant).map(|found| found.key)
    }

    /// Every open subscription as operators see it.
    pub(super) fn overview(&self) -> Vec<Overview> {
        let open = self.all.iter().filter(|subscription| !subscription.cancelled);
        let overview = open.map(|subscription| Overview {
            number: subscription.key.0,
            id: subscription.id.clone(),
            destination: subscription.destination.clone(),
            ack: subscription.ack.as_str(),
            is_durable: subscription.durable.is_some(),
            unacknowledged: subscription.unsettled.len(),
        });
        overview.collect()
    }

    /// Every open subscription, with its destination as the client wrote it.
    pub(super) fn open(&self) -> impl Iterator<Item = (SubscriptionKey, &Text)> {
        let open = self.all.iter().filter(|subscription| !subscription.cancelled);
        open.map(|subscription| (subscription.key, &subscription.destination))
    }

    /// Refuses the first open subscription that the rules do not allow any more.
    pub(super) fn check_again(&self, context: &Context, principal: &Principal) -> Result<(), Refusal> {
        for subscription in self.all.iter().filter(|subscription| !subscription.cancelled) {
            let destination = Destination::parse(&subscription.destination, Usage::Subscribe, context.separators)?;
            context.allow(access::Action::Subscribe, &destination, principal)?;
            if let Some(queue) = &subscription.queue {
                context.rules.check_named_queue(queue, context.subject(principal))?;
            }
        }
        Ok(())
    }

    /// The open subscription that is this reply address.
    pub(super) fn with_reply_address(&self, address: &Text) -> Option<SubscriptionKey> {
        let open = self.all.iter().filter(|subscription| !subscription.cancelled);
        let is_it = |reply: &Reply| reply.address.as_ref() == Some(address);
        open.filter(|subscription| subscription.reply.as_deref().is_some_and(is_it)).map(|found| found.key).next()
    }

    /// Refuses to delete a durable subscription through one that is not its own.
    pub(super) fn check_durable(
        &mut self,
        key: SubscriptionKey,
        frame: &Frame,
        asked: &DurableName,
    ) -> Result<(), Refusal> {
        let own = self.get_mut(key).and_then(|subscription| subscription.durable.as_ref());
        let is_named = frame.headers.get("durable-subscription-name").is_some();
        match own {
            Some(own) if !is_named || own.name == asked.name => Ok(()),
            _ => Err(Refusal::unknown_subscription(&asked.name)),
        }
    }

    pub(super) fn cancel(&mut self, key: SubscriptionKey) {
        if let Some(subscription) = self.get_mut(key) {
            subscription.cancelled = true;
        }
    }

    /// Drops a cancelled subscription that has nothing more to settle.
    pub(super) fn forget_if_settled(&mut self, key: SubscriptionKey) -> Option<Action> {
        let index = self.all.binary_search_by_key(&key, |subscription| subscription.key).ok()?;
        let subscription = &self.all[index];
        if !subscription.cancelled || !subscription.unsettled.is_empty() || subscription.claimed > 0 {
            return None;
        }
        self.all.remove(index);
        Some(Action::Forget(key))
    }

    pub(super) fn deliver(&mut self, key: SubscriptionKey, delivery: Delivery, version: Version) -> Option<Action> {
        let deliver =
            self.change(key, |subscription| (!subscription.cancelled).then(|| subscription.deliver(delivery, version)));
        deliver.flatten().map(Action::Deliver)
    }

    /// Makes everything void that was delivered and not settled.
    pub(super) fn interrupt(&mut self, key: SubscriptionKey) {
        self.change(key, |subscription| {
            subscription.void_before = subscription.next_sequence;
            subscription.unsettled.clear();
        });
    }

    /// Makes everything void up to `last` that was delivered and not settled; `claimed` is what open transactions have
    /// of it.
    pub(super) fn take_back<'a>(
        &mut self,
        key: SubscriptionKey,
        last: DeliveryId,
        claimed: impl Iterator<Item = &'a Unsettled>,
    ) {
        self.change(key, |subscription| {
            let count = subscription.unsettled.partition_point(|unsettled| unsettled.id.tag <= last.tag);
            let claimed = claimed.filter(|unsettled| unsettled.id.tag <= last.tag).copied();
            let returned = subscription.unsettled.drain(..count).chain(claimed).map(|unsettled| unsettled.sequence);
            subscription.void_before = returned.fold(subscription.void_before, |void, sequence| void.max(sequence + 1));
        });
    }

    /// Takes out what an ACK or NACK names.
    pub(super) fn claim(&mut self, frame: &Frame, version: Version) -> Result<Claim, Refusal> {
        let header = if version == Version::V12 { "id" } else { "message-id" };
        let value = required(frame, header)?;
        let unknown = || Refusal::unknown_ack(header, value);
        let (key, sequence) = delivery_named(value).ok_or_else(unknown)?;
        let subscription = self.get_mut(key).ok_or_else(unknown)?;
        // 1.1 demands the header, 1.0 allows it; either way it must not contradict the message-id.
        let named = match version {
            Version::V10 => frame.headers.get("subscription"),
            Version::V11 => Some(required(frame, "subscription")?),
            Version::V12 => None,
        };
        if named.is_some() && named != subscription.id.as_ref() {
            return Err(unknown());
        }
        self.change(key, |subscription| subscription.claim(sequence)).flatten().ok_or_else(unknown)
    }

    /// Counts deliveries that a transaction has claimed.
    pub(super) fn hold(&mut self, key: SubscriptionKey, count: usize) {
        if let Some(subscription) = self.get_mut(key) {
            subscription.claimed += count;
        }
    }

    /// The transaction that claimed these is committed.
    pub(super) fn release(&mut self, key: SubscriptionKey, count: usize) -> Option<Action> {
        if let Some(subscription) = self.get_mut(key) {
            subscription.claimed -= count;
        }
        self.forget_if_settled(key)
    }

    /// The transaction that claimed these is aborted: they wait again.
    pub(super) fn give_back(&mut self, key: SubscriptionKey, claimed: Vec<Unsettled>) -> Option<Action> {
        self.change(key, |subscription| {
            subscription.claimed -= claimed.len();
            let void_before = subscription.void_before;
            subscription.unsettled.extend(claimed.into_iter().filter(|unsettled| unsettled.sequence >= void_before));
            subscription.unsettled.make_contiguous().sort_unstable_by_key(|unsettled| unsettled.sequence);
        })?;
        self.forget_if_settled(key)
    }

    /// Whether all of these can still be settled.
    pub(super) fn are_valid(&self, key: SubscriptionKey, claimed: &[Unsettled]) -> bool {
        let subscription = self.all.iter().find(|subscription| subscription.key == key);
        subscription.is_some_and(|found| claimed.iter().all(|unsettled| unsettled.sequence >= found.void_before))
    }
}

impl Subscription {
    fn deliver(&mut self, delivery: Delivery, version: Version) -> Deliver {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let message_id = Text::from(format!("{}-{sequence}", self.key.0));
        let mut settle_when_written = None;
        let mut ack = None;
        match (self.ack, delivery.id) {
            (AckMode::Auto, id) => settle_when_written = id,
            (_, None) => {}
            (_, Some(id)) => {
                self.unsettled.push_back(Unsettled { sequence, id });
                ack = (version == Version::V12).then(|| message_id.clone());
            }
        }
        let destination = match &self.reply {
            Some(_) => self.destination.clone(), // the address behind it is nobody's business but the responder's
            None => delivery.message.destination.spelled(self.spelling),
        };
        Deliver { subscription: self.id.clone(), message_id, ack, destination, delivery, settle_when_written }
    }

    fn claim(&mut self, sequence: u64) -> Option<Claim> {
        if sequence < self.void_before {
            return Some(Claim::Void);
        }
        let index = self.unsettled.binary_search_by_key(&sequence, |unsettled| unsettled.sequence).ok()?;
        let claimed = match self.ack {
            AckMode::Client => self.unsettled.drain(..=index).collect(),
            _ => self.unsettled.remove(index).into_iter().collect(),
        };
        Some(Claim::Deliveries(self.key, claimed))
    }
}

impl From<Unsettled> for DeliveryId {
    fn from(unsettled: Unsettled) -> Self {
        unsettled.id
    }
}
