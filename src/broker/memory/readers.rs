//! The readers of one queue, and what each holds unsettled.

use std::collections::{HashMap, VecDeque};

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
    /// By tag, smallest first: what is settled is nearly always at the front.
    held: VecDeque<(u64, Stored)>,
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
        self.known.insert(reader, Reader { prefetch, listening: true, next_tag: 1, held: VecDeque::new() });
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
        reader.held.push_back((tag, stored));
        Some(DeliveryId { consumer, tag })
    }

    /// Whether this delivery is held.
    pub(super) fn holds(&self, id: DeliveryId) -> bool {
        self.known.get(&id.consumer).is_some_and(|reader| reader.place_of(id.tag).is_some())
    }

    /// Takes a delivery from the one who holds it.
    pub(super) fn release(&mut self, id: DeliveryId) -> Option<Stored> {
        let reader = self.known.get_mut(&id.consumer)?;
        let (_, stored) = reader.held.remove(reader.place_of(id.tag)?)?;
        self.held -= 1;
        self.held_bytes -= stored.cost;
        Some(stored)
    }

    /// Takes a reader out with all that it holds, in the order of delivery.
    pub(super) fn leave(&mut self, reader: u64) -> Vec<Stored> {
        let held: Vec<_> =
            self.known.remove(&reader).into_iter().flat_map(|reader| reader.held).map(|(_, stored)| stored).collect();
        self.held -= held.len();
        self.held_bytes -= held.iter().map(|stored| stored.cost).sum::<usize>();
        held
    }
}

impl Reader {
    fn place_of(&self, tag: u64) -> Option<usize> {
        self.held.binary_search_by_key(&tag, |(tag, _)| *tag).ok()
    }
}
