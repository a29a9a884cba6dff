//! What is sent to a user, read by one subscription alone, so that the chain can look at each message.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;

use crate::broker::{BrokerError, Event, Link, Shared, SharedSource, Subscriber, Subscription};
use crate::message::{Delivery, Message};
use crate::metrics::{Dropped, Metrics};

/// A shared source as a dedicated subscription.
pub(super) struct Tap {
    shared: Option<Box<dyn Shared>>,
    waiting: Arc<Waiting>,
}

/// What has come, and was not taken yet.
struct Waiting {
    /// Bytes that may wait; beyond, the oldest go.
    capacity: usize,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    /// The next to come may follow missing ones.
    gap: bool,
    end: Option<BrokerError>,
    task: Option<Waker>,
}

impl Tap {
    /// When this returns, nothing that is published from now on is missed.
    ///
    /// # Errors
    /// What the broker says.
    pub(super) async fn open(
        link: &Arc<dyn Link>,
        source: SharedSource,
        capacity: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        let waiting = Arc::new(Waiting { capacity, metrics, state: Mutex::default() });
        let shared = link.share(source, Arc::clone(&waiting) as _).await?;
        shared.replay(0).await?;
        Ok(Box::new(Tap { shared: Some(shared), waiting }))
    }
}

#[async_trait]
impl Subscription for Tap {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let mut state = self.waiting.lock();
        if let Some(delivery) = state.pop() {
            return Poll::Ready(Event::Delivery(delivery));
        }
        if let Some(reason) = state.end.take() {
            return Poll::Ready(Event::Ended(reason));
        }
        state.task = Some(context.waker().clone());
        Poll::Pending
    }

    async fn cancel(&mut self, _delete: bool) -> Result<(), BrokerError> {
        self.shared = None;
        *self.waiting.lock() = State::default();
        Ok(())
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let task = state.task.take();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl State {
    fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.pop_front()?;
        self.bytes -= delivery.message.size();
        Some(delivery)
    }
}

impl Subscriber for Waiting {
    fn deliver(&self, message: &Arc<Message>) {
        self.change(|state| {
            let gap = std::mem::take(&mut state.gap);
            state.bytes += message.size();
            state.deliveries.push_back(Delivery { message: Arc::clone(message), id: None, redelivered: false, gap });
            while state.bytes > self.capacity && state.deliveries.len() > 1 {
                state.pop();
                self.metrics.dropped(Dropped::DropOldest, 1);
                if let Some(next) = state.deliveries.front_mut() {
                    next.gap = true;
                }
            }
        });
    }

    fn replay(&self, _reader: u64, message: &Arc<Message>) {
        self.deliver(message);
    }

    fn replayed(&self, _reader: u64) {} // nothing that is sent to users is retained, so none comes twice

    fn restored(&self) {
        self.change(|state| state.gap = true);
    }

    fn ended(&self, reason: &BrokerError) {
        self.change(|state| state.end = Some(reason.clone()));
    }
}
