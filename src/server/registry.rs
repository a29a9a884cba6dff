//! Every connection of this node, and how many there may be of each kind.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::hub::outbox::{Outbox, Signal};
use crate::message::{Principal, Refusal, Text};
use crate::session::Overview;

/// All connections. A std mutex, short sections, nothing called while it is held but an outbox.
#[derive(Debug)]
pub(super) struct Registry {
    connections: Mutex<Connections>,
    empty: Notify,
}

/// How many connections there may be; 0 is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub(super) all: usize,
    pub(super) per_address: usize,
    pub(super) per_user: usize,
}

#[derive(Debug, Default)]
struct Connections {
    limits: Limits,
    next: u64,
    /// In the order in which they came.
    clients: BTreeMap<u64, Client>,
    /// Those who wait to be told of a client's subscriptions; few clients are asked.
    questions: HashMap<u64, Vec<oneshot::Sender<Vec<Overview>>>>,
    addresses: HashMap<IpAddr, usize>,
    users: HashMap<Text, usize>,
    phase: Phase,
}

#[derive(Debug)]
struct Client {
    outbox: Arc<Outbox>,
    peer: SocketAddr,
    /// From CONNECT on.
    user: Option<Text>,
}

/// A session as operators see it.
#[derive(Clone, Debug)]
pub(super) struct SessionOverview {
    pub(super) number: u64,
    pub(super) user: Text,
    pub(super) peer: SocketAddr,
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
        Registry { connections: Mutex::new(Connections { limits, ..Connections::default() }), empty: Notify::new() }
    }

    /// Adds a connection, and says why it must be turned away, if it must: that is done in its own ERROR frame.
    pub(super) fn register(self: &Arc<Self>, peer: SocketAddr, outbox: Arc<Outbox>) -> (Registration, Option<Refusal>) {
        let address = peer.ip();
        let mut connections = self.lock();
        let number = connections.next;
        connections.next += 1;
        connections.clients.insert(number, Client { outbox, peer, user: None });
        let all = connections.clients.len();
        let from_address = count(&mut connections.addresses, address);
        let Limits { all: most, per_address, .. } = connections.limits;
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

    /// These limits hold for the connections that come. Those that are here may stay.
    pub(super) fn set_limits(&self, limits: Limits) {
        self.lock().limits = limits;
    }

    /// The gateway serves on, but is not ready any more.
    pub(super) fn begin_draining(&self) {
        self.lock().phase = Phase::Draining;
    }

    /// Refuses each that still comes. Those that are here are returned in no order, to be told to go.
    pub(super) fn close(&self) -> Vec<Arc<Outbox>> {
        let mut connections = self.lock();
        connections.phase = Phase::Closing;
        connections.clients.values().map(|client| Arc::clone(&client.outbox)).collect()
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
        self.lock().clients.len()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.lock().phase != Phase::Serving
    }

    /// Counts. It looks at every connection, so it is for those who ask now and then.
    pub(super) fn census(&self) -> Census {
        let connections = self.lock();
        Census {
            connections: connections.clients.len(),
            sessions: connections.users.values().sum(),
            waiting: connections.clients.values().map(|client| client.outbox.waiting()).sum(),
        }
    }

    /// At most `limit` sessions that came after the one of this number, of one user or of all.
    pub(super) fn sessions(&self, after: Option<u64>, limit: usize, user: Option<&str>) -> Vec<SessionOverview> {
        let connections = self.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let clients = connections.clients.range((from, Bound::Unbounded));
        let sessions = clients.filter_map(|(number, client)| {
            let name = client.user.as_ref().filter(|name| user.is_none_or(|user| user == &***name))?;
            Some(SessionOverview { number: *number, user: name.clone(), peer: client.peer })
        });
        sessions.take(limit).collect()
    }

    /// Ends a session; false if there is none of this number.
    pub(super) fn end(&self, number: u64, refusal: Refusal) -> bool {
        let outbox = self.lock().clients.get(&number).filter(|client| client.user.is_some()).map(Client::outbox);
        outbox.map(|outbox| outbox.signal(Signal::End(Box::new(refusal)))).is_some()
    }

    /// Ends all sessions of a user, and says how many there were.
    pub(super) fn end_all(&self, user: &str, refusal: &Refusal) -> usize {
        let is_meant = |client: &&Client| client.user.as_ref().is_some_and(|name| **name == *user);
        let outboxes: Vec<_> = self.lock().clients.values().filter(is_meant).map(Client::outbox).collect();
        for outbox in &outboxes {
            outbox.signal(Signal::End(Box::new(refusal.clone())));
        }
        outboxes.len()
    }

    /// Whether a session is watched has changed.
    pub(super) fn wake(&self, number: u64) {
        let outbox = self.lock().clients.get(&number).map(Client::outbox);
        if let Some(outbox) = outbox {
            outbox.signal(Signal::Asked);
        }
    }

    /// What a reload can change has changed.
    pub(super) fn wake_all(&self) {
        let outboxes: Vec<_> = self.lock().clients.values().map(Client::outbox).collect();
        for outbox in outboxes {
            outbox.signal(Signal::Asked);
        }
    }

    /// Asks a session for its subscriptions. The answer is an error if the session ends before it comes.
    pub(super) fn ask(&self, number: u64) -> Option<oneshot::Receiver<Vec<Overview>>> {
        let (sender, answer) = oneshot::channel();
        let mut connections = self.lock();
        let outbox = connections.clients.get(&number).filter(|client| client.user.is_some())?.outbox();
        let questions = connections.questions.entry(number).or_default();
        questions.retain(|question| !question.is_closed());
        questions.push(sender);
        drop(connections);
        outbox.signal(Signal::Asked);
        Some(answer)
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn outbox(&self) -> Arc<Outbox> {
        Arc::clone(&self.outbox)
    }
}

impl Registration {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The connection is this user's from now on, unless the user has as many as there may be.
    pub(super) fn name(&mut self, principal: &Principal) -> Result<(), Refusal> {
        let mut connections = self.registry.lock();
        let limit = connections.limits.per_user;
        let open = connections.users.get(&principal.name).copied().unwrap_or_default();
        if limit > 0 && open >= limit {
            return Err(Refusal::overload("Sessions of one user", limit, "auth.max_sessions_per_user"));
        }
        count(&mut connections.users, principal.name.clone());
        if let Some(client) = connections.clients.get_mut(&self.number) {
            client.user = Some(principal.name.clone());
        }
        drop(connections);
        self.user = Some(principal.name.clone());
        Ok(())
    }

    /// Tells those who have asked.
    pub(super) fn answer(&self, overview: impl FnOnce() -> Vec<Overview>) {
        let questions = self.registry.lock().questions.remove(&self.number);
        let Some(questions) = questions else { return };
        let overview = overview();
        for question in questions {
            let _ = question.send(overview.clone()); // who has gone needs no answer
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut connections = self.registry.lock();
        connections.clients.remove(&self.number);
        connections.questions.remove(&self.number);
        discount(&mut connections.addresses, &self.address);
        if let Some(user) = &self.user {
            discount(&mut connections.users, user);
        }
        if connections.clients.is_empty() {
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
