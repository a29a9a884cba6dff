//! From frames to the bytes that wait in an outbox.

use bytes::BytesMut;

use super::outbox::Item;
use crate::stomp::{Command, Frame, MessageFrame, Version, encode};

/// Renders a MESSAGE; also says how many headers the reader's version cannot express.
pub fn render(message: &MessageFrame<'_>, version: Version) -> (Item, usize) {
    let mut frame = BytesMut::new();
    let left_out = message.encode(version, &mut frame);
    // Command and headers are text, so the body alone decides (contract, §7: text if it is valid UTF-8).
    let text = std::str::from_utf8(message.body).is_ok();
    (Item::new(frame.freeze(), Some(Command::Message), text), left_out)
}

/// Renders a frame of the session's own.
pub fn render_frame(frame: &Frame, version: Version) -> Item {
    let mut bytes = BytesMut::new();
    encode(frame, version, &mut bytes);
    let text = std::str::from_utf8(&frame.body).is_ok();
    Item::new(bytes.freeze(), Some(frame.command), text)
}
