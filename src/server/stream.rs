//! A client's byte stream: plain TCP or TLS, with a bound on what an unknown client may send.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::deflate::Inflater;
use super::frames::Frames;

/// Bytes that are read from the socket at a time, at least where nothing is inflated.
const AT_A_TIME: usize = 4 * 1024;
/// Bytes that are read at a time where they are inflated.
const RAW: usize = 2 * 1024;

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
    /// What has been read and was more than was asked for.
    ahead: Bytes,
    frames: Frames,
    /// Where compression was agreed on: between the bytes that come and those that are read.
    inflater: Option<Box<Inflater>>,
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

    /// From here on nothing is read but to be thrown away: all of it, and as it comes.
    pub(super) fn drain(&mut self) {
        self.lift_budget();
        self.inflater = None;
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

    /// From here on it is frames that are read; `early` is what of them came with the handshake. Returns what of that is
    /// to be read before all else.
    pub(super) fn begin_frames(&mut self, early: Vec<u8>, inflater: Option<Inflater>) -> Vec<u8> {
        self.frames = Frames::default();
        self.inflater = inflater.map(Box::new);
        self.received += early.len() as u64;
        if let Some(inflater) = &mut self.inflater {
            inflater.push(&early);
            return Vec::new();
        }
        self.frames.read(&early);
        early
    }

    /// Reads what comes, as it comes.
    fn poll_raw(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        })?;
        let read = buffer.filled().len() - before;
        self.received += read as u64;
        Poll::Ready(Ok(()))
    }

    /// Reads what comes in pieces of [`AT_A_TIME`], however few bytes are asked for: the buffer above is small, since each
    /// client has one, and this one is nobody's. What does not fit there waits until it is asked for, which is at once.
    fn poll_ahead(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let length = buffer.remaining().min(self.ahead.len());
            buffer.put_slice(&self.ahead.split_to(length));
            return Poll::Ready(Ok(()));
        }
        if buffer.remaining() >= AT_A_TIME {
            return self.poll_raw(context, buffer);
        }
        let mut space = [MaybeUninit::uninit(); AT_A_TIME];
        let mut space = ReadBuf::uninit(&mut space);
        ready!(self.poll_raw(context, &mut space))?;
        let (asked_for, more) = space.filled().split_at(buffer.remaining().min(space.filled().len()));
        buffer.put_slice(asked_for);
        self.ahead = Bytes::copy_from_slice(more);
        Poll::Ready(Ok(()))
    }

    /// Reads what comes of what comes, once it has been inflated.
    fn poll_inflated(
        &mut self,
        inflater: &mut Inflater,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let read = inflater.read(buffer.initialize_unfilled()).map_err(io::Error::other)?;
            if read > 0 {
                buffer.advance(read);
                return Poll::Ready(Ok(()));
            }
            let mut raw = [0; RAW];
            let mut raw = ReadBuf::new(&mut raw);
            ready!(self.poll_raw(context, &mut raw))?;
            if raw.filled().is_empty() {
                return Poll::Ready(Ok(())); // the end
            }
            inflater.push(raw.filled());
        }
    }

    /// Whether a frame came that was larger than `buffer` bytes, and no part of any frame waits to be completed.
    pub(super) fn has_read_more_than(&self, buffer: usize) -> bool {
        self.frames.largest() > buffer as u64 && self.is_between_messages()
    }

    /// Whether no part of any frame waits to be completed.
    pub(super) fn is_between_messages(&self) -> bool {
        self.frames.is_between_messages()
    }

    /// The buffer above is small again.
    pub(super) fn forget_growth(&mut self) {
        self.frames.forget_largest();
    }

    /// Whether the budget is spent.
    pub(super) fn is_spent(&self) -> bool {
        self.budget == Some(0)
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Transport::Plain(stream).into()
    }
}

impl From<TlsStream<TcpStream>> for Stream {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Transport::Tls(Box::new(stream)).into()
    }
}

impl From<Transport> for Stream {
    fn from(transport: Transport) -> Self {
        Stream {
            transport,
            budget: None,
            received: 0,
            sent: 0,
            ahead: Bytes::new(),
            frames: Frames::default(),
            inflater: None,
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
        let polled = match self.inflater.take() {
            None => self.poll_ahead(context, buffer),
            Some(mut inflater) => {
                let polled = self.poll_inflated(&mut inflater, context, buffer);
                self.inflater = Some(inflater);
                polled
            }
        };
        let Stream { budget, frames, .. } = &mut *self;
        let read = &buffer.filled()[before..];
        if let Some(budget) = budget {
            *budget = budget.saturating_sub(read.len());
        }
        frames.read(read);
        polled
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn bytes_come_in_their_order_however_few_are_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let sent: Vec<u8> = (0..=250).cycle().take(3 * AT_A_TIME + 7).collect();
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();

        let mut stream = Stream::from(listener.accept().await.unwrap().0);
        let mut read = Vec::new();
        for size in [1, 16, 300, AT_A_TIME, 2 * AT_A_TIME].into_iter().cycle() {
            let mut piece = vec![0; size];
            match stream.read(&mut piece).await.unwrap() {
                0 => break,
                length => read.extend_from_slice(&piece[..length]),
            }
        }
        assert!(read == sent, "{} bytes of {}", read.len(), sent.len());
        assert_eq!(stream.received(), sent.len() as u64);
    }
}
