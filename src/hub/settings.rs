//! placeholder, moved from server settings
pub use crate::server::{OutboxPolicy, OutboxSettings as Settings, WhenFull};
