//! The broker and its one link: that of the service account, shared by all sessions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot, watch};

use lapin::types::ShortString;

use super::connection::{Connector, Line, Seat};
use super::dedicated::{Closings, Dedicated};
use super::errors::short;
use super::ledger::Ledgers;
use super::names;
use super::publisher::Publisher;
use super::settings::Settings;
use super::shared::SharedQueues;
use super::source::{Arguments, Recipe};
use super::topology::Topology;
use crate::broker::{
    Broker, BrokerError, Capabilities, Confirmation, Identity, Link, LinkState, Permit, Shared, SharedSource,
    Subscribe, Subscriber, Subscription, Transaction,
};
use crate::message::{DeliveryId, DurableName, Message, Outcome, Settlement};
use crate::metrics::Figures;

/// An AMQP broker.
pub struct Amqp {
    connector: Arc<Connector>,
    link: Arc<AmqpLink>,
}

/// Why the settings cannot be carried out. That the broker cannot be reached is no reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("setting {key}: {why}")]
pub struct ConnectError {
    /// The full key of the setting.
    pub key: &'static str,
    /// What is wrong with it.
    pub why: String,
}

struct AmqpLink {
    connector: Arc<Connector>,
    publisher: Publisher,
    window: Arc<Semaphore>,
    max_unconfirmed: usize,
    shared: SharedQueues,
    topology: Arc<Topology>,
    exchange: ShortString,
    queue_arguments: bool,
    dedicated: Mutex<Vec<Arc<Line>>>,
    ledgers: Arc<Ledgers>,
    closings: Arc<Closings>,
    next_consumer: AtomicU64,
}

/// Begins to connect. It needs a tokio runtime. The broker need not be there yet: see [`Broker::state`].
pub fn connect(settings: &Settings) -> Result<Arc<dyn Broker>, ConnectError> {
    let connector = Connector::new(settings).map_err(|(key, why)| ConnectError { key, why })?;
    let exchange = short(&settings.exchange, "the exchange")
        .map_err(|why| ConnectError { key: "broker.amqp.exchange", why: why.to_string() })?;
    let publishing = Line::start(&connector, "publishing");
    let sharing = Line::start(&connector, "shared");
    let dedicated = Line::start(&connector, "dedicated");
    let topology = Arc::new(Topology::new(Arc::clone(&sharing)));
    let max_unconfirmed = settings.max_unconfirmed.min(Semaphore::MAX_PERMITS);
    let link = AmqpLink {
        publisher: Publisher::start(settings, exchange.clone(), &publishing, &topology),
        window: Arc::new(Semaphore::new(max_unconfirmed)),
        max_unconfirmed,
        shared: SharedQueues::start(settings, &exchange, &sharing, &topology),
        connector: Arc::clone(&connector),
        topology,
        exchange,
        queue_arguments: settings.queue_arguments,
        dedicated: Mutex::new(vec![dedicated]),
        ledgers: Arc::default(),
        closings: Arc::default(),
        next_consumer: AtomicU64::new(1),
    };
    Ok(Arc::new(Amqp { connector, link: Arc::new(link) }))
}

#[async_trait]
impl Broker for Amqp {
    async fn link(&self, identity: &Identity) -> Result<Arc<dyn Link>, BrokerError> {
        // A host name says which server is meant; only what looks like a virtual host is held against ours.
        let ours = self.connector.virtual_host();
        match identity.tenant.as_deref() {
            Some(tenant) if tenant.starts_with('/') && tenant != ours => {
                Err(BrokerError::AccessRefused(format!("the virtual host {tenant}")))
            }
            _ if self.connector.is_closed() => Err(BrokerError::Unavailable),
            _ => Ok(Arc::clone(&self.link) as Arc<dyn Link>),
        }
    }

    fn state(&self) -> watch::Receiver<LinkState> {
        self.connector.state()
    }

    fn reconnects(&self) -> u64 {
        self.connector.reconnects()
    }

    fn report(&self, figures: &mut Figures) {
        let connections = self.connector.connections();
        figures.gauge("stompgate_amqp_connections", "Connections to the broker.", connections);
        let waiting = self.link.max_unconfirmed - self.link.window.available_permits().min(self.link.max_unconfirmed);
        figures.gauge("stompgate_amqp_unconfirmed", "Messages that wait for the broker's confirmation.", waiting);
    }

    async fn close(&self) {
        self.connector.shut_down().await;
    }
}

impl Drop for Amqp {
    fn drop(&mut self) {
        self.connector.close();
    }
}

impl AmqpLink {
    /// A place on a connection for dedicated subscriptions; there are as many connections as it takes.
    fn seat(&self) -> Result<Seat, BrokerError> {
        let mut lines = self.dedicated.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seat) = lines.iter().find_map(Line::seat) {
            return Ok(seat);
        }
        let line = Line::start(&self.connector, &format!("dedicated {}", lines.len() + 1));
        lines.push(Arc::clone(&line));
        line.seat().ok_or(BrokerError::Unavailable)
    }
}

#[async_trait]
impl Link for AmqpLink {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            exchanges: true,
            arguments: self.queue_arguments,
            retain: false,
            durable: true,
            atomic_transactions: false,
        }
    }

    fn try_reserve(&self) -> Option<Permit> {
        Arc::clone(&self.window).try_acquire_owned().ok().map(Permit::from)
    }

    async fn reserve(&self) -> Result<Permit, BrokerError> {
        let permit = Arc::clone(&self.window).acquire_owned().await;
        permit.map(Permit::from).map_err(|_| BrokerError::Unavailable)
    }

    fn publish(&self, permit: Permit, message: Message) -> Confirmation {
        self.publisher.publish(permit, message)
    }

    async fn share(
        &self,
        source: SharedSource,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Box<dyn Shared>, BrokerError> {
        self.shared.share(source, subscriber).await
    }

    async fn subscribe(&self, request: Subscribe) -> Result<Box<dyn Subscription>, BrokerError> {
        let recipe = Recipe {
            arguments: Arguments::parse(&request.arguments, self.queue_arguments)?,
            queue: Recipe::fixed_queue(&request.source)?,
            source: request.source,
            prefetch: request.prefetch,
            exchange: self.exchange.clone(),
            topology: Arc::clone(&self.topology),
        };
        let consumer = self.next_consumer.fetch_add(1, Ordering::Relaxed);
        let opened = Dedicated::open(recipe, self.seat()?, consumer, &self.ledgers, &self.closings).await?;
        Ok(Box::new(opened))
    }

    fn settle(&self, deliveries: &[DeliveryId], settlement: Settlement) -> Confirmation {
        let settled = self.ledgers.settle(deliveries, settlement);
        Confirmation::Ready(Ok(Outcome { settled, ..Outcome::DONE }))
    }

    /// Not atomic: AMQP has nothing that covers more than one channel. Nothing is settled unless all is published.
    async fn commit(&self, transaction: Transaction) -> Result<Confirmation, BrokerError> {
        let Transaction { messages, settlements } = transaction;
        let mut settled = settlements.iter().flat_map(|(deliveries, _)| deliveries);
        if !settled.all(|delivery| self.ledgers.holds(*delivery)) {
            return Err(BrokerError::DeliveryLost);
        }
        messages.iter().try_for_each(|message| self.publisher.check(message))?;
        let mut published = Vec::with_capacity(messages.len());
        for message in messages {
            published.push(self.publish(self.reserve().await?, message));
        }
        let ledgers = Arc::clone(&self.ledgers);
        let (answer, confirmation) = oneshot::channel();
        tokio::spawn(async move {
            let mut outcome = Ok(Outcome::DONE);
            for confirmation in published {
                match (confirmation.await, &mut outcome) {
                    (Ok(one), Ok(all)) => all.routed &= one.routed,
                    (Err(failed), Ok(_)) => outcome = Err(failed),
                    (_, Err(_)) => {}
                }
            }
            if let Ok(all) = &mut outcome {
                for (deliveries, settlement) in &settlements {
                    all.settled &= ledgers.settle(deliveries, *settlement);
                }
            }
            let _ = answer.send(outcome); // whoever asked may be gone
        });
        Ok(Confirmation::Waiting(confirmation))
    }

    async fn delete_durable(&self, name: &DurableName) -> Result<(), BrokerError> {
        let queue = names::durable(name);
        self.closings.settled(&queue).await;
        self.topology.delete_durable(&queue, &name.name).await
    }
}
