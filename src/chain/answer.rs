//! What interceptors and handlers say.

use bytes::Bytes;

use crate::message::{Destination, Headers, Message, Pattern, PublishOptions, Refusal, Text, trace_context};

/// What becomes of a SEND.
#[derive(Debug)]
pub enum Verdict {
    /// It goes on, changed or not, to the next interceptor and at last to the broker.
    Continue(Message),
    /// It ends here, and this is what came of it. With nothing in the list it is consumed.
    Answer(Vec<Reply>),
}

/// One thing that came of a SEND.
#[derive(Debug)]
pub enum Reply {
    /// To be published; the sender's RECEIPT waits for the confirmation.
    Publish(Message),
    /// For the sender's own session, without the broker: to its reply address, if the destination is one, or to its
    /// subscription to that `/user` destination. Without such a subscription it is dropped.
    Direct(Message),
}

/// Why an interceptor does not let a frame pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The handler failed: the sender is told in a MESSAGE, and its session goes on (contract, §10).
    Failed(Failure),
    /// The session ends with this ERROR.
    Refused(Refusal),
}

/// A handler's fault, in the terms of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// 400 to 499: the request was wrong. 500 to 599: the handler could not.
    pub status: u16,
    /// For the sender.
    pub reason: String,
}

impl Failure {
    /// A failure for the sender to read.
    pub fn new(status: u16, reason: impl Into<String>) -> Self {
        Failure { status, reason: reason.into() }
    }

    /// 504: no answer in time.
    pub fn timed_out(reason: &str) -> Self {
        Self::new(504, reason)
    }
}

impl From<Failure> for Rejection {
    fn from(failure: Failure) -> Self {
        Rejection::Failed(failure)
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Rejection::Refused(refusal)
    }
}

/// What a handler's answer refers to.
#[derive(Clone, Debug)]
pub struct Cause {
    destination: Destination,
    reply_to: Option<Text>,
    correlation_id: Option<Text>,
    trace: Headers,
}

impl Cause {
    /// What will be needed of a frame when it has been answered.
    pub fn new(destination: &Destination, headers: &Headers) -> Self {
        let get = |name| headers.get(name).cloned();
        Cause {
            destination: destination.clone(),
            reply_to: get("reply-to"),
            correlation_id: get("correlation-id"),
            trace: trace_context(headers),
        }
    }

    /// Where it was sent to.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Ties an answer to its question, and to the trace of it, unless it says itself what it belongs to.
    pub fn tie(&self, answer: &mut Headers) {
        if let (Some(id), None) = (&self.correlation_id, answer.get("correlation-id")) {
            answer.push("correlation-id", id.clone());
        }
        if answer.get("traceparent").is_none() {
            answer.extend(self.trace.clone());
        }
    }

    /// The sender's own reply address, else its `/user/` and this name.
    pub(super) fn reply_address(&self, name: &'static str) -> Destination {
        match self.reply_to.as_ref().and_then(|address| address.strip_prefix("/reply-queue/")) {
            Some(address) => Destination::ReplyQueue(address.into()),
            None => Destination::User { user: None, name: Pattern::canonical(name) },
        }
    }

    /// The MESSAGE that tells the sender of a failure (contract, §10).
    pub fn report(&self, failure: &Failure) -> Message {
        let mut headers = Headers::from([
            ("content-type", Text::from_static("text/plain")),
            ("status", Text::from(failure.status.to_string())),
            ("stompgate-destination", Text::from(self.destination.to_string())),
        ]);
        self.tie(&mut headers);
        Message {
            destination: self.reply_address("queue/errors"),
            headers,
            body: Bytes::from(failure.reason.clone()),
            options: PublishOptions::default(),
        }
    }
}
