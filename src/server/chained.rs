//! What a client's task waits for where the chain has an interest: the chain, then the broker.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use crate::broker::{BrokerError, Confirmation, Link, Transaction};
use crate::chain::{Answer, Cause, Chain, Context, Event, Failure, Interest, Rejection, Reply, Subscription, Verdict};
use crate::message::{
    DeliveryId, Destination, Handled, Headers, Message, Outcome, PublishOptions, Refusal, Settlement, SharedSource,
    Source, Text,
};
use crate::server::ending::{Ending, Frame};
use crate::server::operation::Published;
use crate::session::{Done, Request, SubscriptionKey, Ticket};
use crate::traces::{Span, Stage};

/// The chain, and whose frames go through it.
#[derive(Clone)]
pub(super) struct Chained {
    pub(super) chain: Chain,
    pub(super) context: Arc<Context>,
    /// The chain that let the client in, and so learns that it is gone; a reload may have put another in its place.
    admitted_by: Option<Chain>,
}

/// Something whose end the session awaits, while it goes on with other frames.
pub(super) type Call = Pin<Box<dyn Future<Output = (Ticket, Option<Published>, Result<Done, Refusal>)> + Send>>;

/// What came of a SEND, once it has been handed to the broker.
pub(super) struct Sent {
    ending: Ending,
    confirmations: Vec<Confirmation>,
    replies: Vec<Message>,
    status: Option<u16>,
    trace: Span,
}

impl Chained {
    /// Lets a client in, under the name that the chain gives it.
    ///
    /// # Errors
    /// When the chain refuses it.
    pub(super) async fn connect(chain: &Chain, mut context: Context) -> Result<Self, Refusal> {
        context.principal = chain.connect(&context).await?;
        Ok(Chained { chain: chain.clone(), context: Arc::new(context), admitted_by: Some(chain.clone()) })
    }

    /// For a client that came before there was a chain.
    pub(super) fn late(chain: Chain, context: Context) -> Self {
        Chained { chain, context: Arc::new(context), admitted_by: None }
    }

    /// The client is gone, for this reason.
    pub(super) async fn disconnect(&self, cause: &str) {
        if let Some(chain) = &self.admitted_by {
            chain.disconnect(cause, &self.context).await;
        }
    }

    /// Nothing, if there is no interceptor: then nobody is asked again.
    pub(super) fn into_used(self) -> Option<Self> {
        (!self.chain.is_empty()).then_some(self)
    }

    /// Runs a SEND through the chain, and publishes what comes of it.
    ///
    /// # Errors
    /// When that ends the session.
    pub(super) async fn send(&self, link: &Arc<dyn Link>, message: Message, mut trace: Span) -> Result<Sent, Refusal> {
        let cause = Cause::new(&message.destination, &message.headers);
        let ending = Ending::of(self, vec![Frame::Send(cause.destination().clone())]);
        match self.try_send(link, message, &cause, &mut trace).await {
            Ok((confirmations, replies, status)) => Ok(Sent { ending, confirmations, replies, status, trace }),
            Err(refusal) => {
                trace.fail(refusal.code);
                ending.tell(Err(&refusal));
                Err(refusal)
            }
        }
    }

    async fn try_send(
        &self,
        link: &Arc<dyn Link>,
        mut message: Message,
        cause: &Cause,
        trace: &mut Span,
    ) -> Result<(Vec<Confirmation>, Vec<Message>, Option<u16>), Refusal> {
        let mut chain = trace.step(Stage::Chain, &mut message.headers);
        let (answered, status) = match self.chain.send(message, &self.context).await {
            Ok(verdict) => (Answered::from(verdict), None),
            Err(Rejection::Refused(refusal)) => {
                chain.fail(refusal.code);
                return Err(refusal);
            }
            Err(Rejection::Failed(failure)) => {
                chain.fail(&failure.status.to_string());
                (Answered::of_failure(cause, &failure), Some(failure.status))
            }
        };
        drop(chain);
        let mut confirmations = Vec::with_capacity(answered.publish.len());
        for mut message in answered.publish {
            let handing_over = trace.step(Stage::Publish, &mut message.headers);
            let permit = link.reserve().await?;
            confirmations.push(link.publish(permit, message));
            trace.join(handing_over.then(Stage::Confirm));
        }
        Ok((confirmations, answered.replies, status))
    }

    /// Whether the chain has an interest in any message of a transaction.
    pub(super) fn is_interested(&self, transaction: &Transaction) -> bool {
        let is_wanted = |message: &Message| self.interest(Event::Send(&message.destination)) != Interest::None;
        transaction.messages.iter().any(is_wanted)
    }

    pub(super) fn interest(&self, event: Event<'_>) -> Interest {
        self.chain.interest(event)
    }

    /// Runs the messages of a transaction through the chain, in order, and commits what comes of them.
    ///
    /// # Errors
    /// When one of them is rejected, or the broker does not take them: then nothing is published (contract, §5).
    pub(super) async fn commit(
        &self,
        link: &Arc<dyn Link>,
        transaction: Transaction,
        observers: Vec<Option<Subscription>>,
    ) -> Result<Done, Refusal> {
        let Transaction { messages, mut settlements } = transaction;
        let sent = messages.iter().map(|message| Frame::Send(message.destination.clone()));
        let observed = observers.iter().flatten();
        let acknowledged = observed.map(|subscription| Frame::Acknowledge(subscription.destination.clone()));
        let ending = Ending::of(self, sent.chain(acknowledged).collect());
        let result = async {
            let mut answered = Answered::default();
            for message in messages {
                answered.add(self.chain.send(message, &self.context).await.map_err(fatal)?);
            }
            for ((deliveries, settlement), observer) in settlements.iter_mut().zip(&observers) {
                if let Some(subscription) = observer {
                    let asked = self.chain.acknowledge(*settlement, deliveries.len(), subscription, &self.context);
                    *settlement = asked.await.map_err(fatal)?;
                }
            }
            let Answered { publish, replies } = answered;
            let transaction = Transaction { messages: publish, settlements };
            let outcome = link.commit(transaction).await?.await?;
            Ok::<_, Refusal>(Handled { outcome, replies, status: None })
        };
        let result = result.await;
        ending.tell(result.as_ref().map(|handled| &handled.outcome));
        result.map(Done::Handled)
    }

    /// Settles what the client has acknowledged, as the chain says.
    ///
    /// # Errors
    /// When the chain, or the broker, does not let it.
    pub(super) async fn acknowledge(
        &self,
        link: &Arc<dyn Link>,
        deliveries: &[DeliveryId],
        settlement: Settlement,
        subscription: &Subscription,
    ) -> Result<Done, Refusal> {
        let ending = Ending::of(self, vec![Frame::Acknowledge(subscription.destination.clone())]);
        let asked = self.chain.acknowledge(settlement, deliveries.len(), subscription, &self.context);
        let result = match asked.await {
            Ok(settlement) => link.settle(deliveries, settlement).await.map_err(Refusal::from),
            Err(rejection) => Err(fatal(rejection)),
        };
        ending.tell(result.as_ref());
        result.map(Done::Outcome)
    }

    /// Has a handler answer a SUBSCRIBE.
    ///
    /// # Errors
    /// When that ends the session.
    pub(super) async fn answer(&self, subscription: &Subscription) -> Result<Handled, Refusal> {
        let ending = Ending::of(self, vec![Frame::Subscribe(subscription.destination.clone())]);
        let result = self.try_answer(subscription).await;
        ending.tell(result.as_ref().map(|handled| &handled.outcome));
        result
    }

    async fn try_answer(&self, subscription: &Subscription) -> Result<Handled, Refusal> {
        let (reply, status) = match self.chain.subscribe(subscription, &self.context).await {
            Ok(answer) => (answer.map(|answer| message(subscription, answer)), None),
            Err(Rejection::Refused(refusal)) => return Err(refusal),
            Err(Rejection::Failed(failure)) => {
                let cause = Cause::new(&subscription.destination, &subscription.headers);
                (Some(cause.report(&failure)), Some(failure.status))
            }
        };
        Ok(Handled { outcome: Outcome::DONE, replies: reply.into_iter().collect(), status })
    }

    /// What the chain is to be asked before this subscription is opened, if it has an interest in it.
    pub(super) fn admission(&self, key: SubscriptionKey, request: &Request) -> Option<(Chained, Subscription)> {
        let destination = resource(request)?;
        let is_wanted = self.interest(Event::Subscribe(&destination)) != Interest::None;
        is_wanted.then(|| (self.clone(), subscription(key, destination)))
    }

    /// The subscription, if the chain wants to know more of it.
    /// `reply` is the name of the reply address that it reads, if it does.
    pub(super) fn observed(
        &self,
        key: SubscriptionKey,
        request: &Request,
        reply: Option<Text>,
    ) -> Option<Subscription> {
        if let Some(name) = reply {
            let destination = Destination::TemporaryQueue(name);
            let is_wanted = self.interest(Event::Message(&destination)) != Interest::None;
            return is_wanted.then(|| subscription(key, destination));
        }
        let destination = resource(request)?;
        let events = [Event::Unsubscribe(&destination), Event::Acknowledge(&destination), Event::Message(&destination)];
        let is_wanted = events.into_iter().any(|event| self.interest(event) != Interest::None);
        is_wanted.then(|| subscription(key, destination))
    }

    /// Asks the chain whether a subscription may be opened. What comes of that is to be told.
    ///
    /// # Errors
    /// When it may not.
    pub(super) async fn admit(&self, subscription: &Subscription) -> Result<Ending, Refusal> {
        let ending = Ending::of(self, vec![Frame::Subscribe(subscription.destination.clone())]);
        match self.chain.subscribe(subscription, &self.context).await.map_err(fatal) {
            Ok(_) => Ok(ending),
            Err(refusal) => {
                ending.tell(Err(&refusal));
                Err(refusal)
            }
        }
    }
}

impl Sent {
    /// What has been published, and waits for the broker's answers since then.
    pub(super) fn published(&mut self, since: Instant) -> Published {
        Published { since, messages: self.confirmations.len(), trace: std::mem::take(&mut self.trace) }
    }

    /// Waits until everything that came of it is confirmed.
    ///
    /// # Errors
    /// When the broker did not take part of it.
    pub(super) async fn settle(self) -> Result<Done, Refusal> {
        let result = confirmed(self.confirmations).await.map_err(Refusal::from);
        self.ending.tell(result.as_ref());
        Ok(Done::Handled(Handled { outcome: result?, replies: self.replies, status: self.status }))
    }
}

/// What interceptors made of messages.
#[derive(Default)]
struct Answered {
    publish: Vec<Message>,
    replies: Vec<Message>,
}

impl Answered {
    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Continue(message) => self.publish.push(message),
            Verdict::Answer(replies) => {
                for reply in replies {
                    match reply {
                        Reply::Publish(message) => self.publish.push(message),
                        Reply::Direct(message) => self.replies.push(message),
                    }
                }
            }
        }
    }

    fn of_failure(cause: &Cause, failure: &Failure) -> Self {
        Answered { publish: Vec::new(), replies: vec![cause.report(failure)] }
    }
}

impl From<Verdict> for Answered {
    fn from(verdict: Verdict) -> Self {
        let mut answered = Answered::default();
        answered.add(verdict);
        answered
    }
}

fn subscription(key: SubscriptionKey, destination: Destination) -> Subscription {
    Subscription { number: key.0, destination, headers: Headers::new() }
}

/// What a subscription reads; nothing for a reply address, which is the session's own.
fn resource(request: &Request) -> Option<Destination> {
    Some(match request {
        Request::Shared(SharedSource::Topic(pattern), _) => Destination::Topic(pattern.clone()),
        Request::Shared(SharedSource::User { user, name }, _) => {
            Destination::User { user: Some(user.clone()), name: name.clone() }
        }
        Request::Shared(SharedSource::Exchange { exchange, key }, _) => {
            Destination::Exchange { exchange: exchange.clone(), key: key.clone() }
        }
        Request::Dedicated(subscribe) => return read(&subscribe.source),
        Request::Application(asked) => Destination::Application(asked.name.clone()),
        Request::Snapshot(request, _) => return resource(request),
    })
}

fn read(source: &Source) -> Option<Destination> {
    Some(match source {
        Source::Queue(name) => Destination::Queue(name.clone()),
        Source::ExistingQueue(name) => Destination::ExistingQueue(name.clone()),
        Source::Exchange { exchange, key } => Destination::Exchange { exchange: exchange.clone(), key: key.clone() },
        Source::Topic(pattern) | Source::Durable(_, pattern) => Destination::Topic(pattern.clone()),
        Source::Named { of, .. } => return read(of),
        Source::Reply => return None,
    })
}

fn message(subscription: &Subscription, answer: Answer) -> Message {
    let Answer { mut headers, body } = answer;
    Cause::new(&subscription.destination, &subscription.headers).tie(&mut headers);
    Message { destination: subscription.destination.clone(), headers, body, options: PublishOptions::default() }
}

fn fatal(rejection: Rejection) -> Refusal {
    match rejection {
        Rejection::Refused(refusal) => refusal,
        Rejection::Failed(failure) => Refusal::handler_failed(failure.status, &failure.reason),
    }
}

/// Waits for all confirmations. One that is unrouted makes all of it so.
async fn confirmed(confirmations: Vec<Confirmation>) -> Result<Outcome, BrokerError> {
    let mut all = Outcome::DONE;
    for confirmation in confirmations {
        let outcome = confirmation.await?;
        all.routed &= outcome.routed;
        all.settled &= outcome.settled;
        all.warning = all.warning.or(outcome.warning);
    }
    Ok(all)
}
