//! stompgate: the gateway between browsers and message queues.
pub mod auth;
pub mod broker;
pub mod config;
pub mod gateway;
pub mod hub;
pub mod message;
pub mod server;
pub mod session;
pub mod settings;
pub mod stomp;
pub mod telemetry;
