//! The broker and its one link: that of the gateway's own login, shared by all sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot, watch};

use super::connection::{Connector, Line, Witness};
use super::copies::Copies;
use super::dead_letters::DeadLetters;
use super::dedicated::{Dedicated, Home, Mailboxes};
use super::durable::Durables;
use super::names::Names;
use super::properties::Reading;
use super::publisher::{Publisher, refuse_arguments};
use super::queues::Queues;
use super::replies::Replies;
use super::settings::{Settings, Version};
use super::shared::SharedTopics;
use crate::broker::base64::base64url;
use crate::broker::{
    Broker, BrokerError, Capabilities, Confirmation, Identity, Link, LinkState, Permit, Shared, SharedSource, Source,
    Subscribe, Subscriber, Subscription, Transaction, tenant,
};
use crate::message::{DeliveryId, DurableName, Message, Outcome, Settlement};
use crate::metrics::Figures;

/// What nobody has read has so long to be published again when the gateway ends.
const CLOSING: Duration = Duration::from_secs(2);

/// An MQTT broker.
pub struct Mqtt {
    connector: Arc<Connector>,
    link: Arc<MqttLink>,
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

struct MqttLink {
    connector: Arc<Connector>,
    publishing: Arc<Line>,
    publisher: Arc<Publisher>,
    window: Arc<Semaphore>,
    max_unconfirmed: usize,
    shared: Arc<SharedTopics>,
    queues: Arc<Queues>,
    durables: Arc<Durables>,
    dead_letters: Arc<DeadLetters>,
    mailboxes: Arc<Mailboxes>,
    next_consumer: AtomicU64,
    reading: Reading,
    max_waiting: usize,
    /// In the reply addresses that are made here.
    node: String,
}

/// Begins to connect. It needs a tokio runtime. The broker need not be there yet: see [`Broker::state`].
///
/// # Errors
/// An address that is none, or a file that cannot be read; the error names the setting.
pub fn connect(settings: &Settings) -> Result<Arc<dyn Broker>, ConnectError> {
    let connector = Connector::new(settings).map_err(|(key, why)| ConnectError { key, why })?;
    let names = Names { system_topics: settings.system_topics, max_levels: settings.max_topic_levels };
    let dead_letter = settings.dead_letter().map_err(|why| ConnectError { key: "broker.mqtt.dead_letter", why })?;
    let max_unconfirmed = settings.max_unconfirmed.min(Semaphore::MAX_PERMITS);
    let reading = Reading { names, version: settings.version, envelope: settings.envelope };
    let no_randomness = |why| ConnectError { key: "broker.kind", why: format!("there is no randomness{why}") };
    let witness = Witness::start(&connector).ok_or_else(|| no_randomness(String::new()))?;
    let publishing = Arc::clone(&witness.line);
    let publisher = Arc::new(Publisher::start(settings, names, &publishing));
    let mut node = [0; 6];
    getrandom::fill(&mut node).map_err(|why| no_randomness(format!(": {why}")))?;
    let link = MqttLink {
        connector: Arc::clone(&connector),
        queues: Queues::new(settings, &connector, &witness, &publisher, reading),
        dead_letters: DeadLetters::new(&publisher, dead_letter),
        durables: Durables::new(settings, &connector, &witness, reading),
        publisher,
        window: Arc::new(Semaphore::new(max_unconfirmed)),
        max_unconfirmed,
        shared: Arc::new(SharedTopics::start(settings, reading, &connector)),
        publishing,
        mailboxes: Arc::default(),
        next_consumer: AtomicU64::new(1),
        reading,
        max_waiting: settings.max_waiting,
        node: base64url(&node),
    };
    Ok(Arc::new(Mqtt { connector, link: Arc::new(link) }))
}

#[async_trait]
impl Broker for Mqtt {
    async fn link(&self, identity: &Identity) -> Result<Arc<dyn Link>, BrokerError> {
        tenant::check(identity.tenant.as_ref(), "/")?;
        if self.connector.is_closed() {
            return Err(BrokerError::Unavailable);
        }
        Ok(Arc::clone(&self.link) as Arc<dyn Link>)
    }

    fn state(&self) -> watch::Receiver<LinkState> {
        self.connector.state()
    }

    fn reconnects(&self) -> u64 {
        self.connector.reconnects()
    }

    fn report(&self, figures: &mut Figures) {
        let link = &self.link;
        figures.gauge("stompgate_mqtt_connections", "Connections to the broker.", self.connector.connections());
        let waiting = link.max_unconfirmed - link.window.available_permits().min(link.max_unconfirmed);
        figures.gauge("stompgate_mqtt_unconfirmed", "Messages that wait for the broker's confirmation.", waiting);
        let filters = link.shared.filters();
        figures.gauge("stompgate_mqtt_shared_subscriptions", "Filters that plain topics are read by.", filters);
        let dropped = link.publisher.headers_dropped();
        figures.counter("stompgate_mqtt_headers_dropped_total", "Headers that MQTT 3.1.1 could not carry.", dropped);
        let open = link.durables.open_ones();
        figures.gauge("stompgate_mqtt_durable_subscriptions", "Durable subscriptions that are read here.", open);
        let dead = link.dead_letters.count();
        figures.counter("stompgate_mqtt_dead_lettered_total", "Rejected messages sent to the dead letters.", dead);
        let lost = link.dead_letters.lost();
        let help = "Rejected messages that the dead-letter destination did not take, or that nobody read there.";
        figures.counter("stompgate_mqtt_dead_letters_lost_total", help, lost);
        let lost = link.queues.lost();
        figures.counter("stompgate_mqtt_queue_lost_total", "Messages of queues that no reader was left for.", lost);
    }

    async fn close(&self) {
        // What no reader has is for other gateways; a broker that does not answer keeps nobody.
        let _ = tokio::time::timeout(CLOSING, self.link.queues.shut_down()).await;
        self.connector.shut_down().await;
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.connector.close();
    }
}

#[async_trait]
impl Link for MqttLink {
    fn capabilities(&self) -> Capabilities {
        let retain = self.publishing.now().is_none_or(|live| live.granted.retain);
        Capabilities {
            exchanges: false,
            arguments: false,
            retain,
            durable: true,
            atomic_transactions: false,
            user_id: false,
            reports_unrouted: self.reading.version == Version::V5,
            keeps_queues: false,
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
        self.publisher.publish(permit, &message, 0)
    }

    async fn share(
        &self,
        source: SharedSource,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Box<dyn Shared>, BrokerError> {
        self.shared.share(source, subscriber).await
    }

    async fn subscribe(&self, request: Subscribe) -> Result<Box<dyn Subscription>, BrokerError> {
        refuse_arguments(&request.arguments)?;
        let unsupported =
            |what: &str, why: &str| Err(BrokerError::Unsupported { what: what.to_owned(), why: why.to_owned() });
        let home = match request.source {
            Source::Queue(name) => {
                let member = self.queues.open(&name, request.prefetch).await?;
                Home::Queue(Arc::clone(&self.queues), member)
            }
            Source::Topic(pattern) => {
                let (prefetch, most) = (request.prefetch, self.max_waiting);
                Home::Topic(Copies::open(&self.connector, self.reading, pattern, prefetch, most).await?)
            }
            Source::Reply => {
                let (prefetch, most) = (request.prefetch, self.max_waiting);
                Home::Reply(Replies::open(&self.shared, &self.node, prefetch, most).await?)
            }
            Source::Durable(name, pattern) => {
                let durable = self.durables.open(&name, pattern, request.prefetch).await?;
                Home::Durable(Arc::clone(&self.durables), durable)
            }
            Source::ExistingQueue(_) => {
                return unsupported("/amq/queue", "it is a thing of AMQP; on MQTT use /queue/…");
            }
            Source::Named { .. } => return unsupported("x-queue-name", "it is a thing of AMQP; on MQTT use /queue/…"),
            Source::Exchange { .. } => return unsupported("/exchange", "it is a thing of AMQP; on MQTT use /topic/…"),
        };
        let consumer = self.next_consumer.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Dedicated::new(consumer, home, &self.mailboxes)))
    }

    fn settle(&self, deliveries: &[DeliveryId], settlement: Settlement) -> Confirmation {
        let (settled, dead) = self.mailboxes.settle(deliveries, settlement);
        self.dead_letters.settled(Outcome { settled, ..Outcome::DONE }, dead)
    }

    /// Not atomic: MQTT has no transactions. Nothing is settled unless all is published.
    async fn commit(&self, transaction: Transaction) -> Result<Confirmation, BrokerError> {
        let Transaction { messages, settlements } = transaction;
        let mut settled = settlements.iter().flat_map(|(deliveries, _)| deliveries);
        if !settled.all(|delivery| self.mailboxes.holds(*delivery)) {
            return Err(BrokerError::DeliveryLost);
        }
        messages.iter().try_for_each(|message| self.publisher.check(message))?;
        let mut published = Vec::with_capacity(messages.len());
        for message in messages {
            // With quality of service 0 there would be no answer to wait for.
            published.push(self.publisher.publish(self.reserve().await?, &message, 1));
        }
        let (mailboxes, dead_letters) = (Arc::clone(&self.mailboxes), Arc::clone(&self.dead_letters));
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
                    let (settled, dead) = mailboxes.settle(deliveries, *settlement);
                    all.settled &= settled;
                    dead_letters.bury(dead).await;
                }
            }
            let _ = answer.send(outcome); // whoever asked may be gone
        });
        Ok(Confirmation::Waiting(confirmation))
    }

    async fn delete_durable(&self, name: &DurableName) -> Result<(), BrokerError> {
        self.durables.delete(name).await
    }
}
