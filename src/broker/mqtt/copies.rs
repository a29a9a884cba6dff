//! Topics with acknowledgements: a connection for each reader.

use std::sync::{Arc, OnceLock, Weak};

use super::connection::{Connector, Line, Live, Plan, Trial, Verdict};
use super::mailbox::Mailbox;
use super::names;
use super::properties::Reading;
use super::upstream::{self, Upstream};
use super::wire::{Arrival, Filter};
use crate::broker::BrokerError;
use crate::message::Pattern;

/// A topic's messages for one reader.
pub(super) struct Copies {
    pattern: Pattern,
    filter: String,
    reading: Reading,
    line: Arc<Line>,
    pub(super) mailbox: Mailbox,
    /// The connection on which the broker first granted it, and has sent the last values.
    first: OnceLock<u64>,
}

impl Copies {
    /// Opens a topic for one reader; waits for the broker if need be.
    pub(super) async fn open(
        connector: &Arc<Connector>,
        reading: Reading,
        pattern: Pattern,
        prefetch: u16,
        max_waiting: usize,
    ) -> Result<Arc<Self>, BrokerError> {
        let filter = reading.names.filter(&pattern)?.filter;
        let copies = Arc::new_cyclic(|weak: &Weak<Copies>| {
            let weak = weak.clone();
            let sink = move |live: &Arc<Live>, arrival: Arrival| {
                if let Some(copies) = weak.upgrade() {
                    copies.arrived(live, &arrival);
                }
            };
            Copies {
                pattern,
                filter,
                reading,
                line: Line::start(connector, Plan::dedicated("topic", prefetch), sink),
                mailbox: Mailbox::new(prefetch, max_waiting),
                first: OnceLock::new(),
            }
        });
        let trial = Trial::of(&copies.line);
        let live = upstream::open(&*copies).await?;
        trial.keep();
        let tended = Arc::clone(&copies);
        tokio::spawn(async move { tended.mailbox.end(upstream::tend(&*tended, live).await) });
        Ok(copies)
    }

    /// On the task that drives the connection.
    fn arrived(&self, live: &Arc<Live>, arrival: &Arrival) {
        // The filter is wider than the pattern.
        let wanted = names::read(&arrival.topic).filter(|(name, _)| self.pattern.matches(name));
        // Under 3.1.1 the last values come again with each connection; the reader has had them.
        let is_old = arrival.retain && self.first.get().is_some_and(|first| live.generation > *first);
        let wanted = wanted.filter(|_| !is_old).map(|(_, destination)| destination);
        self.receive(self.reading, live, arrival, wanted);
    }

    /// The reader is gone.
    pub(super) fn leave(&self) {
        self.line.end();
    }

    /// Comes back when nobody is there for the topic any more.
    pub(super) async fn stop(&self) {
        self.mailbox.stop();
        if let Some(live) = self.line.now() {
            live.client.unsubscribe(self.filter.clone()).await;
        }
    }
}

impl Upstream for Copies {
    fn line(&self) -> &Arc<Line> {
        &self.line
    }

    fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    fn what(&self) -> String {
        format!("the topic {}", self.pattern)
    }

    fn filter(&self, live: &Live) -> Result<Filter, BrokerError> {
        upstream::check_wildcards(&live.granted, &self.filter, self.pattern.as_str())?;
        let retained = self.first.get().is_none();
        Ok(Filter { path: self.filter.clone(), qos: 1, retained, identifier: None })
    }

    fn granted(&self, live: &Live, _qos: u8) -> Result<(), BrokerError> {
        self.first.get_or_init(|| live.generation);
        Ok(())
    }

    fn begun(&self, _live: &Live) {
        self.mailbox.restored();
    }

    fn over(&self) -> BrokerError {
        match self.line.verdict() {
            Some(Verdict::Poisoned) => BrokerError::Poison(self.what()),
            _ => BrokerError::Unavailable,
        }
    }
}
