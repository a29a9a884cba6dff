//! What keeps a shared subscription open, and gets its reader the retained messages.

use std::collections::HashMap;
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
            let upstream = Upstream {
                identifier,
                readers: HashMap::new(),
                granted: false,
                breaks: 0,
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
        let outcome = lane.make(&filter, &filter, true).await;
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
