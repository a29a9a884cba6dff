//! `[traces]`: where spans go, and how many.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::{Faults, Secret};

/// `[traces]`: what is recorded of the way of messages, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// URL that takes OTLP over HTTP as protobuf, such as `http://127.0.0.1:4318/v1/traces`. Default none: nothing is
    /// recorded.
    pub endpoint: Option<String>,
    /// PEM file with the certificates that sign that of the endpoint, for `https`. Default none: those of the public web.
    pub ca: Option<PathBuf>,
    /// What goes along as `authorization: Bearer …`. Default none.
    pub token: Option<Secret>,
    /// The name of the service that spans are of. Default `stompgate`.
    pub service: String,
    /// Of the traces that begin here, one in so many is recorded. Default 100.
    pub sample_one_in: u32,
    /// Record a message whose client says in `traceparent` that its trace is recorded. Otherwise that is left to
    /// `sample_one_in`. What backends say always counts. Default true.
    pub follow_clients: bool,
    /// Spans that wait to be exported; further ones are dropped. Default 4096.
    pub max_queue: usize,
    /// Spans in one export. Default 512.
    pub max_batch: usize,
    /// Longest time for which a span waits for others to go with it. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Time for one export. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Readers of one message whose writes are recorded, and acknowledgements of one session that are recorded at a
    /// time. Default 64.
    pub max_open: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            endpoint: None,
            ca: None,
            token: None,
            service: "stompgate".to_owned(),
            sample_one_in: 100,
            follow_clients: true,
            max_queue: 4096,
            max_batch: 512,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(10),
            max_open: 64,
        }
    }
}

impl Settings {
    /// What types alone cannot say: bounds, and whether this program can export.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        if let Some(endpoint) = &self.endpoint {
            let is_url = endpoint
                .parse::<hyper::Uri>()
                .is_ok_and(|uri| uri.authority().is_some() && matches!(uri.scheme_str(), Some("http" | "https")));
            let expected = format!("is {endpoint:?}; expected a URL such as \"http://127.0.0.1:4318/v1/traces\"");
            faults.demand(is_url, "traces.endpoint", expected);
            let why = "is set, but this program was built without its feature \"otlp\"";
            faults.demand(cfg!(feature = "otlp"), "traces.endpoint", why);
        }
        if let Some(token) = &self.token {
            let is_good = !token.reveal().is_empty() && token.reveal().bytes().all(|byte| byte.is_ascii_graphic());
            faults.demand(is_good, "traces.token", "must be letters, digits and signs, without blanks");
        }
        faults.demand(!self.service.trim().is_empty(), "traces.service", "must not be empty");
        faults.demand(self.sample_one_in >= 1, "traces.sample_one_in", "is 0; expected 1 (all of them) or more");
        for (key, value, most) in [
            ("traces.max_queue", self.max_queue, 1_000_000),
            ("traces.max_batch", self.max_batch, self.max_queue),
            ("traces.max_open", self.max_open, 10_000),
        ] {
            faults.demand((1..=most).contains(&value), key, format!("is {value}; expected 1 to {most}"));
        }
        for (key, time) in [("traces.interval", self.interval), ("traces.timeout", self.timeout)] {
            faults.demand(time >= Duration::from_millis(1), key, "must be at least 1ms");
            faults.demand_time(key, time);
        }
        faults.into_result()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        let faults = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check().err().map(|faults| faults.to_string()).unwrap_or_default()
        };
        assert_eq!(faults(|_| {}), "");
        for (change, expected) in [
            ((|settings| settings.endpoint = Some("collector".into())) as fn(&mut Settings), "traces.endpoint: is"),
            (|settings| settings.endpoint = Some("ftp://a/".into()), "traces.endpoint: is"),
            (|settings| settings.token = Some("a b".into()), "traces.token: must"),
            (|settings| settings.service.clear(), "traces.service: must"),
            (|settings| settings.sample_one_in = 0, "traces.sample_one_in: is 0"),
            (|settings| settings.max_batch = settings.max_queue + 1, "traces.max_batch: is 4097"),
            (|settings| settings.max_queue = 0, "traces.max_queue: is 0"),
            (|settings| settings.max_open = 0, "traces.max_open: is 0"),
            (|settings| settings.interval = Duration::ZERO, "traces.interval: must"),
        ] {
            let found = faults(change);
            assert!(found.starts_with(expected), "{found:?}, not {expected:?}");
        }
        let exporting = faults(|settings| settings.endpoint = Some("https://collector/v1/traces".into()));
        assert_eq!(exporting.is_empty(), cfg!(feature = "otlp"), "{exporting}");
    }
}
