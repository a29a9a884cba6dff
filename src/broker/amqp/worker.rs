//! One publishing channel, over time.
//!
//! A message that is unconfirmed when its channel or connection breaks is published again, marked as
//! [`REPUBLISHED`](super::properties::REPUBLISHED). A channel that the broker closes takes innocent messages with it: these
//! then go one by one, so that only the culprit fails (contract, §11). So they do when the broker ends the whole
//! connection, and then one by one among all channels.
//!
//! What a message needs at the broker may have to be looked for or made first. Meanwhile only later messages of the same
//! owner wait, and so they do when one owner has too many on their way, as before a queue that confirms nothing.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Error, ErrorKind};
use tokio::sync::{RwLock, mpsc};
use tracing::warn;

use super::connection::Line;
use super::errors::{NOT_FOUND, channel_error, culprit, told};
use super::job::Job;
use super::properties;
use super::publisher::Envelope;
use super::returns::{Fate, Returns};
use super::topology::{Place, Topology, Warning};
use super::turns::Turns;
use crate::broker::BrokerError;
use crate::message::Outcome;

/// So many messages of one channel are on their way at a time.
const WINDOW: usize = 512;
/// So many of these are one owner's.
const SHARE: usize = WINDOW / 2;
/// For so many messages of one channel it is seen to at a time that what they need is there.
const MAX_PREPARING: usize = 64;
/// A message for which the broker ended the connection so often, with nothing else on its way, is refused.
const DEADLY: u32 = 2;

type Prepared = (Job, Result<Option<Warning>, BrokerError>);

/// One publishing channel, over time.
pub(super) struct Worker {
    line: Arc<Line>,
    topology: Arc<Topology>,
    /// Held for writing by a suspect, and for reading by all others on their way by this line.
    flights: Arc<RwLock<()>>,
    frame_max: u32,
    jobs: mpsc::UnboundedReceiver<Job>,
    turns: Turns,
    /// What is needed for these is looked for, or made.
    preparing: FuturesUnordered<Pin<Box<dyn Future<Output = Prepared> + Send>>>,
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
            turns: Turns::new(SHARE),
            preparing: FuturesUnordered::new(),
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
        for job in self.turns.into_jobs() {
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
                job = next(&mut self.turns, &mut self.jobs, idle), if room => {
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
    fn admit(&mut self, job: Job, frame_max: u32) -> Option<Job> {
        let mut job = self.turns.admit(job)?;
        if let Err(refused) = properties::check_size(&job.envelope.message, frame_max) {
            self.turns.release(job.owner);
            job.answer(Err(refused));
            return None;
        }
        let Some(place) = job.envelope.place.clone() else { return Some(self.goes(job)) };
        if let Some(recalled) = self.topology.recall(&place, &job.envelope.arguments) {
            job.warning = recalled.warning;
            return Some(self.goes(job));
        }
        self.turns.prepares(job.owner);
        let topology = Arc::clone(&self.topology);
        self.preparing.push(Box::pin(async move {
            let prepared = topology.ensure(&place, &job.envelope.arguments).await;
            (job, prepared)
        }));
        None
    }

    fn goes(&mut self, job: Job) -> Job {
        self.turns.flies(job.owner);
        job
    }

    /// What the message needs is there, or cannot be.
    fn prepared(&mut self, job: Job, prepared: Result<Option<Warning>, BrokerError>) {
        let owner = job.owner;
        match prepared {
            Ok(_) => self.turns.again(job),
            Err(refused) => job.answer(Err(refused)),
        }
        self.turns.is_prepared(owner);
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
            self.turns.landed(job.owner);
            match answer {
                Ok(confirmation) => confirmed.push((job, confirmation)),
                Err(error) => failed.push((job, error)),
            }
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
                    self.turns.again(job);
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
    fn keep(&mut self, failed: Vec<(Job, Error)>, undecided: Vec<Job>) {
        let by_channel = failed.iter().any(|(_, error)| channel_error(error).is_some());
        let only_one = failed.len() == 1 && undecided.is_empty();
        for mut job in undecided {
            (job.republished, job.alone) = (true, by_channel);
            self.turns.again(job);
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
            self.turns.again(job);
        }
    }

    /// The broker has closed the channel for this message.
    fn refused(&mut self, mut job: Job, error: &Error) {
        if let (Some(place), Some(NOT_FOUND)) = (&job.envelope.place, channel_error(error)) {
            self.topology.forget(place);
            if *place == Place::UserExchange && !job.remade {
                job.remade = true;
                self.turns.again(job);
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

/// The next message: first those that were there before.
async fn next(turns: &mut Turns, jobs: &mut mpsc::UnboundedReceiver<Job>, idle: bool) -> Option<Job> {
    match turns.next(idle) {
        Poll::Ready(Some(job)) => Some(job),
        Poll::Ready(None) => jobs.recv().await,
        Poll::Pending => pending().await,
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
    let (_all, _one);
    if job.suspect {
        _all = flights.write().await;
    } else {
        _one = flights.read().await;
    }
    // At one place, as each place where it is awaited makes every message's future larger by all that publishing needs.
    let confirmation = async {
        let Envelope { exchange, key, message, .. } = &*job.envelope;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        channel.basic_publish(exchange.clone(), key.clone(), options, &message.body, properties).await?.await
    }
    .await;
    (job, confirmation)
}
