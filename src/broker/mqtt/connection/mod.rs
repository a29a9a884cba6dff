//! Connections that come back: made, driven, and made again for as long as the broker is in use.
//!
//! A [`Line`] is one connection over time. Whoever uses it takes what is there now with [`Line::up`], and when that
//! fails brings back its own subscriptions on the next one. Each has a client name of its own that changes with every
//! connection, so that the broker never takes two of them for one, and nobody fights for a name.

mod connector;
mod line;
mod takeover;
mod tls;
mod witness;

pub(super) use self::connector::Connector;
pub(super) use self::line::{Line, Live, Plan, Trial};
pub(super) use self::takeover::{Session, Verdict};
pub(super) use self::witness::Witness;

use std::time::Duration;

use crate::broker::base64::base64url;

/// A broker has so long to take our good-bye.
const CLOSING: Duration = Duration::from_secs(2);
/// Random letters; `None` where there is no randomness.
fn random<const BYTES: usize>() -> Option<String> {
    let mut random = [0; BYTES];
    getrandom::fill(&mut random).ok()?;
    Some(base64url(&random))
}
