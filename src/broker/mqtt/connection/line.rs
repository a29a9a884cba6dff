//! One connection over time, for as long as somebody needs it.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::witness::Ear;
use super::{CLOSING, Connector, Session, Verdict};
use crate::broker::mqtt::wire::{Arrival, Client, Driver, Event, Fault, Granted};
use crate::broker::{BrokerError, LinkState, backoff};

/// A reader whose connections broke so often in a row by what they brought breaks the next one, too.
const POISONED: u32 = 3;

/// What a connection is for.
pub(in crate::broker::mqtt) struct Plan {
    name: &'static str,
    pub(super) receive_maximum: Option<u16>,
    pub(super) is_manual: bool,
    /// Without it, the broker is not up.
    is_vital: bool,
    /// With a session that has a name.
    pub(super) session: Option<Session>,
}

/// What gets the messages.
type Sink = Box<dyn Fn(&Arc<Live>, Arrival) + Send + Sync>;

/// One connection over time.
pub(in crate::broker::mqtt) struct Line {
    pub(super) plan: Plan,
    /// For its session, if it has one.
    pub(super) ear: Option<Ear>,
    index: Option<usize>,
    connector: Arc<Connector>,
    sink: Sink,
    /// Nobody needs it any more.
    ended: watch::Sender<bool>,
    /// Its task has ended, and its last connection is closed.
    over: watch::Sender<bool>,
    /// Why it ended by itself.
    verdict: OnceLock<Verdict>,
    /// Why the broker did not accept it, the last time that it said so.
    refused: watch::Sender<Option<String>>,
    live: watch::Sender<Option<Arc<Live>>>,
    generations: AtomicU64,
}

/// Ends a line unless it is kept: for whoever opens one, and may give up at any time.
pub(in crate::broker::mqtt) struct Trial(Option<Arc<Line>>);

/// A connection that was there when it was asked for.
pub(in crate::broker::mqtt) struct Live {
    pub(in crate::broker::mqtt) client: Client,
    pub(in crate::broker::mqtt) granted: Granted,
    /// Which of its line's connections it is; the first is 1.
    pub(in crate::broker::mqtt) generation: u64,
}

impl Plan {
    /// One that everybody shares.
    pub(in crate::broker::mqtt) fn shared(name: &'static str) -> Self {
        Plan { name, receive_maximum: None, is_manual: false, is_vital: true, session: None }
    }

    /// One for a reader that acknowledges, and may have so much unsettled.
    pub(in crate::broker::mqtt) fn dedicated(name: &'static str, prefetch: u16) -> Self {
        Plan { name, receive_maximum: Some(prefetch.max(1)), is_manual: true, is_vital: false, session: None }
    }

    /// The same, with a session that has a name.
    pub(in crate::broker::mqtt) fn named(name: &'static str, prefetch: u16, session: Session) -> Self {
        Plan { session: Some(session), ..Plan::dedicated(name, prefetch) }
    }
}

impl Line {
    /// Begins to connect. It needs a tokio runtime. `sink` gets what arrives, on the task that drives the connection: it
    /// must not wait.
    pub(in crate::broker::mqtt) fn start(
        connector: &Arc<Connector>,
        plan: Plan,
        sink: impl Fn(&Arc<Live>, Arrival) + Send + Sync + 'static,
    ) -> Arc<Line> {
        let index = plan.is_vital.then(|| {
            let mut lines = connector.status.lines.lock().unwrap_or_else(PoisonError::into_inner);
            // One more connection for a broker that is up does not mean that the broker is not.
            lines.push(*connector.status.state.borrow());
            lines.len() - 1
        });
        let line = Arc::new(Line {
            ear: plan.session.as_ref().map(Ear::of),
            plan,
            index,
            connector: Arc::clone(connector),
            sink: Box::new(sink),
            ended: watch::Sender::new(false),
            over: watch::Sender::new(false),
            verdict: OnceLock::new(),
            refused: watch::Sender::new(None),
            live: watch::Sender::new(None),
            generations: AtomicU64::new(0),
        });
        connector.status.running.send_modify(|running| *running += 1);
        let task = Arc::clone(&line);
        tokio::spawn(async move {
            task.keep().await;
            if let Some(ear) = &task.ear {
                ear.leave();
            }
            task.over.send_replace(true);
            task.connector.status.running.send_modify(|running| *running -= 1);
        });
        line
    }

    /// Who tells how to connect.
    pub(in crate::broker::mqtt) fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    /// Ends it, after what has been handed over.
    pub(in crate::broker::mqtt) fn end(&self) {
        self.ended.send_replace(true);
    }

    /// Ends it, and comes back when its connection is closed.
    pub(in crate::broker::mqtt) async fn end_now(&self) {
        self.end();
        // The sender is here, so it cannot be dropped before.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Why it ended by itself, if it did.
    pub(in crate::broker::mqtt) fn verdict(&self) -> Option<Verdict> {
        self.verdict.get().copied()
    }

    pub(super) fn end_as(&self, verdict: Verdict) {
        self.verdict.get_or_init(|| verdict);
        self.end();
    }

    /// Comes back when it is ended, or the broker is closed.
    pub(in crate::broker::mqtt) async fn finished(&self) {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            () = self.connector.closed() => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
    }

    /// The connection, when there is one, or why the broker does not accept it.
    pub(in crate::broker::mqtt) async fn up_or_refused(&self) -> Result<Arc<Live>, BrokerError> {
        let mut refused = self.refused.subscribe();
        tokio::select! {
            biased;
            up = self.up() => up,
            why = refused.wait_for(Option::is_some) => {
                let why = why.ok().and_then(|why| why.clone()).unwrap_or_default();
                Err(BrokerError::Rejected(format!("the MQTT broker does not accept one more connection: {why}")))
            }
        }
    }

    /// The connection, if there is one now.
    pub(in crate::broker::mqtt) fn now(&self) -> Option<Arc<Live>> {
        self.live.borrow().clone()
    }

    /// The connection, when there is one. `Err` when the broker is closed.
    pub(in crate::broker::mqtt) async fn up(&self) -> Result<Arc<Live>, BrokerError> {
        let mut live = self.live.subscribe();
        tokio::select! {
            biased;
            () = self.finished() => Err(BrokerError::Unavailable),
            up = live.wait_for(Option::is_some) => {
                up.ok().and_then(|live| live.clone()).ok_or(BrokerError::Unavailable)
            }
        }
    }

    /// Comes back when this connection is gone, or the broker is closed.
    pub(in crate::broker::mqtt) async fn gone(&self, generation: u64) {
        let mut live = self.live.subscribe();
        let is_gone = |live: &Option<Arc<Live>>| live.as_ref().is_none_or(|live| live.generation != generation);
        tokio::select! {
            () = self.finished() => {}
            _ = live.wait_for(is_gone) => {}
        }
    }

    /// Makes the connection again and again until the broker is closed.
    async fn keep(&self) {
        let (mut attempt, mut unreadable) = (0, 0);
        let mut told = None;
        loop {
            let connected = tokio::select! {
                biased;
                () = self.finished() => return,
                connected = self.connect() => connected,
            };
            match connected {
                Ok((client, driver, granted)) => {
                    let begun = Instant::now();
                    let (fault, witnessed) = self.hold_witnessed(client, driver, granted).await;
                    if let Some(fault) = fault {
                        // What a session has comes whenever there is room for it; all else that comes again does so at once.
                        let is_again = self.has_a_session() || begun.elapsed() < self.connector.reconnect_max;
                        unreadable = match fault {
                            Fault::Unreadable(_) if is_again => unreadable + 1,
                            Fault::Unreadable(_) => 1,
                            _ => 0,
                        };
                        if self.has_lost_its_session(&fault, witnessed).await {
                            return self.end_as(Verdict::TakenOver);
                        }
                        if unreadable >= POISONED && self.plan.is_manual {
                            return self.end_as(Verdict::Poisoned);
                        }
                    }
                    told = None;
                    attempt = backoff::after(attempt, begun.elapsed(), self.connector.reconnect_max);
                }
                Err(fault) => {
                    if let Fault::Refused(why) = &fault {
                        self.refused.send_replace(Some(why.clone()));
                    }
                    let text = self.connector.told(&fault);
                    // Each reason is told once, not at each attempt.
                    if told.as_ref() == Some(&text) {
                        debug!(connection = self.plan.name, "{text}");
                    } else {
                        warn!(connection = self.plan.name, "{text}");
                        told = Some(text);
                    }
                    attempt += 1;
                }
            }
            tokio::select! {
                () = self.finished() => return,
                () = self.connector.pause(attempt) => {}
            }
            if self.has_a_session() && self.ear.as_ref().is_some_and(Ear::has_heard_a_claim) {
                return self.end_as(Verdict::TakenOver);
            }
        }
    }

    /// A connection that has been accepted; others have been told of it before.
    async fn connect(&self) -> Result<(Client, Driver, Granted), Fault> {
        if let Some(ear) = &self.ear {
            ear.claim().await;
        }
        self.connector.connect(&self.plan).await
    }

    /// Lends a connection out until it breaks or the broker is closed.
    pub(super) async fn hold(&self, client: Client, mut driver: Driver, granted: Granted) -> Option<Fault> {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        if self.plan.is_vital {
            info!(connection = self.plan.name, generation, "connected to the broker");
        } else {
            debug!(connection = self.plan.name, generation, "connected to the broker");
        }
        self.refused.send_replace(None);
        self.connector.reconnects.fetch_add(u64::from(generation > 1), Ordering::Relaxed);
        self.connector.connections.fetch_add(1, Ordering::Relaxed);
        let live = Arc::new(Live { client: client.clone(), granted, generation });
        self.live.send_replace(Some(Arc::clone(&live)));
        self.connector.set_state(self.index, LinkState::Up);
        let fault = {
            let mut drive = pin!(self.drive(&live, &mut driver));
            tokio::select! {
                fault = &mut drive => Some(fault),
                () = self.finished() => {
                    client.disconnect();
                    // The same future goes on: what it had begun to write is written. It ends with the good-bye; a broker
                    // that does not read keeps nobody.
                    let _ = tokio::time::timeout(CLOSING, drive).await;
                    None
                }
            }
        };
        self.live.send_replace(None);
        self.connector.connections.fetch_sub(1, Ordering::Relaxed);
        self.connector.set_state(self.index, LinkState::Recovering);
        if let Some(fault) = &fault {
            warn!(connection = self.plan.name, generation, "the connection is gone: {fault}");
        }
        fault
    }

    async fn drive(&self, live: &Arc<Live>, driver: &mut Driver) -> Fault {
        loop {
            match driver.next().await {
                Ok(Event::Arrived(arrival)) => (self.sink)(live, arrival),
                Ok(Event::Up(_) | Event::Other) => {}
                Err(fault) => return fault,
            }
        }
    }
}

impl Trial {
    /// Watches over this one.
    pub(in crate::broker::mqtt) fn of(line: &Arc<Line>) -> Self {
        Trial(Some(Arc::clone(line)))
    }

    /// It is to stay.
    pub(in crate::broker::mqtt) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(line) = &self.0 {
            line.end();
        }
    }
}
