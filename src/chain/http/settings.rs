//! `[app.route.http]`: a service that answers a route.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[app.route.http]`: a service that answers a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `http://host:port/path/{variable}?name={variable}`.
    pub url: String,
    /// The method. Default `POST`.
    pub method: String,
    /// Time for one attempt; `app.timeout` at most. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// More attempts after one that failed. The service must be able to bear the same call twice. Default 0.
    pub retries: u32,
    /// Time before the second attempt; it doubles with each. Default 100 ms.
    #[serde(with = "humantime_serde")]
    pub backoff: Duration,
    /// Calls under way at a time; others wait. Default 64.
    pub max_concurrent: usize,
    /// Bytes of an answer's body. Default 1 MiB.
    pub max_response: usize,
    /// Connections that are kept open while nothing is called. Default 16.
    pub max_idle: usize,
    /// Time for which they are kept; shorter than the service's own. Default 4 s.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Failures in a row after which the service is left alone for a while; 0 is never. Default 5.
    pub breaker_failures: u32,
    /// That while. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub breaker_pause: Duration,
    /// Signs every call, so that the service can trust what the gateway says of the client. Default none.
    pub secret: Option<String>,
    /// PEM file with the certificates that sign the service's, for `https`. Default none: those of the public web.
    pub ca: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            url: String::new(),
            method: "POST".to_owned(),
            timeout: Duration::from_secs(5),
            retries: 0,
            backoff: Duration::from_millis(100),
            max_concurrent: 64,
            max_response: 1024 * 1024,
            max_idle: 16,
            idle_timeout: Duration::from_secs(4),
            breaker_failures: 5,
            breaker_pause: Duration::from_secs(5),
            secret: None,
            ca: None,
        }
    }
}
