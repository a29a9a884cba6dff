//! permessage-deflate (RFC 7692): messages that are compressed on their way, in both directions.
//!
//! Nothing is remembered from one message to the next, in either direction (`server_no_context_takeover`,
//! `client_no_context_takeover`). So a message is compressed once for all who read it, and an idle client costs nothing:
//! contexts would be 300 KiB for each. tungstenite knows nothing of all this. What goes out is given to it as frames with
//! RSV1; what comes in is inflated below it, by [`Inflater`].

mod deflater;
mod inflater;
mod message;
mod offer;

use serde::{Deserialize, Serialize};

use crate::settings::Faults;

pub(super) use deflater::Deflater;
pub(super) use inflater::{Fault, Inflater};
pub(super) use offer::{Agreed, negotiate};

/// `[server.deflate]`: compression of WebSocket messages (permessage-deflate, RFC 7692).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Agree to it with clients that offer it. Default false.
    pub enabled: bool,
    /// Bytes from which on a frame is compressed; shorter ones gain nothing. Default 512.
    pub min_size: usize,
    /// Bytes up to which a frame is compressed: a large one would keep a thread for long. Default 256 KiB.
    pub max_size: usize,
    /// Effort: 1 is fast, 9 is small. Default 6.
    pub level: u32,
}

/// What can be compressed in a time that other clients of the thread can wait.
const LARGEST: usize = 16 * 1024 * 1024;

impl Default for Settings {
    fn default() -> Self {
        Settings { enabled: false, min_size: 512, max_size: 256 * 1024, level: 6 }
    }
}

impl Settings {
    /// What types alone cannot say.
    pub(super) fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        let key = "server.deflate.level";
        faults.demand((1..=9).contains(&self.level), key, format!("is {}; expected 1 to 9", self.level));
        faults.demand(
            self.max_size <= LARGEST,
            "server.deflate.max_size",
            format!("is {}; expected at most {LARGEST} bytes", self.max_size),
        );
        faults.demand(
            self.min_size <= self.max_size,
            "server.deflate.min_size",
            format!("is {}, which is more than server.deflate.max_size = {}", self.min_size, self.max_size),
        );
        faults.into_result()
    }
}
