//! A member of a queue's shared subscription, and how a reader gets one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::time::Instant;

use super::Queues;
use crate::broker::BrokerError;
use crate::broker::mqtt::connection::{Line, Live, Plan, Trial, Verdict};
use crate::broker::mqtt::mailbox::{Mailbox, Remains};
use crate::broker::mqtt::upstream::{self, Upstream};
use crate::broker::mqtt::wire::{Arrival, Filter};
use crate::message::Text;

/// A member of a shared subscription.
pub(in crate::broker::mqtt) struct Member {
    pub(super) number: u64,
    pub(super) queue: Text,
    pub(super) filter: String,
    receive_maximum: u16,
    /// It stays without a reader, and is there for what comes.
    pub(super) holds: bool,
    assume_shared: bool,
    pub(super) line: Arc<Line>,
    pub(in crate::broker::mqtt) mailbox: Mailbox,
    state: Mutex<State>,
    /// Nothing comes any more, and its reader has been told so.
    is_over: AtomicBool,
    /// How much has come.
    pub(super) arrivals: AtomicU64,
}

/// Where a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has a reader.
    Reading,
    /// Its reader takes nothing more, but has not settled all.
    Leaving,
    /// It holds, and what it brought broke its connections: readers are kept from it until it has held out for a while.
    Suspect,
    /// It waits for a reader, since then.
    Idle(Instant),
    /// What it has, and what comes, goes to the others; then it ends.
    Retiring,
}

impl Queues {
    /// A member for a reader; waits for the broker if need be.
    pub(in crate::broker::mqtt) async fn open(
        self: &Arc<Self>,
        queue: &Text,
        prefetch: u16,
    ) -> Result<Arc<Member>, BrokerError> {
        let topic = self.reading.names.queue(queue)?;
        let holder =
            self.lock().get(queue).and_then(|group| group.which(|member| member.holds && member.is_free()).pop());
        if let Some(holder) = holder
            && let Err(why) = upstream::open(&*holder).await // it may be on its way
            && !holder.is_over()
        {
            return Err(why);
        }
        if let Some(member) = self.adopt(queue, prefetch) {
            return Ok(member);
        }
        let member = self.member(queue, format!("$share/{}/{topic}", self.group), prefetch, false);
        let trial = Trial::of(&member.line);
        let live = upstream::open(&*member).await?;
        trial.keep();
        let left = {
            let mut groups = self.lock();
            let group = groups.entry(queue.clone()).or_default();
            let is_left = |state| matches!(state, State::Leaving | State::Idle(_));
            let left = group.which(|other| !other.holds && is_left(other.state()));
            let left: Vec<_> = left.into_iter().map(|other| (other.state(), other)).collect();
            group.0.push(Arc::clone(&member));
            left
        };
        for (state, other) in left {
            self.retire(other, state);
        }
        tokio::spawn(Arc::clone(self).tend(Arc::clone(&member), live));
        Ok(member)
    }

    /// Subscribes again after each outage, until nothing more can come.
    async fn tend(self: Arc<Self>, member: Arc<Member>, live: Arc<Live>) {
        let why = upstream::tend(&*member, live).await;
        let state = {
            let _states = self.lock();
            member.end(why);
            member.state()
        };
        if matches!(state, State::Idle(_)) && !self.connector.is_closed() {
            self.retire(member, state);
        }
    }

    /// Takes over a member that waits for a reader, if it may have as much on its way as is wanted.
    fn adopt(&self, queue: &Text, prefetch: u16) -> Option<Arc<Member>> {
        let groups = self.lock();
        let fits = |member: &Member| member.is_free() && (member.holds || member.receive_maximum >= prefetch);
        let member = groups.get(queue)?.which(fits).pop()?;
        member.set(State::Reading);
        member.mailbox.open(prefetch);
        Some(member)
    }

    pub(super) fn member(self: &Arc<Self>, queue: &Text, filter: String, prefetch: u16, holds: bool) -> Arc<Member> {
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
                mailbox: if holds {
                    Mailbox::after(Remains::default(), prefetch, self.max_waiting)
                } else {
                    Mailbox::new(prefetch, self.max_waiting)
                },
                state: Mutex::new(State::Reading),
                is_over: AtomicBool::new(false),
                arrivals: AtomicU64::new(0),
            }
        })
    }
}

impl Member {
    pub(super) fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For whoever has the lock of all members.
    pub(super) fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Nothing comes any more.
    pub(super) fn end(&self, why: BrokerError) {
        self.is_over.store(true, Ordering::Release);
        self.mailbox.end(why);
    }

    /// Whether it waits for a reader, and is worth one.
    fn is_free(&self) -> bool {
        matches!(self.state(), State::Idle(_)) && !self.is_over()
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

    fn over(&self) -> BrokerError {
        match self.line.verdict() {
            None => BrokerError::Unavailable,
            Some(Verdict::TakenOver) => BrokerError::Rejected(format!(
                "the queue {}: another gateway holds it now (broker.mqtt.hold_queues is for one of them only); subscribe \
                 again to read beside it",
                self.queue
            )),
            Some(Verdict::Poisoned) => BrokerError::Poison(self.what()),
        }
    }
}
