//! What all connections have in common: where they go, and the state of the broker that is made of theirs.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::line::Plan;
use super::{CLOSING, random, tls};
use crate::broker::mqtt::address::{Address, Scheme};
use crate::broker::mqtt::settings::{Settings, Version};
use crate::broker::mqtt::wire::{self, Client, Driver, Endpoint, Event, Fault, Granted, Options};
use crate::broker::{LinkState, backoff};

/// What all connections have in common.
pub(in crate::broker::mqtt) struct Connector {
    endpoint: Endpoint,
    client_id: String,
    pub(in crate::broker::mqtt) reconnect_max: Duration,
    closed: watch::Sender<bool>,
    pub(super) status: Status,
    pub(super) connections: AtomicUsize,
    pub(super) reconnects: AtomicU64,
}

/// The state of the broker, made of the states of its connections.
pub(super) struct Status {
    pub(super) lines: Mutex<Vec<LinkState>>,
    /// Lines whose task has not ended.
    pub(super) running: watch::Sender<usize>,
    pub(super) state: watch::Sender<LinkState>,
}

impl Connector {
    /// Reads the files that the settings name.
    pub(in crate::broker::mqtt) fn new(settings: &Settings) -> Result<Arc<Self>, (&'static str, String)> {
        let address = Address::parse(&settings.uri.0).map_err(|why| ("broker.mqtt.uri", why.to_owned()))?;
        let tls = match address.scheme {
            Scheme::Mqtt | Scheme::Ws => None,
            Scheme::Mqtts | Scheme::Wss => Some(Arc::new(tls::config(settings)?)),
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
    pub(in crate::broker::mqtt) fn state(&self) -> watch::Receiver<LinkState> {
        self.status.state.subscribe()
    }

    /// How often a connection was made again.
    pub(in crate::broker::mqtt) fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// How many connections are there now.
    pub(in crate::broker::mqtt) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Ends all lines.
    pub(in crate::broker::mqtt) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Ends all lines, and comes back when their connections are closed or have had the time for it.
    pub(in crate::broker::mqtt) async fn shut_down(&self) {
        self.close();
        let ended = async { self.status.running.subscribe().wait_for(|running| *running == 0).await.map(drop) };
        let _ = tokio::time::timeout(CLOSING, ended).await; // a broker that does not answer keeps nobody
    }

    /// Whether all lines are ended.
    pub(in crate::broker::mqtt) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Comes back when all lines are ended.
    pub(in crate::broker::mqtt) async fn closed(&self) {
        // The sender is here, so it cannot be dropped before.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// A pause before the next attempt.
    pub(in crate::broker::mqtt) async fn pause(&self, attempt: u32) {
        backoff::pause(attempt, self.reconnect_max).await;
    }

    /// A connection that has been accepted.
    pub(super) async fn connect(&self, plan: &Plan) -> Result<(Client, Driver, Granted), Fault> {
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
    pub(super) fn told(&self, fault: &Fault) -> String {
        let hint = match (fault, self.endpoint.version) {
            (Fault::Closed(_), Version::V5) => "; perhaps it speaks 3.1.1 only: try broker.mqtt.version = \"3.1.1\"",
            _ => "",
        };
        format!("{fault}{hint}")
    }

    pub(super) fn set_state(&self, line: Option<usize>, state: LinkState) {
        let Some(line) = line else { return };
        let mut lines = self.status.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lines.get_mut(line) {
            *known = state;
        }
        let all = if lines.contains(&LinkState::Recovering) { LinkState::Recovering } else { LinkState::Up };
        self.status.state.send_if_modified(|known| std::mem::replace(known, all) != all);
    }
}
