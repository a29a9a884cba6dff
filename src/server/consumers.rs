//! The dedicated subscriptions of one client, polled only when they have something to say.
//!
//! Each has a waker of its own that puts its key into a list; a poll goes through that list, not through all
//! subscriptions. Whoever gave an event goes to the end of the list, so that no subscription starves another.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::broker::{Event, Subscription};
use crate::message::DeliveryId;
use crate::session::SubscriptionKey;

/// The dedicated subscriptions of one client.
#[derive(Default)]
pub(super) struct Consumers {
    open: HashMap<SubscriptionKey, Consumer>,
    cancelled: Vec<Cancelled>,
    ready: Arc<Ready>,
}

struct Consumer {
    subscription: Box<dyn Subscription>,
    waker: Waker,
    /// The broker's name for it in its deliveries, once there was one.
    deliveries: Option<u64>,
}

/// A subscription that delivers nothing any more, but whose deliveries can still be settled.
struct Cancelled {
    key: SubscriptionKey,
    /// Held for its drop, which gives back what was not settled.
    #[expect(dead_code, reason = "held for its Drop")]
    subscription: Box<dyn Subscription>,
    deliveries: Option<u64>,
    /// Nothing waits to be acknowledged; it can go when all that was delivered has been written.
    is_forgotten: bool,
}

#[derive(Default)]
struct Ready(Mutex<List>);

#[derive(Default)]
struct List {
    keys: VecDeque<SubscriptionKey>,
    task: Option<Waker>,
}

struct KeyWaker {
    key: SubscriptionKey,
    ready: Arc<Ready>,
}

impl Consumers {
    pub(super) fn add(&mut self, key: SubscriptionKey, subscription: Box<dyn Subscription>) {
        let waker = Waker::from(Arc::new(KeyWaker { key, ready: Arc::clone(&self.ready) }));
        self.open.insert(key, Consumer { subscription, waker, deliveries: None });
        self.ready.push(key);
    }

    /// Takes a subscription out, to be cancelled; and says how its deliveries are named.
    pub(super) fn take(&mut self, key: SubscriptionKey) -> Option<(Box<dyn Subscription>, Option<u64>)> {
        self.open.remove(&key).map(|consumer| (consumer.subscription, consumer.deliveries))
    }

    /// Keeps a cancelled subscription until all of it is settled.
    pub(super) fn keep_cancelled(
        &mut self,
        key: SubscriptionKey,
        subscription: Box<dyn Subscription>,
        deliveries: Option<u64>,
    ) {
        self.cancelled.push(Cancelled { key, subscription, deliveries, is_forgotten: false });
    }

    /// Nothing of a cancelled subscription waits to be acknowledged. It is dropped when none of its deliveries is
    /// among those that are `being_written`, and otherwise at the next [`Consumers::drop_forgotten`].
    pub(super) fn forget(&mut self, key: SubscriptionKey, being_written: &[DeliveryId]) {
        for cancelled in self.cancelled.iter_mut().filter(|cancelled| cancelled.key == key) {
            cancelled.is_forgotten = true;
        }
        self.drop_forgotten(being_written);
    }

    /// Drops what has been forgotten and has nothing more that is being written.
    pub(super) fn drop_forgotten(&mut self, being_written: &[DeliveryId]) {
        let is_writing = |name: Option<u64>| being_written.iter().any(|id| Some(id.consumer) == name);
        self.cancelled.retain(|cancelled| !cancelled.is_forgotten || is_writing(cancelled.deliveries));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether it delivers.
    pub(super) fn is_open(&self, key: SubscriptionKey) -> bool {
        self.open.contains_key(&key)
    }

    /// The subscription whose deliveries the broker names so.
    pub(super) fn key_of(&self, deliveries: u64) -> Option<SubscriptionKey> {
        let open = self.open.iter().map(|(key, consumer)| (*key, consumer.deliveries));
        let cancelled = self.cancelled.iter().map(|cancelled| (cancelled.key, cancelled.deliveries));
        open.chain(cancelled).find(|(_, named)| *named == Some(deliveries)).map(|(key, _)| key)
    }

    /// Subscriptions that deliver.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The next event of any of them.
    ///
    /// Each is asked at most once: one that steps back, to let the reader of another session have its turn, must not be
    /// asked again before that one could run.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<(SubscriptionKey, Event)> {
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop() else { break };
            let Some(consumer) = self.open.get_mut(&key) else { continue };
            if let Poll::Ready(event) = consumer.subscription.poll_next(&mut Context::from_waker(&consumer.waker)) {
                match &event {
                    Event::Delivery(delivery) => consumer.deliveries = delivery.id.map(|id| id.consumer),
                    Event::Ended(_) => drop(self.open.remove(&key)),
                    Event::Interrupted | Event::Returned(_) | Event::Restored => {}
                }
                self.ready.push(key);
                return Poll::Ready((key, event));
            }
        }
        if self.ready.wait(context) {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Ready {
    fn push(&self, key: SubscriptionKey) {
        let mut list = self.lock();
        if !list.keys.contains(&key) {
            list.keys.push_back(key);
        }
        let task = list.task.take();
        drop(list);
        if let Some(task) = task {
            task.wake();
        }
    }

    fn len(&self) -> usize {
        self.lock().keys.len()
    }

    fn pop(&self) -> Option<SubscriptionKey> {
        self.lock().keys.pop_front()
    }

    /// Keeps the task's waker for the next key, and says whether there is one already.
    fn wait(&self, context: &mut Context<'_>) -> bool {
        let mut list = self.lock();
        if !list.task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            list.task = Some(context.waker().clone());
        }
        !list.keys.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for KeyWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.key);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.push(self.key);
    }
}
