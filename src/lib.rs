//! stompgate: the gateway between browsers and message queues.
pub mod broker;
pub mod message;
pub mod stomp;
