//! Nothing to go on with at our side of a session.
//!
//! Our connections with a session only read, so the library has nothing to keep for them: what is settled is known to
//! the mailbox. But without a store it would take a session that the broker has kept for a mistake, or subscribe to
//! nothing in it (`BrokerSessionResumePolicy::AllowBrokerOnly`).

use std::future::{Future, ready};
use std::pin::Pin;

use rumqttc::{PersistedAckMode, PersistedSession, SessionStore, SessionStoreError, SessionStoreKey};

use super::WINDOW;

/// The only version that the library has.
const FORMAT: u16 = 1;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

/// A store from which each session comes empty.
#[derive(Debug)]
pub(super) struct Blank {
    /// What the connection is opened with, and the library compares.
    pub(super) lasts: Option<u32>,
    pub(super) is_manual: bool,
}

impl SessionStore for Blank {
    fn load<'a>(&'a self, key: &'a SessionStoreKey) -> Answer<'a, Option<PersistedSession>> {
        let session = PersistedSession {
            format_version: FORMAT,
            client_id: key.client_id().to_owned(),
            clean_start: false,
            session_expiry_interval: self.lasts,
            outgoing_inflight_upper_limit: Some(WINDOW),
            ack_mode: if self.is_manual { PersistedAckMode::Manual } else { PersistedAckMode::Automatic },
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(ready(Ok(Some(session))))
    }

    fn save<'a>(&'a self, _key: &'a SessionStoreKey, _session: &'a PersistedSession) -> Answer<'a, ()> {
        Box::pin(ready(Ok(())))
    }

    fn clear<'a>(&'a self, _key: &'a SessionStoreKey) -> Answer<'a, ()> {
        Box::pin(ready(Ok(())))
    }
}
