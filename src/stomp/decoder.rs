//! From bytes to frames.
//!
//! ```text
//! stream    = *( EOL / frame )                ; an EOL between frames is a heart-beat
//! frame     = command EOL *( header EOL ) EOL body NUL
//! command   = "SEND" / "SUBSCRIBE" / …        ; see Command
//! header    = name ":" value                  ; the first colon divides
//! name      = 1*<UTF-8, without NUL, LF, ":">
//! value     = *<UTF-8, without NUL, LF>
//! body      = <content-length octets> / *<octet but NUL>
//! EOL       = LF / CR LF                      ; CR LF between frames, in 1.2, and in CONNECT and CONNECTED
//! ```
//!
//! How names and values are escaped and padded is in `dialect.rs`.
//!
//! A frame has two units, head and body, and the stream a third, the EOL. A unit that lies whole in one pushed buffer
//! is a slice of it. Otherwise what is there of it is copied to `gathered`, which thus is always the beginning of the
//! unit at hand, and grows by no more than that unit needs. No byte is searched twice: each unit remembers how far it
//! was searched.

use std::mem;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2};

use super::head::{Head, HeadScan};
use super::{Command, DecodeError, Frame, Version, error};

/// How large the parts of a frame may be (STOMP 1.2, “Size Limits”).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many headers.
    pub headers: usize,
    /// Bytes of all header lines, with their line ends and the blank line.
    pub header_bytes: usize,
    /// Bytes of the body.
    pub body: usize,
    /// Bytes of the whole frame, from the command to the NUL: for what comes before CONNECT is through.
    pub frame: Option<usize>,
}

/// What the stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A frame.
    Frame(Frame),
    /// A line end between frames (STOMP 1.2, “Heart-beating”), or after one.
    Heartbeat,
}

/// Reads a stream of bytes, in whatever pieces they come, into frames and heart-beats.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    /// `None` before CONNECTED: all reads like CONNECT.
    version: Option<Version>,
    /// What was pushed and not looked at.
    input: Bytes,
    gathered: BytesMut,
    stage: Stage,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Between,
    Head(HeadScan),
    Body(BodyScan),
    /// After the first fault nobody knows where the next frame begins.
    Failed(DecodeError),
}

#[derive(Debug)]
struct BodyScan {
    head: Head,
    length: Option<usize>,
    scanned: usize,
}

impl Decoder {
    /// A decoder at the beginning of a session, before any version is agreed on.
    pub fn new(limits: Limits) -> Self {
        Decoder { limits, version: None, input: Bytes::new(), gathered: BytesMut::new(), stage: Stage::Between }
    }

    /// Reads further frames by the rules of `version`. Between frames only, that is, before [`Decoder::next`] is asked
    /// for what follows the CONNECT or CONNECTED frame.
    pub fn set_version(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// Holds further frames to these limits.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes the next piece of the stream. Pieces are best pushed one by one, each after [`Decoder::next`] has returned
    /// `None`: then whole frames are never copied.
    pub fn push(&mut self, bytes: Bytes) {
        if matches!(self.stage, Stage::Failed(_)) {
            return;
        }
        if self.input.is_empty() {
            self.input = bytes;
        } else {
            let input = mem::take(&mut self.input);
            let mut joined = input.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared));
            joined.extend_from_slice(&bytes);
            self.input = joined.freeze();
        }
    }

    /// The next frame or heart-beat, or `None` when the stream must go on first.
    ///
    /// # Errors
    /// The first fault in the stream. From then on the answer is always that fault, whatever is pushed.
    #[expect(clippy::should_implement_trait, reason = "an iterator that ends is not what this is")]
    pub fn next(&mut self) -> Result<Option<Item>, DecodeError> {
        if let Stage::Failed(error) = &self.stage {
            return Err(error.clone());
        }
        self.advance().inspect_err(|error| {
            self.stage = Stage::Failed(error.clone());
            self.input = Bytes::new();
            self.gathered = BytesMut::new();
        })
    }

    /// Takes a heart-beat, if one is what comes next, and says how many bytes that was. Frames stay where they are.
    pub fn take_heartbeat(&mut self) -> Option<usize> {
        let is_between = matches!(self.stage, Stage::Between) && self.gathered.is_empty();
        if !is_between || !matches!(self.input[..], [b'\n' | b'\r', ..]) {
            return None;
        }
        let length = line_end(&self.input).ok()??;
        drop(self.input.split_to(length));
        Some(length)
    }

    /// Whether the stream stands between two frames with nothing left to read.
    pub fn is_empty(&self) -> bool {
        self.buffered() == 0
    }

    /// Bytes of the stream that were pushed and have not come out as items.
    pub fn buffered(&self) -> usize {
        let head = if let Stage::Body(scan) = &self.stage { scan.head.size } else { 0 };
        self.input.len() + self.gathered.len() + head
    }

    fn advance(&mut self) -> Result<Option<Item>, DecodeError> {
        loop {
            match self.find_end()? {
                Some(length) => {
                    let unit = self.take(length);
                    if let Some(item) = self.complete(unit)? {
                        return Ok(Some(item));
                    }
                }
                None if self.gather() => {}
                None => return Ok(None),
            }
        }
    }

    /// The length of the unit at hand, if it is complete.
    fn find_end(&mut self) -> Result<Option<usize>, DecodeError> {
        let window = if self.gathered.is_empty() { &self.input[..] } else { &self.gathered[..] };
        if matches!(self.stage, Stage::Between) && !matches!(window, [] | [b'\n' | b'\r', ..]) {
            self.stage = Stage::Head(HeadScan::default());
        }
        match &mut self.stage {
            Stage::Between => line_end(window),
            Stage::Head(scan) => scan.find_end(window, self.version, &self.limits),
            Stage::Body(scan) => scan.find_end(window, self.version, &self.limits),
            Stage::Failed(error) => Err(error.clone()),
        }
    }

    /// Takes the unit at hand out of the buffer that it lies in.
    fn take(&mut self, length: usize) -> Bytes {
        if !self.gathered.is_empty() {
            return mem::take(&mut self.gathered).freeze(); // it holds that unit and no more
        }
        self.input.split_to(length)
    }

    fn complete(&mut self, unit: Bytes) -> Result<Option<Item>, DecodeError> {
        match mem::take(&mut self.stage) {
            Stage::Between => Ok(Some(Item::Heartbeat)),
            Stage::Head(scan) => {
                let head = scan.parse(unit, self.version)?;
                self.stage = Stage::Body(BodyScan::new(head, self.version, &self.limits)?);
                Ok(None)
            }
            Stage::Body(scan) => {
                let Head { command, headers, .. } = scan.head;
                let body = unit.slice(..unit.len() - 1);
                Ok(Some(Item::Frame(Frame { command, headers, body })))
            }
            Stage::Failed(error) => Err(error),
        }
    }

    /// Copies what the unit at hand can use of the input. False when that is all there is.
    fn gather(&mut self) -> bool {
        let is_first = self.gathered.is_empty();
        let length = if is_first { self.input.len() } else { self.usable() };
        self.gathered.extend_from_slice(&self.input.split_to(length));
        length > 0 && !is_first
    }

    fn usable(&self) -> usize {
        let through = |position: Option<usize>| position.map_or(self.input.len(), |position| position + 1);
        match &self.stage {
            Stage::Between | Stage::Failed(_) => self.input.len().min(1),
            Stage::Head(_) => through(memchr2(b'\n', 0, &self.input)),
            Stage::Body(BodyScan { length: Some(length), .. }) => {
                self.input.len().min((length - self.gathered.len()).saturating_add(1))
            }
            Stage::Body(BodyScan { length: None, .. }) => through(memchr(0, &self.input)),
        }
    }
}

/// The EOL at the beginning of `window`, which begins with nothing else.
fn line_end(window: &[u8]) -> Result<Option<usize>, DecodeError> {
    match window {
        [b'\n', ..] => Ok(Some(1)),
        [b'\r', b'\n', ..] => Ok(Some(2)),
        [] | [_] => Ok(None),
        [_, _, ..] => Err(DecodeError::BareCarriageReturn),
    }
}

impl BodyScan {
    /// Judges the body by what the head says of it, before any of it is there.
    fn new(head: Head, version: Option<Version>, limits: &Limits) -> Result<Self, DecodeError> {
        let length = head.headers.get("content-length").map(|value| content_length(value)).transpose()?;
        let scan = BodyScan { head, length, scanned: 0 };
        scan.check_size(length.unwrap_or(0), version, limits)?;
        Ok(scan)
    }

    fn find_end(
        &mut self,
        window: &[u8],
        version: Option<Version>,
        limits: &Limits,
    ) -> Result<Option<usize>, DecodeError> {
        if let Some(length) = self.length {
            return match window.get(length) {
                None => Ok(None),
                Some(0) => Ok(Some(length + 1)),
                Some(_) => Err(DecodeError::MissingNul(length)),
            };
        }
        let end = memchr(0, &window[self.scanned..]).map(|offset| self.scanned + offset);
        self.scanned = end.unwrap_or(window.len());
        self.check_size(self.scanned, version, limits)?;
        Ok(end.map(|end| end + 1))
    }

    /// Whether a body of that many bytes is one too many.
    fn check_size(&self, body: usize, version: Option<Version>, limits: &Limits) -> Result<(), DecodeError> {
        if body > 0 && !may_have_body(self.head.command, version) {
            return Err(DecodeError::UnexpectedBody(self.head.command));
        }
        match limits.frame {
            Some(limit) if limit.saturating_sub(self.head.size) <= body.min(limits.body) => {
                Err(DecodeError::FrameTooLarge(limit)) // no room for the NUL
            }
            _ if body > limits.body => Err(DecodeError::BodyTooLarge { announced: self.length, limit: limits.body }),
            _ => Ok(()),
        }
    }
}

/// 1.0 ignores the body of other frames (there, SUBSCRIBE); 1.1 and 1.2 forbid it.
fn may_have_body(command: Command, version: Option<Version>) -> bool {
    command.may_have_body() || (version == Some(Version::V10) && !command.is_handshake())
}

/// Decimal digits and nothing else (STOMP 1.2, “Header content-length”): `+5` is a number to `parse`, and none here.
fn content_length(value: &str) -> Result<usize, DecodeError> {
    let digits = Some(value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| DecodeError::ContentLength(error::excerpt(value.as_bytes())))
}
