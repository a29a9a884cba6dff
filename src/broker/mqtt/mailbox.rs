//! What waits for one reader, what it has and has not settled, and which acknowledgements the broker is owed.
//!
//! MQTT wants its acknowledgements in the order in which the messages came, so one that is settled early waits for those
//! before it. When the connection breaks, the broker forgets what it sent to a session that was not to last. So what is
//! here then belongs to us: it stays, and can be settled as before. A session that lasts is gone on with instead: the
//! broker sends all again that it has no acknowledgement of, and what is here already is recognised.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::connection::Live;
use super::properties;
use super::wire::Arrival;
use crate::broker::{BrokerError, Event};
use crate::message::{Delivery, DeliveryId, Message, Settlement};

/// What waits for one reader.
pub(super) struct Mailbox(Mutex<State>);

struct State {
    waiting: VecDeque<Item>,
    unsettled: BTreeMap<u64, Item>,
    /// What the broker waits for, in the order in which it came.
    owed: VecDeque<Owed>,
    /// What is settled, and will come again in a session that lasts: its acknowledgement had to wait for others.
    early: Early,
    live: Option<Arc<Live>>,
    next_order: u64,
    next_tag: u64,
    prefetch: usize,
    /// Messages without an acknowledgement that may wait: nothing else bounds them.
    max_waiting: usize,
    is_open: bool,
    /// The next message may follow missing ones.
    gap: bool,
    news: VecDeque<Event>,
    waker: Option<Waker>,
}

/// A message that nobody has settled.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) message: Arc<Message>,
    pub(super) redelivered: bool,
    gap: bool,
    /// When it has waited for long enough.
    expires: Option<Instant>,
    /// Its place among those of its mailbox.
    order: u64,
    /// Its packet, if the broker waits for an acknowledgement.
    packet: Option<u16>,
}

struct Owed {
    packet: u16,
    is_settled: bool,
    message: Option<Arc<Message>>,
}

/// By packet: what is settled, and is not acknowledged.
type Early = HashMap<u16, Arc<Message>>;

/// What the next reader of a session that lasts has to know.
#[derive(Default)]
pub(super) struct Remains {
    early: Early,
    /// What the broker has forgotten, and nobody has settled.
    items: Vec<Item>,
}

impl Mailbox {
    /// An empty one, for a reader that may have `prefetch` messages unsettled.
    pub(super) fn new(prefetch: u16, max_waiting: usize) -> Self {
        Mailbox(Mutex::new(State {
            waiting: VecDeque::new(),
            unsettled: BTreeMap::new(),
            owed: VecDeque::new(),
            early: Early::new(),
            live: None,
            next_order: 1,
            next_tag: 1,
            prefetch: usize::from(prefetch.max(1)),
            max_waiting,
            is_open: true,
            gap: false,
            news: VecDeque::new(),
            waker: None,
        }))
    }

    /// The same, after another reader of the same session.
    pub(super) fn after(remains: Remains, prefetch: u16, max_waiting: usize) -> Self {
        let mailbox = Mailbox::new(prefetch, max_waiting);
        let mut state = mailbox.lock();
        state.early = remains.early;
        for item in remains.items {
            state.next_order = state.next_order.max(item.order + 1);
            state.put_back(item);
        }
        drop(state);
        mailbox
    }

    /// What its session leaves, when the reader is gone: all else the broker has.
    pub(super) fn remains(&self) -> Remains {
        self.abandon();
        let mut state = self.lock();
        state.set_early_aside();
        let items = std::mem::take(&mut state.waiting).into_iter().filter(|item| item.packet.is_none()).collect();
        Remains { early: std::mem::take(&mut state.early), items }
    }

    /// There is another connection.
    pub(super) fn begin(&self, live: &Arc<Live>) {
        self.lock().begin(live);
    }

    /// A message came on this connection.
    pub(super) fn arrived(&self, live: &Arc<Live>, arrival: &Arrival, message: Arc<Message>, redelivered: bool) {
        let mut state = self.lock();
        state.begin(live);
        let packet = (arrival.packet > 0).then_some(arrival.packet);
        if let Some(packet) = packet {
            if state.has(packet, arrival.dup, &message) {
                return;
            }
            state.owed.push_back(Owed { packet, is_settled: false, message: Some(Arc::clone(&message)) });
        }
        state.push(message, redelivered, packet);
        drop(state);
        self.wake();
    }

    /// A message came that the reader does not want.
    pub(super) fn skip(&self, live: &Arc<Live>, arrival: &Arrival) {
        if arrival.packet > 0 {
            let mut state = self.lock();
            state.begin(live);
            state.owed.push_back(Owed { packet: arrival.packet, is_settled: false, message: None });
            state.settle(arrival.packet);
        }
    }

    /// A message that nobody has to acknowledge.
    pub(super) fn push(&self, message: Arc<Message>) {
        self.lock().push(message, false, None);
        self.wake();
    }

    /// There is no connection any more that it could come by, but things may be missing.
    pub(super) fn restored(&self) {
        self.lock().gap = true;
        self.resumed();
    }

    /// It goes on as if nothing had been.
    pub(super) fn resumed(&self) {
        let mut state = self.lock();
        if !matches!(state.news.back(), Some(Event::Restored)) {
            state.news.push_back(Event::Restored);
        }
        drop(state);
        self.wake();
    }

    /// Nothing comes any more.
    pub(super) fn end(&self, reason: BrokerError) {
        self.lock().news.push_back(Event::Ended(reason));
        self.wake();
    }

    /// The next event for the reader.
    pub(super) fn poll(&self, context: &mut Context<'_>, consumer: u64) -> Poll<Event> {
        let mut state = self.lock();
        if state.is_open
            && let Some(news) = state.news.pop_front()
        {
            return Poll::Ready(news);
        }
        let is_full = state.unsettled.len() >= state.prefetch;
        if state.is_open
            && !is_full
            && let Some(item) = state.take_first()
        {
            return Poll::Ready(Event::Delivery(state.hand_out(item, consumer)));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Whether somebody reads it, or may.
    pub(super) fn is_read(&self) -> bool {
        self.lock().is_open
    }

    /// Another reader takes over, with a prefetch of its own.
    pub(super) fn open(&self, prefetch: u16) {
        let mut state = self.lock();
        state.is_open = true;
        state.prefetch = usize::from(prefetch.max(1));
    }

    /// Hands nothing out any more.
    pub(super) fn stop(&self) {
        self.lock().is_open = false;
    }

    /// The reader is gone: what it had waits again, in its old place.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.is_open = false;
        state.waker = None;
        state.news.clear();
        for (_, mut item) in std::mem::take(&mut state.unsettled) {
            item.redelivered = true;
            state.put_back(item);
        }
    }

    /// Takes out all that waits. The broker is done with it, and whoever asked has to be.
    pub(super) fn take(&self) -> VecDeque<Item> {
        let mut state = self.lock();
        let taken = std::mem::take(&mut state.waiting);
        for item in &taken {
            state.release(item);
        }
        taken
    }

    /// Acknowledges all that is here, and keeps it.
    pub(super) fn own(&self) {
        let mut state = self.lock();
        let State { waiting, unsettled, .. } = &mut *state;
        let items: Vec<_> = waiting.iter().chain(unsettled.values()).cloned().collect();
        waiting.iter_mut().chain(unsettled.values_mut()).for_each(|item| item.packet = None);
        for item in &items {
            state.release(item);
        }
    }

    /// Forgets what the broker has, and gives to somebody else.
    pub(super) fn forget_owed(&self) {
        let mut state = self.lock();
        state.waiting.retain(|item| item.packet.is_none());
        state.unsettled.retain(|_, item| item.packet.is_none());
        state.owed.clear();
    }

    /// Messages that another mailbox has let go of, in their order.
    pub(super) fn put(&self, items: impl IntoIterator<Item = Item>) {
        let mut state = self.lock();
        for mut item in items {
            item.packet = None;
            if item.redelivered {
                state.put_back(item);
            } else {
                item.order = state.next_order;
                state.next_order += 1;
                state.waiting.push_back(item);
            }
        }
        drop(state);
        self.wake();
    }

    /// How many more the reader can be given now: none while something waits for it already.
    pub(super) fn room(&self) -> usize {
        let state = self.lock();
        let takes_more = state.is_open && state.waiting.is_empty();
        if takes_more { state.prefetch.saturating_sub(state.unsettled.len()) } else { 0 }
    }

    /// Whether something waits until the reader settles what it has.
    pub(super) fn is_full(&self) -> bool {
        let state = self.lock();
        !state.waiting.is_empty() && state.unsettled.len() >= state.prefetch
    }

    /// Takes out the first half of what waits, and no more than this.
    pub(super) fn take_half(&self, most: usize) -> Vec<Item> {
        let mut state = self.lock();
        let count = state.waiting.len().div_ceil(2).min(most);
        let taken: Vec<_> = state.waiting.drain(..count).collect();
        for item in &taken {
            state.release(item);
        }
        taken
    }

    /// How much there is to do for the reader.
    pub(super) fn load(&self) -> usize {
        let state = self.lock();
        state.waiting.len() + state.unsettled.len()
    }

    /// Whether this can still be settled.
    pub(super) fn holds(&self, tag: u64) -> bool {
        self.lock().unsettled.contains_key(&tag)
    }

    /// Settles what can be settled. Returns whether that was all, and what is to be delivered again or buried: nothing of
    /// that is acknowledged.
    pub(super) fn settle(&self, deliveries: &[DeliveryId], settlement: Settlement) -> (bool, Vec<Item>) {
        let mut state = self.lock();
        let mut all = true;
        let mut again = Vec::new();
        for delivery in deliveries {
            let Some(mut item) = state.unsettled.remove(&delivery.tag) else {
                all = false;
                continue;
            };
            if settlement == Settlement::Accept {
                state.release(&item);
            } else {
                item.redelivered = true;
                again.push(item);
            }
        }
        drop(state);
        self.wake(); // there is room for more
        (all, again)
    }

    /// Puts back what [`Mailbox::settle`] returned.
    pub(super) fn put_back(&self, items: Vec<Item>) {
        let mut state = self.lock();
        for item in items {
            state.put_back(item);
        }
        drop(state);
        self.wake();
    }

    /// Gives away what [`Mailbox::settle`] returned: the broker is done with it.
    pub(super) fn give_away(&self, items: &[Item]) {
        let mut state = self.lock();
        for item in items {
            state.release(item);
        }
    }

    /// Lets the reader ask again.
    pub(super) fn wake(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remains {
    /// Adds what came later.
    pub(super) fn merge(&mut self, later: Remains) {
        self.early.extend(later.early);
        self.items.extend(later.items);
    }
}

impl Item {
    /// The message as it may still wait; `None` if it has waited for long enough.
    pub(super) fn into_waiting(self) -> Option<Message> {
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
    /// What was owed on another connection is owed no more, or will come again.
    fn begin(&mut self, live: &Arc<Live>) {
        if self.live.as_ref().is_some_and(|known| known.generation == live.generation) {
            return;
        }
        if live.granted.resumed {
            self.set_early_aside();
        } else {
            self.disown();
        }
        self.live = Some(Arc::clone(live));
    }

    /// Nothing is owed before it comes again. What is settled is not wanted then.
    fn set_early_aside(&mut self) {
        let settled = self.owed.drain(..).filter(|owed| owed.is_settled);
        self.early.extend(settled.filter_map(|owed| Some((owed.packet, owed.message?))));
    }

    /// Whether this is a message that is here, or was: the broker sends it again. A packet alone says little: brokers that
    /// were killed give numbers away twice.
    fn has(&mut self, packet: u16, dup: bool, message: &Arc<Message>) -> bool {
        let is_same = |known: &Message| dup && known.body == message.body && known.destination == message.destination;
        if self.early.remove(&packet).is_some_and(|known| is_same(&known)) {
            self.owed.push_back(Owed { packet, is_settled: false, message: None });
            self.settle(packet);
            return true;
        }
        let mut items = self.waiting.iter_mut().chain(self.unsettled.values_mut());
        let Some(item) = items.find(|item| item.packet == Some(packet)) else { return false };
        if !is_same(&item.message) {
            item.packet = None;
            return false;
        }
        self.owed.push_back(Owed { packet, is_settled: false, message: Some(Arc::clone(&item.message)) });
        true
    }

    fn push(&mut self, message: Arc<Message>, redelivered: bool, packet: Option<u16>) {
        if packet.is_none() && self.waiting.len() >= self.max_waiting {
            self.gap = true;
            return;
        }
        let expires = properties::time_left(&message).and_then(|left| Instant::now().checked_add(left));
        let gap = std::mem::take(&mut self.gap);
        let item = Item { message, redelivered, gap, expires, order: self.next_order, packet };
        self.next_order += 1;
        self.waiting.push_back(item);
    }

    /// What was delivered before stands before the rest, in its own order.
    fn put_back(&mut self, item: Item) {
        let at = self.waiting.iter().take_while(|other| other.redelivered && other.order < item.order).count();
        self.waiting.insert(at, item);
    }

    /// The first that has not waited too long. The broker need not keep those before it.
    fn take_first(&mut self) -> Option<Item> {
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

    fn hand_out(&mut self, item: Item, consumer: u64) -> Delivery {
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
    fn release(&mut self, item: &Item) {
        let Some(packet) = item.packet else { return };
        if self.owed.iter().any(|owed| owed.packet == packet && !owed.is_settled) {
            self.settle(packet);
        } else {
            // It has not come again yet, in a session that is gone on with.
            self.early.insert(packet, Arc::clone(&item.message));
        }
    }

    /// Acknowledges a packet, when all before it are.
    fn settle(&mut self, packet: u16) {
        if let Some(owed) = self.owed.iter_mut().find(|owed| owed.packet == packet && !owed.is_settled) {
            owed.is_settled = true;
        }
        // On a connection that is gone, nothing is acknowledged: it comes again, or is forgotten.
        let Some(live) = self.live.as_ref().filter(|live| live.client.is_alive()) else { return };
        while let Some(owed) = self.owed.pop_front_if(|owed| owed.is_settled) {
            live.client.acknowledge(owed.packet);
        }
    }

    fn disown(&mut self) {
        self.owed.clear();
        self.early.clear();
        for item in self.waiting.iter_mut().chain(self.unsettled.values_mut()) {
            item.packet = None;
        }
    }
}

#[cfg(test)]
mod tests;
