//! A client's byte stream: plain TCP or TLS, with a bound on what an unknown client may send.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// One client's stream.
///
/// Until [`Stream::lift_budget`] is called, reading more than the budget fails: tungstenite holds a message to one size
/// only, and before CONNECT that size would be far too large.
#[derive(Debug)]
pub(super) struct Stream {
    transport: Transport,
    budget: Option<usize>,
    received: u64,
    sent: u64,
    frames: Frames,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Lets at most `bytes` more bytes through.
    pub(super) fn set_budget(&mut self, bytes: usize) {
        self.budget = Some(bytes);
    }

    /// Lets everything through.
    pub(super) fn lift_budget(&mut self) {
        self.budget = None;
    }

    /// How many bytes have come so far: part of a message is a sign of life, too.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// How many bytes the client has taken so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// From here on it is frames that are read; `early` is what of them came with the handshake.
    pub(super) fn begin_frames(&mut self, early: &[u8]) {
        self.frames = Frames::default();
        self.note_read(early);
    }

    fn note_read(&mut self, bytes: &[u8]) {
        self.received += bytes.len() as u64;
        self.frames.read(bytes);
    }

    /// Whether a frame came that was larger than `buffer` bytes, and no part of any frame waits to be completed.
    pub(super) fn has_outgrown(&self, buffer: usize) -> bool {
        self.frames.largest > buffer as u64 && self.frames.is_between_messages()
    }

    /// The buffer above is small again.
    pub(super) fn forget_growth(&mut self) {
        self.frames.largest = 0;
    }

    /// Whether the budget is spent.
    pub(super) fn is_spent(&self) -> bool {
        self.budget == Some(0)
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Stream { transport: Transport::Plain(stream), budget: None, received: 0, sent: 0, frames: Frames::default() }
    }
}

impl From<TlsStream<TcpStream>> for Stream {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Stream {
            transport: Transport::Tls(Box::new(stream)),
            budget: None,
            received: 0,
            sent: 0,
            frames: Frames::default(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_spent() {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        let before = buffer.filled().len();
        ready!(match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        })?;
        let Stream { budget, .. } = &mut *self;
        let read = &buffer.filled()[before..];
        if let Some(budget) = budget {
            *budget = budget.saturating_sub(read.len());
        }
        self.note_read(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        })?;
        self.sent += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Follows the frames in what is read (RFC 6455 §5.2), so as to know when no part of one waits in a buffer above.
#[derive(Debug, Default)]
struct Frames {
    /// The header of the frame that has begun, as far as it came.
    header: [u8; 14],
    header_length: usize,
    payload_left: u64,
    /// A fragmented message has begun and not ended.
    is_fragmented: bool,
    /// Bytes of the largest payload.
    largest: u64,
}

impl Frames {
    fn read(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let length = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload_left -= length as u64;
                bytes = &bytes[length..];
                continue;
            }
            self.header[self.header_length] = *first;
            self.header_length += 1;
            bytes = rest;
            if self.header_length == self.expected_header() {
                self.begin_payload();
            }
        }
    }

    /// Bytes of the header that has begun, as far as it says so.
    fn expected_header(&self) -> usize {
        if self.header_length < 2 {
            return 2;
        }
        let length = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }

    fn begin_payload(&mut self) {
        let [first, second, length @ ..] = &self.header;
        self.payload_left = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([length[0], length[1]])),
            127 => length[..8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            short => u64::from(short),
        };
        let is_control = first & 0x08 != 0;
        if !is_control {
            self.is_fragmented = first & 0x80 == 0;
        }
        self.largest = self.largest.max(self.payload_left);
        self.header_length = 0;
    }

    /// Whether the last byte read was the last one of a message.
    fn is_between_messages(&self) -> bool {
        self.header_length == 0 && self.payload_left == 0 && !self.is_fragmented
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A masked frame as a client sends it, with its length in as many bytes as `longer` asks for at least.
    fn frame(first: u8, payload: usize, longer: u8) -> Vec<u8> {
        let mut bytes = vec![first];
        match (payload, longer) {
            (0..=125, 0) => bytes.push(0x80 | u8::try_from(payload).unwrap()),
            (0..=0xffff, 0 | 1) => {
                bytes.push(0x80 | 0x7e);
                bytes.extend(u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 0x7f);
                bytes.extend((payload as u64).to_be_bytes());
            }
        }
        bytes.extend([0; 4]);
        bytes.extend(vec![0xff; payload]);
        bytes
    }

    #[test]
    fn a_message_in_fragments_ends_with_its_last() {
        let mut frames = Frames::default();
        for (first, is_between) in [(0x01, false), (0x89, false), (0x00, false), (0x80, true), (0x82, true)] {
            frames.read(&frame(first, 10, 0));
            assert_eq!(frames.is_between_messages(), is_between, "{first:#x}");
        }
    }

    proptest! {
        #[test]
        fn the_end_of_a_message_is_known_however_it_is_split(
            lengths in prop::collection::vec((0usize..70_000, 0u8..3), 1..4),
            pieces in 1usize..5_000,
        ) {
            let mut frames = Frames::default();
            for (length, longer) in &lengths {
                let bytes = frame(0x82, *length, *longer);
                let (last, rest) = bytes.split_last().unwrap();
                for piece in rest.chunks(pieces) {
                    frames.read(piece);
                    prop_assert!(!frames.is_between_messages());
                }
                frames.read(&[*last]);
                prop_assert!(frames.is_between_messages());
            }
            prop_assert_eq!(frames.largest, lengths.iter().map(|(length, _)| *length as u64).max().unwrap());
        }
    }
}
