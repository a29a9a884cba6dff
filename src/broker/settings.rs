//! `[broker]`: which broker stands behind the gateway.

use serde::{Deserialize, Serialize};

use super::{amqp, memory, mqtt};
use crate::settings::Faults;

/// `[broker]`: which broker, and the settings of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Which one. Default `memory`.
    pub kind: Kind,
    /// `[broker.memory]`.
    pub memory: memory::Settings,
    /// `[broker.amqp]`.
    pub amqp: amqp::Settings,
    /// `[broker.mqtt]`.
    pub mqtt: mqtt::Settings,
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
        let refused = |why: &str| {
            let mut faults = Faults::default();
            faults.add("broker.kind", why);
            faults.into_result()
        };
        match self.kind {
            Kind::Memory => self.memory.check(),
            Kind::Amqp if cfg!(feature = "amqp") => self.amqp.check(),
            Kind::Amqp => refused("is \"amqp\", but this program was built without its feature \"amqp\""),
            Kind::Mqtt if cfg!(feature = "mqtt") => self.mqtt.check(),
            Kind::Mqtt => refused("is \"mqtt\", but this program was built without its feature \"mqtt\""),
        }
    }
}
