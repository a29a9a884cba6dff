//! SUBSCRIBE, UNSUBSCRIBE, ACK and NACK.

use super::arguments::{self, QUEUE_NAME};
use super::connected::{Connected, Handler};
use super::headers::{flag, number, required};
use super::in_flight::Kind;
use super::subscriptions::{AckMode, Claim, New, Reply};
use super::{Action, Application, Context, Request, Settings, answers};
use crate::access;
use crate::message::{
    Destination, DurableName, Headers, Outcome, Refusal, Segment, Settlement, SharedSource, Source, Subscribe, Text,
    Usage, detached,
};
use crate::stomp::{Frame, Reader, Version};

impl Connected {
    pub(super) fn subscribe(&mut self, frame: &Frame, handler: &mut Handler<'_>) -> Result<(), Refusal> {
        let spelling = required(frame, "destination")?;
        let id = self.subscription_id(frame)?;
        if frame.headers.get("selector").is_some() {
            return Err(Refusal::unsupported(
                "selector",
                "no broker behind this gateway filters; subscribe to a narrower topic",
            ));
        }
        let destination = Destination::parse(spelling, Usage::Subscribe, handler.context.separators)?;
        handler.context.allow(access::Action::Subscribe, &destination, &self.principal)?;
        let ack = ack_mode(frame)?;
        let receipt = frame.headers.get("receipt").cloned();
        if self.subscriptions.find(id.as_ref(), spelling).is_some() {
            return Err(Refusal::duplicate_subscription(id.as_ref().unwrap_or(spelling)));
        }
        let arguments = arguments::read(frame, self.capabilities)?;
        arguments::check_of_subscribe(&arguments, &destination)?;
        handler.context.rules.check_arguments(&arguments, handler.context.subject(&self.principal))?;
        let source = self.source(frame, &destination, id.as_ref(), ack, &arguments, handler.context)?;
        let snapshot = answers::snapshot(frame, &destination, &self.principal, handler.context)?;
        if let Destination::TemporaryQueue(name) = &destination
            && self.subscriptions.adopt_reply(name, id.as_ref())
        {
            handler.receipt(receipt, &Outcome::DONE);
            return Ok(());
        }
        let settings = handler.settings();
        let prefetch = prefetch(frame, settings)?;
        let spelling_used = Destination::spelling_of(spelling, handler.context.separators);
        let reply = match &destination {
            Destination::TemporaryQueue(name) => Some(Reply { name: name.clone(), address: None }),
            _ => None,
        };
        let (durable, queue) = match &source {
            Wanted::Dedicated(Source::Durable(name, _)) => (Some(name.clone()), None),
            Wanted::Dedicated(Source::Named { queue, .. }) => (None, Some(queue)),
            _ => (None, None),
        };
        let (id_used, destination) = (id.clone(), spelling.clone());
        let new = New { id: id_used, destination, spelling: spelling_used, ack, reply, durable, queue };
        let key = self.subscriptions.add(new, settings)?;
        let request = match source {
            Wanted::Shared(source) => {
                let version = self.connect.version;
                Request::Shared(
                    source,
                    Reader { subscription: id.as_ref().map(detached), spelling: spelling_used, version },
                )
            }
            Wanted::Dedicated(source) => Request::Dedicated(Subscribe { source, prefetch, arguments }),
            Wanted::Application(application) => Request::Application(application),
        };
        let request = match snapshot {
            Some(snapshot) => Request::Snapshot(Box::new(request), snapshot),
            None => request,
        };
        let kind = match request {
            Request::Application(_) | Request::Snapshot(..) => Kind::Answer(key),
            Request::Dedicated(Subscribe { source: Source::Reply, .. }) => Kind::ReplyAddress(key),
            _ => Kind::Subscribe,
        };
        let ticket = handler.open(kind, receipt);
        handler.actions.push(Action::Subscribe(ticket, key, request));
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, frame: &Frame, handler: &mut Handler<'_>) -> Result<(), Refusal> {
        let destination = frame.headers.get("destination").cloned().unwrap_or_default();
        let id = frame.headers.get("id").cloned();
        if id.is_none() && (self.connect.version > Version::V10 || destination.is_empty()) {
            return Err(Refusal::missing_header("UNSUBSCRIBE", "id"));
        }
        let durable = self.durable_name(frame, id.as_ref())?;
        let receipt = frame.headers.get("receipt").cloned();
        if let Some(key) = self.subscriptions.find(id.as_ref(), &destination) {
            if let Some(name) = &durable {
                self.subscriptions.check_durable(key, frame, name)?;
            }
            self.subscriptions.cancel(key);
            let ticket = handler.open(Kind::Unsubscribe(key), receipt);
            handler.actions.push(Action::Unsubscribe(ticket, key, durable.is_some()));
            return Ok(());
        }
        match durable {
            Some(name) => {
                let ticket = handler.open(Kind::Subscribe, receipt);
                handler.actions.push(Action::DeleteDurable(ticket, name));
                Ok(())
            }
            None => Err(Refusal::unknown_subscription(id.as_ref().unwrap_or(&destination))),
        }
    }

    pub(super) fn acknowledge(
        &mut self,
        frame: &Frame,
        settlement: Settlement,
        handler: &mut Handler<'_>,
    ) -> Result<(), Refusal> {
        let receipt = frame.headers.get("receipt").cloned();
        let transaction = frame.headers.get("transaction");
        if let Some(name) = transaction {
            self.transactions.check_open(frame.command.as_str(), name)?;
        }
        let claim = self.subscriptions.claim(frame, self.connect.version)?;
        match (transaction, claim) {
            (Some(name), claim) => {
                if let Claim::Deliveries(key, unsettled) = &claim {
                    self.subscriptions.hold(*key, unsettled.len());
                }
                self.transactions.stage_settlement(name, claim, settlement, handler.settings())?;
                handler.receipt(receipt, &Outcome::DONE);
            }
            (None, Claim::Void) => handler.receipt(receipt, &Outcome { settled: false, ..Outcome::DONE }),
            (None, Claim::Deliveries(key, unsettled)) => {
                let ticket = handler.open(Kind::Pipelined, receipt);
                let deliveries = unsettled.iter().map(|unsettled| (*unsettled).into()).collect();
                handler.actions.push(Action::Settle(ticket, deliveries, settlement));
                handler.actions.extend(self.subscriptions.forget_if_settled(key));
            }
        }
        Ok(())
    }

    /// The header `id`: demanded from 1.1 on; in 1.0 the destination may take its place.
    fn subscription_id(&self, frame: &Frame) -> Result<Option<Text>, Refusal> {
        if self.connect.version == Version::V10 && frame.headers.get("id").is_none() {
            return Ok(None);
        }
        required(frame, "id").cloned().map(Some)
    }

    /// The identity of a durable subscription, if the frame speaks of one: RabbitMQ's spelling or Artemis's.
    fn durable_name(&self, frame: &Frame, id: Option<&Text>) -> Result<Option<DurableName>, Refusal> {
        let client = frame.headers.get("client-id").unwrap_or(&self.connect.client_id).clone();
        let user = self.principal.name.clone();
        if let Some(name) = frame.headers.get("durable-subscription-name") {
            return Ok(Some(DurableName { user, client, name: name.clone() }));
        }
        if flag(frame, "durable")? != Some(true) {
            return Ok(None);
        }
        let name = id.ok_or_else(|| Refusal::missing_header(frame.command.as_str(), "id"))?.clone();
        Ok(Some(DurableName { user, client, name }))
    }

    /// Whether the source is read once for all, or by this subscription alone (contract, §11).
    fn source(
        &self,
        frame: &Frame,
        destination: &Destination,
        id: Option<&Text>,
        ack: AckMode,
        arguments: &Headers,
        context: &Context,
    ) -> Result<Wanted, Refusal> {
        let only_auto = |what: &str| match ack {
            AckMode::Auto => Ok(()),
            _ => Err(Refusal::unsupported(
                &format!("ack mode on {what}"),
                "these messages need no ACK; subscribe with ack:auto",
            )),
        };
        if let Destination::Topic(pattern) = destination
            && !arguments.is_empty()
            && pattern.segments().any(|segment| matches!(segment, Segment::Glob(_)))
        {
            // The queue is bound more widely than that, and whoever reads it by its name would get all of it.
            let why = "a queue of one's own takes whole segments: * for one, # for any number of them";
            return Err(Refusal::unsupported(&format!("arguments with the pattern {pattern}"), why));
        }
        Ok(match destination {
            Destination::Topic(pattern) if arguments.get(QUEUE_NAME).is_some() => {
                arguments::named(frame, arguments, Source::Topic(pattern.clone())).map(Wanted::Dedicated)?
            }
            Destination::Topic(pattern) => match (self.durable_name(frame, id)?, ack) {
                (Some(name), _) => Wanted::Dedicated(Source::Durable(name, pattern.clone())),
                (None, AckMode::Auto) if arguments.is_empty() => Wanted::Shared(SharedSource::Topic(pattern.clone())),
                (None, _) => Wanted::Dedicated(Source::Topic(pattern.clone())),
            },
            Destination::User { name, .. } => {
                only_auto("/user/")?;
                if self.durable_name(frame, id)?.is_some() {
                    let why = "what is sent to a user is not kept; subscribe to a durable /topic/ or read a /queue/";
                    return Err(Refusal::unsupported("durable on /user/", why));
                }
                Wanted::Shared(SharedSource::User { user: self.principal.name.clone(), name: name.clone() })
            }
            Destination::Queue(name) => Wanted::Dedicated(Source::Queue(name.clone())),
            Destination::ExistingQueue(name) => Wanted::Dedicated(Source::ExistingQueue(name.clone())),
            Destination::Exchange { exchange, key } => {
                if self.durable_name(frame, id)?.is_some() && arguments.get(QUEUE_NAME).is_none() {
                    let why = "give the queue that is to collect a name of your own with x-queue-name";
                    return Err(Refusal::unsupported("durable on /exchange/", why));
                }
                let source = Source::Exchange { exchange: exchange.clone(), key: key.clone() };
                if arguments.get(QUEUE_NAME).is_some() {
                    Wanted::Dedicated(arguments::named(frame, arguments, source)?)
                } else if ack == AckMode::Auto && arguments.is_empty() {
                    Wanted::Shared(SharedSource::Exchange { exchange: exchange.clone(), key: key.clone() })
                } else {
                    Wanted::Dedicated(source)
                }
            }
            Destination::TemporaryQueue(_) => {
                only_auto("/temp-queue/")?;
                Wanted::Dedicated(Source::Reply)
            }
            Destination::Application(name) => {
                only_auto("/app/")?;
                Wanted::Application(answers::application(frame, name, context)?)
            }
            // The parser refuses to subscribe to reply queues.
            Destination::ReplyQueue(_) => return Err(Refusal::no_handler(&destination.to_string())),
        })
    }
}

enum Wanted {
    Shared(SharedSource),
    Dedicated(Source),
    Application(Application),
}

fn ack_mode(frame: &Frame) -> Result<AckMode, Refusal> {
    match frame.headers.get("ack").map(|value| &**value) {
        None | Some("auto") => Ok(AckMode::Auto),
        Some("client") => Ok(AckMode::Client),
        Some("client-individual") => Ok(AckMode::ClientIndividual),
        Some(other) => Err(Refusal::invalid_header("ack", other, "auto, client or client-individual")),
    }
}

/// `prefetch-count`, held to `session.max_prefetch`; 0 asks for as many as there may be.
fn prefetch(frame: &Frame, settings: &Settings) -> Result<u16, Refusal> {
    let asked = number::<u16>(frame, "prefetch-count", "a whole number from 0 to 65535")?;
    Ok(match asked {
        None => settings.prefetch,
        Some(0) => settings.max_prefetch,
        Some(count) => count.min(settings.max_prefetch),
    })
}
