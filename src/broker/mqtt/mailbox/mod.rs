//! What waits for one reader, and what it has and has not settled.
//!
//! MQTT wants its acknowledgements in the order in which the messages came, so one that is settled early waits for those
//! before it (`ledger.rs`). When the connection breaks, the broker forgets what it sent to a session that was not to last.
//! So what is here then belongs to us: it stays, and can be settled as before. A session that lasts is gone on with
//! instead: the broker sends all again that it has no acknowledgement of, and what is here already is recognised.

mod ledger;
mod state;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use self::ledger::Account;
pub(super) use self::state::Item;
use self::state::State;
use super::connection::Live;
use super::wire::Arrival;
use crate::broker::{BrokerError, Event};
use crate::message::{DeliveryId, Message, Settlement};

/// What waits for one reader.
pub(super) struct Mailbox(Mutex<State>);

/// What the next reader of a session that lasts has to know.
pub(super) struct Remains {
    account: Arc<Account>,
    /// What the broker has forgotten, and nobody has settled.
    items: Vec<Item>,
}

impl Mailbox {
    /// An empty one, for a reader that may have `prefetch` messages unsettled.
    pub(super) fn new(prefetch: u16, max_waiting: usize) -> Self {
        Mailbox::of(Arc::new(Account::new(false)), prefetch, max_waiting)
    }

    fn of(account: Arc<Account>, prefetch: u16, max_waiting: usize) -> Self {
        Mailbox(Mutex::new(State::new(account, prefetch, max_waiting)))
    }

    /// The same for a session that lasts, after another reader of it.
    pub(super) fn after(remains: Remains, prefetch: u16, max_waiting: usize) -> Self {
        remains.account.remember(usize::from(prefetch));
        let mailbox = Mailbox::of(remains.account, prefetch, max_waiting);
        let mut state = mailbox.lock();
        for item in remains.items {
            state.next_order = state.next_order.max(item.order + 1);
            state.put_back(item);
        }
        drop(state);
        mailbox
    }

    /// What its session leaves, when the reader is gone: all else the broker has. `None` if that was asked before.
    pub(super) fn remains(&self) -> Option<Remains> {
        self.abandon();
        let mut state = self.lock();
        if std::mem::replace(&mut state.is_left, true) {
            return None;
        }
        let waiting = std::mem::take(&mut state.waiting);
        let (kept, items): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|item| state.broker_has(item));
        let kept: Vec<_> = kept.iter().filter_map(|item| item.debt).collect();
        state.account.leave(&kept);
        Some(Remains { account: Arc::clone(&state.account), items })
    }

    /// There is another connection.
    pub(super) fn begin(&self, live: &Arc<Live>) {
        let state = self.lock();
        if !state.is_left {
            state.account.begin(live);
        }
    }

    /// A message came on this connection.
    pub(super) fn arrived(&self, live: &Arc<Live>, arrival: &Arrival, message: Arc<Message>, redelivered: bool) {
        let mut state = self.lock();
        if state.is_left {
            return;
        }
        let debt = match arrival.packet {
            0 => None,
            _ => match state.account.arrived(live, arrival, &message) {
                None => return,
                debt => debt,
            },
        };
        state.push(message, redelivered, debt);
        drop(state);
        self.wake();
    }

    /// A message came that the reader does not want.
    pub(super) fn skip(&self, live: &Arc<Live>, arrival: &Arrival) {
        let state = self.lock();
        if arrival.packet > 0 && !state.is_left {
            state.account.skip(live, arrival.packet);
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
        let State { waiting, unsettled, account, .. } = &mut *state;
        let items = waiting.iter_mut().chain(unsettled.values_mut());
        items.filter_map(|item| item.debt.take()).for_each(|debt| account.release(debt));
    }

    /// Forgets what the broker has, and gives to somebody else.
    pub(super) fn forget_owed(&self) {
        let mut state = self.lock();
        let State { waiting, unsettled, account, .. } = &mut *state;
        let is_ours = |item: &Item| !item.debt.is_some_and(|debt| account.has(debt));
        waiting.retain(is_ours);
        unsettled.retain(|_, item| is_ours(item));
        account.close();
    }

    /// Messages that another mailbox has let go of, in their order.
    pub(super) fn put(&self, items: impl IntoIterator<Item = Item>) {
        let mut state = self.lock();
        for mut item in items {
            item.debt = None;
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
        let state = self.lock();
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

impl Default for Remains {
    /// Nobody has read it here.
    fn default() -> Self {
        Remains { account: Arc::new(Account::new(true)), items: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
