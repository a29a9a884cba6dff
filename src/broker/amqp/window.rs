//! How much may wait for the broker's confirmation: so many messages, and so many bytes of them, of all clients together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::settings::Settings;
use crate::broker::{BrokerError, Permit};

/// Whoever waits for room looks for it so often at least.
const RECHECK: Duration = Duration::from_millis(200);

/// The bound of everything that is being published. Messages count until they are confirmed, and their bytes from the
/// moment at which they are handed over: so the last one to come in may be above the bound.
pub(super) struct Window {
    messages: Arc<Semaphore>,
    max_messages: usize,
    bytes: AtomicUsize,
    max_bytes: usize,
    /// Somebody may come in.
    room: Notify,
}

/// Bytes of a message that waits; given back when this is dropped.
pub(super) struct Held {
    window: Arc<Window>,
    bytes: usize,
}

impl Window {
    /// Nothing waits yet.
    pub(super) fn new(settings: &Settings) -> Arc<Self> {
        let max_messages = settings.max_unconfirmed.min(Semaphore::MAX_PERMITS);
        Arc::new(Window {
            messages: Arc::new(Semaphore::new(max_messages)),
            max_messages,
            bytes: AtomicUsize::new(0),
            max_bytes: settings.max_unconfirmed_bytes,
            room: Notify::new(),
        })
    }

    /// A place for one more message, if there is one now.
    pub(super) fn try_reserve(&self) -> Option<Permit> {
        if !self.has_room() {
            return None;
        }
        Arc::clone(&self.messages).try_acquire_owned().ok().map(Permit::from)
    }

    /// A place for one more message, when there is one.
    pub(super) async fn reserve(&self) -> Result<Permit, BrokerError> {
        loop {
            let room = self.room.notified();
            if self.has_room() {
                break;
            }
            // Whoever was let in may have gone without handing anything over, and without letting in the next.
            let _ = timeout(RECHECK, room).await;
        }
        let permit = Arc::clone(&self.messages).acquire_owned().await;
        permit.map(Permit::from).map_err(|_| BrokerError::Unavailable)
    }

    /// Counts a message of so many bytes.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.pass_on();
        Held { window: Arc::clone(self), bytes }
    }

    /// Messages that wait.
    pub(super) fn messages(&self) -> usize {
        self.max_messages.saturating_sub(self.messages.available_permits())
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.bytes() < self.max_bytes
    }

    /// One at a time, so that not all come in on the same few bytes; each lets in the next.
    fn pass_on(&self) {
        if self.has_room() {
            self.room.notify_one();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.window.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.window.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn window(max_unconfirmed: usize, max_unconfirmed_bytes: usize) -> Arc<Window> {
        Window::new(&Settings { max_unconfirmed, max_unconfirmed_bytes, ..Settings::default() })
    }

    #[tokio::test]
    async fn messages_are_bounded_by_their_number() {
        let window = window(2, 100);
        let first = window.try_reserve().unwrap();
        let _second = window.try_reserve().unwrap();
        assert!(window.try_reserve().is_none() && window.reserve().now_or_never().is_none());
        assert_eq!(window.messages(), 2);
        drop(first);
        assert!(window.try_reserve().is_some());
    }

    #[tokio::test]
    async fn messages_are_bounded_by_their_bytes_and_come_in_one_by_one() {
        let window = window(10, 100);
        let big = window.hold(150);
        assert!(window.try_reserve().is_none());
        let mut waiting = [(); 2].map(|()| Box::pin(window.reserve()));
        assert!(waiting.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        drop(big);
        assert!((&mut waiting[0]).now_or_never().is_some());
        let big = window.hold(100);
        assert!((&mut waiting[1]).now_or_never().is_none(), "the first has filled it again");
        drop(big);
        assert!((&mut waiting[1]).now_or_never().is_some());
        assert_eq!(window.bytes(), 0);
    }
}
