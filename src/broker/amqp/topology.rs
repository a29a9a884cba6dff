//! Queues and exchanges that must be there: checked and made on a scratch channel, because a refusal closes it, and
//! remembered until the connection is lost or somebody finds that they are gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};
use tokio::sync::{MappedMutexGuard, watch};
use tracing::warn;

use super::connection::Line;
use super::errors::{PRECONDITION_FAILED, channel_error, short, told};
use super::names::USER_EXCHANGE;
use crate::broker::BrokerError;
use crate::message::Text;

/// So many names are remembered; then all are forgotten, which costs a round trip each.
const MAX_KNOWN: usize = 100_000;
/// What breaks the connection so often is not asked for again.
const DEADLY: u32 = 4;
const DURABLE: &str = "the durable subscription";

/// What is known of the broker's queues and exchanges.
pub(super) struct Topology {
    line: Arc<Line>,
    scratch: tokio::sync::Mutex<Option<Channel>>,
    known: Mutex<Known>,
    /// The exchange of all topics.
    topics: Place,
    /// How often the exchange of all topics, or of users, was found to be gone; and with it what was bound to it.
    lost: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    generation: u64,
    places: HashMap<Place, Found>,
}

/// How something was found, or made: only the last arguments that it was asked for with are remembered.
#[derive(Default)]
struct Found {
    arguments: FieldTable,
    warning: Option<Warning>,
}

/// Something that is known to be there.
pub(super) struct Recalled {
    pub(super) warning: Option<Warning>,
}

/// For a client who asked for a queue with other arguments than it has.
pub(super) type Warning = Arc<str>;

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

impl Place {
    fn what(&self) -> String {
        match self {
            Place::Queue(name) | Place::ExistingQueue(name) => format!("the queue {name}"),
            Place::Exchange(name) => format!("the exchange {name}"),
            Place::UserExchange => format!("the exchange {USER_EXCHANGE}"),
        }
    }
}

impl Topology {
    /// Nothing known yet.
    pub(super) fn new(line: Arc<Line>, topics: &str) -> Self {
        let (topics, lost) = (Place::Exchange(topics.into()), watch::Sender::new(0));
        Topology { line, scratch: tokio::sync::Mutex::default(), known: Mutex::default(), topics, lost }
    }

    /// This has been found to be gone.
    pub(super) fn forget(&self, place: &Place) {
        let was_known = self.known().places.remove(place).is_some();
        if was_known && (*place == self.topics || *place == Place::UserExchange) {
            self.lost.send_modify(|times| *times += 1);
        }
    }

    /// Changes when an exchange that many read from was found to be gone: what was bound to it is to be bound again.
    pub(super) fn lost(&self) -> watch::Receiver<u64> {
        self.lost.subscribe()
    }

    /// Whether an exchange that was there still is; if not, it is forgotten.
    pub(super) async fn look(&self, place: &Place) {
        let name = match place {
            Place::Exchange(name) => name,
            Place::UserExchange => USER_EXCHANGE,
            Place::Queue(_) | Place::ExistingQueue(_) => return,
        };
        if let Err(BrokerError::NotFound(what)) = self.find_exchange(name).await {
            warn!("{what} is gone");
            self.forget(place);
        }
    }

    /// What is known of it, if it is known to be there.
    pub(super) fn recall(&self, place: &Place, arguments: &FieldTable) -> Option<Recalled> {
        let known = self.known();
        let found = known.places.get(place)?;
        if arguments.inner().is_empty() {
            return Some(Recalled { warning: None });
        }
        (found.arguments == *arguments).then(|| Recalled { warning: found.warning.clone() })
    }

    /// It is there, or is made now. Waits for the broker if need be.
    pub(super) async fn ensure(&self, place: &Place, arguments: &FieldTable) -> Result<Option<Warning>, BrokerError> {
        if let Some(Recalled { warning }) = self.recall(place, arguments) {
            return Ok(warning);
        }
        let (mut attempt, mut breaks) = (0, 0);
        let (generation, warning) = loop {
            let live = self.line.up().await?;
            match self.ensure_now(place, arguments).await {
                Err(BrokerError::Unavailable) => {
                    breaks += u32::from(!live.is_up());
                    if breaks >= DEADLY {
                        let why = "the connection to the broker broke each time that this was looked for, or made";
                        return Err(BrokerError::Rejected(format!("{}: {why}", place.what())));
                    }
                    self.line.connector().pause(attempt).await;
                }
                Err(refused) => return Err(refused),
                Ok(warning) => break (live.generation, warning),
            }
            attempt += 1;
        };
        let mut known = self.known();
        if known.generation != generation || known.places.len() >= MAX_KNOWN {
            *known = Known { generation, places: HashMap::new() };
        }
        known.places.insert(place.clone(), Found { arguments: arguments.clone(), warning: warning.clone() });
        Ok(warning)
    }

    async fn ensure_now(&self, place: &Place, arguments: &FieldTable) -> Result<Option<Warning>, BrokerError> {
        match place {
            Place::Queue(name) => return self.declare_queue(name, arguments, false).await,
            Place::ExistingQueue(name) => self.find_queue(name).await?,
            Place::Exchange(name) => self.find_exchange(name).await?,
            // It belongs to the service account, over whose link everything goes that is sent to users.
            Place::UserExchange if self.line.connector().is_of_user() => {}
            Place::UserExchange => {
                let name = short(USER_EXCHANGE, "the exchange")?;
                let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
                let declared = self.scratch().await?.exchange_declare(name, ExchangeKind::Topic, options, none()).await;
                declared.map_err(|error| told(&error, "the exchange stompgate.user"))?;
            }
        }
        Ok(None)
    }

    async fn find_exchange(&self, name: &str) -> Result<(), BrokerError> {
        let (what, name) = (format!("the exchange {name}"), short(name, "the name of the exchange")?);
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let found = self.scratch().await?.exchange_declare(name, ExchangeKind::Topic, options, none()).await;
        found.map_err(|error| told(&error, &what))
    }

    async fn find_queue(&self, name: &str) -> Result<(), BrokerError> {
        let (what, name) = (format!("the queue {name}"), short(name, "the name of the queue")?);
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = self.scratch().await?.queue_declare(name, options, none()).await;
        found.map(drop).map_err(|error| told(&error, &what))
    }

    /// A durable queue is there, or is made now. One that is there with other arguments is used as it is, and the
    /// warning says so.
    pub(super) async fn declare_queue(
        &self,
        name: &str,
        arguments: &FieldTable,
        auto_delete: bool,
    ) -> Result<Option<Warning>, BrokerError> {
        match self.find_queue(name).await {
            Ok(()) if arguments.inner().is_empty() => return Ok(None),
            Ok(()) | Err(BrokerError::NotFound(_)) => {}
            Err(other) => return Err(other),
        }
        let (what, short_name) = (format!("the queue {name}"), short(name, "the name of the queue")?);
        let options = QueueDeclareOptions { durable: true, auto_delete, ..QueueDeclareOptions::default() };
        let declared = self.scratch().await?.queue_declare(short_name, options, arguments.clone()).await;
        match declared.map_err(|error| (channel_error(&error), told(&error, &what))) {
            Ok(_) => Ok(None),
            // The same code is given for an argument that no queue can have, and then there is no queue.
            Err((Some(PRECONDITION_FAILED), refused)) => match self.find_queue(name).await {
                Ok(()) => Ok(Some(mismatch(&what, &refused))),
                Err(BrokerError::NotFound(_)) => Err(refused),
                Err(other) => Err(other),
            },
            Err((_, refused)) => Err(refused),
        }
    }

    /// The queue of a durable subscription, bound to a topic by way of an exchange of its own.
    ///
    /// A broker cannot be asked what a queue is bound to. The exchange in between can: it is declared with the pattern
    /// as its alternate exchange (which is never used, because it always leads to the queue), and so a declaration with
    /// another pattern is refused. Then the exchange is replaced, and the queue keeps what waits in it.
    pub(super) async fn ensure_durable(
        &self,
        name: &str,
        topics: &str,
        key: &str,
        arguments: &FieldTable,
    ) -> Result<Option<Warning>, BrokerError> {
        let warning = self.declare_queue(name, arguments, false).await?;
        let name = short(name, "the name of the durable subscription, encoded,")?;
        let (topics, key) = (short(topics, "the exchange")?, short(key, "the topic")?);
        if !self.declare_marked(&name, &key).await? {
            self.delete_exchange(&name).await?;
            self.declare_marked(&name, &key).await?;
        }
        let (bind, bind_exchange) = (QueueBindOptions::default(), ExchangeBindOptions::default());
        let live = self.line.up().await?;
        let bound = async {
            // A channel remembers all that was ever bound on it, again and again if need be; so it is not kept.
            let channel = live.channel().await?;
            channel.queue_bind(name.clone(), name.clone(), ShortString::default(), bind, none()).await?;
            channel.exchange_bind(name.clone(), topics, key, bind_exchange, none()).await?;
            channel.close(200, "done".into()).await
        };
        bound.await.map_err(|error| told(&error, DURABLE))?;
        Ok(warning)
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

/// The broker's text names the one argument at which it stopped comparing, in quotation marks.
fn mismatch(what: &str, refused: &BrokerError) -> Warning {
    let text = refused.to_string();
    let argument = text.split_once("inequivalent arg '").and_then(|(_, rest)| rest.split_once('\''));
    let other = argument.map_or("arguments", |(argument, _)| argument);
    format!("{what} is there with another {other} and is used as it is").into()
}

fn none() -> FieldTable {
    FieldTable::default()
}
