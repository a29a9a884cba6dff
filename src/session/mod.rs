//! One client's STOMP session as a function of (input, time): frames and answers in, actions out.
//!
//! ```text
//!   Waiting ──CONNECT──► Authenticating ──Done(ok)──► Connected ──DISCONNECT, Shutdown──► (finishing) ──► Ended
//!      │                        │                         │                                                ▲
//!      └──any other frame───────┴──a refusal──────────────┴──any refusal: ERROR, close ────────────────────┘
//! ```
//!
//! The session does no IO and reads no clock. Its driver performs the actions in order, answers those that carry a
//! [`Ticket`] with [`Input::Done`], wakes it at [`Session::deadline`], and offers the next frame only while
//! [`Session::is_ready`]. That is how SUBSCRIBE, UNSUBSCRIBE and COMMIT finish before the next frame begins, while
//! SENDs are pipelined (contract, §4).

mod action;
mod answers;
mod arguments;
mod connect;
mod connected;
mod headers;
mod in_flight;
mod send;
mod settings;
mod subscribe;
mod subscriptions;
#[cfg(test)]
mod tests;
mod transactions;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::access::{self, Rules, Subject};
use crate::message::{
    CloseCode, Delivery, Destination, Handlers, Headers, Message, Outcome, Principal, Refusal, Separators, Text,
};
use crate::stomp::{Command, Frame, Version};

pub use action::{Action, Application, Deliver, Done, Input, Request, SubscriptionKey};
use connect::Connect;
use connected::{Connected, Ending, Handler};
pub use in_flight::Ticket;
use in_flight::{Answered, InFlight, Kind};
use send::Rates;
pub use send::sessionless;
pub use settings::Settings;
pub use subscriptions::Overview;

/// One client's STOMP session. See the module's documentation for its states.
#[derive(Debug)]
pub struct Session {
    context: Context,
    in_flight: InFlight,
    rates: Rates,
    last_inbound: Instant,
    last_outbound: Instant,
    /// The version agreed on; 1.0 before there is one, since every client reads that.
    version: Version,
    state: State,
}

/// What a session does not change.
#[derive(Debug)]
struct Context {
    /// Its name: the header `session` of CONNECTED.
    id: Text,
    settings: Arc<Settings>,
    separators: Separators,
    handlers: Arc<dyn Handlers>,
    /// Who may send and subscribe where.
    rules: Arc<Rules>,
}

#[derive(Debug)]
enum State {
    /// No CONNECT yet.
    Waiting {
        since: Instant,
    },
    /// CONNECT came and is being checked.
    Authenticating {
        since: Instant,
        connect: Box<Connect>,
    },
    Connected(Box<Connected>),
    /// Nothing follows any more.
    Ended,
}

impl Session {
    /// A session of the name `id` whose client has just opened its connection. `handlers` say what there is under
    /// `/app`, `rules` who may do what.
    pub fn new(
        id: Text,
        settings: Arc<Settings>,
        separators: Separators,
        handlers: Arc<dyn Handlers>,
        rules: Arc<Rules>,
        now: Instant,
    ) -> Self {
        Session {
            in_flight: InFlight::default(),
            rates: Rates::new(&settings, now),
            context: Context { id, settings, separators, handlers, rules },
            last_inbound: now,
            last_outbound: now,
            version: Version::V10,
            state: State::Waiting { since: now },
        }
    }

    /// From now on these say what there is under `/app`.
    pub fn set_handlers(&mut self, handlers: Arc<dyn Handlers>) {
        self.context.handlers = handlers;
    }

    /// Takes an input and appends what is to be done.
    pub fn handle(&mut self, input: Input, now: Instant, actions: &mut Vec<Action>) {
        let mut receipt = None;
        if let Err(refusal) = self.step(input, now, &mut receipt, actions) {
            self.fail(refusal, receipt, actions);
        }
        self.finish_if_done(actions);
    }

    /// Notes that `bytes` bytes came from the client, a WebSocket Pong included.
    ///
    /// # Errors
    /// When that is more than `session.max_bytes_per_second` allows; to be handed back as [`Input::Refused`].
    pub fn received(&mut self, bytes: usize, now: Instant) -> Result<(), Refusal> {
        self.last_inbound = now;
        self.rates.bytes(bytes, now)
    }

    /// Notes that something was sent to the client.
    pub fn sent(&mut self, now: Instant) {
        self.last_outbound = now;
    }

    /// Whether the next frame may be offered.
    pub fn is_ready(&self) -> bool {
        match &self.state {
            State::Waiting { .. } => true,
            State::Authenticating { .. } | State::Ended => false,
            State::Connected(connected) => {
                connected.ending.is_none()
                    && !self.in_flight.is_blocking()
                    && self.in_flight.len() < self.context.settings.max_unconfirmed
            }
        }
    }

    /// Whether a COMMIT waits for its answer.
    pub fn is_committing(&self) -> bool {
        matches!(&self.state, State::Connected(connected) if connected.transactions.is_committing())
    }

    /// Whether CONNECT was accepted.
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected(_))
    }

    /// Whether the session is over.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// The version agreed on; 1.0 before there is one, since every client reads that.
    pub fn version(&self) -> Version {
        self.version
    }

    /// `X`, where a subscription reads answers to `/temp-queue/X`.
    pub fn temporary_queue(&self, key: SubscriptionKey) -> Option<Text> {
        match &self.state {
            State::Connected(connected) => connected.subscriptions.temporary_queue(key),
            _ => None,
        }
    }

    /// Who it is, once connected.
    pub fn principal(&self) -> Option<&Principal> {
        match &self.state {
            State::Connected(connected) => Some(&connected.principal),
            _ => None,
        }
    }

    /// How many deliveries wait for the client's ACK or NACK.
    pub fn unsettled(&self) -> usize {
        match &self.state {
            State::Connected(connected) => connected.subscriptions.unsettled(),
            _ => 0,
        }
    }

    /// Its open subscriptions, in the order in which they were opened.
    pub fn subscriptions(&self) -> Vec<Overview> {
        match &self.state {
            State::Connected(connected) => connected.subscriptions.overview(),
            _ => Vec::new(),
        }
    }

    /// When [`Input::Deadline`] is due, if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { since } | State::Authenticating { since, .. } => {
                Some(*since + self.context.settings.connect_timeout)
            }
            State::Connected(connected) => {
                let heartbeat = &connected.connect.heartbeat;
                let inbound = heartbeat.inbound.map(|interval| self.last_inbound + 2 * interval);
                let outbound = heartbeat.outbound.map(|interval| self.last_outbound + ahead_of(interval));
                let transaction = connected.transactions.deadline(&self.context.settings);
                [inbound, outbound, self.in_flight.deadline(), transaction].into_iter().flatten().min()
            }
            State::Ended => None,
        }
    }

    /// One input. `receipt` is set to the receipt that a refusal has to carry.
    fn step(
        &mut self,
        input: Input,
        now: Instant,
        receipt: &mut Option<Text>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        match input {
            Input::Frame(frame) => {
                *receipt = frame.headers.get("receipt").cloned();
                self.rates.frame(now)?;
                self.frame(frame, now, actions)
            }
            Input::Done(ticket, result) => self.done(ticket, result, now, receipt, actions),
            Input::Delivery(key, delivery) => {
                self.deliver(key, delivery, actions);
                Ok(())
            }
            Input::Interrupted(key) => {
                if let State::Connected(connected) = &mut self.state {
                    connected.subscriptions.interrupt(key);
                }
                Ok(())
            }
            Input::Returned(key, last) => {
                if let State::Connected(connected) = &mut self.state {
                    let claimed = connected.transactions.claimed(key);
                    connected.subscriptions.take_back(key, last, claimed);
                }
                Ok(())
            }
            Input::Deadline => self.on_deadline(now, actions),
            Input::Shutdown => {
                self.shut_down(actions);
                Ok(())
            }
            Input::Gone => {
                self.end(actions);
                Ok(())
            }
            Input::Rules(rules) => {
                self.context.rules = rules;
                match &mut self.state {
                    State::Connected(connected) => connected.check_again(&self.context),
                    _ => Ok(()),
                }
            }
            Input::SubscriptionEnded(refusal) | Input::Refused(refusal) => Err(refusal),
        }
    }

    fn frame(&mut self, frame: Frame, now: Instant, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        let command = frame.command;
        match (&mut self.state, command) {
            (State::Waiting { since }, Command::Connect | Command::Stomp) => {
                let (connect, credentials) = Connect::read(&frame, &self.context)?;
                self.version = connect.version;
                self.state = State::Authenticating { since: *since, connect: Box::new(connect) };
                let ticket = self.in_flight.open(Kind::Connect, None, None);
                actions.push(Action::Authenticate(ticket, credentials));
                Ok(())
            }
            (State::Waiting { .. } | State::Authenticating { .. }, _) => Err(Refusal::not_connected(command.as_str())),
            (State::Connected(connected), _) if connected.ending.is_none() => {
                let mut handler = Handler { context: &self.context, in_flight: &mut self.in_flight, now, actions };
                connected.frame(frame, &mut handler)
            }
            // Nothing after DISCONNECT, and nothing after the end.
            (State::Connected(_) | State::Ended, _) => Ok(()),
        }
    }

    fn deliver(&mut self, key: SubscriptionKey, delivery: Delivery, actions: &mut Vec<Action>) {
        let State::Connected(connected) = &mut self.state else { return };
        actions.extend(connected.subscriptions.deliver(key, delivery, connected.connect.version));
    }

    fn done(
        &mut self,
        ticket: Ticket,
        result: Result<Done, Refusal>,
        now: Instant,
        receipt: &mut Option<Text>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let Some(Answered { kind, receipt: asked }) = self.in_flight.close(ticket) else { return Ok(()) };
        receipt.clone_from(&asked);
        let done = result?;
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Authenticating { connect, since } => match done {
                Done::Authenticated(principal, capabilities) => {
                    if let Err(refusal) = connect.check_will(capabilities, &principal, &self.context) {
                        self.state = State::Authenticating { connect, since };
                        return Err(refusal);
                    }
                    actions.push(Action::Send(connect.connected(&self.context.id, &principal)));
                    self.last_inbound = now;
                    self.state = State::Connected(Box::new(Connected::new(*connect, principal, capabilities)));
                }
                _ => self.state = State::Authenticating { connect, since },
            },
            State::Connected(mut connected) => {
                let mut handler = Handler { context: &self.context, in_flight: &mut self.in_flight, now, actions };
                let answered = connected.done(kind, done, asked, &mut handler);
                self.state = State::Connected(connected);
                return answered;
            }
            state => self.state = state,
        }
        Ok(())
    }

    fn on_deadline(&mut self, now: Instant, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        let settings = &self.context.settings;
        let connected = match &mut self.state {
            State::Waiting { since } | State::Authenticating { since, .. } => {
                let due = now >= *since + settings.connect_timeout;
                return if due { Err(Refusal::connect_timeout(settings.connect_timeout.as_secs())) } else { Ok(()) };
            }
            State::Ended => return Ok(()),
            State::Connected(connected) => connected,
        };
        if self.in_flight.deadline().is_some_and(|deadline| now >= deadline) {
            return Err(Refusal::confirm_timeout(settings.confirm_timeout.as_secs()));
        }
        connected.transactions.check_age(now, settings)?;
        let heartbeat = &connected.connect.heartbeat;
        if let Some(interval) = heartbeat.inbound
            && now >= self.last_inbound + 2 * interval
        {
            return Err(Refusal::heartbeat_missed(interval.as_millis()));
        }
        if heartbeat.outbound.is_some_and(|interval| now >= self.last_outbound + ahead_of(interval)) {
            self.last_outbound = now;
            actions.push(Action::Heartbeat);
        }
        Ok(())
    }

    fn shut_down(&mut self, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Connected(connected) => {
                connected.ending.get_or_insert(Ending::Shutdown);
            }
            State::Waiting { .. } | State::Authenticating { .. } => {
                let refusal = Refusal::shutting_down();
                actions.push(Action::Close(refusal.close, refusal.message));
                self.state = State::Ended;
            }
            State::Ended => {}
        }
    }

    /// Closes a session that is ending once nothing of it is in flight any more.
    fn finish_if_done(&mut self, actions: &mut Vec<Action>) {
        let State::Connected(connected) = &mut self.state else { return };
        if connected.ending.is_none() || !self.in_flight.is_empty() {
            return;
        }
        match connected.ending.take() {
            Some(Ending::Disconnect(receipt)) => {
                actions.extend(receipt.map(|receipt| Action::Send(headers::receipt(&receipt, &Outcome::DONE))));
                actions.push(Action::Close(CloseCode::NORMAL, "Disconnected".to_owned()));
            }
            Some(Ending::Shutdown) => {
                let refusal = Refusal::shutting_down();
                actions.push(Action::Close(refusal.close, refusal.message));
            }
            None => {}
        }
        self.end(actions);
    }

    /// ERROR, then close. The one place where an ERROR frame is made.
    fn fail(&mut self, refusal: Refusal, receipt: Option<Text>, actions: &mut Vec<Action>) {
        if self.is_ended() {
            return;
        }
        let mut detail = refusal.detail;
        let open: Vec<&str> = self.in_flight.receipts().map(|receipt| &**receipt).collect();
        if !open.is_empty() {
            detail.push_str("\nReceipts still open: ");
            detail.push_str(&open.join(", "));
        }
        let mut headers = Headers::from([
            ("message", refusal.message.as_str()),
            ("content-type", "text/plain"),
            ("version", "1.0,1.1,1.2"),
            ("code", refusal.code),
        ]);
        if let Some(receipt) = receipt {
            headers.push("receipt-id", receipt);
        }
        actions.push(Action::Send(Frame { command: Command::Error, headers, body: detail.into() }));
        actions.push(Action::Close(refusal.close, refusal.message));
        self.end(actions);
    }

    /// The end, for whatever reason: the will, if there still is one, and nothing more.
    fn end(&mut self, actions: &mut Vec<Action>) {
        if let State::Connected(connected) = &mut self.state
            && let Some(will) = connected.connect.will.take()
        {
            // Before the close, so that a driver which stops at the close has published it.
            let at = actions.iter().position(|action| matches!(action, Action::Close(..))).unwrap_or(actions.len());
            actions.insert(at, Action::PublishWill(*will));
        }
        self.state = State::Ended;
    }
}

impl Context {
    /// Lets a SEND or a SUBSCRIBE of this principal pass.
    fn allow(&self, action: access::Action, destination: &Destination, principal: &Principal) -> Result<(), Refusal> {
        self.rules.check(action, destination, self.subject(principal))
    }

    /// The same for all that a staged SEND reaches: where it goes, where its answer does, and its dead letters.
    fn allow_message(&self, message: &Message, principal: &Principal) -> Result<(), Refusal> {
        self.allow(access::Action::Send, &message.destination, principal)?;
        if let Some(reply_to) = message.headers.get("reply-to") {
            self.rules.check_reply_to(reply_to, self.subject(principal))?;
        }
        match &message.options.arguments {
            Some(arguments) => self.rules.check_arguments(arguments, self.subject(principal)),
            None => Ok(()),
        }
    }

    fn subject<'a>(&'a self, principal: &'a Principal) -> Subject<'a> {
        Subject { principal, session: &self.id }
    }
}

/// When a heart-beat is sent, so that it is not late although its driver's clock ticks, and the way takes its time.
fn ahead_of(interval: Duration) -> Duration {
    interval * 15 / 16
}
