//! stompgate lets browsers talk STOMP over WebSocket to the message queues behind it.
//!
//! # The way of a message
//!
//! ```text
//! browser ──WebSocket──► server ──bytes──► stomp ──frames──► session ──actions──► server ──► broker
//! browser ◄──WebSocket── server ◄──outbox── hub ◄──────────── deliveries ─────────────────── broker
//! ```
//!
//! From SEND to MESSAGE:
//!
//! 1. [`server`], the sender's task: bytes → [`stomp::Decoder`] → [`session::Session::handle`] →
//!    [`session::Action::Publish`].
//! 2. [`chain`], where an interceptor has an interest: what is for `/app` ends there, and what a handler makes of it goes
//!    on. Then [`broker::Link::publish`]; its confirmation comes back as [`session::Input::Done`], and RECEIPT follows.
//! 3. [`hub`]: each message is rendered once for all readers whose frames are the same, and pushed to the
//!    [`hub::outbox::Outbox`] of each. (Queues, and topics with acknowledgements, go to one session's task instead, which
//!    pulls while it has room.)
//! 4. [`server`], the receiver's task: all that waits in the outbox leaves in one write.
//!
//! # The rooms
//!
//! | module | what it is for | may use |
//! |---|---|---|
//! | [`message`] | the words that every layer shares | – |
//! | [`stomp`] | bytes to frames and back; no IO, no clock | `message` |
//! | [`access`] | who may send and subscribe where; no IO, no clock | `message` |
//! | [`session`] | what frames mean, as a function of (input, time) | `message`, `stomp`, `access` |
//! | [`broker`] | what a backend does, and the backends | `message` |
//! | [`chain`] | interceptors, and what answers `/app` | `message` |
//! | [`auth`] | who a client is | `message` |
//! | [`hub`] | one subscription for many readers; what waits for each client | `message`, `stomp`, `broker` |
//! | [`server`] | sockets, HTTP, WebSocket, TLS; one task per client | all above |
//! | [`metrics`] | every metric; used from `broker` on | `message`, `stomp` |
//! | [`traces`] | spans, and where they go; used from `hub` on | `message`, `metrics` |
//! | [`gateway`], [`config`] | joins the parts; gathers their settings | all |
//!
//! Dependencies point down this table only, and a test reads the source to hold that. `docs/semantics.md` is the contract
//! of every frame; comments cite it by its section numbers.
//!
//! # Two rules against deadlock
//!
//! The hub never waits for a session: a full outbox is a decision, not a wait. No lock is held across an await; the order
//! of locks stands at the top of the files that have any.
//!
//! # Embedding
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use stompgate::{config::Config, gateway::Gateway};
//!
//! let gateway = Gateway::start(Config::default())?;
//! println!("listening on {}", gateway.url());
//! gateway.shut_down().await;
//! # Ok(())
//! # })
//! # }
//! ```
#![warn(missing_docs)]

pub mod access;
pub mod auth;
pub mod broker;
pub mod chain;
pub mod config;
pub mod gateway;
pub mod hub;
pub mod message;
pub mod metrics;
mod outbound;
pub mod server;
pub mod session;
pub mod settings;
pub mod stomp;
pub mod telemetry;
pub mod traces;
