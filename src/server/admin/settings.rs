//! `[admin]`: where operators ask.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::{Faults, Secret};

/// `[admin]`: the port for metrics and health, apart from that of the clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whether there is such a port. Default true.
    pub enabled: bool,
    /// Address and port to listen on. Default `127.0.0.1:9464`.
    pub listen: SocketAddr,
    /// What `/readyz` asks of the broker. Default `broker-up`.
    pub readiness: Readiness,
    /// What a call of the API must bring as `authorization: Bearer …`, at least sixteen characters. Default none: then
    /// there is no API, only metrics and health.
    pub api_key: Option<Secret>,
    /// File that holds the key instead; blanks and line ends around it do not count. Default none.
    pub api_key_file: Option<PathBuf>,
    /// Requests at a time; further ones wait. Default 16.
    pub max_connections: usize,
    /// Calls of the API at a time; further ones are refused. Fewer than `max_connections`, so that metrics and health can
    /// always be asked for. Default 8.
    pub max_calls: usize,
    /// Bytes of the body of a call. Default 4 MiB.
    pub max_body: usize,
    /// Messages in one call. Default 1000.
    pub max_messages: usize,
    /// Time for one request and its answer. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

/// Of a key: shorter ones can be guessed.
const SHORTEST_KEY: usize = 16;

/// When a gateway that listens and does not drain is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// While it is connected to the broker, even if that one takes no messages at the moment.
    #[default]
    BrokerUp,
    /// Always: clients keep their sessions while the gateway tries to reach the broker.
    Listening,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            readiness: Readiness::BrokerUp,
            api_key: None,
            api_key_file: None,
            max_connections: 16,
            max_calls: 8,
            max_body: 4 * 1024 * 1024,
            max_messages: 1000,
            timeout: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// The key of the API, if there is one.
    ///
    /// # Errors
    /// The setting that is wrong, and why; never the key.
    pub(super) fn key(&self) -> Result<Option<Secret>, (&'static str, String)> {
        let (setting, key) = match (&self.api_key, &self.api_key_file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err((
                    "admin.api_key_file",
                    "goes without admin.api_key: the key stands in one place".to_owned(),
                ));
            }
            (Some(key), None) => ("admin.api_key", key.clone()),
            (None, Some(file)) => {
                let read = fs::read_to_string(file);
                let text = read.map_err(|error| ("admin.api_key_file", format!("{}: {error}", file.display())))?;
                ("admin.api_key_file", Secret::from(text.trim()))
            }
        };
        let good = key.reveal().len() >= SHORTEST_KEY && key.reveal().bytes().all(|byte| byte.is_ascii_graphic());
        let why = || format!("must be at least {SHORTEST_KEY} letters, digits and signs, without blanks");
        if good { Ok(Some(key)) } else { Err((setting, why())) }
    }

    /// What types alone cannot say: bounds, and that the file with the key can be read.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        let expected = format!("is {}; expected 1 to 1024", self.max_connections);
        faults.demand((1..=1024).contains(&self.max_connections), "admin.max_connections", expected);
        let expected = format!("is {}; expected 1 to fewer than admin.max_connections", self.max_calls);
        faults.demand((1..self.max_connections.max(2)).contains(&self.max_calls), "admin.max_calls", expected);
        let expected = format!("is {}; expected 1024 to 1073741824 bytes", self.max_body);
        faults.demand((1024..=1 << 30).contains(&self.max_body), "admin.max_body", expected);
        let expected = format!("is {}; expected 1 to 100000", self.max_messages);
        faults.demand((1..=100_000).contains(&self.max_messages), "admin.max_messages", expected);
        if let Err((key, why)) = self.key() {
            faults.add(key, why);
        }
        faults.demand(self.timeout >= Duration::from_millis(100), "admin.timeout", "must be at least 100ms");
        faults.demand_time("admin.timeout", self.timeout);
        faults.into_result()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_long_stands_in_one_place_and_is_never_told() {
        let with = |key: &str| Settings { api_key: Some(Secret::from(key)), ..Settings::default() };
        assert_eq!(with("0123456789abcdef").check(), Ok(()));
        for bad in ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcdef\n"] {
            let faults = with(bad).check().expect_err("too short, or not for a header").to_string();
            assert!(faults.starts_with("admin.api_key: must be at least 16"), "{faults}");
        }
        let both = Settings { api_key_file: Some("/nowhere".into()), ..with("0123456789abcdef") };
        assert!(both.check().expect_err("two").to_string().starts_with("admin.api_key_file: "));
        let missing = Settings { api_key_file: Some("/nowhere".into()), ..Settings::default() };
        assert!(missing.check().expect_err("no file").to_string().starts_with("admin.api_key_file: /nowhere: "));
        assert!(!format!("{:?}", with("0123456789abcdef")).contains("0123"));
    }
}
