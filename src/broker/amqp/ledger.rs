//! What has been delivered and not settled: from our delivery ids to the broker's tags.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::time::Instant;

use crate::message::{DeliveryId, Settlement};

/// The ledgers of all dedicated subscriptions.
#[derive(Default)]
pub(super) struct Ledgers(Mutex<HashMap<u64, Arc<Ledger>>>);

/// What one subscription has not settled. Its channel changes when the connection does; our tags go on.
#[derive(Default)]
pub(super) struct Ledger(Mutex<State>);

#[derive(Default)]
struct State {
    channel: Option<Channel>,
    next: u64,
    unsettled: VecDeque<Unsettled>,
}

/// In order of delivery, and so of both tags.
#[derive(Clone, Copy)]
struct Unsettled {
    tag: u64,
    broker_tag: u64,
    /// Where it stands in its stream, if it comes from one.
    offset: Option<i64>,
    since: Instant,
}

impl Ledgers {
    /// Opens a ledger under this consumer's number.
    pub(super) fn open(&self, consumer: u64) -> Arc<Ledger> {
        let ledger = Arc::new(Ledger::default());
        self.lock().insert(consumer, Arc::clone(&ledger));
        ledger
    }

    /// The consumer is gone, and what it had not settled too.
    pub(super) fn close(&self, consumer: u64) {
        self.lock().remove(&consumer);
    }

    /// Settles what can be settled; whether that was all.
    pub(super) fn settle(&self, deliveries: &[DeliveryId], settlement: Settlement) -> bool {
        let mut all = true;
        for run in deliveries.chunk_by(|one, next| one.consumer == next.consumer) {
            all &= self.of(run[0]).is_some_and(|ledger| ledger.settle(run, settlement));
        }
        all
    }

    /// Whether this can still be settled.
    pub(super) fn holds(&self, delivery: DeliveryId) -> bool {
        self.of(delivery).is_some_and(|ledger| ledger.lock().holds(delivery))
    }

    fn of(&self, delivery: DeliveryId) -> Option<Arc<Ledger>> {
        self.lock().get(&delivery.consumer).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Ledger>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Deliveries come on this channel from now on.
    pub(super) fn begin(&self, channel: Channel) {
        self.lock().channel = Some(channel);
    }

    /// The channel is gone: what was delivered on it comes again. Returns where in its stream the first of it stands.
    pub(super) fn void(&self) -> Option<i64> {
        let mut state = self.lock();
        state.channel = None;
        let first = state.unsettled.front().and_then(|unsettled| unsettled.offset);
        state.unsettled.clear();
        first
    }

    /// Notes a delivery, and gives it our tag.
    pub(super) fn deliver(&self, broker_tag: u64, offset: Option<i64>) -> u64 {
        let mut state = self.lock();
        let tag = state.next;
        state.next += 1;
        state.unsettled.push_back(Unsettled { tag, broker_tag, offset, since: Instant::now() });
        tag
    }

    /// Whether what is not settled comes from a stream.
    pub(super) fn is_of_stream(&self) -> bool {
        self.lock().unsettled.front().is_some_and(|first| first.offset.is_some())
    }

    /// Since when the first of what is not settled has waited.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.lock().unsettled.front().map(|first| first.since)
    }

    /// Puts back what was delivered until then and is not settled: how many, and our tag of the last.
    pub(super) fn put_back(&self, until: Instant) -> Option<(usize, u64)> {
        let mut state = self.lock();
        let count = state.unsettled.partition_point(|unsettled| unsettled.since <= until);
        let last = state.unsettled.drain(..count).next_back()?;
        if let Some(channel) = &state.channel {
            send(channel, last.broker_tag, true, Settlement::Requeue);
        }
        Some((count, last.tag))
    }

    fn settle(&self, deliveries: &[DeliveryId], settlement: Settlement) -> bool {
        let mut state = self.lock();
        let Some(channel) = state.channel.clone() else { return false };
        let mut all = true;
        let mut rest = deliveries;
        // What stands at the front is settled with one frame for all.
        let front = state.unsettled.iter().zip(deliveries).take_while(|(known, asked)| known.tag == asked.tag).count();
        if front > 0 {
            let last = state.unsettled.drain(..front).next_back();
            all &= last.is_some_and(|last| send(&channel, last.broker_tag, front > 1, settlement));
            rest = &deliveries[front..];
        }
        for delivery in rest {
            let known = state.position(*delivery).and_then(|at| state.unsettled.remove(at));
            all &= known.is_some_and(|known| send(&channel, known.broker_tag, false, settlement));
        }
        all
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nobody may have told yet that the channel is gone: a subscription that is not read notices nothing.
    fn holds(&self, delivery: DeliveryId) -> bool {
        let is_open = self.channel.as_ref().is_some_and(|channel| channel.status().connected());
        is_open && self.position(delivery).is_some()
    }

    fn position(&self, delivery: DeliveryId) -> Option<usize> {
        self.unsettled.binary_search_by_key(&delivery.tag, |known| known.tag).ok()
    }
}

fn send(channel: &Channel, tag: u64, multiple: bool, settlement: Settlement) -> bool {
    let nack = |requeue| BasicNackOptions { multiple, requeue };
    match settlement {
        Settlement::Accept => begin(channel.basic_ack(tag, BasicAckOptions { multiple })),
        Settlement::Requeue => begin(channel.basic_nack(tag, nack(true))),
        Settlement::Reject => begin(channel.basic_nack(tag, nack(false))),
    }
}

/// Hands a frame over to lapin, which does that at the first poll, and does not wait for the socket: that costs ten
/// times as much. Whether it was taken.
pub(super) fn begin<T>(sending: impl Future<Output = Result<T, lapin::Error>>) -> bool {
    !matches!(pin!(sending).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
}
