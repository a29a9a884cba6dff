//! Whether somebody else goes on with a session. To connect again would be to fight for it.

use std::pin::pin;
use std::sync::Arc;

use super::line::Line;
use super::{CLOSING, random};
use crate::broker::mqtt::names::FENCES;
use crate::broker::mqtt::wire::{Client, Driver, Fault, Granted, Packet, Published};

/// A session that others can find by its name.
pub(in crate::broker::mqtt) struct Session {
    /// The name of the client.
    pub(in crate::broker::mqtt) client_id: String,
    /// Seconds for which the broker keeps it without a connection. `None`: it is begun anew, and ends at once.
    pub(in crate::broker::mqtt) lasts: Option<u32>,
    /// A connection that is not touched when somebody takes the session over.
    pub(in crate::broker::mqtt) witness: Arc<Line>,
}

/// Why the session of a line is not gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker::mqtt) enum Verdict {
    /// Somebody else does so.
    TakenOver,
    /// What it brings breaks each connection.
    Poisoned,
}

impl Line {
    /// Whether the broker still answers on this connection.
    async fn answers(&self, generation: u64) -> bool {
        let live = self.now().filter(|live| live.generation == generation);
        let (Some(live), Some(random)) = (live, random::<16>()) else { return false };
        let packet = Packet { topic: format!("{FENCES}{random}"), qos: 1, ..Packet::default() };
        let published = tokio::time::timeout(CLOSING, live.client.publish(packet)).await;
        matches!(published, Ok(Published::Taken(_) | Published::Refused(_)))
    }

    /// The connection beside one with a session.
    pub(super) fn witness(&self) -> Option<&Arc<Line>> {
        self.plan.session.as_ref().filter(|session| session.lasts.is_some()).map(|session| &session.witness)
    }

    /// Whether somebody else has the session now. To connect again would be to fight for it. Few brokers say so (Mosquitto
    /// 2.0.11 does not); but they have closed this connection without a word, and answer on one that was there before.
    pub(super) async fn has_lost_its_session(&self, fault: &Fault, witnessed: Option<u64>) -> bool {
        let Some(witness) = self.witness() else { return false };
        match (fault, witnessed) {
            (Fault::TakenOver, _) => true,
            (Fault::Closed(_), Some(generation)) => witness.answers(generation).await,
            _ => false,
        }
    }

    /// The same as [`Line::hold`]; and which connection was there beside it, if there was one.
    pub(super) async fn hold_witnessed(
        &self,
        client: Client,
        driver: Driver,
        granted: Granted,
    ) -> (Option<Fault>, Option<u64>) {
        let mut hold = pin!(self.hold(client, driver, granted));
        let witnessed = async {
            match self.witness() {
                // It may come up later: at the start, all do at once.
                Some(witness) => witness.up().await.ok().map(|live| live.generation),
                None => None,
            }
        };
        tokio::select! {
            biased;
            witnessed = witnessed => (hold.await, witnessed),
            fault = &mut hold => (fault, None),
        }
    }
}
