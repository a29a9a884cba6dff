//! Messages from a client: compressed ones are made plain before tungstenite reads them.
//!
//! What it reads of a compressed message is fragments of [`PIECE`] bytes at most, masked with zeros, as they are inflated:
//! its limit for messages, its check of UTF-8 and its rules for fragments hold for them as for any other. Nothing is
//! inflated before it is asked for, so a message that grows out of all proportion costs no more than one piece until the
//! limit is met. Every other frame passes as it is, and so does every one that breaks a rule: tungstenite refuses it.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io;

use super::message::Message;
use crate::server::frames::Header;

/// Bytes that are inflated at a time.
const PIECE: usize = 2 * 1024;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RESERVED: u8 = 0x70;
/// Marks a frame as masked (RFC 6455 §5.2), with a key of zeros.
const MASKED: u8 = 0x80;

/// Why a message cannot be inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Fault {
    /// It is no DEFLATE data.
    Corrupt,
    /// It is larger than a message may be, even compressed.
    TooLarge,
}

impl Fault {
    /// The fault behind an error of the stream, if it is one of these.
    pub(in crate::server) fn of(error: &io::Error) -> Option<Fault> {
        error.get_ref().and_then(|error| error.downcast_ref()).copied()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Corrupt => "a compressed message cannot be inflated",
            Fault::TooLarge => "a compressed message is too large",
        })
    }
}

impl std::error::Error for Fault {}

/// What comes from one client, on its way to tungstenite. Holds next to nothing between messages.
#[derive(Debug)]
pub(in crate::server) struct Inflater {
    /// Bytes of the largest message, compressed.
    limit: u64,
    /// As it came, and not looked at yet.
    raw: VecDeque<u8>,
    /// To be read.
    plain: VecDeque<u8>,
    header: Header,
    within: Within,
    /// The compressed message that has begun.
    message: Option<Box<Message>>,
    /// Bytes that it has, compressed.
    length: u64,
}

/// Where the next byte belongs.
#[derive(Debug)]
enum Within {
    Header,
    /// A payload that passes as it is, of which so much is left.
    Plain(u64),
    /// A fragment of the compressed message.
    Fragment(Fragment),
}

#[derive(Clone, Copy, Debug)]
struct Fragment {
    left: u64,
    mask: [u8; 4],
    is_last: bool,
}

impl Inflater {
    /// `limit` is in bytes, and for messages as they are inflated. That is tungstenite's matter; but what inflates to
    /// nothing has an end, too.
    pub(in crate::server) fn new(limit: usize) -> Self {
        // What cannot be compressed grows by 5 bytes in 16 KiB or so, or for each time that its sender flushes.
        let limit = (limit as u64).saturating_add(limit as u64 / 16 + 1024);
        Inflater {
            limit,
            raw: VecDeque::new(),
            plain: VecDeque::new(),
            header: Header::default(),
            within: Within::Header,
            message: None,
            length: 0,
        }
    }

    /// Takes what came.
    pub(in crate::server) fn push(&mut self, bytes: &[u8]) {
        self.raw.extend(bytes);
    }

    /// Writes what there is to be read into `out`, as much as it takes; returns how much that was. None means that more
    /// has to come.
    ///
    /// # Errors
    /// A message that cannot be inflated; then there is nothing more.
    pub(in crate::server) fn read(&mut self, out: &mut [u8]) -> Result<usize, Fault> {
        if self.plain.is_empty() {
            self.advance()?;
        }
        let (plain, _) = self.plain.as_slices();
        let length = plain.len().min(out.len());
        out[..length].copy_from_slice(&plain[..length]);
        self.plain.drain(..length);
        for buffer in [&mut self.raw, &mut self.plain] {
            if buffer.is_empty() && buffer.capacity() > 0 {
                *buffer = VecDeque::new(); // most clients are idle, and an idle one keeps no memory for bytes
            }
        }
        Ok(length)
    }

    /// Makes a piece of what came plain.
    fn advance(&mut self) -> Result<(), Fault> {
        while self.plain.len() < PIECE {
            match self.within {
                Within::Header => {
                    let Some(byte) = self.raw.pop_front() else { break };
                    if self.header.push(byte) {
                        let header = std::mem::take(&mut self.header);
                        self.begin(header)?;
                    }
                }
                Within::Plain(0) => self.within = Within::Header,
                Within::Plain(left) => {
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(self.raw.len()).min(PIECE);
                    if length == 0 {
                        break;
                    }
                    self.plain.extend(self.raw.drain(..length));
                    self.within = Within::Plain(left - length as u64);
                }
                Within::Fragment(fragment) => {
                    let Some(within) = self.inflate(fragment)? else { break };
                    self.within = within;
                }
            }
        }
        Ok(())
    }

    /// A header has come.
    fn begin(&mut self, header: Header) -> Result<(), Fault> {
        let (first, payload) = (header.first(), header.payload());
        let begins = matches!(first & 0x0f, 1 | 2) && first & RESERVED == RSV1 && self.message.is_none();
        let continues = first & (0x0f | RESERVED) == 0 && self.message.is_some();
        if !header.is_masked() || !(begins || continues) {
            self.plain.extend(header.as_bytes());
            self.within = Within::Plain(payload);
            return Ok(());
        }
        if begins {
            // At once, so that tungstenite knows of it whatever comes next.
            self.frame(first & 0x0f, &[]);
            self.message = Some(Box::new(Message::new()));
            self.length = 0;
        }
        self.length = self.length.saturating_add(payload);
        if self.length > self.limit {
            return Err(Fault::TooLarge);
        }
        self.within = Within::Fragment(Fragment { left: payload, mask: header.mask(), is_last: header.is_last() });
        Ok(())
    }

    /// Inflates a piece of a fragment. Says where the next byte belongs, or nothing if more has to come first.
    fn inflate(&mut self, mut fragment: Fragment) -> Result<Option<Within>, Fault> {
        let Some(message) = &mut self.message else { return Ok(Some(Within::Header)) };
        if message.is_drained() {
            let length = usize::try_from(fragment.left).unwrap_or(usize::MAX).min(self.raw.len()).min(PIECE);
            if length == 0 && fragment.left > 0 {
                return Ok(None);
            }
            message.push(self.raw.drain(..length).zip(fragment.mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
            fragment.left -= length as u64;
            fragment.mask.rotate_left(length % 4);
        }
        if fragment.left == 0 && fragment.is_last {
            message.end();
        }
        let mut piece = [0; PIECE];
        let length = message.inflate(&mut piece)?;
        let is_done = message.is_drained() && fragment.left == 0;
        if length > 0 {
            self.frame(0, &piece[..length]);
        }
        if is_done && fragment.is_last {
            self.message.take().map_or(Ok(()), |message| message.finish())?;
            self.frame(FIN, &[]);
        }
        Ok(Some(if is_done { Within::Header } else { Within::Fragment(fragment) }))
    }

    /// Adds a frame for tungstenite to read.
    fn frame(&mut self, first: u8, payload: &[u8]) {
        self.plain.push_back(first);
        match u8::try_from(payload.len()) {
            Ok(short) if short < 126 => self.plain.push_back(MASKED | short),
            _ => {
                let [.., high, low] = payload.len().to_be_bytes(); // a piece at most
                self.plain.extend([MASKED | 0x7e, high, low]);
            }
        }
        self.plain.extend([0; 4]);
        self.plain.extend(payload);
    }
}
