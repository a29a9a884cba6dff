//! A client that writes every byte itself.

use bytes::{Buf, BytesMut};
use stompgate::stomp::Version;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};

use super::{Gateway, IS_A_GATEWAY, Received, connect_frame, soon, version, wire};

/// The key of RFC 6455 §1.3, and the answer to it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// See [`KEY`].
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// First bytes of whole, unfragmented frames.
pub(crate) const TEXT: u8 = 0x81;
/// See [`TEXT`].
pub(crate) const BINARY: u8 = 0x82;
/// See [`TEXT`].
pub(crate) const CLOSE: u8 = 0x88;
/// See [`TEXT`].
pub(crate) const PING: u8 = 0x89;
/// See [`TEXT`].
pub(crate) const PONG: u8 = 0x8A;
/// Set in the first byte of the last fragment.
pub(crate) const FIN: u8 = 0x80;

/// A client on a bare TCP connection.
pub(crate) struct Raw {
    stream: TcpStream,
    buffer: BytesMut,
    version: Option<Version>,
}

/// An answer of HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    /// A header that must be there.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> &str {
        self.maybe(name).unwrap_or_else(|| panic!("{name} in {}", self.head))
    }

    /// A header, if it is there.
    pub(crate) fn maybe(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}

/// A request for an upgrade that lacks nothing, but for the headers that are changed: `("origin", "null")` sets one,
/// `("host", "")` leaves one out.
pub(crate) fn request(line: &str, changes: &[(&str, &str)]) -> String {
    let mut headers = vec![
        ("host", "localhost"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];
    headers.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    headers.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
    let lines: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{line}\r\n{}\r\n", lines.concat())
}

/// The bytes of a WebSocket frame from a client: its first byte, and its payload, masked.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = header(first, 0x80, payload.len());
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The beginning of a frame: its first byte, the mask bit, and a length.
pub(crate) fn header(first: u8, mask: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => bytes.push(mask | short),
        (_, Ok(medium)) => {
            bytes.push(mask | 0x7e);
            bytes.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            bytes.push(mask | 0x7f);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes
}

impl Raw {
    /// A TCP connection, and nothing said on it.
    pub(crate) async fn tcp(gateway: &Gateway) -> Self {
        Self::tcp_to(gateway.address()).await
    }

    /// A TCP connection to a gateway that is another process.
    pub(crate) async fn tcp_to(address: impl ToSocketAddrs) -> Self {
        let stream = TcpStream::connect(address).await.expect("a gateway that accepts");
        stream.set_nodelay(true).expect("a socket");
        Raw { stream, buffer: BytesMut::new(), version: None }
    }

    /// An open WebSocket.
    pub(crate) async fn upgraded(gateway: &Gateway) -> Self {
        Self::upgraded_with(gateway, &[]).await.0
    }

    /// The same with some headers changed, and the answer.
    pub(crate) async fn upgraded_with(gateway: &Gateway, changes: &[(&str, &str)]) -> (Self, Answer) {
        let mut raw = Self::tcp(gateway).await;
        raw.write(request("GET /ws HTTP/1.1", changes)).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 101, "{answer:?}");
        (raw, answer)
    }

    /// A session.
    pub(crate) async fn connected(gateway: &Gateway, name: &str) -> Self {
        let mut raw = Self::upgraded(gateway).await;
        raw.login(name).await;
        raw
    }

    /// Makes a session of an open WebSocket.
    pub(crate) async fn login(&mut self, name: &str) {
        self.text(wire(connect_frame(name, ""))).await;
        self.expect("CONNECTED").await.with("version", name);
        self.version = Some(version(name));
    }

    /// Writes bytes as they are.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let written = soon("the gateway to read", self.stream.write_all(bytes.as_ref())).await;
        written.expect("an open connection");
    }

    /// Writes bytes to a gateway that may have closed already.
    pub(crate) async fn try_write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = soon("the gateway to read", self.stream.write_all(bytes.as_ref())).await;
    }

    /// Sends a WebSocket frame with this first byte.
    pub(crate) async fn frame(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        self.write(masked(first, payload.as_ref())).await;
    }

    /// Sends a text message.
    pub(crate) async fn text(&mut self, payload: impl AsRef<[u8]>) {
        self.frame(TEXT, payload).await;
    }

    /// Reads the answer to a request.
    pub(crate) async fn answer(&mut self) -> Answer {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer.split_to(end + 4)).into_owned();
                let status = head.get(9..12).and_then(|digits| digits.parse().ok()).expect("a status line");
                let mut answer = Answer { status, head, body: String::new() };
                let length = answer.maybe("content-length").map_or(0, |length| length.parse().expect("a length"));
                while self.buffer.len() < length {
                    assert!(self.read().await, "a body of {length} bytes");
                }
                answer.body = String::from_utf8_lossy(&self.buffer.split_to(length)).into_owned();
                return answer;
            }
            assert!(self.read().await, "an answer, not the end of the connection");
        }
    }

    /// The next WebSocket frame: its first byte and its payload.
    pub(crate) async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// The next STOMP frame, which must be of this command.
    pub(crate) async fn expect(&mut self, command: &str) -> Received {
        self.next_frame(command).await.of(command)
    }

    /// The next STOMP frame of any command.
    #[allow(dead_code)] // only one of the two programs that share this file uses it
    pub(crate) async fn expect_any(&mut self) -> Received {
        self.next_frame("a frame").await
    }

    /// The next message whole, however fragmented: its first byte and its payload.
    pub(crate) async fn message(&mut self, awaited: &str) -> (u8, Vec<u8>) {
        let (begun, mut payload) = self.expect_next(awaited).await;
        let mut first = begun;
        while first & FIN == 0 {
            let next = self.expect_next("a fragment").await;
            assert_eq!(next.0 & 0x7f, 0, "a continuation");
            first = next.0;
            payload.extend_from_slice(&next.1);
        }
        (begun | FIN, payload)
    }

    /// The next STOMP frame, however fragmented.
    async fn next_frame(&mut self, command: &str) -> Received {
        let (first, payload) = self.message(command).await;
        let is_text = match first & 0x0f {
            1 => true,
            2 => false,
            _ => panic!("{command}, not a frame that begins with {first:#x}: {payload:?}"),
        };
        Received::read(payload, is_text, self.version).expect("a frame, not a heart-beat")
    }

    /// The ERROR of this code, then the close with that one, then the end.
    pub(crate) async fn expect_error(&mut self, code: &str, close: u16) -> Received {
        let error = self.expect("ERROR").await;
        if !IS_A_GATEWAY {
            return error;
        }
        let error = error.with("code", code);
        self.expect_close(close).await;
        error
    }

    /// The close with this code; it is answered, and then comes the end.
    pub(crate) async fn expect_close(&mut self, code: u16) {
        let (first, payload) = self.expect_next("a close").await;
        assert_eq!(first, CLOSE, "a close, not {payload:?}");
        let (found, reason) = payload.split_at(2);
        assert_eq!(u16::from_be_bytes([found[0], found[1]]), code, "{}", String::from_utf8_lossy(reason));
        self.try_write(masked(CLOSE, found)).await;
        self.expect_end().await;
    }

    /// Nothing but the end of the connection.
    pub(crate) async fn expect_end(&mut self) {
        while self.read().await {}
        assert!(self.buffer.is_empty(), "the end of the connection, not {:?}", self.buffer);
    }

    /// Reads whatever still comes, to the end.
    pub(crate) async fn read_to_end(&mut self) {
        while self.read().await {}
    }

    /// Goes with a TCP reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().expect("a socket");
        drop(self.stream);
    }

    async fn expect_next(&mut self, awaited: &str) -> (u8, Vec<u8>) {
        self.next().await.unwrap_or_else(|| panic!("{awaited}, not the end of the connection"))
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, second) = (*self.buffer.first()?, *self.buffer.get(1)?);
        assert_eq!(second & 0x80, 0, "frames of a server are not masked");
        let (start, length) = match second {
            126 => (4, usize::from(u16::from_be_bytes(self.buffer.get(2..4)?.try_into().ok()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(self.buffer.get(2..10)?.try_into().ok()?)).ok()?),
            short => (2, usize::from(short)),
        };
        if self.buffer.len() < start + length {
            return None;
        }
        self.buffer.advance(start);
        Some((first, self.buffer.split_to(length).to_vec()))
    }

    /// Reads more; false at the end of the connection.
    async fn read(&mut self) -> bool {
        match soon("bytes from the gateway", self.stream.read_buf(&mut self.buffer)).await {
            Ok(read) => read > 0,
            Err(_) => false,
        }
    }
}
