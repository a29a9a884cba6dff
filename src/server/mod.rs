//! The edge: sockets, WebSocket, and the one task that each client has.

mod settings;

pub use settings::{OutboxPolicy, OutboxSettings, Settings, Tls, WhenFull};
