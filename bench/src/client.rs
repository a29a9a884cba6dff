//! A client that costs little: one socket, no parsing beyond frame ends, no copy while whole frames come.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::wire::{self, Kind};

/// Bytes that the kernel is to keep for a client that does not read.
const NARROW: u32 = 4096;
/// Connections that are being made at a time, unless all are.
pub const IN_FLIGHT: usize = 64;
/// Bytes of one read. All clients share the buffer; each keeps only what is left of an incomplete frame.
const READ: usize = 64 * 1024;
/// The most that may be left of one.
const LONGEST: usize = 1024 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    incomplete: RefCell<Vec<u8>>,
    split: Split,
}

/// Splits the first frame off what has come, as [`wire::split_frame`] does.
type Split = fn(&[u8]) -> io::Result<Option<(Kind, &[u8], usize)>>;

impl Client {
    /// A connection without any handshake.
    pub async fn bare(address: SocketAddr) -> io::Result<Client> {
        Client::of(TcpStream::connect(address).await?)
    }

    fn of(stream: TcpStream) -> io::Result<Client> {
        stream.set_nodelay(true)?;
        Ok(Client { stream, incomplete: RefCell::default(), split: wire::split_frame })
    }

    /// A STOMP session over WebSocket, with heart-beats of so many milliseconds both ways.
    pub async fn connect(address: SocketAddr, heartbeat: u32) -> io::Result<Client> {
        let client = Client::bare(address).await?;
        client.log_in(address, heartbeat, "").await?;
        Ok(client)
    }

    /// A session with one subscription, as stompjs makes it, that is in force when this returns.
    pub async fn subscribe(address: SocketAddr, heartbeat: u32, destination: &str, ack: &str) -> io::Result<Client> {
        let client = Client::connect(address, heartbeat).await?;
        client.listen(destination, ack).await?;
        Ok(client)
    }

    /// The same without heart-beats and acknowledgements; what it is sent is compressed.
    pub async fn subscribe_compressed(address: SocketAddr, destination: &str) -> io::Result<Client> {
        let client = Client::bare(address).await?;
        client.log_in(address, 0, "permessage-deflate").await?;
        client.listen(destination, "auto").await?;
        Ok(client)
    }

    /// The same, whose kernel takes next to nothing that is not read.
    pub async fn subscribe_narrow(address: SocketAddr, destination: &str) -> io::Result<Client> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(NARROW)?;
        let client = Client::of(socket.connect(address).await?)?;
        client.log_in(address, 0, "").await?;
        client.listen(destination, "auto").await?;
        Ok(client)
    }

    /// A session of MQTT 3.1.1, and with a topic one of its subscribers.
    pub async fn mqtt(address: SocketAddr, name: usize, topic: Option<&str>) -> io::Result<Client> {
        let client = Client { split: wire::split_packet, ..Client::bare(address).await? };
        client.send(&wire::mqtt_connect(name)).await?;
        client.expect("\0\0").await?; // the body of CONNACK
        if let Some(topic) = topic {
            client.send(&wire::mqtt_subscribe(topic)).await?;
            client.expect("\0\x01\0").await?; // the body of SUBACK
        }
        Ok(client)
    }

    /// WebSocket and STOMP; `extensions` is offered, and must be agreed to.
    async fn log_in(&self, address: SocketAddr, heartbeat: u32, extensions: &str) -> io::Result<()> {
        self.upgrade(address, extensions).await?;
        self.send_frame(&connect(heartbeat)).await?;
        self.expect("CONNECTED\n").await
    }

    async fn listen(&self, destination: &str, ack: &str) -> io::Result<()> {
        self.send_frame(&subscribe(destination, ack)).await?;
        self.expect("RECEIPT\n").await
    }

    async fn upgrade(&self, address: SocketAddr, extensions: &str) -> io::Result<()> {
        self.send(upgrade(address, extensions).as_bytes()).await?;
        let mut answer = Vec::new();
        loop {
            self.stream.readable().await?;
            let mut part = [0; 1024];
            match self.stream.try_read(&mut part) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => answer.extend(&part[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if answer.ends_with(b"\r\n\r\n") {
                break; // a server that speaks STOMP says nothing before CONNECT
            }
        }
        let agreed = memchr::memmem::find(&answer, extensions.as_bytes()).is_some();
        if answer.starts_with(b"HTTP/1.1 101 ") && agreed {
            return Ok(());
        }
        Err(io::Error::other(format!("no upgrade: {}", String::from_utf8_lossy(&answer))))
    }

    /// Writes all of it.
    pub async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn send_frame(&self, frame: &str) -> io::Result<()> {
        let mut message = Vec::new();
        wire::push_message(frame.as_bytes(), &mut message);
        self.send(&message).await
    }

    /// Waits for bytes, reads once, and hands over every frame that is complete then. Heart-beats are left out, pings
    /// answered; ERROR is an error.
    pub async fn read(&self, mut on_frame: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut pongs = Vec::new();
        loop {
            self.stream.readable().await?;
            let done = BUFFER.with_borrow_mut(|buffer| match self.stream.try_read(buffer) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.split(&buffer[..read], &mut pongs, &mut on_frame).map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(error),
            })?;
            if done {
                return self.send(&pongs).await;
            }
        }
    }

    fn split(
        &self,
        read: &[u8],
        pongs: &mut Vec<u8>,
        on_frame: &mut impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut incomplete = self.incomplete.take();
        let mut rest = read;
        if !incomplete.is_empty() {
            incomplete.extend(read);
            rest = &incomplete;
        }
        while let Some((kind, payload, length)) = (self.split)(rest)? {
            match kind {
                Kind::Data if payload == b"\n" => {}
                Kind::Data if payload.starts_with(b"ERROR\n") => {
                    return Err(io::Error::other(String::from_utf8_lossy(payload).into_owned()));
                }
                // RabbitMQ ends each frame with a line end after the NUL.
                Kind::Data => on_frame(payload.strip_suffix(b"\n").unwrap_or(payload))?,
                Kind::Deflated => wire::inflated(payload, &mut *on_frame)?,
                Kind::Ping => wire::push_pong(payload, pongs),
                Kind::Pong => {}
            }
            rest = &rest[length..];
        }
        if rest.len() > LONGEST {
            return Err(io::Error::other("a frame that is too long"));
        }
        if !rest.is_empty() {
            self.incomplete.replace(rest.to_vec());
        }
        Ok(())
    }

    /// Waits for a frame that begins so; nothing else may come.
    pub async fn expect(&self, start: &str) -> io::Result<()> {
        let found = Cell::new(false);
        while !found.get() {
            self.read(|frame| {
                found.set(frame.starts_with(start.as_bytes()));
                let other = || io::Error::other(format!("not {start:?}: {}", String::from_utf8_lossy(frame)));
                if found.get() { Ok(()) } else { Err(other()) }
            })
            .await?;
        }
        Ok(())
    }

    /// Waits for the one byte with which the floor answers.
    pub async fn acknowledged(&self) -> io::Result<()> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(&mut [0]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The request for a WebSocket, with these extensions.
pub fn upgrade(address: SocketAddr, extensions: &str) -> String {
    let offer =
        if extensions.is_empty() { String::new() } else { format!("Sec-WebSocket-Extensions: {extensions}\r\n") };
    format!(
        "GET /ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c3RvbXBnYXRlLWJlbmNoIQ==\r\n\
         Sec-WebSocket-Protocol: v12.stomp, v11.stomp, v10.stomp\r\n{offer}\r\n"
    )
}

/// A CONNECT that offers and asks for heart-beats of so many milliseconds.
pub fn connect(heartbeat: u32) -> String {
    format!(
        "CONNECT\naccept-version:1.2,1.1,1.0\nheart-beat:{heartbeat},{heartbeat}\nhost:/\nlogin:bench\npasscode:bench\n\n\0"
    )
}

/// A SUBSCRIBE that asks for a receipt.
pub fn subscribe(destination: &str, ack: &str) -> String {
    format!("SUBSCRIBE\nid:sub-0\ndestination:{destination}\nack:{ack}\nreceipt:subscribed\n\n\0")
}

/// Makes so many connections, so many at a time.
pub async fn many<Made, Making>(
    count: usize,
    in_flight: usize,
    make: impl Fn() -> Making + Clone + 'static,
) -> io::Result<Vec<Made>>
where
    Made: 'static,
    Making: Future<Output = io::Result<Made>> + 'static,
{
    let left = Rc::new(Cell::new(count));
    let mut makers = JoinSet::new();
    for _ in 0..in_flight.min(count) {
        let (left, make) = (Rc::clone(&left), make.clone());
        makers.spawn_local(async move {
            let mut own = Vec::new();
            while left.get() > 0 {
                left.set(left.get() - 1);
                own.push(make().await?);
            }
            Ok::<_, io::Error>(own)
        });
    }
    let mut all = Vec::with_capacity(count);
    while let Some(own) = makers.join_next().await {
        all.extend(own??);
    }
    Ok(all)
}
