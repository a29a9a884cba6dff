//! One publishing channel, over time.
//!
//! A message that is unconfirmed when its channel or connection breaks is published again, marked as
//! [`REPUBLISHED`](super::properties::REPUBLISHED). A channel that the broker closes takes innocent messages with it: these
//! then go one by one, so that only the culprit fails (contract, §11). So they do when the broker ends the whole
//! connection, and then one by one among all channels.
//!
//! What a message needs at the broker may have to be looked for or made first. Meanwhile only later messages of the same
//! owner wait, and so they do when one owner has too many on their way, as before a queue that confirms nothing.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Error, ErrorKind};
use tokio::sync::{RwLock, mpsc, oneshot};
use tracing::warn;

use super::connection::Line;
use super::errors::{NOT_FOUND, channel_error, culprit, told};
use super::properties;
use super::publisher::Envelope;
use super::returns::{Fate, Returns};
use super::topology::{Place, Topology, Warning};
use super::window::Held;
use crate::broker::{BrokerError, Permit};
use crate::message::Outcome;

/// So many messages of one channel are on their way at a time.
const WINDOW: usize = 512;
/// So many of these are one owner's; its next ones go when half of them have arrived.
const SHARE: usize = WINDOW / 2;
/// For so many messages of one channel it is seen to at a time that what they need is there.
const MAX_PREPARING: usize = 64;
/// A message for which the broker ended the connection so often, with nothing else on its way, is refused.
const DEADLY: u32 = 2;

/// A message on its way.
pub(super) struct Job {
    sequence: u64,
    owner: u64,
    envelope: Envelope,
    answer: oneshot::Sender<Result<Outcome, BrokerError>>,
    _permit: Permit,
    _held: Held,
    /// It may be there already.
    republished: bool,
    /// It goes when nothing else is on its way on this channel.
    alone: bool,
    /// It was on its way when the broker ended the connection: it goes when nothing else is, on any channel.
    suspect: bool,
    /// How often the broker ended the connection while that was so.
    deaths: u32,
    /// Its queue or exchange was gone, and was made once more.
    remade: bool,
    /// For its sender, though it was taken.
    warning: Option<Warning>,
}

type Prepared = (Job, Result<Option<Warning>, BrokerError>);

/// One publishing channel, over time.
pub(super) struct Worker {
    line: Arc<Line>,
    topology: Arc<Topology>,
    /// Held for writing by a suspect, and for reading by all others on their way by this line.
    flights: Arc<RwLock<()>>,
    frame_max: u32,
    jobs: mpsc::UnboundedReceiver<Job>,
    /// To be published before all others, in order.
    again: VecDeque<Job>,
    /// What is needed for these is looked for, or made.
    preparing: FuturesUnordered<Pin<Box<dyn Future<Output = Prepared> + Send>>>,
    owners: HashMap<u64, Owner>,
    next: u64,
}

/// Whose messages are on their way or wait for that.
#[derive(Default)]
struct Owner {
    flying: usize,
    preparing: usize,
    waiting: VecDeque<Job>,
}

impl Job {
    /// Not on its way yet.
    pub(super) fn new(
        owner: u64,
        envelope: Envelope,
        answer: oneshot::Sender<Result<Outcome, BrokerError>>,
        permit: Permit,
        held: Held,
    ) -> Self {
        Job {
            sequence: 0,
            owner,
            envelope,
            answer,
            _permit: permit,
            _held: held,
            republished: false,
            alone: false,
            suspect: false,
            deaths: 0,
            remade: false,
            warning: None,
        }
    }

    fn answer(self, answer: Result<Outcome, BrokerError>) {
        let _ = self.answer.send(answer); // the session may be gone
    }

    /// Its properties; what could be expressed once can be again.
    fn properties(&self, frame_max: u32) -> BasicProperties {
        let properties = properties::of_message(&self.envelope.message, frame_max).unwrap_or_default();
        if self.republished { properties::republished(&properties) } else { properties }
    }

    fn is_addressed_as(&self, returned: &BasicReturnMessage) -> bool {
        returned.delivery.exchange == self.envelope.exchange && returned.delivery.routing_key == self.envelope.key
    }

    /// Whether this is what was returned, or so like it that it makes no difference.
    fn is(&self, returned: &BasicReturnMessage, frame_max: u32) -> bool {
        self.is_addressed_as(returned)
            && *returned.delivery.data == *self.envelope.message.body
            && returned.delivery.properties == self.properties(frame_max)
    }
}

impl Worker {
    /// Nothing to publish yet.
    pub(super) fn new(
        line: &Arc<Line>,
        topology: &Arc<Topology>,
        flights: &Arc<RwLock<()>>,
        frame_max: u32,
        jobs: mpsc::UnboundedReceiver<Job>,
    ) -> Self {
        Worker {
            line: Arc::clone(line),
            topology: Arc::clone(topology),
            flights: Arc::clone(flights),
            frame_max,
            jobs,
            again: VecDeque::new(),
            preparing: FuturesUnordered::new(),
            owners: HashMap::new(),
            next: 0,
        }
    }

    /// Publishes until the line ends.
    pub(super) async fn run(mut self) {
        let mut attempt = 0;
        while let Ok(live) = self.line.up().await {
            let channel = async {
                let channel = live.channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await.map(|()| channel)
            };
            match channel.await {
                Ok(channel) => {
                    attempt = 0;
                    if self.drive(&channel, live.frame_max()).await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    warn!(%error, "no channel to publish on");
                    attempt += 1;
                    self.line.connector().pause(attempt).await;
                }
            }
        }
        self.end();
    }

    /// Tells all who wait why nothing is published any more. What was on its way hears that the broker is not there.
    fn end(mut self) {
        let reason = self.line.connector().reason();
        self.jobs.close();
        let waiting = self.owners.into_values().flat_map(|owner| owner.waiting);
        for job in self.again.into_iter().chain(waiting) {
            job.answer(Err(reason.clone()));
        }
        while let Ok(job) = self.jobs.try_recv() {
            job.answer(Err(reason.clone()));
        }
    }

    /// Publishes until the channel breaks. `Err` when there is nothing more to publish, ever.
    async fn drive(&mut self, channel: &Channel, frame_max: u32) -> Result<(), ()> {
        // Each is polled for the first time in the order in which it came, and that hands it to lapin: so they leave in
        // this order.
        let mut flying = FuturesUnordered::new();
        let mut failed: Vec<(Job, Error)> = Vec::new();
        let mut returns = Returns::default();
        let mut alone = false;
        let line = Arc::clone(&self.line);
        let mut closed = pin!(line.connector().closed());
        loop {
            if !failed.is_empty() && flying.is_empty() {
                self.keep(failed, returns.end());
                return Ok(());
            }
            let room = failed.is_empty() && !alone && flying.len() < WINDOW && self.preparing.len() < MAX_PREPARING;
            let idle = flying.is_empty();
            tokio::select! {
                biased;
                Some(first) = flying.next() => {
                    alone = false;
                    let landed = all_landed(channel, first, &mut flying).await;
                    self.landed(landed, flying.is_empty(), &mut returns, &mut failed);
                }
                Some((job, prepared)) = self.preparing.next() => {
                    self.prepared(job, prepared);
                }
                job = next(&mut self.again, &mut self.jobs, idle), if room => {
                    let job = job.ok_or(())?;
                    let is_alone = job.alone;
                    if let Some(job) = self.admit(job, frame_max) {
                        alone = is_alone;
                        flying.push(fly(channel, Arc::clone(&self.flights), self.frame_max, job));
                    }
                }
                () = &mut closed => return Err(()),
            }
        }
    }

    /// A message that may go now, if it is this one's turn and all that it needs is there.
    fn admit(&mut self, mut job: Job, frame_max: u32) -> Option<Job> {
        if job.sequence == 0 {
            self.next += 1;
            job.sequence = self.next;
        }
        let owner = self.owner(job.owner);
        // What goes again was there before all that waits.
        let goes_first = job.alone || job.republished;
        if !goes_first && (owner.preparing > 0 || owner.flying >= SHARE || !owner.waiting.is_empty()) {
            owner.waiting.push_back(job);
            return None;
        }
        if let Err(refused) = properties::check_size(&job.envelope.message, frame_max) {
            self.release(job.owner);
            job.answer(Err(refused));
            return None;
        }
        let Some(place) = job.envelope.place.clone() else { return Some(self.goes(job)) };
        if let Some(recalled) = self.topology.recall(&place, &job.envelope.arguments) {
            job.warning = recalled.warning;
            return Some(self.goes(job));
        }
        self.owner(job.owner).preparing += 1;
        let topology = Arc::clone(&self.topology);
        self.preparing.push(Box::pin(async move {
            let prepared = topology.ensure(&place, &job.envelope.arguments).await;
            (job, prepared)
        }));
        None
    }

    fn goes(&mut self, job: Job) -> Job {
        self.owner(job.owner).flying += 1;
        job
    }

    /// What the message needs is there, or cannot be.
    fn prepared(&mut self, job: Job, prepared: Result<Option<Warning>, BrokerError>) {
        let owner = job.owner;
        self.owner(owner).preparing -= 1;
        match prepared {
            Ok(_) => {
                let later = |other: &Job| other.owner == owner && other.sequence > job.sequence;
                let at = self.again.iter().position(later).unwrap_or(self.again.len());
                self.again.insert(at, job);
            }
            Err(refused) => job.answer(Err(refused)),
        }
        self.release(owner);
    }

    /// Messages are confirmed or have failed.
    fn landed(
        &mut self,
        landed: Vec<(Job, Result<lapin::Confirmation, Error>)>,
        is_last: bool,
        returns: &mut Returns<Job>,
        failed: &mut Vec<(Job, Error)>,
    ) {
        let mut confirmed = Vec::with_capacity(landed.len());
        for (job, answer) in landed {
            let owner = job.owner;
            self.owner(owner).flying -= 1;
            match answer {
                Ok(confirmation) => confirmed.push((job, confirmation)),
                Err(error) => failed.push((job, error)),
            }
            self.release(owner);
        }
        let frame_max = self.frame_max;
        for (job, fate) in returns.confirmed(confirmed, |job: &Job, returned| job.is(returned, frame_max)) {
            self.decided(job, fate);
        }
        if is_last && failed.is_empty() {
            for (job, fate) in returns.all_confirmed(Job::is_addressed_as) {
                self.decided(job, fate);
            }
        }
    }

    /// Lets the owner's next messages go on, before all that come later, once there is room for a good number of them.
    fn release(&mut self, key: u64) {
        let owner = self.owner(key);
        if owner.preparing > 0 || owner.flying > SHARE / 2 {
            return;
        }
        let waiting = std::mem::take(&mut owner.waiting);
        if owner.flying == 0 {
            self.owners.remove(&key);
        }
        self.again.extend(waiting);
    }

    fn owner(&mut self, key: u64) -> &mut Owner {
        self.owners.entry(key).or_default()
    }

    fn decided(&mut self, mut job: Job, fate: Fate) {
        match fate {
            Fate::Stored => {
                let warning = job.warning.as_deref().map(str::to_owned);
                job.answer(Ok(Outcome { warning, ..Outcome::DONE }));
            }
            Fate::Returned => match job.envelope.place.clone() {
                // Somebody has deleted the queue since it was declared.
                Some(place @ (Place::Queue(_) | Place::ExistingQueue(_))) if !job.remade => {
                    job.remade = true;
                    self.topology.forget(&place);
                    self.again.push_front(job);
                }
                _ => job.answer(Ok(Outcome::UNROUTED)),
            },
            Fate::Refused => {
                let why = "the broker did not take the message; a queue that is full and rejects publishers does that";
                job.answer(Err(BrokerError::Rejected(why.to_owned())));
            }
        }
    }

    /// Keeps what was on its way when the channel broke, to be published again.
    fn keep(&mut self, mut failed: Vec<(Job, Error)>, undecided: Vec<Job>) {
        let by_channel = failed.iter().any(|(_, error)| channel_error(error).is_some());
        let only_one = failed.len() == 1 && undecided.is_empty();
        failed.sort_unstable_by_key(|(job, _)| job.sequence);
        let mut again = Vec::with_capacity(failed.len() + undecided.len());
        for mut job in undecided {
            (job.republished, job.alone) = (true, by_channel);
            again.push(job);
        }
        for (mut job, error) in failed {
            // A channel that was closed already has not sent it.
            let was_sent = !matches!(error.kind(), ErrorKind::InvalidChannelState(..));
            if by_channel && only_one {
                // Nothing else was on its way: this is what the broker closed the channel for.
                self.refused(job, &error);
                continue;
            }
            if !by_channel && was_sent && culprit(&error).is_some() {
                job.deaths += u32::from(job.suspect && only_one);
                if job.deaths >= DEADLY {
                    let why = "the broker ended the connection each time that this message was sent";
                    warn!(%error, exchange = %job.envelope.exchange, "a message is refused: {why}");
                    job.answer(Err(BrokerError::Rejected(why.to_owned())));
                    continue;
                }
                job.suspect = true;
            }
            job.republished |= was_sent;
            job.alone |= by_channel || job.suspect;
            again.push(job);
        }
        again.sort_unstable_by_key(|job| job.sequence);
        again.into_iter().rev().for_each(|job| self.again.push_front(job));
    }

    /// The broker has closed the channel for this message.
    fn refused(&mut self, mut job: Job, error: &Error) {
        if let (Some(place), Some(NOT_FOUND)) = (&job.envelope.place, channel_error(error)) {
            self.topology.forget(place);
            if *place == Place::UserExchange && !job.remade {
                job.remade = true;
                self.again.push_front(job);
                return;
            }
        }
        let what = match &job.envelope.place {
            Some(Place::Exchange(name)) => format!("the exchange {name}"),
            _ => "the destination".to_owned(),
        };
        let refused = told(error, &what);
        job.answer(Err(refused));
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

/// All that has landed by now: at least all that was confirmed with the same frame as the first.
async fn all_landed<F: Future>(
    channel: &Channel,
    first: F::Output,
    flying: &mut FuturesUnordered<F>,
) -> Vec<F::Output> {
    // lapin answers one after the other for a frame that confirms many. It lets nobody else in until it is through, and
    // this has to be let in.
    let passing = pin!(channel.wait_for_confirms()).poll(&mut Context::from_waker(Waker::noop()));
    drop(passing);
    let mut landed = Vec::from([first]);
    poll_fn(|context| {
        while let Poll::Ready(Some(next)) = flying.poll_next_unpin(context) {
            landed.push(next);
        }
        Poll::Ready(())
    })
    .await;
    landed
}

async fn fly(
    channel: &Channel,
    flights: Arc<RwLock<()>>,
    frame_max: u32,
    mut job: Job,
) -> (Job, Result<lapin::Confirmation, Error>) {
    let properties = match job.envelope.properties.take() {
        Some(properties) if !job.republished => properties,
        _ => job.properties(frame_max),
    };
    let publishing = async {
        let Envelope { exchange, key, message, .. } = &job.envelope;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        channel.basic_publish(exchange.clone(), key.clone(), options, &message.body, properties).await?.await
    };
    let confirmation = if job.suspect {
        let _all = flights.write().await;
        publishing.await
    } else {
        let _one = flights.read().await;
        publishing.await
    };
    (job, confirmation)
}
