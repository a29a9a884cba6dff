//! Publishing: a few confirm channels, each with a task that keeps many messages on their way.
//!
//! Messages of one user always take the same channel, so they keep their order whatever they are sent to. A message that is unconfirmed
//! when its channel or connection breaks is published again, marked as [`REPUBLISHED`](super::properties::REPUBLISHED).
//! A channel that the broker closes takes innocent messages with it: these then go one by one, so that only the culprit
//! fails (contract, §11).

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Error, ErrorKind};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::arguments::Arguments;
use super::connection::Line;
use super::errors::{NOT_FOUND, channel_error, short, told};
use super::names::{self, USER_EXCHANGE};
use super::properties;
use super::settings::Settings;
use super::topology::{Place, Topology, Warning};
use crate::broker::{BrokerError, Confirmation, Permit};
use crate::message::{Destination, Message, Outcome};

/// So many messages of one channel are on their way at a time.
const WINDOW: usize = 512;
/// A message that was alone on its way so often when the connection broke is what breaks it.
const DEADLY: u32 = 4;

/// The way to the publishing channels.
pub(super) struct Publisher {
    channels: Vec<mpsc::UnboundedSender<Job>>,
    exchange: ShortString,
    topics: Place,
    frame_max: u32,
    queue_arguments: bool,
}

/// A message on its way.
struct Job {
    sequence: u64,
    envelope: Envelope,
    answer: oneshot::Sender<Result<Outcome, BrokerError>>,
    _permit: Permit,
    /// It may be there already.
    republished: bool,
    /// It goes when nothing else is on its way.
    alone: bool,
    /// How often the connection broke while it was alone on its way.
    deaths: u32,
    /// Its queue or exchange was gone, and was made once more.
    remade: bool,
    /// For its sender, though it was taken.
    warning: Option<Warning>,
}

/// A message as AMQP has it.
struct Envelope {
    exchange: ShortString,
    key: ShortString,
    /// What must be there for it.
    place: Option<Place>,
    /// With these, if it has to be made.
    arguments: FieldTable,
    /// Given away with the first flight; few messages need another one.
    properties: Option<BasicProperties>,
    message: Message,
}

impl Publisher {
    /// Starts the tasks. They end with the line.
    pub(super) fn start(
        settings: &Settings,
        exchange: ShortString,
        line: &Arc<Line>,
        topology: &Arc<Topology>,
    ) -> Self {
        let start = |_| {
            let (sender, jobs) = mpsc::unbounded_channel();
            let (line, topology) = (Arc::clone(line), Arc::clone(topology));
            let frame_max = settings.frame_max;
            tokio::spawn(Worker { line, topology, frame_max, jobs, again: VecDeque::new(), next: 0 }.run());
            sender
        };
        let channels = (0..settings.publish_channels.max(1)).map(start).collect();
        let topics = Place::Exchange(settings.exchange.as_str().into());
        let (frame_max, queue_arguments) = (settings.frame_max, settings.allows_arguments());
        Publisher { channels, exchange, topics, frame_max, queue_arguments }
    }

    /// Publishes; the permits bound how many wait here.
    pub(super) fn publish(&self, permit: Permit, message: Message) -> Confirmation {
        let channel = self.channel_of(&message);
        let envelope = match self.envelope(message) {
            Ok(envelope) => envelope,
            Err(refused) => return Confirmation::Ready(Err(refused)),
        };
        let (answer, confirmation) = oneshot::channel();
        let job = Job {
            sequence: 0,
            envelope,
            answer,
            _permit: permit,
            republished: false,
            alone: false,
            deaths: 0,
            remade: false,
            warning: None,
        };
        // A worker that has ended drops the job, and so its answer is that the broker is not there.
        let _ = self.channels[channel].send(job);
        Confirmation::Waiting(confirmation)
    }

    /// By user; what has no user goes by its destination.
    fn channel_of(&self, message: &Message) -> usize {
        let mut hasher = DefaultHasher::new();
        match message.headers.get("stompgate-user") {
            Some(user) => user.hash(&mut hasher),
            None => message.destination.hash(&mut hasher),
        }
        usize::try_from(hasher.finish() % self.channels.len() as u64).unwrap_or_default()
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
            Destination::Queue(name) => (default, key(name)?, Some(Place::Queue(name.clone()))),
            Destination::ExistingQueue(name) => (default, key(name)?, Some(Place::ExistingQueue(name.clone()))),
            Destination::ReplyQueue(name) => (default, key(name)?, None),
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

/// One publishing channel, over time.
struct Worker {
    line: Arc<Line>,
    topology: Arc<Topology>,
    frame_max: u32,
    jobs: mpsc::UnboundedReceiver<Job>,
    /// To be published again, in order.
    again: VecDeque<Job>,
    next: u64,
}

impl Worker {
    /// What is left when this returns is dropped, and so answered.
    async fn run(mut self) {
        let mut attempt = 0;
        while let Ok(live) = self.line.up().await {
            let channel = async {
                let channel = live.channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await.map(|()| channel)
            };
            match channel.await {
                Ok(channel) => {
                    attempt = 0;
                    if self.drive(&channel).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    warn!(%error, "no channel to publish on");
                    attempt += 1;
                    self.line.connector().pause(attempt).await;
                }
            }
        }
    }

    /// Publishes until the channel breaks. `Err` when there is nothing more to publish, ever.
    async fn drive(&mut self, channel: &Channel) -> Result<(), ()> {
        // Each is polled for the first time in the order in which it came, and that hands it to lapin: so they leave in
        // this order.
        let mut flying = FuturesUnordered::new();
        let mut failed: Vec<(Job, Error)> = Vec::new();
        let mut alone = false;
        let line = Arc::clone(&self.line);
        let mut closed = pin!(line.connector().closed());
        loop {
            if !failed.is_empty() && flying.is_empty() {
                let by_channel = failed.iter().any(|(_, error)| channel_error(error).is_some());
                self.keep(failed, !by_channel);
                return Ok(());
            }
            let room = failed.is_empty() && !alone && flying.len() < WINDOW;
            let idle = flying.is_empty();
            tokio::select! {
                biased;
                Some((job, answer)) = flying.next() => {
                    alone = false;
                    match answer {
                        Ok(confirmation) => self.confirmed(job, &confirmation),
                        Err(error) => failed.push((job, error)),
                    }
                }
                job = next(&mut self.again, &mut self.jobs, idle), if room => {
                    let mut job = job.ok_or(())?;
                    if job.sequence == 0 {
                        self.next += 1;
                        job.sequence = self.next;
                    }
                    alone = job.alone;
                    match self.prepared(job).await {
                        Some(job) => flying.push(fly(channel, self.frame_max, job)),
                        None => alone = false,
                    }
                }
                () = &mut closed => return Err(()),
            }
        }
    }

    /// Sees to it that what the message needs is there; answers if it cannot be.
    async fn prepared(&mut self, mut job: Job) -> Option<Job> {
        let Some(place) = &job.envelope.place else { return Some(job) };
        match self.topology.ensure(place, &job.envelope.arguments).await {
            Ok(warning) => {
                job.warning = warning;
                Some(job)
            }
            Err(refused) => {
                answer(job, Err(refused));
                None
            }
        }
    }

    fn confirmed(&mut self, mut job: Job, confirmation: &lapin::Confirmation) {
        match confirmation {
            lapin::Confirmation::Ack(None) => {
                let warning = job.warning.as_deref().map(str::to_owned);
                answer(job, Ok(Outcome { warning, ..Outcome::DONE }));
            }
            lapin::Confirmation::Ack(Some(_)) => match job.envelope.place.clone() {
                // Somebody has deleted the queue since it was declared.
                Some(place @ (Place::Queue(_) | Place::ExistingQueue(_))) if !job.remade => {
                    job.remade = true;
                    self.topology.forget(&place);
                    self.again.push_front(job);
                }
                _ => answer(job, Ok(Outcome::UNROUTED)),
            },
            lapin::Confirmation::Nack(_) => {
                let why = "the broker did not take the message; a queue that is full and rejects publishers does that";
                answer(job, Err(BrokerError::Rejected(why.to_owned())));
            }
            lapin::Confirmation::NotRequested => answer(job, Err(BrokerError::Unavailable)),
        }
    }

    /// Keeps what was on its way when the channel broke, to be published again.
    fn keep(&mut self, mut failed: Vec<(Job, Error)>, lost: bool) {
        let only_one = failed.len() == 1;
        failed.sort_unstable_by_key(|(job, _)| job.sequence);
        for (mut job, error) in failed.into_iter().rev() {
            if !lost && only_one {
                // Nothing else was on its way: this is what the broker closed the channel for.
                if let (Some(place), Some(NOT_FOUND)) = (&job.envelope.place, channel_error(&error)) {
                    self.topology.forget(place);
                    if *place == Place::UserExchange && !job.remade {
                        job.remade = true;
                        self.again.push_front(job);
                        continue;
                    }
                }
                let what = match &job.envelope.place {
                    Some(Place::Exchange(name)) => format!("the exchange {name}"),
                    _ => "the destination".to_owned(),
                };
                answer(job, Err(told(&error, &what)));
                continue;
            }
            // A channel that was closed already has not sent it.
            let sent = !matches!(error.kind(), ErrorKind::InvalidChannelState(..));
            job.deaths += u32::from(only_one && sent);
            if job.deaths >= DEADLY {
                let why = "the connection to the broker broke each time that this message was sent";
                answer(job, Err(BrokerError::Rejected(why.to_owned())));
                continue;
            }
            job.republished |= sent;
            job.alone |= !lost;
            self.again.push_front(job);
        }
    }
}

/// The next message: first those that go again. One that goes alone waits until nothing else is on its way.
async fn next(again: &mut VecDeque<Job>, jobs: &mut mpsc::UnboundedReceiver<Job>, idle: bool) -> Option<Job> {
    match again.front() {
        Some(job) if job.alone && !idle => std::future::pending().await,
        Some(_) => again.pop_front(),
        None => jobs.recv().await,
    }
}

async fn fly(channel: &Channel, frame_max: u32, mut job: Job) -> (Job, Result<lapin::Confirmation, Error>) {
    let Envelope { exchange, key, properties, message, .. } = &mut job.envelope;
    // What could be expressed once can be again.
    let again = || properties::of_message(message, frame_max).unwrap_or_default();
    let mut properties = properties.take().unwrap_or_else(again);
    if job.republished {
        properties = properties::republished(&properties);
    }
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let publishing = channel.basic_publish(exchange.clone(), key.clone(), options, &message.body, properties);
    let confirmation = match publishing.await {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    (job, confirmation)
}

fn answer(job: Job, answer: Result<Outcome, BrokerError>) {
    let _ = job.answer.send(answer); // whoever asked may be gone
}
