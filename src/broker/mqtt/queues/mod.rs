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

mod hold;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::warn;

use super::connection::{Connector, Line, Live, Plan, Trial};
use super::mailbox::{Item, Mailbox};
use super::names::FENCES;
use super::properties::{REDELIVERED, Reading};
use super::publisher::Publisher;
use super::settings::Settings;
use super::shared::FENCE;
use super::upstream::{self, Upstream};
use super::wire::{Arrival, Filter, Packet, Subscribed};
use crate::broker::base64::base64url;
use crate::broker::{BrokerError, Event, Permit};
use crate::message::{Destination, Text};

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

/// A member of a shared subscription.
pub(super) struct Member {
    number: u64,
    queue: Text,
    filter: String,
    receive_maximum: u16,
    /// It stays without a reader, and is there for what comes.
    holds: bool,
    assume_shared: bool,
    line: Arc<Line>,
    pub(super) mailbox: Mailbox,
    /// What arrives goes to the others.
    hands_on: AtomicBool,
    /// The message to itself is back.
    fence: Notify,
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

    /// A member for a reader; waits for the broker if need be.
    pub(super) async fn open(self: &Arc<Self>, queue: &Text, prefetch: u16) -> Result<Arc<Member>, BrokerError> {
        let topic = self.reading.names.queue(queue)?;
        let idle = self.lock().get(queue).and_then(|group| group.idle.clone());
        if let Some(holder) = idle.filter(|idle| idle.holds) {
            upstream::open(&*holder).await?; // it may be on its way
        }
        if let Some(member) = self.adopt(queue, prefetch) {
            return Ok(member);
        }
        let member = self.member(queue, format!("$share/{}/{topic}", self.group), prefetch, false);
        let trial = Trial::of(&member.line);
        let live = upstream::open(&*member).await?;
        trial.keep();
        let tended = Arc::clone(&member);
        tokio::spawn(async move { tended.mailbox.end(upstream::tend(&*tended, live).await) });
        let left = {
            let mut groups = self.lock();
            let group = groups.entry(queue.clone()).or_default();
            group.active.push(Arc::clone(&member));
            let mut left = std::mem::take(&mut group.leaving);
            left.extend(group.idle.take_if(|idle| !idle.holds));
            left
        };
        for other in left {
            self.retire(other);
        }
        Ok(member)
    }

    /// Takes over the last member, if it is there and may have as much on its way as is wanted.
    fn adopt(&self, queue: &Text, prefetch: u16) -> Option<Arc<Member>> {
        let mut groups = self.lock();
        let group = groups.get_mut(queue)?;
        let member = group.idle.take_if(|member| member.holds || member.receive_maximum >= prefetch)?;
        member.mailbox.open(prefetch);
        group.active.push(Arc::clone(&member));
        Some(member)
    }

    fn member(self: &Arc<Self>, queue: &Text, filter: String, prefetch: u16, holds: bool) -> Arc<Member> {
        let queues = Arc::downgrade(self);
        let plan = if holds { self.holding(queue) } else { Plan::dedicated("queue", prefetch) };
        Arc::new_cyclic(|weak: &Weak<Member>| {
            let weak = weak.clone();
            let sink = move |live: &Arc<Live>, arrival: Arrival| {
                if let (Some(queues), Some(member)) = (queues.upgrade(), weak.upgrade()) {
                    queues.arrived(&member, live, &arrival);
                }
            };
            Member {
                number: self.next.fetch_add(1, Ordering::Relaxed),
                queue: queue.clone(),
                filter,
                receive_maximum: prefetch,
                holds,
                assume_shared: self.assume_shared,
                line: Line::start(&self.connector, plan, sink),
                mailbox: Mailbox::new(prefetch, self.max_waiting),
                hands_on: AtomicBool::new(false),
                fence: Notify::new(),
            }
        })
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

    /// The reader takes nothing more, but may settle what it has.
    pub(super) fn stop(self: &Arc<Self>, member: &Arc<Member>) {
        member.mailbox.stop();
        let others = {
            let mut groups = self.lock();
            let Some(group) = groups.get_mut(&member.queue) else { return };
            group.active.retain(|other| other.number != member.number);
            if group.active.is_empty() && !member.holds {
                group.leaving.push(Arc::clone(member)); // it goes on when somebody comes
            }
            !group.active.is_empty() && !member.holds
        };
        if others {
            self.retire(Arc::clone(member));
        }
    }

    /// The reader is gone.
    pub(super) fn leave(self: &Arc<Self>, member: &Arc<Member>) {
        member.mailbox.abandon();
        if member.hands_on.load(Ordering::Acquire) {
            self.hand_on(member); // its connection is on its way out already
            return;
        }
        let stays = {
            let mut groups = self.lock();
            let group = groups.entry(member.queue.clone()).or_default();
            group.active.retain(|other| other.number != member.number);
            group.leaving.retain(|other| other.number != member.number);
            let stays = member.holds || group.active.is_empty() && group.idle.is_none() && !self.connector.is_closed();
            if stays {
                group.idle = Some(Arc::clone(member));
            }
            stays
        };
        if member.holds {
            self.give_out(member);
        } else if stays {
            self.wait(member);
        } else {
            self.retire(Arc::clone(member));
        }
    }

    /// Gives a member up when nobody has taken it over for a while.
    fn wait(self: &Arc<Self>, member: &Arc<Member>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (queues, member) = (Arc::clone(self), Arc::clone(member));
        runtime.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(queues.linger) => {}
                () = queues.connector.closed() => return,
            }
            let is_idle = |idle: &mut Arc<Member>| idle.number == member.number;
            let mut groups = queues.lock();
            let over = groups.get_mut(&member.queue).and_then(|group| group.idle.take_if(is_idle));
            drop(groups);
            if let Some(member) = over {
                queues.retire(member);
            }
        });
    }

    /// Hands all on that a member has or gets, and ends it.
    fn retire(self: &Arc<Self>, member: Arc<Member>) {
        member.hands_on.store(true, Ordering::Release);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let queues = Arc::clone(self);
        runtime.spawn(async move { queues.drain(&member).await });
    }

    /// Comes back when nothing more is on its way to a member, and what it had has found a place.
    async fn drain(&self, member: &Arc<Member>) {
        self.hand_on(member);
        if let Some(live) = member.line.now() {
            let drained = tokio::time::timeout(FENCE, self.unsubscribe(member, &live)).await;
            if drained.is_err() {
                warn!(queue = %member.queue, "the broker did not let go of a member in time");
            }
        }
        self.hand_on(member);
        self.publish_again(member).await;
        member.line.end();
        self.lock().retain(|_, group| !group.is_empty());
    }

    async fn unsubscribe(&self, member: &Member, live: &Live) {
        let mut random = [0; 16];
        if getrandom::fill(&mut random).is_err() {
            return;
        }
        let topic = format!("{FENCES}{}", base64url(&random));
        let fence = Filter { path: topic.clone(), qos: 1, retained: false, identifier: None };
        let subscribed = live.client.subscribe(&fence);
        live.client.unsubscribe(member.filter.clone()).await;
        if matches!(subscribed.await, Subscribed::Granted(_)) {
            let _published = live.client.publish(Packet { topic, qos: 1, ..Packet::default() });
            member.fence.notified().await;
        }
    }

    /// Hands what waits for a member to the others, as far as there are any.
    fn hand_on(&self, member: &Arc<Member>) {
        let others = self.others(member);
        if others.is_empty() {
            // The broker sends the rest only when it is not owed too much.
            member.mailbox.own();
            return;
        }
        for item in member.mailbox.take() {
            give(&others, vec![item]);
        }
    }

    /// Publishes what is left, for other gateways. The broker is done with a message when it has it again.
    async fn publish_again(&self, member: &Member) {
        let items = member.mailbox.take();
        if items.is_empty() {
            return;
        }
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            let mut message = (*item.message).clone();
            message.headers.set(REDELIVERED, "true");
            answers.push(self.publisher.publish(Permit::UNBOUNDED, &message, 1));
        }
        let mut lost = 0;
        for answer in answers {
            lost += u64::from(!answer.await.is_ok_and(|outcome| outcome.routed));
        }
        if lost > 0 {
            self.lost.fetch_add(lost, Ordering::Relaxed);
            warn!(queue = %member.queue, lost, "messages had no reader left anywhere, and are gone");
        }
    }

    /// To others, or to the same reader once more.
    pub(super) fn again(&self, member: &Arc<Member>, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        let others = self.others(member);
        if others.is_empty() {
            member.mailbox.put_back(items);
        } else {
            member.mailbox.give_away(&items);
            give(&others, items);
        }
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

impl Upstream for Member {
    fn line(&self) -> &Arc<Line> {
        &self.line
    }

    fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    fn what(&self) -> String {
        format!("the queue {}", self.queue)
    }

    fn filter(&self, live: &Live) -> Result<Filter, BrokerError> {
        if !live.granted.shared.unwrap_or(self.assume_shared) {
            let why = match live.granted.shared {
                Some(_) => "the MQTT broker has no shared subscriptions, which queues are made of",
                None => "the setting broker.mqtt.shared_subscriptions says that the broker has none of those",
            };
            return Err(BrokerError::Unsupported { what: "/queue".to_owned(), why: why.to_owned() });
        }
        if self.holds && !live.granted.keeps_sessions {
            let why = "the MQTT broker keeps no sessions".to_owned();
            return Err(BrokerError::Unsupported { what: "broker.mqtt.hold_queues".to_owned(), why });
        }
        Ok(Filter { path: self.filter.clone(), qos: 1, retained: false, identifier: None })
    }
}
