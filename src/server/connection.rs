//! One client's task: it turns what happens into inputs of the session, and performs the session's actions.
//!
//! **Always be reading, never be waiting.** The task has one place where it waits, [`Connection::poll`], and there it
//! waits for everything at once: the socket in both directions, the outbox, the one operation under way, confirmations,
//! dedicated subscriptions, the clock. A slow client therefore stalls only what is written to it, and a slow broker only
//! the frames behind the one that waits for it; neither stalls heart-beats, acknowledgements or deliveries.
//!
//! Back-pressure, from end to end: frames are decoded only while the session is ready and the outbox has room, and the
//! socket is read only when all that came has been decoded.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream as _};
use futures_util::{Sink, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::time::Sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as WebSocketFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message as WebSocketMessage};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Utf8Bytes};
use tracing::{debug, info};

use super::consumers::Consumers;
use super::operation::{Completed, Operation, Pending};
use super::stream::Stream;
use super::{Client, Services};
use crate::broker::{Confirmation, Event as BrokerEvent, Link};
use crate::hub::outbox::{Item, Outbox, Signal};
use crate::hub::{Membership, render, render_frame};
use crate::message::{CloseCode, Delivery, DeliveryId, Message, Outcome, Refusal, Settlement};
use crate::session::{Action, Deliver, Done, Input, Request, Session, SubscriptionKey, Ticket};
use crate::stomp::{Decoder, HEARTBEAT, Item as Decoded, Limits, MessageFrame};

/// Frames of one client that are handled before other tasks have their turn.
const FRAMES_AT_A_TIME: usize = 64;
/// Deliveries of dedicated subscriptions that are gathered for one write.
const DELIVERIES_AT_A_TIME: usize = 64;
/// Larger frames are sent in fragments of this many bytes: tungstenite's write buffer keeps the size of the largest
/// fragment that it ever held.
const FRAGMENT: usize = 16 * 1024;
/// Pings without an answer after which a client counts as gone.
const UNANSWERED_PINGS: u32 = 2;

/// One client's connection, from the open WebSocket to its end.
pub(super) struct Connection {
    services: Arc<Services>,
    client: Client,
    socket: WebSocketStream<Stream>,
    session: Session,
    decoder: Decoder,
    outbox: Arc<Outbox>,
    link: Option<Arc<dyn Link>>,
    memberships: Vec<(SubscriptionKey, Membership)>,
    consumers: Consumers,
    /// Deliveries taken since the last write.
    gathered: usize,
    actions: VecDeque<Action>,
    operation: Option<Operation>,
    confirmations: FuturesUnordered<Pending>,
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
}

#[derive(Default)]
struct Writing {
    batch: Vec<Item>,
    /// Something was given to the socket and is not flushed.
    flushing: bool,
    /// To be settled once it is.
    settle: Vec<DeliveryId>,
}

/// What the task was woken for.
enum Event {
    Inbound(Option<Result<WebSocketMessage, WebSocketError>>),
    Written,
    WriteFailed(WebSocketError),
    Signal(Signal),
    Completed(Completed),
    Confirmed(Ticket, Result<Outcome, Refusal>),
    Consumer(SubscriptionKey, BrokerEvent),
    Timer,
}

impl Connection {
    pub(super) fn new(services: Arc<Services>, client: Client, mut socket: WebSocketStream<Stream>) -> Self {
        let now = now();
        let settings = &services.session;
        socket.get_mut().set_budget(settings.max_connect_bytes);
        let limits = Limits {
            headers: settings.max_headers,
            header_bytes: settings.max_header_bytes.min(settings.max_connect_bytes),
            // CONNECT has none; a SEND that comes too early is to be told so, not that its body is too large.
            body: settings.max_connect_bytes,
            frame: Some(settings.max_connect_bytes),
        };
        let session = Session::new(client.id.clone(), Arc::clone(settings), services.separators, now);
        Connection {
            session,
            decoder: Decoder::new(limits),
            outbox: Arc::clone(&client.outbox),
            socket,
            client,
            services,
            link: None,
            memberships: Vec::new(),
            consumers: Consumers::default(),
            gathered: 0,
            actions: VecDeque::new(),
            operation: None,
            confirmations: FuturesUnordered::new(),
            will: None,
            closing: None,
            writing: Writing::default(),
            undecoded: false,
            received: 0,
            last_inbound: now,
            last_ping: now,
            unanswered_pings: 0,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// Runs until the connection has ended. By reference: a future keeps what it was given and what it made of it, so
    /// that by value every client would hold the memory of several connections.
    pub(super) async fn run(&mut self, refused: Option<Refusal>) {
        if let Some(refusal) = refused {
            self.input(Input::Refused(refusal));
        }
        loop {
            let frames = self.advance();
            if self.closing.is_some() || (self.session.is_ended() && self.actions.is_empty()) {
                break;
            }
            if frames >= FRAMES_AT_A_TIME {
                tokio::task::yield_now().await;
                continue;
            }
            let event = std::future::poll_fn(|context| self.poll(context)).await;
            self.on_event(event);
        }
        // Boxed, as memory that only the end needs.
        Box::pin(self.finish()).await;
    }

    /// Waits for the next event of any kind.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
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
        if !self.confirmations.is_empty()
            && let Poll::Ready(Some((ticket, result))) = Pin::new(&mut self.confirmations).poll_next(context)
        {
            return Poll::Ready(Event::Confirmed(ticket, result));
        }
        if self.is_reading()
            && let Poll::Ready(message) = self.socket.poll_next_unpin(context)
        {
            return Poll::Ready(Event::Inbound(message));
        }
        self.poll_timer(context)
    }

    /// Deliveries are gathered, so that they leave in one write, but not for so long that the first one waits for many.
    fn poll_consumers(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if !self.consumers.is_empty()
            && self.gathered < DELIVERIES_AT_A_TIME
            && self.outbox.has_room()
            && let Poll::Ready((key, event)) = self.consumers.poll_next(context)
        {
            self.gathered += 1;
            return Poll::Ready(Event::Consumer(key, event));
        }
        if std::mem::take(&mut self.gathered) == DELIVERIES_AT_A_TIME {
            context.waker().wake_by_ref(); // there may be more, and nobody else says so
        }
        Poll::Pending
    }

    /// Everything that waits goes to the socket in one write, and again while the socket takes it.
    fn poll_outbound(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        loop {
            let signal = self.outbox.poll(context, self.services.server.write_buffer, &mut self.writing.batch);
            if let Err(error) = self.feed() {
                return Poll::Ready(Event::WriteFailed(error));
            }
            if let Some(signal) = signal {
                return Poll::Ready(Event::Signal(signal));
            }
            if !self.writing.flushing {
                return Poll::Pending;
            }
            match Pin::new(&mut self.socket).poll_flush(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Event::WriteFailed(error)),
                Poll::Ready(Ok(())) => {}
            }
            self.writing.flushing = false;
            self.outbox.written();
            self.session.sent(now());
            if self.undecoded || !self.writing.settle.is_empty() {
                return Poll::Ready(Event::Written);
            }
        }
    }

    /// Gives the batch to the socket's buffer.
    fn feed(&mut self) -> Result<(), WebSocketError> {
        for Item { frame, text, settle } in std::mem::take(&mut self.writing.batch) {
            self.writing.settle.extend(settle);
            self.writing.flushing = true;
            let mut kind = if text { Data::Text } else { Data::Binary };
            let mut rest = frame;
            while rest.len() > FRAGMENT {
                let fragment = rest.split_to(FRAGMENT);
                let fragment = WebSocketFrame::message(fragment, OpCode::Data(kind), false);
                Pin::new(&mut self.socket).start_send(WebSocketMessage::Frame(fragment))?;
                kind = Data::Continue;
            }
            let last = WebSocketFrame::message(rest, OpCode::Data(kind), true);
            Pin::new(&mut self.socket).start_send(WebSocketMessage::Frame(last))?;
        }
        Ok(())
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
        let stalled = if self.writing.flushing { self.outbox.deadline() } else { None };
        [self.session.deadline(), stalled].into_iter().flatten().fold(ping, Instant::min)
    }

    fn ping_deadline(&self) -> Instant {
        self.last_inbound.max(self.last_ping) + self.services.server.ping_interval
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Inbound(message) => self.on_inbound(message),
            Event::Written => self.settle_written(),
            Event::WriteFailed(error) => {
                debug!(%error, "write failed");
                self.input(Input::Gone);
            }
            Event::Signal(Signal::Shutdown) => self.input(Input::Shutdown),
            Event::Signal(Signal::End(refusal)) => self.on_end(refusal),
            Event::Completed(completed) => self.on_completed(completed),
            Event::Confirmed(ticket, result) => self.input(Input::Done(ticket, result.map(Done::Outcome))),
            Event::Consumer(key, event) => self.on_consumer(key, event),
            Event::Timer => self.on_timer(),
        }
    }

    fn on_inbound(&mut self, message: Option<Result<WebSocketMessage, WebSocketError>>) {
        let now = now();
        self.received = self.socket.get_ref().received();
        self.last_inbound = now;
        self.unanswered_pings = 0;
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
        let settings = &self.services.session;
        let refusal = match error {
            WebSocketError::Io(_) if self.socket.get_ref().is_spent() => {
                let limit = settings.max_connect_bytes;
                Refusal::too_large(
                    "What came before CONNECT was complete, in bytes,",
                    limit,
                    "session.max_connect_bytes",
                )
            }
            WebSocketError::Capacity(_) => {
                let limit = self.services.max_websocket_message();
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
            self.outbox.clear();
        }
        self.input(Input::Refused(refusal));
    }

    fn on_timer(&mut self) {
        let now = now();
        let received = self.socket.get_ref().received();
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
                let interval = self.services.server.ping_interval.as_millis();
                return self.input(Input::Refused(Refusal::pings_unanswered(interval)));
            }
            self.unanswered_pings += 1;
            self.last_ping = now;
            if Pin::new(&mut self.socket).start_send(WebSocketMessage::Ping(Bytes::new())).is_ok() {
                self.writing.flushing = true;
            }
        }
        self.input(Input::Deadline);
    }

    fn on_consumer(&mut self, key: SubscriptionKey, event: BrokerEvent) {
        match event {
            BrokerEvent::Delivery(delivery) => self.on_delivery(key, delivery),
            BrokerEvent::Interrupted => self.input(Input::Interrupted(key)),
            BrokerEvent::Restored => {}
            BrokerEvent::Ended(error) => self.input(Input::SubscriptionEnded(error.into())),
        }
    }

    fn on_delivery(&mut self, key: SubscriptionKey, delivery: Delivery) {
        let limit = self.services.outbox.max_delivery;
        if delivery.message.size() > limit {
            let size = delivery.message.size();
            info!(size, limit, "a message larger than outbox.max_delivery was rejected without requeue");
            if let (Some(id), Some(link)) = (delivery.id, &self.link) {
                drop(link.settle(&[id], Settlement::Reject));
            }
            return;
        }
        self.input(Input::Delivery(key, delivery));
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
    }

    fn input(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.session.handle(input, now(), &mut actions);
        if self.actions.is_empty() {
            self.actions = actions.into();
        } else {
            self.actions.extend(actions);
        }
    }

    /// Performs actions and decodes frames until one of them has to wait. Returns how many frames were handled.
    fn advance(&mut self) -> usize {
        let mut frames = 0;
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
            if !may_decode || frames >= FRAMES_AT_A_TIME || !self.session.is_ready() || !self.outbox.has_room() {
                return frames;
            }
            match self.decoder.next() {
                Ok(Some(Decoded::Frame(frame))) => {
                    frames += 1;
                    self.input(Input::Frame(frame));
                }
                Ok(Some(Decoded::Heartbeat)) => {}
                Ok(None) => self.undecoded = false,
                Err(error) => self.input(Input::Refused(error.into())),
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Send(frame) => {
                let item = render_frame(&frame, self.session.version());
                self.outbox.push_firm(item, now());
            }
            Action::Deliver(deliver) => self.deliver(&deliver),
            Action::Heartbeat => {
                let item = Item { frame: Bytes::from_static(HEARTBEAT), text: true, settle: None };
                self.outbox.push_firm(item, now());
            }
            Action::Close(code, reason) => self.closing = Some((code, reason)),
            Action::PublishWill(will) => self.will = Some(will),
            Action::Authenticate(ticket, credentials) => {
                let services = Arc::clone(&self.services);
                self.operation =
                    Some(super::operation::authenticate(services, self.client.id.clone(), ticket, credentials));
            }
            Action::Forget(key) => self.consumers.forget(key),
            Action::Unsubscribe(ticket, key, delete) => self.unsubscribe(ticket, key, delete),
            action => {
                // The session makes no such action before it has been authenticated.
                if let Some(link) = self.link.clone() {
                    self.perform_on(&link, action);
                }
            }
        }
    }

    /// Actions that need the broker.
    fn perform_on(&mut self, link: &Arc<dyn Link>, action: Action) {
        match action {
            Action::Publish(ticket, message) => match link.try_reserve() {
                Some(permit) => self.confirm(ticket, link.publish(permit, message)),
                None => self.operation = Some(super::operation::publish(Arc::clone(link), ticket, message)),
            },
            Action::Settle(ticket, deliveries, settlement) => {
                self.confirm(ticket, link.settle(&deliveries, settlement));
            }
            Action::Commit(ticket, transaction) => {
                self.operation = Some(super::operation::commit(Arc::clone(link), ticket, transaction));
            }
            Action::Subscribe(ticket, key, Request::Shared(source, reader)) => {
                let (hub, outbox) = (self.services.hub.clone(), Arc::clone(&self.outbox));
                self.operation =
                    Some(super::operation::join(hub, Arc::clone(link), outbox, ticket, key, source, reader));
            }
            Action::Subscribe(ticket, key, Request::Dedicated(request)) => {
                self.operation = Some(super::operation::subscribe(Arc::clone(link), ticket, key, request));
            }
            Action::DeleteDurable(ticket, name) => {
                self.operation = Some(super::operation::delete_durable(Arc::clone(link), ticket, name));
            }
            Action::Send(_)
            | Action::Deliver(_)
            | Action::Heartbeat
            | Action::Close(..)
            | Action::PublishWill(_)
            | Action::Authenticate(..)
            | Action::Forget(_)
            | Action::Unsubscribe(..) => {}
        }
    }

    fn deliver(&mut self, deliver: &Deliver) {
        let Deliver { subscription, message_id, ack, destination, delivery, settle_when_written } = deliver;
        let frame = MessageFrame {
            subscription: subscription.as_deref(),
            message_id,
            ack: ack.as_deref(),
            destination,
            redelivered: delivery.redelivered,
            gap: delivery.gap,
            headers: &delivery.message.headers,
            body: &delivery.message.body,
        };
        let (item, _) = render(&frame, self.session.version());
        self.outbox.push_firm(Item { settle: *settle_when_written, ..item }, now());
    }

    fn unsubscribe(&mut self, ticket: Ticket, key: SubscriptionKey, delete: bool) {
        if let Some(subscription) = self.consumers.take(key) {
            self.operation = Some(super::operation::cancel(subscription, ticket, key, delete));
            return;
        }
        self.memberships.retain(|(membership, _)| *membership != key);
        self.input(Input::Done(ticket, Ok(Done::Outcome(Outcome::DONE))));
    }

    fn confirm(&mut self, ticket: Ticket, confirmation: Confirmation) {
        match confirmation {
            Confirmation::Ready(result) => {
                self.input(Input::Done(ticket, result.map(Done::Outcome).map_err(Refusal::from)));
            }
            Confirmation::Waiting(_) => self.confirmations.push(Pending { ticket, confirmation }),
        }
    }

    fn on_completed(&mut self, completed: Completed) {
        match completed {
            Completed::Authenticated(ticket, Ok((principal, link))) => {
                let capabilities = link.capabilities();
                self.link = Some(link);
                let admitted = self.client.registration.name(&principal);
                self.input(Input::Done(ticket, admitted.map(|()| Done::Authenticated(principal, capabilities))));
                if self.session.is_connected() {
                    self.lift_limits();
                }
            }
            Completed::Joined(ticket, key, Ok(membership)) => {
                self.memberships.push((key, membership));
                self.input(Input::Done(ticket, Ok(Done::Outcome(Outcome::DONE))));
            }
            Completed::Opened(ticket, key, Ok(subscription)) => {
                let done = match subscription.reply_address() {
                    Some(address) => Done::ReplyAddress(address.clone()),
                    None => Done::Outcome(Outcome::DONE),
                };
                self.consumers.add(key, subscription);
                self.input(Input::Done(ticket, Ok(done)));
            }
            Completed::Cancelled(ticket, key, subscription, result) => {
                self.consumers.keep_cancelled(key, subscription);
                let done = result.map(|()| Done::Outcome(Outcome::DONE)).map_err(Refusal::from);
                self.input(Input::Done(ticket, done));
            }
            Completed::Published(ticket, Ok(confirmation)) => self.confirm(ticket, confirmation),
            Completed::Deleted(ticket, result) => {
                let done = result.map(|()| Done::Outcome(Outcome::DONE)).map_err(Refusal::from);
                self.input(Input::Done(ticket, done));
            }
            Completed::Authenticated(ticket, Err(refusal)) => self.input(Input::Done(ticket, Err(refusal))),
            Completed::Joined(ticket, _, Err(error))
            | Completed::Opened(ticket, _, Err(error))
            | Completed::Published(ticket, Err(error)) => self.input(Input::Done(ticket, Err(error.into()))),
        }
    }

    /// From CONNECTED on, the version's own rules and the larger limits hold.
    fn lift_limits(&mut self) {
        let Some(principal) = self.session.principal() else { return };
        let (name, version) = (&principal.name, self.session.version().as_str());
        info!(session = %self.client.id, peer = %self.client.peer, user = %name, version, "connected");
        let settings = &self.services.session;
        self.decoder.set_version(self.session.version());
        self.decoder.set_limits(Limits {
            headers: settings.max_headers,
            header_bytes: settings.max_header_bytes,
            body: settings.max_body,
            frame: None,
        });
        self.socket.get_mut().lift_budget();
    }

    /// The end: everything of this session goes back to where it came from, the will is published, and what waits is
    /// sent before the close (contract, §6), all within `server.close_timeout`.
    async fn finish(&mut self) {
        self.memberships.clear();
        self.writing.settle.clear();
        self.outbox.discard_unsettled();
        self.consumers = Consumers::default();
        let within = self.services.server.close_timeout;
        self.publish_will().await;
        let (code, reason) = if let Some((code, reason)) = self.closing.take() {
            let in_time = tokio::time::timeout(within, self.say_goodbye(code, &reason)).await.is_ok();
            (Some(code.0), if in_time { reason } else { format!("{reason}; the client did not close in time") })
        } else {
            let _ = tokio::time::timeout(within, self.answer_goodbye()).await;
            (None, "closed by the client".to_owned())
        };
        if let Some(operation) = self.operation.take() {
            // A SEND that was taken, or a COMMIT, should not fail because its sender left.
            let _ = tokio::time::timeout(within, operation).await;
        }
        let dropped = self.outbox.dropped();
        info!(session = %self.client.id, peer = %self.client.peer, code, reason, dropped, "disconnected");
    }

    async fn publish_will(&mut self) {
        let (Some(will), Some(link)) = (self.will.take(), self.link.clone()) else { return };
        let within = self.services.session.confirm_timeout;
        let published = tokio::time::timeout(within, async move {
            let permit = link.reserve().await?;
            link.publish(permit, will).await
        });
        match published.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => info!(session = %self.client.id, %error, "the will was not published"),
            Err(_) => info!(session = %self.client.id, "the will was not confirmed within session.confirm_timeout"),
        }
    }

    /// Sends what waits, then the close, and reads on until the client has closed, too: a socket that is closed with
    /// bytes unread would take back what was just sent (RFC 6455 §7.1.1). Nothing follows the client's own close, so
    /// with that read the socket can go.
    async fn say_goodbye(&mut self, code: CloseCode, reason: &str) {
        if self.write_all().await.is_err() {
            return;
        }
        let reason = Utf8Bytes::from(reason.get(..reason.len().min(120)).unwrap_or_default());
        let close = WebSocketMessage::Close(Some(CloseFrame { code: code.0.into(), reason }));
        let _ = Pin::new(&mut self.socket).start_send(close);
        if std::future::poll_fn(|context| Pin::new(&mut self.socket).poll_flush(context)).await.is_err() {
            return;
        }
        let mut has_closed = false;
        while let Some(Ok(message)) = self.socket.next().await {
            has_closed |= message.is_close();
        }
        let stream = self.socket.get_mut();
        stream.lift_budget();
        let _ = tokio::io::AsyncWriteExt::shutdown(stream).await;
        let mut ignored = [0; 1024];
        while !has_closed && stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
    }

    /// The client closed first: send the answer that tungstenite has ready (RFC 6455 §5.5.1), and no more.
    async fn answer_goodbye(&mut self) {
        let _ = std::future::poll_fn(|context| Pin::new(&mut self.socket).poll_flush(context)).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(self.socket.get_mut()).await;
    }

    async fn write_all(&mut self) -> Result<(), WebSocketError> {
        loop {
            let event = std::future::poll_fn(|context| match self.poll_outbound(context) {
                Poll::Ready(event) => Poll::Ready(Some(event)),
                Poll::Pending if self.writing.flushing => Poll::Pending,
                Poll::Pending => Poll::Ready(None),
            });
            match event.await {
                None => return Ok(()),
                Some(Event::WriteFailed(error)) => return Err(error),
                Some(_) => self.settle_written(),
            }
        }
    }
}

fn is_reset(error: &tokio_tungstenite::tungstenite::error::ProtocolError) -> bool {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    matches!(error, ProtocolError::ResetWithoutClosingHandshake)
}

/// The clock of the edge; in tests it can be paused.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
