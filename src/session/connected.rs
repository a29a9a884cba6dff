//! A session that is connected: its frames, and the answers to what they asked for.

use std::time::Instant;

use super::connect::Connect;
use super::headers::{self, flag};
use super::in_flight::{InFlight, Kind, Ticket};
use super::subscriptions::Subscriptions;
use super::transactions::Transactions;
use super::{Action, Context, Done, Settings};
use crate::access;
use crate::message::{Capabilities, Outcome, Principal, Refusal, Settlement, Text};
use crate::stomp::{Command, Frame};

/// What a session has from CONNECTED on.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) connect: Connect,
    pub(super) principal: Principal,
    pub(super) capabilities: Capabilities,
    pub(super) subscriptions: Subscriptions,
    pub(super) transactions: Transactions,
    /// A SEND that waits for its reply address.
    pub(super) held: Option<Box<Frame>>,
    /// Set when nothing new is taken any more.
    pub(super) ending: Option<Ending>,
}

/// Why a connected session takes nothing new.
#[derive(Debug)]
pub(super) enum Ending {
    /// DISCONNECT, with its receipt.
    Disconnect(Option<Text>),
    Shutdown,
}

/// What the handling of one frame works with.
pub(super) struct Handler<'a> {
    pub(super) context: &'a Context,
    pub(super) in_flight: &'a mut InFlight,
    pub(super) now: Instant,
    pub(super) actions: &'a mut Vec<Action>,
}

impl Handler<'_> {
    /// The session's.
    pub(super) fn settings(&self) -> &Settings {
        &self.context.settings
    }

    /// Opens a ticket whose answer is due within `session.confirm_timeout`.
    pub(super) fn open(&mut self, kind: Kind, receipt: Option<Text>) -> Ticket {
        let deadline = self.now + self.context.settings.confirm_timeout;
        self.in_flight.open(kind, receipt, Some(deadline))
    }

    /// Sends the RECEIPT, if one was asked for.
    pub(super) fn receipt(&mut self, receipt: Option<Text>, outcome: &Outcome) {
        self.actions.extend(receipt.map(|receipt| Action::Send(headers::receipt(&receipt, outcome))));
    }
}

impl Connected {
    /// Nothing has happened yet.
    pub(super) fn new(mut connect: Connect, principal: Principal, capabilities: Capabilities) -> Self {
        if let Some(will) = &mut connect.will {
            will.headers.push("stompgate-user", principal.name.clone());
        }
        Connected {
            connect,
            principal,
            capabilities,
            subscriptions: Subscriptions::default(),
            transactions: Transactions::default(),
            held: None,
            ending: None,
        }
    }

    /// Holds everything that the session has open against rules that have changed.
    pub(super) fn check_again(&mut self, context: &Context) -> Result<(), Refusal> {
        let will = self.connect.will.take(); // one that may not be sent any more is not sent by the ERROR, either
        if let Some(will) = &will {
            context.allow(access::Action::Send, &will.destination, &self.principal)?;
        }
        self.connect.will = will;
        for message in self.transactions.messages() {
            context.allow_message(message, &self.principal)?;
        }
        self.subscriptions.check_again(context, &self.principal)
    }

    /// What a frame asks for.
    pub(super) fn frame(&mut self, frame: Frame, handler: &mut Handler<'_>) -> Result<(), Refusal> {
        match frame.command {
            Command::Send => self.send(frame, handler),
            Command::Subscribe => self.subscribe(&frame, handler),
            Command::Unsubscribe => self.unsubscribe(&frame, handler),
            Command::Ack => self.acknowledge(&frame, Settlement::Accept, handler),
            Command::Nack => {
                let requeue = flag(&frame, "requeue")?.unwrap_or(true);
                self.acknowledge(&frame, if requeue { Settlement::Requeue } else { Settlement::Reject }, handler)
            }
            Command::Begin => self.begin(&frame, handler),
            Command::Commit => self.commit(&frame, handler),
            Command::Abort => self.abort(&frame, handler),
            Command::Disconnect => {
                self.connect.will = None; // a will is for those who leave without a word
                self.ending = Some(Ending::Disconnect(frame.headers.get("receipt").cloned()));
                Ok(())
            }
            Command::Connect | Command::Stomp => Err(Refusal::already_connected()),
            Command::Connected | Command::Message | Command::Receipt | Command::Error => {
                Err(Refusal::unknown_command(frame.command.as_str()))
            }
        }
    }

    /// Something that was asked for has been done.
    pub(super) fn done(
        &mut self,
        kind: Kind,
        done: Done,
        receipt: Option<Text>,
        handler: &mut Handler<'_>,
    ) -> Result<(), Refusal> {
        if kind == Kind::Commit {
            self.committed(handler);
        }
        match (kind, done) {
            (Kind::ReplyAddress(key), Done::ReplyAddress(address)) => {
                self.subscriptions.set_reply_address(key, address);
                if let Some(frame) = self.held.take() {
                    return self.send(*frame, handler);
                }
                handler.receipt(receipt, &Outcome::DONE);
                Ok(())
            }
            (Kind::Unsubscribe(key), _) => {
                handler.receipt(receipt, &Outcome::DONE);
                handler.actions.extend(self.subscriptions.forget_if_settled(key));
                Ok(())
            }
            (kind, Done::Handled(done)) => {
                self.answer(kind, done, receipt, handler);
                Ok(())
            }
            (_, Done::Outcome(outcome)) => {
                handler.receipt(receipt, &outcome);
                Ok(())
            }
            (_, Done::Authenticated(..) | Done::ReplyAddress(_)) => {
                handler.receipt(receipt, &Outcome::DONE);
                Ok(())
            }
        }
    }
}
