//! What handlers of the chain answer: SUBSCRIBE to `/app`, snapshots, replies and failures (contract, §10).

use std::sync::Arc;

use super::connected::{Connected, Handler};
use super::headers;
use super::in_flight::Kind;
use super::subscriptions::Subscriptions;
use super::{Action, Application, Context, SubscriptionKey};
use crate::access;
use crate::message::{
    Delivery, Destination, Handled, Headers, Message, Pattern, Principal, Refusal, Separators, Text, Usage,
};
use crate::stomp::Frame;

const SNAPSHOT: &str = "x-snapshot";

impl Connected {
    /// Hands the session what is for it, then the RECEIPT.
    pub(super) fn answer(&mut self, kind: Kind, done: Handled, receipt: Option<Text>, handler: &mut Handler<'_>) {
        let Handled { outcome, replies, status } = done;
        for message in replies {
            let key = match (kind, &message.destination) {
                (Kind::Answer(key), Destination::Application(_)) => Some(key),
                (_, destination) => self.subscriptions.reading(destination, handler.context.separators),
            };
            if let Some(key) = key {
                self.deliver_directly(key, message, handler.actions);
            }
        }
        if let Some(receipt) = receipt {
            let mut frame = headers::receipt(&receipt, &outcome);
            if let Some(status) = status {
                frame.headers.push("status", status.to_string());
            }
            handler.actions.push(Action::Send(frame));
        }
    }

    fn deliver_directly(&mut self, key: SubscriptionKey, message: Message, actions: &mut Vec<Action>) {
        let delivery = Delivery { message: Arc::new(message), id: None, redelivered: false, gap: false };
        actions.extend(self.subscriptions.deliver(key, delivery, self.connect.version));
    }
}

impl Subscriptions {
    /// The first open subscription that reads this reply address or user destination of the session's own.
    fn reading(&self, destination: &Destination, separators: Separators) -> Option<SubscriptionKey> {
        match destination {
            Destination::ReplyQueue(address) => self.with_reply_address(address),
            Destination::User { name, .. } => self.open().find_map(|(key, spelling)| {
                match Destination::parse(spelling, Usage::Subscribe, separators) {
                    Ok(Destination::User { name: pattern, .. }) if pattern.matches(name) => Some(key),
                    _ => None,
                }
            }),
            _ => None,
        }
    }
}

/// The question that a SUBSCRIBE to `/app/name` asks.
pub(super) fn application(frame: &Frame, name: &Pattern, context: &Context) -> Result<Application, Refusal> {
    let destination = Destination::Application(name.clone());
    if !name.is_literal() {
        let why = "a handler answers for one thing; /app/ takes no wildcards";
        return Err(Refusal::invalid_destination(&destination.to_string(), why));
    }
    if !context.handlers.can_subscribe(&destination) {
        return Err(Refusal::no_handler(&destination.to_string()));
    }
    let is_ours = |name: &str| super::send::is_consumed(name) || matches!(name, "id" | "prefetch-count" | SNAPSHOT);
    let others = frame.headers.iter().filter(|(name, _)| !is_ours(name));
    let headers = others.map(|(name, value)| (name.clone(), value.clone())).collect::<Headers>();
    Ok(Application { name: name.clone(), headers })
}

/// The question that a SUBSCRIBE to a topic has answered first.
pub(super) fn snapshot(
    frame: &Frame,
    destination: &Destination,
    principal: &Principal,
    context: &Context,
) -> Result<Option<Application>, Refusal> {
    let Some(asked) = frame.headers.get(SNAPSHOT) else { return Ok(None) };
    if !matches!(destination, Destination::Topic(_)) {
        let why = "only what is published to a /topic/ can go on from a snapshot";
        return Err(Refusal::forbidden_header("SUBSCRIBE", SNAPSHOT, why));
    }
    let asked_for = Destination::parse(asked, Usage::Subscribe, context.separators)?;
    context.allow(access::Action::Subscribe, &asked_for, principal)?;
    match asked_for {
        Destination::Application(name) => application(frame, &name, context).map(Some),
        _ => Err(Refusal::invalid_header(SNAPSHOT, asked, "a destination that begins with /app/")),
    }
}
