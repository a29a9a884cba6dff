//! `/queue` by shared subscriptions: each reader is a member of its own, and what members leave behind finds a reader.
//!
//! An MQTT broker gives each message of `$share/<group>/queue/N` to one member, and keeps nothing when there is none. What
//! it has given to a member is that member's: it goes to nobody else, whatever becomes of it. So this is the gateway's:
//!
//! - A message that comes back is handed to another member here, or to the same one again.
//! - A reader that has nothing to do takes half of what waits for another here.
//! - A member whose reader leaves hands on all that it has. It unsubscribes first, and ends with a message to itself: when
//!   that is back, nothing more is on its way to it.
//! - Queues of `broker.mqtt.hold_queues` have a member that is always there, in a session that the broker keeps: it waits for
//!   the first reader here, who takes it over, and is given back by the last.
//! - The last member stays for a while without a reader (`broker.mqtt.linger`), and the next reader takes it over. Then it
//!   publishes what it has once more, for other gateways.

mod handing_on;
mod hold;
mod member;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;

use self::member::State;
use super::connection::{Connector, Live, Witness};
use super::fence::Fences;
use super::mailbox::Item;
use super::properties::{REDELIVERED, Reading};
use super::publisher::Publisher;
use super::settings::Settings;
use super::wire::Arrival;
use crate::broker::Event;
use crate::message::{Destination, Text};

pub(super) use self::member::Member;

/// The members of all queues.
pub(super) struct Queues {
    connector: Arc<Connector>,
    publisher: Arc<Publisher>,
    reading: Reading,
    group: String,
    linger: Duration,
    max_waiting: usize,
    /// Under 3.1.1 the broker does not say whether it has shared subscriptions.
    assume_shared: bool,
    /// For the sessions of those that hold.
    client_id: String,
    witness: Arc<Witness>,
    groups: Mutex<HashMap<Text, Group>>,
    fences: Fences,
    /// How many members are being retired.
    retiring: watch::Sender<usize>,
    next: AtomicU64,
    lost: AtomicU64,
}

/// The members of one queue. Their states change under the lock only.
#[derive(Default)]
struct Group(Vec<Arc<Member>>);

impl Queues {
    /// Nobody reads anything yet.
    pub(super) fn new(
        settings: &Settings,
        connector: &Arc<Connector>,
        witness: &Arc<Witness>,
        publisher: &Arc<Publisher>,
        reading: Reading,
    ) -> Arc<Self> {
        let queues = Arc::new(Queues {
            connector: Arc::clone(connector),
            client_id: settings.client_id.clone(),
            witness: Arc::clone(witness),
            publisher: Arc::clone(publisher),
            reading,
            group: settings.group.clone(),
            linger: settings.linger,
            max_waiting: settings.max_waiting,
            assume_shared: settings.shared_subscriptions,
            groups: Mutex::default(),
            fences: Fences::default(),
            retiring: watch::Sender::new(0),
            next: AtomicU64::new(1),
            lost: AtomicU64::new(0),
        });
        for name in &settings.hold_queues {
            queues.hold(&Text::from(name.as_str()));
        }
        queues
    }

    /// On the task that drives the connection.
    fn arrived(&self, member: &Arc<Member>, live: &Arc<Live>, arrival: &Arrival) {
        member.arrivals.fetch_add(1, Ordering::Relaxed);
        if self.fences.passed(&arrival.topic) {
            if arrival.packet > 0 {
                live.client.acknowledge(arrival.packet);
            }
            return;
        }
        let destination = Destination::Queue(member.queue.clone());
        let (mut message, mut redelivered) = (self.reading.message(destination, arrival), arrival.dup);
        if message.headers.get(REDELIVERED).is_some() {
            message.headers.remove(REDELIVERED);
            redelivered = true;
        }
        member.mailbox.arrived(live, arrival, Arc::new(message), redelivered);
        if member.state() == State::Retiring {
            self.hand_on(member);
        } else if member.holds && !member.mailbox.is_read() {
            self.give_out(member);
        } else if member.mailbox.is_full() {
            self.others(member).iter().for_each(|other| other.mailbox.wake());
        }
    }

    /// The next event for the reader of a member. One that has nothing to do takes what waits for another.
    pub(super) fn poll(&self, member: &Member, context: &mut Context<'_>, consumer: u64) -> Poll<Event> {
        match member.mailbox.poll(context, consumer) {
            Poll::Pending if self.relieve_another(member) => member.mailbox.poll(context, consumer),
            polled => polled,
        }
    }

    fn relieve_another(&self, member: &Member) -> bool {
        let room = member.mailbox.room();
        let taken = match room {
            0 => Vec::new(),
            _ => self
                .others(member)
                .iter()
                .map(|other| other.mailbox.take_half(room))
                .find(|taken| !taken.is_empty())
                .unwrap_or_default(),
        };
        let any = !taken.is_empty();
        member.mailbox.put(taken);
        any
    }

    /// Messages that nobody took.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Gives up what no reader has, and comes back when all that is given up has found a place: the gateway ends.
    pub(super) async fn shut_down(self: &Arc<Self>) {
        let unread = |member: &Member| match member.state() {
            State::Leaving | State::Idle(_) => !member.holds,
            State::Reading | State::Suspect | State::Retiring => false,
        };
        let over: Vec<_> = self.lock().values().flat_map(|group| group.which(unread)).collect();
        for member in over {
            let state = member.state();
            self.retire(member, state);
        }
        // The sender is here, so it cannot be dropped before.
        let _ = self.retiring.subscribe().wait_for(|retiring| *retiring == 0).await;
    }

    fn others(&self, member: &Member) -> Vec<Arc<Member>> {
        let reads = |other: &Member| other.state() == State::Reading && other.number != member.number;
        self.lock().get(&member.queue).map(|group| group.which(reads)).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Text, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    fn which(&self, wanted: impl Fn(&Member) -> bool) -> Vec<Arc<Member>> {
        self.0.iter().filter(|member| wanted(member)).cloned().collect()
    }

    fn has(&self, wanted: impl Fn(State) -> bool) -> bool {
        self.0.iter().any(|member| wanted(member.state()))
    }
}

/// To whoever has the least to do.
fn give(others: &[Arc<Member>], items: Vec<Item>) {
    if let Some(heir) = others.iter().min_by_key(|other| other.mailbox.load()) {
        heir.mailbox.put(items);
    }
}
