//! The conversations are held with a gateway on its embedded broker.

use std::time::Duration;

use stompgate::config::Config;

pub(crate) use stompgate::gateway::Gateway;

/// Long enough for the slowest machine: what takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// What every gateway of this program is given before the test's own settings.
pub(crate) fn prepare(_: &mut Config) {}
