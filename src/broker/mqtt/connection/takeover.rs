//! Whether somebody else goes on with a session. To connect again would be to fight for it.

use std::pin::pin;
use std::sync::{Arc, OnceLock};

use super::line::Line;
use super::witness::Witness;
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
    pub(in crate::broker::mqtt) witness: Arc<Witness>,
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

    /// Whether the session lasts, so that somebody else can go on with it.
    pub(super) fn has_a_session(&self) -> bool {
        self.plan.session.as_ref().is_some_and(|session| session.lasts.is_some())
    }

    /// Whether somebody else has the session now. To connect again would be to fight for it. Where neither the broker nor
    /// another gateway can be heard, the broker has said so if it closed this connection without a word, and answers on one
    /// that was there before.
    pub(super) async fn has_lost_its_session(&self, fault: &Fault, witnessed: Option<u64>) -> bool {
        let Some(session) = self.plan.session.as_ref().filter(|session| session.lasts.is_some()) else { return false };
        match (fault, witnessed, &self.ear) {
            (Fault::TakenOver, ..) => true,
            (Fault::Closed(_), Some(generation), Some(ear)) => match ear.is_claimed().await {
                Some(is_claimed) => is_claimed,
                None => session.witness.line.answers(generation).await,
            },
            _ => false,
        }
    }

    /// The same as [`Line::hold`], until another gateway goes on with the session; and which connection was there beside
    /// it, if there was one.
    pub(super) async fn hold_witnessed(
        &self,
        client: Client,
        driver: Driver,
        granted: Granted,
    ) -> (Option<Fault>, Option<u64>) {
        let mut hold = pin!(self.hold(client, driver, granted));
        let Some(ear) = self.ear.as_ref().filter(|_| self.has_a_session()) else { return (hold.await, None) };
        let witnessed = OnceLock::new();
        let fault = tokio::select! {
            biased;
            () = ear.listen(&witnessed) => {
                self.end_as(Verdict::TakenOver);
                hold.await
            }
            fault = &mut hold => fault,
        };
        (fault, witnessed.get().copied())
    }
}
