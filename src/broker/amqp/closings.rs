//! Channels that are being closed, by the queue that they read: whoever opens the queue next waits, so that what comes
//! back to it is there first, and in order.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// Somebody who waits for a channel to be closed waits no longer than this.
const CLOSING: Duration = Duration::from_secs(5);

/// The channels that are being closed now.
#[derive(Default)]
pub(super) struct Closings(Mutex<HashMap<String, Vec<oneshot::Receiver<()>>>>);

impl Closings {
    /// Comes back when no channel is being closed that read this queue.
    pub(super) async fn settled(&self, queue: &str) {
        let closing = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(queue);
        for closed in closing.into_iter().flatten() {
            // An error is that it is closed: the other half is only ever dropped.
            let _ = tokio::time::timeout(CLOSING, closed).await;
        }
    }

    /// A channel that read this queue begins to close.
    pub(super) fn add(&self, queue: &str) -> oneshot::Sender<()> {
        let (sender, closed) = oneshot::channel();
        let mut closings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_queue = closings.entry(queue.to_owned()).or_default();
        of_queue.retain_mut(|closed| matches!(closed.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        of_queue.push(closed);
        sender
    }

    /// It is closed: forget the queue, unless somebody else is at it.
    pub(super) fn done(&self, queue: &str, closed: oneshot::Sender<()>) {
        drop(closed);
        let mut closings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_queue) = closings.get_mut(queue) {
            of_queue.retain_mut(|closed| matches!(closed.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
            if of_queue.is_empty() {
                closings.remove(queue);
            }
        }
    }
}
