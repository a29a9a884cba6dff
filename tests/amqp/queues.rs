//! Queues that clients name and describe: `x-queue-name`, arguments, quorum queues, streams, the time for an ACK.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use stompgate::broker::amqp::Settings;
use stompgate::broker::{BrokerError, Event, Source, Subscribe};
use stompgate::message::{Destination, DurableName, Headers, Message, Outcome, Pattern, Settlement, Usage};

use crate::amqp_wire::both;
use crate::harness::{Client, Reader, in_time, text};

fn allowed() -> Settings {
    Settings { queue_arguments: Some(true), ..Settings::default() }
}

fn pattern(client: &Client, spelling: &str) -> Pattern {
    let Destination::Topic(pattern) = client.at(spelling, Usage::Subscribe) else { panic!("{spelling} is no topic") };
    pattern
}

fn named(client: &Client, queue: &str, auto_delete: bool, of: Source) -> Source {
    Source::Named { queue: format!("{}-{queue}", client.mark).into(), auto_delete, of: Box::new(of) }
}

fn with<const COUNT: usize>(mut message: Message, arguments: [(&str, &str); COUNT]) -> Message {
    let arguments = arguments.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    message.options.arguments = Some(Box::new(arguments));
    message
}

async fn open<const COUNT: usize>(
    client: &Client,
    source: Source,
    prefetch: u16,
    arguments: [(&str, &str); COUNT],
) -> Result<Reader, BrokerError> {
    let arguments: Headers = arguments.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let subscription = in_time(client.link.subscribe(Subscribe { source, prefetch, arguments })).await?;
    Ok(Reader::of(subscription, client))
}

async fn declare(channel: &Channel, queue: &str, arguments: &[(&str, AMQPValue)]) {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, table).await.unwrap();
}

fn warned(outcome: Result<Outcome, BrokerError>) -> String {
    outcome.unwrap().warning.expect("a warning")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_a_name_is_shared_and_outlives_its_readers() {
    let (client, _connection, _channel) = both(allowed()).await;
    let source = named(&client, "q", false, Source::Topic(pattern(&client, "/topic/a/+")));
    let mut one = open(&client, source.clone(), 1, []).await.unwrap();
    let mut two = open(&client, source.clone(), 1, []).await.unwrap();
    for body in ["1", "2"] {
        client.send("/topic/a/b", body).await;
    }
    let (first, second) = tokio::join!(one.next(), two.next());
    let mut bodies = [text(&first.message), text(&second.message)];
    bodies.sort();
    assert_eq!(bodies, ["1", "2"], "each message goes to one of them");
    assert_eq!(first.message.destination, client.at("/topic/a/b", Usage::Send));
    assert!(client.settle(&[&first], Settlement::Accept).await);
    assert!(client.settle(&[&second], Settlement::Accept).await);
    drop((one, two));
    client.send("/topic/a/b", "3").await;
    open(&client, source, 1, []).await.unwrap().take("3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_a_name_may_go_with_its_last_reader() {
    let (client, _connection, _channel) = both(allowed()).await;
    let source = named(&client, "q", true, Source::Topic(pattern(&client, "/topic/a")));
    let one = open(&client, source.clone(), 1, []).await.unwrap();
    let mut two = open(&client, source, 1, []).await.unwrap();
    drop(one);
    client.send("/topic/a", "1").await;
    two.take("1").await;
    drop(two);
    let gone = async {
        while client.publish(client.message("/topic/a", "2")).await == Ok(Outcome::DONE) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_may_be_read_by_way_of_a_queue_with_a_name() {
    let (client, _connection, channel) = both(allowed()).await;
    let exchange = format!("{}-e", client.mark);
    let options = ExchangeDeclareOptions::default();
    channel
        .exchange_declare(exchange.as_str().into(), ExchangeKind::Direct, options, FieldTable::default())
        .await
        .unwrap();
    let of = Source::Exchange { exchange: exchange.clone().into(), key: "k".into() };
    let mut reader = open(&client, named(&client, "q", false, of), 1, []).await.unwrap();
    let mut message = client.message("/queue/unused", "x");
    message.destination = Destination::Exchange { exchange: exchange.into(), key: "k".into() };
    assert_eq!(client.publish(message.clone()).await, Ok(Outcome::DONE));
    assert_eq!(reader.take("x").await.message.destination, message.destination);
    let of = Source::Exchange { exchange: format!("{}-none", client.mark).into(), key: "k".into() };
    let missing = open(&client, named(&client, "q", false, of), 1, []).await.err();
    assert!(matches!(missing, Some(BrokerError::NotFound(_))), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_declares_its_queue_as_it_asks() {
    let (client, _connection, _channel) = both(allowed()).await;
    let arguments = [("x-max-length", "1"), ("x-overflow", "reject-publish")];
    let message = |body| with(client.message("/queue/a", body), arguments);
    assert_eq!(client.publish(message("1")).await, Ok(Outcome::DONE));
    let refused = client.publish(message("2")).await;
    assert!(matches!(&refused, Err(BrokerError::Rejected(why)) if why.contains("full")), "{refused:?}");
    client.read("/queue/a").await.take("1").await;
    assert_eq!(client.publish(message("3")).await, Ok(Outcome::DONE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_argument_that_no_queue_can_have_is_refused() {
    let (client, _connection, _channel) = both(allowed()).await;
    let bad = [("x-overflow", "sideways")];
    let published = client.publish(with(client.message("/queue/a", "x"), bad)).await;
    assert!(matches!(&published, Err(BrokerError::Rejected(why)) if why.contains("x-overflow")), "{published:?}");
    let source = Source::Queue(format!("{}-q", client.mark).into());
    let opened = open(&client, source, 1, bad).await.err();
    assert!(matches!(&opened, Some(BrokerError::Rejected(why)) if why.contains("x-overflow")), "{opened:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_there_with_other_arguments_is_used_and_the_client_warned() {
    let (client, _connection, channel) = both(allowed()).await;
    let queue = format!("{}/a", client.mark);
    declare(&channel, &queue, &[("x-max-length", AMQPValue::LongInt(5))]).await;
    let warning = format!("the queue {queue} is there with another x-max-length and is used as it is");
    for body in ["1", "2"] {
        let message = with(client.message("/queue/a", body), [("x-max-length", "9")]);
        assert_eq!(warned(client.publish(message).await), warning, "{body}");
    }
    let same = with(client.message("/queue/a", "3"), [("x-max-length", "5")]);
    assert_eq!(client.publish(same).await, Ok(Outcome::DONE));
    client.send("/queue/a", "4").await;
    let source = Source::Queue(queue.clone().into());
    let mut reader = open(&client, source, 9, [("x-message-ttl", "1000")]).await.unwrap();
    assert_eq!(
        reader.subscription.warning(),
        Some(&*format!("the queue {queue} is there with another x-message-ttl and is used as it is"))
    );
    for body in ["1", "2", "3", "4"] {
        reader.take(body).await;
    }
    assert_eq!(client.read("/queue/a").await.subscription.warning(), None);
    // The queues behind topics are no other.
    let source = Source::Named {
        queue: queue.into(),
        auto_delete: false,
        of: Box::new(Source::Topic(pattern(&client, "/topic/a"))),
    };
    let reader = open(&client, source, 1, [("x-max-length", "9")]).await.unwrap();
    assert_eq!(reader.subscription.warning(), Some(&*warning));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_subscription_takes_arguments_when_it_is_made() {
    let (client, _connection, _channel) = both(allowed()).await;
    let name = DurableName { user: client.mark.clone().into(), client: "c".into(), name: "sub-0".into() };
    let source = Source::Durable(name, pattern(&client, "/topic/a"));
    drop(open(&client, source.clone(), 1, [("x-max-length", "1")]).await.unwrap());
    for body in ["1", "2"] {
        client.send("/topic/a", body).await;
    }
    // Whoever comes back need not repeat them.
    let mut reader = open(&client, source.clone(), 1, []).await.unwrap();
    assert_eq!(reader.subscription.warning(), None);
    reader.take("2").await;
    drop(reader);
    let mut reader = open(&client, source, 1, [("x-max-length", "2")]).await.unwrap();
    assert!(reader.subscription.warning().is_some_and(|warning| warning.contains("x-max-length")));
    reader.subscription.cancel(true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_with_arguments_has_a_queue_of_its_own_that_has_them() {
    let (client, _connection, _channel) = both(allowed()).await;
    let source = Source::Topic(pattern(&client, "/topic/a"));
    let mut reader = open(&client, source, 1, [("x-max-length", "1")]).await.unwrap();
    for body in ["1", "2", "3"] {
        client.send("/topic/a", body).await;
    }
    reader.take("1").await; // it is on its way, and in the queue no more
    reader.take("3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_queue_gives_a_message_up_that_nobody_accepts() {
    let (client, _connection, channel) = both(allowed()).await;
    let dead = format!("{}-dead", client.mark);
    declare(&channel, &dead, &[]).await;
    let arguments = [
        ("x-queue-type", "quorum"),
        ("x-delivery-limit", "2"),
        ("x-dead-letter-exchange", ""),
        ("x-dead-letter-routing-key", &dead),
    ];
    let source = Source::Queue(format!("{}/a", client.mark).into());
    let mut reader = open(&client, source, 1, arguments).await.unwrap();
    client.send("/queue/a", "bad").await;
    for again in [false, true, true] {
        let delivery = reader.expect("bad").await;
        assert_eq!(delivery.redelivered, again);
        reader.settle(&delivery, Settlement::Requeue).await;
    }
    let mut buried = client.open(Source::ExistingQueue(dead.into()), 1).await.unwrap();
    let death = buried.take("bad").await.message.headers.get("x-death").cloned().unwrap();
    assert!(death.contains(r#""reason":"delivery_limit""#), "{death}");
    client.send("/queue/a", "good").await;
    reader.take("good").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_read_from_where_each_reader_wants() {
    let (client, _connection, _channel) = both(allowed()).await;
    let stream = [("x-queue-type", "stream")];
    let source = Source::Queue(format!("{}/a", client.mark).into());
    let read = async |offset: &str| {
        let arguments = [stream[0], ("x-stream-offset", offset)];
        open(&client, source.clone(), 2, arguments).await.unwrap()
    };
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() - 60;
    for body in ["0", "1", "2"] {
        assert_eq!(client.publish(with(client.message("/queue/a", body), stream)).await, Ok(Outcome::DONE));
    }
    for offset in ["first", "0", "offset=0", &format!("timestamp={before}"), "1h"] {
        let mut reader = read(offset).await;
        for (number, body) in ["0", "1", "2"].into_iter().enumerate() {
            // Two at a time: the third comes when one of them is acknowledged.
            let delivery = reader.take(body).await;
            assert_eq!(delivery.message.headers.get("x-stream-offset").unwrap(), &*number.to_string(), "{offset}");
            assert!(!delivery.redelivered, "{offset}");
        }
    }
    read("2").await.take("2").await;
    let (mut last, mut next) = (read("last").await, read("next").await);
    client.send("/queue/a", "3").await;
    next.take("3").await;
    while text(&last.next().await.message) != "3" {} // it begins with the last chunk, however long that is
    let refused = open(&client, source, 2, [("x-stream-offset", "someday")]).await.err();
    assert!(matches!(refused, Some(BrokerError::Rejected(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_too_long_for_its_acknowledgement_goes_back() {
    let settings = Settings { ack_timeout: Duration::from_secs(1), ..allowed() };
    let (client, _connection, _channel) = both(settings).await;
    for body in ["1", "2", "3"] {
        client.send("/queue/a", body).await;
    }
    let mut reader = client.read_with("/queue/a", 3).await;
    let (first, second) = (reader.expect("1").await, reader.expect("2").await);
    reader.take("3").await;
    reader.settle(&first, Settlement::Accept).await;
    match reader.event().await {
        Event::Returned(last) => assert_eq!(Some(last), second.id),
        other => panic!("it was to go back, not {other:?}"),
    }
    assert!(!client.settle(&[&second], Settlement::Accept).await, "it is the queue's again");
    assert!(reader.take("2").await.redelivered);
    client.send("/queue/a", "4").await;
    reader.take("4").await; // the channel is well
}

/// A stream takes nothing back, so it is read again from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_too_long_in_a_stream_is_read_again() {
    let settings = Settings { ack_timeout: Duration::from_secs(1), ..allowed() };
    let (client, _connection, _channel) = both(settings).await;
    let source = Source::Queue(format!("{}/s", client.mark).into());
    let arguments = [("x-queue-type", "stream"), ("x-stream-offset", "first")];
    let mut reader = open(&client, source, 10, arguments).await.unwrap();
    for body in ["1", "2", "3"] {
        client.send("/queue/s", body).await;
    }
    reader.take("1").await;
    let held = reader.expect("2").await;
    reader.take("3").await;
    assert!(matches!(reader.event().await, Event::Interrupted));
    assert!(!client.settle(&[&held], Settlement::Accept).await);
    assert!(matches!(reader.event().await, Event::Restored));
    for body in ["2", "3"] {
        let again = reader.take(body).await;
        assert!(again.redelivered && !again.gap, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_a_name_that_is_deleted_is_made_again() {
    let (client, _connection, channel) = both(allowed()).await;
    let source = named(&client, "q", false, Source::Topic(pattern(&client, "/topic/a")));
    let mut reader = open(&client, source, 1, []).await.unwrap();
    let queue = format!("{}-q", client.mark);
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    assert!(matches!(reader.event().await, Event::Interrupted));
    assert!(matches!(reader.event().await, Event::Restored));
    client.send("/topic/a", "1").await;
    assert!(reader.take("1").await.gap);
}
