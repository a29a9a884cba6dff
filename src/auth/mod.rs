//! Who a client is.
//!
//! An authenticator is one file in here: its settings, `impl Authenticator`, tests.

mod broker;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::message::{Credentials, Principal, Refusal};
use crate::settings::Faults;
pub use broker::Broker;
pub use trust::Trust;

/// `[auth]`: how clients are authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How. Default `trust`.
    pub kind: Kind,
    /// Allow `trust` on an address that is not loopback. Default false.
    pub trust_remote: bool,
    /// Sessions at a time of one user; 0 is no limit. Default 0.
    pub max_sessions_per_user: usize,
    /// For `broker`: time for which a login that the broker has accepted is not asked about again. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub cache: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { kind: Kind::default(), trust_remote: false, max_sessions_per_user: 0, cache: Duration::from_mins(1) }
    }
}

impl Settings {
    /// What types alone cannot say.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        faults.demand_time("auth.cache", self.cache);
        faults.into_result()
    }
}

/// The ways of authentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The login is taken as the name, and the passcode is ignored: for development and closed networks.
    #[default]
    Trust,
    /// The broker knows the users, and checks login and passcode.
    Broker,
}

/// Finds out who a client is.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The principal behind these credentials. `session` is the name of the session, unique on this node.
    ///
    /// # Errors
    /// [`Refusal::not_authenticated`] for credentials that are not accepted.
    async fn authenticate(&self, credentials: &Credentials, session: &str) -> Result<Principal, Refusal>;
}

/// The authenticator that the settings ask for.
pub fn authenticator(settings: &Settings) -> Arc<dyn Authenticator> {
    match settings.kind {
        Kind::Trust => Arc::new(Trust),
        Kind::Broker => Arc::new(Broker),
    }
}
