//! Reply addresses: topics that nobody guesses, read by the shared connection.

use std::sync::{Arc, Mutex, PoisonError};

use super::mailbox::Mailbox;
use super::names;
use super::shared::SharedTopics;
use crate::broker::{BrokerError, Shared, Subscriber};
use crate::message::Message;

/// What is sent to one reply address.
pub(super) struct Replies {
    pub(super) mailbox: Arc<Mailbox>,
    shared: Arc<SharedTopics>,
    guard: Mutex<Option<Box<dyn Shared>>>,
    filter: String,
}

/// Puts what comes to a reply address into its mailbox.
struct Letterbox(Arc<Mailbox>);

impl Replies {
    /// A new address that nobody guesses.
    pub(super) async fn open(
        shared: &Arc<SharedTopics>,
        node: &str,
        prefetch: u16,
        max_waiting: usize,
    ) -> Result<Arc<Self>, BrokerError> {
        let topic = names::new_reply(node)?;
        let mailbox = Arc::new(Mailbox::new(prefetch, max_waiting));
        let guard = shared.listen(topic.clone(), Arc::new(Letterbox(Arc::clone(&mailbox)))).await?;
        let guard = Mutex::new(Some(guard));
        Ok(Arc::new(Replies { mailbox, shared: Arc::clone(shared), guard, filter: topic }))
    }

    /// What those who answer write to.
    pub(super) fn address(&self) -> &str {
        &self.filter
    }

    /// Comes back when nobody is there for it any more.
    pub(super) async fn stop(&self) {
        self.mailbox.stop();
        self.shared.close_now(&self.filter).await;
    }

    /// The reader is gone.
    pub(super) fn leave(&self) {
        let guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(guard);
        drop(self.shared.forget(&self.filter)); // nobody waits for the broker here
    }
}

impl Subscriber for Letterbox {
    fn deliver(&self, message: &Arc<Message>) {
        self.0.push(Arc::clone(message));
    }

    fn replay(&self, _reader: u64, _message: &Arc<Message>) {}

    fn replayed(&self, _reader: u64) {}

    fn restored(&self) {
        self.0.restored();
    }

    fn ended(&self, reason: &BrokerError) {
        self.0.end(reason.clone());
    }
}
