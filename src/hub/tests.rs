//! The hub between a scripted link, which does what a broker cannot be made to do on demand, and bare outboxes.

use std::task::{Context, Waker};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::broker::{Capabilities, Confirmation, Permit, Subscribe, Subscription, Transaction};
use crate::message::{DeliveryId, DurableName, Headers, Pattern, PublishOptions, Settlement, Spelling};
use crate::stomp::Version;

/// A link whose shared subscriptions the test feeds by hand.
#[derive(Default)]
struct Scripted {
    open: Arc<Mutex<Vec<Arc<dyn Subscriber>>>>,
    retained: Mutex<Vec<Arc<Message>>>,
    /// What another thread publishes when the retained messages have been given, before the reader knows.
    meanwhile: Mutex<Vec<Arc<Message>>>,
    refuses: bool,
}

struct Guard {
    subscriber: Arc<dyn Subscriber>,
    open: Arc<Mutex<Vec<Arc<dyn Subscriber>>>>,
    retained: Vec<Arc<Message>>,
    meanwhile: Vec<Arc<Message>>,
}

#[async_trait]
impl Shared for Guard {
    async fn replay(&self, reader: u64) -> Result<(), BrokerError> {
        self.retained.iter().for_each(|message| self.subscriber.replay(reader, message));
        self.subscriber.replayed(reader);
        self.meanwhile.iter().for_each(|message| self.subscriber.deliver(message));
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        lock(&self.open).retain(|open| !Arc::ptr_eq(open, &self.subscriber));
    }
}

#[async_trait]
impl Link for Scripted {
    async fn share(&self, _: SharedSource, subscriber: Arc<dyn Subscriber>) -> Result<Box<dyn Shared>, BrokerError> {
        tokio::task::yield_now().await;
        if self.refuses {
            return Err(BrokerError::Unavailable);
        }
        lock(&self.open).push(Arc::clone(&subscriber));
        let (retained, meanwhile) = (lock(&self.retained).clone(), lock(&self.meanwhile).clone());
        Ok(Box::new(Guard { subscriber, open: Arc::clone(&self.open), retained, meanwhile }))
    }

    fn capabilities(&self) -> Capabilities {
        unreachable!()
    }
    fn try_reserve(&self) -> Option<Permit> {
        unreachable!()
    }
    async fn reserve(&self) -> Result<Permit, BrokerError> {
        unreachable!()
    }
    fn publish(&self, _: Permit, _: Message) -> Confirmation {
        unreachable!()
    }
    async fn subscribe(&self, _: Subscribe) -> Result<Box<dyn Subscription>, BrokerError> {
        unreachable!()
    }
    fn settle(&self, _: &[DeliveryId], _: Settlement) -> Confirmation {
        unreachable!()
    }
    async fn commit(&self, _: Transaction) -> Result<Confirmation, BrokerError> {
        unreachable!()
    }
    async fn delete_durable(&self, _: &DurableName) -> Result<(), BrokerError> {
        unreachable!()
    }
}

impl Scripted {
    /// What the only open subscription calls.
    fn subscriber(&self) -> Arc<dyn Subscriber> {
        let open = lock(&self.open);
        assert_eq!(open.len(), 1, "one subscription at the broker");
        Arc::clone(&open[0])
    }
}

fn message(name: &'static str, body: &'static str) -> Arc<Message> {
    let destination = Destination::Topic(Pattern::canonical(name));
    let (headers, options) = (Headers::new(), PublishOptions::default());
    Arc::new(Message { destination, headers, body: Bytes::from(body), options })
}

fn retained(name: &'static str, body: &'static str) -> Arc<Message> {
    let options = PublishOptions { retain: true, ..PublishOptions::default() };
    Arc::new(Message { options, ..Arc::unwrap_or_clone(message(name, body)) })
}

fn topic(pattern: &'static str) -> SharedSource {
    SharedSource::Topic(Pattern::canonical(pattern))
}

fn reader(id: &'static str, version: Version) -> Reader {
    Reader { subscription: Some(id.into()), spelling: Spelling::Slash, version }
}

fn outbox() -> Arc<Outbox> {
    Arc::new(Outbox::new(Arc::new(Settings::default()), Arc::default()))
}

fn items(outbox: &Outbox) -> (Vec<Item>, Option<Signal>) {
    let mut batch = std::collections::VecDeque::new();
    let signal = outbox.poll(&mut Context::from_waker(Waker::noop()), usize::MAX, &mut batch);
    outbox.written(now());
    (batch.into(), signal)
}

fn taken(outbox: &Outbox) -> (Vec<Bytes>, Option<Signal>) {
    let (items, signal) = items(outbox);
    (items.into_iter().map(|item| item.frame).collect(), signal)
}

fn texts(outbox: &Outbox) -> Vec<String> {
    taken(outbox).0.iter().map(|frame| String::from_utf8(frame.to_vec()).unwrap()).collect()
}

fn hub() -> Hub {
    Hub::new(&Settings::default(), Separators::Both, Arc::default(), Traces::default())
}

struct Joined {
    outbox: Arc<Outbox>,
    membership: Membership,
}

async fn join(hub: &Hub, link: &Arc<dyn Link>, pattern: &'static str, reader: Reader) -> Joined {
    join_with(hub, link, pattern, reader, outbox()).await
}

async fn join_with(
    hub: &Hub,
    link: &Arc<dyn Link>,
    pattern: &'static str,
    reader: Reader,
    outbox: Arc<Outbox>,
) -> Joined {
    let membership = hub.subscribe(link, topic(pattern), reader, Arc::clone(&outbox)).await.unwrap();
    Joined { outbox, membership }
}

fn scripted() -> (Arc<Scripted>, Arc<dyn Link>) {
    let link = Arc::new(Scripted::default());
    (Arc::clone(&link), link)
}

#[tokio::test]
async fn any_number_of_readers_is_one_subscription_at_the_broker() {
    let (script, link) = scripted();
    let hub = hub();
    let mut joined = Vec::new();
    for _ in 0..100 {
        joined.push(join(&hub, &link, "a/#", reader("sub-0", Version::V12)).await);
    }
    script.subscriber().deliver(&message("a/b", "x"));
    for Joined { outbox, .. } in &joined {
        assert_eq!(taken(outbox).0.len(), 1);
    }
    assert_eq!(hub.sources(), 1);
    drop(joined);
    assert!(lock(&script.open).is_empty(), "the last reader closes it");
    assert_eq!(hub.sources(), 0);
}

#[tokio::test]
async fn equal_readers_share_the_same_bytes() {
    let (script, link) = scripted();
    let hub = hub();
    let one = join(&hub, &link, "a", reader("sub-0", Version::V12)).await;
    let two = join(&hub, &link, "a", reader("sub-0", Version::V12)).await;
    let other = join(&hub, &link, "a", reader("sub-1", Version::V11)).await;
    script.subscriber().deliver(&message("a", "x"));
    let (one, two, other) = (taken(&one.outbox).0, taken(&two.outbox).0, taken(&other.outbox).0);
    assert_eq!(one[0].as_ptr(), two[0].as_ptr());
    assert!(other[0].starts_with(b"MESSAGE\nsubscription:sub-1\nmessage-id:T0\n"), "{other:?}");
}

#[tokio::test]
async fn a_reader_that_left_gets_nothing_and_the_others_everything() {
    let (script, link) = scripted();
    let hub = hub();
    let stays = join(&hub, &link, "a", reader("sub-0", Version::V12)).await;
    let leaves = join(&hub, &link, "a", reader("sub-0", Version::V12)).await;
    drop(leaves.membership);
    script.subscriber().deliver(&message("a", "x"));
    assert_eq!((taken(&stays.outbox).0.len(), taken(&leaves.outbox).0.len()), (1, 0));
}

#[tokio::test]
async fn readers_that_come_at_once_wait_for_the_same_subscription() {
    let (script, link) = scripted();
    let hub = hub();
    let both = tokio::join!(
        join(&hub, &link, "a", reader("sub-0", Version::V12)),
        join(&hub, &link, "a", reader("sub-0", Version::V12)),
    );
    script.subscriber().deliver(&message("a", "x"));
    assert_eq!((taken(&both.0.outbox).0.len(), taken(&both.1.outbox).0.len()), (1, 1));
}

#[tokio::test]
async fn a_refused_subscription_leaves_nothing_behind() {
    let link: Arc<dyn Link> = Arc::new(Scripted { refuses: true, ..Scripted::default() });
    let hub = hub();
    let refused = hub.subscribe(&link, topic("a"), reader("sub-0", Version::V12), outbox()).await;
    assert_eq!(refused.err(), Some(BrokerError::Unavailable));
    assert_eq!(hub.sources(), 0);
}

#[tokio::test]
async fn every_new_reader_gets_the_retained_messages_once() {
    let (script, link) = scripted();
    let hub = hub();
    *lock(&script.retained) = vec![retained("a", "old")];
    let one = join(&hub, &link, "a", reader("sub-0", Version::V12)).await;
    assert_eq!(taken(&one.outbox).0.len(), 1);
    let two = join(&hub, &link, "a", reader("sub-0", Version::V12)).await;
    assert_eq!((taken(&one.outbox).0.len(), taken(&two.outbox).0.len()), (0, 1));
    script.subscriber().deliver(&retained("a", "new"));
    assert_eq!((taken(&one.outbox).0.len(), taken(&two.outbox).0.len()), (1, 1));
}

#[tokio::test]
async fn what_is_retained_between_the_replay_and_its_return_is_not_lost() {
    let (script, link) = scripted();
    *lock(&script.retained) = vec![retained("a", "old")];
    *lock(&script.meanwhile) = vec![retained("a", "new")];
    let one = join(&hub(), &link, "a", reader("sub-0", Version::V12)).await;
    let frames = texts(&one.outbox);
    assert!(frames.len() == 2 && frames[0].ends_with("old\0") && frames[1].ends_with("new\0"), "{frames:?}");
}

#[tokio::test]
async fn after_a_break_the_first_message_says_that_some_may_be_missing() {
    let (script, link) = scripted();
    let hub = hub();
    let Joined { outbox, membership: _membership } = join(&hub, &link, "a", reader("sub-0", Version::V12)).await;
    script.subscriber().restored();
    script.subscriber().deliver(&message("a", "x"));
    script.subscriber().deliver(&message("a", "y"));
    let frames = texts(&outbox);
    assert!(frames[0].contains("\ngap:true\n") && !frames[1].contains("gap"), "{frames:?}");
}

#[tokio::test]
async fn a_subscription_that_ended_ends_its_sessions() {
    let (script, link) = scripted();
    let hub = hub();
    let Joined { outbox, membership: _membership } = join(&hub, &link, "a", reader("sub-0", Version::V12)).await;
    script.subscriber().ended(&BrokerError::NotAuthenticated("ada".into()));
    assert_eq!(taken(&outbox).1, Some(Signal::End(Box::new(Refusal::not_authenticated("ada")))));
}

#[tokio::test]
async fn whoever_comes_after_the_end_gets_a_subscription_that_lives() {
    let (script, link) = scripted();
    let hub = hub();
    let dead = join(&hub, &link, "a", reader("sub-0", Version::V12)).await;
    script.subscriber().ended(&BrokerError::Unavailable);
    lock(&script.open).clear();
    let alive = join(&hub, &link, "a", reader("sub-0", Version::V12)).await;
    drop(dead);
    script.subscriber().deliver(&message("a", "x"));
    assert_eq!((taken(&alive.outbox).0.len(), hub.sources()), (1, 1));
    drop(alive);
    assert_eq!(hub.sources(), 0);
}

#[tokio::test]
async fn the_first_policy_that_matches_counts_and_conflation_stays_within_a_subscription() {
    let policy = |destination: &str, when_full, key: Option<&str>| OutboxPolicy {
        destination: destination.into(),
        when_full,
        key: key.map(str::to_owned),
    };
    let settings = Settings {
        policy: vec![
            policy("/topic/prices/#", WhenFull::Conflate, Some("symbol")),
            policy("/topic/**", WhenFull::DropOldest, None),
        ],
        ..Settings::default()
    };
    let common = Hub::new(&settings, Separators::Both, Arc::default(), Traces::default()).0.common.clone();
    let mut price = Arc::unwrap_or_clone(message("prices/x", ""));
    price.headers.push("symbol", "ACME");
    let policy = common.policy(&price);
    assert_eq!(policy.when_full, WhenFull::Conflate);
    let (one, other) = (policy.of(&reader("sub-0", Version::V12)), policy.of(&reader("sub-1", Version::V12)));
    assert_ne!(one.key, other.key);
    assert_eq!(common.policy(&message("other", "")), Policy { when_full: WhenFull::DropOldest, key: None });
}

#[tokio::test]
async fn a_frame_is_compressed_once_for_all_who_are_sent_it_so() {
    let (script, link) = scripted();
    let hub = hub();
    let compressed = || Arc::new(Outbox::new(Arc::new(Settings::default()), Arc::default()).compressed());
    let same = || reader("0", Version::V12);
    let first = join_with(&hub, &link, "a", same(), compressed()).await;
    let second = join_with(&hub, &link, "a", same(), compressed()).await;
    let other = join_with(&hub, &link, "a", reader("1", Version::V12), compressed()).await;
    let plain = join(&hub, &link, "a", same()).await;
    script.subscriber().deliver(&message("a", "hello"));

    let shared = |joined: &Joined| items(&joined.outbox).0.remove(0).compressed;
    let made = |joined: &Joined, new| shared(joined).unwrap().get_or_make(|| Some(Bytes::from_static(new)));
    assert_eq!(made(&first, b"made").unwrap(), "made");
    assert_eq!(made(&second, b"made again").unwrap(), "made");
    assert_eq!(made(&other, b"made for another id").unwrap(), "made for another id");
    assert!(shared(&plain).is_none());
}
