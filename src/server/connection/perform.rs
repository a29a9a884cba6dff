//! What the session wants done, and how it ended.

use std::sync::Arc;

use bytes::Bytes;
use tracing::field::display;
use tracing::{info, trace};

use super::count::outcome_of;
use super::shown::Shown;
use super::{Connection, now};
use crate::broker::{Confirmation, Link};
use crate::hub::outbox::Item;
use crate::hub::{Membership, render, render_frame};
use crate::message::{DeliveryId, Message, Outcome, Refusal, detached};
use crate::server::operation::{self, Completed, Pending, Published};
use crate::session::{Action, Deliver, Done, Input, SubscriptionKey, Ticket};
use crate::stomp::{Command, HEARTBEAT, Limits, MessageFrame};
use crate::traces::{Span, Stage};

impl Connection {
    /// Performs one action, or begins the operation that does.
    pub(super) fn perform(&mut self, action: Action) {
        match (action, self.link.clone()) {
            (Action::Send(frame), _) => {
                if frame.command == Command::Error {
                    self.error = frame.headers.get("code").cloned();
                    self.count_error(&frame);
                }
                trace!(frame = %Shown(&frame), "to be sent");
                self.send(render_frame(&frame, self.session.version()));
            }
            (Action::Deliver(deliver), _) => self.deliver(&deliver),
            (Action::Heartbeat, _) => self.send(Item::new(Bytes::from_static(HEARTBEAT), None, true)),
            (Action::Close(code, reason), _) => self.closing = Some((code, reason)),
            (Action::PublishWill(will), _) => self.will = Some(Box::new(will)),
            (Action::Forget(key), _) => self.forget(key),
            (Action::Unsubscribe(ticket, key, delete), _) => {
                self.unsubscribe(ticket, key, delete);
                self.observe_end(key);
            }
            (Action::Authenticate(ticket, credentials), _) => {
                let services = Arc::clone(&self.services);
                self.tenant = credentials.host.as_ref().map(detached);
                let (id, peer) = (self.client.id.clone(), self.client.peer);
                self.operation = Some(operation::authenticate(services, id, peer, ticket, credentials));
            }
            (Action::Publish(ticket, mut message), Some(link)) => {
                self.services.metrics.arrived(&message.destination);
                let trace = self.services.traces.receive(&mut message, &self.client.id);
                if let Some((message, trace)) = self.call(&link, ticket, message, trace) {
                    self.publish(link, ticket, message, trace);
                }
            }
            (Action::Settle(ticket, deliveries, settlement), Some(link)) => {
                self.settle(link, ticket, deliveries, settlement);
            }
            (Action::Commit(ticket, mut transaction), Some(link)) => {
                let mut trace = Span::default();
                for message in &mut transaction.messages {
                    self.services.metrics.arrived(&message.destination);
                    trace.join(self.services.traces.receive(message, &self.client.id));
                }
                for (deliveries, settlement) in &transaction.settlements {
                    self.acknowledged(deliveries, *settlement);
                }
                let published = Published { since: self.handled, messages: transaction.messages.len(), trace };
                self.operation = Some(match self.chained_commit(&link, ticket, published, transaction) {
                    Ok(operation) => operation,
                    Err((published, transaction)) => operation::commit(link, ticket, published, transaction),
                });
            }
            (Action::Subscribe(ticket, key, request), Some(link)) => self.subscribe(link, ticket, key, request),
            (Action::DeleteDurable(ticket, name), Some(link)) => {
                self.operation = Some(operation::delete_durable(link, ticket, name));
            }
            // The session asks for nothing of the broker's before it has been authenticated, which is what brings a link.
            (_, None) => {}
        }
    }

    fn publish(&mut self, link: Arc<dyn Link>, ticket: Ticket, mut message: Message, trace: Span) {
        let handing_over = trace.step(Stage::Publish, &mut message.headers);
        let mut published = Published { since: self.handled, messages: 1, trace };
        match link.try_reserve() {
            Some(permit) => {
                let confirmation = link.publish(permit, message);
                published.trace.join(handing_over.then(Stage::Confirm));
                self.confirm(ticket, Some(published), confirmation);
            }
            None => self.operation = Some(operation::publish(link, ticket, published, handing_over, message)),
        }
    }

    fn send(&mut self, item: Item) {
        self.outbox.push_firm(item, now());
    }

    fn deliver(&mut self, deliver: &Deliver) {
        let Deliver { subscription, message_id, ack, destination, delivery, settle_when_written } = deliver;
        let (trace, traced) = self.services.traces.deliver(&delivery.message);
        let message = traced.as_ref().unwrap_or(&delivery.message);
        let frame = MessageFrame {
            subscription: subscription.as_deref(),
            message_id,
            ack: ack.as_deref(),
            destination,
            redelivered: delivery.redelivered,
            gap: delivery.gap,
            headers: &message.headers,
            body: &message.body,
        };
        let (item, left_out) = render(&frame, self.session.version());
        self.services.metrics.headers_left_out(left_out);
        self.services.metrics.delivered(&message.destination, 1);
        if let (Some(id), true) = (delivery.id, ack.is_some()) {
            self.await_acknowledgement(id, trace.child(Stage::Acknowledge));
        }
        self.send(Item { settle: *settle_when_written, trace: trace.child(Stage::Write), ..item });
    }

    fn unsubscribe(&mut self, ticket: Ticket, key: SubscriptionKey, delete: bool) {
        if let Some((subscription, deliveries)) = self.consumers.take(key) {
            // What has not been written goes to another reader, and must not be written here, too.
            let is_its_own = |id: DeliveryId| Some(id.consumer) == deliveries;
            self.outbox.discard_unsettled(is_its_own);
            self.writing.batch.retain(|item| !item.settle.is_some_and(is_its_own));
            self.operation = Some(operation::cancel(subscription, deliveries, ticket, key, delete));
            return;
        }
        self.memberships.retain(|(membership, _)| *membership != key);
        self.input(Input::Done(ticket, Ok(Done::Outcome(Outcome::DONE))));
    }

    pub(super) fn keep_membership(&mut self, key: SubscriptionKey, membership: Membership) {
        if self.memberships.is_empty() {
            self.memberships.reserve_exact(1); // most clients have one, and four times its size is what they would get
        }
        self.memberships.push((key, membership));
    }

    pub(super) fn confirm(&mut self, ticket: Ticket, published: Option<Published>, confirmation: Confirmation) {
        match confirmation {
            Confirmation::Ready(result) => self.on_confirmed(ticket, published, result.map_err(Refusal::from)),
            Confirmation::Waiting(_) => {
                self.confirmations.get_or_insert_default().push(Pending { ticket, published, confirmation });
            }
        }
    }

    /// The broker answered, or cannot.
    pub(super) fn on_confirmed(
        &mut self,
        ticket: Ticket,
        published: Option<Published>,
        result: Result<Outcome, Refusal>,
    ) {
        let outcome = outcome_of(&result);
        self.input(Input::Done(ticket, result.map(Done::Outcome)));
        self.count_published(published, outcome);
    }

    pub(super) fn on_completed(&mut self, completed: Completed) {
        if let Completed::Authenticated(_, result) = &completed {
            self.count_authentication(result.as_ref().err());
        }
        match completed {
            Completed::Authenticated(ticket, Ok((principal, link, chained))) => {
                let capabilities = link.capabilities();
                self.chained = chained;
                self.link = Some(link);
                let admitted = self.client.registration.name(&principal);
                self.input(Input::Done(ticket, admitted.map(|()| Done::Authenticated(principal, capabilities))));
                self.adopt(); // there may have been a reload in between
                if self.session.is_connected() {
                    self.lift_limits();
                }
            }
            Completed::Joined(ticket, key, Ok(membership)) => {
                self.keep_membership(key, membership);
                self.input(Input::Done(ticket, Ok(Done::Outcome(Outcome::DONE))));
            }
            Completed::Opened(ticket, key, Ok(subscription)) => {
                let warning = subscription.warning().map(str::to_owned);
                let opened = Done::Outcome(Outcome { warning, ..Outcome::DONE });
                let done = subscription.reply_address().cloned().map_or(opened, Done::ReplyAddress);
                self.consumers.add(key, subscription);
                self.input(Input::Done(ticket, Ok(done)));
            }
            Completed::Cancelled(ticket, key, subscription, deliveries, result) => {
                self.consumers.keep_cancelled(key, subscription, deliveries);
                let done = result.map(|()| Done::Outcome(Outcome::DONE)).map_err(Refusal::from);
                self.input(Input::Done(ticket, done));
            }
            Completed::Published(ticket, published, Ok(confirmation)) => {
                self.confirm(ticket, Some(published), confirmation);
            }
            Completed::Published(ticket, published, Err(error)) => {
                self.on_confirmed(ticket, Some(published), Err(error.into()));
            }
            Completed::Deleted(ticket, result) => {
                let done = result.map(|()| Done::Outcome(Outcome::DONE)).map_err(Refusal::from);
                self.input(Input::Done(ticket, done));
            }
            Completed::Sent(ticket, sent) => self.on_sent(ticket, sent),
            Completed::Snapshot(opened, handled) => self.on_snapshot(*opened, handled),
            Completed::Done(ticket, published, result) => self.on_answered(ticket, published, result),
            Completed::Nothing => {}
            Completed::Authenticated(ticket, Err(refusal)) => self.input(Input::Done(ticket, Err(refusal))),
            Completed::Joined(ticket, _, Err(error)) | Completed::Opened(ticket, _, Err(error)) => {
                self.input(Input::Done(ticket, Err(error.into())));
            }
        }
    }

    /// From CONNECTED on, the version's own rules and the larger limits hold.
    fn lift_limits(&mut self) {
        self.count_connected();
        let Some(principal) = self.session.principal() else { return };
        self.span.record("user", display(&principal.name));
        info!(version = self.session.version().as_str(), "connected");
        let settings = &self.live.session;
        self.decoder.set_version(self.session.version());
        self.decoder.set_limits(Limits {
            headers: settings.max_headers,
            header_bytes: settings.max_header_bytes,
            body: settings.max_body,
            frame: None,
        });
        self.socket.stream().lift_budget();
    }
}
