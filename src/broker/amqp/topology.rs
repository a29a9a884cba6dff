//! Queues and exchanges that must be there: checked and made on a scratch channel, because a refusal closes it, and
//! remembered until the connection is lost or somebody finds that they are gone.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};
use tokio::sync::MappedMutexGuard;

use super::connection::Line;
use super::errors::{PRECONDITION_FAILED, channel_error, short, told};
use super::names::USER_EXCHANGE;
use crate::broker::BrokerError;
use crate::message::Text;

/// So many names are remembered; then all are forgotten, which costs a round trip each.
const MAX_KNOWN: usize = 100_000;
const DURABLE: &str = "the durable subscription";

/// What is known of the broker's queues and exchanges.
pub(super) struct Topology {
    line: Arc<Line>,
    scratch: tokio::sync::Mutex<Option<Channel>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    generation: u64,
    places: HashSet<Place>,
}

/// Something that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// A queue that is made when it is not there.
    Queue(Text),
    /// A queue that is never made.
    ExistingQueue(Text),
    /// An exchange, which is never made.
    Exchange(Text),
    /// The exchange of what is sent to users, which is ours.
    UserExchange,
}

impl Topology {
    /// Nothing known yet.
    pub(super) fn new(line: Arc<Line>) -> Self {
        Topology { line, scratch: tokio::sync::Mutex::default(), known: Mutex::default() }
    }

    /// Whether this is known to be there.
    pub(super) fn knows(&self, place: &Place) -> bool {
        self.known().places.contains(place)
    }

    /// This has been found to be gone.
    pub(super) fn forget(&self, place: &Place) {
        self.known().places.remove(place);
    }

    /// It is there, or is made now. Waits for the broker if need be.
    pub(super) async fn ensure(&self, place: &Place, arguments: &FieldTable) -> Result<(), BrokerError> {
        if arguments.inner().is_empty() && self.knows(place) {
            return Ok(());
        }
        let generation = loop {
            let live = self.line.up().await?;
            match self.ensure_now(place, arguments).await {
                Err(BrokerError::Unavailable) => self.line.connector().pause(0).await,
                Err(refused) => return Err(refused),
                Ok(()) => break live.generation,
            }
        };
        let mut known = self.known();
        if known.generation != generation || known.places.len() >= MAX_KNOWN {
            *known = Known { generation, places: HashSet::new() };
        }
        known.places.insert(place.clone());
        Ok(())
    }

    async fn ensure_now(&self, place: &Place, arguments: &FieldTable) -> Result<(), BrokerError> {
        match place {
            Place::Exchange(name) => {
                let (what, name) = (format!("the exchange {name}"), short(name, "the name of the exchange")?);
                let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                let declared = self.scratch().await?.exchange_declare(name, ExchangeKind::Topic, options, none()).await;
                declared.map_err(|error| told(&error, &what))
            }
            // It belongs to the service account, over whose link everything goes that is sent to users.
            Place::UserExchange if self.line.connector().is_of_user() => Ok(()),
            Place::UserExchange => {
                let name = short(USER_EXCHANGE, "the exchange")?;
                let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
                let declared = self.scratch().await?.exchange_declare(name, ExchangeKind::Topic, options, none()).await;
                declared.map_err(|error| told(&error, "the exchange stompgate.user"))
            }
            Place::ExistingQueue(name) => self.find_queue(name).await,
            Place::Queue(name) => match self.find_queue(name).await {
                Ok(()) if arguments.inner().is_empty() => Ok(()),
                Ok(()) | Err(BrokerError::NotFound(_)) => self.declare_queue(name, arguments).await,
                Err(other) => Err(other),
            },
        }
    }

    async fn find_queue(&self, name: &str) -> Result<(), BrokerError> {
        let (what, name) = (format!("the queue {name}"), short(name, "the name of the queue")?);
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = self.scratch().await?.queue_declare(name, options, none()).await;
        found.map(drop).map_err(|error| told(&error, &what))
    }

    /// Makes a durable queue.
    async fn declare_queue(&self, name: &str, arguments: &FieldTable) -> Result<(), BrokerError> {
        let (what, name) = (format!("the queue {name}"), short(name, "the name of the queue")?);
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = self.scratch().await?.queue_declare(name, options, arguments.clone()).await;
        declared.map(drop).map_err(|error| told(&error, &what))
    }

    /// The queue of a durable subscription, bound to a topic by way of an exchange of its own.
    ///
    /// A broker cannot be asked what a queue is bound to. The exchange in between can: it is declared with the pattern
    /// as its alternate exchange (which is never used, because it always leads to the queue), and so a declaration with
    /// another pattern is refused. Then the exchange is replaced, and the queue keeps what waits in it.
    pub(super) async fn ensure_durable(&self, name: &str, topics: &str, key: &str) -> Result<(), BrokerError> {
        self.declare_queue(name, &none()).await?;
        let name = short(name, "the name of the durable subscription, encoded,")?;
        let (topics, key) = (short(topics, "the exchange")?, short(key, "the topic")?);
        if !self.declare_marked(&name, &key).await? {
            self.delete_exchange(&name).await?;
            self.declare_marked(&name, &key).await?;
        }
        let scratch = self.scratch().await?;
        let (bind, bind_exchange) = (QueueBindOptions::default(), ExchangeBindOptions::default());
        let bound = async {
            scratch.queue_bind(name.clone(), name.clone(), ShortString::default(), bind, none()).await?;
            scratch.exchange_bind(name.clone(), topics, key, bind_exchange, none()).await
        };
        bound.await.map_err(|error| told(&error, DURABLE))
    }

    /// Whether the exchange of a durable subscription is there with this pattern.
    async fn declare_marked(&self, name: &ShortString, key: &ShortString) -> Result<bool, BrokerError> {
        let mut arguments = FieldTable::default();
        let pattern = AMQPValue::LongString(format!("stompgate.pattern.{key}").into());
        arguments.insert(short("alternate-exchange", "the argument")?, pattern);
        let options = ExchangeDeclareOptions { durable: true, internal: true, ..ExchangeDeclareOptions::default() };
        let scratch = self.scratch().await?;
        match scratch.exchange_declare(name.clone(), ExchangeKind::Fanout, options, arguments).await {
            Err(error) if channel_error(&error) == Some(PRECONDITION_FAILED) => Ok(false),
            declared => declared.map(|()| true).map_err(|error| told(&error, DURABLE)),
        }
    }

    /// Deletes a durable subscription that nobody reads.
    pub(super) async fn delete_durable(&self, name: &str, shown: &Text) -> Result<(), BrokerError> {
        let what = format!("{DURABLE} {shown}");
        match self.find_queue(name).await {
            Err(BrokerError::NotFound(_)) => return Err(BrokerError::NotFound(what)),
            found => found?,
        }
        let name = short(name, "the name of the durable subscription, encoded,")?;
        let options = QueueDeleteOptions { if_unused: true, ..QueueDeleteOptions::default() };
        let deleted = self.scratch().await?.queue_delete(name.clone(), options).await;
        deleted.map_err(|error| match channel_error(&error) {
            Some(PRECONDITION_FAILED) => BrokerError::InUse(shown.to_string()),
            _ => told(&error, &what),
        })?;
        self.delete_exchange(&name).await
    }

    async fn delete_exchange(&self, name: &ShortString) -> Result<(), BrokerError> {
        let scratch = self.scratch().await?;
        let deleted = scratch.exchange_delete(name.clone(), ExchangeDeleteOptions::default()).await;
        deleted.map_err(|error| told(&error, DURABLE))
    }

    /// The scratch channel; a new one if the last answer closed it.
    async fn scratch(&self) -> Result<MappedMutexGuard<'_, Channel>, BrokerError> {
        let mut scratch = self.scratch.lock().await;
        if !scratch.as_ref().is_some_and(|channel| channel.status().connected()) {
            *scratch = Some(self.line.up().await?.channel().await.map_err(|_| BrokerError::Unavailable)?);
        }
        tokio::sync::MutexGuard::try_map(scratch, Option::as_mut).map_err(|_| BrokerError::Unavailable)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn none() -> FieldTable {
    FieldTable::default()
}
