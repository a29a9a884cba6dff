//! Who goes on with a session says so to all gateways before the broker hears of it.
//!
//! Few brokers tell the one that had it why its connection is closed (Mosquitto 2.0.11 does not). But whoever has heard that
//! another gateway was about to connect knows that it was taken over; and whoever has not, though it hears itself, was
//! cut off. Where the broker lets nobody speak or listen here, nothing is known.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use super::line::{Line, Live, Plan};
use super::takeover::Session;
use super::{CLOSING, Connector, random};
use crate::broker::mqtt::names::SESSIONS;
use crate::broker::mqtt::wire::{Arrival, Filter, Packet};

/// Ends what is no claim: whoever said it wants to hear itself.
const ECHO: u8 = b'?';

/// The connection that messages are published on. It is there beside those with sessions, and hears of them.
pub(in crate::broker::mqtt) struct Witness {
    pub(in crate::broker::mqtt) line: Arc<Line>,
    ears: Arc<Ears>,
}

struct Ears {
    /// This gateway's, among all who speak of sessions.
    voice: String,
    /// By their topics.
    heard: Mutex<HashMap<String, Arc<watch::Sender<Heard>>>>,
}

#[derive(Clone, Copy, Default)]
struct Heard {
    /// Another gateway goes on with the session.
    is_claimed: bool,
    echoes: u64,
}

/// What a line says and hears of its session.
pub(super) struct Ear {
    witness: Arc<Witness>,
    topic: String,
    heard: Arc<watch::Sender<Heard>>,
}

impl Witness {
    /// Begins to connect.
    pub(in crate::broker::mqtt) fn start(connector: &Arc<Connector>) -> Option<Arc<Self>> {
        let ears = Arc::new(Ears { voice: random::<16>()?, heard: Mutex::default() });
        let hearing = Arc::clone(&ears);
        let sink = move |_: &Arc<Live>, arrival: Arrival| hearing.hear(&arrival);
        let line = Line::start(connector, Plan::shared("publishing"), sink);
        Some(Arc::new(Witness { line, ears }))
    }
}

impl Ears {
    fn hear(&self, arrival: &Arrival) {
        let Some(heard) = self.lock().get(&*arrival.topic).cloned() else { return };
        let (voice, is_echo) = match &*arrival.payload {
            [voice @ .., ECHO] => (voice, true),
            voice => (voice, false),
        };
        let is_own = voice == self.voice.as_bytes();
        heard.send_if_modified(|heard| {
            heard.echoes += u64::from(is_own && is_echo);
            heard.is_claimed |= !is_own && !is_echo;
            is_own == is_echo
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<watch::Sender<Heard>>>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ear {
    /// For a line with this session. It is the only one here.
    pub(super) fn of(session: &Session) -> Self {
        let (witness, heard) = (Arc::clone(&session.witness), Arc::default());
        let topic = format!("{SESSIONS}{}", session.client_id);
        witness.ears.lock().insert(topic.clone(), Arc::clone(&heard));
        Ear { witness, topic, heard }
    }

    /// Tells the others that this gateway goes on with the session, if there is a way.
    pub(super) async fn claim(&self) {
        let told = async {
            if let Ok(live) = self.witness.line.up().await {
                live.client.publish(self.packet(&live, None)).await;
            }
        };
        let _ = tokio::time::timeout(CLOSING, told).await; // whoever has not heard it fights no longer than it takes to
    }

    /// Listens on each connection of the witness; `first` is the one of them that is there first. Comes back when another
    /// gateway goes on with the session.
    pub(super) async fn listen(&self, first: &OnceLock<u64>) {
        let mut heard = self.heard.subscribe();
        let listening = async {
            // It may come up later: at the start, all do at once.
            while let Ok(live) = self.witness.line.up().await {
                first.get_or_init(|| live.generation);
                let (path, qos) = (self.topic.clone(), live.granted.max_qos.min(1));
                // Where that is refused, nothing is heard.
                live.client.subscribe(&Filter { path, qos, retained: false, identifier: None }).await;
                self.witness.line.gone(live.generation).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = heard.wait_for(|heard| heard.is_claimed) => {}
            () = listening => {}
        }
    }

    /// Whether another gateway has said that it goes on with the session. `None`: what is said is not heard here.
    pub(super) async fn is_claimed(&self) -> Option<bool> {
        let live = self.witness.line.now()?;
        let mut heard = self.heard.subscribe();
        let known = heard.borrow().echoes;
        drop(live.client.publish(self.packet(&live, Some(ECHO)))); // what comes of it is heard
        let answer = async {
            tokio::select! {
                heard = heard.wait_for(|heard| heard.is_claimed || heard.echoes > known) => {
                    heard.ok().map(|heard| heard.is_claimed)
                }
                () = live.client.gone() => None,
            }
        };
        tokio::time::timeout(CLOSING, answer).await.ok().flatten()
    }

    /// Whether that has been heard already.
    pub(super) fn has_heard_a_claim(&self) -> bool {
        self.heard.borrow().is_claimed
    }

    /// The session is of no interest any more.
    pub(super) fn leave(&self) {
        let mut ears = self.witness.ears.lock();
        // There may be another line for it by now.
        if ears.get(&self.topic).is_some_and(|heard| Arc::ptr_eq(heard, &self.heard)) {
            ears.remove(&self.topic);
            if let Some(live) = self.witness.line.now() {
                drop(live.client.unsubscribe(self.topic.clone())); // nobody waits for that
            }
        }
    }

    fn packet(&self, live: &Live, mark: Option<u8>) -> Packet {
        let payload = self.witness.ears.voice.bytes().chain(mark).collect();
        Packet { topic: self.topic.clone(), qos: live.granted.max_qos.min(1), payload, ..Packet::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_others_are_told_from_echoes_of_our_own() {
        let ears = Ears { voice: "we".to_owned(), heard: Mutex::default() };
        let heard = Arc::new(watch::Sender::new(Heard::default()));
        ears.lock().insert("s".to_owned(), Arc::clone(&heard));
        let says = |topic: &str, payload: &'static str| {
            ears.hear(&Arrival { topic: topic.into(), payload: payload.into(), ..Arrival::default() });
            let heard = *heard.borrow();
            (heard.is_claimed, heard.echoes)
        };
        assert_eq!(says("s", "we"), (false, 0)); // as we began
        assert_eq!(says("s", "they?"), (false, 0));
        assert_eq!(says("s", "we?"), (false, 1));
        assert_eq!(says("t", "they"), (false, 1));
        assert_eq!(says("s", "they"), (true, 1));
    }
}
