//! Plain topic subscriptions: one at the broker for each filter, however many read it here.
//!
//! Where the broker says which subscription a message is for (MQTT 5), one connection carries all of them, and each
//! message is handed to the readers of the filters that it names. Where it does not, a message that two filters match
//! may come once or twice, and nobody can tell: so filters that overlap go to different connections ("lanes"), on each
//! of which a message comes once, and is matched against all that is read there.
//!
//! Retained messages are not kept here. For a reader that comes later, the filter is subscribed to again, and the broker
//! sends them again, marked as such. There is no mark for the last one; so a message to ourselves follows, and when
//! that is back, they are all there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::connection::{Connector, Line, Live, Plan};
use super::names::{self, FENCES, Wanted};
use super::properties::Reading;
use super::settings::{Settings, Version};
use super::wire::{Answer, Arrival, Filter, Packet, Subscribed};
use crate::broker::base64::base64url;
use crate::broker::{BrokerError, Shared, SharedSource, Subscriber};
use crate::message::Pattern;

/// A message to ourselves is back within this time, or is not waited for: a broker may not let us publish it.
pub(super) const FENCE: Duration = Duration::from_secs(2);
/// So many subscriptions are on their way at a time when all are made again.
const BATCH: usize = 64;

/// All shared subscriptions of a link.
pub(super) struct SharedTopics {
    connector: Arc<Connector>,
    common: Arc<Common>,
    lanes: Mutex<Vec<Arc<Lane>>>,
    max_lanes: usize,
}

struct Common {
    reading: Reading,
    qos: u8,
    linger: Duration,
}

/// A connection, and what is read through it.
struct Lane {
    common: Arc<Common>,
    line: Arc<Line>,
    index: Mutex<Index>,
    /// The connection on which all subscriptions are there.
    open: watch::Sender<Option<Arc<Live>>>,
}

#[derive(Default)]
struct Index {
    next: u64,
    next_identifier: usize,
    filters: HashMap<String, Upstream>,
    /// From what a message carries to the filter that it came by.
    identifiers: HashMap<usize, String>,
    /// Messages to ourselves that are not back, by their topics.
    fences: HashMap<String, oneshot::Sender<()>>,
}

/// One subscription at the broker.
struct Upstream {
    identifier: usize,
    readers: HashMap<u64, Reader>,
    /// Since when there are none.
    idle: Option<Instant>,
    /// Who is being given the retained messages, and who is next.
    replaying: Vec<Replay>,
    waiting: Vec<Replay>,
}

#[derive(Clone)]
struct Reader {
    pattern: Pattern,
    subscriber: Arc<dyn Subscriber>,
    /// It has been told that nothing is missed from then on.
    is_open: bool,
}

struct Replay {
    reader: Reader,
    number: u64,
    done: oneshot::Sender<Result<(), BrokerError>>,
}

/// Keeps a shared subscription open.
struct Guard {
    lane: Arc<Lane>,
    filter: String,
    pattern: Pattern,
    key: u64,
    subscriber: Arc<dyn Subscriber>,
}

impl SharedTopics {
    /// Nothing is read yet; the first connection is made now.
    pub(super) fn start(settings: &Settings, reading: Reading, connector: &Arc<Connector>) -> Self {
        let common = Arc::new(Common { reading, qos: settings.subscribe_qos, linger: settings.linger });
        let first = Lane::start(&common, connector);
        SharedTopics {
            connector: Arc::clone(connector),
            common,
            lanes: Mutex::new(vec![first]),
            max_lanes: settings.max_lanes,
        }
    }

    /// Opens a shared subscription; waits for the broker if need be.
    pub(super) async fn share(
        &self,
        source: SharedSource,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Box<dyn Shared>, BrokerError> {
        let (wanted, pattern) = match source {
            SharedSource::Topic(pattern) => (self.common.reading.names.filter(&pattern)?, pattern),
            SharedSource::User { user, name } => (names::user_filter(&user, &name)?, names::of_user(&user, &name)),
            SharedSource::Exchange { .. } => return Err(names::no_exchanges()),
        };
        let granted = self.first().open().await?.granted.clone();
        if !granted.wildcards && wanted.filter.contains(['+', '#']) {
            let why = "the MQTT broker has no subscriptions with wildcards; name one topic".to_owned();
            return Err(BrokerError::Unsupported { what: format!("the pattern {pattern}"), why });
        }
        let guard = self.register(wanted, pattern, subscriber, granted.identifiers)?;
        guard.subscribe().await?;
        Ok(Box::new(guard))
    }

    /// Finds the lane for a filter: the one that has it, or the first where it overlaps with nothing.
    fn register(
        &self,
        wanted: Wanted,
        pattern: Pattern,
        subscriber: Arc<dyn Subscriber>,
        identifiers: bool,
    ) -> Result<Guard, BrokerError> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |lane: &&Arc<Lane>| {
            let index = lane.index();
            index.filters.contains_key(&wanted.filter)
                || identifiers
                || !index.filters.keys().any(|other| overlap(other, &wanted.filter))
        };
        let has = |lane: &&Arc<Lane>| lane.index().filters.contains_key(&wanted.filter);
        let found = lanes.iter().find(has).or_else(|| lanes.iter().find(fits)).cloned();
        let lane = match found {
            Some(lane) => lane,
            None if lanes.len() < self.max_lanes => {
                let lane = Lane::start(&self.common, &self.connector);
                lanes.push(Arc::clone(&lane));
                lane
            }
            None => {
                return Err(BrokerError::LimitExceeded {
                    what: "topic patterns that overlap each other".to_owned(),
                    limit: self.max_lanes,
                    setting: "broker.mqtt.max_lanes",
                });
            }
        };
        Ok(Guard::register(&lane, wanted.filter, pattern, subscriber))
    }

    /// Reads one topic of our own.
    pub(super) async fn listen(
        &self,
        topic: String,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Box<dyn Shared>, BrokerError> {
        let identifiers = self.first().open().await?.granted.identifiers;
        let pattern = Pattern::name(topic.split('/'));
        let wanted = Wanted { filter: topic, is_wider: false };
        let guard = self.register(wanted, pattern, subscriber, identifiers)?;
        guard.subscribe().await?;
        Ok(Box::new(guard))
    }

    /// Ends what [`SharedTopics::listen`] began, without lingering; comes back when the broker has done it, too.
    pub(super) async fn close_now(&self, topic: &str) {
        if let Some(answer) = self.forget(topic) {
            answer.await;
        }
    }

    /// The same, for those who do not wait.
    pub(super) fn forget(&self, topic: &str) -> Option<Answer<()>> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lane = lanes.iter().find(|lane| lane.index().filters.contains_key(topic))?;
        lane.remove(topic)?;
        lane.line.now().map(|live| live.client.unsubscribe(topic.to_owned()))
    }

    /// How many filters are subscribed to.
    pub(super) fn filters(&self) -> usize {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.iter().map(|lane| lane.index().filters.len()).sum()
    }

    fn first(&self) -> Arc<Lane> {
        Arc::clone(&self.lanes.lock().unwrap_or_else(PoisonError::into_inner)[0])
    }
}

impl Guard {
    /// Counts a reader in.
    fn register(lane: &Arc<Lane>, filter: String, pattern: Pattern, subscriber: Arc<dyn Subscriber>) -> Self {
        let mut index = lane.index();
        let key = index.next;
        index.next += 1;
        if !index.filters.contains_key(&filter) {
            index.next_identifier += 1;
            let identifier = index.next_identifier;
            index.identifiers.insert(identifier, filter.clone());
            let upstream = Upstream {
                identifier,
                readers: HashMap::new(),
                idle: None,
                replaying: Vec::new(),
                waiting: Vec::new(),
            };
            index.filters.insert(filter.clone(), upstream);
        }
        if let Some(upstream) = index.filters.get_mut(&filter) {
            let reader = Reader { pattern: pattern.clone(), subscriber: Arc::clone(&subscriber), is_open: false };
            upstream.readers.insert(key, reader);
            upstream.idle = None;
        }
        drop(index);
        Guard { lane: Arc::clone(lane), filter, pattern, key, subscriber }
    }

    /// Comes back when the broker has granted the subscription. (Twice costs it next to nothing.)
    async fn subscribe(&self) -> Result<(), BrokerError> {
        let mut attempt = 0;
        loop {
            let live = self.lane.open().await?;
            match self.lane.send(&live, &self.filter, false).await {
                Subscribed::Granted(qos) => {
                    self.lane.let_pass(&live, qos).await;
                    self.lane.set_open(&self.filter, self.key);
                    return Ok(());
                }
                Subscribed::Lost => {}
                refused => return Err(refused.told(&format!("the topic {}", self.pattern))),
            }
            attempt += 1;
            self.lane.line.connector().pause(attempt).await;
        }
    }
}

#[async_trait]
impl Shared for Guard {
    async fn replay(&self, reader: u64) -> Result<(), BrokerError> {
        let live = self.lane.open().await?;
        if !live.granted.retain {
            self.subscriber.replayed(reader);
            return Ok(());
        }
        let (done, answer) = oneshot::channel();
        let replay = Replay {
            reader: Reader { pattern: self.pattern.clone(), subscriber: Arc::clone(&self.subscriber), is_open: true },
            number: reader,
            done,
        };
        // One round at a time for each filter; whoever comes meanwhile shares the next.
        let is_first = {
            let mut index = self.lane.index();
            let upstream = index.filters.get_mut(&self.filter).ok_or(BrokerError::Unavailable)?;
            upstream.waiting.push(replay);
            upstream.replaying.is_empty() && upstream.waiting.len() == 1
        };
        if is_first {
            tokio::spawn(replay_all(Arc::clone(&self.lane), self.filter.clone()));
        }
        answer.await.unwrap_or(Err(BrokerError::Unavailable))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut index = self.lane.index();
        let gone = index.filters.get_mut(&self.filter).and_then(|upstream| {
            let gone = upstream.readers.remove(&self.key);
            upstream.idle = upstream.readers.is_empty().then(Instant::now);
            gone
        });
        drop(index);
        drop(gone); // its end is no business of our lock
    }
}

/// Round after round, until nobody waits.
async fn replay_all(lane: Arc<Lane>, filter: String) {
    loop {
        {
            let mut index = lane.index();
            let Some(upstream) = index.filters.get_mut(&filter) else { return };
            if upstream.waiting.is_empty() {
                return;
            }
            upstream.replaying = std::mem::take(&mut upstream.waiting);
        }
        let outcome = lane.replay(&filter).await;
        let served = match lane.index().filters.get_mut(&filter) {
            Some(upstream) => std::mem::take(&mut upstream.replaying),
            None => Vec::new(),
        };
        for replay in served {
            replay.reader.subscriber.replayed(replay.number);
            let _ = replay.done.send(outcome.clone()); // whoever asked may be gone
        }
    }
}

impl Lane {
    fn start(common: &Arc<Common>, connector: &Arc<Connector>) -> Arc<Lane> {
        let lane = Arc::new_cyclic(|weak: &Weak<Lane>| {
            let weak = weak.clone();
            let sink = move |_: &Arc<Live>, arrival: Arrival| {
                if let Some(lane) = weak.upgrade() {
                    lane.deliver(&arrival);
                }
            };
            Lane {
                common: Arc::clone(common),
                line: Line::start(connector, Plan::shared("shared"), sink),
                index: Mutex::default(),
                open: watch::Sender::new(None),
            }
        });
        tokio::spawn(Arc::clone(&lane).run());
        lane
    }

    async fn run(self: Arc<Self>) {
        let mut first = true;
        while let Ok(live) = self.line.up().await {
            if !self.begin(&live).await {
                self.line.gone(live.generation).await;
                continue;
            }
            if !std::mem::take(&mut first) {
                for reader in self.everybody().iter().filter(|reader| reader.is_open) {
                    reader.subscriber.restored();
                }
            }
            self.open.send_replace(Some(Arc::clone(&live)));
            self.watch(&live).await;
            self.open.send_replace(None);
        }
        for reader in self.everybody() {
            reader.subscriber.ended(&BrokerError::Unavailable);
        }
    }

    /// Makes all subscriptions again; whether the connection held that long.
    async fn begin(&self, live: &Live) -> bool {
        let filters: Vec<_> = self.index().filters.keys().cloned().collect();
        for batch in filters.chunks(BATCH) {
            let answers: Vec<_> = batch.iter().map(|filter| (filter, self.send(live, filter, false))).collect();
            for (filter, answer) in answers {
                match answer.await {
                    Subscribed::Granted(_) => {}
                    Subscribed::Lost => return false,
                    refused => self.end(filter, refused),
                }
            }
        }
        if !filters.is_empty() {
            self.let_pass(live, self.common.qos).await;
        }
        true
    }

    /// Lets go of what nobody reads, until the connection breaks.
    async fn watch(&self, live: &Live) {
        let mut tick = tokio::time::interval((self.common.linger / 2).max(Duration::from_millis(50)));
        loop {
            tokio::select! {
                _ = tick.tick() => self.unsubscribe_idle(live),
                () = self.line.gone(live.generation) => return,
            }
        }
    }

    /// On the task that drives the connection.
    fn deliver(&self, arrival: &Arrival) {
        if arrival.topic.starts_with(FENCES) {
            if let Some(fence) = self.index().fences.remove(&*arrival.topic) {
                let _ = fence.send(()); // whoever waited may have given up
            }
            return;
        }
        let Some((name, destination)) = names::read(&arrival.topic) else { return };
        let mut readers = Vec::new();
        let mut replays = Vec::new();
        {
            let index = self.index();
            for upstream in index.meant(arrival) {
                if arrival.retain {
                    let wanted = upstream.replaying.iter().filter(|replay| replay.reader.pattern.matches(&name));
                    replays.extend(wanted.map(|replay| (Arc::clone(&replay.reader.subscriber), replay.number)));
                } else {
                    let wanted = upstream.readers.values().filter(|reader| reader.pattern.matches(&name));
                    readers.extend(wanted.map(|reader| Arc::clone(&reader.subscriber)));
                }
            }
        }
        if readers.is_empty() && replays.is_empty() {
            return; // the filter is wider than the pattern, or lingers
        }
        let message = Arc::new(self.common.reading.message(destination, arrival));
        for subscriber in readers {
            subscriber.deliver(&message);
        }
        for (subscriber, reader) in replays {
            subscriber.replay(reader, &message);
        }
    }

    /// Has the broker send the retained messages of a filter, and comes back when they are there.
    async fn replay(&self, filter: &str) -> Result<(), BrokerError> {
        loop {
            let live = self.open().await?;
            match self.send(&live, filter, true).await {
                Subscribed::Granted(qos) => {
                    self.fence(&live, qos).await;
                    return Ok(());
                }
                Subscribed::Lost => self.line.connector().pause(0).await,
                refused => return Err(refused.told(&format!("the topic {filter}"))),
            }
        }
    }

    /// Lets the retained messages go by that nobody has asked for: under 3.1.1, each SUBSCRIBE brings them.
    async fn let_pass(&self, live: &Live, qos: u8) {
        if self.common.reading.version == Version::V311 {
            self.fence(live, qos).await;
        }
    }

    /// Sends a message to ourselves, at the same quality of service as what it follows, and waits for it.
    async fn fence(&self, live: &Live, qos: u8) {
        let mut random = [0; 16];
        if getrandom::fill(&mut random).is_err() {
            return;
        }
        let topic = format!("{FENCES}{}", base64url(&random));
        let (passed, fence) = oneshot::channel();
        self.index().fences.insert(topic.clone(), passed);
        let filter = Filter { path: topic.clone(), qos, retained: false, identifier: None };
        let there_and_back = async {
            let Subscribed::Granted(_) = live.client.subscribe(&filter).await else { return false };
            let packet = Packet { topic: topic.clone(), qos, ..Packet::default() };
            // Not awaited: what counts is that it comes back.
            let _published = live.client.publish(packet);
            fence.await.is_ok()
        };
        if !tokio::time::timeout(FENCE, there_and_back).await.unwrap_or_default() {
            debug!("the broker does not let the gateway talk to itself below {FENCES}");
        }
        self.index().fences.remove(&topic);
        drop(live.client.unsubscribe(topic));
    }

    /// Hands a SUBSCRIBE over at once.
    fn send(&self, live: &Live, filter: &str, retained: bool) -> Answer<Subscribed> {
        let identifier = self.index().filters.get(filter).map(|upstream| upstream.identifier);
        let identifier = identifier.filter(|_| live.granted.identifiers);
        let qos = self.common.qos.min(live.granted.max_qos);
        live.client.subscribe(&Filter { path: filter.to_owned(), qos, retained, identifier })
    }

    fn unsubscribe_idle(&self, live: &Live) {
        let mut index = self.index();
        let Index { filters, identifiers, .. } = &mut *index;
        // Handed over under the lock: so whoever subscribes again comes after this.
        filters.retain(|filter, upstream| {
            let is_over = upstream.idle.is_some_and(|since| since.elapsed() >= self.common.linger);
            if is_over {
                identifiers.remove(&upstream.identifier);
                drop(live.client.unsubscribe(filter.clone()));
            }
            !is_over
        });
    }

    /// The broker does not want this filter any more.
    fn end(&self, filter: &str, refused: Subscribed) {
        warn!(filter, ?refused, "the broker does not grant a subscription again");
        let reason = refused.told(&format!("the topic {filter}"));
        for reader in self.remove(filter).into_iter().flat_map(|upstream| upstream.readers.into_values()) {
            reader.subscriber.ended(&reason);
        }
    }

    fn remove(&self, filter: &str) -> Option<Upstream> {
        let mut index = self.index();
        let gone = index.filters.remove(filter);
        gone.inspect(|upstream| _ = index.identifiers.remove(&upstream.identifier))
    }

    /// The connection, when all subscriptions are there. `Err` when the broker is closed.
    async fn open(&self) -> Result<Arc<Live>, BrokerError> {
        let mut open = self.open.subscribe();
        tokio::select! {
            biased;
            () = self.line.connector().closed() => Err(BrokerError::Unavailable),
            open = open.wait_for(Option::is_some) => {
                open.ok().and_then(|open| open.clone()).ok_or(BrokerError::Unavailable)
            }
        }
    }

    fn set_open(&self, filter: &str, key: u64) {
        let mut index = self.index();
        let reader = index.filters.get_mut(filter).and_then(|upstream| upstream.readers.get_mut(&key));
        if let Some(reader) = reader {
            reader.is_open = true;
        }
    }

    fn everybody(&self) -> Vec<Reader> {
        let index = self.index();
        index.filters.values().flat_map(|upstream| upstream.readers.values()).cloned().collect()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    /// The subscriptions that a message came by, as far as the broker says it.
    fn meant<'a>(&'a self, arrival: &'a Arrival) -> Box<dyn Iterator<Item = &'a Upstream> + 'a> {
        if arrival.subscriptions.is_empty() {
            return Box::new(self.filters.values());
        }
        let named = arrival.subscriptions.iter().filter_map(|identifier| self.identifiers.get(identifier));
        Box::new(named.filter_map(|filter| self.filters.get(filter)))
    }
}

/// Whether one topic can match both filters.
fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(one), Some(other)) if one == other || one == "+" || other == "+" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_overlap_where_one_topic_matches_both() {
        for (one, other) in [("a/#", "a/b"), ("a/+", "+/b"), ("#", "a"), ("a/#", "a"), ("a", "a"), ("+/+/c", "a/#")] {
            assert!(overlap(one, other) && overlap(other, one), "{one} {other}");
        }
        for (one, other) in [("a/b", "a/c"), ("a/+", "a"), ("a/+", "a/b/c"), ("a/#", "b/#"), ("a", "a/b")] {
            assert!(!overlap(one, other) && !overlap(other, one), "{one} {other}");
        }
    }
}
