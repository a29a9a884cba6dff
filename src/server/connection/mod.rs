//! One client's task: it turns what happens into inputs of the session, and performs the session's actions.
//!
//! **Always be reading, never be waiting.** The task has one place where it waits, [`Connection::poll`], and there it
//! waits for everything at once: the socket in both directions, the outbox, the one operation under way, confirmations,
//! dedicated subscriptions, the clock. A slow client therefore stalls only what is written to it, and a slow broker only
//! the frames behind the one that waits for it; neither stalls heart-beats, acknowledgements or deliveries.
//!
//! Back-pressure, from end to end: frames are decoded only while the session is ready and the outbox has room, and the
//! socket is read only when all that came has been decoded.
//!
//! | file | |
//! |---|---|
//! | `mod` | what a client's task holds, and its way in and out of the session |
//! | `wait` | its loop, and the one place where it waits |
//! | `event` | what happened, as inputs of the session |
//! | `arrivals` | whether the client or the clock woke it |
//! | `clock` | what is due when |
//! | `perform` | the session's actions, and how they ended |
//! | `write` | what goes to the client |
//! | `calls`, `observed` | what the chain has an interest in: frames, and subscriptions while they last |
//! | `finish` | the end |
//! | `count`, `shown`, `traced` | what is counted, what the log may show, and what is recorded of acknowledgements |

mod arrivals;
mod calls;
mod clock;
mod count;
mod event;
mod finish;
mod observed;
mod perform;
mod shown;
mod traced;
mod wait;
mod write;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use tokio::time::Sleep;
use tracing::field::{Empty, display};
use tracing::{Instrument as _, Span, error_span, trace};

use super::chained::Chained;
use super::consumers::Consumers;
use super::operation::{Operation, Pending};
use super::socket::Socket;
use super::{Client, Live, Services};
use crate::broker::Link;
use crate::chain::Subscription;
use crate::hub::Membership;
use crate::hub::outbox::Outbox;
use crate::message::{CloseCode, Message, Refusal, Text};
use crate::metrics::Holdings;
use crate::session::{Action, Input, Session, SubscriptionKey};
use crate::stomp::{Decoder, Item as Decoded, Limits};
use arrivals::Arrivals;
use calls::Calls;
pub(super) use clock::now;
pub(super) use count::outcome_of;
use observed::Interception;
use traced::Unacknowledged;
use write::Writing;

/// Frames and heart-beats of one client that are handled before other tasks have their turn.
const FRAMES_AT_A_TIME: usize = 64;

/// One client's connection, from the open WebSocket to its end.
pub(super) struct Connection {
    services: Arc<Services>,
    /// As it was when the client came.
    live: Arc<Live>,
    /// As it was when this client last took what changes for all.
    adopted: Arc<Live>,
    client: Client,
    /// The header `host` of CONNECT.
    tenant: Option<Text>,
    /// What every line of the log names this session by.
    span: Span,
    socket: Socket,
    session: Session,
    decoder: Decoder,
    outbox: Arc<Outbox>,
    link: Option<Arc<dyn Link>>,
    memberships: Vec<(SubscriptionKey, Membership)>,
    consumers: Consumers,
    /// Deliveries and confirmations taken since the last write.
    gathered: usize,
    /// The consumers were not asked, for want of room in the outbox.
    held_back: bool,
    /// What comes in has its turn before more goes out.
    inbound_first: bool,
    arrivals: Arrivals,
    actions: VecDeque<Action>,
    operation: Option<Operation>,
    confirmations: Option<FuturesUnordered<Pending>>,
    /// The interceptor chain, if there is one, from CONNECT on.
    chained: Option<Chained>,
    calls: Calls,
    /// Subscriptions of which the chain wants to know more.
    observed: Vec<Subscription>,
    /// A message that the chain looks at before it is delivered.
    interception: Option<Interception>,
    unacknowledged: Unacknowledged,
    /// The code of the ERROR that ended the session.
    error: Option<Text>,
    /// The will, once the session has ended without DISCONNECT.
    will: Option<Box<Message>>,
    closing: Option<(CloseCode, String)>,
    writing: Writing,
    /// Bytes came that have not been decoded.
    undecoded: bool,
    /// Bytes that had come when that was last looked at.
    received: u64,
    last_inbound: Instant,
    last_ping: Instant,
    unanswered_pings: u32,
    timer: Pin<Box<Sleep>>,
    /// What the timer was set for; it fires a little later.
    due: Instant,
    /// When the last input was handled: what follows from it counts from there, and asks no clock.
    handled: Instant,
    has_connected: bool,
    holdings: Holdings,
}

impl Connection {
    pub(super) fn new(services: Arc<Services>, live: Arc<Live>, client: Client, mut socket: Socket) -> Self {
        let now = now();
        let settings = &live.session;
        socket.stream().set_budget(settings.max_connect_bytes);
        let limits = Limits {
            headers: settings.max_headers,
            header_bytes: settings.max_header_bytes.min(settings.max_connect_bytes),
            // CONNECT has none; a SEND that comes too early is to be told so, not that its body is too large.
            body: settings.max_connect_bytes,
            frame: Some(settings.max_connect_bytes),
        };
        let (handlers, rules, separators) = (Arc::clone(&live.handlers), Arc::clone(&live.rules), services.separators);
        let session = Session::new(client.id.clone(), Arc::clone(settings), separators, handlers, rules, now);
        let holdings = services.metrics.holdings();
        Connection {
            session,
            decoder: Decoder::new(limits),
            outbox: Arc::clone(&client.outbox),
            socket,
            span: span(&client, None),
            client,
            tenant: None,
            services,
            adopted: Arc::clone(&live),
            live,
            link: None,
            memberships: Vec::new(),
            consumers: Consumers::default(),
            gathered: 0,
            held_back: false,
            inbound_first: false,
            arrivals: Arrivals::default(),
            actions: VecDeque::new(),
            operation: None,
            confirmations: None,
            chained: None,
            calls: Calls::default(),
            observed: Vec::new(),
            interception: None,
            unacknowledged: Unacknowledged::default(),
            error: None,
            will: None,
            closing: None,
            writing: Writing::default(),
            undecoded: false,
            received: 0,
            last_inbound: now,
            last_ping: now,
            unanswered_pings: 0,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            due: now,
            handled: now,
            has_connected: false,
            holdings,
        }
    }

    /// Runs until the connection has ended. By reference: a future keeps what it was given and what it made of it, so
    /// that by value every client would hold the memory of several connections.
    pub(super) async fn run(&mut self) {
        poll_fn(|context| self.poll(context)).await;
        self.end().await;
    }

    /// The client must be turned away, and is told so.
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.spanned(|this| this.input(Input::Refused(refusal)));
    }

    /// Boxed, as memory that only the end needs.
    fn end(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let span = self.span.clone();
        Box::pin(self.finish().instrument(span))
    }

    /// Does something whose lines in the log are this session's.
    fn spanned<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let span = self.span.clone();
        span.in_scope(|| work(self))
    }

    /// Somebody asks about the session, or whether it is watched has changed, which counts from a new span on, or what a
    /// reload can change has.
    fn on_asked(&mut self) {
        self.adopt();
        self.client.registration.answer(|| self.session.subscriptions());
        self.span = span(&self.client, self.session.principal().map(|principal| &principal.name));
    }

    /// Hands an input to the session. What it wants sent is sent at once; what goes to the broker waits for its turn.
    fn input(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.handled = now();
        self.session.handle(input, self.handled, &mut actions);
        if self.session.is_ended() {
            self.memberships.clear(); // no MESSAGE follows an ERROR
        }
        for action in actions {
            match action {
                Action::Send(_) | Action::Deliver(_) | Action::Heartbeat => self.perform(action),
                action => self.actions.push_back(action),
            }
        }
        self.holdings.set(self.memberships.len(), self.consumers.len(), self.session.unsettled());
    }

    /// Performs actions and decodes frames until one of them has to wait. True if there is more, and only the turn of
    /// other tasks has come.
    fn advance(&mut self) -> bool {
        let mut decoded = 0;
        loop {
            // What a session does when it ends waits for no operation; that one is carried through afterwards.
            while (self.operation.is_none() || self.session.is_ended()) && self.closing.is_none() {
                let Some(action) = self.actions.pop_front() else { break };
                self.perform(action);
            }
            if self.actions.is_empty() {
                self.actions = VecDeque::new(); // most clients are idle, and an idle one keeps no memory for lists
            }
            let may_decode = self.undecoded && self.operation.is_none() && self.closing.is_none();
            if !may_decode || !self.session.is_ready() || !self.outbox.has_room() {
                if self.operation.is_some() && self.outbox.has_room() {
                    self.take_heartbeats();
                }
                return false;
            }
            if decoded == FRAMES_AT_A_TIME {
                return true;
            }
            decoded += 1;
            let before = self.decoder.buffered();
            let next = self.decoder.next();
            let bytes = before.saturating_sub(self.decoder.buffered());
            match next {
                Ok(Some(Decoded::Frame(frame))) => {
                    trace!(frame = %shown::Shown(&frame), "received");
                    self.services.metrics.received(Some(frame.command), bytes);
                    self.input(Input::Frame(frame));
                }
                Ok(Some(Decoded::Heartbeat)) => self.services.metrics.received(None, bytes),
                Ok(None) => self.undecoded = false,
                Err(error) => self.input(Input::Refused(error.into())),
            }
        }
    }

    /// Heart-beats wait for nothing that is under way. And where no frame waits, either, the client is read on: that is how
    /// its end is noticed.
    fn take_heartbeats(&mut self) {
        while let Some(bytes) = self.decoder.take_heartbeat() {
            self.services.metrics.received(None, bytes);
        }
        self.undecoded &= !self.decoder.is_empty();
    }
}

/// The span of a session: `user` from CONNECT on, `end` once that is known. One that is watched is so from its
/// span's beginning (`telemetry::Change::sessions`).
fn span(client: &Client, user: Option<&Text>) -> Span {
    let span = error_span!("session", id = %client.id, peer = %client.peer, user = Empty, end = Empty);
    if let Some(user) = user {
        span.record("user", display(user));
    }
    span
}
