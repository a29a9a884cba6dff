//! Subscriptions at the broker: asked for again on each connection, until the broker has answered.
//!
//! Some brokers answer what they do not like by closing the connection. So a subscription that was lost with its connection
//! more than once is suspect: it is asked for alone, on a connection that has just shown that it holds, and given up when it
//! breaks that, too.

use std::sync::Arc;

use tracing::warn;

use super::connection::{Line, Live};
use super::mailbox::Mailbox;
use super::properties::Reading;
use super::wire::{Arrival, Filter, Granted, Subscribed};
use crate::broker::BrokerError;
use crate::message::Destination;

/// A subscription that was lost so often is suspect.
pub(super) const SUSPECT: u32 = 2;
/// One that was lost so often is what breaks the connections.
pub(super) const DEADLY: u32 = 4;

/// What has a connection for itself, and one subscription on it.
pub(super) trait Upstream: Send + Sync {
    /// The connection.
    fn line(&self) -> &Arc<Line>;

    /// Where its messages go.
    fn mailbox(&self) -> &Mailbox;

    /// What errors speak of.
    fn what(&self) -> String;

    /// What to ask for on this connection; or what the broker lacks for it.
    fn filter(&self, live: &Live) -> Result<Filter, BrokerError>;

    /// The broker has granted it on this connection; whether this quality of service will do.
    fn granted(&self, _live: &Live, _qos: u8) -> Result<(), BrokerError> {
        Ok(())
    }

    /// There is another connection, on which it will be subscribed to.
    fn begun(&self, _live: &Live) {}

    /// It is subscribed to on another connection.
    fn restored(&self, _live: &Live) {}

    /// A message came, and goes to `wanted` if the reader wants it. Others may be owed an acknowledgement before one that
    /// nobody wants.
    fn receive(&self, reading: Reading, live: &Arc<Live>, arrival: &Arrival, wanted: Option<Destination>) {
        match wanted {
            Some(destination) => {
                let message = reading.message(destination, arrival);
                self.mailbox().arrived(live, arrival, Arc::new(message), arrival.dup);
            }
            None => self.mailbox().skip(live, arrival),
        }
    }

    /// Why nothing more comes.
    fn over(&self) -> BrokerError {
        BrokerError::Unavailable
    }
}

/// Subscribes for somebody who waits for it; comes back with the connection on which the broker has granted it.
///
/// # Errors
/// Also when the broker does not accept the connection now.
pub(super) async fn open(upstream: &dyn Upstream) -> Result<Arc<Live>, BrokerError> {
    let mut attempts = Attempts::at(upstream.what());
    loop {
        let live = upstream.line().up_or_refused().await.map_err(|why| ended(upstream, why))?;
        if attempts.of(upstream, &live).await? {
            return Ok(live);
        }
    }
}

/// Subscribes again on each connection after this one. Comes back with the reason when nothing more can come.
pub(super) async fn tend(upstream: &dyn Upstream, mut granted_on: Arc<Live>) -> BrokerError {
    loop {
        upstream.line().gone(granted_on.generation).await;
        let mut attempts = Attempts::at(upstream.what());
        granted_on = loop {
            let Ok(live) = upstream.line().up().await else { return upstream.over() };
            // Ahead of what comes by this connection.
            upstream.mailbox().begin(&live);
            upstream.begun(&live);
            match attempts.of(upstream, &live).await {
                Ok(true) => break live,
                Ok(false) => {}
                Err(refused) => return refused,
            }
        };
        upstream.restored(&granted_on);
    }
}

/// Why a connection is no more.
fn ended(upstream: &dyn Upstream, why: BrokerError) -> BrokerError {
    if why == BrokerError::Unavailable { upstream.over() } else { why }
}

/// Whether the broker can do what a filter asks for; `what` is how the reader wrote it.
pub(super) fn check_wildcards(granted: &Granted, filter: &str, what: &str) -> Result<(), BrokerError> {
    if granted.wildcards || !filter.contains(['+', '#']) {
        return Ok(());
    }
    let why = "the MQTT broker has no subscriptions with wildcards; name one topic".to_owned();
    Err(BrokerError::Unsupported { what: format!("the pattern {what}"), why })
}

/// The attempts at one subscription.
pub(super) struct Attempts {
    what: String,
    lost: u32,
}

impl Attempts {
    /// None yet; errors will speak of `what`.
    pub(super) fn at(what: String) -> Self {
        Attempts { what, lost: 0 }
    }

    /// Whether it may be what breaks the connections, and is to be asked for alone.
    pub(super) fn is_suspect(&self) -> bool {
        self.lost >= SUSPECT
    }

    /// How many were lost.
    pub(super) fn lost(&self) -> u32 {
        self.lost
    }

    /// Asks for it on this connection. `None`: the connection is gone.
    pub(super) async fn on(&mut self, live: &Live, filter: &Filter) -> Result<Option<u8>, BrokerError> {
        let is_suspect = self.is_suspect();
        if is_suspect && !live.client.answers().await {
            return Ok(None); // it would have broken anyhow
        }
        match live.client.subscribe(filter).await {
            Subscribed::Granted(qos) if !is_suspect || live.client.answers().await => Ok(Some(qos)),
            Subscribed::Granted(_) | Subscribed::Lost => self.lose(&filter.path).map(|()| None),
            refused => Err(refused.told(&self.what)),
        }
    }

    /// Asks for what has a connection for itself; whether it was granted. If not, there was a pause.
    async fn of(&mut self, upstream: &dyn Upstream, live: &Live) -> Result<bool, BrokerError> {
        let granted = self.on(live, &upstream.filter(live)?).await?;
        if let Some(qos) = granted {
            return upstream.granted(live, qos).map(|()| true);
        }
        upstream.line().gone(live.generation).await;
        upstream.line().connector().pause(self.lost).await;
        Ok(false)
    }

    /// It was lost, or what it brought broke the connection. `Err` when that was once too often.
    pub(super) fn lose(&mut self, path: &str) -> Result<(), BrokerError> {
        self.lost += 1;
        if self.lost < DEADLY { Ok(()) } else { Err(deadly(&self.what, path)) }
    }
}

/// What to tell, and to write down, of a subscription that breaks connections.
pub(super) fn deadly(what: &str, path: &str) -> BrokerError {
    warn!(filter = path, "a subscription breaks the connection to the broker, and is given up");
    BrokerError::Rejected(format!(
        "{what}: the connection to the MQTT broker broke each time that this was subscribed to (what it brings may be larger \
         than broker.mqtt.max_packet)"
    ))
}
