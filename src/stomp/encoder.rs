//! From frames to bytes.

use bytes::{BufMut, BytesMut};

use crate::message::Headers;

use super::dialect::Dialect;
use super::{Command, Frame, Version};

/// What is sent when there is nothing else to send (STOMP 1.2, “Heart-beating”).
pub const HEARTBEAT: &[u8] = b"\n";

/// Appends `frame` to `out` as a reader of `version` reads it, and returns how many headers were left out.
///
/// A header is left out when that version has no words for it, lest a part of it be read as another header: any name
/// or value with a NUL, one with a CR before 1.2, one with an LF in 1.0 and in a handshake, and a name that is empty, or
/// has a colon in it where nothing is escaped. `content-length` is written from the body, never from the headers, for
/// the commands that may have a body.
pub fn encode(frame: &Frame, version: Version, out: &mut BytesMut) -> usize {
    let dialect = Dialect::for_headers(frame.command, Some(version), &frame.headers);
    out.reserve(wire_size(&frame.headers, &frame.body));
    out.extend_from_slice(frame.command.as_str().as_bytes());
    out.put_u8(b'\n');
    let omitted = write_headers(dialect, &frame.headers, |name| name == "content-length", out);
    if frame.command.may_have_body() || !frame.body.is_empty() {
        write_content_length(frame.body.len(), out);
    }
    write_body(&frame.body, out);
    omitted
}

/// A MESSAGE that is written without a [`Frame`] in between: what differs from reader to reader beside what is shared.
#[derive(Clone, Copy, Debug)]
pub struct MessageFrame<'a> {
    /// The reader's subscription; 1.0 may have none.
    pub subscription: Option<&'a str>,
    /// Identifies the message, in 1.1 also for ACK and NACK.
    pub message_id: &'a str,
    /// What ACK and NACK name in 1.2, if the subscription asks for them.
    pub ack: Option<&'a str>,
    /// Where it was sent to.
    pub destination: &'a str,
    /// It was handed out before.
    pub redelivered: bool,
    /// Messages before it may have been missed.
    pub gap: bool,
    /// The message's own headers. Those that MESSAGE itself owns are not taken from here.
    pub headers: &'a Headers,
    /// The message's body.
    pub body: &'a [u8],
}

impl MessageFrame<'_> {
    /// Appends the frame to `out` as a reader of `version` reads it, and returns how many headers were left out, as
    /// [`encode`] does.
    ///
    /// MESSAGE's own headers come first, because in a reader that trims names a publisher's header could else come
    /// before one of them.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> usize {
        let dialect = Dialect::new(Command::Message, Some(version));
        out.reserve(wire_size(self.headers, self.body) + self.own_size());
        out.extend_from_slice(b"MESSAGE\n");
        let omitted = self.write_own(dialect, out);
        write_content_length(self.body.len(), out);
        let omitted = omitted + write_headers(dialect, self.headers, is_own, out);
        write_body(self.body, out);
        omitted
    }

    fn write_own(&self, dialect: Dialect, out: &mut BytesMut) -> usize {
        let own = [
            ("subscription", self.subscription),
            ("message-id", Some(self.message_id)),
            ("ack", self.ack),
            ("destination", Some(self.destination)),
            ("redelivered", self.redelivered.then_some("true")),
            ("gap", self.gap.then_some("true")),
        ];
        let present = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
        present.filter(|(name, value)| !dialect.write(name, value, out)).count()
    }

    fn own_size(&self) -> usize {
        let names = "subscription:message-id:ack:destination:redelivered:true:gap:true:".len();
        let optional = |text: Option<&str>| text.map_or(0, str::len);
        names + optional(self.subscription) + self.message_id.len() + optional(self.ack) + self.destination.len()
    }
}

/// Headers that only MESSAGE itself may say (contract, §2).
fn is_own(name: &str) -> bool {
    matches!(name, "subscription" | "message-id" | "ack" | "redelivered" | "destination" | "content-length" | "gap")
}

fn write_headers(dialect: Dialect, headers: &Headers, skip: impl Fn(&str) -> bool, out: &mut BytesMut) -> usize {
    let wanted = headers.iter().filter(|(name, _)| !skip(name));
    wanted.filter(|(name, value)| !dialect.write(name, value, out)).count()
}

fn write_content_length(length: usize, out: &mut BytesMut) {
    let mut digits = [0; 20];
    let mut rest = length;
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(rest % 10).unwrap_or(0); // a digit fits
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(b"content-length:");
    out.extend_from_slice(&digits[start..]);
    out.put_u8(b'\n');
}

fn write_body(body: &[u8], out: &mut BytesMut) {
    out.put_u8(b'\n');
    out.extend_from_slice(body);
    out.put_u8(0);
}

/// Enough for a frame in which nothing is escaped.
fn wire_size(headers: &Headers, body: &[u8]) -> usize {
    let command_and_length = 64;
    command_and_length + headers.size() + 2 * headers.len() + body.len()
}
