//! A session's subscriptions, and the deliveries that wait to be acknowledged.

use std::collections::VecDeque;

use super::in_flight::Kind;
use super::{Action, Connected, Deliver, Handler, Request, Settings, SubscriptionKey, flag, number, required};
use crate::message::{
    Capabilities, Delivery, DeliveryId, Destination, DurableName, Headers, Outcome, Refusal, Settlement, SharedSource,
    Source, Spelling, Subscribe, Text, Usage, detached,
};
use crate::stomp::{Frame, Reader, Version};

/// The three ack modes (STOMP 1.2, “SUBSCRIBE ack Header”).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckMode {
    Auto,
    /// Cumulative within the subscription.
    Client,
    ClientIndividual,
}

/// All subscriptions of a session, those that are cancelled but have deliveries to be settled among them.
///
/// In the order of their keys. A session has few; a search through a thousand costs less than a map's memory in each.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    next: u32,
    all: Vec<Subscription>,
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
    reply: Option<Reply>,
    durable: Option<DurableName>,
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
struct New {
    id: Option<Text>,
    destination: Text,
    spelling: Spelling,
    ack: AckMode,
    reply: Option<Reply>,
    durable: Option<DurableName>,
}

/// A private reply address.
#[derive(Debug)]
struct Reply {
    /// The name after `/temp-queue/`.
    name: Text,
    /// What others write after `/reply-queue/`, once it is known.
    address: Option<Text>,
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

impl Connected {
    pub(super) fn subscribe(&mut self, frame: &Frame, handler: &mut Handler<'_>) -> Result<(), Refusal> {
        let spelling = required(frame, "destination")?;
        let id = self.subscription_id(frame)?;
        if frame.headers.get("selector").is_some() {
            return Err(Refusal::unsupported(
                "selector",
                "no broker behind this gateway filters; subscribe to a narrower topic",
            ));
        }
        let destination = Destination::parse(spelling, Usage::Subscribe, handler.context.separators)?;
        let ack = ack_mode(frame)?;
        let receipt = frame.headers.get("receipt").cloned();
        if self.subscriptions.find(id.as_ref(), spelling).is_some() {
            return Err(Refusal::duplicate_subscription(id.as_ref().unwrap_or(spelling)));
        }
        check_arguments(frame, self.capabilities)?;
        let source = self.source(frame, &destination, id.as_ref(), ack)?;
        if let Destination::TemporaryQueue(name) = &destination
            && self.subscriptions.adopt_reply(name, id.as_ref())
        {
            handler.receipt(receipt, &Outcome::DONE);
            return Ok(());
        }
        let settings = handler.settings();
        let prefetch = prefetch(frame, settings)?;
        let spelling_used = Destination::spelling_of(spelling, handler.context.separators);
        let reply = match &destination {
            Destination::TemporaryQueue(name) => Some(Reply { name: name.clone(), address: None }),
            _ => None,
        };
        let durable = match &source {
            Wanted::Dedicated(Source::Durable(name, _)) => Some(name.clone()),
            _ => None,
        };
        let new = New { id: id.clone(), destination: spelling.clone(), spelling: spelling_used, ack, reply, durable };
        let key = self.subscriptions.add(new, settings)?;
        let request = match source {
            Wanted::Shared(source) => {
                let version = self.connect.version;
                Request::Shared(
                    source,
                    Reader { subscription: id.as_ref().map(detached), spelling: spelling_used, version },
                )
            }
            Wanted::Dedicated(source) => {
                Request::Dedicated(Subscribe { source, prefetch, arguments: arguments(frame) })
            }
        };
        let kind = match request {
            Request::Dedicated(Subscribe { source: Source::Reply, .. }) => Kind::ReplyAddress(key),
            _ => Kind::Subscribe,
        };
        let ticket = handler.open(kind, receipt);
        handler.actions.push(Action::Subscribe(ticket, key, request));
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, frame: &Frame, handler: &mut Handler<'_>) -> Result<(), Refusal> {
        let destination = frame.headers.get("destination").cloned().unwrap_or_default();
        let id = frame.headers.get("id").cloned();
        if id.is_none() && (self.connect.version > Version::V10 || destination.is_empty()) {
            return Err(Refusal::missing_header("UNSUBSCRIBE", "id"));
        }
        let durable = self.durable_name(frame, id.as_ref())?;
        let receipt = frame.headers.get("receipt").cloned();
        if let Some(key) = self.subscriptions.find(id.as_ref(), &destination) {
            if let Some(name) = &durable {
                self.subscriptions.check_durable(key, frame, name)?;
            }
            self.subscriptions.cancel(key);
            let ticket = handler.open(Kind::Unsubscribe(key), receipt);
            handler.actions.push(Action::Unsubscribe(ticket, key, durable.is_some()));
            return Ok(());
        }
        match durable {
            Some(name) => {
                let ticket = handler.open(Kind::Subscribe, receipt);
                handler.actions.push(Action::DeleteDurable(ticket, name));
                Ok(())
            }
            None => Err(Refusal::unknown_subscription(id.as_ref().unwrap_or(&destination))),
        }
    }

    pub(super) fn acknowledge(
        &mut self,
        frame: &Frame,
        settlement: Settlement,
        handler: &mut Handler<'_>,
    ) -> Result<(), Refusal> {
        let receipt = frame.headers.get("receipt").cloned();
        let transaction = frame.headers.get("transaction");
        if let Some(name) = transaction {
            self.transactions.check_open(frame.command.as_str(), name)?;
        }
        let claim = self.subscriptions.claim(frame, self.connect.version)?;
        match (transaction, claim) {
            (Some(name), claim) => {
                if let Claim::Deliveries(key, unsettled) = &claim {
                    self.subscriptions.hold(*key, unsettled.len());
                }
                self.transactions.stage_settlement(name, claim, settlement, handler.settings())?;
                handler.receipt(receipt, &Outcome::DONE);
            }
            (None, Claim::Void) => handler.receipt(receipt, &Outcome { settled: false, ..Outcome::DONE }),
            (None, Claim::Deliveries(key, unsettled)) => {
                let ticket = handler.open(Kind::Pipelined, receipt);
                let deliveries = unsettled.iter().map(|unsettled| unsettled.id).collect();
                handler.actions.push(Action::Settle(ticket, deliveries, settlement));
                handler.actions.extend(self.subscriptions.forget_if_settled(key));
            }
        }
        Ok(())
    }

    /// The header `id`: demanded from 1.1 on; in 1.0 the destination may take its place.
    fn subscription_id(&self, frame: &Frame) -> Result<Option<Text>, Refusal> {
        if self.connect.version == Version::V10 && frame.headers.get("id").is_none() {
            return Ok(None);
        }
        required(frame, "id").cloned().map(Some)
    }

    /// The identity of a durable subscription, if the frame speaks of one: RabbitMQ's spelling or Artemis's.
    fn durable_name(&self, frame: &Frame, id: Option<&Text>) -> Result<Option<DurableName>, Refusal> {
        let client = frame.headers.get("client-id").unwrap_or(&self.connect.client_id).clone();
        let user = self.principal.name.clone();
        if let Some(name) = frame.headers.get("durable-subscription-name") {
            return Ok(Some(DurableName { user, client, name: name.clone() }));
        }
        if flag(frame, "durable")? != Some(true) {
            return Ok(None);
        }
        let name = id.ok_or_else(|| Refusal::missing_header(frame.command.as_str(), "id"))?.clone();
        Ok(Some(DurableName { user, client, name }))
    }

    /// Whether the source is read once for all, or by this subscription alone (contract, §11).
    fn source(
        &self,
        frame: &Frame,
        destination: &Destination,
        id: Option<&Text>,
        ack: AckMode,
    ) -> Result<Wanted, Refusal> {
        let only_auto = |what: &str| match ack {
            AckMode::Auto => Ok(()),
            _ => Err(Refusal::unsupported(
                &format!("ack mode on {what}"),
                "these messages need no ACK; subscribe with ack:auto",
            )),
        };
        Ok(match destination {
            Destination::Topic(pattern) => match (self.durable_name(frame, id)?, ack) {
                (Some(name), _) => Wanted::Dedicated(Source::Durable(name, pattern.clone())),
                (None, AckMode::Auto) => Wanted::Shared(SharedSource::Topic(pattern.clone())),
                (None, _) => Wanted::Dedicated(Source::Topic(pattern.clone())),
            },
            Destination::User { name, .. } => {
                only_auto("/user/")?;
                if self.durable_name(frame, id)?.is_some() {
                    let why = "what is sent to a user is not kept; subscribe to a durable /topic/ or read a /queue/";
                    return Err(Refusal::unsupported("durable on /user/", why));
                }
                Wanted::Shared(SharedSource::User { user: self.principal.name.clone(), name: name.clone() })
            }
            Destination::Queue(name) => Wanted::Dedicated(Source::Queue(name.clone())),
            Destination::ExistingQueue(name) => Wanted::Dedicated(Source::ExistingQueue(name.clone())),
            Destination::Exchange { exchange, key } => {
                Wanted::Dedicated(Source::Exchange { exchange: exchange.clone(), key: key.clone() })
            }
            Destination::TemporaryQueue(_) => {
                only_auto("/temp-queue/")?;
                Wanted::Dedicated(Source::Reply)
            }
            // The parser refuses to subscribe to reply queues.
            Destination::ReplyQueue(_) | Destination::Application(_) => {
                return Err(Refusal::no_handler(&destination.to_string()));
            }
        })
    }
}

enum Wanted {
    Shared(SharedSource),
    Dedicated(Source),
}

fn ack_mode(frame: &Frame) -> Result<AckMode, Refusal> {
    match frame.headers.get("ack").map(|value| &**value) {
        None | Some("auto") => Ok(AckMode::Auto),
        Some("client") => Ok(AckMode::Client),
        Some("client-individual") => Ok(AckMode::ClientIndividual),
        Some(other) => Err(Refusal::invalid_header("ack", other, "auto, client or client-individual")),
    }
}

/// `prefetch-count`, held to `session.max_prefetch`; 0 asks for as many as there may be.
fn prefetch(frame: &Frame, settings: &Settings) -> Result<u16, Refusal> {
    let asked = number::<u16>(frame, "prefetch-count", "a whole number from 0 to 65535")?;
    Ok(match asked {
        None => settings.prefetch,
        Some(0) => settings.max_prefetch,
        Some(count) => count.min(settings.max_prefetch),
    })
}

/// The subscription and the place in its order that a message-id of ours names.
fn delivery_named(message_id: &str) -> Option<(SubscriptionKey, u64)> {
    if !message_id.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        return None;
    }
    let (key, sequence) = message_id.split_once('-')?;
    Some((SubscriptionKey(key.parse().ok()?), sequence.parse().ok()?))
}

/// Refuses queue and consumer arguments where the broker has none, rather than lose them.
fn check_arguments(frame: &Frame, capabilities: Capabilities) -> Result<(), Refusal> {
    match arguments(frame).iter().next() {
        Some((name, _)) if !capabilities.arguments => Err(Refusal::unsupported(name, super::send::NO_ARGUMENTS)),
        _ => Ok(()),
    }
}

fn arguments(frame: &Frame) -> Headers {
    frame
        .headers
        .iter()
        .filter(|(name, _)| super::send::is_queue_argument(name))
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect()
}

impl Subscriptions {
    fn add(&mut self, new: New, settings: &Settings) -> Result<SubscriptionKey, Refusal> {
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
            reply: new.reply,
            durable: new.durable,
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
        let new = New { id, destination, spelling: Spelling::Slash, ack: AckMode::Auto, reply, durable: None };
        self.add(new, settings)
    }

    /// Gives a reply address that a SEND opened the id of an explicit SUBSCRIBE. One that has such an id keeps it.
    fn adopt_reply(&mut self, name: &Text, id: Option<&Text>) -> bool {
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

    pub(super) fn set_reply_address(&mut self, key: SubscriptionKey, address: Text) {
        if let Some(Subscription { reply: Some(reply), .. }) = self.get_mut(key) {
            reply.address = Some(address);
        }
    }

    fn get_mut(&mut self, key: SubscriptionKey) -> Option<&mut Subscription> {
        let index = self.all.binary_search_by_key(&key, |subscription| subscription.key).ok()?;
        self.all.get_mut(index)
    }

    /// The open subscription of that id, or without an id of that destination.
    fn find(&self, id: Option<&Text>, destination: &Text) -> Option<SubscriptionKey> {
        let is_meant = |subscription: &&Subscription| match id {
            Some(id) => subscription.id.as_ref() == Some(id),
            None => subscription.id.is_none() && subscription.destination == *destination,
        };
        self.all.iter().filter(|subscription| !subscription.cancelled).find(is_meant).map(|found| found.key)
    }

    /// Refuses to delete a durable subscription through one that is not its own.
    fn check_durable(&mut self, key: SubscriptionKey, frame: &Frame, asked: &DurableName) -> Result<(), Refusal> {
        let own = self.get_mut(key).and_then(|subscription| subscription.durable.as_ref());
        let is_named = frame.headers.get("durable-subscription-name").is_some();
        match own {
            Some(own) if !is_named || own.name == asked.name => Ok(()),
            _ => Err(Refusal::unknown_subscription(&asked.name)),
        }
    }

    fn cancel(&mut self, key: SubscriptionKey) {
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
        let subscription = self.get_mut(key).filter(|subscription| !subscription.cancelled)?;
        Some(Action::Deliver(subscription.deliver(delivery, version)))
    }

    /// Makes everything void that was delivered and not settled.
    pub(super) fn interrupt(&mut self, key: SubscriptionKey) {
        if let Some(subscription) = self.get_mut(key) {
            subscription.void_before = subscription.next_sequence;
            subscription.unsettled.clear();
        }
    }

    /// Takes out what an ACK or NACK names.
    fn claim(&mut self, frame: &Frame, version: Version) -> Result<Claim, Refusal> {
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
        subscription.claim(sequence).ok_or_else(unknown)
    }

    /// Counts deliveries that a transaction has claimed.
    fn hold(&mut self, key: SubscriptionKey, count: usize) {
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
        let subscription = self.get_mut(key)?;
        subscription.claimed -= claimed.len();
        let void_before = subscription.void_before;
        subscription.unsettled.extend(claimed.into_iter().filter(|unsettled| unsettled.sequence >= void_before));
        subscription.unsettled.make_contiguous().sort_unstable_by_key(|unsettled| unsettled.sequence);
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
