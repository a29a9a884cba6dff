//! A connection, and all the filters that are read through it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch};
use tracing::{debug, warn};

use super::Common;
use super::index::{Index, Reader, Upstream};
use crate::broker::BrokerError;
use crate::broker::mqtt::connection::{Connector, Line, Live, Plan};
use crate::broker::mqtt::fence::{Fences, while_moving};
use crate::broker::mqtt::names::{self, FENCES};
use crate::broker::mqtt::settings::Version;
use crate::broker::mqtt::upstream::{Attempts, DEADLY, SUSPECT, deadly};
use crate::broker::mqtt::wire::{Answer, Arrival, Filter, Subscribed};

/// So many subscriptions are on their way at a time when all are made again.
const BATCH: usize = 64;
/// Before the first connection nobody can have missed anything.
const FIRST: u64 = 1;

/// A connection, and what is read through it.
pub(super) struct Lane {
    common: Arc<Common>,
    pub(super) line: Arc<Line>,
    index: Mutex<Index>,
    fences: Fences,
    /// How many retained messages have come.
    old_values: AtomicU64,
    /// Whoever subscribes shares this; one that may be what breaks the connection has it for itself.
    turns: RwLock<()>,
    /// The connection on which all subscriptions are there.
    open: watch::Sender<Option<Arc<Live>>>,
    /// The last connection whose readers know that they may have missed something before it.
    told: Mutex<u64>,
}

/// The right to subscribe, held for its drop.
enum Turn<'a> {
    Alone(#[allow(dead_code, reason = "held")] RwLockWriteGuard<'a, ()>),
    Among(#[allow(dead_code, reason = "held")] RwLockReadGuard<'a, ()>),
}

impl Lane {
    pub(super) fn start(common: &Arc<Common>, connector: &Arc<Connector>) -> Arc<Lane> {
        let lane = Arc::new_cyclic(|weak: &Weak<Lane>| {
            let weak = weak.clone();
            let sink = move |live: &Arc<Live>, arrival: Arrival| {
                if let Some(lane) = weak.upgrade() {
                    lane.tell_restored(live);
                    lane.deliver(&arrival);
                }
            };
            Lane {
                common: Arc::clone(common),
                line: Line::start(connector, Plan::shared("shared"), sink),
                index: Mutex::default(),
                fences: Fences::default(),
                old_values: AtomicU64::new(0),
                turns: RwLock::new(()),
                open: watch::Sender::new(None),
                told: Mutex::new(FIRST),
            }
        });
        tokio::spawn(Arc::clone(&lane).run());
        lane
    }

    async fn run(self: Arc<Self>) {
        let mut failed = 0;
        while let Ok(live) = self.line.up().await {
            if !self.begin(&live, failed).await {
                failed += 1;
                self.line.gone(live.generation).await;
                continue;
            }
            failed = 0;
            self.tell_restored(&live);
            self.open.send_replace(Some(Arc::clone(&live)));
            self.watch(&live).await;
            self.open.send_replace(None);
        }
        for reader in self.everybody() {
            reader.subscriber.ended(&BrokerError::Unavailable);
        }
    }

    /// Tells those who were there before that they may have missed something, ahead of what comes by this connection.
    fn tell_restored(&self, live: &Live) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != live.generation {
            *told = live.generation;
            for reader in self.everybody().iter().filter(|reader| reader.is_open) {
                reader.subscriber.restored();
            }
        }
    }

    /// Makes all subscriptions again that the broker has granted and somebody reads; whether the connection held that
    /// long. What is new is asked for by its reader alone.
    async fn begin(&self, live: &Live, failed: u32) -> bool {
        let filters = self.index().wanted();
        if failed >= SUSPECT {
            return self.begin_singly(live, filters).await;
        }
        for batch in filters.chunks(BATCH) {
            let answers: Vec<_> = batch.iter().map(|filter| (filter, self.send(live, filter, false))).collect();
            for (filter, answer) in answers {
                match answer.await {
                    Subscribed::Granted(_) => {}
                    Subscribed::Lost => return false,
                    refused => self.end(filter, &refused.told(&format!("the topic {filter}"))),
                }
            }
        }
        filters.is_empty() || !self.brings_old_values(false) || self.fence(live, self.common.qos).await
    }

    /// The same, one by one: so what breaks the connection each time is found, and given up.
    async fn begin_singly(&self, live: &Live, filters: Vec<String>) -> bool {
        if !live.client.answers().await {
            return false; // that was none of theirs
        }
        for filter in filters {
            let what = format!("the topic {filter}");
            let answer = self.send(live, &filter, false).await;
            if !live.client.answers().await {
                if self.index().broke(&filter) >= DEADLY {
                    self.end(&filter, &deadly(&what, &filter));
                }
                return false;
            }
            match answer {
                Subscribed::Granted(_) => self.index().held(&filter),
                refused => self.end(&filter, &refused.told(&what)),
            }
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
        if self.fences.passed(&arrival.topic) {
            return;
        }
        self.old_values.fetch_add(u64::from(arrival.retain), Ordering::Relaxed);
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

    /// Subscribes, and comes back when the broker has granted it and sent the retained messages that it brings. (Twice costs
    /// it next to nothing.)
    pub(super) async fn make(&self, filter: &str, what: &str, retained: bool) -> Result<(), BrokerError> {
        let mut attempts = Attempts::at(format!("the topic {what}"));
        loop {
            let turn = self.turn(attempts.is_suspect()).await;
            let live = self.open().await?;
            if let Some(qos) = attempts.on(&live, &self.filter(&live, filter, retained)).await? {
                let _alone = attempts.is_suspect().then_some(turn);
                if !self.brings_old_values(retained) || self.fence(&live, qos).await {
                    self.index().held(filter);
                    return Ok(());
                }
                attempts.lose(filter)?;
            }
            self.line.connector().pause(attempts.lost()).await;
        }
    }

    async fn turn(&self, alone: bool) -> Turn<'_> {
        if alone { Turn::Alone(self.turns.write().await) } else { Turn::Among(self.turns.read().await) }
    }

    /// Whether a SUBSCRIBE brings retained messages: under 3.1.1 each does, whether somebody wants them or not.
    fn brings_old_values(&self, wanted: bool) -> bool {
        wanted || self.common.reading.version == Version::V311
    }

    /// Comes back when the last values are here that a subscription has brought. `false`: the connection is gone.
    async fn fence(&self, live: &Live, qos: u8) -> bool {
        let values = || self.old_values.load(Ordering::Relaxed);
        if while_moving(values, self.fences.pass(live, qos)).await == Some(true) {
            return live.client.is_alive();
        }
        // Whoever drives the connection may not have noticed its end yet.
        let holds = live.client.answers().await;
        if holds {
            debug!("the broker does not let the gateway talk to itself below {FENCES}");
        }
        holds
    }

    /// Hands a SUBSCRIBE over at once.
    fn send(&self, live: &Live, filter: &str, retained: bool) -> Answer<Subscribed> {
        live.client.subscribe(&self.filter(live, filter, retained))
    }

    fn filter(&self, live: &Live, filter: &str, retained: bool) -> Filter {
        let identifier = self.index().filters.get(filter).map(|upstream| upstream.identifier);
        let identifier = identifier.filter(|_| live.granted.identifiers);
        let qos = self.common.qos.min(live.granted.max_qos);
        Filter { path: filter.to_owned(), qos, retained, identifier }
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
    fn end(&self, filter: &str, reason: &BrokerError) {
        warn!(filter, %reason, "the broker does not grant a subscription again");
        for reader in self.remove(filter).into_iter().flat_map(|upstream| upstream.readers.into_values()) {
            reader.subscriber.ended(reason);
        }
    }

    /// Whether nothing is read through it, and nothing lingers.
    pub(super) fn is_idle(&self) -> bool {
        self.index().filters.is_empty()
    }

    pub(super) fn remove(&self, filter: &str) -> Option<Upstream> {
        let mut index = self.index();
        let gone = index.filters.remove(filter);
        gone.inspect(|upstream| _ = index.identifiers.remove(&upstream.identifier))
    }

    /// The connection, when all subscriptions are there. `Err` when the lane or the broker is closed.
    pub(super) async fn open(&self) -> Result<Arc<Live>, BrokerError> {
        let mut open = self.open.subscribe();
        tokio::select! {
            biased;
            () = self.line.finished() => Err(BrokerError::Unavailable),
            open = open.wait_for(Option::is_some) => {
                open.ok().and_then(|open| open.clone()).ok_or(BrokerError::Unavailable)
            }
        }
    }

    /// A reader was not granted its filter. If nobody was, there is nothing to linger.
    pub(super) fn give_up(&self, filter: &str, key: u64) {
        let mut index = self.index();
        let Some(upstream) = index.filters.get_mut(filter) else { return };
        let gone = upstream.readers.remove(&key);
        let is_over = upstream.readers.is_empty() && !upstream.granted;
        drop(index);
        drop(gone);
        if is_over {
            self.remove(filter);
        }
    }

    pub(super) fn set_open(&self, filter: &str, key: u64) {
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

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
