//! Durable subscriptions: queues bound to a topic that outlive their readers.

use std::collections::HashMap;
use std::sync::Arc;

use super::queue::Queue;
use crate::broker::BrokerError;
use crate::message::{DurableName, Pattern};

/// All durable subscriptions.
#[derive(Debug)]
pub(super) struct Durables {
    known: HashMap<DurableName, Durable>,
    max: usize,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Durable {
    /// What it listens to.
    pub(super) pattern: Pattern,
    /// Under which key it listens.
    pub(super) key: u64,
    /// Where messages wait.
    pub(super) queue: Arc<Queue>,
    /// The consumer that reads it. There is one at a time.
    pub(super) reader: Option<u64>,
}

impl Durables {
    /// None yet, and room for `max`.
    pub(super) fn new(max: usize) -> Self {
        Durables { known: HashMap::new(), max }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// The one of that name, to be read: `InUse` if it is.
    pub(super) fn unread(&mut self, name: &DurableName) -> Result<Option<&mut Durable>, BrokerError> {
        match self.known.get_mut(name) {
            Some(durable) if durable.reader.is_some() => Err(BrokerError::InUse(name.name.to_string())),
            known => Ok(known),
        }
    }

    /// Whether there may be one more.
    pub(super) fn check_room(&self) -> Result<(), BrokerError> {
        if self.known.len() < self.max {
            return Ok(());
        }
        let what = "durable subscriptions".to_owned();
        Err(BrokerError::LimitExceeded { what, limit: self.max, setting: "broker.memory.max_durable" })
    }

    /// Adds one.
    pub(super) fn insert(&mut self, name: DurableName, durable: Durable) {
        self.known.insert(name, durable);
    }

    /// This consumer reads it no more.
    pub(super) fn release(&mut self, name: &DurableName, consumer: u64) {
        if let Some(durable) = self.known.get_mut(name).filter(|durable| durable.reader == Some(consumer)) {
            durable.reader = None;
        }
    }

    /// Takes one away that nobody reads.
    pub(super) fn remove(&mut self, name: &DurableName) -> Result<Durable, BrokerError> {
        self.unread(name)?;
        let missing = || BrokerError::NotFound(format!("the durable subscription {}", name.name));
        self.known.remove(name).ok_or_else(missing)
    }

    /// All their queues.
    pub(super) fn queues(&self) -> Vec<Arc<Queue>> {
        self.known.values().map(|durable| Arc::clone(&durable.queue)).collect()
    }

    /// Takes all away, and returns their queues.
    pub(super) fn clear(&mut self) -> Vec<Arc<Queue>> {
        self.known.drain().map(|(_, durable)| durable.queue).collect()
    }
}
