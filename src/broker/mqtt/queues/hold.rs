//! Queues that are kept while nobody reads them: by a member that is always there, in a session that the broker keeps.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, error};

use super::member::State;
use super::{Member, Queues, give};
use crate::broker::mqtt::connection::{Plan, Session, Verdict};
use crate::broker::mqtt::{names, upstream};
use crate::broker::{BrokerError, backoff};
use crate::message::Text;

/// Messages of a held queue that may be here without their acknowledgement; the broker has the rest.
const HELD: u16 = 1_000;
/// What breaks each connection is tried again after so many times `broker.mqtt.reconnect_max` at the latest.
const PATIENCE: u32 = 12;
/// A session that does not expire.
const FOR_EVER: u32 = u32::MAX;

impl Queues {
    /// Has a member for a queue in a session that lasts, until the broker is closed or another gateway has it. It is there
    /// for readers when this returns.
    pub(super) fn hold(self: &Arc<Self>, queue: &Text) {
        match self.reading.names.queue(queue) {
            Ok(topic) => {
                let filter = format!("$share/{}/{topic}", self.group);
                let member = self.holder(queue, filter, State::Idle(Instant::now()));
                tokio::spawn(Arc::clone(self).go_on_holding(member));
            }
            Err(why) => error!(%queue, %why, "this queue cannot be held (broker.mqtt.hold_queues)"),
        }
    }

    fn holder(self: &Arc<Self>, queue: &Text, filter: String, state: State) -> Arc<Member> {
        let member = self.member(queue, filter, HELD, true);
        member.mailbox.stop(); // nobody reads yet
        let mut groups = self.lock();
        member.set(state);
        groups.entry(queue.clone()).or_default().0.push(Arc::clone(&member));
        member
    }

    /// One member after the other: what breaks the connections of one may be gone, or read elsewhere, when the next is there.
    async fn go_on_holding(self: Arc<Self>, mut member: Arc<Member>) {
        let longest = self.connector.reconnect_max.saturating_mul(PATIENCE);
        let mut poisoned = 0;
        loop {
            let begun = Instant::now();
            let why = tokio::select! {
                why = self.keep(&member) => why,
                never = self.clear(&member) => match never {},
            };
            let verdict = member.line.verdict();
            match verdict {
                None => {}
                Some(Verdict::TakenOver) => {
                    let hint = "broker.mqtt.hold_queues is for one of them only";
                    error!(queue = %member.queue, "another gateway holds this queue: {hint}");
                }
                // Once, not at each attempt.
                Some(Verdict::Poisoned) if poisoned == 0 => {
                    let hint = "it is tried again and again; look at broker.mqtt.max_packet";
                    error!(queue = %member.queue, %why, "this queue cannot be held for what is in it: {hint}");
                }
                Some(Verdict::Poisoned) => debug!(queue = %member.queue, %why, "this queue cannot be held yet"),
            }
            self.give_up(&member, why);
            if verdict != Some(Verdict::Poisoned) {
                return;
            }
            poisoned = backoff::after(poisoned, begun.elapsed(), longest);
            tokio::select! {
                () = self.connector.closed() => return,
                () = backoff::pause(poisoned, longest) => {}
            }
            member = self.holder(&member.queue, member.filter.clone(), State::Suspect);
        }
    }

    /// Readers may have a member that has held out for a while.
    async fn clear(&self, member: &Member) -> Infallible {
        while let Ok(live) = member.line.up().await {
            tokio::select! {
                () = member.line.gone(live.generation) => {}
                () = tokio::time::sleep(self.connector.reconnect_max) => {
                    let _states = self.lock();
                    if member.state() == State::Suspect {
                        member.set(State::Idle(Instant::now()));
                    }
                    break;
                }
            }
        }
        std::future::pending().await
    }

    fn give_up(self: &Arc<Self>, member: &Arc<Member>, why: BrokerError) {
        let state = {
            let _states = self.lock();
            member.end(why);
            member.state()
        };
        if matches!(state, State::Idle(_) | State::Suspect) {
            self.retire(Arc::clone(member), state);
        }
    }

    /// Comes back when it can be kept no longer. That the broker does not want it may change.
    async fn keep(&self, member: &Member) -> BrokerError {
        let mut told = None;
        let mut attempt = 0;
        loop {
            let why = match upstream::open(member).await {
                Ok(live) => {
                    (told, attempt) = (None, 0);
                    upstream::tend(member, live).await
                }
                Err(why) => why,
            };
            if self.connector.is_closed() || member.line.verdict().is_some() {
                return why;
            }
            if told.as_ref() != Some(&why) {
                error!(queue = %member.queue, %why, "the broker does not let this queue be held (broker.mqtt.hold_queues)");
                told = Some(why);
            }
            attempt += 1;
            self.connector.pause(attempt).await;
        }
    }

    /// Its session has the same name after a restart, and at every gateway: so there is one that holds.
    pub(super) fn holding(&self, queue: &Text) -> Plan {
        let client_id = names::session(&self.client_id, "hold", &[&self.group, queue]);
        let session = Session { client_id, lasts: Some(FOR_EVER), witness: Arc::clone(&self.witness) };
        Plan::named("held queue", HELD, session)
    }

    /// What comes to a member that holds is for those who read here, if there are any.
    pub(super) fn give_out(&self, member: &Arc<Member>) {
        let others = self.others(member);
        if !others.is_empty() {
            for item in member.mailbox.take() {
                give(&others, vec![item]);
            }
        }
    }
}
