//! `[broker]`: which broker stands behind the gateway.

use serde::{Deserialize, Serialize};

use super::memory;
use crate::settings::Faults;

/// `[broker]`: which broker, and the settings of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Which one. Default `memory`.
    pub kind: Kind,
    /// `[broker.memory]`.
    pub memory: memory::Settings,
}

/// The brokers that the gateway knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The embedded broker: one process, nothing on disk.
    #[default]
    Memory,
    /// RabbitMQ, or another AMQP 0-9-1 broker.
    Amqp,
    /// An MQTT broker.
    Mqtt,
}

impl Settings {
    /// What types alone cannot say: whether this version has the broker, and what that one says of its settings.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        let name = match self.kind {
            Kind::Memory => return self.memory.check(),
            Kind::Amqp => "amqp",
            Kind::Mqtt => "mqtt",
        };
        faults.add(
            "broker.kind",
            format!("is {name:?}, but this version has only the embedded broker; use broker.kind = \"memory\""),
        );
        faults.into_result()
    }
}
