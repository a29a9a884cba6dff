//! Reading the settings again while the gateway runs.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::{info, warn};

use super::builder::Program;
use crate::config::Config;
use crate::server::Services;
use crate::server::admin::{Reload, Reloaded};
use crate::telemetry::{Change, Log};

/// Reads the settings as they are now, or says why they are no good.
pub(super) type Read = Arc<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// Reads the settings again, and puts in force what can be.
pub(super) struct Reloader {
    read: Read,
    program: Program,
    services: Arc<Services>,
    log: Log,
    /// What is in force.
    current: Mutex<Config>,
}

impl Reloader {
    pub(super) fn new(read: Read, program: Program, services: Arc<Services>, log: Log, current: Config) -> Self {
        Reloader { read, program, services, log, current: Mutex::new(current) }
    }

    /// All or nothing: whatever can fail is done before anything changes.
    fn try_reload(&self) -> Result<Reloaded, String> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = (self.read)()?;
        let next = reloadable(&current, wanted.clone());
        next.check().map_err(|faults| format!("without a restart it does not go together: {faults}"))?;
        let live = self.program.live(&next, &self.services.metrics).map_err(|error| error.to_string())?;
        let reloaded = Reloaded { applied: current.differences(&next), restart: next.differences(&wanted) };
        // What an operator has set meanwhile stays, unless the settings ask for another level than they did.
        if self.log.state().is_some() && next.log.level != current.log.level {
            let change = Change { level: Some(next.log.level.clone()), sessions: None };
            self.log.change(change).map_err(|why| format!("log.level: {why}"))?;
        }
        self.services.apply(live); // last, since it cannot fail
        *current = next;
        Ok(reloaded)
    }
}

impl Reload for Reloader {
    fn reload(&self) -> Result<Reloaded, String> {
        let result = self.try_reload();
        match &result {
            Ok(Reloaded { applied, restart }) => info!(?applied, ?restart, "the settings have been read again"),
            Err(why) => warn!(why, "the settings stay as they were"),
        }
        result
    }
}

/// The new settings, but for what only a start can carry out.
fn reloadable(current: &Config, wanted: Config) -> Config {
    let mut next = Config {
        broker: current.broker.clone(),
        destination: current.destination.clone(),
        node: current.node.clone(),
        admin: current.admin.clone(),
        metrics: current.metrics.clone(),
        traces: current.traces.clone(),
        ..wanted
    };
    next.log.format = current.log.format;
    next.auth.kind = current.auth.kind;
    next.auth.cache = current.auth.cache;
    next.auth.trust_remote = current.auth.trust_remote;
    next.outbox.policy.clone_from(&current.outbox.policy);
    next.server.listen = current.server.listen;
    next.server.path.clone_from(&current.server.path);
    next.server.workers = current.server.workers;
    if next.server.tls.files().is_some() != current.server.tls.files().is_some() {
        next.server.tls = current.server.tls.clone();
    }
    next
}
