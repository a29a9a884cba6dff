//! Connections that come back: made, watched, and made again for as long as the broker is in use.
//!
//! A [`Line`] is one connection over time. Whoever uses it takes what is there now with [`Line::up`], and when that
//! fails brings back its own topology on the next one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Event, runtime};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::settings::{Settings, Uri};
use crate::broker::{BrokerError, LinkState};

/// How often a connection is looked at that has said nothing.
const LOOK: Duration = Duration::from_millis(500);
/// The first pause between two attempts; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// A broker that is asked to close a connection has so long for it.
const CLOSING: Duration = Duration::from_secs(2);
/// RabbitMQ allows 2,047 channels on a connection.
const MAX_CHANNELS: usize = 2_000;

/// What all connections have in common.
pub(super) struct Connector {
    uris: Vec<AMQPUri>,
    tls: OwnedTLSConfig,
    connect_timeout: Duration,
    reconnect_max: Duration,
    closed: watch::Sender<bool>,
    status: Status,
    reconnects: AtomicU64,
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
}

/// A connection that was there when it was asked for.
pub(super) struct Live {
    connection: Connection,
    /// Which of its line's connections it is; the first is 1.
    pub(super) generation: u64,
}

/// A channel counted against those of its connection.
pub(super) struct Seat(Arc<Line>);

/// Why a URI is none. The text does not show it, because there may be a passcode in it.
pub(super) fn check_uri(uri: &str) -> Result<AMQPUri, String> {
    uri.parse::<AMQPUri>().map_err(|why| format!("cannot be read: {why}"))
}

impl Connector {
    /// Reads the files that the settings name.
    pub(super) fn new(settings: &Settings) -> Result<Arc<Self>, (&'static str, String)> {
        let mut uris = Vec::new();
        for Uri(uri) in &settings.uri {
            let mut uri = check_uri(uri).map_err(|why| ("broker.amqp.uri", why))?;
            uri.query.frame_max = Some(settings.frame_max);
            uri.query.heartbeat = u16::try_from(settings.heartbeat.as_secs()).ok();
            uris.push(uri);
        }
        let read = |key: &'static str, path: &Option<std::path::PathBuf>| match path {
            None => Ok(None),
            Some(path) => std::fs::read(path).map(Some).map_err(|why| (key, format!("{}: {why}", path.display()))),
        };
        let ca = read("broker.amqp.ca", &settings.ca)?;
        let cert_chain = match ca.map(String::from_utf8) {
            None => None,
            Some(Ok(text)) => Some(text),
            Some(Err(_)) => return Err(("broker.amqp.ca", "is no PEM file".to_owned())),
        };
        let pem = read("broker.amqp.certificate", &settings.certificate)?;
        let key = read("broker.amqp.key", &settings.key)?;
        let identity = pem.zip(key).map(|(pem, key)| OwnedIdentity::PKCS8 { pem, key });
        Ok(Arc::new(Connector {
            uris,
            tls: OwnedTLSConfig { identity, cert_chain },
            connect_timeout: settings.connect_timeout,
            reconnect_max: settings.reconnect_max,
            closed: watch::Sender::new(false),
            status: Status {
                lines: Mutex::default(),
                running: watch::Sender::new(0),
                state: watch::Sender::new(LinkState::Recovering),
            },
            reconnects: AtomicU64::new(0),
        }))
    }

    /// Whether the broker can be used.
    pub(super) fn state(&self) -> watch::Receiver<LinkState> {
        self.status.state.subscribe()
    }

    /// How often a connection was made again.
    pub(super) fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// How many connections are there now.
    pub(super) fn connections(&self) -> usize {
        let lines = self.status.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|state| **state != LinkState::Recovering).count()
    }

    /// The virtual host that all connections are to.
    pub(super) fn virtual_host(&self) -> &str {
        self.uris.first().map_or("/", |uri| &uri.vhost)
    }

    /// Ends all lines.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Ends all lines, and comes back when their connections are closed or have had the time for it.
    pub(super) async fn shut_down(&self) {
        self.close();
        let ended = async { self.status.running.subscribe().wait_for(|running| *running == 0).await.map(drop) };
        let _ = tokio::time::timeout(CLOSING, ended).await; // a broker that does not answer keeps nobody
    }

    /// Whether all lines are ended.
    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Comes back when all lines are ended.
    pub(super) async fn closed(&self) {
        // The sender is here, so it cannot be dropped before.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// A pause before the next attempt, jittered so that many gateways do not come back at once.
    pub(super) async fn pause(&self, attempt: u32) {
        let longest = FIRST_PAUSE.saturating_mul(1 << attempt.min(16)).min(self.reconnect_max);
        let share = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
        tokio::time::sleep(longest.mul_f64(0.5 + share / 2.0)).await;
    }

    async fn connect(&self, name: &str, attempt: u32) -> Result<Connection, String> {
        let at = attempt as usize % self.uris.len().max(1);
        let uri = self.uris.get(at).cloned().unwrap_or_default();
        let properties = ConnectionProperties::default().with_connection_name(format!("stompgate {name}").into());
        let runtime = runtime::default_runtime().map_err(|why| why.to_string())?;
        let connecting = Connection::connect_uri_with_config(uri, properties, self.tls.clone(), runtime);
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(connected) => connected.map_err(|why| why.to_string()),
            Err(_) => Err(format!("no answer within {:?}", self.connect_timeout)),
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

    /// The connection, when there is one. `Err` when the broker is closed.
    pub(super) async fn up(&self) -> Result<Arc<Live>, BrokerError> {
        let mut live = self.live.subscribe();
        tokio::select! {
            biased;
            () = self.connector.closed() => Err(BrokerError::Unavailable),
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
                connected = self.connector.connect(&self.name, attempt) => connected,
            };
            match connected {
                Ok(connection) => {
                    attempt = 0;
                    self.hold(connection).await;
                }
                Err(why) => {
                    let text = format!("the broker cannot be reached: {why}");
                    // An outage is told once, not at each attempt.
                    if attempt == 0 {
                        warn!(connection = self.name, "{text}");
                    } else {
                        debug!(connection = self.name, "{text}");
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

    /// Lends a connection out until it breaks or the broker is closed.
    async fn hold(&self, connection: Connection) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        self.connector.reconnects.fetch_add(u64::from(generation > 1), Ordering::Relaxed);
        info!(connection = self.name, generation, "connected to the broker");
        let mut events = Box::pin(connection.events_listener());
        let live = Arc::new(Live { connection, generation });
        self.live.send_replace(Some(Arc::clone(&live)));
        self.connector.set_state(self.index, LinkState::Up);
        while live.is_up() {
            tokio::select! {
                () = self.connector.closed() => {
                    let closing = live.connection.close(200, "the gateway ends".into());
                    let _ = tokio::time::timeout(CLOSING, closing).await; // it may be gone already, or hang
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
        let taken = self
            .channels
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < MAX_CHANNELS).then_some(count + 1));
        taken.is_ok().then(|| Seat(Arc::clone(self)))
    }
}

impl Live {
    /// Whether it still holds.
    pub(super) fn is_up(&self) -> bool {
        self.connection.status().connected()
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
