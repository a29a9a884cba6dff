//! One client's task: it turns what happens into inputs of the session, and performs the session's actions.
//!
//! **Always be reading, never be waiting.** The task has one place where it waits, [`Connection::poll`], and there it
//! waits for everything at once: the socket in both directions, the outbox, the one operation under way, confirmations,
//! dedicated subscriptions, the clock. A slow client therefore stalls only what is written to it, and a slow broker only
//! the frames behind the one that waits for it; neither stalls heart-beats, acknowledgements or deliveries.
//!
//! Back-pressure, from end to end: frames are decoded only while the session is ready and the outbox has room, and the
//! socket is read only when all that came has been decoded.

mod calls;
mod count;
mod observed;
mod perform;
mod shown;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message as WebSocketMessage};
use tracing::field::{Empty, display};
use tracing::{Instrument as _, Span, debug, error_span, info, trace};

use super::chained::Chained;
use super::consumers::Consumers;
use super::operation::{Completed, Operation, Pending, Published};
use super::socket::Socket;
use super::{Client, Live, Services};
use crate::broker::{Event as BrokerEvent, Link};
use crate::chain::Subscription;
use crate::hub::Membership;
use crate::hub::outbox::{Item, Outbox, Signal};
use crate::message::{CloseCode, Delivery, DeliveryId, Message, Outcome, Refusal, Settlement, Text};
use crate::metrics::{Holdings, Overrun, Run};
use crate::session::{Action, Done, Input, Session, SubscriptionKey, Ticket};
use crate::stomp::{Decoder, Item as Decoded, Limits};
use calls::Calls;
pub(super) use count::outcome_of;
use observed::{Intercepted, Interception};

/// Frames and heart-beats of one client that are handled before other tasks have their turn.
const FRAMES_AT_A_TIME: usize = 64;
/// Deliveries of dedicated subscriptions that are gathered for one write.
const DELIVERIES_AT_A_TIME: usize = 64;
/// Writes to one client's socket before what it sends has its turn.
const WRITES_AT_A_TIME: usize = 16;
/// Pings without an answer after which a client counts as gone.
const UNANSWERED_PINGS: u32 = 2;

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
    /// Deliveries taken since the last write.
    gathered: usize,
    /// The consumers were not asked, for want of room in the outbox.
    held_back: bool,
    /// What comes in has its turn before more goes out.
    inbound_first: bool,
    actions: VecDeque<Action>,
    operation: Option<Operation>,
    confirmations: FuturesUnordered<Pending>,
    /// The interceptor chain, if there is one, from CONNECT on.
    chained: Option<Chained>,
    calls: Calls,
    /// Subscriptions of which the chain wants to know more.
    observed: Vec<Subscription>,
    /// A message that the chain looks at before it is delivered.
    interception: Option<Interception>,
    /// The code of the ERROR that ended the session.
    error: Option<Text>,
    /// The will, once the session has ended without DISCONNECT.
    will: Option<Message>,
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
    /// When the last input was handled: what follows from it counts from there, and asks no clock.
    handled: Instant,
    has_connected: bool,
    holdings: Holdings,
}

#[derive(Default)]
struct Writing {
    batch: VecDeque<Item>,
    /// Something other than a Ping is being written: pages do not see Pings, and expect their heart-beats.
    spoken: bool,
    /// To be settled once what was given to the socket has been flushed.
    settle: Vec<DeliveryId>,
}

/// What the task was woken for.
enum Event {
    Inbound(Option<Result<WebSocketMessage, WebSocketError>>),
    Written,
    WriteFailed(WebSocketError),
    Signal(Signal),
    Completed(Completed),
    Confirmed(Ticket, Option<Published>, Result<Outcome, Refusal>),
    Answered(Ticket, Option<Published>, Result<Done, Refusal>),
    Consumer(SubscriptionKey, BrokerEvent),
    Intercepted(Intercepted),
    Timer,
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
            actions: VecDeque::new(),
            operation: None,
            confirmations: FuturesUnordered::new(),
            chained: None,
            calls: Calls::default(),
            observed: Vec::new(),
            interception: None,
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
            handled: now,
            has_connected: false,
            holdings,
        }
    }

    /// Runs until the connection has ended. By reference: a future keeps what it was given and what it made of it, so
    /// that by value every client would hold the memory of several connections.
    pub(super) async fn run(&mut self, refused: Option<Refusal>) {
        if let Some(refusal) = refused {
            self.spanned(|this| this.input(Input::Refused(refusal)));
        }
        loop {
            let is_cut_short = self.spanned(Connection::advance);
            if self.closing.is_some() || (self.session.is_ended() && self.actions.is_empty()) {
                break;
            }
            if let Some(event) = self.next_event(is_cut_short).await {
                self.spanned(|this| this.on_event(event));
            }
        }
        // Boxed, as memory that only the end needs.
        let span = self.span.clone();
        Box::pin(self.finish()).instrument(span).await;
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

    /// The next event; or `None`, after other tasks had their turn, if there is more to do without one.
    async fn next_event(&mut self, has_more: bool) -> Option<Event> {
        let mut has_yielded = false;
        poll_fn(|context| match self.spanned(|this| this.poll(context)) {
            Poll::Ready(event) => Poll::Ready(Some(event)),
            Poll::Pending if has_more && has_yielded => Poll::Ready(None),
            Poll::Pending => {
                if has_more {
                    has_yielded = true;
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
        })
        .await
    }

    /// Waits for whatever comes first. The order is what keeps one kind of event from starving another:
    ///
    /// 1. After each batch of deliveries and after a few writes, the client and the clock have a turn, however much there
    ///    is to send.
    /// 2. Deliveries are gathered, a batch at most, before anything is written.
    /// 3. All that waits is written.
    /// 4. Then everything else.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if std::mem::take(&mut self.inbound_first)
            && let Poll::Ready(event) = self.poll_inbound(context)
        {
            return Poll::Ready(event);
        }
        if let Poll::Ready(event) = self.poll_consumers(context) {
            return Poll::Ready(event);
        }
        if let Poll::Ready(event) = self.poll_outbound(context) {
            return Poll::Ready(event);
        }
        if let Some(operation) = &mut self.operation
            && let Poll::Ready(completed) = operation.as_mut().poll(context)
        {
            self.operation = None;
            return Poll::Ready(Event::Completed(completed));
        }
        if let Some(interception) = &mut self.interception
            && let Poll::Ready(intercepted) = interception.as_mut().poll(context)
        {
            self.interception = None;
            return Poll::Ready(Event::Intercepted(intercepted));
        }
        if !self.confirmations.is_empty()
            && let Poll::Ready(Some(confirmed)) = Pin::new(&mut self.confirmations).poll_next(context)
        {
            let (ticket, published, result) = confirmed;
            return Poll::Ready(Event::Confirmed(ticket, published, result));
        }
        if let Poll::Ready((ticket, published, result)) = self.calls.poll_next(context) {
            return Poll::Ready(Event::Answered(ticket, published, result));
        }
        self.poll_inbound(context)
    }

    /// The client first, then the clock: what has come, but was not read yet, is no silence.
    fn poll_inbound(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if self.is_reading()
            && let Poll::Ready(message) = self.socket.poll_read(context)
        {
            return Poll::Ready(Event::Inbound(message));
        }
        self.poll_timer(context)
    }

    /// Deliveries are gathered, so that they leave in one write, but not for so long that the first one waits for many.
    fn poll_consumers(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if self.consumers.is_empty() || self.interception.is_some() {
            return Poll::Pending;
        }
        self.held_back = !self.outbox.has_room();
        if self.gathered < DELIVERIES_AT_A_TIME
            && !self.held_back
            && let Poll::Ready((key, event)) = self.consumers.poll_next(context)
        {
            self.gathered += 1;
            return Poll::Ready(Event::Consumer(key, event));
        }
        if std::mem::take(&mut self.gathered) == DELIVERIES_AT_A_TIME {
            self.inbound_first = true;
            context.waker().wake_by_ref(); // there may be more, and nobody else says so
        }
        Poll::Pending
    }

    /// Everything that waits goes to the socket in one write, and again while the socket takes it.
    fn poll_outbound(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        for _ in 0..WRITES_AT_A_TIME {
            let before = self.socket.stream().sent();
            if let Some(signal) = self.outbox.poll(context, self.live.server.write_buffer, &mut self.writing.batch) {
                return Poll::Ready(Event::Signal(signal));
            }
            match self.poll_write(context) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Event::WriteFailed(error)),
                Poll::Pending => {
                    if self.socket.stream().sent() > before {
                        self.outbox.progressed(now());
                    }
                    return Poll::Pending;
                }
            }
            let now = now();
            if let Some(written) = self.outbox.written(now) {
                self.services.metrics.written(written.waiting, written.age);
            }
            if std::mem::take(&mut self.writing.spoken) {
                self.session.sent(now);
            }
            if self.undecoded || self.held_back || !self.writing.settle.is_empty() {
                self.inbound_first = true;
                return Poll::Ready(Event::Written);
            }
        }
        self.inbound_first = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes the batch; and says whether there was anything to write.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, WebSocketError>> {
        let mut run = Run::default();
        let fed = loop {
            match self.socket.poll_feed(context) {
                Poll::Ready(Ok(())) => {}
                unfinished => break unfinished,
            }
            let Some(Item { frame, command, text, settle }) = self.writing.batch.pop_front() else {
                break Poll::Ready(Ok(()));
            };
            if let Some(command) = command {
                trace!(%command, bytes = frame.len(), "sent");
            }
            if let Some(ended) = run.add(command, frame.len()) {
                self.services.metrics.sent(ended);
            }
            self.socket.begin(frame, text);
            self.writing.spoken = true;
            self.writing.settle.extend(settle);
        };
        if !run.is_empty() {
            self.services.metrics.sent(run);
        }
        ready!(fed)?;
        if self.socket.is_flushed() {
            return Poll::Ready(Ok(false));
        }
        self.writing.batch = VecDeque::new(); // most clients are idle, and an idle one keeps no memory for lists
        self.socket.poll_flush(context).map_ok(|()| true)
    }

    /// Until CONNECT is answered nothing more is read than CONNECT.
    fn is_reading(&self) -> bool {
        !self.undecoded && (self.session.is_ready() || self.session.is_connected())
    }

    /// The timer is set anew only when something is due before it fires: heart-beats move their deadline with every
    /// frame, and most timers would never fire.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        loop {
            let deadline = self.deadline();
            if deadline < self.timer.deadline().into_std() || self.timer.is_elapsed() {
                self.timer.as_mut().reset(deadline.into());
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if now() >= self.deadline() {
                return Poll::Ready(Event::Timer);
            }
        }
    }

    fn deadline(&self) -> Instant {
        let ping = self.ping_deadline();
        let stalled = if self.socket.is_flushed() { None } else { self.outbox.deadline() };
        [self.session.deadline(), stalled].into_iter().flatten().fold(ping, Instant::min)
    }

    fn ping_deadline(&self) -> Instant {
        self.last_inbound.max(self.last_ping) + self.live.server.ping_interval
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Inbound(message) => self.on_inbound(message),
            Event::Written => self.settle_written(),
            Event::WriteFailed(error) => {
                debug!(%error, "write failed");
                self.input(Input::Gone);
            }
            Event::Signal(Signal::Asked) => self.on_asked(),
            Event::Signal(Signal::Shutdown) => self.input(Input::Shutdown),
            Event::Signal(Signal::End(refusal)) => self.on_end(refusal),
            Event::Completed(completed) => self.on_completed(completed),
            Event::Confirmed(ticket, published, result) => self.on_confirmed(ticket, published, result),
            Event::Answered(ticket, published, result) => self.on_answered(ticket, published, result),
            Event::Consumer(key, event) => self.on_consumer(key, event),
            Event::Intercepted(intercepted) => self.on_intercepted(intercepted),
            Event::Timer => self.on_timer(),
        }
    }

    fn on_inbound(&mut self, message: Option<Result<WebSocketMessage, WebSocketError>>) {
        let now = now();
        self.received = self.socket.stream().received();
        self.last_inbound = now;
        self.unanswered_pings = 0;
        if now >= self.timer.deadline().into_std() {
            self.on_timer(); // a client that never pauses must not stop the clock
        }
        let (bytes, is_data) = match message {
            Some(Ok(WebSocketMessage::Text(text))) => (Bytes::from(text), true),
            Some(Ok(WebSocketMessage::Binary(bytes))) => (bytes, true),
            Some(Ok(WebSocketMessage::Ping(bytes) | WebSocketMessage::Pong(bytes))) => (bytes, false),
            Some(Ok(WebSocketMessage::Close(_) | WebSocketMessage::Frame(_))) | None => {
                return self.input(Input::Gone);
            }
            Some(Err(error)) => return self.on_read_error(&error),
        };
        if let Err(refusal) = self.session.received(bytes.len(), now) {
            return self.input(Input::Refused(refusal));
        }
        if is_data {
            self.decoder.push(bytes);
            self.undecoded = true;
        }
    }

    fn on_read_error(&mut self, error: &WebSocketError) {
        let settings = &self.live.session;
        let refusal = match error {
            WebSocketError::Io(_) if self.socket.stream().is_spent() => {
                let limit = settings.max_connect_bytes;
                Refusal::too_large(
                    "What came before CONNECT was complete, in bytes,",
                    limit,
                    "session.max_connect_bytes",
                )
            }
            WebSocketError::Capacity(_) => {
                let limit = self.live.max_websocket_message();
                let what = "The WebSocket message, in bytes,";
                Refusal::too_large(what, limit, "session.max_body (plus session.max_header_bytes)")
            }
            WebSocketError::Utf8(_) => Refusal::not_utf8(),
            WebSocketError::Protocol(error) if !is_reset(error) => Refusal::websocket_protocol(&error.to_string()),
            _ => {
                debug!(%error, "connection lost");
                return self.input(Input::Gone);
            }
        };
        self.input(Input::Refused(refusal));
    }

    /// The session must end: nothing that was waiting could be of use to a client that does not read.
    fn on_end(&mut self, refusal: Refusal) {
        if refusal.close == CloseCode::SLOW_CONSUMER {
            self.services.metrics.overrun(Overrun::Disconnect);
            self.outbox.clear();
        }
        self.input(Input::Refused(refusal));
    }

    fn on_timer(&mut self) {
        let now = now();
        let received = self.socket.stream().received();
        let has_come = std::mem::replace(&mut self.received, received) != received;
        if has_come || !self.is_reading() {
            // Part of a message came, or it is the gateway that does not listen: the silence proves nothing.
            self.last_inbound = now;
            self.unanswered_pings = 0;
            let _ = self.session.received(0, now);
        }
        if let Some(refusal) = self.outbox.check_stalled(now) {
            return self.on_end(refusal);
        }
        if now >= self.ping_deadline() {
            if self.unanswered_pings >= UNANSWERED_PINGS {
                let interval = self.live.server.ping_interval.as_millis();
                return self.input(Input::Refused(Refusal::pings_unanswered(interval)));
            }
            self.unanswered_pings += 1;
            self.last_ping = now;
            if let Err(error) = self.socket.ping() {
                debug!(%error, "ping failed"); // and reading will say why the connection has ended
            }
        }
        self.input(Input::Deadline);
    }

    fn on_consumer(&mut self, key: SubscriptionKey, event: BrokerEvent) {
        match event {
            BrokerEvent::Delivery(delivery) => self.on_delivery(key, delivery),
            BrokerEvent::Interrupted => self.input(Input::Interrupted(key)),
            BrokerEvent::Returned(last) => self.input(Input::Returned(key, last)),
            BrokerEvent::Restored => {}
            BrokerEvent::Ended(error) => self.input(Input::SubscriptionEnded(error.into())),
        }
    }

    fn on_delivery(&mut self, key: SubscriptionKey, delivery: Delivery) {
        let limit = self.live.outbox.max_delivery;
        if delivery.message.size() > limit {
            let size = delivery.message.size();
            self.outbox.count_dropped();
            info!(size, limit, "a message larger than outbox.max_delivery was rejected without requeue");
            if let (Some(id), Some(link)) = (delivery.id, &self.link) {
                drop(link.settle(&[id], Settlement::Reject));
            }
            return;
        }
        self.pass_on(key, delivery);
    }

    /// Settles what was delivered with `ack:auto`, now that it has been written.
    fn settle_written(&mut self) {
        if self.writing.settle.is_empty() {
            return;
        }
        if let Some(link) = &self.link {
            // A delivery that is void comes again; there is nobody to tell.
            drop(link.settle(&self.writing.settle, Settlement::Accept));
        }
        self.writing.settle.clear();
        self.consumers.drop_forgotten(&[]);
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

    /// The end. What waits is sent before the close (contract, §6), within `server.close_timeout`. Meanwhile everything of
    /// this session goes back to where it came from, after the operation under way, and then the will is published.
    async fn finish(&mut self) {
        self.memberships.clear();
        self.writing.settle.clear();
        self.writing.batch.retain(|item| item.settle.is_none());
        self.outbox.discard_unsettled(|_| true);
        let within = self.live.server.close_timeout;
        let closing = self.closing.take();
        self.count_end(closing.as_ref().map(|(code, _)| *code));
        let (link, will) = (self.link.clone(), self.will.take());
        let (operation, consumers) = (self.operation.take(), std::mem::take(&mut self.consumers));
        // What a COMMIT settles, and nothing else, needs the subscriptions that it was delivered to.
        let consumers = self.session.is_committing().then_some(consumers);
        let confirm_within = self.live.session.confirm_timeout;
        let (mut chained, calls) = (self.chained.take(), std::mem::take(&mut self.calls));
        let cause = self.cause(closing.as_ref().map(|(code, _)| *code));
        let end = cause.clone();
        let accounts = async move {
            if let Some(operation) = operation {
                let is_authenticating = link.is_none();
                chained = finish_operation(operation, is_authenticating, chained, within).await;
            }
            let _ = tokio::time::timeout(within, calls.finish()).await;
            drop(consumers);
            publish_will(link, will, confirm_within).await;
            if let Some(chained) = chained {
                chained.disconnect(&cause).await;
            }
        };
        let goodbye = tokio::time::timeout(within, self.say_goodbye(closing.as_ref()));
        let (goodbye, ()) = tokio::join!(goodbye, accounts);
        let (code, reason) = match &closing {
            Some((code, reason)) => (Some(code.0), reason.as_str()),
            None => (None, "closed by the client"),
        };
        let in_time = goodbye.is_ok();
        let dropped = self.outbox.dropped();
        Span::current().record("end", display(&end));
        info!(code, reason, in_time, dropped, "disconnected");
    }

    /// Why the session ended, in a word: `disconnect`, `shutdown`, `lost`, or the code of its ERROR.
    fn cause(&self, close: Option<CloseCode>) -> Text {
        match (close, &self.error) {
            (_, Some(code)) => code.clone(),
            (None, None) => Text::from_static("lost"),
            (Some(CloseCode::NORMAL), None) => Text::from_static("disconnect"),
            (Some(_), None) => Text::from_static("shutdown"),
        }
    }

    /// Sends what waits, then the close; or, where the client has closed already, the answer to that.
    async fn say_goodbye(&mut self, closing: Option<&(CloseCode, String)>) {
        match closing {
            Some((code, reason)) => {
                if self.write_all().await.is_ok() {
                    self.socket.close(*code, reason).await;
                }
            }
            None => self.socket.answer_close().await,
        }
    }

    async fn write_all(&mut self) -> Result<(), WebSocketError> {
        loop {
            let event = poll_fn(|context| match self.poll_outbound(context) {
                Poll::Ready(event) => Poll::Ready(Some(event)),
                Poll::Pending if self.socket.is_flushed() && self.outbox.is_empty() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            match event.await {
                None => return Ok(()),
                Some(Event::WriteFailed(error)) => return Err(error),
                Some(_) => self.settle_written(),
            }
        }
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

/// A SEND that was taken, or a COMMIT, should not fail because its sender left. And who has been let in by the chain must
/// be reported as gone: then there is a chain now.
async fn finish_operation(
    operation: Operation,
    is_authenticating: bool,
    chained: Option<Chained>,
    within: Duration,
) -> Option<Chained> {
    if !is_authenticating {
        let _ = tokio::time::timeout(within, operation).await;
        return chained;
    }
    // To its end, which has a bound of its own: who was let in is also to be let go.
    match operation.await {
        Completed::Authenticated(_, Ok((_, _, chained))) => chained,
        _ => chained,
    }
}

async fn publish_will(link: Option<Arc<dyn Link>>, will: Option<Message>, within: Duration) {
    let (Some(link), Some(will)) = (link, will) else { return };
    let published = tokio::time::timeout(within, async move {
        let permit = link.reserve().await?;
        link.publish(permit, will).await
    });
    match published.await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => info!(%error, "a will was not published"),
        Err(_) => info!("a will was not confirmed within session.confirm_timeout"),
    }
}

fn is_reset(error: &ProtocolError) -> bool {
    matches!(error, ProtocolError::ResetWithoutClosingHandshake)
}

/// The clock of the edge; in tests it can be paused.
pub(in crate::server) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
