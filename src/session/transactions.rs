//! Open transactions: what was sent and acknowledged in them (contract, §5).

use std::time::Instant;

use super::connected::{Connected, Handler};
use super::headers::required;
use super::in_flight::Kind;
use super::subscriptions::{Claim, Unsettled};
use super::{Action, Settings, SubscriptionKey};
use crate::message::{Message, Outcome, Refusal, Settlement, Text, Transaction, detached};
use crate::stomp::Frame;

/// The transactions that a session has begun and not ended, oldest first.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    open: Vec<Open>,
    /// What the transaction settles that is being committed: there is never more than one.
    committing: Vec<(SubscriptionKey, usize)>,
}

#[derive(Debug)]
struct Open {
    name: Text,
    since: Instant,
    frames: usize,
    bytes: usize,
    messages: Vec<Message>,
    settlements: Vec<(SubscriptionKey, Vec<Unsettled>, Settlement)>,
    /// An acknowledgement in it came after its delivery was lost.
    lost: bool,
}

impl Connected {
    pub(super) fn begin(&mut self, frame: &Frame, handler: &mut Handler<'_>) -> Result<(), Refusal> {
        let name = required(frame, "transaction")?;
        self.transactions.begin(name, handler.now, handler.settings())?;
        handler.receipt(frame.headers.get("receipt").cloned(), &Outcome::DONE);
        Ok(())
    }

    pub(super) fn commit(&mut self, frame: &Frame, handler: &mut Handler<'_>) -> Result<(), Refusal> {
        let open = self.transactions.take(frame)?;
        let valid = |(key, claimed, _): &(_, Vec<_>, _)| self.subscriptions.are_valid(*key, claimed);
        if open.lost || !open.settlements.iter().all(valid) {
            return Err(Refusal::delivery_lost());
        }
        let ticket = handler.open(Kind::Commit, frame.headers.get("receipt").cloned());
        let settlements = open.settlements.iter().map(|(_, claimed, settlement)| {
            (claimed.iter().map(|unsettled| (*unsettled).into()).collect(), *settlement)
        });
        let transaction = Transaction { messages: open.messages, settlements: settlements.collect() };
        handler.actions.push(Action::Commit(ticket, transaction));
        self.transactions.committing = open.settlements.iter().map(|(key, claimed, _)| (*key, claimed.len())).collect();
        Ok(())
    }

    /// COMMIT is done; until now its deliveries needed their subscriptions, open or not.
    pub(super) fn committed(&mut self, handler: &mut Handler<'_>) {
        for (key, count) in std::mem::take(&mut self.transactions.committing) {
            handler.actions.extend(self.subscriptions.release(key, count));
        }
    }

    pub(super) fn abort(&mut self, frame: &Frame, handler: &mut Handler<'_>) -> Result<(), Refusal> {
        let open = self.transactions.take(frame)?;
        for (key, claimed, _) in open.settlements {
            handler.actions.extend(self.subscriptions.give_back(key, claimed));
        }
        handler.receipt(frame.headers.get("receipt").cloned(), &Outcome::DONE);
        Ok(())
    }
}

impl Transactions {
    fn begin(&mut self, name: &Text, now: Instant, settings: &Settings) -> Result<(), Refusal> {
        if self.open.iter().any(|open| open.name == *name) {
            return Err(Refusal::transaction_open(name));
        }
        if self.open.len() >= settings.max_transactions {
            let limit = settings.max_transactions;
            return Err(Refusal::limit_exceeded("Open transactions", limit, "session.max_transactions"));
        }
        self.open.push(Open {
            name: detached(name),
            since: now,
            frames: 0,
            bytes: 0,
            messages: Vec::new(),
            settlements: Vec::new(),
            lost: false,
        });
        Ok(())
    }

    fn take(&mut self, frame: &Frame) -> Result<Open, Refusal> {
        let name = required(frame, "transaction")?;
        let index = self.open.iter().position(|open| open.name == *name);
        let index = index.ok_or_else(|| Refusal::unknown_transaction(frame.command.as_str(), name))?;
        Ok(self.open.remove(index))
    }

    pub(super) fn is_committing(&self) -> bool {
        !self.committing.is_empty()
    }

    /// What has been sent in all of them.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.open.iter().flat_map(|open| &open.messages)
    }

    /// Deliveries of this subscription that have been acknowledged in any of them.
    pub(super) fn claimed(&self, key: SubscriptionKey) -> impl Iterator<Item = &Unsettled> {
        let settlements = self.open.iter().flat_map(|open| &open.settlements);
        settlements.filter(move |(of, ..)| *of == key).flat_map(|(_, claimed, _)| claimed)
    }

    /// Refuses a frame whose transaction is not open.
    pub(super) fn check_open(&self, command: &str, name: &Text) -> Result<(), Refusal> {
        let is_open = self.open.iter().any(|open| open.name == *name);
        is_open.then_some(()).ok_or_else(|| Refusal::unknown_transaction(command, name))
    }

    pub(super) fn stage_message(
        &mut self,
        name: &Text,
        mut message: Message,
        settings: &Settings,
    ) -> Result<(), Refusal> {
        let open = self.grow("SEND", name, message.size(), settings)?;
        message.detach(); // it may stay for minutes, the read buffer need not
        open.messages.push(message);
        Ok(())
    }

    pub(super) fn stage_settlement(
        &mut self,
        name: &Text,
        claim: Claim,
        settlement: Settlement,
        settings: &Settings,
    ) -> Result<(), Refusal> {
        let open = self.grow("ACK", name, 0, settings)?;
        match claim {
            Claim::Deliveries(key, claimed) => open.settlements.push((key, claimed, settlement)),
            Claim::Void => open.lost = true,
        }
        Ok(())
    }

    /// Counts one more frame of `bytes` bytes.
    fn grow(&mut self, command: &str, name: &Text, bytes: usize, settings: &Settings) -> Result<&mut Open, Refusal> {
        let open = self.open.iter_mut().find(|open| open.name == *name);
        let open = open.ok_or_else(|| Refusal::unknown_transaction(command, name))?;
        open.frames += 1;
        open.bytes += bytes;
        if open.frames > settings.max_transaction_frames {
            let limit = settings.max_transaction_frames;
            return Err(Refusal::limit_exceeded("Frames in one transaction", limit, "session.max_transaction_frames"));
        }
        if open.bytes > settings.max_transaction_bytes {
            let limit = settings.max_transaction_bytes;
            return Err(Refusal::limit_exceeded("Bytes in one transaction", limit, "session.max_transaction_bytes"));
        }
        Ok(open)
    }

    /// When the oldest transaction has been open for too long.
    pub(super) fn deadline(&self, settings: &Settings) -> Option<Instant> {
        self.open.first().map(|open| open.since + settings.transaction_timeout)
    }

    pub(super) fn check_age(&self, now: Instant, settings: &Settings) -> Result<(), Refusal> {
        match self.deadline(settings) {
            Some(deadline) if now >= deadline => {
                let limit = format!("{} s", settings.transaction_timeout.as_secs());
                Err(Refusal::limit_exceeded("Age of a transaction", limit, "session.transaction_timeout"))
            }
            _ => Ok(()),
        }
    }
}
