//! The conversations are held with a gateway on its embedded broker.

use std::future::{Ready, ready};
use std::time::Duration;

use stompgate::config::Config;

pub(crate) use stompgate::gateway::Gateway;

use crate::support::Place;

/// Long enough for the slowest machine: what takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The details that only a gateway has are looked at, too.
pub(crate) const IS_A_GATEWAY: bool = true;

/// Whether the RECEIPT of what reaches nobody says so.
pub(crate) const TELLS_UNROUTED: bool = true;

/// What every gateway of this program is given before the test's own settings.
pub(crate) fn prepare(_: &mut Config) {}

/// A queue is made by whoever sends to it.
pub(crate) fn before_sending(_frame: &[u8], _gateway: &Place) -> Ready<()> {
    ready(())
}

/// The `host` of a CONNECT.
pub(crate) fn host() -> &'static str {
    "localhost"
}
