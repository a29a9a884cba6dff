//! What becomes of a member whose reader leaves, and of what it has.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::warn;

use super::{Member, Queues, give};
use crate::broker::Permit;
use crate::broker::base64::base64url;
use crate::broker::mqtt::connection::Live;
use crate::broker::mqtt::mailbox::Item;
use crate::broker::mqtt::names::FENCES;
use crate::broker::mqtt::properties::REDELIVERED;
use crate::broker::mqtt::shared::FENCE;
use crate::broker::mqtt::wire::{Filter, Packet, Subscribed};

impl Queues {
    /// The reader takes nothing more, but may settle what it has.
    pub(in crate::broker::mqtt) fn stop(self: &Arc<Self>, member: &Arc<Member>) {
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
    pub(in crate::broker::mqtt) fn leave(self: &Arc<Self>, member: &Arc<Member>) {
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
    pub(super) fn retire(self: &Arc<Self>, member: Arc<Member>) {
        member.hands_on.store(true, Ordering::Release);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let queues = Arc::clone(self);
        runtime.spawn(async move { queues.drain(&member).await });
    }

    /// Comes back when nothing more is on its way to a member, and what it had has found a place.
    pub(super) async fn drain(&self, member: &Arc<Member>) {
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
    pub(super) fn hand_on(&self, member: &Arc<Member>) {
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
        for mut message in items.into_iter().filter_map(Item::into_waiting) {
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
    pub(in crate::broker::mqtt) fn again(&self, member: &Arc<Member>, items: Vec<Item>) {
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
}
