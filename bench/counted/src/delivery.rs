//! From a publisher to outboxes: the embedded broker finds who reads, and the hub hands out.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::Bytes;
use stompgate::broker::memory::{self, Memory};
use stompgate::broker::{Broker, Identity, Link};
use stompgate::hub::outbox::{Item, Outbox};
use stompgate::hub::{Hub, Membership, Settings};
use stompgate::message::{Destination, Message, Pattern, Principal, PublishOptions, Separators, SharedSource, Usage};
use stompgate::metrics::Metrics;
use stompgate::stomp::{Reader, Version};
use stompgate::traces::Traces;
use tokio::runtime::Runtime;

use crate::Piece;
use crate::codec::headers;

const READERS: usize = 1000;
/// Bytes of a write, as `server.write_buffer` has them.
const WRITE: usize = 16 * 1024;

/// A message to each of a thousand topics that one reads each, while ten patterns are read, too.
pub fn route() -> Piece {
    let mut place = Place::new();
    let topics: Vec<_> = (0..READERS).map(|number| format!("/topic/prices.stocks.s{number}")).collect();
    for topic in &topics {
        place.join(topic);
    }
    for number in 0..10 {
        place.join(&format!("/topic/prices.bonds.*.b{number}"));
    }
    let destinations: Vec<_> = topics.iter().map(|topic| destination(topic)).collect();
    Piece::new(READERS as u64, move || {
        for destination in &destinations {
            place.publish(destination.clone());
        }
        assert_eq!(place.take_all(), READERS, "each message has one reader");
    })
}

/// A message to a thousand readers of one topic.
pub fn fan_out() -> Piece {
    let mut place = Place::new();
    let topic = "/topic/prices.stocks.acme";
    for _ in 0..READERS {
        place.join(topic);
    }
    let destination = destination(topic);
    Piece::new(READERS as u64, move || {
        place.publish(destination.clone());
        assert_eq!(place.take_all(), READERS, "each reader gets the message");
    })
}

/// A broker, a hub, and whoever reads.
struct Place {
    link: Arc<dyn Link>,
    hub: Hub,
    metrics: Arc<Metrics>,
    readers: Vec<(Arc<Outbox>, Membership)>,
    batch: VecDeque<Item>,
    body: Bytes,
    now: Instant,
    /// It runs nothing while messages go their way; the broker's clock wants it.
    runtime: Runtime,
}

impl Place {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let metrics = Arc::new(Metrics::new());
        let hub = Hub::new(&Settings::default(), Separators::Both, Arc::clone(&metrics), Traces::default());
        let link = runtime.block_on(async {
            let identity = Identity { principal: Principal::new("alice"), tenant: None, passcode: None };
            let broker = Memory::new(&memory::Settings::default()).expect("default settings");
            broker.link(&identity).await.expect("everybody has a link")
        });
        let (body, now) = (Bytes::from(vec![b'x'; 256]), Instant::now());
        Place { link, hub, metrics, readers: Vec::new(), batch: VecDeque::new(), body, now, runtime }
    }

    fn join(&mut self, topic: &str) {
        let spelling = Destination::spelling_of(topic, Separators::Both);
        let reader = Reader { subscription: Some("sub-0".into()), spelling, version: Version::V12 };
        let outbox = Arc::new(Outbox::new(Arc::new(Settings::default()), Arc::clone(&self.metrics)));
        let source = SharedSource::Topic(pattern(topic));
        let joined = self.hub.subscribe(&self.link, source, reader, Arc::clone(&outbox));
        let membership = self.runtime.block_on(joined).expect("everybody may read");
        self.readers.push((outbox, membership));
    }

    fn publish(&self, destination: Destination) {
        let message =
            Message { destination, headers: headers(), body: self.body.clone(), options: PublishOptions::default() };
        let permit = self.link.try_reserve().expect("no bound");
        drop(black_box(self.link.publish(permit, message)));
    }

    /// Takes what waits for each reader as its task does, and says how much that was.
    fn take_all(&mut self) -> usize {
        let mut taken = 0;
        let mut context = Context::from_waker(Waker::noop());
        for (outbox, _) in &self.readers {
            outbox.poll(&mut context, WRITE, &mut self.batch);
            taken += self.batch.len();
            self.batch.clear();
            black_box(outbox.written(self.now));
        }
        taken
    }
}

fn destination(topic: &str) -> Destination {
    Destination::parse(topic, Usage::Send, Separators::Both).expect("a destination")
}

fn pattern(topic: &str) -> Pattern {
    match Destination::parse(topic, Usage::Subscribe, Separators::Both) {
        Ok(Destination::Topic(pattern)) => pattern,
        other => panic!("{topic} is {other:?}"),
    }
}
