//! Outboxes with made-up instants.

use std::task::Waker;
use std::time::Duration;

use super::*;

/// An outbox of 100 bytes and one second, and the time in which it lives.
struct Script {
    outbox: Outbox,
    now: Instant,
}

const SECOND: Duration = Duration::from_secs(1);

impl Script {
    fn new() -> Self {
        let settings = Settings { max_bytes: 100, max_wait: SECOND, max_delivery: 1000, ..Settings::default() };
        let now = tokio::time::Instant::now().into_std();
        Script { outbox: Outbox::new(Arc::new(settings), Arc::default()), now }
    }

    fn push(&self, text: &str, when_full: WhenFull) {
        self.outbox.push(item(text), &Policy { when_full, key: None }, self.now);
    }

    fn conflate(&self, text: &str, key: &str) {
        let policy = Policy { when_full: WhenFull::Conflate, key: Some(Text::from(key)) };
        self.outbox.push(item(text), &policy, self.now);
    }

    /// What the task gets: frames of up to `limit` bytes, and a signal.
    fn take(&self, limit: usize) -> (Vec<String>, Option<Signal>) {
        let mut batch = VecDeque::new();
        let signal = self.outbox.poll(&mut Context::from_waker(Waker::noop()), limit, &mut batch);
        (batch.iter().map(|item| String::from_utf8_lossy(&item.frame).trim().to_owned()).collect(), signal)
    }

    /// Everything that waits, as a client that reads again would get it.
    fn drain(&self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let (batch, _) = self.take(1);
            if batch.is_empty() {
                return all;
            }
            self.outbox.written(self.now);
            all.extend(batch);
        }
    }
}

/// A frame of 30 bytes that begins with `text`.
fn item(text: &str) -> Item {
    Item::new(format!("{text:<30}").into(), None, true)
}

fn ended_as_slow(signal: Option<Signal>) -> bool {
    matches!(signal, Some(Signal::End(refusal)) if refusal.code == "slow-consumer")
}

#[test]
fn what_waits_is_taken_in_order_up_to_the_limit() {
    let script = Script::new();
    for text in ["a", "b", "c"] {
        script.push(text, WhenFull::Disconnect);
    }
    assert_eq!(script.take(60).0, ["a", "b"]);
    assert!(script.take(60).0.is_empty(), "one batch at a time");
    script.outbox.written(script.now);
    assert_eq!(script.take(60).0, ["c"]);
    assert!(!script.outbox.is_empty());
    script.outbox.written(script.now);
    assert!(script.outbox.is_empty());
}

#[test]
fn over_its_bytes_a_client_is_disconnected() {
    let script = Script::new();
    for text in ["a", "b", "c"] {
        script.push(text, WhenFull::Disconnect);
    }
    assert_eq!(script.take(1), (vec!["a".to_owned()], None));
    script.push("d", WhenFull::Disconnect);
    assert!(ended_as_slow(script.take(1).1), "what is in hand counts until it is written");
}

#[test]
fn over_its_time_a_client_is_disconnected() {
    let mut script = Script::new();
    script.push("a", WhenFull::Disconnect);
    script.take(1);
    assert_eq!(script.outbox.deadline(), Some(script.now + SECOND));
    assert_eq!(script.outbox.check_stalled(script.now), None);
    script.now += SECOND;
    assert!(script.outbox.check_stalled(script.now).is_some());
    script.push("b", WhenFull::Disconnect);
    assert!(ended_as_slow(script.take(1).1));
}

#[test]
fn drop_newest_keeps_what_waits() {
    let script = Script::new();
    for text in ["a", "b", "c", "d"] {
        script.push(text, WhenFull::DropNewest);
    }
    assert_eq!(script.drain(), ["a", "b", "c"]);
    assert_eq!(script.outbox.dropped(), 1);
}

#[test]
fn drop_oldest_makes_room_and_spares_what_may_not_be_dropped() {
    let script = Script::new();
    script.outbox.push_firm(item("receipt"), script.now);
    for text in ["a", "b", "c", "d"] {
        script.push(text, WhenFull::DropOldest);
    }
    assert_eq!(script.drain(), ["receipt", "c", "d"]);
    assert_eq!(script.outbox.dropped(), 2);
}

#[test]
fn a_client_that_takes_a_little_now_and_then_is_not_stalled() {
    let mut script = Script::new();
    script.push("a", WhenFull::Disconnect);
    script.take(1);
    for _ in 0..10 {
        script.now += SECOND / 2;
        script.outbox.progressed(script.now);
    }
    assert_eq!(script.outbox.check_stalled(script.now), None);
    assert_eq!(script.outbox.deadline(), Some(script.now + SECOND));
    script.outbox.written(script.now);
    assert_eq!(script.outbox.deadline(), None);
}

#[test]
fn a_client_that_may_miss_messages_is_not_ended_for_taking_none() {
    let mut script = Script::new();
    for text in ["a", "b", "c"] {
        script.push(text, WhenFull::DropOldest);
    }
    script.now += SECOND;
    script.push("d", WhenFull::DropOldest);
    assert_eq!(script.outbox.deadline(), None);
    assert_eq!(script.drain(), ["b", "c", "d"]);
}

#[test]
fn conflate_keeps_the_newest_of_each_key() {
    let script = Script::new();
    for (text, key) in [("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b"), ("a3", "a"), ("c1", "c")] {
        script.conflate(text, key);
    }
    assert_eq!(script.drain(), ["b2", "a3", "c1"]);
    assert_eq!(script.outbox.dropped(), 3);
    script.conflate("a4", "a");
    script.conflate("a5", "a");
    assert_eq!(script.drain(), ["a4", "a5"], "while there is room nothing is conflated");
}

#[test]
fn what_was_taken_is_not_replaced_and_nothing_else_goes_in_its_stead() {
    let script = Script::new();
    script.conflate("x1", "x");
    script.outbox.push_firm(item("receipt"), script.now);
    script.conflate("y1", "y");
    script.conflate("y2", "y");
    assert_eq!(script.take(1).0, ["x1"]);
    script.outbox.written(script.now);
    script.conflate("x2", "x");
    assert_eq!(script.drain(), ["receipt", "y2", "x2"]);
    assert_eq!(script.outbox.lock().firm, 0);
}

#[test]
fn conflate_with_too_many_keys_ends_the_session() {
    let script = Script::new();
    for key in ["a", "b", "c", "d"] {
        script.conflate(key, key);
    }
    assert!(ended_as_slow(script.take(1).1));
}

#[test]
fn a_long_congestion_costs_no_memory() {
    let script = Script::new();
    script.outbox.push_firm(item("receipt"), script.now);
    script.take(1);
    for number in 0..100_000 {
        script.conflate(&number.to_string(), if number % 2 == 0 { "even" } else { "odd" });
    }
    let state = script.outbox.lock();
    assert!(state.queue.len() < 100 && state.newest.len() <= 2, "{} places", state.queue.len());
    drop(state);
    script.outbox.written(script.now);
    assert_eq!(script.drain(), ["99998", "99999"]);
    let script = Script::new();
    script.outbox.push_firm(item("receipt"), script.now);
    (0..100_000).for_each(|number| script.push(&number.to_string(), WhenFull::DropOldest));
    assert!(script.outbox.lock().queue.len() < 100);
    assert_eq!(script.drain(), ["receipt", "99998", "99999"]);
}

#[test]
fn an_empty_outbox_takes_one_message_of_any_size_up_to_the_largest() {
    let script = Script::new();
    let large = |size: usize| Item::new(vec![b'x'; size].into(), None, true);
    script.outbox.push(large(1000), &Policy::default(), script.now);
    assert_eq!(script.drain().len(), 1);
    script.outbox.push(large(1001), &Policy::default(), script.now);
    assert!(script.outbox.is_empty());
    assert_eq!(script.outbox.dropped(), 1);
}

#[test]
fn clearing_and_discarding_leave_no_bytes_behind() {
    let script = Script::new();
    let id = DeliveryId { consumer: 1, tag: 1 };
    script.outbox.push_firm(Item { settle: Some(id), ..item("delivery") }, script.now);
    script.outbox.push_firm(item("receipt"), script.now);
    script.outbox.discard_unsettled(|other| other == id);
    assert_eq!(script.drain(), ["receipt"]);
    script.push("a", WhenFull::DropOldest);
    script.push("b", WhenFull::Disconnect);
    script.outbox.clear();
    assert!(script.outbox.is_empty());
    let state = script.outbox.lock();
    assert_eq!((state.bytes, state.live, state.firm), (0, 0, 0));
}

#[test]
fn the_first_end_is_the_one_that_counts() {
    let script = Script::new();
    script.outbox.signal(Signal::Shutdown);
    script.outbox.signal(Signal::End(Box::new(Refusal::internal())));
    script.outbox.signal(Signal::End(Box::new(Refusal::shutting_down())));
    assert_eq!(script.take(1).1, Some(Signal::End(Box::new(Refusal::internal()))));
    assert_eq!(script.take(1).1, None);
}
