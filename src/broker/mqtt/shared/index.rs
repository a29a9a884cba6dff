//! What is read through one connection: the filters, their readers, and who waits for retained messages.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::broker::mqtt::wire::Arrival;
use crate::broker::{BrokerError, Subscriber};
use crate::message::Pattern;

#[derive(Default)]
pub(super) struct Index {
    pub(super) next: u64,
    pub(super) next_identifier: usize,
    pub(super) filters: HashMap<String, Upstream>,
    /// From what a message carries to the filter that it came by.
    pub(super) identifiers: HashMap<usize, String>,
}

/// One subscription at the broker.
pub(super) struct Upstream {
    pub(super) identifier: usize,
    pub(super) readers: HashMap<u64, Reader>,
    /// The broker has granted it once, and so does it again.
    pub(super) granted: bool,
    /// How often the connection broke over it alone, when it was made again.
    pub(super) breaks: u32,
    /// Since when there are none.
    pub(super) idle: Option<Instant>,
    /// Who is being given the retained messages, and who is next.
    pub(super) replaying: Vec<Replay>,
    waiting: Vec<Replay>,
    /// Somebody sees to it that these get theirs.
    is_served: bool,
}

#[derive(Clone)]
pub(super) struct Reader {
    pub(super) pattern: Pattern,
    pub(super) subscriber: Arc<dyn Subscriber>,
    /// It has been told that nothing is missed from then on.
    pub(super) is_open: bool,
}

pub(super) struct Replay {
    pub(super) reader: Reader,
    pub(super) number: u64,
    pub(super) done: oneshot::Sender<Result<(), BrokerError>>,
}

impl Upstream {
    pub(super) fn new(identifier: usize) -> Self {
        Upstream {
            identifier,
            readers: HashMap::new(),
            granted: false,
            breaks: 0,
            idle: None,
            replaying: Vec::new(),
            waiting: Vec::new(),
            is_served: false,
        }
    }

    /// One round at a time; whoever comes meanwhile shares the next. `true`: and it is for the caller to go through the
    /// rounds.
    pub(super) fn wait(&mut self, replay: Replay) -> bool {
        self.waiting.push(replay);
        !mem::replace(&mut self.is_served, true)
    }

    /// Begins the next round, unless nobody waits for one: then that was the last.
    pub(super) fn begin_round(&mut self) -> bool {
        self.replaying = mem::take(&mut self.waiting);
        self.is_served = !self.replaying.is_empty();
        self.is_served
    }
}

impl Index {
    /// A subscription, unless it has ended, and even if another one to the same filter has begun since.
    pub(super) fn same(&mut self, filter: &str, identifier: usize) -> Option<&mut Upstream> {
        self.filters.get_mut(filter).filter(|upstream| upstream.identifier == identifier)
    }

    /// What is to be made again. The rest that nobody reads is forgotten, as the broker has.
    pub(super) fn wanted(&mut self) -> Vec<String> {
        let Index { filters, identifiers, .. } = self;
        filters.retain(|_, upstream| {
            let is_read = !upstream.readers.is_empty();
            if !is_read {
                identifiers.remove(&upstream.identifier);
            }
            is_read
        });
        filters.iter().filter(|(_, upstream)| upstream.granted).map(|(filter, _)| filter.clone()).collect()
    }

    /// The connection broke over this filter, and so often in all.
    pub(super) fn broke(&mut self, filter: &str) -> u32 {
        self.filters.get_mut(filter).map_or(0, |upstream| {
            upstream.breaks += 1;
            upstream.breaks
        })
    }

    /// The connection holds with this filter.
    pub(super) fn held(&mut self, filter: &str) {
        if let Some(upstream) = self.filters.get_mut(filter) {
            (upstream.granted, upstream.breaks) = (true, 0);
        }
    }

    /// The subscriptions that a message came by, as far as the broker says it.
    pub(super) fn meant<'a>(&'a self, arrival: &'a Arrival) -> Box<dyn Iterator<Item = &'a Upstream> + 'a> {
        if arrival.subscriptions.is_empty() {
            return Box::new(self.filters.values());
        }
        let named = arrival.subscriptions.iter().filter_map(|identifier| self.identifiers.get(identifier));
        Box::new(named.filter_map(|filter| self.filters.get(filter)))
    }
}
