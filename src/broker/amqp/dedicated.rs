//! A dedicated subscription: a channel of its own, read only when it is polled, and opened again when it breaks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use lapin::Error;
use lapin::message::Delivery as Arrival;
use lapin::options::{BasicCancelOptions, BasicNackOptions, QueueDeleteOptions};
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{debug, warn};

use super::arguments::stream_offset;
use super::closings::Closings;
use super::connection::{Connector, Seat};
use super::errors::{Culprit, culprit};
use super::isolation::Isolation;
use super::ledger::{Ledger, Ledgers, begin};
use super::opening::{Attempt, close, open};
use super::properties;
use super::settings::Settings;
use super::source::{Reading, Recipe};
use super::topology::{Place, Warning};
use crate::broker::{BrokerError, Event, Source, Subscription};
use crate::message::{Delivery, DeliveryId, Message, PublishOptions, Settlement, Text};

/// What all dedicated subscriptions of a link have in common.
pub(super) struct Common {
    pub(super) ledgers: Ledgers,
    pub(super) closings: Closings,
    pub(super) isolation: Isolation,
    ack_timeout: Duration,
    /// A broker needs no longer than this to notice that a connection is gone.
    pub(super) notice: Duration,
}

impl Common {
    /// None yet.
    pub(super) fn new(connector: &Arc<Connector>, settings: &Settings) -> Arc<Self> {
        Arc::new(Common {
            ledgers: Ledgers::default(),
            closings: Closings::default(),
            isolation: Isolation::new(connector),
            ack_timeout: settings.ack_timeout,
            notice: settings.heartbeat * 3,
        })
    }
}

/// A dedicated subscription.
pub(super) struct Dedicated {
    recipe: Arc<Recipe>,
    seat: Arc<Seat>,
    consumer: u64,
    ledger: Arc<Ledger>,
    common: Arc<Common>,
    phase: Phase,
    /// Until the oldest delivery has waited too long.
    timer: Option<Pin<Box<Sleep>>>,
    gap: bool,
    address: Option<Text>,
    warning: Option<Warning>,
    /// Of a stream: where the next message stands that nobody has been given.
    next_offset: Option<i64>,
}

enum Phase {
    Reading(Reading),
    Opening(Pin<Box<dyn Future<Output = Result<Reading, BrokerError>> + Send>>),
    /// It delivers no more, and its channel is kept for what is to be settled.
    Cancelled(Option<Reading>),
    Ended,
}

impl Dedicated {
    /// Opens one; waits for the broker if need be.
    pub(super) async fn open(
        recipe: Recipe,
        seat: Seat,
        consumer: u64,
        common: &Arc<Common>,
    ) -> Result<Self, BrokerError> {
        let (recipe, seat, common) = (Arc::new(recipe), Arc::new(seat), Arc::clone(common));
        if let Some(queue) = &recipe.queue {
            common.closings.settled(queue).await;
        }
        let reading = open(Arc::clone(&recipe), Arc::clone(&seat), Arc::clone(&common), Attempt::default()).await?;
        let address = matches!(recipe.source, Source::Reply).then(|| Text::from(reading.queue.as_str()));
        let ledger = common.ledgers.open(consumer);
        ledger.begin(reading.channel.clone());
        let warning = reading.warning.clone();
        let phase = Phase::Reading(reading);
        Ok(Dedicated {
            recipe,
            seat,
            consumer,
            ledger,
            common,
            phase,
            timer: None,
            gap: false,
            address,
            warning,
            next_offset: None,
        })
    }

    /// Its channel and queue, while it has them.
    pub(super) fn reading(&self) -> Option<&Reading> {
        match &self.phase {
            Phase::Reading(reading) => Some(reading),
            _ => None,
        }
    }

    /// A message for the reader; `None` if it is only for the wider binding.
    fn delivery(&mut self, arrival: Arrival, queue: &lapin::types::ShortString) -> Option<Delivery> {
        let destination = self.recipe.destination(arrival.routing_key.as_str(), queue);
        let offset = stream_offset(arrival.properties.headers().as_ref());
        // A stream knows nothing of acknowledgements: what was not acknowledged before a break is read again.
        let again = offset.zip(self.next_offset).is_some_and(|(offset, next)| offset < next);
        self.next_offset = self.next_offset.max(offset.map(|offset| offset + 1));
        let tag = self.ledger.deliver(arrival.delivery_tag, offset);
        let id = DeliveryId { consumer: self.consumer, tag };
        if !self.recipe.wants(&destination) {
            self.common.ledgers.settle(&[id], Settlement::Accept);
            return None;
        }
        let message = Message {
            destination,
            headers: properties::headers(&arrival.properties),
            body: arrival.data.into(),
            options: PublishOptions::default(),
        };
        Some(Delivery {
            message: Arc::new(message),
            id: Some(id),
            redelivered: arrival.redelivered || again,
            gap: std::mem::take(&mut self.gap),
        })
    }

    /// What follows when deliveries end: the subscription is opened again, unless the broker has ended it.
    fn broken(&mut self, error: Option<&Error>) -> Event {
        if let Phase::Reading(reading) = &self.phase
            && error.is_none()
            && reading.channel.status().connected()
            && reading.live.is_up()
        {
            let place = match &self.recipe.source {
                Source::Queue(name) => Some(Place::Queue(name.clone())),
                Source::ExistingQueue(name) => Some(Place::ExistingQueue(name.clone())),
                _ => None,
            };
            if let Some(place) = place {
                self.recipe.topology.forget(&place);
            }
            // The queue was deleted, or has lost its node. Where it is ours to make, its readers go on.
            warn!("{}: deleted, or its consumer was cancelled", self.recipe.what());
            self.gap = true;
        }
        if let Some(error) = error {
            debug!(%error, "{}: interrupted", self.recipe.what());
        }
        self.reopen(error.and_then(culprit))
    }

    /// Opens it again: what was delivered and not settled comes once more.
    fn reopen(&mut self, suspect: Option<Culprit>) -> Event {
        let offset = self.ledger.void().or(self.next_offset);
        self.close();
        if self.seat.line().connector().is_closed() {
            return Event::Ended(self.seat.line().connector().reason());
        }
        // A stream that has brought nothing yet has no place to go on from.
        self.gap |= offset.is_none() && self.recipe.arguments.is_of_stream();
        let attempt = Attempt { again: true, offset, suspect: suspect.map(|culprit| (culprit, Instant::now())) };
        let (recipe, seat, common) = (Arc::clone(&self.recipe), Arc::clone(&self.seat), Arc::clone(&self.common));
        self.phase = Phase::Opening(Box::pin(open(recipe, seat, common, attempt)));
        Event::Interrupted
    }

    /// Its channel is needed no more.
    fn close(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        if let Phase::Reading(reading) | Phase::Cancelled(Some(reading)) = phase {
            close(reading, Arc::clone(&self.seat), &self.common);
        }
    }

    fn overdue(&self) -> String {
        format!("not acknowledged within {:?} (broker.amqp.ack_timeout)", self.common.ack_timeout)
    }

    /// Puts back what has waited too long, before the broker closes the channel for it (RabbitMQ's `consumer_timeout`).
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        loop {
            let Some(timer) = &mut self.timer else {
                let Some(oldest) = self.ledger.oldest() else { return Poll::Pending };
                self.timer = Some(Box::pin(sleep_until(oldest + self.common.ack_timeout)));
                continue;
            };
            ready!(timer.as_mut().poll(context));
            let until = timer.deadline() - self.common.ack_timeout;
            self.timer = None;
            if self.ledger.is_of_stream() {
                // It takes nothing back, but can be read again from there.
                warn!("{}: read again; {}", self.recipe.what(), self.overdue());
                return Poll::Ready(self.reopen(None));
            }
            if let Some((count, tag)) = self.ledger.put_back(until) {
                warn!(count, "{}: put back; {}", self.recipe.what(), self.overdue());
                return Poll::Ready(Event::Returned(DeliveryId { consumer: self.consumer, tag }));
            }
        }
    }
}

#[async_trait]
impl Subscription for Dedicated {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        loop {
            match &mut self.phase {
                Phase::Reading(reading) => match Pin::new(&mut reading.consumer).poll_next(context) {
                    Poll::Pending => return self.poll_overdue(context),
                    Poll::Ready(Some(Ok(arrival))) => {
                        let queue = reading.queue.clone();
                        if let Some(delivery) = self.delivery(arrival, &queue) {
                            return Poll::Ready(Event::Delivery(delivery));
                        }
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(self.broken(Some(&error))),
                    Poll::Ready(None) => return Poll::Ready(self.broken(None)),
                },
                Phase::Opening(opening) => match ready!(opening.as_mut().poll(context)) {
                    Ok(reading) => {
                        self.ledger.begin(reading.channel.clone());
                        self.phase = Phase::Reading(reading);
                        self.gap |= self.recipe.is_forgetful();
                        return Poll::Ready(Event::Restored);
                    }
                    Err(refused) => {
                        self.phase = Phase::Ended;
                        return Poll::Ready(Event::Ended(refused));
                    }
                },
                Phase::Cancelled(_) | Phase::Ended => return Poll::Pending,
            }
        }
    }

    async fn cancel(&mut self, delete: bool) -> Result<(), BrokerError> {
        if let Phase::Reading(reading) = &mut self.phase {
            // An error is that the connection is gone, and the consumer with it.
            let _ = reading.channel.basic_cancel(reading.consumer.tag(), BasicCancelOptions::default()).await;
            // What lapin has and nobody has been given goes back.
            while let Poll::Ready(Some(Ok(arrival))) =
                Pin::new(&mut reading.consumer).poll_next(&mut Context::from_waker(Waker::noop()))
            {
                let options = BasicNackOptions { multiple: false, requeue: true };
                begin(reading.channel.basic_nack(arrival.delivery_tag, options));
            }
            if self.recipe.is_transient() {
                // It goes by itself, but a little later; so what follows UNSUBSCRIBE finds it gone.
                let _ = reading.channel.queue_delete(reading.queue.clone(), QueueDeleteOptions::default()).await;
            }
        }
        self.phase = match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Reading(reading) => Phase::Cancelled(Some(reading)),
            _ => Phase::Cancelled(None),
        };
        if let (true, Source::Durable(name, _), Some(queue)) = (delete, &self.recipe.source, &self.recipe.queue) {
            self.recipe.topology.delete_durable(queue, &name.name).await?;
        }
        Ok(())
    }

    fn reply_address(&self) -> Option<&Text> {
        self.address.as_ref()
    }

    fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }
}

impl Drop for Dedicated {
    fn drop(&mut self) {
        self.common.ledgers.close(self.consumer);
        self.close();
    }
}
