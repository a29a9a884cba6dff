//! A member of a queue's shared subscription, and how a reader gets one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::Notify;

use super::Queues;
use crate::broker::BrokerError;
use crate::broker::mqtt::connection::{Line, Live, Plan, Trial};
use crate::broker::mqtt::mailbox::Mailbox;
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
    /// What arrives goes to the others.
    pub(super) hands_on: AtomicBool,
    /// The message to itself is back.
    pub(super) fence: Notify,
}

impl Queues {
    /// A member for a reader; waits for the broker if need be.
    pub(in crate::broker::mqtt) async fn open(
        self: &Arc<Self>,
        queue: &Text,
        prefetch: u16,
    ) -> Result<Arc<Member>, BrokerError> {
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
                mailbox: Mailbox::new(prefetch, self.max_waiting),
                hands_on: AtomicBool::new(false),
                fence: Notify::new(),
            }
        })
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
