//! The messages in a mailbox: those that wait, and those that the reader has.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use tokio::time::Instant;

use super::ledger::{Account, Debt};
use crate::broker::Event;
use crate::broker::mqtt::properties;
use crate::message::{Delivery, DeliveryId, Message};

/// What is here of it, and where.
pub(super) struct State {
    pub(super) waiting: VecDeque<Item>,
    pub(super) unsettled: BTreeMap<u64, Item>,
    pub(super) account: Arc<Account>,
    pub(super) next_order: u64,
    pub(super) next_tag: u64,
    pub(super) prefetch: usize,
    /// Messages without an acknowledgement that may wait: nothing else bounds them.
    pub(super) max_waiting: usize,
    pub(super) is_open: bool,
    /// What comes is for the next reader.
    pub(super) is_left: bool,
    /// The next message may follow missing ones.
    pub(super) gap: bool,
    pub(super) news: VecDeque<Event>,
    pub(super) waker: Option<Waker>,
}

/// A message that nobody has settled.
#[derive(Clone, Debug)]
pub(in crate::broker::mqtt) struct Item {
    pub(in crate::broker::mqtt) message: Arc<Message>,
    pub(in crate::broker::mqtt) redelivered: bool,
    pub(super) gap: bool,
    /// When it has waited for long enough.
    pub(super) expires: Option<Instant>,
    /// Its place among those of its mailbox.
    pub(super) order: u64,
    /// What the broker waits for, if it does.
    pub(super) debt: Option<Debt>,
}

impl Item {
    /// The message as it may still wait; `None` if it has waited for long enough.
    pub(in crate::broker::mqtt) fn into_waiting(self) -> Option<Message> {
        let left = self.expires.map(|expires| expires.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return None;
        }
        let mut message = Arc::unwrap_or_clone(self.message);
        if let Some(left) = left {
            message.options.expiration = Some(left);
            message.headers.set("expiration", left.as_millis().to_string());
        }
        Some(message)
    }

    fn is_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= Instant::now())
    }
}

impl State {
    /// Nothing is here.
    pub(super) fn new(account: Arc<Account>, prefetch: u16, max_waiting: usize) -> Self {
        State {
            waiting: VecDeque::new(),
            unsettled: BTreeMap::new(),
            account,
            next_order: 1,
            next_tag: 1,
            prefetch: usize::from(prefetch.max(1)),
            max_waiting,
            is_open: true,
            is_left: false,
            gap: false,
            news: VecDeque::new(),
            waker: None,
        }
    }

    /// Whether the broker keeps this until it is acknowledged.
    pub(super) fn broker_has(&self, item: &Item) -> bool {
        item.debt.is_some_and(|debt| self.account.has(debt))
    }

    pub(super) fn push(&mut self, message: Arc<Message>, redelivered: bool, debt: Option<Debt>) {
        if debt.is_none() && self.waiting.len() >= self.max_waiting {
            self.gap = true;
            return;
        }
        let expires = properties::time_left(&message).and_then(|left| Instant::now().checked_add(left));
        let gap = std::mem::take(&mut self.gap);
        let item = Item { message, redelivered, gap, expires, order: self.next_order, debt };
        self.next_order += 1;
        self.waiting.push_back(item);
    }

    /// What was delivered before stands before the rest, in its own order.
    pub(super) fn put_back(&mut self, item: Item) {
        let at = self.waiting.iter().take_while(|other| other.redelivered && other.order < item.order).count();
        self.waiting.insert(at, item);
    }

    /// The first that has not waited too long. The broker need not keep those before it.
    pub(super) fn take_first(&mut self) -> Option<Item> {
        let mut gap = false;
        while let Some(mut item) = self.waiting.pop_front() {
            item.gap |= gap;
            if !item.is_expired() {
                return Some(item);
            }
            gap = item.gap;
            self.release(&item);
        }
        self.gap |= gap;
        None
    }

    pub(super) fn hand_out(&mut self, item: Item, consumer: u64) -> Delivery {
        let tag = self.next_tag;
        self.next_tag += 1;
        let delivery = Delivery {
            message: Arc::clone(&item.message),
            id: Some(DeliveryId { consumer, tag }),
            redelivered: item.redelivered,
            gap: item.gap,
        };
        self.unsettled.insert(tag, item);
        delivery
    }

    /// The broker need not keep this any more.
    pub(super) fn release(&self, item: &Item) {
        if let Some(debt) = item.debt {
            self.account.release(debt);
        }
    }
}
