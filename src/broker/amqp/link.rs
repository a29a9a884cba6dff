//! A link: everything that the sessions of one identity do at the broker.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use tokio::sync::oneshot;

use lapin::types::ShortString;

use super::arguments::Arguments;
use super::connection::{Connector, Line, Seat};
use super::dedicated::{Common, Dedicated};
use super::exchanges::{Binding, SharedExchanges};
use super::names;
use super::publisher::Publisher;
use super::settings::Settings;
use super::shared::SharedQueues;
use super::source::Recipe;
use super::topology::Topology;
use super::window::Window;
use crate::broker::{
    BrokerError, Capabilities, Confirmation, Link, Permit, Shared, SharedSource, Subscribe, Subscriber, Subscription,
    Transaction,
};
use crate::message::{DeliveryId, Destination, DurableName, Headers, Message, Outcome, Settlement, Source};

/// The link of the service account to one virtual host, or that of one user. Its parts, and their connections, are made
/// when they are first needed: most users publish or read, and a link that does nothing costs nothing.
pub(super) struct AmqpLink {
    settings: Settings,
    exchange: ShortString,
    connector: Arc<Connector>,
    /// The service account's link, over which everything goes that is sent to users (contract, §9). `None` for that
    /// link itself.
    service: Option<Arc<AmqpLink>>,
    publisher: OnceLock<Publisher>,
    /// Answers by RabbitMQ's direct reply-to, apart: to an address that is none any more RabbitMQ 3.10 ends the connection.
    replies: OnceLock<Publisher>,
    /// The connection of shared subscriptions; a user has no other to read with.
    reading: OnceLock<Arc<Line>>,
    topology: OnceLock<Arc<Topology>>,
    shared: OnceLock<SharedQueues>,
    exchanges: Arc<SharedExchanges>,
    dedicated: Mutex<Vec<Arc<Line>>>,
    window: Arc<Window>,
    common: Arc<Common>,
    next_consumer: AtomicU64,
}

impl AmqpLink {
    /// Nothing is connected yet.
    pub(super) fn new(
        settings: &Settings,
        exchange: &ShortString,
        connector: Arc<Connector>,
        service: Option<Arc<AmqpLink>>,
        window: &Arc<Window>,
    ) -> Self {
        let common = Common::new(&connector, settings);
        AmqpLink {
            exchanges: SharedExchanges::new(settings, &common),
            settings: settings.clone(),
            exchange: exchange.clone(),
            connector,
            service,
            publisher: OnceLock::new(),
            replies: OnceLock::new(),
            reading: OnceLock::new(),
            topology: OnceLock::new(),
            shared: OnceLock::new(),
            dedicated: Mutex::default(),
            window: Arc::clone(window),
            common,
            next_consumer: AtomicU64::new(1),
        }
    }

    /// Connects everything now. It needs a tokio runtime.
    pub(super) fn start(&self) {
        self.publisher();
        self.shared();
        drop(self.seat());
    }

    /// Its connections.
    pub(super) fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    fn publisher(&self) -> &Publisher {
        self.publisher.get_or_init(|| {
            let line = Line::start(&self.connector, "publishing");
            let (channels, exchange) = (self.settings.publish_channels, self.exchange.clone());
            Publisher::start(&self.settings, channels, exchange, &line, self.topology(), &self.window)
        })
    }

    fn publisher_of(&self, destination: &Destination) -> &Publisher {
        match destination {
            Destination::ReplyQueue(name) if names::is_direct_reply(name) => self.replies.get_or_init(|| {
                let line = Line::start(&self.connector, "direct replies");
                Publisher::start(&self.settings, 1, self.exchange.clone(), &line, self.topology(), &self.window)
            }),
            _ => self.publisher(),
        }
    }

    fn reading(&self) -> &Arc<Line> {
        self.reading.get_or_init(|| Line::start(&self.connector, "shared"))
    }

    fn topology(&self) -> &Arc<Topology> {
        self.topology.get_or_init(|| Arc::new(Topology::new(Arc::clone(self.reading()), self.exchange.as_str())))
    }

    fn shared(&self) -> &SharedQueues {
        self.shared.get_or_init(|| SharedQueues::start(&self.settings, &self.exchange, self.reading(), self.topology()))
    }

    /// The link over which this goes: that of the service account, if it has to do with users as destinations.
    fn service_for(&self, is_of_users: bool) -> Option<&Arc<AmqpLink>> {
        self.service.as_ref().filter(|_| is_of_users)
    }

    /// A place on a connection for dedicated subscriptions; there are as many connections as it takes.
    fn seat(&self) -> Result<Seat, BrokerError> {
        let mut lines = self.dedicated.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seat) = lines.iter().find_map(Line::seat) {
            return Ok(seat);
        }
        let line = match self.service {
            // A user's connections are few.
            Some(_) if lines.is_empty() => Arc::clone(self.reading()),
            _ => Line::start(&self.connector, &format!("dedicated {}", lines.len() + 1)),
        };
        lines.push(Arc::clone(&line));
        line.seat().ok_or(BrokerError::Unavailable)
    }

    /// A dedicated subscription, which opens when it is awaited.
    fn open(
        &self,
        request: Subscribe,
    ) -> Result<impl Future<Output = Result<Dedicated, BrokerError>> + use<>, BrokerError> {
        let Subscribe { source, prefetch, arguments } = request;
        let arguments = Arguments::parse(&arguments, self.settings.allows_arguments())?;
        let recipe = Recipe::new(source, prefetch, arguments, self.exchange.clone(), Arc::clone(self.topology()))?;
        let consumer = self.next_consumer.fetch_add(1, Ordering::Relaxed);
        let (seat, common) = (self.seat()?, Arc::clone(&self.common));
        Ok(async move { Dedicated::open(recipe, seat, consumer, &common).await })
    }
}

#[async_trait]
impl Link for AmqpLink {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            exchanges: true,
            arguments: self.settings.allows_arguments(),
            retain: false,
            durable: true,
            atomic_transactions: false,
            user_id: self.service.is_some(),
            reports_unrouted: true,
            keeps_queues: true,
        }
    }

    fn try_reserve(&self) -> Option<Permit> {
        self.window.try_reserve()
    }

    async fn reserve(&self) -> Result<Permit, BrokerError> {
        self.window.reserve().await
    }

    fn publish(&self, permit: Permit, mut message: Message) -> Confirmation {
        if let Some(service) = self.service_for(matches!(message.destination, Destination::User { .. })) {
            message.headers.remove("user-id"); // RabbitMQ takes it from that user's connections only
            return service.publisher().publish(permit, message);
        }
        self.publisher_of(&message.destination).publish(permit, message)
    }

    async fn share(
        &self,
        source: SharedSource,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Box<dyn Shared>, BrokerError> {
        let (exchange, key) = match source {
            SharedSource::Topic(pattern) => return self.shared().share(false, pattern, subscriber).await,
            SharedSource::User { user, name } => {
                let link = self.service_for(true).map_or(self, |service| service);
                return link.shared().share(true, names::of_user(&user, &name), subscriber).await;
            }
            SharedSource::Exchange { exchange, key } => (exchange, key),
        };
        let binding = Binding::new(&exchange, &key)?;
        let (source, prefetch) = (Source::Exchange { exchange, key }, self.settings.shared_prefetch);
        let request = Subscribe { source, prefetch, arguments: Headers::new() };
        self.exchanges.share(&binding, subscriber, || self.open(request)).await
    }

    async fn subscribe(&self, request: Subscribe) -> Result<Box<dyn Subscription>, BrokerError> {
        Ok(Box::new(self.open(request)?.await?))
    }

    fn settle(&self, deliveries: &[DeliveryId], settlement: Settlement) -> Confirmation {
        let settled = self.common.ledgers.settle(deliveries, settlement);
        Confirmation::Ready(Ok(Outcome { settled, ..Outcome::DONE }))
    }

    /// Not atomic: AMQP has nothing that covers more than one channel. Nothing is settled unless all is published.
    async fn commit(&self, transaction: Transaction) -> Result<Confirmation, BrokerError> {
        let Transaction { messages, settlements } = transaction;
        let mut settled = settlements.iter().flat_map(|(deliveries, _)| deliveries);
        if !settled.all(|delivery| self.common.ledgers.holds(*delivery)) {
            return Err(BrokerError::DeliveryLost);
        }
        messages.iter().try_for_each(|message| self.publisher().check(message))?;
        let mut published = Vec::with_capacity(messages.len());
        for message in messages {
            published.push(self.publish(self.reserve().await?, message));
        }
        let common = Arc::clone(&self.common);
        let (answer, confirmation) = oneshot::channel();
        tokio::spawn(async move {
            let mut outcome = Ok(Outcome::DONE);
            for confirmation in published {
                match (confirmation.await, &mut outcome) {
                    (Ok(one), Ok(all)) => {
                        all.routed &= one.routed;
                        all.warning = all.warning.take().or(one.warning);
                    }
                    (Err(failed), Ok(_)) => outcome = Err(failed),
                    (_, Err(_)) => {}
                }
            }
            if let Ok(all) = &mut outcome {
                for (deliveries, settlement) in &settlements {
                    all.settled &= common.ledgers.settle(deliveries, *settlement);
                }
            }
            let _ = answer.send(outcome); // whoever asked may be gone
        });
        Ok(Confirmation::Waiting(confirmation))
    }

    async fn delete_durable(&self, name: &DurableName) -> Result<(), BrokerError> {
        let queue = names::durable(name);
        self.common.closings.settled(&queue).await;
        self.topology().delete_durable(&queue, &name.name).await
    }
}

impl Drop for AmqpLink {
    fn drop(&mut self) {
        self.connector.close();
    }
}
