//! Mosquitto, EMQX, or another MQTT broker: 5 by default, 3.1.1 by setting.
//!
//! ```text
//! SEND ───────────► publisher: one task, confirmed by PUBACK and PUBCOMP ─────► topic          connection 1
//! /topic ◄── match ◄── shared: one subscription for each filter ◄────────────── topic          connection 2
//! /queue, acks ◄────── dedicated: a connection for each subscription ◄───────── its session    connections 3…
//! ```
//!
//! All of it by rumqttc's maintained fork (`rumqttc-v5-next`, `rumqttc-v4-next`): it says what became of each message
//! that was published, which is what a RECEIPT speaks of. rumqttc 0.25.1 does not, and it forgets to free the place of a
//! QoS 2 message that the broker refuses, so that a client without the right to publish could stop all others.
//!
//! A client of the library lives as long as its connection and no longer: reconnecting, publishing again and subscribing
//! again are ours (`connection`), because the library drops what waits when it finds that its session is gone. Nothing
//! waits for anything on the task that polls a connection, so there is no deadlock to be had from it.

mod address;
mod settings;

#[cfg(feature = "mqtt")]
mod connection;
#[cfg(feature = "mqtt")]
mod copies;
#[cfg(feature = "mqtt")]
mod dead_letters;
#[cfg(feature = "mqtt")]
mod dedicated;
#[cfg(feature = "mqtt")]
mod durable;
#[cfg(feature = "mqtt")]
mod fence;
#[cfg(feature = "mqtt")]
mod link;
#[cfg(feature = "mqtt")]
mod mailbox;
#[cfg(feature = "mqtt")]
mod names;
#[cfg(feature = "mqtt")]
mod properties;
#[cfg(feature = "mqtt")]
mod publisher;
#[cfg(feature = "mqtt")]
mod queues;
#[cfg(feature = "mqtt")]
mod replies;
#[cfg(feature = "mqtt")]
mod shared;
#[cfg(feature = "mqtt")]
mod upstream;
#[cfg(feature = "mqtt")]
mod wire;

pub use super::amqp::Uri;
pub use settings::{Settings, Version};

#[cfg(feature = "mqtt")]
pub use link::{ConnectError, Mqtt, connect};
