//! A well-behaved client.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use stompgate::stomp::Version;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{Gateway, IS_A_GATEWAY, Received, TELLS_UNROUTED, connect_frame, soon, version, wire};

/// Anything that a WebSocket can run on.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// Where a gateway is: its address and its URL.
pub(crate) type Place = (SocketAddr, String);

/// A client whose WebSocket is in order.
pub(crate) struct Client {
    socket: WebSocketStream<Box<dyn Transport>>,
    /// The gateway's address and URL.
    place: Place,
    version: Option<Version>,
    receipts: u32,
    /// The header `session` of its CONNECTED.
    pub(crate) session: String,
}

impl Client {
    /// An open WebSocket, and nothing said on it.
    pub(crate) async fn open(gateway: &Gateway) -> Self {
        Self::open_at(&place(gateway)).await
    }

    /// The same, by its place alone.
    pub(crate) async fn open_at(place: &Place) -> Self {
        let stream = TcpStream::connect(place.0).await.expect("a gateway that accepts");
        Self::upgrade(place, stream).await
    }

    /// The same over a transport of the test's own.
    pub(crate) async fn open_on(gateway: &Gateway, transport: impl Transport + 'static) -> Self {
        Self::upgrade(&place(gateway), transport).await
    }

    async fn upgrade(place: &Place, transport: impl Transport + 'static) -> Self {
        let transport: Box<dyn Transport> = Box::new(transport);
        let opened = soon("the handshake", client_async(&place.1, transport)).await;
        let (socket, _) = opened.expect("a WebSocket");
        Client { socket, place: place.clone(), version: None, receipts: 0, session: String::new() }
    }

    /// A client that is connected, and asked for this version alone.
    pub(crate) async fn connect(gateway: &Gateway, version: &str) -> Self {
        Self::connect_with(gateway, version, "").await
    }

    /// The same with more headers in its CONNECT, as lines.
    pub(crate) async fn connect_with(gateway: &Gateway, version: &str, headers: &str) -> Self {
        let mut client = Self::open(gateway).await;
        client.login(version, headers).await;
        client
    }

    /// A WebSocket whose kernel takes as little as it may: a client that stops reading is felt soon.
    pub(crate) async fn open_narrow(gateway: &Gateway) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let stream = socket.connect(gateway.address()).await.expect("a gateway that accepts");
        Self::open_on(gateway, stream).await
    }

    /// The same, connected.
    pub(crate) async fn connect_narrow(gateway: &Gateway, version: &str) -> Self {
        let mut client = Self::open_narrow(gateway).await;
        client.login(version, "").await;
        client
    }

    /// CONNECT and CONNECTED.
    pub(crate) async fn login(&mut self, offered: &str, headers: &str) -> Received {
        self.send(connect_frame(offered, headers)).await;
        let connected = self.expect("CONNECTED").await.with("version", offered);
        self.speaks(offered);
        self.session = connected.get("session");
        connected
    }

    /// Reads what comes from now on by the rules of this version.
    pub(crate) fn speaks(&mut self, name: &str) {
        self.version = Some(version(name));
    }

    /// Sends a frame, in a text message if it is text.
    pub(crate) async fn send(&mut self, frame: impl AsRef<[u8]>) {
        crate::peer::before_sending(frame.as_ref(), &self.place).await;
        self.send_message(wire(frame)).await;
    }

    /// Sends one WebSocket message of these bytes.
    pub(crate) async fn send_message(&mut self, bytes: Vec<u8>) {
        let message = match String::from_utf8(bytes) {
            Ok(text) => Message::text(text),
            Err(error) => Message::binary(error.into_bytes()),
        };
        self.send_websocket(message).await;
    }

    /// Sends a WebSocket message of any kind.
    pub(crate) async fn send_websocket(&mut self, message: Message) {
        soon("the gateway to read", self.socket.send(message)).await.expect("an open connection");
    }

    /// Sends a frame, asks for its receipt, and waits for it: it must be the next that comes.
    pub(crate) async fn does(&mut self, frame: &str) -> Received {
        let receipt = self.asks(frame).await;
        self.expect("RECEIPT").await.with("receipt-id", &receipt)
    }

    /// The same again and again, until the broker has noticed that nobody is there for it; once, where it does not tell.
    pub(crate) async fn does_until_unrouted(&mut self, frame: &str) {
        let is_over = |receipt: Received| !TELLS_UNROUTED || receipt.maybe("routed").is_some();
        soon("routed:false", async { while !is_over(self.does(frame).await) {} }).await;
    }

    /// Sends a frame and asks for its receipt, whose name is returned.
    pub(crate) async fn asks(&mut self, frame: &str) -> String {
        self.receipts += 1;
        let receipt = format!("receipt-{}", self.receipts);
        let (command, rest) = frame.split_once('\n').unwrap_or((frame, ""));
        self.send(format!("{command}\nreceipt:{receipt}\n{rest}")).await;
        receipt
    }

    /// Subscribes, and has the receipt for it before this returns.
    pub(crate) async fn subscribe(&mut self, headers: &str) {
        self.does(&format!("SUBSCRIBE\n{headers}")).await.without("warning");
    }

    /// The next frame, which must be of this command.
    pub(crate) async fn expect(&mut self, command: &str) -> Received {
        self.next_frame(command).await.of(command)
    }

    /// The same, however long it takes, as long as the gateway shows that it is still there.
    #[allow(dead_code, reason = "the accounts of the faults use it")]
    pub(crate) async fn expect_ever(&mut self, command: &str) -> Received {
        self.next_frame_ever(command).await.of(command)
    }

    /// The next frame of any command.
    pub(crate) async fn expect_any(&mut self) -> Received {
        self.next_frame("a frame").await
    }

    /// The bodies of so many MESSAGE frames, in the order in which they come.
    pub(crate) async fn bodies(&mut self, count: usize) -> Vec<String> {
        let mut bodies = Vec::with_capacity(count);
        for _ in 0..count {
            bodies.push(self.expect("MESSAGE").await.body());
        }
        bodies
    }

    /// Panics if anything comes before the answer to a frame that is sent now.
    pub(crate) async fn expect_nothing(&mut self) {
        self.does("SEND\ndestination:/topic/nobody-listens-here\n\n").await;
    }

    /// The ERROR of this code, then the close with that one, then the end.
    pub(crate) async fn expect_error(&mut self, code: &str, close: u16) -> Received {
        let error = self.expect("ERROR").await;
        if !IS_A_GATEWAY {
            return error;
        }
        let error = error.with("code", code);
        self.expect_close(close).await;
        error.with("content-type", "text/plain").with("version", "1.0,1.1,1.2")
    }

    /// The close with this code, then the end; returns the reason.
    pub(crate) async fn expect_close(&mut self, code: u16) -> String {
        match self.next_message("a close").await {
            Some(Message::Close(Some(CloseFrame { code: found, reason }))) => {
                assert_eq!(u16::from(found), code, "{reason}");
                self.expect_end().await;
                reason.to_string()
            }
            other => panic!("a close with {code}, not {other:?}"),
        }
    }

    /// Nothing but the end of the connection.
    pub(crate) async fn expect_end(&mut self) {
        if let Some(message) = self.next_message("the end of the connection").await {
            panic!("the end of the connection, not {message:?}");
        }
    }

    /// One LF.
    pub(crate) async fn expect_heartbeat(&mut self) {
        match self.next_message("a heart-beat").await {
            Some(Message::Text(text)) if text.as_str() == "\n" => {}
            other => panic!("a heart-beat, not {other:?}"),
        }
    }

    /// Sends a WebSocket message to a gateway that may have closed already.
    pub(crate) async fn try_send_message(&mut self, text: &str) -> Result<(), Error> {
        soon("the gateway to read", self.socket.send(Message::text(text))).await
    }

    /// Begins the closing handshake.
    pub(crate) async fn close(&mut self, code: u16) {
        let close = CloseFrame { code: code.into(), reason: "".into() };
        self.send_websocket(Message::Close(Some(close))).await;
    }

    /// The next WebSocket message that is no Ping or Pong; `None` at the end.
    pub(crate) async fn next_message(&mut self, awaited: &str) -> Option<Message> {
        // What is skipped gives it no more time.
        soon(awaited, async {
            loop {
                match self.next_websocket(awaited).await {
                    Some(Message::Ping(_) | Message::Pong(_)) => {}
                    other => return other,
                }
            }
        })
        .await
    }

    /// The next WebSocket message of any kind; `None` at the end.
    pub(crate) async fn next_websocket(&mut self, awaited: &str) -> Option<Message> {
        match soon(awaited, self.socket.next()).await {
            Some(Ok(message)) => Some(message),
            Some(Err(error)) => panic!("{awaited}, not {error}"),
            None => None,
        }
    }

    async fn next_frame(&mut self, awaited: &str) -> Received {
        soon(awaited, self.next_frame_ever(awaited)).await
    }

    async fn next_frame_ever(&mut self, awaited: &str) -> Received {
        loop {
            let received = match self.next_websocket(awaited).await {
                Some(Message::Ping(_) | Message::Pong(_)) => None,
                Some(Message::Text(text)) => Received::read(text, true, self.version),
                Some(Message::Binary(bytes)) => Received::read(bytes, false, self.version),
                other => panic!("{awaited}, not {other:?}"),
            };
            if let Some(received) = received {
                return received;
            }
        }
    }

    /// Says goodbye as STOMP wants it.
    pub(crate) async fn disconnect(mut self) {
        if IS_A_GATEWAY {
            self.does("DISCONNECT").await;
            self.expect_close(1000).await;
        } else {
            self.send("DISCONNECT").await;
            self.next_message("a close").await;
        }
    }

    /// Goes without a word.
    pub(crate) fn vanish(self) {
        drop(self.socket);
    }
}

fn place(gateway: &Gateway) -> Place {
    (gateway.address(), gateway.url().to_owned())
}
