//! The conversations of [`conversations`](conversations/main.rs), held with RabbitMQ's own Web STOMP plugin.
//!
//! `tests/compare` runs this and says where the plugin differs; it is no test of the gateway.
#![cfg(feature = "amqp")]

#[path = "conversations/peer/plugin.rs"]
mod peer;
#[expect(dead_code, reason = "the broker goes on to the end")]
#[path = "support/rabbitmq.rs"]
mod rabbitmq;
#[path = "conversations/support/mod.rs"]
mod support;

#[path = "conversations/acks.rs"]
mod acks;
#[path = "conversations/bad_input.rs"]
mod bad_input;
#[path = "conversations/connect.rs"]
mod connect;
#[path = "conversations/durable.rs"]
mod durable;
#[path = "conversations/frames.rs"]
mod frames;
#[path = "conversations/handshake.rs"]
mod handshake;
#[path = "conversations/heartbeats.rs"]
mod heartbeats;
#[path = "conversations/limits.rs"]
mod limits;
#[path = "conversations/not_mqtt.rs"]
mod not_mqtt;
#[path = "conversations/queues.rs"]
mod queues;
#[path = "conversations/receipts.rs"]
mod receipts;
#[path = "conversations/replies.rs"]
mod replies;
#[path = "conversations/slow.rs"]
mod slow;
#[path = "conversations/topics.rs"]
mod topics;
#[path = "conversations/transactions.rs"]
mod transactions;
#[path = "conversations/will.rs"]
mod will;
