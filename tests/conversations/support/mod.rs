//! The gateways and clients of the conversations.
//!
//! A [`Client`] is what a well-behaved library makes of a WebSocket. A [`Raw`] writes every byte itself, for what no
//! library would send.
//!
//! Frames are written as they go over the wire: `"SEND\ndestination:/topic/a\n\nbody"`. The NUL at the end is added,
//! and so is the blank line where there is no body.

mod client;
pub(crate) mod operator;
pub(crate) mod program;
pub(crate) mod raw;
pub(crate) mod service;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use stompgate::config::Config;
use stompgate::gateway::Builder;
use stompgate::stomp::{Decoder, Frame, Item, Limits, Version};

pub(crate) use crate::peer::Gateway;
use crate::peer::{IS_A_GATEWAY, PATIENCE, TELLS_UNROUTED};
pub(crate) use client::{Client, Place};
pub(crate) use raw::Raw;

/// Waits for what must come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Waits until something holds that nobody reports.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A gateway with the settings that it has by default.
pub(crate) fn gateway() -> Gateway {
    gateway_with(|_| {})
}

/// A gateway with some settings changed.
pub(crate) fn gateway_with(change: impl FnOnce(&mut Config)) -> Gateway {
    Gateway::start(config(change)).expect("a gateway that starts")
}

/// The same, to which a test adds parts of its own.
#[allow(dead_code, reason = "not every peer is a gateway of ours")]
pub(crate) fn builder(change: impl FnOnce(&mut Config)) -> Builder {
    stompgate::gateway::Gateway::builder(config(change))
}

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    config.server.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.admin.listen = config.server.listen;
    crate::peer::prepare(&mut config);
    change(&mut config);
    config.check().expect("settings that go together");
    config
}

/// A frame as it came, and what may be said of it.
#[derive(Debug)]
pub(crate) struct Received {
    frame: Frame,
    is_text: bool,
}

impl Received {
    /// Reads the one frame that `bytes` hold.
    fn read(bytes: impl Into<Bytes>, is_text: bool, version: Option<Version>) -> Option<Self> {
        let most = 64 * 1024 * 1024;
        let mut decoder = Decoder::new(Limits { headers: most, header_bytes: most, body: most, frame: None });
        if let Some(version) = version {
            decoder.set_version(version);
        }
        let mut bytes: Bytes = bytes.into();
        while !IS_A_GATEWAY && bytes.len() > 1 && bytes.ends_with(b"\n") {
            bytes.truncate(bytes.len() - 1);
        }
        decoder.push(bytes);
        let item = decoder.next().expect("a frame that can be read").expect("a whole frame");
        assert!(decoder.is_empty(), "one frame in each message");
        match item {
            Item::Frame(frame) => Some(Received { frame, is_text }),
            Item::Heartbeat => None,
        }
    }

    /// Panics unless it is of this command.
    #[track_caller]
    pub(crate) fn of(self, command: &str) -> Self {
        assert_eq!(self.frame.command.as_str(), command, "{}", self.shown());
        self
    }

    /// Panics unless it has this header.
    #[track_caller]
    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        assert_eq!(self.maybe(name), Some(value), "{name} in {}", self.shown());
        self
    }

    /// Panics if it has a header of that name.
    #[track_caller]
    pub(crate) fn without(self, name: &str) -> Self {
        assert_eq!(self.maybe(name), None, "{name} in {}", self.shown());
        self
    }

    /// Panics unless it says that nobody was there; or says nothing, where the broker does not tell.
    #[track_caller]
    pub(crate) fn unrouted(self) -> Self {
        if TELLS_UNROUTED { self.with("routed", "false") } else { self.without("routed") }
    }

    /// Panics unless its body is this.
    #[track_caller]
    pub(crate) fn saying(self, body: impl AsRef<[u8]>) -> Self {
        assert!(self.frame.body == body.as_ref(), "{:?} in {}", String::from_utf8_lossy(body.as_ref()), self.shown());
        self
    }

    /// Panics unless its body speaks of this.
    #[track_caller]
    pub(crate) fn about(self, what: &str) -> Self {
        assert!(!IS_A_GATEWAY || self.body().contains(what), "{what} in {}", self.shown());
        self
    }

    /// Panics unless it came in a text message.
    #[track_caller]
    pub(crate) fn in_text(self) -> Self {
        assert!(self.is_text, "in a text message: {}", self.shown());
        self
    }

    /// Panics unless it came in a binary message.
    #[track_caller]
    pub(crate) fn in_binary(self) -> Self {
        assert!(!self.is_text, "in a binary message: {}", self.shown());
        self
    }

    /// A header that must be there.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> String {
        self.maybe(name).unwrap_or_else(|| panic!("{name} in {}", self.shown())).to_owned()
    }

    /// A header, if it is there.
    pub(crate) fn maybe(&self, name: &str) -> Option<&str> {
        let found = self.frame.headers.get(name).map(|value| &**value);
        found.filter(|value| IS_A_GATEWAY || (name, *value) != ("redelivered", "false"))
    }

    /// How many headers of that name there are.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.frame.headers.iter().filter(|(known, _)| &***known == name).count()
    }

    /// Its command.
    #[allow(dead_code, reason = "few have to ask")]
    pub(crate) fn command(&self) -> &str {
        self.frame.command.as_str()
    }

    /// Its body as text.
    pub(crate) fn body(&self) -> String {
        String::from_utf8_lossy(&self.frame.body).into_owned()
    }

    fn shown(&self) -> String {
        let headers = self.frame.headers.iter().map(|(name, value)| format!("{name}:{value}\n"));
        let body: String = self.body().chars().take(500).collect();
        format!("{}\n{}\n{body}", self.frame.command, headers.collect::<Vec<_>>().concat())
    }
}

/// What goes over the wire for a frame that is written with less.
pub(crate) fn wire(frame: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = frame.as_ref().to_vec();
    if !bytes.windows(2).any(|pair| pair == b"\n\n") && !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
        bytes.extend_from_slice(if bytes.ends_with(b"\n") { b"\n" } else { b"\n\n" });
    }
    bytes.push(0);
    bytes
}

/// The CONNECT that asks for this version alone.
pub(crate) fn connect_frame(version: &str, headers: &str) -> String {
    let separator = if headers.is_empty() { "" } else { "\n" };
    format!("CONNECT\naccept-version:{version}\nhost:{}{separator}{headers}", crate::peer::host())
}

fn version(name: &str) -> Version {
    Version::negotiate(Some(name)).expect("a version of STOMP")
}
