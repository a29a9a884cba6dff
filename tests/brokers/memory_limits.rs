//! What only the in-memory broker promises: its limits, its dead letters, its clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stompgate::broker::memory::{ConnectError, Counters, Memory, Overflow, Settings};
use stompgate::broker::{Broker, BrokerError, SharedSource, Source, Subscribe, Transaction};
use stompgate::message::{
    Destination, DurableName, Headers, Message, Outcome, Pattern, Refusal, Separators, Settlement, Text, Usage,
};
use tokio::time::advance;

use crate::harness::{Client, Ear, Heard, Reader, in_time, text};

async fn memory(settings: Settings) -> (Arc<Memory>, Client) {
    let memory = Arc::new(Memory::new(&settings).unwrap());
    let broker: Arc<dyn Broker> = Arc::clone(&memory) as _;
    let client = Client::of(&broker).await;
    (memory, client)
}

fn dead_letters() -> Settings {
    Settings { dead_letter: Some("/queue/dead".to_owned()), ..Settings::default() }
}

async fn read_dead(client: &Client) -> Reader {
    client.open(Source::Queue("dead".into()), 10).await.unwrap()
}

fn brief(client: &Client, place: &str, body: &str) -> Message {
    let mut message = client.message(place, body);
    message.options.expiration = Some(Duration::from_secs(1));
    message
}

fn rejected_by(answer: Result<Outcome, BrokerError>, setting: &str) {
    let Err(BrokerError::Rejected(why)) = answer else { panic!("rejection was expected, not {answer:?}") };
    assert!(why.contains(&format!("setting {setting})")), "{why}");
}

#[tokio::test]
async fn a_bad_dead_letter_destination_is_found_at_once() {
    let settings = Settings { dead_letter: Some("/app/x".to_owned()), ..Settings::default() };
    assert!(matches!(Memory::new(&settings).err(), Some(ConnectError::DeadLetter { .. })));
}

#[tokio::test]
async fn higher_priorities_leave_first() {
    let (_, client) = memory(Settings::default()).await;
    let sent = [("1", None), ("2", Some(5)), ("3", Some(200)), ("4", Some(5)), ("5", Some(0)), ("6", Some(9))];
    for (body, priority) in sent {
        let mut message = client.message("/queue/a", body);
        message.options.priority = priority;
        client.publish(message).await.unwrap();
    }
    let mut reader = client.read("/queue/a").await;
    for body in ["3", "6", "2", "4", "1", "5"] {
        reader.take(body).await;
    }
}

/// One message that waits for hours must not keep all that came with it in one read.
#[tokio::test]
async fn what_waits_keeps_no_read_buffer() {
    let (_, client) = memory(Settings::default()).await;
    let mut bound = client.read("/topic/a").await;
    let buffer = Bytes::from("x".repeat(100));
    for (place, retain) in [("/queue/a", false), ("/topic/a", false), ("/topic/a", true)] {
        let mut message = client.message(place, "");
        message.body = buffer.slice(10..20);
        message.headers.push("name", Text::try_from(buffer.slice(20..30)).unwrap());
        message.options.retain = retain;
        client.publish(message).await.unwrap();
    }
    let stored = [client.read("/queue/a").await.next().await, bound.next().await, bound.next().await];
    assert_eq!(text(&stored[2].message), "x".repeat(10));
    drop(bound);
    assert!(buffer.is_unique());
}

#[tokio::test]
async fn a_full_queue_rejects_and_names_the_setting() {
    let (_, client) = memory(Settings { max_queue_length: 2, max_queue_bytes: 1000, ..Settings::default() }).await;
    client.send("/queue/a", "1").await;
    client.send("/queue/a", "2").await;
    rejected_by(client.publish(client.message("/queue/a", "3")).await, "broker.memory.max_queue_length");
    let big = "x".repeat(1000);
    rejected_by(client.publish(client.message("/queue/b", &big)).await, "broker.memory.max_queue_bytes");
    let mut reader = client.read("/queue/a").await;
    let first = reader.expect("1").await;
    // What is handed out still fills it.
    rejected_by(client.publish(client.message("/queue/a", "3")).await, "broker.memory.max_queue_length");
    reader.settle(&first, Settlement::Accept).await;
    client.send("/queue/a", "3").await;
}

#[tokio::test]
async fn names_and_headers_count_although_messages_are_empty() {
    let settings = Settings { max_queue_bytes: 64 * 1024, max_retained_bytes: 64 * 1024, ..Settings::default() };
    let (_, client) = memory(settings).await;
    let name = "x".repeat(16 * 1024);
    let queue = format!("/queue/{name}");
    for _ in 0..3 {
        client.send(&queue, "").await;
    }
    rejected_by(client.publish(client.message(&queue, "")).await, "broker.memory.max_queue_bytes");

    let mut retained = client.message(&format!("/topic/{name}"), "x");
    retained.options.retain = true;
    for number in 0..4 {
        retained.destination = Destination::Topic(Pattern::canonical(format!("{number}{name}")));
        let answer = client.publish(retained.clone()).await;
        if number < 3 { assert!(answer.is_ok()) } else { rejected_by(answer, "broker.memory.max_retained_bytes") }
    }

    let mut many = client.message("/queue/a", "");
    many.headers = (0..1200).map(|_| ("", "")).collect();
    rejected_by(client.publish(many).await, "broker.memory.max_queue_bytes");
}

#[tokio::test]
async fn a_full_queue_may_drop_its_oldest_instead() {
    let settings = Settings { max_queue_length: 2, overflow: Overflow::DropOldest, ..dead_letters() };
    let (memory, client) = memory(settings).await;
    for (body, priority) in [("1", 5), ("2", 1), ("3", 1), ("4", 9)] {
        let mut message = client.message("/queue/a", body);
        message.options.priority = Some(priority);
        client.publish(message).await.unwrap();
    }
    let mut reader = client.read("/queue/a").await;
    reader.expect("4").await;
    reader.expect("1").await;
    rejected_by(client.publish(client.message("/queue/a", "5")).await, "broker.memory.max_queue_length");
    let mut dead = read_dead(&client).await;
    let letter = dead.expect("2").await.message;
    assert_eq!(letter.headers.get("x-first-death-reason").unwrap(), "maxlen");
    assert_eq!(letter.headers.get("x-first-death-queue").unwrap(), &format!("{}/a", client.mark));
    assert_eq!(letter.destination, Destination::Queue("dead".into()));
    dead.expect("3").await;
    assert_eq!(memory.counters(), Counters { overflowed: 2, dead_lettered: 2, ..Counters::default() });
}

#[tokio::test]
async fn all_queues_together_have_limits() {
    let (_, client) = memory(Settings { max_queues: 2, max_bytes: 1000, ..Settings::default() }).await;
    client.send("/queue/a", "1").await;
    let reader = client.read("/queue/b").await;
    let limit = |answer: Result<Outcome, BrokerError>, expected: &str| match answer {
        Err(BrokerError::LimitExceeded { setting, .. }) => assert_eq!(setting, expected),
        other => panic!("a limit was expected, not {other:?}"),
    };
    limit(client.publish(client.message("/queue/c", "x")).await, "broker.memory.max_queues");
    limit(client.publish(client.message("/queue/a", &"x".repeat(900))).await, "broker.memory.max_bytes");
    drop(reader);
    client.send("/queue/c", "x").await;
    client.read("/queue/a").await.take("1").await;
    client.send("/queue/d", "x").await;
}

#[tokio::test]
async fn a_slow_topic_reader_gets_a_gap_and_stops_nobody() {
    let settings = Settings { max_topic_queue_length: 2, ..dead_letters() };
    let (memory, client) = memory(settings).await;
    let mut reader = client.read_with("/topic/a", 2).await;
    for body in ["1", "2", "3", "4"] {
        client.send("/topic/a", body).await;
    }
    let first = reader.expect("3").await;
    assert!(first.gap);
    assert!(!reader.expect("4").await.gap);
    client.send("/topic/a", "5").await; // nothing waits that could make room
    reader.settle(&first, Settlement::Accept).await;
    client.send("/topic/a", "6").await;
    assert!(reader.expect("6").await.gap);
    assert_eq!(memory.counters(), Counters { overflowed: 3, ..Counters::default() });
}

#[tokio::test]
async fn a_rejected_message_goes_to_the_dead_letters_once() {
    let (memory, client) = memory(dead_letters()).await;
    client.send("/queue/a", "bad").await;
    let mut reader = client.read("/queue/a").await;
    let bad = reader.expect("bad").await;
    reader.settle(&bad, Settlement::Reject).await;
    let mut dead = read_dead(&client).await;
    let letter = dead.expect("bad").await;
    assert_eq!(letter.message.headers.get("x-first-death-reason").unwrap(), "rejected");
    dead.settle(&letter, Settlement::Reject).await;
    dead.expect_nothing();
    assert_eq!(memory.counters(), Counters { rejected: 2, dead_lettered: 1, ..Counters::default() });
}

#[tokio::test]
async fn dead_letters_may_go_to_a_topic() {
    let (_, client) = memory(Settings { dead_letter: Some("/topic/dead".to_owned()), ..Settings::default() }).await;
    let ear = Arc::new(Ear::default());
    let source = SharedSource::Topic(Pattern::canonical("dead"));
    let _guard = client.link.share(source, ear.clone()).await.unwrap();
    client.send("/queue/a", "bad").await;
    let mut reader = client.read("/queue/a").await;
    let bad = reader.expect("bad").await;
    reader.settle(&bad, Settlement::Reject).await;
    assert_eq!(ear.heard(), [Heard::Message("bad".to_owned())]);
}

#[tokio::test]
async fn a_message_that_keeps_coming_back_is_dead() {
    let (memory, client) = memory(Settings { max_deliveries: 2, ..dead_letters() }).await;
    client.send("/queue/a", "poison").await;
    let mut reader = client.read("/queue/a").await;
    let first = reader.expect("poison").await;
    reader.settle(&first, Settlement::Requeue).await;
    reader.expect("poison").await;
    drop(reader);
    let letter = read_dead(&client).await.expect("poison").await;
    assert_eq!(letter.message.headers.get("x-first-death-reason").unwrap(), "delivery_limit");
    assert_eq!(memory.counters(), Counters { exhausted: 1, dead_lettered: 1, ..Counters::default() });
}

#[tokio::test(start_paused = true)]
async fn an_expired_message_is_never_delivered() {
    let (memory, client) = memory(dead_letters()).await;
    let mut reader = client.read("/queue/a").await;
    client.publish(brief(&client, "/queue/a", "1")).await.unwrap();
    client.send("/queue/a", "2").await;
    let topic = client.listen("/topic/a").await;
    client.publish(brief(&client, "/topic/a", "live")).await.unwrap();
    advance(Duration::from_secs(1)).await;
    reader.take("2").await;
    assert_eq!(topic.1.until("live").await, ["live"]);
    let letter = read_dead(&client).await.expect("1").await;
    assert_eq!(letter.message.headers.get("x-first-death-reason").unwrap(), "expired");
    assert_eq!(letter.message.options.expiration, None);
    assert_eq!(memory.counters().expired, 1);
}

#[tokio::test(start_paused = true)]
async fn what_expired_is_freed_though_nobody_asks() {
    let (memory, client) = memory(Settings { max_queues: 1, max_queue_length: 2, ..Settings::default() }).await;
    let name = DurableName { user: "u".into(), client: "".into(), name: "n".into() };
    let Destination::Topic(topic) = client.at("/topic/a", Usage::Subscribe) else { panic!("it is a topic") };
    drop(client.open(Source::Durable(name, topic), 1).await.unwrap());
    client.publish(brief(&client, "/topic/a", "x")).await.unwrap();
    client.publish(brief(&client, "/queue/a", "x")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await; // of a paused clock: the broker's task runs through it
    assert_eq!(memory.counters().expired, 2);
    // The queue itself has gone, too.
    client.send("/queue/b", "x").await;
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_makes_room_of_what_expired() {
    let (_, client) = memory(Settings { max_queue_length: 2, ..Settings::default() }).await;
    client.send("/queue/a", "1").await;
    client.publish(brief(&client, "/queue/a", "2")).await.unwrap();
    advance(Duration::from_secs(1)).await;
    client.send("/queue/a", "3").await;
    let mut reader = client.read("/queue/a").await;
    reader.take("1").await;
    reader.take("3").await;
}

#[tokio::test]
async fn a_commit_that_does_not_fit_publishes_nothing() {
    let settings =
        Settings { max_queues: 2, max_queue_length: 2, max_bytes: 2000, max_retained: 1, ..Settings::default() };
    let (_, client) = memory(settings).await;
    let (_guard, ear) = client.listen("/topic/#").await;
    let to_queues =
        |names: &[&str]| names.iter().map(|name| client.message(&format!("/queue/{name}"), "x")).collect::<Vec<_>>();
    let mut retained = [client.message("/topic/a", "1"), client.message("/topic/b", "2")];
    for message in &mut retained {
        message.options.retain = true;
    }
    let large = client.message("/queue/a", &"x".repeat(1800));
    for last in [to_queues(&["a", "a", "a"]), to_queues(&["a", "b", "c"]), retained.to_vec(), vec![large]] {
        let mut messages = to_queues(&["a"]);
        messages.push(client.message("/topic/x", "x"));
        messages.extend(last);
        let refused = client.link.commit(Transaction { messages, settlements: Vec::new() }).await.err();
        assert!(matches!(refused, Some(BrokerError::Rejected(_) | BrokerError::LimitExceeded { .. })), "{refused:?}");
    }
    assert!(ear.heard().is_empty());
    let messages = to_queues(&["a", "b", "a", "b"]);
    client.link.commit(Transaction { messages, settlements: Vec::new() }).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn a_refusal_names_what_is_not_supported() {
    let (_, client) = memory(Settings::default()).await;
    let arguments = Headers::from([("x-message-ttl", "1000")]);
    let request = Subscribe { source: Source::Queue("a".into()), prefetch: 1, arguments };
    let argument = Refusal::from(client.link.subscribe(request).await.err().unwrap());
    assert_eq!(argument.message, "queue argument x-message-ttl not supported");
    assert_eq!(argument.detail, "queue argument x-message-ttl: broker.memory.* sets limits for all queues.");
    let mut message = client.message("/topic/a", "x");
    message.destination = Destination::Topic(Pattern::canonical("a/#"));
    let pattern = Refusal::from(client.publish(message).await.unwrap_err());
    assert_eq!(pattern.detail, "sending to the pattern a/#: a SEND names one destination.");
}

#[tokio::test]
async fn durable_subscriptions_are_bounded() {
    let (_, client) = memory(Settings { max_durable: 1, ..Settings::default() }).await;
    let durable = |name: &'static str| {
        let Destination::Topic(topic) = client.at("/topic/a", Usage::Subscribe) else { panic!("it is a topic") };
        client.open(Source::Durable(DurableName { user: "u".into(), client: "".into(), name: name.into() }, topic), 1)
    };
    drop(durable("one").await.unwrap());
    let refused = durable("two").await.err();
    assert!(
        matches!(refused, Some(BrokerError::LimitExceeded { setting: "broker.memory.max_durable", .. })),
        "{refused:?}"
    );
    drop(durable("one").await.unwrap());
}

/// Single messages fill the queue up to its limit all the time; of each commit all arrive, or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_never_cut_in_two_by_others() {
    const SIZE: usize = 7;
    const COMMITS: usize = 300;
    let (_, client) = memory(Settings { max_queue_length: 20, ..Settings::default() }).await;
    let mut reader = client.read("/queue/a").await;
    let committing = client.clone();
    let commits = tokio::spawn(async move {
        let mut taken = Vec::new();
        for number in 0..COMMITS {
            let messages = vec![committing.message("/queue/a", &number.to_string()); SIZE];
            let answer = committing.link.commit(Transaction { messages, settlements: Vec::new() }).await;
            taken.extend(answer.is_ok().then_some(number));
            tokio::task::yield_now().await;
        }
        taken
    });
    let filling = client.clone();
    let filler = tokio::spawn(async move {
        loop {
            let _ = filling.publish(filling.message("/queue/a", "filler")).await;
            tokio::task::yield_now().await;
        }
    });
    let counting = tokio::spawn(async move {
        let mut counts = std::collections::BTreeMap::<usize, usize>::new();
        loop {
            let delivery = reader.next().await;
            reader.settle(&delivery, Settlement::Accept).await;
            match text(&delivery.message).as_str() {
                "filler" => {}
                "end" => return counts,
                number => *counts.entry(number.parse().unwrap()).or_default() += 1,
            }
        }
    });
    let taken = commits.await.unwrap();
    filler.abort();
    while client.publish(client.message("/queue/a", "end")).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(!taken.is_empty());
    let expected = taken.into_iter().map(|number| (number, SIZE)).collect();
    assert_eq!(in_time(counting).await.unwrap(), expected);
}

fn too_deep<T>(answer: &Result<T, BrokerError>) -> bool {
    matches!(answer, Err(BrokerError::LimitExceeded { setting: "broker.memory.max_topic_levels", .. }))
}

#[tokio::test]
async fn topics_have_a_limited_depth() {
    let (_, client) = memory(Settings { max_topic_levels: 3, ..Settings::default() }).await;
    let ear = Arc::new(Ear::default());
    let share = |source| client.link.share(source, ear.clone());
    for (name, fits) in [("a/b/#", true), ("a/b/c", true), ("a/b/c/#", false), ("a/b/c/d", false)] {
        assert_eq!(!too_deep(&share(SharedSource::Topic(Pattern::canonical(name))).await), fits, "{name}");
        let user = SharedSource::User { user: "u".into(), name: Pattern::canonical(format!("topic/{name}")) };
        assert_eq!(!too_deep(&share(user).await), fits, "{name} of a user");
    }
    for (spelling, fits) in [("/topic/a.b.c", true), ("/user/u/topic/a.b.c", true)].into_iter().chain([
        ("/topic/a.b.c.d", false),
        ("/user/u/topic/a.b.c.d", false),
        ("/user/u/queue/a/b/c/d/e", true),
    ]) {
        for retain in [false, true] {
            let mut message = client.message("/topic/a", "x");
            message.destination = Destination::parse(spelling, Usage::Send, Separators::Both).unwrap();
            message.options.retain = retain;
            let commit = Transaction { messages: vec![message.clone()], settlements: Vec::new() };
            assert_eq!(!too_deep(&client.publish(message).await), fits, "{spelling}");
            assert_eq!(!too_deep(&client.link.commit(commit).await), fits, "{spelling} in a transaction");
        }
    }
}

#[tokio::test]
async fn a_pattern_has_three_of_the_dearest_wildcard() {
    let (_, client) = memory(Settings::default()).await;
    client.listen("/topic/#/a/#/b/#").await;
    let ear = Arc::new(Ear::default());
    let pattern = Pattern::canonical("#/a/#/b/#/c/#");
    let user = SharedSource::User { user: "u".into(), name: Pattern::canonical(format!("topic/{pattern}")) };
    for source in [SharedSource::Topic(pattern.clone()), user] {
        let refusal = Refusal::from(client.link.share(source, ear.clone()).await.err().unwrap());
        assert_eq!(refusal.message, "a pattern with more than 3 # not supported");
    }
    assert!(client.open(Source::Topic(pattern), 1).await.is_err());
}

/// A real broker gives messages to whoever has credit, awake or not.
#[tokio::test]
async fn a_reader_that_sleeps_holds_nothing_back() {
    let (_, client) = memory(Settings::default()).await;
    let mut sleeper = client.read("/queue/a").await;
    sleeper.expect_nothing();
    let mut reader = client.read("/queue/a").await;
    let body = tokio::join!(reader.next(), client.send("/queue/a", "1")).0;
    assert_eq!(text(&body.message), "1");
    sleeper.expect_nothing();
}
