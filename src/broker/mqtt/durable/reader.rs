//! One durable subscription that is read: what comes by its connection, and how it ends.

use std::sync::{Arc, OnceLock};

use tracing::warn;

use crate::broker::BrokerError;
use crate::broker::mqtt::connection::{Line, Live, Verdict};
use crate::broker::mqtt::mailbox::Mailbox;
use crate::broker::mqtt::names;
use crate::broker::mqtt::properties::Reading;
use crate::broker::mqtt::settings::Version;
use crate::broker::mqtt::shared::overlap;
use crate::broker::mqtt::upstream::{self, Upstream};
use crate::broker::mqtt::wire::{Arrival, Filter};
use crate::message::{DurableName, Pattern};

/// A durable subscription that is read.
pub(in crate::broker::mqtt) struct Durable {
    pub(super) name: DurableName,
    pub(super) pattern: Pattern,
    pub(super) filter: String,
    /// What else the session may be subscribed to.
    pub(super) old: Option<String>,
    pub(super) reading: Reading,
    pub(super) line: Arc<Line>,
    pub(in crate::broker::mqtt) mailbox: Mailbox,
    /// The connection on which the broker first granted it.
    pub(super) first: OnceLock<u64>,
}

impl Durable {
    /// On the task that drives the connection.
    pub(super) fn arrived(&self, live: &Arc<Live>, arrival: &Arrival) {
        // What an older subscription of the same name has brought waits for this reader, too.
        let is_old = !overlap(&self.filter, &arrival.topic);
        let wanted = names::read(&arrival.topic).filter(|(name, _)| is_old || self.pattern.matches(name));
        // Under 3.1.1 the last values come again with each connection; the reader has had them.
        let is_repeated = self.reading.version == Version::V311
            && arrival.retain
            && !arrival.dup
            && self.first.get().is_some_and(|first| live.generation > *first);
        let wanted = wanted.filter(|_| !is_repeated).map(|(_, destination)| destination);
        self.receive(self.reading, live, arrival, wanted);
    }
}

impl Upstream for Durable {
    fn line(&self) -> &Arc<Line> {
        &self.line
    }

    fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    fn what(&self) -> String {
        format!("the topic {}", self.pattern)
    }

    /// The session may have another subscription, from another time: that is ended here.
    fn filter(&self, live: &Live) -> Result<Filter, BrokerError> {
        if !live.granted.keeps_sessions {
            return Err(unsupported("the MQTT broker keeps no sessions"));
        }
        upstream::check_wildcards(&live.granted, &self.filter, self.pattern.as_str())?;
        let old = self.old.as_ref().filter(|_| self.first.get().is_none());
        if let Some(old) = old {
            drop(live.client.unsubscribe(old.clone())); // the broker takes the one after the other
        }
        let retained = old.is_some() || !live.granted.resumed;
        Ok(Filter { path: self.filter.clone(), qos: 1, retained, identifier: None })
    }

    fn granted(&self, live: &Live, qos: u8) -> Result<(), BrokerError> {
        if qos == 0 {
            return Err(unsupported("the MQTT broker grants quality of service 0 only, and keeps nothing of that"));
        }
        self.first.get_or_init(|| live.generation);
        Ok(())
    }

    fn restored(&self, live: &Live) {
        if live.granted.resumed { self.mailbox.resumed() } else { self.mailbox.restored() }
    }

    fn over(&self) -> BrokerError {
        let (name, user) = (&self.name.name, &self.name.user);
        match self.line.verdict() {
            None => BrokerError::Unavailable,
            Some(Verdict::TakenOver) => {
                warn!(%name, %user, "somebody else reads a durable subscription now");
                BrokerError::InUse(name.to_string())
            }
            Some(Verdict::Poisoned) => {
                warn!(%name, %user, "a durable subscription has a message that cannot be read");
                BrokerError::Poison(format!("the durable subscription {name}"))
            }
        }
    }
}

fn unsupported(why: &str) -> BrokerError {
    BrokerError::Unsupported { what: "a durable subscription".to_owned(), why: why.to_owned() }
}
