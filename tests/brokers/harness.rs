//! The words in which the cases speak.

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use stompgate::broker::{
    Broker, BrokerError, Event, Identity, Link, Permit, Shared, SharedSource, Source, Subscribe, Subscriber,
    Subscription,
};
use stompgate::message::{
    Delivery, Destination, Headers, Message, Outcome, Principal, PublishOptions, Separators, Settlement, Text, Usage,
};
use tokio::sync::Notify;

/// Nothing here takes long; this only keeps a fault from hanging the suite.
const PATIENCE: Duration = Duration::from_secs(20);

/// Somebody with a link, and with names that no other case has.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) link: Arc<dyn Link>,
    /// In each of this client's names, so that cases can share a real broker.
    pub(crate) mark: String,
    /// Queues that are there although nobody has read them yet.
    primed: Arc<Mutex<HashSet<Text>>>,
}

/// Whoever reads a dedicated subscription.
pub(crate) struct Reader {
    pub(crate) subscription: Box<dyn Subscription>,
    link: Arc<dyn Link>,
}

/// Whoever reads a shared subscription.
#[derive(Default)]
pub(crate) struct Ear {
    heard: Mutex<Vec<Heard>>,
    new: Notify,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Message(String),
    Replayed(u64, String),
    ReplayEnded(u64),
    Restored,
    Ended(BrokerError),
}

impl Client {
    pub(crate) async fn of(broker: &Arc<dyn Broker>) -> Client {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mark = format!("t{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let identity = Identity { principal: Principal::new("tester"), tenant: None, passcode: None };
        Client { link: in_time(broker.link(&identity)).await.unwrap(), mark, primed: Arc::default() }
    }

    /// A destination of this client's own: the mark stands after the kind.
    pub(crate) fn at(&self, spelling: &str, usage: Usage) -> Destination {
        let (kind, rest) = spelling[1..].split_once('/').unwrap();
        let own = match kind {
            "topic" | "queue" => format!("/{kind}/{}/{rest}", self.mark),
            "user" if usage == Usage::Send => format!("/user/{}{rest}", self.mark),
            _ => spelling.to_owned(),
        };
        Destination::parse(&own, usage, Separators::Both).unwrap()
    }

    pub(crate) fn message(&self, spelling: &str, body: &str) -> Message {
        let destination = self.at(spelling, Usage::Send);
        let options = PublishOptions { persistent: spelling.starts_with("/queue"), ..PublishOptions::default() };
        Message { destination, headers: Headers::new(), body: Bytes::from(body.to_owned()), options }
    }

    pub(crate) async fn publish(&self, message: Message) -> Result<Outcome, BrokerError> {
        self.prime(&message.destination).await;
        let permit: Permit = in_time(self.link.reserve()).await?;
        in_time(self.link.publish(permit, message)).await
    }

    /// What is said of a message that nobody was there for, where the broker tells.
    pub(crate) fn unrouted(&self) -> Outcome {
        if self.link.capabilities().reports_unrouted { Outcome::UNROUTED } else { Outcome::DONE }
    }

    /// Where a queue keeps what is sent to it for a while after its last reader only, it has had one then.
    pub(crate) async fn prime(&self, destination: &Destination) {
        let Destination::Queue(name) = destination else { return };
        let is_new = self.primed.lock().unwrap().insert(name.clone());
        if is_new && !self.link.capabilities().keeps_queues {
            // A closed broker says so to whoever publishes.
            drop(self.open(Source::Queue(name.clone()), 1_000).await);
        }
    }

    /// Sends, and somebody is there for it.
    pub(crate) async fn send(&self, spelling: &str, body: &str) {
        assert_eq!(self.publish(self.message(spelling, body)).await, Ok(Outcome::DONE), "{spelling} {body}");
    }

    pub(crate) async fn retain(&self, spelling: &str, body: &str) {
        let mut message = self.message(spelling, body);
        message.options.retain = true;
        self.publish(message).await.unwrap();
    }

    pub(crate) async fn open(&self, source: Source, prefetch: u16) -> Result<Reader, BrokerError> {
        if let Source::Queue(name) = &source {
            self.primed.lock().unwrap().insert(name.clone());
        }
        let request = Subscribe { source, prefetch, arguments: Headers::new() };
        let subscription = in_time(self.link.subscribe(request)).await?;
        Ok(Reader::of(subscription, self))
    }

    /// A dedicated subscription to `/queue` or `/topic`.
    pub(crate) async fn read(&self, spelling: &str) -> Reader {
        self.read_with(spelling, 100).await
    }

    pub(crate) async fn read_with(&self, spelling: &str, prefetch: u16) -> Reader {
        let source = match self.at(spelling, Usage::Subscribe) {
            Destination::Queue(name) => Source::Queue(name),
            Destination::Topic(pattern) => Source::Topic(pattern),
            other => panic!("{other} is not read so"),
        };
        self.open(source, prefetch).await.unwrap()
    }

    /// A shared subscription to `/topic`.
    pub(crate) async fn listen(&self, spelling: &str) -> (Box<dyn Shared>, Arc<Ear>) {
        let Destination::Topic(pattern) = self.at(spelling, Usage::Subscribe) else { panic!("{spelling} is no topic") };
        self.share(SharedSource::Topic(pattern)).await
    }

    /// A shared subscription to what is sent to one user.
    pub(crate) async fn listen_as(&self, user: &str, spelling: &str) -> (Box<dyn Shared>, Arc<Ear>) {
        let Destination::User { name, .. } = self.at(spelling, Usage::Subscribe) else { panic!("{spelling}") };
        self.share(SharedSource::User { user: format!("{}{user}", self.mark).into(), name }).await
    }

    pub(crate) async fn share(&self, source: SharedSource) -> (Box<dyn Shared>, Arc<Ear>) {
        let ear = Arc::new(Ear::default());
        let guard = in_time(self.link.share(source, Arc::clone(&ear) as Arc<dyn Subscriber>)).await.unwrap();
        (guard, ear)
    }

    pub(crate) async fn settle(&self, deliveries: &[&Delivery], settlement: Settlement) -> bool {
        let ids: Vec<_> = deliveries.iter().filter_map(|delivery| delivery.id).collect();
        in_time(self.link.settle(&ids, settlement)).await.unwrap().settled
    }
}

impl Reader {
    pub(crate) fn of(subscription: Box<dyn Subscription>, client: &Client) -> Reader {
        Reader { subscription, link: Arc::clone(&client.link) }
    }

    pub(crate) async fn event(&mut self) -> Event {
        in_time(poll_fn(|context| self.subscription.poll_next(context))).await
    }

    pub(crate) async fn next(&mut self) -> Delivery {
        match self.event().await {
            Event::Delivery(delivery) => delivery,
            other => panic!("a message was expected, not {other:?}"),
        }
    }

    /// The next message, whatever happens to the connection meanwhile.
    #[cfg(feature = "mqtt")]
    pub(crate) async fn next_after_break(&mut self) -> Delivery {
        loop {
            match self.event().await {
                Event::Delivery(delivery) => return delivery,
                Event::Restored => {}
                other => panic!("a message was expected, not {other:?}"),
            }
        }
    }

    /// The next message is this one.
    pub(crate) async fn expect(&mut self, body: &str) -> Delivery {
        let delivery = self.next().await;
        assert_eq!(text(&delivery.message), body);
        delivery
    }

    /// The next message is this one, and is accepted.
    pub(crate) async fn take(&mut self, body: &str) -> Delivery {
        let delivery = self.expect(body).await;
        self.settle(&delivery, Settlement::Accept).await;
        delivery
    }

    // Not an `async fn`: its future must not borrow the subscription, which is no thing to share between threads.
    pub(crate) fn settle(&self, delivery: &Delivery, settlement: Settlement) -> impl Future<Output = ()> + use<> {
        let ids: Vec<_> = delivery.id.into_iter().collect();
        let confirmation = self.link.settle(&ids, settlement);
        async { assert!(in_time(confirmation).await.unwrap().settled) }
    }

    /// Asks once, as a task does that then waits.
    pub(crate) fn ask(&mut self) -> Poll<Event> {
        self.subscription.poll_next(&mut Context::from_waker(Waker::noop()))
    }

    /// Nothing is there. Only what has been confirmed counts, and only one poll is made.
    pub(crate) fn expect_nothing(&mut self) {
        assert!(self.ask().is_pending());
    }
}

impl Ear {
    /// All that was heard up to and including the message with this body.
    pub(crate) async fn until(&self, last: &str) -> Vec<String> {
        let heard = self.until_heard(&Heard::Message(last.to_owned())).await;
        heard
            .into_iter()
            .map(|heard| match heard {
                Heard::Message(body) => body,
                other => panic!("a message was expected, not {other:?}"),
            })
            .collect()
    }

    pub(crate) async fn until_heard(&self, last: &Heard) -> Vec<Heard> {
        let heard_it = async {
            loop {
                let new = self.new.notified();
                if self.heard.lock().unwrap().contains(last) {
                    return;
                }
                new.await;
            }
        };
        in_time(heard_it).await;
        self.heard.lock().unwrap().clone()
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    fn hear(&self, heard: Heard) {
        self.heard.lock().unwrap().push(heard);
        self.new.notify_one();
    }
}

impl Subscriber for Ear {
    fn deliver(&self, message: &Arc<Message>) {
        self.hear(Heard::Message(text(message)));
    }

    fn replay(&self, reader: u64, message: &Arc<Message>) {
        self.hear(Heard::Replayed(reader, text(message)));
    }

    fn replayed(&self, reader: u64) {
        self.hear(Heard::ReplayEnded(reader));
    }

    fn restored(&self) {
        self.hear(Heard::Restored);
    }

    fn ended(&self, reason: &BrokerError) {
        self.hear(Heard::Ended(reason.clone()));
    }
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8(message.body.to_vec()).unwrap()
}

pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("nothing here takes so long")
}
