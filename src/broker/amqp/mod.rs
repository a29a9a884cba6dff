//! RabbitMQ, or another AMQP 0-9-1 broker, by [lapin].
//!
//! ```text
//! SEND ───────────► publisher: a few confirm channels ──────────────► exchange or queue      connection 1
//! /topic ◄── match ◄── shared: a few exclusive queues, many bindings ◄── topic exchange      connection 2
//! /queue, acks ◄────── dedicated: one channel for each subscription ◄── its queue            connections 3…
//! /exchange ◄───────── exchanges: the same, once for all who read the same binding
//! ```
//!
//! The broker sees a handful of connections however many clients there are. Publishing and consuming have connections
//! of their own: a broker that blocks publishers (`connection.blocked`) stops everything that lapin writes, acks too.
//! That is the link of the service account. A virtual host of the map has another, and with `identity = "per-user"` each
//! user has one: see `users.rs`. Nothing is shared between links.
//!
//! lapin's own recovery stays off; `connection.rs` reconnects, and each part brings back what it had.
//!
//! [lapin]: https://docs.rs/lapin

mod settings;

#[cfg(feature = "amqp")]
mod arguments;
#[cfg(feature = "amqp")]
mod binder;
#[cfg(feature = "amqp")]
mod broker;
#[cfg(feature = "amqp")]
mod closings;
#[cfg(feature = "amqp")]
mod connection;
#[cfg(feature = "amqp")]
mod dedicated;
#[cfg(feature = "amqp")]
mod dial;
#[cfg(feature = "amqp")]
mod errors;
#[cfg(feature = "amqp")]
mod exchanges;
#[cfg(feature = "amqp")]
mod isolation;
#[cfg(feature = "amqp")]
mod job;
#[cfg(feature = "amqp")]
mod ledger;
#[cfg(feature = "amqp")]
mod link;
#[cfg(feature = "amqp")]
mod names;
#[cfg(feature = "amqp")]
mod opening;
#[cfg(feature = "amqp")]
mod properties;
#[cfg(feature = "amqp")]
mod publisher;
#[cfg(feature = "amqp")]
mod returns;
#[cfg(feature = "amqp")]
mod shared;
#[cfg(feature = "amqp")]
mod source;
#[cfg(feature = "amqp")]
mod topology;
#[cfg(feature = "amqp")]
mod turns;
#[cfg(feature = "amqp")]
mod unacknowledged;
#[cfg(feature = "amqp")]
mod users;
#[cfg(feature = "amqp")]
mod window;
#[cfg(feature = "amqp")]
mod worker;

pub use settings::{Identity, Settings, TopicSlash, Uri};

#[cfg(feature = "amqp")]
pub use broker::{Amqp, ConnectError, connect};
