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

use super::connection::{Connector, Line, Live};
use super::mailbox::Item;
use super::names::FENCES;
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
    witness: Arc<Line>,
    groups: Mutex<HashMap<Text, Group>>,
    next: AtomicU64,
    lost: AtomicU64,
}

/// The members of one queue.
#[derive(Default)]
struct Group {
    /// Those with a reader.
    active: Vec<Arc<Member>>,
    /// Those whose reader takes nothing more, but has not settled all.
    leaving: Vec<Arc<Member>>,
    /// The last one, without a reader.
    idle: Option<Arc<Member>>,
}

impl Queues {
    /// Nobody reads anything yet.
    pub(super) fn new(
        settings: &Settings,
        connector: &Arc<Connector>,
        witness: &Arc<Line>,
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
            next: AtomicU64::new(1),
            lost: AtomicU64::new(0),
        });
        for name in &settings.hold_queues {
            tokio::spawn(Arc::clone(&queues).hold(Text::from(name.as_str())));
        }
        queues
    }

    /// On the task that drives the connection.
    fn arrived(&self, member: &Arc<Member>, live: &Arc<Live>, arrival: &Arrival) {
        if arrival.topic.starts_with(FENCES) {
            if arrival.packet > 0 {
                live.client.acknowledge(arrival.packet);
            }
            member.fence.notify_one();
            return;
        }
        let destination = Destination::Queue(member.queue.clone());
        let (mut message, mut redelivered) = (self.reading.message(destination, arrival), arrival.dup);
        if message.headers.get(REDELIVERED).is_some() {
            message.headers.remove(REDELIVERED);
            redelivered = true;
        }
        member.mailbox.arrived(live, arrival, Arc::new(message), redelivered);
        if member.hands_on.load(Ordering::Acquire) {
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

    /// Gives up what no reader has: the gateway ends.
    pub(super) async fn shut_down(self: &Arc<Self>) {
        let idle: Vec<_> = self
            .lock()
            .values_mut()
            .flat_map(|group| {
                group.idle.take_if(|idle| !idle.holds).into_iter().chain(std::mem::take(&mut group.leaving))
            })
            .collect();
        let draining = idle.iter().map(|member| {
            member.hands_on.store(true, Ordering::Release);
            self.drain(member)
        });
        futures_util::future::join_all(draining).await;
    }

    fn others(&self, member: &Member) -> Vec<Arc<Member>> {
        let groups = self.lock();
        let active = groups.get(&member.queue).map(|group| group.active.as_slice()).unwrap_or_default();
        active.iter().filter(|other| other.number != member.number).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Text, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    fn is_empty(&self) -> bool {
        self.active.is_empty() && self.leaving.is_empty() && self.idle.is_none()
    }
}

/// To whoever has the least to do.
fn give(others: &[Arc<Member>], items: Vec<Item>) {
    if let Some(heir) = others.iter().min_by_key(|other| other.mailbox.load()) {
        heir.mailbox.put(items);
    }
}
