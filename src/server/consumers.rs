//! The dedicated subscriptions of one client, polled only when they have something to say.
//!
//! Each has a waker of its own that puts its key into a list; a poll goes through that list, not through all
//! subscriptions. Whoever gave an event goes to the end of the list, so that no subscription starves another.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::broker::{Event, Subscription};
use crate::session::SubscriptionKey;

/// The dedicated subscriptions of one client.
#[derive(Default)]
pub(super) struct Consumers {
    open: HashMap<SubscriptionKey, Consumer>,
    /// Those that deliver nothing any more, but whose deliveries can still be settled.
    cancelled: Vec<(SubscriptionKey, Box<dyn Subscription>)>,
    ready: Arc<Ready>,
}

struct Consumer {
    subscription: Box<dyn Subscription>,
    waker: Waker,
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
        self.open.insert(key, Consumer { subscription, waker });
        self.ready.push(key);
    }

    /// Takes a subscription out, to be cancelled.
    pub(super) fn take(&mut self, key: SubscriptionKey) -> Option<Box<dyn Subscription>> {
        self.open.remove(&key).map(|consumer| consumer.subscription)
    }

    /// Keeps a cancelled subscription until all of it is settled.
    pub(super) fn keep_cancelled(&mut self, key: SubscriptionKey, subscription: Box<dyn Subscription>) {
        self.cancelled.push((key, subscription));
    }

    /// Drops a cancelled subscription.
    pub(super) fn forget(&mut self, key: SubscriptionKey) {
        self.cancelled.retain(|(cancelled, _)| *cancelled != key);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The next event of any of them.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<(SubscriptionKey, Event)> {
        while let Some(key) = self.ready.pop(context) {
            let Some(consumer) = self.open.get_mut(&key) else { continue };
            if let Poll::Ready(event) = consumer.subscription.poll_next(&mut Context::from_waker(&consumer.waker)) {
                if matches!(event, Event::Ended(_)) {
                    self.open.remove(&key);
                } else {
                    self.ready.push(key);
                }
                return Poll::Ready((key, event));
            }
        }
        Poll::Pending
    }
}

impl Ready {
    fn push(&self, key: SubscriptionKey) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !list.keys.contains(&key) {
            list.keys.push_back(key);
        }
        let task = list.task.take();
        drop(list);
        if let Some(task) = task {
            task.wake();
        }
    }

    /// The next key, or the task's waker is kept for when there is one.
    fn pop(&self, context: &mut Context<'_>) -> Option<SubscriptionKey> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = list.keys.pop_front();
        if key.is_none() && !list.task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            list.task = Some(context.waker().clone());
        }
        key
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
