//! Any bytes to the port: TCP, HTTP, the handshake, and the frames of WebSocket after it.

mod frames;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stompgate::config::Config;
use stompgate::gateway::Gateway;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Time for what comes at once, on any machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Panics that the runtime caught: a client's task must have none, either.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Sends bytes to a gateway, and looks at all that it answers until it hangs up.
///
/// The first byte says in pieces of which size, 0 being all at once; `~` in the rest begins a frame that is to be masked:
/// its first byte, the length of its payload in one byte, and the payload. `^` begins one whose payload is to be compressed
/// first. What is not begun so goes as it is.
pub fn handshake(data: &[u8]) {
    let [size, script @ ..] = data else { return };
    let bytes = written(script);
    HOST.with(|host| {
        host.runtime.block_on(async {
            let talk = talk(host.gateway.address(), &bytes, usize::from(size & 15));
            let answer = tokio::time::timeout(PATIENCE, talk).await.expect("the gateway hangs up");
            check(&bytes, &answer);
            let gone = async {
                while host.gateway.connections() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, gone).await.expect("no client is left behind");
        });
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "a task panicked");
    });
}

struct Host {
    runtime: Runtime,
    gateway: Gateway,
}

thread_local! {
    static HOST: Host = Host::start();
}

impl Host {
    fn start() -> Self {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            before(panic);
        }));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut config = Config::default();
        config.server.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.admin.listen = config.server.listen;
        config.server.handshake_timeout = Duration::from_millis(300);
        config.server.close_timeout = Duration::from_millis(300);
        config.server.deflate.enabled = true;
        config.server.deflate.min_size = 64;
        config.session.max_connect_bytes = 512;
        config.session.max_header_bytes = 256;
        config.session.max_body = 512;
        let gateway = runtime.block_on(async { Gateway::start(config).expect("a gateway") });
        Host { runtime, gateway }
    }
}

/// The bytes that a script stands for.
fn written(mut script: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((byte, rest)) = script.split_first() {
        script = rest;
        let ([first, length, payload @ ..], b'~' | b'^') = (rest, *byte) else {
            bytes.push(*byte);
            continue;
        };
        let (payload, rest) = payload.split_at(usize::from(*length).min(payload.len()));
        match byte {
            b'^' => frames::mask(*first, &frames::deflated(payload), &mut bytes),
            _ => frames::mask(*first, payload, &mut bytes),
        }
        script = rest;
    }
    bytes
}

/// All that comes back. The client stops writing once it has been answered, or at once if it asked nothing.
async fn talk(address: SocketAddr, bytes: &[u8], size: usize) -> Vec<u8> {
    let stream = TcpStream::connect(address).await.expect("a gateway that accepts");
    stream.set_nodelay(true).expect("a socket");
    let (mut reader, mut writer) = stream.into_split();
    let asks = bytes.trim_ascii_start().windows(4).any(|window| window == b"\r\n\r\n");
    let mut answer = Vec::new();
    let write = async {
        for piece in bytes.chunks(if size == 0 { bytes.len().max(1) } else { size * 8 }) {
            if writer.write_all(piece).await.is_err() {
                return; // it has hung up, and said why
            }
            tokio::task::yield_now().await;
        }
        if !asks {
            let _ = writer.shutdown().await;
        }
    };
    let read = async {
        while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
            match reader.read_buf(&mut answer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    tokio::join!(write, read);
    let _ = writer.shutdown().await;
    let _ = reader.read_to_end(&mut answer).await;
    answer
}

/// An answer is one of HTTP. A 101 is for a handshake that RFC 6455 §4.2.1 allows; after it come frames.
fn check(bytes: &[u8], answer: &[u8]) {
    if answer.is_empty() {
        return; // not asked, or in HTTP that is none
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head") + 4;
    let (head, rest) = answer.split_at(end);
    let head = std::str::from_utf8(head).expect("a head of text");
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).expect("a status");
    if status != "101" {
        assert!(["400", "403", "404", "405", "414", "426", "431"].contains(&status), "{head}");
        return;
    }
    let asked = String::from_utf8_lossy(bytes).to_lowercase();
    for needed in ["get /ws", "host:", "upgrade", "websocket", "sec-websocket-version:", "sec-websocket-key:"] {
        assert!(asked.contains(needed), "a WebSocket without {needed}");
    }
    let accept = header(head, "sec-websocket-accept").expect("an answer to the key");
    let keys = bytes.windows(24).filter(|window| window.ends_with(b"=="));
    assert!(keys.map(derive_accept_key).any(|expected| expected == accept), "the answer to another key");
    if let Some(protocol) = header(head, "sec-websocket-protocol") {
        assert!(asked.contains(protocol) && ["v10.stomp", "v11.stomp", "v12.stomp"].contains(&protocol));
    }
    let extensions = header(head, "sec-websocket-extensions");
    if let Some(agreed) = extensions {
        assert!(asked.contains("sec-websocket-extensions:") && agreed.starts_with("permessage-deflate"), "{head}");
    }
    frames::check(rest, extensions.is_some());
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}
