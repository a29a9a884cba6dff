//! Every connection of this node, and how many there may be of each kind.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::hub::outbox::Outbox;
use crate::message::{Principal, Refusal, Text};

/// All connections. A std mutex, short sections, nothing called while it is held but an outbox.
#[derive(Debug)]
pub(super) struct Registry {
    limits: Limits,
    connections: Mutex<Connections>,
    empty: Notify,
}

/// How many connections there may be; 0 is no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) all: usize,
    pub(super) per_address: usize,
    pub(super) per_user: usize,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    outboxes: HashMap<u64, Arc<Outbox>>,
    addresses: HashMap<IpAddr, usize>,
    users: HashMap<Text, usize>,
    phase: Phase,
}

/// How far the gateway's end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Serving,
    /// It serves on, but says that it is not ready.
    Draining,
    /// It takes nobody any more.
    Closing,
}

/// How many there are now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Census {
    pub(super) connections: usize,
    pub(super) sessions: usize,
    /// Bytes that wait in all outboxes.
    pub(super) waiting: usize,
}

/// One connection's place in the registry; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Registration {
    registry: Arc<Registry>,
    number: u64,
    address: IpAddr,
    user: Option<Text>,
}

impl Registry {
    pub(super) fn new(limits: Limits) -> Self {
        Registry { limits, connections: Mutex::default(), empty: Notify::new() }
    }

    /// Adds a connection, and says why it must be turned away, if it must: that is done in its own ERROR frame.
    pub(super) fn register(self: &Arc<Self>, address: IpAddr, outbox: Arc<Outbox>) -> (Registration, Option<Refusal>) {
        let mut connections = self.lock();
        let number = connections.next;
        connections.next += 1;
        connections.outboxes.insert(number, outbox);
        let all = connections.outboxes.len();
        let from_address = count(&mut connections.addresses, address);
        let Limits { all: most, per_address, .. } = self.limits;
        let refused = if connections.phase == Phase::Closing {
            Some(Refusal::shutting_down())
        } else if all > most {
            Some(Refusal::overload("Connections", most, "server.max_connections"))
        } else if per_address > 0 && from_address > per_address {
            let setting = "server.max_connections_per_address";
            Some(Refusal::overload("Connections from one address", per_address, setting))
        } else {
            None
        };
        drop(connections);
        (Registration { registry: Arc::clone(self), number, address, user: None }, refused)
    }

    /// The gateway serves on, but is not ready any more.
    pub(super) fn begin_draining(&self) {
        self.lock().phase = Phase::Draining;
    }

    /// Refuses each that still comes. Those that are here are returned in no order, to be told to go.
    pub(super) fn close(&self) -> Vec<Arc<Outbox>> {
        let mut connections = self.lock();
        connections.phase = Phase::Closing;
        connections.outboxes.values().map(Arc::clone).collect()
    }

    /// Waits until there is no connection left.
    pub(super) async fn emptied(&self) {
        loop {
            let notified = self.empty.notified();
            if self.len() == 0 {
                return;
            }
            notified.await;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().outboxes.len()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.lock().phase != Phase::Serving
    }

    /// Counts. It looks at every connection, so it is for those who ask now and then.
    pub(super) fn census(&self) -> Census {
        let connections = self.lock();
        Census {
            connections: connections.outboxes.len(),
            sessions: connections.users.values().sum(),
            waiting: connections.outboxes.values().map(|outbox| outbox.waiting()).sum(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registration {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The connection is this user's from now on, unless the user has as many as there may be.
    pub(super) fn name(&mut self, principal: &Principal) -> Result<(), Refusal> {
        let limit = self.registry.limits.per_user;
        let mut connections = self.registry.lock();
        let open = connections.users.get(&principal.name).copied().unwrap_or_default();
        if limit > 0 && open >= limit {
            return Err(Refusal::overload("Sessions of one user", limit, "auth.max_sessions_per_user"));
        }
        count(&mut connections.users, principal.name.clone());
        drop(connections);
        self.user = Some(principal.name.clone());
        Ok(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut connections = self.registry.lock();
        connections.outboxes.remove(&self.number);
        discount(&mut connections.addresses, &self.address);
        if let Some(user) = &self.user {
            discount(&mut connections.users, user);
        }
        if connections.outboxes.is_empty() {
            // All memory of a crowd that has left goes back.
            connections.outboxes.shrink_to_fit();
            self.registry.empty.notify_waiters();
        }
    }
}

fn count<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) -> usize {
    let count = counts.entry(key).or_default();
    *count += 1;
    *count
}

fn discount<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
