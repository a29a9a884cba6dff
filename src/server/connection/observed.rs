//! What the chain wants to know of a subscription while it lasts: its acknowledgements, its messages, its end.
//!
//! Whether it does is asked once, at the SUBSCRIBE. Where it does not, each ACK and each delivery costs one look at an
//! empty list.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tracing::info;

use super::Connection;
use crate::broker::Link;
use crate::chain::{Event, Failure, Rejection, Subscription};
use crate::message::{
    Delivery, DeliveryId, Destination, Headers, Message, Settlement, SharedSource, Source, Subscribe, Transaction,
};
use crate::server::chained::Chained;
use crate::server::operation::Completed;
use crate::session::{Input, Request, SubscriptionKey, Ticket};

/// A message that the chain looks at on its way to a subscription. One at a time, so that their order stays.
pub(super) type Interception = Pin<Box<dyn Future<Output = Intercepted> + Send>>;

/// What the chain made of a message.
pub(super) struct Intercepted {
    key: SubscriptionKey,
    delivery: Delivery,
    verdict: Result<Option<Message>, Rejection>,
}

impl Connection {
    /// Settles what the client has acknowledged, once the chain has let that pass.
    pub(super) fn settle(
        &mut self,
        link: Arc<dyn Link>,
        ticket: Ticket,
        deliveries: Vec<DeliveryId>,
        settlement: Settlement,
    ) {
        self.acknowledged(&deliveries, settlement);
        match self.observer_of(&deliveries) {
            None => self.confirm(ticket, None, link.settle(&deliveries, settlement)),
            Some((chained, subscription)) => {
                self.operation = Some(Box::pin(async move {
                    let done = chained.acknowledge(&link, &deliveries, settlement, &subscription).await;
                    Completed::Done(ticket, None, done)
                }));
            }
        }
    }

    /// For each settlement of a transaction the subscription, if the chain wants to see it.
    pub(super) fn observers(&self, transaction: &Transaction) -> Vec<Option<Subscription>> {
        let observer = |deliveries: &[DeliveryId]| self.observer_of(deliveries).map(|(_, subscription)| subscription);
        transaction.settlements.iter().map(|(deliveries, _)| observer(deliveries)).collect()
    }

    fn observer_of(&self, deliveries: &[DeliveryId]) -> Option<(Chained, Subscription)> {
        if self.observed.is_empty() {
            return None;
        }
        let key = self.consumers.key_of(deliveries.first()?.consumer)?;
        self.observer(key, |subscription| Event::Acknowledge(&subscription.destination))
    }

    /// The chain and the subscription, if the chain has an interest in such an event of it.
    pub(super) fn observer(
        &self,
        key: SubscriptionKey,
        event: impl Fn(&Subscription) -> Event<'_>,
    ) -> Option<(Chained, Subscription)> {
        let subscription = self.observed.iter().find(|subscription| subscription.number == key.0)?;
        let (chained, _) = self.chained(event(subscription))?;
        Some((chained.clone(), subscription.clone()))
    }

    /// Hands a message to the session, through the chain if that wants to see it.
    pub(super) fn pass_on(&mut self, key: SubscriptionKey, delivery: Delivery) {
        match self.observer(key, |subscription| Event::Message(&subscription.destination)) {
            None => self.input(Input::Delivery(key, delivery)),
            Some((chained, subscription)) => {
                self.interception = Some(Box::pin(async move {
                    let message = Message::clone(&delivery.message);
                    let verdict = chained.chain.message(message, &subscription, &chained.context).await;
                    Intercepted { key, delivery, verdict }
                }));
            }
        }
    }

    /// The chain has looked at a message.
    pub(super) fn on_intercepted(&mut self, Intercepted { key, delivery, verdict }: Intercepted) {
        let settlement = match verdict {
            Ok(Some(message)) if self.consumers.is_open(key) => {
                let delivery = Delivery { message: Arc::new(message), ..delivery };
                return self.input(Input::Delivery(key, delivery));
            }
            Ok(Some(_)) => Settlement::Requeue, // unsubscribed meanwhile
            Ok(None) => Settlement::Accept,
            Err(Rejection::Refused(refusal)) => return self.input(Input::Refused(refusal)),
            Err(Rejection::Failed(Failure { status, reason })) => {
                self.outbox.count_dropped();
                info!(status, reason, "an interceptor failed over a message, which was rejected without requeue");
                Settlement::Reject
            }
        };
        if let (Some(id), Some(link)) = (delivery.id, &self.link) {
            drop(link.settle(&[id], settlement)); // there is nobody to tell
        }
    }

    /// Whether the chain wants to see the messages of a subscription.
    pub(super) fn is_shown(&self, key: SubscriptionKey) -> bool {
        self.observer(key, |subscription| Event::Message(&subscription.destination)).is_some()
    }

    /// A subscription of this session's own instead of a shared one, if the chain wants to see its messages.
    pub(super) fn apart(&self, key: SubscriptionKey, request: Request) -> Request {
        let source = match &request {
            Request::Shared(SharedSource::Topic(pattern), _) => Source::Topic(pattern.clone()),
            Request::Shared(SharedSource::Exchange { exchange, key }, _) => {
                Source::Exchange { exchange: exchange.clone(), key: key.clone() }
            }
            _ => return request,
        };
        if !self.is_shown(key) {
            return request;
        }
        let prefetch = self.live.session.prefetch;
        Request::Dedicated(Subscribe { source, prefetch, arguments: Headers::new() })
    }

    /// Adds to an UNSUBSCRIBE that the chain learns of it, if it wants to.
    pub(super) fn observe_end(&mut self, key: SubscriptionKey) {
        let observer = self.observer(key, |subscription| Event::Unsubscribe(&subscription.destination));
        let Some((chained, subscription)) = observer else { return };
        if matches!(subscription.destination, Destination::TemporaryQueue(_)) {
            return; // nobody was asked for its SUBSCRIBE either
        }
        let operation = self.operation.take();
        self.operation = Some(Box::pin(async move {
            let completed = match operation {
                Some(operation) => operation.await,
                None => Completed::Nothing,
            };
            chained.chain.unsubscribe(&subscription, &chained.context).await;
            completed
        }));
    }

    /// Nothing of a subscription waits to be acknowledged any more.
    pub(super) fn forget(&mut self, key: SubscriptionKey) {
        self.consumers.forget(key, &self.writing.settle);
        self.observed.retain(|subscription| subscription.number != key.0);
    }
}
