//! Where messages go that nobody wants: published there first, and acknowledged then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::oneshot;
use tracing::warn;

use super::dedicated::Dead;
use super::publisher::Publisher;
use crate::broker::{BrokerError, Confirmation, Permit};
use crate::message::{Destination, Message, Outcome};

/// The way to the dead-letter destination, if there is one.
pub(super) struct DeadLetters {
    publisher: Arc<Publisher>,
    destination: Option<Destination>,
    count: AtomicU64,
    lost: AtomicU64,
}

impl DeadLetters {
    /// Nothing is there yet.
    pub(super) fn new(publisher: &Arc<Publisher>, destination: Option<Destination>) -> Arc<Self> {
        Arc::new(DeadLetters {
            publisher: Arc::clone(publisher),
            destination,
            count: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        })
    }

    /// How many were sent there.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many found nobody there.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Buries what was rejected, and answers with `outcome` then.
    pub(super) fn settled(self: &Arc<Self>, outcome: Outcome, dead: Vec<Dead>) -> Confirmation {
        if dead.is_empty() || self.destination.is_none() {
            dead.iter().for_each(Dead::acknowledge);
            return Confirmation::Ready(Ok(outcome));
        }
        let (answer, confirmation) = oneshot::channel();
        let letters = self.begin(dead);
        let this = Arc::clone(self);
        tokio::spawn(async move {
            this.finish(letters).await;
            let _ = answer.send(Ok(outcome)); // whoever asked may be gone
        });
        Confirmation::Waiting(confirmation)
    }

    /// Buries, and comes back when that is done.
    pub(super) async fn bury(&self, dead: Vec<Dead>) {
        let letters = self.begin(dead);
        self.finish(letters).await;
    }

    /// Publishes in their order.
    fn begin(&self, dead: Vec<Dead>) -> Vec<(Dead, Option<Confirmation>)> {
        let send = |dead: &Dead| {
            let letter = self.letter(dead.message())?;
            Some(self.publisher.publish(Permit::UNBOUNDED, &letter, 1))
        };
        dead.into_iter().map(|dead| (send(&dead), dead)).map(|(sent, dead)| (dead, sent)).collect()
    }

    async fn finish(&self, letters: Vec<(Dead, Option<Confirmation>)>) {
        for (dead, sent) in letters {
            match sent {
                None => {}
                Some(sent) => match sent.await {
                    Ok(Outcome { routed: true, .. }) => _ = self.count.fetch_add(1, Ordering::Relaxed),
                    // The gateway ends: the broker has it still.
                    Err(BrokerError::Unavailable) => continue,
                    Ok(_) => self.lose("nobody reads there; broker.mqtt.hold_queues keeps a queue that nobody reads"),
                    Err(why) => self.lose(&why.to_string()),
                },
            }
            dead.acknowledge();
        }
    }

    fn lose(&self, why: &str) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        warn!("a rejected message is lost, broker.mqtt.dead_letter did not take it: {why}");
    }

    /// What dies in the dead-letter destination itself is gone, or it would go round for ever.
    fn letter(&self, dead: &Message) -> Option<Message> {
        let destination = self.destination.as_ref().filter(|destination| **destination != dead.destination)?;
        let mut letter = dead.clone();
        let place = match &dead.destination {
            Destination::Queue(name) => name.to_string(),
            Destination::Topic(name) => name.to_string(),
            _ => String::new(),
        };
        letter.destination = destination.clone();
        letter.headers.set("x-first-death-queue", place);
        letter.headers.set("x-first-death-reason", "rejected");
        letter.headers.remove("expiration");
        Some(letter)
    }
}
