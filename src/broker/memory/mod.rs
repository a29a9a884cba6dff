//! The in-memory broker: topics, queues and all the rest within one process, for development, tests and small
//! installations that can afford to lose what waits when the process ends.
//!
//! ```text
//! SEND ──► exchange ─┬─ topics: names by hash, patterns by trie ─┬─► Subscriber (called at once)
//!                    │                                           └─► queue of a topic or durable subscription
//!                    ├─ /queue/…: made on first use ───────────────► queue ──► line of readers, each polls
//!                    └─ reply addresses ───────────────────────────► queue of the one who asked
//! ```
//!
//! There is one namespace for all who connect, and `/` is its name. What a queue's readers do not accept goes to
//! one dead-letter destination, with the headers `x-first-death-queue` and `x-first-death-reason` as RabbitMQ has them.

mod depth;
mod durable;
mod effects;
mod exchange;
mod line;
mod listeners;
mod publish;
mod queue;
mod queues;
mod readers;
mod report;
mod retained;
mod settings;
mod shelf;
mod subscription;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};

pub use effects::Counters;
pub use settings::{ConnectError, Overflow, Settings};

use crate::broker::{
    Broker, BrokerError, Capabilities, Confirmation, Identity, Link, LinkState, Permit, Shared, SharedSource,
    Subscribe, Subscriber, Subscription, Transaction,
};
use crate::message::{DeliveryId, DurableName, Message, Outcome, Settlement, Text};
use crate::metrics::Figures;
use exchange::Exchange;
use subscription::{Reader, SharedGuard};

/// What to use instead, for those who ask for what only AMQP has.
const USE_TOPIC: &str = "the in-memory broker has no exchanges; use /topic/…";
const USE_QUEUE: &str = "the in-memory broker declares all its queues itself; use /queue/…";

/// How often unanswered calls are passed on, and what expired in `/queue/…` is freed.
const TICK: Duration = Duration::from_millis(200);
/// Every so many ticks, what expired elsewhere is freed.
const TICKS_PER_SWEEP: u32 = 5;

/// The in-memory broker.
pub struct Memory {
    exchange: Arc<Exchange>,
    /// One for all: what is shared is shared per link.
    link: Arc<MemoryLink>,
    state: watch::Sender<LinkState>,
}

/// The way to it; the same for everybody.
struct MemoryLink(Arc<Exchange>);

/// Makes an in-memory broker. It needs a tokio runtime, for the task that frees what expired.
pub fn connect(settings: &Settings) -> Result<Arc<dyn Broker>, ConnectError> {
    Ok(Arc::new(Memory::new(settings)?))
}

impl Memory {
    /// Makes an in-memory broker. It needs a tokio runtime, for the task that frees what expired.
    pub fn new(settings: &Settings) -> Result<Self, ConnectError> {
        let exchange = Arc::new(Exchange::new(settings)?);
        tokio::spawn(keep_time(Arc::downgrade(&exchange), Arc::clone(&exchange.busy)));
        let link = Arc::new(MemoryLink(Arc::clone(&exchange)));
        Ok(Memory { exchange, link, state: watch::Sender::new(LinkState::Up) })
    }

    /// What became of messages that nobody accepted, since it was made.
    pub fn counters(&self) -> Counters {
        self.exchange.counters()
    }
}

/// Ends with the broker. Sleeps while nothing is there that time could change.
async fn keep_time(exchange: Weak<Exchange>, busy: Arc<Notify>) {
    let mut ticks = tokio::time::interval_at(Instant::now() + TICK, TICK);
    // A late tick is no reason to hurry: the next ones would find that nobody came since the last.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for count in 1_u32.. {
        if exchange.upgrade().is_some_and(|exchange| exchange.is_idle()) {
            busy.notified().await;
            ticks.reset();
        }
        ticks.tick().await;
        let Some(exchange) = exchange.upgrade().filter(|exchange| !exchange.is_closed()) else { return };
        exchange.tick();
        if count.is_multiple_of(TICKS_PER_SWEEP) {
            exchange.sweep();
        }
    }
}

#[async_trait]
impl Broker for Memory {
    async fn link(&self, identity: &Identity) -> Result<Arc<dyn Link>, BrokerError> {
        crate::broker::tenant::check(identity.tenant.as_ref(), "/")?;
        let _gate = self.exchange.enter()?;
        Ok(Arc::clone(&self.link) as Arc<dyn Link>)
    }

    fn state(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    fn report(&self, figures: &mut Figures) {
        self.exchange.report(figures);
    }

    async fn close(&self) {
        self.exchange.close();
    }
}

#[async_trait]
impl Link for MemoryLink {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            exchanges: false,
            arguments: false,
            retain: true,
            durable: true,
            atomic_transactions: true,
            user_id: false,
            reports_unrouted: true,
            keeps_queues: true,
        }
    }

    fn try_reserve(&self) -> Option<Permit> {
        Some(Permit::UNBOUNDED)
    }

    async fn reserve(&self) -> Result<Permit, BrokerError> {
        Ok(Permit::UNBOUNDED)
    }

    fn publish(&self, _: Permit, message: Message) -> Confirmation {
        Confirmation::Ready(self.0.publish(message))
    }

    async fn share(
        &self,
        source: SharedSource,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Box<dyn Shared>, BrokerError> {
        Ok(Box::new(SharedGuard::open(&self.0, &source, subscriber)?))
    }

    async fn subscribe(&self, request: Subscribe) -> Result<Box<dyn Subscription>, BrokerError> {
        Ok(Box::new(Reader::open(&self.0, request)?))
    }

    fn settle(&self, deliveries: &[DeliveryId], settlement: Settlement) -> Confirmation {
        let settled = self.0.settle(deliveries, settlement);
        Confirmation::Ready(Ok(Outcome { settled, ..Outcome::DONE }))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Confirmation, BrokerError> {
        self.0.commit(transaction).map(|outcome| Confirmation::Ready(Ok(outcome)))
    }

    async fn delete_durable(&self, name: &DurableName) -> Result<(), BrokerError> {
        let _gate = self.0.enter()?;
        subscription::delete_durable(&self.0, name)
    }
}

/// A copy in memory of its own: names come as slices of read buffers, which nothing that is kept may keep.
fn own(text: &Text) -> Text {
    Text::from(&**text)
}

/// Locks, whatever happened to others who held it: no section leaves anything half done on a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for reading; see [`lock`].
fn read<T>(shared: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    shared.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing; see [`lock`].
fn write<T>(shared: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    shared.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_not_kept_while_there_is_nothing_to_keep_it_for() {
        let exchange = Arc::new(Exchange::new(&Settings::default()).unwrap());
        let count = Arc::new(Count::default());
        let waker = Arc::clone(&count).into();
        let mut task = pin!(keep_time(Arc::downgrade(&exchange), Arc::clone(&exchange.busy)));
        let mut poll = || task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();

        assert!(!poll());
        tokio::time::advance(10 * TICK).await;
        assert_eq!(count.0.load(Ordering::Relaxed), 0);

        let queue = exchange.private_queue(depth::Rules::topic("a".into(), &exchange.settings));
        exchange.register(1, &queue);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(!poll());
        tokio::time::advance(2 * TICK).await;
        assert_eq!(count.0.load(Ordering::Relaxed), 2);

        drop(exchange);
        assert!(poll(), "it ends with the exchange");
    }
}
