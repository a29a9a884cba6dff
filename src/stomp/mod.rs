//! STOMP 1.0, 1.1 and 1.2 on the wire: bytes to frames and back.
//!
//! ```text
//! bytes ──► Decoder ──► Item::{Frame, Heartbeat}          Frame, MessageFrame ──► encode ──► bytes
//! ```
//!
//! Functions of their input alone: no socket, no task, no clock. What a frame *means* is for the session to say; here
//! it is only whether the bytes are a frame, and how a frame is written so that its reader's version can read it.

mod decoder;
mod dialect;
mod encoder;
mod error;
mod frame;
mod head;
mod heartbeat;
#[cfg(test)]
mod properties;
mod reader;
#[cfg(test)]
mod tests;
mod version;

pub use decoder::{Decoder, Item, Limits};
pub use encoder::{HEARTBEAT, MessageFrame, encode};
pub use error::DecodeError;
pub use frame::{Command, Frame};
pub use heartbeat::Heartbeat;
pub use reader::Reader;
pub use version::Version;
