//! The floor of idle clients: what the kernel alone asks for heart-beats.
//!
//! One thread holds as many plain sockets, waits for all of them at once, reads each heart-beat with one read, and sends
//! each client one in every interval, with one write: at its own time, which counts from when it sent [`BEGIN`]. There is no
//! WebSocket but for the bytes of its frames, no frame is looked at, and no silence noticed.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::heartbeats::INTERVAL;

/// To be answered with a heart-beat.
pub const BEGIN: &[u8] = b"S";
/// Sockets that one call reports, as many as tokio asks for.
const EVENTS: usize = 1024;
/// Bytes of one read.
const READ: usize = 4096;
/// A server's heart-beat: a line feed as a text message.
const HEARTBEAT: [u8; 3] = [0x81, 1, b'\n'];

/// Serves until it is killed.
pub fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    println!("listening on tcp://{}", listener.local_addr()?);
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let event = |number: usize| EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
    epoll.add(&listener, event(0))?;
    let mut clients: Vec<TcpStream> = Vec::new();
    // All wait equally long: what is due first was put in first.
    let mut due = VecDeque::new();
    let mut events = [EpollEvent::empty(); EVENTS];
    let mut buffer = [0; READ];
    loop {
        let ready = epoll.wait(&mut events, timeout(due.front()))?;
        let now = Instant::now();
        for ready in &events[..ready] {
            let Some(client) = usize::try_from(ready.data()).ok().and_then(|number| number.checked_sub(1)) else {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                epoll.add(&stream, event(clients.len() + 1))?;
                clients.push(stream);
                continue;
            };
            match clients[client].read(&mut buffer)? {
                0 => return Ok(()),
                read if buffer[..read] == *BEGIN => due.push_front((now, client)),
                _ => {}
            }
        }
        while due.front().is_some_and(|(due, _)| *due <= now) {
            let Some((at, client)) = due.pop_front() else { break };
            clients[client].write_all(&HEARTBEAT)?;
            due.push_back((at + INTERVAL, client));
        }
    }
}

/// Until the first of them is due, in whole milliseconds, and not a moment too early.
fn timeout(first: Option<&(Instant, usize)>) -> EpollTimeout {
    let Some((due, _)) = first else { return EpollTimeout::NONE };
    let left = due.saturating_duration_since(Instant::now()) + Duration::from_nanos(999_999);
    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
}
