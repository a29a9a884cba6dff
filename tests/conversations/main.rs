//! Conversations with a whole gateway over real sockets: what a client sends, and what it must be answered.
//!
//! Each test has a gateway of its own on a free port. Nothing sleeps and nothing is timed: a test waits for what must
//! come, and [`support::soon`] only keeps one that waits in vain from waiting for ever. That something does *not* come
//! is shown by what comes after it. Where the passage of time is the matter, the settings make it short.
//!
//! The names of the tests are the rules. Together they follow the contract of the gateway clause by clause.

#[path = "peer/memory.rs"]
mod peer;
mod support;

mod access;
mod acks;
mod api;
mod app;
mod app_answers;
mod app_http;
mod app_order;
mod bad_input;
mod connect;
mod deflate;
mod durable;
mod embedded;
mod embedding;
mod frames;
mod handshake;
mod heartbeats;
mod limits;
mod not_mqtt;
mod operation;
#[cfg(feature = "otlp")]
mod otlp;
mod queues;
mod receipts;
mod reload;
mod replies;
mod retained;
mod shutdown;
mod slow;
mod tls;
mod topics;
mod traces;
mod transactions;
mod will;
mod workers;
