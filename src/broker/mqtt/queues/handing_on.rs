//! What becomes of a member whose reader leaves, and of what it has.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tracing::warn;

use super::member::State;
use super::{Member, Queues, give};
use crate::broker::Permit;
use crate::broker::mqtt::fence::while_moving;
use crate::broker::mqtt::mailbox::Item;
use crate::broker::mqtt::properties::REDELIVERED;

impl Queues {
    /// The reader takes nothing more, but may settle what it has.
    pub(in crate::broker::mqtt) fn stop(self: &Arc<Self>, member: &Arc<Member>) {
        member.mailbox.stop();
        let others = {
            let groups = self.lock();
            let Some(group) = groups.get(&member.queue).filter(|_| member.state() == State::Reading) else { return };
            member.set(State::Leaving); // it goes on when somebody comes
            !member.holds && group.has(|state| state == State::Reading)
        };
        if others {
            self.retire(Arc::clone(member), State::Leaving);
        }
    }

    /// The reader is gone.
    pub(in crate::broker::mqtt) fn leave(self: &Arc<Self>, member: &Arc<Member>) {
        member.mailbox.abandon();
        let idle = State::Idle(Instant::now());
        let stays = {
            let mut groups = self.lock();
            let group = groups.entry(member.queue.clone()).or_default();
            if member.state() == State::Retiring {
                drop(groups);
                self.hand_on(member); // its connection is on its way out already
                return;
            }
            member.set(State::Leaving);
            let is_last = !group.has(|state| matches!(state, State::Reading | State::Idle(_)));
            let stays = !member.is_over() && (member.holds || is_last && !self.connector.is_closed());
            if stays {
                member.set(idle);
            }
            stays
        };
        if !stays {
            self.retire(Arc::clone(member), State::Leaving);
        } else if member.holds {
            self.give_out(member);
        } else {
            self.wait(member, idle);
        }
    }

    /// Gives a member up that has waited for a reader for too long.
    fn wait(self: &Arc<Self>, member: &Arc<Member>, idle: State) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (queues, member) = (Arc::clone(self), Arc::clone(member));
        runtime.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(queues.linger) => {}
                () = queues.connector.closed() => return,
            }
            queues.retire(member, idle);
        });
    }

    /// Hands all on that a member has or gets, and ends it, unless its state has changed meanwhile.
    pub(super) fn retire(self: &Arc<Self>, member: Arc<Member>, from: State) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        {
            let _states = self.lock();
            if member.state() != from {
                return;
            }
            member.set(State::Retiring);
            self.retiring.send_modify(|retiring| *retiring += 1);
        }
        let queues = Arc::clone(self);
        runtime.spawn(async move {
            queues.drain(&member).await;
            queues.retiring.send_modify(|retiring| *retiring -= 1);
        });
    }

    /// Comes back when nothing more is on its way to a member, and what it had has found a place.
    async fn drain(&self, member: &Arc<Member>) {
        if member.holds {
            member.mailbox.forget_owed(); // its session has that, wherever it is
        }
        self.hand_on(member);
        if let Some(live) = member.line.now() {
            let arrivals = || member.arrivals.load(Ordering::Relaxed);
            let unsubscribed = async {
                live.client.unsubscribe(member.filter.clone()).await;
                self.fences.pass(&live, 1).await
            };
            if while_moving(arrivals, unsubscribed).await != Some(true) && live.client.is_alive() {
                warn!(queue = %member.queue, "whether the broker has let go of a member is not known");
            }
        }
        self.hand_on(member);
        self.publish_again(member).await;
        member.line.end();
        self.lock().retain(|_, group| {
            group.0.retain(|other| other.number != member.number);
            !group.0.is_empty()
        });
    }

    /// Hands what waits for a member to the others, as far as there are any.
    pub(super) fn hand_on(&self, member: &Arc<Member>) {
        // The broker sends the rest only when it is not owed too much.
        member.mailbox.own();
        let others = self.others(member);
        if others.is_empty() {
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
