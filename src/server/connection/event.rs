//! What happens to a client's task, as inputs of the session.

use bytes::Bytes;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message as WebSocketMessage};
use tracing::{debug, info};

use super::observed::Intercepted;
use super::{Connection, now};
use crate::broker::Event as BrokerEvent;
use crate::hub::outbox::Signal;
use crate::message::{CloseCode, Delivery, Outcome, Refusal, Settlement};
use crate::metrics::Overrun;
use crate::server::deflate::Fault;
use crate::server::operation::{Completed, Published};
use crate::session::{Done, Input, SubscriptionKey, Ticket};

/// What the task was woken for.
pub(super) enum Event {
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
    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Inbound(message) => self.on_inbound(message),
            Event::Written => self.settle_written(),
            Event::WriteFailed(error) => {
                debug!(%error, "write failed");
                self.input(Input::Gone);
            }
            Event::Signal(Signal::Asked) => self.on_asked(),
            Event::Signal(Signal::Shutdown) => self.input(Input::Shutdown),
            Event::Signal(Signal::End(refusal)) => self.on_end(*refusal),
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
            WebSocketError::Io(error) if Fault::of(error) == Some(Fault::Corrupt) => Refusal::not_deflate(),
            error if is_too_large(error) => {
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
    pub(super) fn on_end(&mut self, refusal: Refusal) {
        if refusal.close == CloseCode::SLOW_CONSUMER {
            self.services.metrics.overrun(Overrun::Disconnect);
            self.outbox.clear();
        }
        self.input(Input::Refused(refusal));
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
}

fn is_too_large(error: &WebSocketError) -> bool {
    match error {
        WebSocketError::Capacity(_) => true,
        WebSocketError::Io(error) => Fault::of(error) == Some(Fault::TooLarge),
        _ => false,
    }
}

fn is_reset(error: &ProtocolError) -> bool {
    matches!(error, ProtocolError::ResetWithoutClosingHandshake)
}
