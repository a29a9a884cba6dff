//! Connections that come back: made, watched, and made again for as long as the broker is in use.
//!
//! A [`Line`] is one connection over time. Whoever uses it takes what is there now with [`Line::up`], and when that
//! fails brings back its own topology on the next one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::{Channel, Connection, Event};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::dial::{CLOSING, Dialer, NoConnection};
use crate::broker::{BrokerError, LinkState, backoff};

/// How often a connection is looked at that has said nothing.
const LOOK: Duration = Duration::from_millis(500);
/// So many channels of a connection are for dedicated subscriptions at most: RabbitMQ allows 2,047 in all.
const MAX_CHANNELS: usize = 2_000;
/// So many of those that the broker allows are for other things.
const OTHER_CHANNELS: usize = 47;

/// What all connections have in common.
pub(super) struct Connector {
    dialer: Dialer,
    reconnect_max: Duration,
    /// Why there are to be no connections any more.
    ended: watch::Sender<Option<BrokerError>>,
    status: Status,
}

/// The state of the broker, made of the states of its connections.
struct Status {
    lines: Mutex<Vec<LinkState>>,
    /// Lines whose task has not ended.
    running: watch::Sender<usize>,
    state: watch::Sender<LinkState>,
}

/// One connection over time.
pub(super) struct Line {
    name: String,
    index: usize,
    connector: Arc<Connector>,
    live: watch::Sender<Option<Arc<Live>>>,
    generations: AtomicU64,
    channels: AtomicUsize,
    /// So many there may be.
    max_channels: AtomicUsize,
}

/// A connection that was there when it was asked for.
pub(super) struct Live {
    connection: Connection,
    /// Which of its line's connections it is; the first is 1.
    pub(super) generation: u64,
}

/// A channel counted against those of its connection.
pub(super) struct Seat(Arc<Line>);

impl Connector {
    /// No lines yet.
    pub(super) fn new(dialer: Dialer, reconnect_max: Duration) -> Arc<Self> {
        Arc::new(Connector {
            dialer,
            reconnect_max,
            ended: watch::Sender::new(None),
            status: Status {
                lines: Mutex::default(),
                running: watch::Sender::new(0),
                state: watch::Sender::new(LinkState::Recovering),
            },
        })
    }

    /// Whether the broker can be used.
    pub(super) fn state(&self) -> watch::Receiver<LinkState> {
        self.status.state.subscribe()
    }

    /// How many connections are there now.
    pub(super) fn connections(&self) -> usize {
        let lines = self.status.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|state| **state != LinkState::Recovering).count()
    }

    /// Whether these are connections of a user, not of the service account.
    pub(super) fn is_of_user(&self) -> bool {
        self.dialer.user().is_some()
    }

    /// Ends all lines.
    pub(super) fn close(&self) {
        self.end(BrokerError::Unavailable);
    }

    /// Ends all lines, for this reason unless there was one before.
    fn end(&self, reason: BrokerError) {
        self.ended.send_if_modified(|ended| ended.is_none().then(|| *ended = Some(reason)).is_some());
    }

    /// Why all lines are ended.
    pub(super) fn reason(&self) -> BrokerError {
        self.ended.borrow().clone().unwrap_or(BrokerError::Unavailable)
    }

    /// Ends all lines, and comes back when their connections are closed or have had the time for it.
    pub(super) async fn shut_down(&self) {
        self.close();
        let ended = async { self.status.running.subscribe().wait_for(|running| *running == 0).await.map(drop) };
        let _ = tokio::time::timeout(CLOSING, ended).await; // a broker that does not answer keeps nobody
    }

    /// Whether all lines are ended.
    pub(super) fn is_closed(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Comes back when all lines are ended.
    pub(super) async fn closed(&self) {
        // The sender is here, so it cannot be dropped before.
        let _ = self.ended.subscribe().wait_for(Option::is_some).await;
    }

    /// A pause before the next attempt.
    pub(super) async fn pause(&self, attempt: u32) {
        backoff::pause(attempt, self.reconnect_max).await;
    }

    /// A connection of no line, which nobody makes again; `None` if the broker cannot be reached.
    ///
    /// # Errors
    /// What the broker says if it does not want one more.
    pub(super) async fn alone(&self, name: &str, attempt: u32) -> Result<Option<Arc<Live>>, BrokerError> {
        match self.dialer.dial(name, attempt).await {
            Ok(connection) => Ok(Some(Arc::new(Live { connection, generation: 0 }))),
            Err(NoConnection { refused: Some(refused), .. }) => Err(refused),
            Err(NoConnection { refused: None, .. }) => Ok(None),
        }
    }

    fn set_state(&self, line: usize, state: LinkState) {
        let mut lines = self.status.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lines.get_mut(line) {
            *known = state;
        }
        let all = if lines.contains(&LinkState::Recovering) {
            LinkState::Recovering
        } else if lines.contains(&LinkState::Blocked) {
            LinkState::Blocked
        } else {
            LinkState::Up
        };
        self.status.state.send_if_modified(|known| std::mem::replace(known, all) != all);
    }
}

impl Line {
    /// Begins to connect. It needs a tokio runtime.
    pub(super) fn start(connector: &Arc<Connector>, name: &str) -> Arc<Line> {
        let index = {
            let mut lines = connector.status.lines.lock().unwrap_or_else(PoisonError::into_inner);
            // One more connection for a broker that is up does not mean that the broker is not.
            lines.push(*connector.status.state.borrow());
            lines.len() - 1
        };
        let line = Arc::new(Line {
            name: name.to_owned(),
            index,
            connector: Arc::clone(connector),
            live: watch::Sender::new(None),
            generations: AtomicU64::new(0),
            channels: AtomicUsize::new(0),
            max_channels: AtomicUsize::new(MAX_CHANNELS),
        });
        connector.status.running.send_modify(|running| *running += 1);
        let task = Arc::clone(&line);
        tokio::spawn(async move {
            task.keep().await;
            task.connector.status.running.send_modify(|running| *running -= 1);
        });
        line
    }

    /// Who tells how to connect.
    pub(super) fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    /// The connection, when there is one. `Err` when the lines are ended.
    pub(super) async fn up(&self) -> Result<Arc<Live>, BrokerError> {
        let mut live = self.live.subscribe();
        tokio::select! {
            biased;
            () = self.connector.closed() => Err(self.connector.reason()),
            up = live.wait_for(Option::is_some) => {
                up.ok().and_then(|live| live.clone()).ok_or(BrokerError::Unavailable)
            }
        }
    }

    /// Makes the connection again and again until the broker is closed.
    async fn keep(&self) {
        let mut attempt = 0;
        while !self.connector.is_closed() {
            let connected = tokio::select! {
                biased;
                () = self.connector.closed() => return,
                connected = self.connector.dialer.dial(&self.name, attempt) => connected,
            };
            match connected {
                Ok(connection) => {
                    let begun = Instant::now();
                    self.hold(connection).await;
                    attempt = backoff::after(attempt, begun.elapsed(), self.connector.reconnect_max);
                }
                Err(NoConnection { why, refused }) => {
                    self.tell(attempt, &why);
                    let is_final = !matches!(refused, Some(BrokerError::AccessRefused { .. })); // a limit passes
                    if let (Some(refused), true, true) = (refused, is_final, self.connector.is_of_user()) {
                        // A passcode that has changed, a user that is gone: only the user can do something about it.
                        return self.connector.end(refused);
                    }
                    attempt += 1;
                }
            }
            tokio::select! {
                () = self.connector.closed() => return,
                () = self.connector.pause(attempt) => {}
            }
        }
    }

    /// An outage is told once, not at each attempt; only where another node is tried next, each has its word.
    fn tell(&self, attempt: u32, why: &str) {
        let virtual_host = self.connector.dialer.virtual_host();
        let text = format!("no connection to the broker, virtual host {virtual_host}: {why}");
        if (attempt as usize) < self.connector.dialer.nodes() {
            warn!(connection = self.name, "{text}");
        } else {
            debug!(connection = self.name, "{text}");
        }
    }

    /// Lends a connection out until it breaks or the broker is closed.
    async fn hold(&self, connection: Connection) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        self.connector.dialer.connected(generation);
        info!(connection = self.name, generation, "connected to the broker");
        let allowed = usize::from(connection.configuration().channel_max()).saturating_sub(OTHER_CHANNELS);
        self.max_channels.store(allowed.clamp(1, MAX_CHANNELS), Ordering::Relaxed);
        let mut events = Box::pin(connection.events_listener());
        let live = Arc::new(Live { connection, generation });
        self.live.send_replace(Some(Arc::clone(&live)));
        self.connector.set_state(self.index, LinkState::Up);
        while live.is_up() {
            tokio::select! {
                () = self.connector.closed() => {
                    live.close().await;
                    break;
                }
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(why)) => {
                        warn!(connection = self.name, why, "the broker takes no messages");
                        self.connector.set_state(self.index, LinkState::Blocked);
                    }
                    Some(Event::ConnectionUnblocked) => self.connector.set_state(self.index, LinkState::Up),
                    Some(_) => {}
                    None => break,
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        self.live.send_replace(None);
        self.connector.set_state(self.index, LinkState::Recovering);
        warn!(connection = self.name, generation, "the connection to the broker is gone");
    }

    /// Takes a place for one more channel, if there is one.
    pub(super) fn seat(self: &Arc<Self>) -> Option<Seat> {
        let allowed = self.max_channels.load(Ordering::Relaxed);
        let taken = self
            .channels
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < allowed).then_some(count + 1));
        taken.is_ok().then(|| Seat(Arc::clone(self)))
    }
}

impl Live {
    /// Whether it still holds.
    pub(super) fn is_up(&self) -> bool {
        self.connection.status().connected()
    }

    /// Bytes of the largest frame that both sides allow.
    pub(super) fn frame_max(&self) -> u32 {
        match self.connection.configuration().frame_max() {
            0 => u32::MAX,
            bytes => bytes,
        }
    }

    /// Closes it, and waits a little for that.
    pub(super) async fn close(&self) {
        let closing = self.connection.close(200, "done".into());
        let _ = tokio::time::timeout(CLOSING, closing).await; // it may be gone already, or hang
    }

    /// A new channel.
    pub(super) async fn channel(&self) -> Result<Channel, lapin::Error> {
        self.connection.create_channel().await
    }
}

impl Seat {
    /// The connection that the channel is on.
    pub(super) fn line(&self) -> &Arc<Line> {
        &self.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.channels.fetch_sub(1, Ordering::Relaxed);
    }
}
