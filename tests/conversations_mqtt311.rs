//! The conversations of [`conversations`](../conversations/main.rs), held with a gateway in front of a Mosquitto, by MQTT 3.1.1.
//!
//! What 3.1.1 cannot do, and why, `mqtt311.rs` says.
#![cfg(feature = "mqtt")]

#[expect(dead_code, reason = "the broker goes on to the end")]
#[path = "support/mosquitto.rs"]
mod mosquitto;
#[path = "conversations/peer/mqtt.rs"]
mod peer;
#[expect(dead_code, reason = "some of it speaks of handshakes, which no broker sees")]
#[path = "conversations/support/mod.rs"]
mod support;

#[path = "conversations/acks.rs"]
mod acks;
#[path = "conversations/api.rs"]
mod api;
#[path = "conversations/app.rs"]
mod app;
#[path = "conversations/connect.rs"]
mod connect;
#[path = "conversations/durable.rs"]
mod durable;
#[path = "conversations/frames.rs"]
mod frames;
#[path = "conversations/heartbeats.rs"]
mod heartbeats;
#[path = "conversations/limits.rs"]
mod limits;
#[path = "conversations/mqtt.rs"]
mod mqtt;
#[path = "conversations/mqtt311.rs"]
mod mqtt311;
#[path = "conversations/nodes.rs"]
mod nodes;
#[cfg(feature = "otlp")]
#[path = "conversations/otlp.rs"]
mod otlp;
#[path = "conversations/queues.rs"]
mod queues;
#[path = "conversations/receipts.rs"]
mod receipts;
#[path = "conversations/replies.rs"]
mod replies;
#[path = "conversations/retained.rs"]
mod retained;
#[path = "conversations/shutdown.rs"]
mod shutdown;
#[path = "conversations/slow.rs"]
mod slow;
#[path = "conversations/topics.rs"]
mod topics;
#[path = "conversations/traces.rs"]
mod traces;
#[path = "conversations/transactions.rs"]
mod transactions;
#[path = "conversations/will.rs"]
mod will;

const VERSION: stompgate::broker::mqtt::Version = stompgate::broker::mqtt::Version::V311;
