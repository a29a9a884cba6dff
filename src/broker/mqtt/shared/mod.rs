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

mod guard;
mod index;
mod lane;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::guard::Guard;
use self::lane::Lane;
use super::connection::Connector;
use super::names::{self, Wanted};
use super::properties::Reading;
use super::settings::Settings;
use super::upstream::check_wildcards;
use super::wire::Answer;
use crate::broker::{BrokerError, Shared, SharedSource, Subscriber};
use crate::message::Pattern;

/// How often it is looked at least whether a lane is idle.
const SHORTEST: Duration = Duration::from_millis(50);

/// All shared subscriptions of a link.
pub(super) struct SharedTopics {
    connector: Arc<Connector>,
    common: Arc<Common>,
    /// The first stays; others go when they have been idle for a while.
    lanes: Arc<Lanes>,
    max_lanes: usize,
}

type Lanes = Mutex<Vec<Arc<Lane>>>;

struct Common {
    reading: Reading,
    qos: u8,
    linger: Duration,
}

impl SharedTopics {
    /// Nothing is read yet; the first connection is made now.
    pub(super) fn start(settings: &Settings, reading: Reading, connector: &Arc<Connector>) -> Self {
        let common = Arc::new(Common { reading, qos: settings.subscribe_qos, linger: settings.linger });
        let first = Lane::start(&common, connector);
        SharedTopics {
            connector: Arc::clone(connector),
            common,
            lanes: Arc::new(Mutex::new(vec![first])),
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
            SharedSource::User { user, name } => {
                (self.common.reading.names.user_filter(&user, &name)?, names::of_user(&user, &name))
            }
            SharedSource::Exchange { .. } => return Err(names::no_exchanges()),
        };
        let granted = self.first().open().await?.granted.clone();
        check_wildcards(&granted, &wanted.filter, pattern.as_str())?;
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
                tokio::spawn(end_when_idle(Arc::clone(&self.lanes), Arc::clone(&lane), self.common.linger));
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
    pub(super) fn forget(&self, topic: &str) -> Option<Answer<bool>> {
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

/// Ends a lane through which nothing is read any more. Whoever registers has the lock, so nobody gets one that ends.
async fn end_when_idle(lanes: Arc<Lanes>, lane: Arc<Lane>, linger: Duration) {
    let mut tick = tokio::time::interval(linger.max(SHORTEST));
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = lane.line.finished() => return,
        }
        let mut lanes = lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lane.is_idle() {
            lanes.retain(|other| !Arc::ptr_eq(other, &lane));
            return lane.line.end();
        }
    }
}

/// Whether one topic can match both filters.
pub(super) fn overlap(one: &str, other: &str) -> bool {
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
