//! SEND: from a frame to a message.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::connected::{Connected, Handler};
use super::headers::{flag, number, required};
use super::in_flight::Kind;
use super::{Action, Request, Settings, arguments};
use crate::access;
use crate::message::{
    Argument, Capabilities, Destination, Headers, Message, Outcome, PublishOptions, Refusal, Separators, Source,
    Subscribe, Text, Usage,
};
use crate::stomp::{Command, Frame};

const TEMPORARY_QUEUE: &str = "/temp-queue/";

impl Connected {
    pub(super) fn send(&mut self, frame: Frame, handler: &mut Handler<'_>) -> Result<(), Refusal> {
        let destination = required(&frame, "destination")?;
        let destination = Destination::parse(destination, Usage::Send, handler.context.separators)?;
        handler.context.allow(access::Action::Send, &destination, &self.principal)?;
        if !handler.context.handlers.can_send(&destination) {
            check_publishable(&destination)?;
        }
        check_supported(&destination, self.capabilities)?;
        let reply_to = match temporary_queue(&frame) {
            None => {
                if let Some(reply_to) = frame.headers.get("reply-to") {
                    handler.context.rules.check_reply_to(reply_to, handler.context.subject(&self.principal))?;
                }
                None
            }
            Some(Err(refusal)) => return Err(refusal),
            Some(Ok(name)) => match self.subscriptions.reply_address(&name) {
                Some(address) => Some(Text::from(format!("/reply-queue/{address}"))),
                None => return self.open_reply_address(&name, frame, handler),
            },
        };
        let receipt = frame.headers.get("receipt").cloned();
        let transaction = frame.headers.get("transaction").cloned();
        let message = message(frame, destination, reply_to, Some(&self.principal.name), self.capabilities)?;
        if let Some(arguments) = &message.options.arguments {
            handler.context.rules.check_arguments(arguments, handler.context.subject(&self.principal))?;
        }
        if let Some(name) = transaction {
            self.transactions.stage_message(&name, message, handler.settings())?;
            handler.receipt(receipt, &Outcome::DONE);
        } else {
            let ticket = handler.open(Kind::Pipelined, receipt);
            handler.actions.push(Action::Publish(ticket, message));
        }
        Ok(())
    }

    /// The first use of `/temp-queue/name`: open it, and come back to this SEND when its address is known.
    fn open_reply_address(&mut self, name: &Text, frame: Frame, handler: &mut Handler<'_>) -> Result<(), Refusal> {
        let settings = handler.settings();
        let prefetch = settings.prefetch;
        let id = Text::from(format!("{TEMPORARY_QUEUE}{name}"));
        let key = self.subscriptions.add_reply(Some(id), name.clone(), settings)?;
        let ticket = handler.open(Kind::ReplyAddress(key), frame.headers.get("receipt").cloned());
        let request = Subscribe { source: Source::Reply, prefetch, arguments: Headers::new() };
        handler.actions.push(Action::Subscribe(ticket, key, Request::Dedicated(request)));
        self.held = Some(Box::new(frame));
        Ok(())
    }
}

/// The name after `reply-to:/temp-queue/`, decoded.
fn temporary_queue(frame: &Frame) -> Option<Result<Text, Refusal>> {
    let value = frame.headers.get("reply-to")?;
    if !value.starts_with(TEMPORARY_QUEUE) {
        return None;
    }
    match Destination::parse(value, Usage::Subscribe, crate::message::Separators::Both) {
        Ok(Destination::TemporaryQueue(name)) => Some(Ok(name)),
        Ok(_) => None,
        Err(refusal) => Some(Err(refusal)),
    }
}

/// Refuses what no broker can publish to, and no handler takes.
pub(super) fn check_publishable(destination: &Destination) -> Result<(), Refusal> {
    match destination {
        Destination::Application(_) => Err(Refusal::no_handler(&destination.to_string())),
        _ => Ok(()),
    }
}

/// Refuses what the broker behind the gateway does not have. The broker would, too, but for a transaction or a will
/// that is too late (contract, §5 and §7).
pub(super) fn check_supported(destination: &Destination, capabilities: Capabilities) -> Result<(), Refusal> {
    match destination {
        Destination::Exchange { .. } if !capabilities.exchanges => {
            Err(Refusal::unsupported("/exchange", "the broker behind this gateway has no exchanges; use /topic/…"))
        }
        Destination::ExistingQueue(_) if !capabilities.exchanges => Err(Refusal::unsupported(
            "/amq/queue",
            "the gateway declares all queues of the broker behind it; use /queue/…",
        )),
        _ => Ok(()),
    }
}

/// A message that no session sends, under the rules of a SEND: no `stompgate-user` travels with it.
///
/// # Errors
/// Whatever a SEND with these headers, `destination` among them, would be refused for; and headers that speak to a
/// session rather than travel with a message.
pub fn sessionless(
    headers: Headers,
    body: Bytes,
    capabilities: Capabilities,
    separators: Separators,
) -> Result<Message, Refusal> {
    let mut frame = Frame { command: Command::Send, headers, body };
    let destination = Destination::parse(required(&frame, "destination")?, Usage::Send, separators)?;
    check_publishable(&destination)?;
    check_supported(&destination, capabilities)?;
    let is_idle = |name: &str| name != "destination" && is_consumed(name) && Argument::of(name).is_none();
    if let Some((name, _)) = frame.headers.iter().find(|(name, _)| is_idle(name)) {
        return Err(Refusal::forbidden_header("SEND", name, "without a session it means nothing"));
    }
    if temporary_queue(&frame).is_some() {
        let why = "a temporary queue is a session's own; there is none here";
        return Err(Refusal::forbidden_header("SEND", "reply-to", why));
    }
    // Whoever asks waits for the answer, as with a receipt.
    frame.headers.push(Text::from_static("receipt"), Text::new());
    message(frame, destination, None, None, capabilities)
}

/// The message in a SEND frame of this user: the table of the contract, §2.
fn message(
    frame: Frame,
    destination: Destination,
    reply_to: Option<Text>,
    user: Option<&Text>,
    capabilities: Capabilities,
) -> Result<Message, Refusal> {
    let options = options(&frame, &destination, capabilities)?;
    let mut headers = Headers::with_capacity(frame.headers.len() + 1);
    for (name, value) in frame.headers.iter() {
        match &**name {
            "message-id" => {
                let why = "the broker names messages; to carry a name of your own use amqp-message-id";
                return Err(Refusal::forbidden_header("SEND", name, why));
            }
            "user-id" if Some(value) == user && capabilities.user_id => headers.push(name.clone(), value.clone()),
            "user-id" | "stompgate-user" if Some(value) == user => {}
            "user-id" => return Err(Refusal::forbidden_header("SEND", name, "it differs from the session's login")),
            own if own.starts_with("stompgate-") => {
                return Err(Refusal::forbidden_header(
                    "SEND",
                    name,
                    "headers beginning with stompgate- are the gateway's",
                ));
            }
            "reply-to" if reply_to.is_some() => {}
            name if is_consumed(name) => {}
            _ if headers.get(name).is_some() => {} // the first of a repeated header counts
            _ => headers.push(name.clone(), value.clone()),
        }
    }
    if let Some(reply_to) = reply_to {
        headers.push(Text::from_static("reply-to"), reply_to);
    }
    if let Some(user) = user {
        headers.push(Text::from_static("stompgate-user"), user.clone());
    }
    Ok(Message { destination, headers, body: frame.body, options })
}

fn options(frame: &Frame, destination: &Destination, capabilities: Capabilities) -> Result<PublishOptions, Refusal> {
    let arguments = arguments::read(frame, capabilities)?;
    arguments::check_of_send(&arguments, destination)?;
    let persistent = flag(frame, "persistent")?;
    let is_queue = matches!(destination, Destination::Queue(_) | Destination::ExistingQueue(_));
    let retain = flag(frame, "retain")?.unwrap_or(false);
    if retain && !matches!(destination, Destination::Topic(_)) {
        return Err(Refusal::forbidden_header("SEND", "retain", "only the last message of a /topic/ can be retained"));
    }
    number::<u64>(frame, "timestamp", "a whole number of seconds")?;
    let qos = number::<u8>(frame, "qos", "0, 1 or 2")?;
    if let Some(other) = qos.filter(|qos| *qos > 2) {
        return Err(Refusal::invalid_header("qos", &other.to_string(), "0, 1 or 2"));
    }
    Ok(PublishOptions {
        persistent: persistent.unwrap_or(is_queue || frame.headers.get("receipt").is_some()),
        retain,
        priority: number(frame, "priority", "a whole number from 0 to 255")?,
        expiration: number(frame, "expiration", "a whole number of milliseconds")?.map(Duration::from_millis),
        qos,
        arguments: (!arguments.is_empty()).then(|| Box::new(arguments)),
    })
}

/// Headers of SEND that speak to the gateway or the broker and do not travel with the message.
pub(super) fn is_consumed(name: &str) -> bool {
    matches!(
        name,
        "destination"
            | "receipt"
            | "transaction"
            | "content-length"
            | "login"
            | "passcode"
            | "authorization"
            | "subscription"
            | "ack"
            | "redelivered"
            | "gap"
            | "durable"
            | "auto-delete"
            | "exclusive"
            | "CC"
            | "BCC"
            | "x-death"
    ) || name.starts_with("x-first-death-")
        || Argument::of(name).is_some()
}

/// How much a client may send, as two token buckets that hold what two seconds bring.
#[derive(Debug)]
pub(super) struct Rates {
    frames: Option<Box<Bucket>>,
    bytes: Option<Box<Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

const BURST_SECONDS: f64 = 2.0;

impl Rates {
    pub(super) fn new(settings: &Settings, now: Instant) -> Self {
        let bucket = |per_second: u32| (per_second > 0).then(|| Box::new(Bucket::new(per_second, now)));
        let bytes = u32::try_from(settings.max_bytes_per_second).unwrap_or(u32::MAX);
        Rates { frames: bucket(settings.max_frames_per_second), bytes: bucket(bytes) }
    }

    pub(super) fn frame(&mut self, now: Instant) -> Result<(), Refusal> {
        Self::take(self.frames.as_deref_mut(), 1, now, "frames", "session.max_frames_per_second")
    }

    pub(super) fn bytes(&mut self, bytes: usize, now: Instant) -> Result<(), Refusal> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self::take(self.bytes.as_deref_mut(), bytes, now, "bytes", "session.max_bytes_per_second")
    }

    fn take(bucket: Option<&mut Bucket>, amount: u32, now: Instant, what: &str, setting: &str) -> Result<(), Refusal> {
        let Some(bucket) = bucket else { return Ok(()) };
        if bucket.take(amount, now) { Ok(()) } else { Err(Refusal::rate_exceeded(what, bucket.per_second, setting)) }
    }
}

impl Bucket {
    fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Bucket { per_second, tokens: per_second * BURST_SECONDS, filled: now }
    }

    fn take(&mut self, amount: u32, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second * BURST_SECONDS);
        self.filled = now;
        self.tokens -= f64::from(amount);
        self.tokens >= 0.0
    }
}
