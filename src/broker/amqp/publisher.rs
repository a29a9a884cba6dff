//! Publishing: a few confirm channels, each with a worker that keeps many messages on their way.
//!
//! Messages of one user always take the same channel, so they keep their order whatever they are sent to.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use lapin::BasicProperties;
use lapin::types::{FieldTable, ShortString};
use tokio::sync::{RwLock, mpsc, oneshot};

use super::arguments::Arguments;
use super::connection::Line;
use super::errors::short;
use super::job::Job;
use super::names::{self, USER_EXCHANGE};
use super::properties;
use super::settings::Settings;
use super::topology::{Place, Topology};
use super::window::Window;
use super::worker::Worker;
use crate::broker::{BrokerError, Confirmation, Permit};
use crate::message::{Destination, Message};

/// The way to the publishing channels.
pub(super) struct Publisher {
    channels: Vec<mpsc::UnboundedSender<Job>>,
    line: Arc<Line>,
    window: Arc<Window>,
    exchange: ShortString,
    topics: Place,
    frame_max: u32,
    queue_arguments: bool,
}

/// A message as AMQP has it.
pub(super) struct Envelope {
    pub(super) exchange: ShortString,
    pub(super) key: ShortString,
    /// What must be there for it.
    pub(super) place: Option<Place>,
    /// With these, if it has to be made.
    pub(super) arguments: FieldTable,
    /// Given away with the first flight; few messages need another one.
    pub(super) properties: Option<BasicProperties>,
    pub(super) message: Message,
}

impl Publisher {
    /// Starts the workers. They end with the line.
    pub(super) fn start(
        settings: &Settings,
        channels: u16,
        exchange: ShortString,
        line: &Arc<Line>,
        topology: &Arc<Topology>,
        window: &Arc<Window>,
    ) -> Self {
        let flights = Arc::new(RwLock::new(()));
        let start = |_| {
            let (sender, jobs) = mpsc::unbounded_channel();
            let worker = Worker::new(line, topology, &flights, settings.frame_max, jobs);
            tokio::spawn(worker.run());
            sender
        };
        Publisher {
            channels: (0..channels.max(1)).map(start).collect(),
            line: Arc::clone(line),
            window: Arc::clone(window),
            exchange,
            topics: Place::Exchange(settings.exchange.as_str().into()),
            frame_max: settings.frame_max,
            queue_arguments: settings.allows_arguments(),
        }
    }

    /// Publishes; the permits bound how many wait here.
    pub(super) fn publish(&self, permit: Permit, message: Message) -> Confirmation {
        let (owner, held) = (owner_of(&message), self.window.hold(message.size()));
        let envelope = match self.envelope(message) {
            Ok(envelope) => envelope,
            Err(refused) => return Confirmation::Ready(Err(refused)),
        };
        let (answer, confirmation) = oneshot::channel();
        let channel = usize::try_from(owner % self.channels.len() as u64).unwrap_or_default();
        match self.channels[channel].send(Job::new(owner, envelope, answer, permit, held)) {
            Ok(()) => Confirmation::Waiting(confirmation),
            Err(_) => Confirmation::Ready(Err(self.line.connector().reason())),
        }
    }

    /// Whether it could be published as far as can be said without the broker.
    pub(super) fn check(&self, message: &Message) -> Result<(), BrokerError> {
        self.envelope(message.clone()).map(drop)
    }

    fn envelope(&self, message: Message) -> Result<Envelope, BrokerError> {
        let properties = properties::of_message(&message, self.frame_max)?;
        if message.options.retain {
            let why = "AMQP brokers keep no last value of a topic; send to a /queue/ instead".to_owned();
            return Err(BrokerError::Unsupported { what: "retain:true".to_owned(), why });
        }
        let (exchange, key, place) = self.address(&message.destination)?;
        let arguments = match &message.options.arguments {
            Some(arguments) => Arguments::parse(arguments, self.queue_arguments)?.queue,
            None => FieldTable::default(),
        };
        Ok(Envelope { exchange, key, place, arguments, properties: Some(properties), message })
    }

    fn address(&self, destination: &Destination) -> Result<(ShortString, ShortString, Option<Place>), BrokerError> {
        let key = |text: &str| short(text, "the name after the destination's kind");
        let default = ShortString::default();
        Ok(match destination {
            Destination::Topic(name) => {
                (self.exchange.clone(), key(&names::routing_key(name)?)?, Some(self.topics.clone()))
            }
            Destination::Queue(name) => {
                names::check_queue(name)?;
                (default, key(name)?, Some(Place::Queue(name.clone())))
            }
            Destination::ExistingQueue(name) => {
                names::check_queue(name)?;
                (default, key(name)?, Some(Place::ExistingQueue(name.clone())))
            }
            Destination::ReplyQueue(name) => {
                names::check_reply(name)?;
                (default, key(name)?, None)
            }
            Destination::Exchange { exchange, key: routing_key } => {
                let name = short(exchange, "the name of the exchange")?;
                (name, key(routing_key)?, Some(Place::Exchange(exchange.clone())))
            }
            Destination::User { user: Some(user), name } => {
                let routing_key = names::routing_key(&names::of_user(user, name))?;
                (short(USER_EXCHANGE, "the exchange")?, key(&routing_key)?, Some(Place::UserExchange))
            }
            Destination::User { user: None, .. } => return Err(unsupported("/user without a name")),
            Destination::TemporaryQueue(_) => return Err(unsupported("SEND to /temp-queue")),
            Destination::Application(_) => return Err(unsupported("SEND to /app")),
        })
    }
}

fn unsupported(what: &str) -> BrokerError {
    let why = "it never reaches a broker by itself; use /queue/…, /topic/… or /exchange/…".to_owned();
    BrokerError::Unsupported { what: what.to_owned(), why }
}

/// Who must find its messages in order: a user; where there is none, all who send to the same destination.
fn owner_of(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    match message.headers.get("stompgate-user") {
        Some(user) => user.hash(&mut hasher),
        None => message.destination.hash(&mut hasher),
    }
    hasher.finish()
}
