//! One client's WebSocket: what is written in fragments, what is read, and how it ends.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{FutureExt, Sink, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use super::deflate::{Agreed, Deflater, Inflater, Settings};
use super::stream::Stream;
use crate::hub::outbox::Compressed;
use crate::message::CloseCode;

/// Larger messages are sent in fragments of this many bytes: tungstenite's write buffer keeps the size of the most that
/// it ever held.
const FRAGMENT: usize = 16 * 1024;
/// Bytes that a read or a write buffer may have until its client is at rest.
const GROWN: usize = 4 * 1024;
/// Bytes of Pongs that may wait beside.
const PONGS: usize = 1024;
/// Bytes of a close frame's reason (RFC 6455 §5.5: a control frame has at most 125, two of them the code).
const REASON: usize = 123;

/// One client's WebSocket.
pub(super) struct Socket {
    /// Absent only while it is renewed.
    websocket: Option<WebSocketStream<Stream>>,
    is_flushed: bool,
    /// Bytes in the write buffer, those written among them, since it was flushed; and the most that they were.
    fed: usize,
    most_fed: usize,
    /// How messages are compressed, where the client agreed to it.
    deflater: Option<Deflater>,
    unsent: Option<Unsent>,
}

/// What is left of the message that is being written.
struct Unsent {
    message: Bytes,
    /// How its next fragment is marked.
    kind: Data,
    /// It begins a compressed message (RFC 7692 §6).
    rsv1: bool,
}

impl Socket {
    /// The WebSocket on `stream` after its handshake; `early` is what the client sent behind its request.
    ///
    /// The write buffer has room for `config.write_buffer_size` bytes, one fragment and a few Pongs. There must be an end:
    /// a client that sends Pings and reads nothing would fill it with Pongs.
    pub(super) async fn new(
        mut stream: Stream,
        early: &[u8],
        config: WebSocketConfig,
        compression: Option<(Agreed, &Settings)>,
    ) -> Self {
        let config = config.max_write_buffer_size(config.write_buffer_size + FRAGMENT + PONGS);
        let inflater = compression.map(|_| Inflater::new(config.max_message_size.unwrap_or(usize::MAX)));
        let deflater = compression.map(|(agreed, settings)| Deflater::new(agreed, settings));
        let early = stream.begin_frames(early.to_vec(), inflater);
        let websocket = WebSocketStream::from_partially_read(stream, early, Role::Server, Some(config)).await;
        Socket { websocket: Some(websocket), is_flushed: true, fed: 0, most_fed: 0, deflater, unsent: None }
    }

    /// The next message of any kind. `None` when the WebSocket has been closed. When the client `is_at_rest`, buffers that
    /// have grown are given back, and large ones at once.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        is_at_rest: bool,
    ) -> Poll<Option<Result<Message, Error>>> {
        let polled = self.websocket().poll_next_unpin(context);
        if polled.is_pending() && self.is_flushed && self.has_outgrown(is_at_rest) {
            self.renew();
            return self.websocket().poll_next_unpin(context);
        }
        polled
    }

    /// Whether a buffer is larger than it may be now, and nothing is in it.
    fn has_outgrown(&mut self, is_at_rest: bool) -> bool {
        let (read_buffer, most_fed) = (self.websocket().get_config().read_buffer_size, self.most_fed);
        let kept = if is_at_rest { read_buffer } else { read_buffer.max(GROWN) };
        let stream = self.stream();
        stream.has_read_more_than(kept) || (is_at_rest && most_fed > kept && stream.is_between_messages())
    }

    /// Begins a message, compressed where that was agreed on and pays; says how many bytes it has then. The one before
    /// must have been fed whole.
    pub(super) fn begin(&mut self, message: Bytes, text: bool, shared: Option<&Compressed>) -> Option<usize> {
        let deflated = self.deflater.and_then(|deflater| deflater.deflate(&message, shared));
        let length = deflated.as_ref().map(Bytes::len);
        let kind = if text { Data::Text } else { Data::Binary };
        self.unsent = Some(Unsent { rsv1: deflated.is_some(), message: deflated.unwrap_or(message), kind });
        length
    }

    /// Puts the message that was begun into the write buffer, fragment by fragment, as fast as the client takes them.
    pub(super) fn poll_feed(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while let Some(Unsent { message, kind, rsv1 }) = self.unsent.take() {
            let length = message.len().min(FRAGMENT);
            let is_last = length == message.len();
            let mut fragment = Frame::message(message.slice(..length), OpCode::Data(kind), is_last);
            fragment.header_mut().rsv1 = rsv1;
            let ready = Pin::new(self.websocket()).poll_ready(context);
            let sent = ready.map(|ready| ready.and_then(|()| self.start_send(Message::Frame(fragment))));
            if matches!(sent, Poll::Ready(Ok(()))) {
                self.fed += length;
                self.most_fed = self.most_fed.max(self.fed);
            }
            match sent {
                Poll::Ready(Ok(())) if is_last => {}
                Poll::Ready(Ok(())) => {
                    self.unsent = Some(Unsent { message: message.slice(length..), kind: Data::Continue, rsv1: false });
                }
                Poll::Ready(Err(Error::WriteBufferFull(_))) => {
                    self.unsent = Some(Unsent { message, kind, rsv1 });
                    ready!(self.poll_flush(context))?;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.unsent = Some(Unsent { message, kind, rsv1 });
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Puts a Ping into the write buffer.
    pub(super) fn ping(&mut self) -> Result<(), Error> {
        self.start_send(Message::Ping(Bytes::new()))
    }

    /// Writes the buffer to the socket.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let polled = Pin::new(self.websocket()).poll_flush(context);
        self.is_flushed = matches!(polled, Poll::Ready(Ok(())));
        if self.is_flushed {
            self.fed = 0;
        }
        polled
    }

    /// Whether everything that was fed has been written.
    pub(super) fn is_flushed(&self) -> bool {
        self.is_flushed
    }

    /// The bytes below.
    pub(super) fn stream(&mut self) -> &mut Stream {
        self.websocket().get_mut()
    }

    /// Closes, and reads on until the client has closed, too: a socket that is closed with bytes unread would take back
    /// what was just sent (RFC 6455 §7.1.1). Nothing follows the client's own close, so with that read the socket can go.
    pub(super) async fn close(&mut self, code: CloseCode, reason: &str) {
        let reason = Utf8Bytes::from(&reason[..reason.floor_char_boundary(REASON)]);
        let _ = self.start_send(Message::Close(Some(CloseFrame { code: code.0.into(), reason })));
        if poll_fn(|context| self.poll_flush(context)).await.is_err() {
            return;
        }
        let mut has_closed = false;
        while let Some(Ok(message)) = self.websocket().next().await {
            has_closed |= message.is_close();
        }
        let stream = self.stream();
        stream.drain();
        let _ = stream.shutdown().await;
        let mut ignored = [0; 1024];
        while !has_closed && stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
    }

    /// The client closed first: send the answer that tungstenite has ready (RFC 6455 §5.5.1), and no more.
    pub(super) async fn answer_close(&mut self) {
        let _ = poll_fn(|context| self.poll_flush(context)).await;
        let _ = self.stream().shutdown().await;
    }

    fn start_send(&mut self, message: Message) -> Result<(), Error> {
        self.is_flushed = false;
        Pin::new(self.websocket()).start_send(message)
    }

    /// Starts anew on the same stream, with buffers of the size that they had at first. tungstenite keeps a read buffer
    /// as large as the largest frame that ever came, and a write buffer as large as the most that ever was in it, for as
    /// long as the client stays.
    fn renew(&mut self) {
        if let Some(websocket) = self.websocket.take() {
            let config = *websocket.get_config();
            let mut stream = websocket.into_inner();
            stream.forget_growth();
            self.most_fed = 0;
            let renewed = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config));
            self.websocket = renewed.now_or_never();
        }
    }

    #[expect(clippy::expect_used, reason = "renew puts back what it takes: nothing in it waits")]
    fn websocket(&mut self) -> &mut WebSocketStream<Stream> {
        self.websocket.as_mut().expect("a WebSocket is only taken to be renewed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::SinkExt;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn what_buffers_have_grown_to_is_given_back_at_rest() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let stream = Stream::from(listener.accept().await.unwrap().0);
        let config = WebSocketConfig::default().read_buffer_size(256).write_buffer_size(16 * 1024);
        let mut socket = Socket::new(stream, &[], config, None).await;
        let poll = |socket: &mut Socket, is_at_rest| {
            socket.poll_read(&mut Context::from_waker(std::task::Waker::noop()), is_at_rest)
        };

        // What was written.
        assert!(!socket.has_outgrown(true));
        socket.begin(vec![b'x'; 2000].into(), true, None);
        poll_fn(|context| socket.poll_feed(context)).await.unwrap();
        poll_fn(|context| socket.poll_flush(context)).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap().len(), 2000);
        assert!(poll(&mut socket, false).is_pending() && socket.has_outgrown(true), "it may have more to write");
        assert!(poll(&mut socket, true).is_pending() && !socket.has_outgrown(true));

        // What was read; and what is larger goes at once.
        for (size, is_kept) in [(2000, true), (GROWN + 1, false)] {
            client.send(Message::binary(vec![b'x'; size])).await.unwrap();
            let read = poll_fn(|context| socket.poll_read(context, false)).await;
            assert_eq!(read.unwrap().unwrap().len(), size);
            assert!(poll(&mut socket, false).is_pending());
            assert_eq!(socket.has_outgrown(true), is_kept, "after {size} bytes");
            assert!(poll(&mut socket, true).is_pending() && !socket.has_outgrown(true));
        }
    }
}
