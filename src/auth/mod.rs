//! Who a client is.

use serde::{Deserialize, Serialize};

/// `[auth]`: how clients are authenticated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How. Default `trust`.
    pub kind: Kind,
    /// Allow `trust` on an address that is not loopback. Default false.
    pub trust_remote: bool,
    /// Sessions at a time of one user; 0 is no limit. Default 0.
    pub max_sessions_per_user: usize,
}

/// The ways of authentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The login is taken as the name, and the passcode is ignored: for development and closed networks.
    #[default]
    Trust,
}
