//! Publishing: one task that keeps many messages on their way, and hears what became of each.
//!
//! No more are handed to the library than the broker takes at a time, so none overtakes another in there. What is
//! unconfirmed when the connection breaks is published again, in order, marked as
//! [`REPUBLISHED`](super::properties::REPUBLISHED). A message that was on its way more than once when that happened goes
//! alone from then on: so the one that breaks connections is found, and costs nobody else anything.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::connection::{Line, Live};
use super::names::Names;
use super::properties;
use super::settings::{Settings, Version};
use super::wire::{Granted, Packet, Published};
use crate::broker::{BrokerError, Confirmation, Permit};
use crate::message::{Destination, Headers, Message, Outcome};

/// A message that was on its way so often when the connection broke goes alone.
const SUSPECT: u32 = 2;
/// One that was alone on its way so often is what breaks it.
const DEADLY: u32 = 4;
/// More than the parts of a packet that are neither text nor payload, and of each header.
const PACKET_COST: usize = 64;
const HEADER_COST: usize = 5;

/// The way to the publishing connection.
pub(super) struct Publisher {
    jobs: mpsc::UnboundedSender<Job>,
    line: Arc<Line>,
    names: Names,
    version: Version,
    envelope: bool,
    qos: u8,
    headers_dropped: Arc<AtomicU64>,
    told: AtomicBool,
}

/// A message on its way.
struct Job {
    sequence: u64,
    packet: Packet,
    /// The sender asked for this quality of service, so no other will do.
    exact: bool,
    /// It is kept although nobody may have subscribed.
    is_kept: bool,
    answer: oneshot::Sender<Result<Outcome, BrokerError>>,
    _permit: Permit,
    /// How often the connection broke while it was on its way.
    losses: u32,
    /// And how often it was the only one.
    deaths: u32,
}

type Flight = Pin<Box<dyn Future<Output = (Job, Published)> + Send>>;

impl Publisher {
    /// Starts the task. It ends with the line.
    pub(super) fn start(settings: &Settings, names: Names, line: &Arc<Line>) -> Self {
        let (sender, jobs) = mpsc::unbounded_channel();
        let envelope = settings.envelope;
        tokio::spawn(Worker { line: Arc::clone(line), envelope, jobs, again: VecDeque::new(), next: 0 }.run());
        Publisher {
            jobs: sender,
            line: Arc::clone(line),
            names,
            version: settings.version,
            envelope,
            qos: settings.qos,
            headers_dropped: Arc::default(),
            told: AtomicBool::new(false),
        }
    }

    /// Publishes; the permits bound how many wait here. `at_least` is the lowest quality of service that will do.
    pub(super) fn publish(&self, permit: Permit, message: &Message, at_least: u8) -> Confirmation {
        let packet = match self.packet(message, at_least) {
            Ok(packet) => packet,
            Err(refused) => return Confirmation::Ready(Err(refused)),
        };
        if self.version == Version::V311 && !self.envelope {
            self.drop_headers(message.headers.len());
        }
        let (answer, confirmation) = oneshot::channel();
        let job = Job {
            sequence: 0,
            exact: message.options.qos == Some(packet.qos),
            is_kept: packet.retain && !packet.payload.is_empty(),
            packet,
            answer,
            _permit: permit,
            losses: 0,
            deaths: 0,
        };
        // A worker that has ended drops the job, and so its answer is that the broker is not there.
        let _ = self.jobs.send(job);
        Confirmation::Waiting(confirmation)
    }

    /// Whether it could be published as far as can be said without the broker.
    pub(super) fn check(&self, message: &Message) -> Result<(), BrokerError> {
        let packet = self.packet(message, 1)?;
        match self.line.now() {
            Some(live) => admit(&live.granted, &packet, message.options.qos == Some(packet.qos)),
            None => Ok(()),
        }
    }

    /// Headers that 3.1.1 could not carry so far.
    pub(super) fn headers_dropped(&self) -> u64 {
        self.headers_dropped.load(Ordering::Relaxed)
    }

    fn packet(&self, message: &Message, at_least: u8) -> Result<Packet, BrokerError> {
        let topic = self.names.topic(&message.destination)?;
        if message.options.retain && !matches!(message.destination, Destination::Topic(_)) {
            let why = "only a /topic/ has a last value".to_owned();
            return Err(BrokerError::Unsupported { what: "retain:true".to_owned(), why });
        }
        if let Some(arguments) = &message.options.arguments {
            refuse_arguments(arguments)?;
        }
        let options = &message.options;
        let usual = if options.persistent { self.qos.max(1) } else { self.qos };
        let qos = options.qos.unwrap_or(usual).max(at_least);
        match self.version {
            Version::V5 => properties::packet(message, topic, qos),
            Version::V311 => Ok(properties::plain_packet(message, topic, qos, self.envelope)),
        }
    }

    fn drop_headers(&self, count: usize) {
        self.headers_dropped.fetch_add(count as u64, Ordering::Relaxed);
        if !self.told.swap(true, Ordering::Relaxed) {
            info!(
                "MQTT 3.1.1 carries no headers, so those of all messages are dropped; the setting \
                   broker.mqtt.envelope puts them into the payload"
            );
        }
    }
}

/// MQTT has no arguments of queues.
pub(super) fn refuse_arguments(arguments: &Headers) -> Result<(), BrokerError> {
    match arguments.iter().next() {
        None => Ok(()),
        Some((name, _)) => {
            let why = "MQTT has no arguments of queues".to_owned();
            Err(BrokerError::Unsupported { what: name.to_string(), why })
        }
    }
}

/// Whether the broker takes such a packet, by what it said when we connected.
fn admit(granted: &Granted, packet: &Packet, exact: bool) -> Result<(), BrokerError> {
    let unsupported = |what: String, why: &str| Err(BrokerError::Unsupported { what, why: why.to_owned() });
    if exact && packet.qos > granted.max_qos {
        let why = format!("the MQTT broker takes at most qos:{}", granted.max_qos);
        return unsupported(format!("qos:{}", packet.qos), &why);
    }
    if packet.retain && !granted.retain {
        return unsupported("retain:true".to_owned(), "the MQTT broker keeps no last values");
    }
    let size = size(packet);
    match granted.max_packet {
        Some(limit) if size > limit as usize => Err(BrokerError::Rejected(format!(
            "as an MQTT packet it has {size} bytes, and the broker takes at most {limit}"
        ))),
        _ => Ok(()),
    }
}

/// Bytes of the packet; rather too many.
fn size(packet: &Packet) -> usize {
    let properties = &packet.properties;
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let user = properties.user.iter().map(|(name, value)| name.len() + value.len() + HEADER_COST).sum::<usize>();
    let data = properties.correlation_data.as_ref().map_or(0, bytes::Bytes::len);
    let named = text(&properties.content_type) + text(&properties.response_topic) + data;
    PACKET_COST + packet.topic.len() + packet.payload.len() + user + named
}

/// The publishing connection's task.
struct Worker {
    line: Arc<Line>,
    envelope: bool,
    jobs: mpsc::UnboundedReceiver<Job>,
    /// To be published again, in order.
    again: VecDeque<Job>,
    next: u64,
}

impl Worker {
    /// What is left when this returns is dropped, and so answered.
    async fn run(mut self) {
        while let Ok(live) = self.line.up().await {
            if self.drive(&live).await.is_err() {
                return;
            }
            // Until the line has noticed, too.
            self.line.gone(live.generation).await;
        }
    }

    /// Publishes until the connection breaks. `Err` when there is nothing more to publish, ever.
    async fn drive(&mut self, live: &Live) -> Result<(), ()> {
        let mut flying: FuturesUnordered<Flight> = FuturesUnordered::new();
        let mut lost: Vec<Job> = Vec::new();
        let mut alone = false;
        loop {
            if !lost.is_empty() && flying.is_empty() {
                self.keep(lost);
                return Ok(());
            }
            let room = lost.is_empty() && !alone && flying.len() < usize::from(live.granted.receive_maximum);
            let idle = flying.is_empty();
            tokio::select! {
                biased;
                Some((job, published)) = flying.next() => {
                    alone = false;
                    match published {
                        Published::Taken(routed) => {
                            let outcome = if routed || job.is_kept { Outcome::DONE } else { Outcome::UNROUTED };
                            answer(job, Ok(outcome));
                        }
                        Published::Refused(reason) => answer(job, Err(refused(&reason))),
                        Published::Lost => lost.push(job),
                    }
                }
                job = next(&mut self.again, &mut self.jobs, idle), if room => {
                    let mut job = job.ok_or(())?;
                    if job.sequence == 0 {
                        self.next += 1;
                        job.sequence = self.next;
                    }
                    if let Err(why) = admit(&live.granted, &job.packet, job.exact) {
                        answer(job, Err(why));
                        continue;
                    }
                    alone = job.losses >= SUSPECT;
                    flying.push(fly(live, job));
                }
                () = self.line.gone(live.generation), if idle && lost.is_empty() => return Ok(()),
            }
        }
    }

    /// Keeps what was on its way when the connection broke, to be published again.
    fn keep(&mut self, mut lost: Vec<Job>) {
        let only_one = lost.len() == 1;
        lost.sort_unstable_by_key(|job| job.sequence);
        for mut job in lost.into_iter().rev() {
            job.losses += 1;
            job.deaths += u32::from(only_one);
            if job.deaths >= DEADLY {
                warn!(topic = job.packet.topic, "a message breaks the connection to the broker, and is given up");
                let why = "the connection to the broker broke each time that this message was sent";
                answer(job, Err(BrokerError::Rejected(why.to_owned())));
                continue;
            }
            properties::republish(&mut job.packet, self.envelope);
            self.again.push_front(job);
        }
    }
}

/// The next message: first those that go again. One that goes alone waits until nothing else is on its way.
async fn next(again: &mut VecDeque<Job>, jobs: &mut mpsc::UnboundedReceiver<Job>, idle: bool) -> Option<Job> {
    match again.front() {
        Some(job) if job.losses >= SUSPECT && !idle => std::future::pending().await,
        Some(_) => again.pop_front(),
        None => jobs.recv().await,
    }
}

/// Hands it over now, so messages leave in the order of these calls.
fn fly(live: &Live, job: Job) -> Flight {
    let mut packet = job.packet.clone();
    packet.qos = packet.qos.min(live.granted.max_qos);
    let published = live.client.publish(packet);
    Box::pin(async move { (job, published.await) })
}

/// What a reason of MQTT means to the sender.
fn refused(reason: &str) -> BrokerError {
    match reason {
        "NotAuthorized" => BrokerError::Rejected("the MQTT broker does not let the gateway publish there".to_owned()),
        other => BrokerError::Rejected(format!("the MQTT broker refused it: {other}")),
    }
}

fn answer(job: Job, answer: Result<Outcome, BrokerError>) {
    let _ = job.answer.send(answer); // whoever asked may be gone
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANTED: Granted = Granted {
        receive_maximum: 20,
        max_qos: 1,
        retain: false,
        wildcards: true,
        shared: Some(true),
        identifiers: true,
        resumed: false,
        keeps_sessions: true,
        max_packet: Some(1_000),
    };

    fn packet(qos: u8, retain: bool, size: usize) -> Packet {
        Packet { topic: "t".to_owned(), qos, retain, payload: vec![0; size].into(), ..Packet::default() }
    }

    #[test]
    fn what_the_broker_lacks_is_refused_by_name() {
        let what = |packet: &Packet, exact| match admit(&GRANTED, packet, exact) {
            Err(BrokerError::Unsupported { what, .. }) => what,
            Err(BrokerError::Rejected(why)) => why,
            other => format!("{other:?}"),
        };
        assert_eq!(what(&packet(2, false, 0), true), "qos:2");
        assert_eq!(what(&packet(2, false, 0), false), "Ok(())");
        assert_eq!(what(&packet(0, true, 1), true), "retain:true");
        assert!(what(&packet(0, false, 1_000), false).ends_with("at most 1000"));
    }
}
