//! The readers of one queue, and what each holds unsettled.

use std::collections::{BTreeMap, HashMap};

use super::shelf::Stored;
use crate::message::DeliveryId;

/// All readers of a queue.
#[derive(Debug, Default)]
pub(super) struct Readers {
    known: HashMap<u64, Reader>,
    held: usize,
    held_bytes: usize,
}

#[derive(Debug)]
struct Reader {
    prefetch: usize,
    listening: bool,
    next_tag: u64,
    held: BTreeMap<u64, Stored>,
}

impl Readers {
    /// How many messages they hold.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// How many bytes these count.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Adds a reader that holds `prefetch` messages at most, and one at least.
    pub(super) fn join(&mut self, reader: u64, prefetch: u16) {
        let prefetch = usize::from(prefetch.max(1));
        self.known.insert(reader, Reader { prefetch, listening: true, next_tag: 1, held: BTreeMap::new() });
    }

    /// Whether a reader may be given one more; `None` if it wants none.
    pub(super) fn has_credit(&self, reader: u64) -> Option<bool> {
        let reader = self.known.get(&reader).filter(|reader| reader.listening)?;
        Some(reader.held.len() < reader.prefetch)
    }

    /// A reader wants no more, but may still settle.
    pub(super) fn dismiss(&mut self, reader: u64) {
        if let Some(reader) = self.known.get_mut(&reader) {
            reader.listening = false;
        }
    }

    /// Gives a reader a message to hold.
    pub(super) fn hold(&mut self, consumer: u64, stored: Stored) -> Option<DeliveryId> {
        let reader = self.known.get_mut(&consumer)?;
        let tag = reader.next_tag;
        reader.next_tag += 1;
        self.held += 1;
        self.held_bytes += stored.cost;
        reader.held.insert(tag, stored);
        Some(DeliveryId { consumer, tag })
    }

    /// Whether this delivery is held.
    pub(super) fn holds(&self, id: DeliveryId) -> bool {
        self.known.get(&id.consumer).is_some_and(|reader| reader.held.contains_key(&id.tag))
    }

    /// Takes a delivery from the one who holds it.
    pub(super) fn release(&mut self, id: DeliveryId) -> Option<Stored> {
        let stored = self.known.get_mut(&id.consumer)?.held.remove(&id.tag)?;
        self.held -= 1;
        self.held_bytes -= stored.cost;
        Some(stored)
    }

    /// Takes a reader out with all that it holds, in the order of delivery.
    pub(super) fn leave(&mut self, reader: u64) -> Vec<Stored> {
        let held: Vec<_> =
            self.known.remove(&reader).into_iter().flat_map(|reader| reader.held.into_values()).collect();
        self.held -= held.len();
        self.held_bytes -= held.iter().map(|stored| stored.cost).sum::<usize>();
        held
    }
}
