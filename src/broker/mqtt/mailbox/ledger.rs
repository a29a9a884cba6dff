//! Which acknowledgements the broker is owed, in the order in which it wants them.
//!
//! The number of a packet says little: it is given again as soon as it is free, and on a new connection it may mean another
//! message. So numbers are known in here only. Everybody else has a [`Debt`], which is never given twice, and means nothing
//! any more once the broker has forgotten the message.
//!
//! A session that lasts is gone on with: the broker sends all again that it has no acknowledgement of. What is here is
//! recognised then, and so is what was settled, whether its acknowledgement had to wait for others or was lost with the
//! connection. Content is compared, too: brokers that were killed give numbers away twice.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::broker::mqtt::connection::Live;
use crate::broker::mqtt::wire::Arrival;
use crate::message::Message;

/// So many acknowledgements at least may have been on their way when a connection broke.
const REMEMBERED: usize = 1_000;

/// The ledger of a session, for all who read it one after the other, and the connection that it is settled on.
pub(super) struct Account(Mutex<Books>);

struct Books {
    ledger: Ledger,
    live: Option<Arc<Live>>,
}

/// What one message is to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Debt(u64);

struct Ledger {
    /// Whether the broker keeps the session beyond its connections.
    lasts: bool,
    /// What came by this connection and is not acknowledged, in the order in which it came.
    owed: VecDeque<Entry>,
    /// What came by another one, is not settled, and comes again.
    held: Vec<Entry>,
    /// What was settled last: it comes again where the broker has not heard of that.
    settled: VecDeque<Mark>,
    remembered: usize,
    next: u64,
    hasher: RandomState,
}

struct Entry {
    debt: Debt,
    mark: Mark,
    is_settled: bool,
}

/// By what a message is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    packet: u16,
    content: u64,
}

impl Account {
    /// For a session that ends with its connection, or one that lasts.
    pub(super) fn new(lasts: bool) -> Self {
        Account(Mutex::new(Books { ledger: Ledger::new(lasts), live: None }))
    }

    /// So much at least may be on its way to the reader.
    pub(super) fn remember(&self, prefetch: usize) {
        self.lock().ledger.remembered = prefetch.max(REMEMBERED);
    }

    /// There is a connection; it may be known.
    pub(super) fn begin(&self, live: &Arc<Live>) {
        self.lock().begin(live);
    }

    /// A message came by this connection. `None`: it is here, or was.
    pub(super) fn arrived(&self, live: &Arc<Live>, arrival: &Arrival, message: &Message) -> Option<Debt> {
        let mut books = self.lock();
        books.begin(live);
        let debt = books.ledger.arrived(arrival.packet, arrival.dup, message);
        books.pay();
        debt
    }

    /// A message came that nobody wants.
    pub(super) fn skip(&self, live: &Arc<Live>, packet: u16) {
        let mut books = self.lock();
        books.begin(live);
        books.ledger.skip(packet);
        books.pay();
    }

    /// The broker need not keep this any more.
    pub(super) fn release(&self, debt: Debt) {
        let mut books = self.lock();
        books.ledger.release(debt);
        books.pay();
    }

    /// Whether the broker keeps this.
    pub(super) fn has(&self, debt: Debt) -> bool {
        self.lock().ledger.has(debt)
    }

    /// The reader is gone, and the connection on its way out: these are for the next one. Nothing is acknowledged until then.
    pub(super) fn leave(&self, debts: &[Debt]) {
        let mut books = self.lock();
        books.live = None;
        books.ledger.forget(|debt| debts.contains(&debt));
    }

    /// The session is somebody else's.
    pub(super) fn close(&self) {
        self.lock().ledger.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn begin(&mut self, live: &Arc<Live>) {
        if self.live.as_ref().is_none_or(|known| !Arc::ptr_eq(known, live)) {
            self.ledger.begin(live.granted.resumed);
            self.live = Some(Arc::clone(live));
        }
    }

    /// On a connection that is gone, nothing is acknowledged: it comes again, or is forgotten.
    fn pay(&mut self) {
        let Some(live) = self.live.as_ref().filter(|live| live.client.is_alive()) else { return };
        while let Some(packet) = self.ledger.due() {
            live.client.acknowledge(packet);
        }
    }
}

impl Ledger {
    fn new(lasts: bool) -> Self {
        Ledger {
            lasts,
            owed: VecDeque::new(),
            held: Vec::new(),
            settled: VecDeque::new(),
            remembered: REMEMBERED,
            next: 1,
            hasher: RandomState::new(),
        }
    }

    /// Nothing is owed on a new connection before it comes again.
    fn begin(&mut self, resumed: bool) {
        if !resumed {
            return self.clear();
        }
        for entry in std::mem::take(&mut self.owed) {
            if entry.is_settled { self.remember(entry.mark) } else { self.held.push(entry) }
        }
    }

    fn arrived(&mut self, packet: u16, dup: bool, message: &Message) -> Option<Debt> {
        let mark = Mark { packet, content: if self.lasts { self.content(message) } else { 0 } };
        let is_known = |known: &Mark| dup && *known == mark;
        // The broker has given the number away again, so it is done with what had it before.
        let settled = self.settled.iter().rev().find(|known| known.packet == packet).copied();
        self.settled.retain(|known| known.packet != packet);
        if let Some(at) = self.held.iter().position(|entry| entry.mark.packet == packet) {
            let entry = self.held.swap_remove(at);
            if is_known(&entry.mark) {
                self.owed.push_back(entry);
                return None;
            }
        }
        let debt = Debt(self.next);
        self.next += 1;
        let is_settled = settled.as_ref().is_some_and(is_known);
        self.owed.push_back(Entry { debt, mark, is_settled });
        (!is_settled).then_some(debt)
    }

    fn skip(&mut self, packet: u16) {
        let (debt, mark) = (Debt(0), Mark { packet, content: 0 });
        self.owed.push_back(Entry { debt, mark, is_settled: true });
    }

    fn release(&mut self, debt: Debt) {
        if let Some(entry) = self.owed.iter_mut().find(|entry| entry.debt == debt) {
            entry.is_settled = true;
        } else if let Some(at) = self.held.iter().position(|entry| entry.debt == debt) {
            let entry = self.held.swap_remove(at);
            self.remember(entry.mark);
        }
    }

    /// The next packet to be acknowledged: all before it are.
    fn due(&mut self) -> Option<u16> {
        let entry = self.owed.pop_front_if(|entry| entry.is_settled)?;
        self.remember(entry.mark);
        Some(entry.mark.packet)
    }

    fn has(&self, debt: Debt) -> bool {
        self.owed.iter().chain(&self.held).any(|entry| entry.debt == debt && !entry.is_settled)
    }

    fn forget(&mut self, which: impl Fn(Debt) -> bool) {
        self.owed.retain(|entry| !which(entry.debt));
        self.held.retain(|entry| !which(entry.debt));
    }

    fn clear(&mut self) {
        self.owed.clear();
        self.held.clear();
        self.settled.clear();
    }

    fn remember(&mut self, mark: Mark) {
        if self.lasts {
            self.settled.push_back(mark);
            while self.settled.len() > self.remembered {
                self.settled.pop_front();
            }
        }
    }

    /// All of a message that is the same when it comes again.
    fn content(&self, message: &Message) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        message.destination.hash(&mut hasher);
        for (name, value) in message.headers.iter().filter(|(name, _)| &***name != "expiration") {
            (&**name, &**value).hash(&mut hasher);
        }
        message.body.hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::mqtt::mailbox::tests::message;

    fn ledger() -> Ledger {
        Ledger::new(true)
    }

    fn arrives(ledger: &mut Ledger, packet: u16, dup: bool, body: &'static str) -> Option<Debt> {
        ledger.arrived(packet, dup, &message(body, None))
    }

    fn paid(ledger: &mut Ledger) -> Vec<u16> {
        std::iter::from_fn(|| ledger.due()).collect()
    }

    #[test]
    fn acknowledgements_go_in_the_order_in_which_messages_came() {
        let mut ledger = ledger();
        let first = arrives(&mut ledger, 1, false, "a").unwrap();
        let second = arrives(&mut ledger, 2, false, "b").unwrap();
        ledger.skip(3);
        ledger.release(second);
        assert!(paid(&mut ledger).is_empty());
        assert!(ledger.has(first) && !ledger.has(second));
        ledger.release(first);
        assert_eq!(paid(&mut ledger), [1, 2, 3]);
    }

    #[test]
    fn what_was_owed_on_an_old_connection_settles_nothing_on_a_new_one() {
        for resumed in [false, true] {
            let mut ledger = Ledger::new(resumed);
            let old = arrives(&mut ledger, 7, false, "a").unwrap();
            ledger.begin(resumed);
            // Another message has its number now.
            let new = arrives(&mut ledger, 7, false, "b").unwrap();
            assert!(!ledger.has(old));
            ledger.release(old);
            assert!(paid(&mut ledger).is_empty());
            ledger.release(new);
            assert_eq!(paid(&mut ledger), [7]);
        }
    }

    #[test]
    fn what_is_here_is_recognised_and_its_debt_stays_good() {
        let mut ledger = ledger();
        let debt = arrives(&mut ledger, 7, false, "a").unwrap();
        ledger.begin(true);
        assert!(ledger.has(debt));
        assert_eq!(arrives(&mut ledger, 7, true, "a"), None);
        assert!(paid(&mut ledger).is_empty());
        ledger.release(debt);
        assert_eq!(paid(&mut ledger), [7]);
    }

    #[test]
    fn what_was_settled_is_acknowledged_again_and_not_delivered() {
        let mut ledger = ledger();
        let (first, second, third) = (
            arrives(&mut ledger, 1, false, "a").unwrap(),
            arrives(&mut ledger, 2, false, "b").unwrap(),
            arrives(&mut ledger, 3, false, "c").unwrap(),
        );
        // The acknowledgement of the first was lost on its way, that of the third had to wait for the second.
        ledger.release(first);
        ledger.release(third);
        assert_eq!(paid(&mut ledger), [1]);
        ledger.begin(true);
        // This one while there was no connection, and what came of it was lost, too.
        ledger.release(second);
        ledger.begin(true);
        for (packet, body) in [(1, "a"), (2, "b"), (3, "c")] {
            assert_eq!(arrives(&mut ledger, packet, true, body), None);
        }
        assert_eq!(paid(&mut ledger), [1, 2, 3]);
    }

    #[test]
    fn a_number_that_was_given_away_again_means_the_new_message() {
        let mut ledger = ledger();
        let debt = arrives(&mut ledger, 1, false, "a").unwrap();
        ledger.release(debt);
        assert_eq!(paid(&mut ledger), [1]);
        // The same once more: it is another message, whatever it says.
        let second = arrives(&mut ledger, 1, false, "a").unwrap();
        ledger.forget(|debt| debt == second);
        ledger.begin(true);
        assert!(arrives(&mut ledger, 1, true, "a").is_some());
        // And what the broker sends again under that number may be another, too.
        assert!(arrives(&mut ledger, 1, true, "b").is_some());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_nothing_is_where_nothing_comes_again() {
        for (mut ledger, most) in [(ledger(), REMEMBERED), (Ledger::new(false), 0)] {
            for packet in 1..=u16::MAX {
                let debt = arrives(&mut ledger, packet, false, "a").unwrap();
                ledger.release(debt);
                assert_eq!(paid(&mut ledger), [packet]);
            }
            assert_eq!(ledger.settled.len(), most);
        }
    }
}
