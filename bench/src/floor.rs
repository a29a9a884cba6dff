//! The floor: what the kernel alone asks for the same bytes on the same sockets, one write for each delivery.
//!
//! A connection begins with `S` (subscriber, answered with `K`) or `P` (publisher), which is followed by the length of
//! each of its messages, and by the length and the bytes of a delivery. For each message, the delivery is written once to
//! every subscriber, with the marks of the message's body copied in. There is no WebSocket handshake, no routing, no
//! queue and no second thread.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::client::Client;
use crate::wire;

/// Longer messages and deliveries are refused.
const LONGEST: usize = 64 * 1024;

/// Serves one publisher, and ends with it.
pub fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("listening on tcp://{}", listener.local_addr()?);
    let mut subscribers = Vec::new();
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut role = [0];
        stream.read_exact(&mut role)?;
        if role == *b"P" {
            return publish(stream, subscribers);
        }
        stream.write_all(b"K")?;
        subscribers.push(stream);
    }
}

fn publish(mut publisher: TcpStream, mut subscribers: Vec<TcpStream>) -> io::Result<()> {
    let mut message = vec![0; read_length(&mut publisher)?];
    let mut delivery = vec![0; read_length(&mut publisher)?];
    publisher.read_exact(&mut delivery)?;
    while publisher.read_exact(&mut message).is_ok() {
        wire::copy_marks(&message, &mut delivery);
        for subscriber in &mut subscribers {
            subscriber.write_all(&delivery)?;
        }
    }
    Ok(())
}

fn read_length(stream: &mut TcpStream) -> io::Result<usize> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    Some(u32::from_be_bytes(length) as usize)
        .filter(|length| *length <= LONGEST)
        .ok_or_else(|| io::Error::other("too long for the floor"))
}

/// A subscriber of the floor.
pub async fn subscribe(address: SocketAddr) -> io::Result<Client> {
    let client = Client::bare(address).await?;
    client.send(b"S").await?;
    client.acknowledged().await?;
    Ok(client)
}

/// The publisher of the floor, whose every delivery looks like `delivery`.
pub async fn publisher(address: SocketAddr, message_length: usize, delivery: &[u8]) -> io::Result<Client> {
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let client = Client::bare(address).await?;
    client.send(&[&b"P"[..], &length(message_length), &length(delivery.len()), delivery].concat()).await?;
    Ok(client)
}
