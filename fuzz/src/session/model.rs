//! What any session may do, whatever happens to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::BytesMut;
use stompgate::message::{DeliveryId, Source, Text};
use stompgate::session::{Action, Deliver, Request, Session, Settings, SubscriptionKey, Ticket};
use stompgate::stomp::{Command, Decoder, Frame, Item, Limits, Version, encode};

use super::{Named, may_ask};

/// What has been asked of a session, and what it has done.
pub(super) struct Model {
    settings: Settings,
    tickets: Vec<(Ticket, Awaited)>,
    last_ticket: Option<Ticket>,
    /// Receipts that a RECEIPT or the ERROR may still name.
    asked: HashMap<Text, usize>,
    /// Receipts that must come, unless the session ends before.
    owed: usize,
    subscriptions: BTreeMap<SubscriptionKey, Subscription>,
    has_connected: bool,
    has_failed: bool,
    has_closed: bool,
    has_willed: bool,
}

/// What an open ticket waits for.
#[derive(Clone, Copy)]
pub(super) enum Awaited {
    Name,
    Address,
    Handler,
    Confirmation,
    Broker,
}

struct Subscription {
    is_dedicated: bool,
    is_cancelled: bool,
    next_tag: u64,
    /// Delivered, to be settled by the client, and neither settled nor void.
    unsettled: BTreeSet<DeliveryId>,
}

impl Model {
    pub(super) fn new(settings: Settings) -> Self {
        Model {
            settings,
            tickets: Vec::new(),
            last_ticket: None,
            asked: HashMap::new(),
            owed: 0,
            subscriptions: BTreeMap::new(),
            has_connected: false,
            has_failed: false,
            has_closed: false,
            has_willed: false,
        }
    }

    /// A frame is about to be handed to the session.
    pub(super) fn asks(&mut self, frame: &Frame) {
        if let Some(receipt) = frame.headers.get("receipt") {
            *self.asked.entry(receipt.clone()).or_default() += 1;
            self.owed += usize::from(may_ask(frame.command));
        }
    }

    pub(super) fn has_tickets(&self) -> bool {
        !self.tickets.is_empty()
    }

    pub(super) fn take_ticket(&mut self, number: usize) -> Option<(Ticket, Awaited)> {
        let number = number.checked_rem(self.tickets.len())?;
        Some(self.tickets.remove(number))
    }

    /// The subscription of that number, if it is one that the broker delivers to.
    fn dedicated(&mut self, number: usize) -> Option<(SubscriptionKey, &mut Subscription)> {
        let number = number.checked_rem(self.subscriptions.len())?;
        let (key, subscription) = self.subscriptions.iter_mut().nth(number)?;
        subscription.is_dedicated.then_some((*key, subscription))
    }

    /// What the broker delivers next.
    pub(super) fn next_delivery(&mut self, number: usize) -> Option<Named> {
        let (key, subscription) = self.dedicated(number)?;
        subscription.next_tag += 1;
        Some((key, DeliveryId { consumer: u64::from(key.0), tag: subscription.next_tag }))
    }

    /// What became of a delivery that the session was given.
    pub(super) fn delivered(&mut self, key: SubscriptionKey, id: DeliveryId, actions: &[Action]) {
        let subscription = self.subscriptions.get_mut(&key).expect("it was asked for");
        match actions {
            [] => {} // ended, or cancelled
            [Action::Deliver(Deliver { settle_when_written, delivery, .. })] => {
                assert!(!subscription.is_cancelled, "nothing comes after UNSUBSCRIBE");
                assert_eq!(delivery.id, Some(id));
                match settle_when_written {
                    Some(settled) => assert_eq!(*settled, id),
                    None => assert!(subscription.unsettled.insert(id)),
                }
            }
            other => panic!("{other:?} for a delivery"),
        }
    }

    /// The link of a subscription is lost.
    pub(super) fn interrupt(&mut self, number: usize) -> Option<SubscriptionKey> {
        let (key, subscription) = self.dedicated(number)?;
        subscription.unsettled.clear();
        Some(key)
    }

    /// The oldest delivery of a subscription goes back.
    pub(super) fn take_back(&mut self, number: usize) -> Option<Named> {
        let (key, subscription) = self.dedicated(number)?;
        subscription.unsettled.pop_first().map(|oldest| (key, oldest))
    }

    pub(super) fn check(&mut self, action: Action, version: Version) {
        assert!(!self.has_closed, "nothing follows the close: {action:?}");
        match action {
            Action::Send(frame) => self.check_frame(&frame, version),
            Action::Deliver(_) | Action::Heartbeat => {
                assert!(self.has_connected && !self.has_failed, "{action:?} is for who is connected");
            }
            Action::Close(..) => self.has_closed = true,
            Action::PublishWill(_) => assert!(!std::mem::replace(&mut self.has_willed, true), "one will"),
            Action::Authenticate(ticket, _) => self.open(ticket, Awaited::Name),
            Action::Publish(ticket, _) => self.open(ticket, Awaited::Confirmation),
            Action::DeleteDurable(ticket, _) => self.open(ticket, Awaited::Broker),
            Action::Subscribe(ticket, key, request) => self.subscribe(ticket, key, &request),
            Action::Unsubscribe(ticket, key, _) => {
                self.open(ticket, Awaited::Broker);
                let subscription = self.subscriptions.get_mut(&key).expect("a subscription that was opened");
                assert!(!std::mem::replace(&mut subscription.is_cancelled, true), "it ends once");
            }
            Action::Forget(key) => {
                let subscription = self.subscriptions.remove(&key).expect("a subscription that was opened");
                assert!(subscription.is_cancelled && subscription.unsettled.is_empty(), "it is still needed");
            }
            Action::Settle(ticket, deliveries, _) => {
                self.open(ticket, Awaited::Broker);
                self.settle(&deliveries);
            }
            Action::Commit(ticket, transaction) => {
                self.open(ticket, Awaited::Confirmation);
                for (deliveries, _) in &transaction.settlements {
                    self.settle(deliveries);
                }
            }
        }
    }

    fn check_frame(&mut self, frame: &Frame, version: Version) {
        check_written(frame, version);
        assert!(!self.has_failed, "nothing follows the ERROR: {frame:?}");
        match frame.command {
            Command::Connected => assert!(!std::mem::replace(&mut self.has_connected, true), "one CONNECTED"),
            Command::Receipt => {
                self.answer(frame.headers.get("receipt-id").expect("a receipt has a name"));
                self.owed = self.owed.checked_sub(1).expect("a receipt that is owed");
            }
            Command::Error => {
                self.has_failed = true;
                assert!(frame.headers.get("code").is_some() && frame.headers.get("message").is_some());
                if let Some(receipt) = frame.headers.get("receipt-id") {
                    self.answer(receipt);
                }
            }
            other => panic!("{other} is no frame of a session's own"),
        }
    }

    /// A receipt is answered, which may happen as often as it was asked for.
    fn answer(&mut self, receipt: &Text) {
        let times = self.asked.get_mut(receipt).filter(|times| **times > 0);
        *times.unwrap_or_else(|| panic!("nobody waits for the receipt {receipt:?}")) -= 1;
    }

    fn open(&mut self, ticket: Ticket, waits: Awaited) {
        assert!(self.last_ticket.is_none_or(|last| last < ticket), "tickets rise");
        self.last_ticket = Some(ticket);
        self.tickets.push((ticket, waits));
    }

    fn subscribe(&mut self, ticket: Ticket, key: SubscriptionKey, request: &Request) {
        let (is_dedicated, waits) = match request {
            Request::Dedicated(asked) if asked.source == Source::Reply => (true, Awaited::Address),
            Request::Dedicated(asked) => {
                assert!((1..=self.settings.max_prefetch).contains(&asked.prefetch));
                (true, Awaited::Broker)
            }
            Request::Shared(..) => (false, Awaited::Broker),
            Request::Application(_) => (false, Awaited::Handler),
            Request::Snapshot(request, _) => (matches!(**request, Request::Dedicated(_)), Awaited::Handler),
        };
        self.open(ticket, waits);
        let new = Subscription { is_dedicated, is_cancelled: false, next_tag: 0, unsettled: BTreeSet::new() };
        assert!(self.subscriptions.insert(key, new).is_none(), "{key:?} is taken");
    }

    fn settle(&mut self, deliveries: &[DeliveryId]) {
        assert!(!deliveries.is_empty());
        for id in deliveries {
            let key = SubscriptionKey(u32::try_from(id.consumer).expect("as it was given"));
            let subscription = self.subscriptions.get_mut(&key).expect("a subscription that is not forgotten");
            assert!(subscription.unsettled.remove(id), "{id:?} was settled, or has gone back");
        }
    }

    /// What holds between any two inputs.
    pub(super) fn check_state(&self, session: &Session) {
        assert!(!self.has_closed || session.is_ended(), "closed, and not ended");
        if session.is_ended() {
            return;
        }
        assert!(session.subscriptions().len() <= self.settings.max_subscriptions);
        assert!(self.tickets.len() <= self.settings.max_unconfirmed);
        let unsettled: usize = self.subscriptions.values().map(|subscription| subscription.unsettled.len()).sum();
        assert!(session.unsettled() <= unsettled, "{} wait, of {unsettled}", session.unsettled());
        if self.tickets.is_empty() {
            assert!(session.is_ready(), "nothing is under way");
        }
    }

    /// What holds when everything has been answered.
    pub(super) fn check_end(&self, session: &Session) {
        let is_in_order = session.is_connected() || (self.has_closed && !self.has_failed && self.has_connected);
        assert!(!is_in_order || self.owed == 0, "{} receipts never come", self.owed);
    }
}

/// A frame is read as it was written, whatever a client's headers are.
fn check_written(frame: &Frame, version: Version) {
    let mut out = BytesMut::new();
    encode(frame, version, &mut out);
    let most = 1 << 20;
    let mut decoder = Decoder::new(Limits { headers: most, header_bytes: most, body: most, frame: None });
    decoder.set_version(version);
    decoder.push(out.freeze());
    match decoder.next() {
        Ok(Some(Item::Frame(read))) if decoder.is_empty() => {
            assert_eq!((read.command, &read.body), (frame.command, &frame.body));
        }
        other => panic!("{frame:?} is read as {other:?}"),
    }
}
