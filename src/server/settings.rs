//! `[server]`: where and how clients connect.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Deflate;
use crate::settings::Faults;

/// `[server]`: the port, the handshake and the sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address and port to listen on. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// Path of the WebSocket endpoint; begins with `/`. Default `/ws`.
    pub path: String,
    /// Threads that serve clients; there is one more for the broker. With 0 the runtime in which the gateway starts does
    /// both, which is for programs that embed it. A client stays on the thread that the system has chosen by the client's address and port, whatever that one
    /// has to do: many clients are spread evenly, a few need not be; and on other systems than Linux all may come to one
    /// thread. Default as many as there are processors.
    pub workers: Option<usize>,
    /// Connections at a time. Default 20000.
    pub max_connections: usize,
    /// Connections at a time from one IP address; 0 is no limit. Default 0.
    pub max_connections_per_address: usize,
    /// Time from accepting a socket to the end of TLS and WebSocket handshakes. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// Time for which a gateway that is told to stop serves on, saying that it is not ready. Default 0.
    #[serde(with = "humantime_serde")]
    pub drain_grace: Duration,
    /// Time over which it then closes its clients, in waves. Default 0, which means all at once.
    #[serde(with = "humantime_serde")]
    pub drain_window: Duration,
    /// Time that a shutdown gives to what is in flight, after the last wave. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub shutdown_timeout: Duration,
    /// Time that a closing client has to take what still waits for it, and to close, too. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub close_timeout: Duration,
    /// Silence after which a WebSocket Ping is sent; two unanswered close. Default 25 s.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// Origins whose pages may connect: `https://app.example.com`, `https://*.example.com` or `*`.
    /// Default none, which means the host that the `Host` header names.
    pub allowed_origins: Vec<String>,
    /// Refuse a handshake without an `Origin` header. Default false: programs send none.
    pub require_origin: bool,
    /// Values that the `Host` header may have: `gateway.example.com`, `*.example.com`, with or without port.
    /// Default none, which means any, or loopback names only when listening on loopback.
    pub allowed_hosts: Vec<String>,
    /// Bytes of the read buffer of each connection; it is larger while a larger message comes. Default 256 B.
    pub read_buffer: usize,
    /// Bytes that are gathered before they are written to the socket. Default 16 KiB.
    pub write_buffer: usize,
    /// `[server.deflate]`: compression of messages, for clients that offer it.
    pub deflate: Deflate,
    /// `[server.tls]`: with both files set, the port speaks `wss`.
    pub tls: Tls,
}

/// `[server.tls]`: certificate and key, both or neither.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file with the certificate chain, the server's own first. Default none.
    pub certificate: Option<PathBuf>,
    /// PEM file with the private key. Default none.
    pub key: Option<PathBuf>,
}

/// More than one machine has ports and memory for.
const MOST_CONNECTIONS: usize = 10_000_000;
/// More than one machine has processors.
const MOST_WORKERS: usize = 1024;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            path: "/ws".to_owned(),
            workers: None,
            max_connections: 20_000,
            max_connections_per_address: 0,
            handshake_timeout: Duration::from_secs(10),
            drain_grace: Duration::ZERO,
            drain_window: Duration::ZERO,
            shutdown_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(25),
            allowed_origins: Vec::new(),
            require_origin: false,
            allowed_hosts: Vec::new(),
            read_buffer: 256,
            write_buffer: 16 * 1024,
            deflate: Deflate::default(),
            tls: Tls::default(),
        }
    }
}

impl Settings {
    /// What types alone cannot say: bounds, spellings, and that the TLS files can be read.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        faults.demand(
            self.path.starts_with('/')
                && self.path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte)),
            "server.path",
            format!("is {:?}; expected a path that begins with /, without ? or #", self.path),
        );
        let range = 1..=MOST_CONNECTIONS;
        let expected = format!("is {}; expected 1 to {MOST_CONNECTIONS}", self.max_connections);
        faults.demand(range.contains(&self.max_connections), "server.max_connections", expected);
        let workers = self.workers.unwrap_or_default();
        let expected = format!("is {workers}; expected 0 to {MOST_WORKERS}");
        faults.demand(workers <= MOST_WORKERS, "server.workers", expected);
        for (key, time) in
            [("server.handshake_timeout", self.handshake_timeout), ("server.ping_interval", self.ping_interval)]
        {
            faults.demand(time >= Duration::from_millis(100), key, "must be at least 100ms");
        }
        for (key, time) in [
            ("server.handshake_timeout", self.handshake_timeout),
            ("server.ping_interval", self.ping_interval),
            ("server.close_timeout", self.close_timeout),
            ("server.drain_grace", self.drain_grace),
            ("server.drain_window", self.drain_window),
            ("server.shutdown_timeout", self.shutdown_timeout),
        ] {
            faults.demand_time(key, time);
        }
        for (key, size) in [("server.read_buffer", self.read_buffer), ("server.write_buffer", self.write_buffer)] {
            let good = (256..=16 * 1024 * 1024).contains(&size);
            faults.demand(good, key, format!("is {size}; expected 256 to 16777216 bytes"));
        }
        for origin in &self.allowed_origins {
            let expected = "expected https://app.example.com, https://*.example.com or *, without a path";
            faults.demand(is_origin(origin), "server.allowed_origins", format!("has {origin:?}; {expected}"));
        }
        for host in &self.allowed_hosts {
            let expected = "expected gateway.example.com or *.example.com, with or without :port";
            faults.demand(is_host(host), "server.allowed_hosts", format!("has {host:?}; {expected}"));
        }
        faults.join(self.deflate.check());
        faults.join(self.tls.check());
        faults.into_result()
    }
}

impl Tls {
    /// Certificate and key, if the port speaks TLS.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        self.certificate.as_deref().zip(self.key.as_deref())
    }

    fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        for (key, file, other) in
            [("server.tls.certificate", &self.certificate, &self.key), ("server.tls.key", &self.key, &self.certificate)]
        {
            match file {
                Some(file) => {
                    if let Err(error) = File::open(file) {
                        faults.add(key, format!("cannot read {}: {error}", file.display()));
                    }
                }
                None => faults.demand(
                    other.is_none(),
                    key,
                    "is missing: server.tls.certificate and server.tls.key go together",
                ),
            }
        }
        faults.into_result()
    }
}

fn is_origin(text: &str) -> bool {
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|first: char| first.is_ascii_lowercase())
            && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
    };
    text == "*" || text.split_once("://").is_some_and(|(scheme, host)| is_scheme(scheme) && is_host(host))
}

/// `name`, `*.name`, `1.2.3.4` or `[::1]`, each with or without `:port`.
pub(super) fn is_host(text: &str) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        let port = rest.strip_prefix(':');
        return address.parse::<std::net::Ipv6Addr>().is_ok() && (rest.is_empty() || port.is_some_and(is_port));
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let name = host.strip_prefix("*.").unwrap_or(host);
    let name = name.strip_suffix('.').unwrap_or(name); // a fully qualified name
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.split('.').all(is_label) && port.is_none_or(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(checked: Result<(), Faults>) -> Vec<String> {
        checked.err().into_iter().flatten().map(|fault| fault.key).collect()
    }

    #[test]
    fn the_defaults_are_good() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn origins_and_hosts_are_read() {
        for good in ["*", "https://a.example.com", "https://*.example.com", "http://localhost:3000", "http://[::1]:80"]
        {
            assert!(is_origin(good), "{good}");
        }
        for bad in ["", "null", "a.example.com", "https://", "https://a/", "https://a.*.com", "https://a:x", "HTTP://a"]
        {
            assert!(!is_origin(bad), "{bad}");
        }
        assert!(is_host("*.example.com:8443") && is_host("10.0.0.1") && !is_host("http://a") && !is_host("*"));
    }

    #[test]
    fn every_fault_is_reported_with_its_key() {
        let settings = Settings {
            path: "ws".to_owned(),
            write_buffer: 0,
            allowed_origins: vec!["example.com".to_owned()],
            tls: Tls { certificate: Some("/nowhere.pem".into()), key: None },
            ..Settings::default()
        };
        let expected = [
            "server.path",
            "server.write_buffer",
            "server.allowed_origins",
            "server.tls.certificate",
            "server.tls.key",
        ];
        assert_eq!(keys(settings.check()), expected);
    }
}
