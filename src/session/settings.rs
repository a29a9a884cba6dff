//! `[session]`: what one STOMP session may do, and how long things may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::Faults;

/// `[session]`: limits and times of one STOMP session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Time from the open WebSocket to a complete CONNECT. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Bytes that may come before CONNECT is complete, itself included. Default 16 KiB.
    pub max_connect_bytes: usize,
    /// Headers of one frame. Default 100.
    pub max_headers: usize,
    /// Bytes of all headers of one frame. Default 16 KiB.
    pub max_header_bytes: usize,
    /// Bytes of the body of one frame. Default 4 MiB.
    pub max_body: usize,
    /// Subscriptions that are open at a time. Default 1000.
    pub max_subscriptions: usize,
    /// Transactions that are open at a time; 0 allows none. Default 16.
    pub max_transactions: usize,
    /// Frames in one transaction. Default 1000.
    pub max_transaction_frames: usize,
    /// Bytes of all frames in one transaction. Default 16 MiB.
    pub max_transaction_bytes: usize,
    /// Time from BEGIN to COMMIT or ABORT. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub transaction_timeout: Duration,
    /// Unsettled deliveries of a subscription that does not ask with `prefetch-count`. Default 100.
    pub prefetch: u16,
    /// The highest `prefetch-count` that is granted; a higher one is lowered to it. Default 1000.
    pub max_prefetch: u16,
    /// Time within which the broker must confirm. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub confirm_timeout: Duration,
    /// Receipts that may wait for the broker at a time; more are read only when there is room. Default 1000.
    pub max_unconfirmed: usize,
    /// The shortest heart-beat interval that is agreed to. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub heartbeat_min: Duration,
    /// The longest interval at which the gateway sends heart-beats; a client may send its own more rarely. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub heartbeat_max: Duration,
    /// Frames per second that a client may send; 0 is no limit. Default 0.
    pub max_frames_per_second: u32,
    /// Bytes per second that a client may send; 0 is no limit. Default 0.
    pub max_bytes_per_second: usize,
}

/// 1 GiB: what one client may make the gateway hold, at the very most.
const LARGEST: usize = 1024 * 1024 * 1024;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            connect_timeout: Duration::from_secs(10),
            max_connect_bytes: 16 * 1024,
            max_headers: 100,
            max_header_bytes: 16 * 1024,
            max_body: 4 * 1024 * 1024,
            max_subscriptions: 1000,
            max_transactions: 16,
            max_transaction_frames: 1000,
            max_transaction_bytes: 16 * 1024 * 1024,
            transaction_timeout: Duration::from_mins(5),
            prefetch: 100,
            max_prefetch: 1000,
            confirm_timeout: Duration::from_secs(30),
            max_unconfirmed: 1000,
            heartbeat_min: Duration::from_secs(1),
            heartbeat_max: Duration::from_mins(1),
            max_frames_per_second: 0,
            max_bytes_per_second: 0,
        }
    }
}

impl Settings {
    /// What types alone cannot say: that the values make sense together.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        for (key, time) in [
            ("session.connect_timeout", self.connect_timeout),
            ("session.transaction_timeout", self.transaction_timeout),
            ("session.confirm_timeout", self.confirm_timeout),
            ("session.heartbeat_min", self.heartbeat_min),
        ] {
            faults.demand(time >= Duration::from_millis(1), key, "must be at least 1ms");
            faults.demand_time(key, time);
        }
        faults.demand_time("session.heartbeat_max", self.heartbeat_max);
        for (key, bytes) in [("session.max_body", self.max_body), ("session.max_header_bytes", self.max_header_bytes)] {
            faults.demand(bytes <= LARGEST, key, format!("is {bytes}; expected at most {LARGEST} bytes"));
        }
        for (key, number) in [
            ("session.max_connect_bytes", self.max_connect_bytes),
            ("session.max_headers", self.max_headers),
            ("session.max_header_bytes", self.max_header_bytes),
            ("session.max_body", self.max_body),
            ("session.max_subscriptions", self.max_subscriptions),
            ("session.max_transaction_frames", self.max_transaction_frames),
            ("session.max_transaction_bytes", self.max_transaction_bytes),
            ("session.prefetch", self.prefetch.into()),
            ("session.max_unconfirmed", self.max_unconfirmed),
        ] {
            faults.demand(number >= 1, key, "must be at least 1");
        }
        faults.demand(
            self.prefetch <= self.max_prefetch,
            "session.prefetch",
            format!("is {}, which is more than session.max_prefetch = {}", self.prefetch, self.max_prefetch),
        );
        faults.demand(
            self.heartbeat_min <= self.heartbeat_max,
            "session.heartbeat_min",
            format!("is {:?}, which is more than session.heartbeat_max = {:?}", self.heartbeat_min, self.heartbeat_max),
        );
        faults.into_result()
    }
}
