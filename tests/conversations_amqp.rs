//! The conversations of [`conversations`](../conversations/main.rs), held with a gateway in front of a RabbitMQ.
#![cfg(feature = "amqp")]

#[path = "support/amqp_bytes.rs"]
mod amqp_bytes;
#[path = "conversations/peer/amqp.rs"]
mod peer;
#[expect(dead_code, reason = "the broker goes on to the end")]
#[path = "support/rabbitmq.rs"]
mod rabbitmq;
#[expect(dead_code, reason = "some of it speaks of handshakes, which no broker sees")]
#[path = "conversations/support/mod.rs"]
mod support;

#[path = "conversations/access.rs"]
mod access;
#[path = "conversations/acks.rs"]
mod acks;
#[path = "conversations/amqp.rs"]
mod amqp;
#[path = "conversations/amqp_queues.rs"]
mod amqp_queues;
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
#[path = "conversations/nodes.rs"]
mod nodes;
#[path = "conversations/not_mqtt.rs"]
mod not_mqtt;
#[cfg(feature = "otlp")]
#[path = "conversations/otlp.rs"]
mod otlp;
#[path = "conversations/queues.rs"]
mod queues;
#[path = "conversations/receipts.rs"]
mod receipts;
#[path = "conversations/replies.rs"]
mod replies;
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
