//! `[server]` and `[outbox]`: where clients connect, and what may wait for one of them.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::message::{Destination, Separators, Usage};
use crate::settings::Faults;

/// `[server]`: the port, the handshake and the sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address and port to listen on. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// Path of the WebSocket endpoint; begins with `/`. Default `/ws`.
    pub path: String,
    /// Connections at a time. Default 20000.
    pub max_connections: usize,
    /// Connections at a time from one IP address; 0 is no limit. Default 0.
    pub max_connections_per_address: usize,
    /// Time from accepting a socket to the end of TLS and WebSocket handshakes. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// Time that a shutdown gives to what is in flight. Default 10 s.
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
    /// Bytes of the read buffer of each connection. Default 2 KiB.
    pub read_buffer: usize,
    /// Bytes that are gathered before they are written to the socket. Default 16 KiB.
    pub write_buffer: usize,
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

/// `[outbox]`: what may wait for a client that reads more slowly than its subscriptions deliver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxSettings {
    /// Bytes that may wait for one client. Default 1 MiB.
    pub max_bytes: usize,
    /// Time for which a client may take nothing of what waits. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// Bytes of the largest message that an empty outbox takes. Default 16 MiB.
    pub max_delivery: usize,
    /// `[[outbox.policy]]`: what happens when it is full, by destination; the first that matches counts.
    /// Default none, which means `disconnect` for all.
    pub policy: Vec<OutboxPolicy>,
}

/// One `[[outbox.policy]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxPolicy {
    /// A destination as SUBSCRIBE writes it, wildcards allowed: `/topic/prices/#`.
    pub destination: String,
    /// What happens when there is no room. Default `disconnect`.
    pub when_full: WhenFull,
    /// For `conflate`: the header whose values tell messages apart; the newest of each value is kept.
    pub key: Option<String>,
}

/// What happens to a message for which an outbox has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The client is disconnected.
    #[default]
    Disconnect,
    /// The oldest waiting messages of the subscription make room.
    DropOldest,
    /// The message itself is dropped.
    DropNewest,
    /// The waiting message with the same value of a header is replaced.
    Conflate,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            path: "/ws".to_owned(),
            max_connections: 20_000,
            max_connections_per_address: 0,
            handshake_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(25),
            allowed_origins: Vec::new(),
            require_origin: false,
            allowed_hosts: Vec::new(),
            read_buffer: 2 * 1024,
            write_buffer: 16 * 1024,
            tls: Tls::default(),
        }
    }
}

impl Default for OutboxSettings {
    fn default() -> Self {
        OutboxSettings {
            max_bytes: 1024 * 1024,
            max_wait: Duration::from_secs(10),
            max_delivery: 16 * 1024 * 1024,
            policy: Vec::new(),
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
        faults.demand(self.max_connections >= 1, "server.max_connections", "must be at least 1");
        for (key, time) in
            [("server.handshake_timeout", self.handshake_timeout), ("server.ping_interval", self.ping_interval)]
        {
            faults.demand(time >= Duration::from_millis(100), key, "must be at least 100ms");
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

impl OutboxSettings {
    /// What types alone cannot say; destinations are read as `destination.separators` says.
    pub fn check(&self, separators: Separators) -> Result<(), Faults> {
        let mut faults = Faults::default();
        faults.demand(self.max_bytes >= 1, "outbox.max_bytes", "must be at least 1");
        faults.demand(self.max_delivery >= 1, "outbox.max_delivery", "must be at least 1");
        faults.demand(self.max_wait >= Duration::from_millis(1), "outbox.max_wait", "must be at least 1ms");
        for (index, policy) in self.policy.iter().enumerate() {
            policy.check(index, separators, &mut faults);
        }
        faults.into_result()
    }
}

impl OutboxPolicy {
    fn check(&self, index: usize, separators: Separators, faults: &mut Faults) {
        let key = |name: &str| format!("outbox.policy.{index}.{name}");
        match Destination::parse(&self.destination, Usage::Subscribe, separators) {
            Ok(Destination::Topic(_) | Destination::User { .. }) => {}
            Ok(_) => faults.add(
                &key("destination"),
                format!("is {:?}; only /topic/… and /user/… have a policy, queues pause instead", self.destination),
            ),
            Err(refusal) => faults.add(&key("destination"), refusal.detail),
        }
        let has_key = self.key.as_ref().is_some_and(|header| !header.is_empty());
        match self.when_full {
            WhenFull::Conflate => faults.demand(
                has_key,
                &key("key"),
                "is missing: conflate keeps the newest message per value of this header",
            ),
            _ => faults.demand(self.key.is_none(), &key("key"), "goes with when_full = \"conflate\" only"),
        }
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
fn is_host(text: &str) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        let port = rest.strip_prefix(':');
        return address.parse::<std::net::Ipv6Addr>().is_ok() && (rest.is_empty() || port.is_some_and(is_port));
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let name = host.strip_prefix("*.").unwrap_or(host);
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
        assert_eq!(OutboxSettings::default().check(Separators::Both), Ok(()));
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

    #[test]
    fn a_policy_names_a_topic_and_conflate_a_header() {
        let policy = |destination: &str, when_full, key: Option<&str>| OutboxPolicy {
            destination: destination.to_owned(),
            when_full,
            key: key.map(str::to_owned),
        };
        let check =
            |policy| keys(OutboxSettings { policy: vec![policy], ..Default::default() }.check(Separators::Both));
        assert_eq!(check(policy("/topic/prices/#", WhenFull::Conflate, Some("symbol"))), [""; 0]);
        assert_eq!(check(policy("/topic/a", WhenFull::Conflate, None)), ["outbox.policy.0.key"]);
        assert_eq!(check(policy("/topic/a", WhenFull::DropOldest, Some("symbol"))), ["outbox.policy.0.key"]);
        assert_eq!(check(policy("/queue/a", WhenFull::DropOldest, None)), ["outbox.policy.0.destination"]);
        assert_eq!(check(policy("", WhenFull::DropOldest, None)), ["outbox.policy.0.destination"]);
    }
}
