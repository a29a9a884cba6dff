//! Plain subscriptions to exchanges: one exclusive queue for each exchange and binding key, whose messages go to all who
//! read it. An exchange may be of any type, so only the broker can tell what a binding brings.
//!
//! Beneath is a dedicated subscription, which brings the queue back when the connection breaks. Like a topic's binding,
//! the queue stays for a while when its last reader goes. A broker does not say that an exchange was deleted, and the
//! queue stays behind without its binding: so the gateway binds it again with every new reader and from time to time,
//! which changes nothing where the exchange is, and tells where it is not.
//!
//! Locks, in this order: the feeds; the readers of one.

use std::collections::{BTreeMap, HashMap};
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use lapin::Channel;
use lapin::options::QueueBindOptions;
use lapin::types::{FieldTable, ShortString};
use tokio::sync::watch;
use tokio::time::{Instant, interval, interval_at};

use super::connection::Live;
use super::dedicated::{Common, Dedicated};
use super::errors::{channel_error, short};
use super::settings::Settings;
use super::source::Reading;
use crate::broker::{BrokerError, Event, Shared, Subscriber, Subscription};
use crate::message::{DeliveryId, Settlement};

/// So many messages are passed on before one acknowledgement for all of them.
const BATCH: usize = 200;

/// All shared subscriptions of a link to exchanges.
pub(super) struct SharedExchanges {
    linger: Duration,
    /// Time after which a queue is bound again.
    look: Duration,
    common: Arc<Common>,
    feeds: Mutex<HashMap<Binding, Registered>>,
}

/// What a queue is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Binding {
    exchange: ShortString,
    key: ShortString,
}

/// A feed and how many readers it has, those included that are still joining.
struct Registered {
    feed: Arc<Feed>,
    readers: usize,
    /// Since when there are none.
    idle: Option<Instant>,
}

/// What comes by one binding, and who reads it.
struct Feed {
    binding: Binding,
    readers: Mutex<Readers>,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct Readers {
    next: u64,
    subscribers: BTreeMap<u64, Arc<dyn Subscriber>>,
}

#[derive(Clone)]
enum State {
    Opening,
    Open(Arc<Live>, Channel, ShortString),
    Ended(BrokerError),
}

/// Keeps a shared subscription open.
struct Guard {
    exchanges: Arc<SharedExchanges>,
    feed: Arc<Feed>,
    key: u64,
    subscriber: Arc<dyn Subscriber>,
}

impl Binding {
    /// Names that AMQP can have.
    pub(super) fn new(exchange: &str, key: &str) -> Result<Self, BrokerError> {
        let exchange = short(exchange, "the name of the exchange")?;
        Ok(Binding { exchange, key: short(key, "the binding key")? })
    }
}

impl SharedExchanges {
    /// Nobody reads anything yet.
    pub(super) fn new(settings: &Settings, common: &Arc<Common>) -> Arc<Self> {
        let (linger, look, common) = (settings.linger, settings.heartbeat, Arc::clone(common));
        Arc::new(SharedExchanges { linger, look, common, feeds: Mutex::default() })
    }

    /// Opens a shared subscription; waits for the broker if need be. `open` makes the dedicated subscription beneath,
    /// where there is none yet.
    pub(super) async fn share<Opening>(
        self: &Arc<Self>,
        binding: &Binding,
        subscriber: Arc<dyn Subscriber>,
        open: impl FnOnce() -> Result<Opening, BrokerError>,
    ) -> Result<Box<dyn Shared>, BrokerError>
    where
        Opening: Future<Output = Result<Dedicated, BrokerError>> + Send + 'static,
    {
        let guard = self.join(binding, subscriber, open)?;
        guard.feed.bound().await?;
        guard.listen()?;
        Ok(Box::new(guard))
    }

    fn join<Opening>(
        self: &Arc<Self>,
        binding: &Binding,
        subscriber: Arc<dyn Subscriber>,
        open: impl FnOnce() -> Result<Opening, BrokerError>,
    ) -> Result<Guard, BrokerError>
    where
        Opening: Future<Output = Result<Dedicated, BrokerError>> + Send + 'static,
    {
        let mut feeds = lock(&self.feeds);
        if !feeds.contains_key(binding) {
            let opening = open()?;
            let state = watch::Sender::new(State::Opening);
            let feed = Arc::new(Feed { binding: binding.clone(), readers: Mutex::default(), state });
            tokio::spawn(Arc::clone(self).run(Arc::clone(&feed), opening));
            feeds.insert(binding.clone(), Registered { feed, readers: 0, idle: None });
        }
        let registered = feeds.get_mut(binding).ok_or(BrokerError::Unavailable)?; // it is there
        (registered.readers, registered.idle) = (registered.readers + 1, None);
        let feed = Arc::clone(&registered.feed);
        let key = feed.next_key();
        Ok(Guard { exchanges: Arc::clone(self), feed, key, subscriber })
    }

    /// Reads a feed until nobody wants it any more, or the broker ends it.
    async fn run(self: Arc<Self>, feed: Arc<Feed>, opening: impl Future<Output = Result<Dedicated, BrokerError>>) {
        let reason = tokio::select! {
            reason = self.read(&feed, opening) => reason,
            () = self.abandoned(&feed) => return,
        };
        let mut feeds = lock(&self.feeds);
        if feeds.get(&feed.binding).is_some_and(|registered| Arc::ptr_eq(&registered.feed, &feed)) {
            feeds.remove(&feed.binding);
        }
        drop(feeds);
        for subscriber in feed.end(&reason) {
            subscriber.ended(&reason);
        }
    }

    /// Comes back when a feed has had no reader for long enough; nobody finds it any more then.
    async fn abandoned(&self, feed: &Arc<Feed>) {
        let mut tick = interval((self.linger / 2).max(Duration::from_millis(50)));
        loop {
            tick.tick().await;
            let mut feeds = lock(&self.feeds);
            let idle = feeds.get(&feed.binding).and_then(|registered| registered.idle);
            if idle.is_some_and(|since| since.elapsed() >= self.linger) {
                feeds.remove(&feed.binding);
                return;
            }
        }
    }

    async fn read(
        &self,
        feed: &Arc<Feed>,
        opening: impl Future<Output = Result<Dedicated, BrokerError>>,
    ) -> BrokerError {
        let mut dedicated = match opening.await {
            Ok(dedicated) => dedicated,
            Err(reason) => return reason,
        };
        feed.opened(&dedicated);
        let mut look = interval_at(Instant::now() + self.look, self.look);
        let mut unsettled = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                last = feed.pass_on(&mut dedicated, &mut unsettled) => {
                    self.common.ledgers.settle(&unsettled, Settlement::Accept);
                    unsettled.clear();
                    match last {
                        Some(Event::Interrupted) => _ = feed.state.send_replace(State::Opening),
                        Some(Event::Restored) => {
                            feed.subscribers().iter().for_each(|subscriber| subscriber.restored());
                            feed.opened(&dedicated);
                        }
                        Some(Event::Ended(reason)) => return reason,
                        Some(Event::Delivery(_) | Event::Returned(_)) | None => tokio::task::yield_now().await,
                    }
                }
                _ = look.tick() => feed.look(),
            }
        }
    }
}

impl Feed {
    /// Passes on what is there, and notes it as unsettled; returns the event that is no delivery, if it was one.
    async fn pass_on(&self, dedicated: &mut Dedicated, unsettled: &mut Vec<DeliveryId>) -> Option<Event> {
        poll_fn(|context| {
            while unsettled.len() < BATCH {
                match dedicated.poll_next(context) {
                    Poll::Ready(Event::Delivery(delivery)) => {
                        unsettled.extend(delivery.id);
                        for subscriber in self.subscribers() {
                            subscriber.deliver(&delivery.message);
                        }
                    }
                    Poll::Ready(other) => return Poll::Ready(Some(other)),
                    Poll::Pending if unsettled.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(None)
        })
        .await
    }

    fn opened(&self, dedicated: &Dedicated) {
        if let Some(reading) = dedicated.reading() {
            let Reading { live, channel, queue, .. } = reading;
            self.state.send_replace(State::Open(Arc::clone(live), channel.clone(), queue.clone()));
        }
    }

    /// Comes back when the queue is there and bound.
    async fn bound(&self) -> Result<(), BrokerError> {
        let mut state = self.state.subscribe();
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                State::Ended(reason) => return Err(reason),
                State::Open(live, channel, queue) => {
                    if self.bind(&live, &channel, queue).await {
                        return Ok(());
                    }
                }
                State::Opening => {}
            }
            // The channel is closed: what reads it opens another one, or says why not.
            state.changed().await.map_err(|_| BrokerError::Unavailable)?;
        }
    }

    /// Sees to it that the queue is bound; by itself, so that the reader need not wait.
    fn look(self: &Arc<Self>) {
        if let State::Open(live, channel, queue) = self.state.borrow().clone() {
            let feed = Arc::clone(self);
            tokio::spawn(async move { feed.bind(&live, &channel, queue).await });
        }
    }

    /// Whether the queue is bound now. If it cannot be, the channel that reads it is closed.
    async fn bind(&self, live: &Live, reading: &Channel, queue: ShortString) -> bool {
        let Binding { exchange, key } = self.binding.clone();
        let bound = async {
            // One that is not kept: a channel remembers all that was ever bound on it, again and again if need be.
            let channel = live.channel().await?;
            channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await?;
            channel.close(200, "done".into()).await
        };
        let bound = bound.await;
        if bound.as_ref().is_err_and(|error| channel_error(error).is_some()) {
            let _ = reading.close(200, "done".into()).await; // it may be gone already
        }
        bound.is_ok()
    }

    fn next_key(&self) -> u64 {
        let mut readers = lock(&self.readers);
        readers.next += 1;
        readers.next
    }

    /// Cloned, so that nothing is held while they are called.
    fn subscribers(&self) -> Vec<Arc<dyn Subscriber>> {
        lock(&self.readers).subscribers.values().cloned().collect()
    }

    /// Nothing comes any more; returns whom to tell.
    fn end(&self, reason: &BrokerError) -> Vec<Arc<dyn Subscriber>> {
        let mut readers = lock(&self.readers);
        self.state.send_replace(State::Ended(reason.clone()));
        std::mem::take(&mut readers.subscribers).into_values().collect()
    }
}

impl Guard {
    /// From now on the subscriber is called, unless the feed has ended meanwhile.
    fn listen(&self) -> Result<(), BrokerError> {
        let mut readers = lock(&self.feed.readers);
        if let State::Ended(reason) = &*self.feed.state.borrow() {
            return Err(reason.clone());
        }
        readers.subscribers.insert(self.key, Arc::clone(&self.subscriber));
        Ok(())
    }
}

#[async_trait]
impl Shared for Guard {
    async fn replay(&self, reader: u64) -> Result<(), BrokerError> {
        self.subscriber.replayed(reader); // nothing is retained
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut feeds = lock(&self.exchanges.feeds);
        let registered = feeds.get_mut(&self.feed.binding);
        if let Some(registered) = registered.filter(|registered| Arc::ptr_eq(&registered.feed, &self.feed)) {
            registered.readers -= 1;
            registered.idle = (registered.readers == 0).then(Instant::now);
        }
        drop(feeds);
        let gone = lock(&self.feed.readers).subscribers.remove(&self.key);
        drop(gone); // its end is no business of our lock
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
