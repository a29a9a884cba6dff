//! When what is read for many is acknowledged.
//!
//! The queues of shared subscriptions go with their reader, and with them whatever was not acknowledged. So an
//! acknowledgement says nothing but that there is room for more, and one is enough for many messages, however slowly these
//! come. One for each message was about a fifth of what the message cost RabbitMQ.

use std::time::Duration;

/// So many messages are acknowledged together at most.
const MOST: usize = 200;
/// So many bytes of them, which the broker keeps until then.
const MOST_BYTES: usize = 256 * 1024;
/// However few there are, they are acknowledged after so long: RabbitMQ closes the channel of a reader that owes one for half an
/// hour.
pub(super) const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(1);

/// Messages that were passed on and not acknowledged.
pub(super) struct Unacknowledged {
    /// So many there may be.
    most: usize,
    messages: usize,
    bytes: usize,
    newest: Option<u64>,
}

impl Unacknowledged {
    /// None yet. At most half of what the broker sends ahead, so that it never has to wait.
    pub(super) fn new(prefetch: u16) -> Self {
        Unacknowledged { most: usize::from(prefetch / 2).clamp(1, MOST), messages: 0, bytes: 0, newest: None }
    }

    /// One of this tag and of so many bytes was passed on.
    pub(super) fn add(&mut self, tag: u64, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
        self.newest = Some(tag);
    }

    /// The tag that acknowledges all of them, if these are enough for that.
    pub(super) fn take_many(&mut self) -> Option<u64> {
        if self.messages >= self.most || self.bytes >= MOST_BYTES { self.take() } else { None }
    }

    /// The tag that acknowledges all of them, if there are any.
    pub(super) fn take(&mut self) -> Option<u64> {
        (self.messages, self.bytes) = (0, 0);
        self.newest.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tags at which an acknowledgement is due, of so many messages of so many bytes.
    fn due(prefetch: u16, messages: u64, bytes: usize) -> Vec<u64> {
        let mut unacknowledged = Unacknowledged::new(prefetch);
        let due = (1..=messages).filter(|tag| {
            unacknowledged.add(*tag, bytes);
            unacknowledged.take_many().is_some()
        });
        due.collect()
    }

    #[test]
    fn one_acknowledgement_is_for_many_messages_and_never_for_more_than_half_of_the_prefetch() {
        assert_eq!(due(1000, 600, 100), [200, 400, 600]);
        assert_eq!(due(10, 12, 100), [5, 10]);
        assert_eq!(due(1, 3, 100), [1, 2, 3]);
    }

    #[test]
    fn large_messages_are_acknowledged_sooner() {
        assert_eq!(due(1000, 4, MOST_BYTES / 2), [2, 4]);
        assert_eq!(due(1000, 2, 2 * MOST_BYTES), [1, 2]);
    }

    #[test]
    fn what_is_left_is_acknowledged_once() {
        let mut unacknowledged = Unacknowledged::new(1000);
        assert_eq!(unacknowledged.take(), None);
        unacknowledged.add(1, 1);
        unacknowledged.add(2, 1);
        assert_eq!(unacknowledged.take(), Some(2));
        assert_eq!(unacknowledged.take(), None);
    }
}
