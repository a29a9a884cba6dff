//! Connections that come back: made, driven, and made again for as long as the broker is in use.
//!
//! A [`Line`] is one connection over time. Whoever uses it takes what is there now with [`Line::up`], and when that
//! fails brings back its own subscriptions on the next one. Each has a client name of its own that changes with every
//! connection, so that the broker never takes two of them for one, and nobody fights for a name.

use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::address::{Address, Scheme};
use super::names::FENCES;
use super::settings::{Settings, Version};
use super::wire::{self, Arrival, Client, Driver, Endpoint, Event, Fault, Granted, Options, Packet, Published};
use crate::broker::base64::base64url;
use crate::broker::{BrokerError, LinkState, backoff};

/// A broker has so long to take our good-bye.
const CLOSING: Duration = Duration::from_secs(2);
/// A reader whose connections broke so often in a row by what they brought breaks the next one, too.
const POISONED: u32 = 3;

/// What all connections have in common.
pub(super) struct Connector {
    endpoint: Endpoint,
    client_id: String,
    reconnect_max: Duration,
    closed: watch::Sender<bool>,
    status: Status,
    connections: AtomicUsize,
    reconnects: AtomicU64,
}

/// The state of the broker, made of the states of its connections.
struct Status {
    lines: Mutex<Vec<LinkState>>,
    /// Lines whose task has not ended.
    running: watch::Sender<usize>,
    state: watch::Sender<LinkState>,
}

/// What a connection is for.
pub(super) struct Plan {
    name: &'static str,
    receive_maximum: Option<u16>,
    is_manual: bool,
    /// Without it, the broker is not up.
    is_vital: bool,
    /// With a session that has a name.
    session: Option<Session>,
}

/// A session that others can find by its name.
pub(super) struct Session {
    /// The name of the client.
    pub(super) client_id: String,
    /// Seconds for which the broker keeps it without a connection. `None`: it is begun anew, and ends at once.
    pub(super) lasts: Option<u32>,
    /// A connection that is not touched when somebody takes the session over.
    pub(super) witness: Arc<Line>,
}

/// What gets the messages.
type Sink = Box<dyn Fn(&Arc<Live>, Arrival) + Send + Sync>;

/// One connection over time.
pub(super) struct Line {
    plan: Plan,
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

/// Why the session of a line is not gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Somebody else does so.
    TakenOver,
    /// What it brings breaks each connection.
    Poisoned,
}

/// Ends a line unless it is kept: for whoever opens one, and may give up at any time.
pub(super) struct Trial(Option<Arc<Line>>);

/// A connection that was there when it was asked for.
pub(super) struct Live {
    pub(super) client: Client,
    pub(super) granted: Granted,
    /// Which of its line's connections it is; the first is 1.
    pub(super) generation: u64,
}

impl Connector {
    /// Reads the files that the settings name.
    pub(super) fn new(settings: &Settings) -> Result<Arc<Self>, (&'static str, String)> {
        let address = Address::parse(&settings.uri.0).map_err(|why| ("broker.mqtt.uri", why.to_owned()))?;
        let tls = match address.scheme {
            Scheme::Mqtt | Scheme::Ws => None,
            Scheme::Mqtts | Scheme::Wss => Some(Arc::new(tls(settings)?)),
        };
        Ok(Arc::new(Connector {
            endpoint: Endpoint {
                version: settings.version,
                address,
                tls,
                keep_alive: u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX),
                connect_timeout: settings.connect_timeout,
                max_packet: settings.max_packet,
            },
            client_id: settings.client_id.clone(),
            reconnect_max: settings.reconnect_max,
            closed: watch::Sender::new(false),
            status: Status {
                lines: Mutex::default(),
                running: watch::Sender::new(0),
                state: watch::Sender::new(LinkState::Recovering),
            },
            connections: AtomicUsize::new(0),
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
        self.connections.load(Ordering::Relaxed)
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

    /// A pause before the next attempt.
    pub(super) async fn pause(&self, attempt: u32) {
        backoff::pause(attempt, self.reconnect_max).await;
    }

    /// A connection that has been accepted.
    async fn connect(&self, plan: &Plan) -> Result<(Client, Driver, Granted), Fault> {
        let client_id = match &plan.session {
            Some(session) => session.client_id.clone(),
            None => format!("{}-{}", self.client_id, random::<8>().ok_or(Fault::Lost("no randomness".to_owned()))?),
        };
        let options = Options {
            client_id,
            lasts: plan.session.as_ref().and_then(|session| session.lasts),
            receive_maximum: plan.receive_maximum,
            is_manual: plan.is_manual,
        };
        let (client, mut driver) = wire::open(&self.endpoint, &options).map_err(Fault::Lost)?;
        let accepted = async {
            loop {
                if let Event::Up(granted) = driver.next().await? {
                    return Ok(granted);
                }
            }
        };
        let granted = match tokio::time::timeout(self.endpoint.connect_timeout, accepted).await {
            Ok(accepted) => accepted?,
            Err(_) => return Err(Fault::Lost(format!("no answer within {:?}", self.endpoint.connect_timeout))),
        };
        Ok((client, driver, granted))
    }

    /// What went wrong, for the log.
    fn told(&self, fault: &Fault) -> String {
        let hint = match (fault, self.endpoint.version) {
            (Fault::Closed(_), Version::V5) => "; perhaps it speaks 3.1.1 only: try broker.mqtt.version = \"3.1.1\"",
            _ => "",
        };
        format!("{fault}{hint}")
    }

    fn set_state(&self, line: Option<usize>, state: LinkState) {
        let Some(line) = line else { return };
        let mut lines = self.status.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lines.get_mut(line) {
            *known = state;
        }
        let all = if lines.contains(&LinkState::Recovering) { LinkState::Recovering } else { LinkState::Up };
        self.status.state.send_if_modified(|known| std::mem::replace(known, all) != all);
    }
}

impl Plan {
    /// One that everybody shares.
    pub(super) fn shared(name: &'static str) -> Self {
        Plan { name, receive_maximum: None, is_manual: false, is_vital: true, session: None }
    }

    /// One for a reader that acknowledges, and may have so much unsettled.
    pub(super) fn dedicated(name: &'static str, prefetch: u16) -> Self {
        Plan { name, receive_maximum: Some(prefetch.max(1)), is_manual: true, is_vital: false, session: None }
    }

    /// The same, with a session that has a name.
    pub(super) fn named(name: &'static str, prefetch: u16, session: Session) -> Self {
        Plan { session: Some(session), ..Plan::dedicated(name, prefetch) }
    }
}

impl Line {
    /// Begins to connect. It needs a tokio runtime. `sink` gets what arrives, on the task that drives the connection: it
    /// must not wait.
    pub(super) fn start(
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
            task.over.send_replace(true);
            task.connector.status.running.send_modify(|running| *running -= 1);
        });
        line
    }

    /// Who tells how to connect.
    pub(super) fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    /// Ends it, after what has been handed over.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
    }

    /// Ends it, and comes back when its connection is closed.
    pub(super) async fn end_now(&self) {
        self.end();
        // The sender is here, so it cannot be dropped before.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Why it ended by itself, if it did.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.verdict.get().copied()
    }

    fn end_as(&self, verdict: Verdict) {
        self.verdict.get_or_init(|| verdict);
        self.end();
    }

    /// Whether the broker still answers on this connection.
    async fn answers(&self, generation: u64) -> bool {
        let live = self.now().filter(|live| live.generation == generation);
        let (Some(live), Some(random)) = (live, random::<16>()) else { return false };
        let packet = Packet { topic: format!("{FENCES}{random}"), qos: 1, ..Packet::default() };
        let published = tokio::time::timeout(CLOSING, live.client.publish(packet)).await;
        matches!(published, Ok(Published::Taken(_) | Published::Refused(_)))
    }

    /// The connection beside one with a session.
    fn witness(&self) -> Option<&Arc<Line>> {
        self.plan.session.as_ref().filter(|session| session.lasts.is_some()).map(|session| &session.witness)
    }

    /// Whether somebody else has the session now. To connect again would be to fight for it. Few brokers say so (Mosquitto
    /// 2.0.11 does not); but they have closed this connection without a word, and answer on one that was there before.
    async fn has_lost_its_session(&self, fault: &Fault, witnessed: Option<u64>) -> bool {
        let Some(witness) = self.witness() else { return false };
        match (fault, witnessed) {
            (Fault::TakenOver, _) => true,
            (Fault::Closed(_), Some(generation)) => witness.answers(generation).await,
            _ => false,
        }
    }

    /// Comes back when it is ended, or the broker is closed.
    async fn finished(&self) {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            () = self.connector.closed() => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
    }

    /// The connection, when there is one, or why the broker does not accept it.
    pub(super) async fn up_or_refused(&self) -> Result<Arc<Live>, BrokerError> {
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
    pub(super) fn now(&self) -> Option<Arc<Live>> {
        self.live.borrow().clone()
    }

    /// The connection, when there is one. `Err` when the broker is closed.
    pub(super) async fn up(&self) -> Result<Arc<Live>, BrokerError> {
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
    pub(super) async fn gone(&self, generation: u64) {
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
                connected = self.connector.connect(&self.plan) => connected,
            };
            match connected {
                Ok((client, driver, granted)) => {
                    let begun = Instant::now();
                    let (fault, witnessed) = self.hold_witnessed(client, driver, granted).await;
                    if let Some(fault) = fault {
                        // What a session has comes whenever there is room for it; all else that comes again does so at once.
                        let is_again = self.witness().is_some() || begun.elapsed() < self.connector.reconnect_max;
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
        }
    }

    /// The same as [`Line::hold`]; and which connection was there beside it, if there was one.
    async fn hold_witnessed(&self, client: Client, driver: Driver, granted: Granted) -> (Option<Fault>, Option<u64>) {
        let mut hold = pin!(self.hold(client, driver, granted));
        let witnessed = async {
            match self.witness() {
                // It may come up later: at the start, all do at once.
                Some(witness) => witness.up().await.ok().map(|live| live.generation),
                None => None,
            }
        };
        tokio::select! {
            biased;
            witnessed = witnessed => (hold.await, witnessed),
            fault = &mut hold => (fault, None),
        }
    }

    /// Lends a connection out until it breaks or the broker is closed.
    async fn hold(&self, client: Client, mut driver: Driver, granted: Granted) -> Option<Fault> {
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
        let fault = tokio::select! {
            fault = self.drive(&live, &mut driver) => Some(fault),
            () = self.finished() => {
                client.disconnect();
                // It ends when that is written; a broker that does not read keeps nobody.
                let _ = tokio::time::timeout(CLOSING, self.drive(&live, &mut driver)).await;
                None
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
    pub(super) fn of(line: &Arc<Line>) -> Self {
        Trial(Some(Arc::clone(line)))
    }

    /// It is to stay.
    pub(super) fn keep(mut self) {
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

/// Random letters; `None` where there is no randomness.
fn random<const BYTES: usize>() -> Option<String> {
    let mut random = [0; BYTES];
    getrandom::fill(&mut random).ok()?;
    Some(base64url(&random))
}

/// TLS by rustls, with ring as its one crypto provider.
fn tls(settings: &Settings) -> Result<ClientConfig, (&'static str, String)> {
    const CA: &str = "broker.mqtt.ca";
    const CERTIFICATE: &str = "broker.mqtt.certificate";
    let bad = |key, path: &Path, why: &dyn std::fmt::Display| (key, format!("{}: {why}", path.display()));
    let chain = |key, path: &Path| -> Result<Vec<CertificateDer<'static>>, (&'static str, String)> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(chain) if chain.is_empty() => Err(bad(key, path, &"there is no certificate in it")),
            Ok(chain) => Ok(chain),
            Err(why) => Err(bad(key, path, &why)),
        }
    };
    let mut roots = RootCertStore::empty();
    match &settings.ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            for certificate in chain(CA, path)? {
                roots.add(certificate).map_err(|why| bad(CA, path, &why))?;
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|why| (CA, why.to_string()))?
        .with_root_certificates(roots);
    match settings.certificate.as_deref().zip(settings.key.as_deref()) {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|why| bad("broker.mqtt.key", key, &why))?;
            let chain = chain(CERTIFICATE, certificate)?;
            builder.with_client_auth_cert(chain, private).map_err(|why| bad(CERTIFICATE, certificate, &why))
        }
    }
}
