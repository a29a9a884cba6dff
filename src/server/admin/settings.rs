//! `[admin]`: where operators ask.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::Faults;

/// `[admin]`: the port for metrics and health, apart from that of the clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whether there is such a port. Default true.
    pub enabled: bool,
    /// Address and port to listen on. Default `127.0.0.1:9464`.
    pub listen: SocketAddr,
    /// What `/readyz` asks of the broker. Default `broker-up`.
    pub readiness: Readiness,
    /// Requests at a time; further ones wait. Default 16.
    pub max_connections: usize,
    /// Time for one request and its answer. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

/// When a gateway that listens and does not drain is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// While it is connected to the broker, even if that one takes no messages at the moment.
    #[default]
    BrokerUp,
    /// Always: clients keep their sessions while the gateway tries to reach the broker.
    Listening,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            readiness: Readiness::BrokerUp,
            max_connections: 16,
            timeout: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// What types alone cannot say: bounds.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        let expected = format!("is {}; expected 1 to 1024", self.max_connections);
        faults.demand((1..=1024).contains(&self.max_connections), "admin.max_connections", expected);
        faults.demand(self.timeout >= Duration::from_millis(100), "admin.timeout", "must be at least 100ms");
        faults.demand_time("admin.timeout", self.timeout);
        faults.into_result()
    }
}
