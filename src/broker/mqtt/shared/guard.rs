//! What keeps a shared subscription open, and gets its reader the retained messages.

use std::mem;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::index::{Reader, Replay, Upstream};
use super::lane::Lane;
use crate::broker::{BrokerError, Shared, Subscriber};
use crate::message::Pattern;

/// Keeps a shared subscription open.
pub(super) struct Guard {
    lane: Arc<Lane>,
    filter: String,
    pattern: Pattern,
    key: u64,
    subscriber: Arc<dyn Subscriber>,
}

impl Guard {
    /// Counts a reader in.
    pub(super) fn register(
        lane: &Arc<Lane>,
        filter: String,
        pattern: Pattern,
        subscriber: Arc<dyn Subscriber>,
    ) -> Self {
        let mut index = lane.index();
        let key = index.next;
        index.next += 1;
        if !index.filters.contains_key(&filter) {
            index.next_identifier += 1;
            let identifier = index.next_identifier;
            index.identifiers.insert(identifier, filter.clone());
            index.filters.insert(filter.clone(), Upstream::new(identifier));
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
    pub(super) async fn subscribe(&self) -> Result<(), BrokerError> {
        let made = self.lane.make(&self.filter, self.pattern.as_str(), false).await;
        match &made {
            Ok(()) => self.lane.set_open(&self.filter, self.key),
            Err(_) => self.lane.give_up(&self.filter, self.key),
        }
        made
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
        let (is_first, identifier) = {
            let mut index = self.lane.index();
            let upstream = index.filters.get_mut(&self.filter).ok_or(BrokerError::Unavailable)?;
            (upstream.wait(replay), upstream.identifier)
        };
        if is_first {
            tokio::spawn(replay_all(Arc::clone(&self.lane), self.filter.clone(), identifier));
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
async fn replay_all(lane: Arc<Lane>, filter: String, identifier: usize) {
    while lane.index().same(&filter, identifier).is_some_and(Upstream::begin_round) {
        let outcome = lane.make(&filter, &filter, true).await;
        let served = lane.index().same(&filter, identifier).map(|upstream| mem::take(&mut upstream.replaying));
        for replay in served.unwrap_or_default() {
            replay.reader.subscriber.replayed(replay.number);
            let _ = replay.done.send(outcome.clone()); // whoever asked may be gone
        }
    }
}
