//! The in-memory broker.

use serde::{Deserialize, Serialize};

/// `[broker.memory]`: settings of the in-memory broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {}
