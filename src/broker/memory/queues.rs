//! The queues that have names: made on first use, removed when they are empty and unread.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use super::depth::{Depth, Rules};
use super::effects::{Effects, Ledger};
use super::queue::{Queue, Refused};
use super::settings::Settings;
use super::{own, read, write};
use crate::broker::BrokerError;
use crate::message::Text;

/// All `/queue/…`.
#[derive(Debug)]
pub(super) struct Queues {
    known: RwLock<HashMap<Text, Arc<Queue>>>,
    ledger: Arc<Ledger>,
    settings: Settings,
}

impl Queues {
    /// None yet.
    pub(super) fn new(settings: &Settings, ledger: &Arc<Ledger>) -> Self {
        Queues { known: RwLock::default(), ledger: Arc::clone(ledger), settings: settings.clone() }
    }

    /// Does something with a queue, which is made if there is none of that name.
    pub(super) fn with<T>(
        &self,
        name: &Text,
        mut work: impl FnMut(&Queue) -> Result<T, Refused>,
    ) -> Result<(Arc<Queue>, T), BrokerError> {
        loop {
            let queue = self.find_or_make(name)?;
            match work(&queue) {
                Ok(done) => return Ok((queue, done)),
                Err(Refused::Gone) => {}
                Err(Refused::Because(error)) => {
                    self.prune(name, &queue);
                    return Err(error);
                }
            }
        }
    }

    /// Whether messages of these costs fit, queue by queue and all together. The exclusive gate makes the answer last.
    pub(super) fn admit(&self, costs: &HashMap<&Text, Vec<usize>>, effects: &mut Effects) -> Result<(), BrokerError> {
        let known = read(&self.known);
        let mut count = known.len();
        for (name, costs) in costs {
            let queue = known.get(*name);
            count += usize::from(queue.is_none());
            let depth = queue.map_or_else(Depth::default, |queue| queue.depth(effects));
            Rules::queue((*name).clone(), &self.settings).admit(&depth, costs)?;
        }
        if count > self.settings.max_queues {
            return Err(self.too_many());
        }
        self.ledger.check(costs.values().flatten().sum())
    }

    /// Removes a queue that is empty and unread.
    pub(super) fn prune(&self, name: &Text, queue: &Arc<Queue>) {
        if !queue.is_idle() {
            return;
        }
        let mut known = write(&self.known);
        if known.get(name).is_some_and(|known| Arc::ptr_eq(known, queue)) && queue.retire() {
            known.remove(name);
        }
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> Vec<(Text, Arc<Queue>)> {
        read(&self.known).iter().map(|(name, queue)| (name.clone(), Arc::clone(queue))).collect()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        read(&self.known).is_empty()
    }

    /// Takes all away.
    pub(super) fn clear(&self) -> Vec<Arc<Queue>> {
        std::mem::take(&mut *write(&self.known)).into_values().collect()
    }

    fn find_or_make(&self, name: &Text) -> Result<Arc<Queue>, BrokerError> {
        if let Some(queue) = read(&self.known).get(name) {
            return Ok(Arc::clone(queue));
        }
        let mut known = write(&self.known);
        if let Some(queue) = known.get(name) {
            return Ok(Arc::clone(queue));
        }
        if known.len() >= self.settings.max_queues {
            return Err(self.too_many());
        }
        let name = own(name);
        let rules = Rules::queue(name.clone(), &self.settings);
        let queue = Arc::new(Queue::new(rules, Arc::clone(&self.ledger)));
        known.insert(name, Arc::clone(&queue));
        Ok(queue)
    }

    fn too_many(&self) -> BrokerError {
        let limit = self.settings.max_queues;
        BrokerError::LimitExceeded { what: "queues".to_owned(), limit, setting: "broker.memory.max_queues" }
    }
}
