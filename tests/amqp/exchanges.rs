//! Plain subscriptions to exchanges: one queue for all who read the same binding.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use stompgate::broker::amqp::{self, Settings, Uri};
use stompgate::broker::{BrokerError, SharedSource, Subscriber};
use stompgate::message::{Destination, Message, Outcome};

use crate::amqp_wire::both;
use crate::harness::{Client, Ear, Heard, in_time};
use crate::rabbitmq;

/// An exchange of this client's own.
async fn declare(client: &Client, channel: &Channel, kind: ExchangeKind) -> String {
    let name = format!("{}-e", client.mark);
    let (options, none) = (ExchangeDeclareOptions::default(), FieldTable::default());
    channel.exchange_declare(name.as_str().into(), kind, options, none).await.unwrap();
    name
}

async fn delete(channel: &Channel, exchange: &str) {
    channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.unwrap();
}

fn source(exchange: &str, key: &str) -> SharedSource {
    SharedSource::Exchange { exchange: exchange.to_owned().into(), key: key.to_owned().into() }
}

fn message(client: &Client, exchange: &str, key: &str, body: &str) -> Message {
    let destination = Destination::Exchange { exchange: exchange.to_owned().into(), key: key.to_owned().into() };
    Message { destination, ..client.message("/queue/unused", body) }
}

/// How many bindings the exchange has.
async fn bindings(exchange: &str) -> usize {
    let listed = rabbitmq::shared().await.control(&["-q", "list_bindings", "source_name"]).await;
    listed.lines().filter(|line| *line == exchange).count()
}

/// Until nobody is there for what is sent so.
async fn until_unrouted(client: &Client, exchange: &str, key: &str) {
    let unrouted = async {
        while client.publish(message(client, exchange, key, "?")).await != Ok(Outcome::UNROUTED) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(unrouted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_readers_of_a_binding_share_one_queue() {
    let (client, _connection, channel) = both(Settings::default()).await;
    let exchange = declare(&client, &channel, ExchangeKind::Topic).await;
    let opening = (0..20).map(|_| client.share(source(&exchange, "a.*")));
    let readers = futures_util::future::join_all(opening).await;
    let (_other, other) = client.share(source(&exchange, "a.b")).await;
    assert_eq!(bindings(&exchange).await, 2, "one for each key");
    for body in ["1", "2"] {
        assert_eq!(client.publish(message(&client, &exchange, "a.b", body)).await, Ok(Outcome::DONE));
    }
    for (_, ear) in &readers {
        assert_eq!(ear.until("2").await, ["1", "2"]);
    }
    assert_eq!(other.until("2").await, ["1", "2"]);
    drop(readers);
    assert_eq!(client.publish(message(&client, &exchange, "a.b", "3")).await, Ok(Outcome::DONE));
    assert_eq!(other.until("3").await, ["1", "2", "3"]);
}

/// Hears where messages were sent.
#[derive(Default)]
struct Destinations(Mutex<Vec<String>>, tokio::sync::Notify);

impl Subscriber for Destinations {
    fn deliver(&self, message: &Arc<Message>) {
        self.0.lock().unwrap().push(message.destination.to_string());
        self.1.notify_one();
    }
    fn replay(&self, _: u64, _: &Arc<Message>) {}
    fn replayed(&self, _: u64) {}
    fn restored(&self) {}
    fn ended(&self, _: &BrokerError) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_shows_its_routing_key() {
    let (client, _connection, channel) = both(Settings::default()).await;
    let exchange = declare(&client, &channel, ExchangeKind::Fanout).await;
    let heard = Arc::new(Destinations::default());
    let _guard = client.link.share(source(&exchange, ""), Arc::clone(&heard) as _).await.unwrap();
    assert_eq!(client.publish(message(&client, &exchange, "any/key", "x")).await, Ok(Outcome::DONE));
    in_time(heard.1.notified()).await;
    assert_eq!(*heard.0.lock().unwrap(), [format!("/exchange/{exchange}/any/key")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_messages_than_the_prefetch_arrive_in_order() {
    let (client, _connection, channel) = both(Settings { shared_prefetch: 10, ..Settings::default() }).await;
    let exchange = declare(&client, &channel, ExchangeKind::Direct).await;
    let (_guard, ear) = client.share(source(&exchange, "k")).await;
    let bodies: Vec<_> = (0..500).map(|number| number.to_string()).collect();
    let mut confirmations = Vec::new();
    for body in &bodies {
        let permit = client.link.reserve().await.unwrap();
        confirmations.push(client.link.publish(permit, message(&client, &exchange, "k", body)));
    }
    for confirmation in confirmations {
        assert_eq!(in_time(confirmation).await, Ok(Outcome::DONE));
    }
    assert_eq!(ear.until("499").await, bodies);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_outlives_its_last_reader_by_the_linger() {
    let linger = Duration::from_millis(300);
    let (client, _connection, channel) = both(Settings { linger, ..Settings::default() }).await;
    let exchange = declare(&client, &channel, ExchangeKind::Direct).await;
    drop(client.share(source(&exchange, "k")).await);
    assert_eq!(client.publish(message(&client, &exchange, "k", "1")).await, Ok(Outcome::DONE));
    until_unrouted(&client, &exchange, "k").await;
    let (_guard, ear) = client.share(source(&exchange, "k")).await;
    assert_eq!(client.publish(message(&client, &exchange, "k", "2")).await, Ok(Outcome::DONE));
    assert_eq!(ear.until("2").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_exchange_is_told_to_each_who_asks() {
    let (client, _connection, _channel) = both(Settings::default()).await;
    let missing = format!("{}-missing", client.mark);
    let share = || client.link.share(source(&missing, "k"), Arc::new(Ear::default()));
    let (one, other) = tokio::join!(share(), share());
    for answer in [one, other, share().await] {
        assert_eq!(answer.err(), Some(BrokerError::NotFound(format!("the exchange {missing}"))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_deleted_ends_its_readers() {
    let gone = |exchange: &str| Heard::Ended(BrokerError::NotFound(format!("the exchange {exchange}")));
    // The gateway looks by itself,
    let (client, _connection, channel) =
        both(Settings { heartbeat: Duration::from_secs(1), ..Settings::default() }).await;
    let exchange = declare(&client, &channel, ExchangeKind::Direct).await;
    let (_guard, ear) = client.share(source(&exchange, "k")).await;
    delete(&channel, &exchange).await;
    ear.until_heard(&gone(&exchange)).await;
    // and with each new reader.
    let (client, _connection, channel) =
        both(Settings { heartbeat: Duration::from_mins(10), ..Settings::default() }).await;
    let exchange = declare(&client, &channel, ExchangeKind::Direct).await;
    let (_guard, ear) = client.share(source(&exchange, "k")).await;
    delete(&channel, &exchange).await;
    let late = in_time(client.link.share(source(&exchange, "k"), Arc::new(Ear::default()))).await;
    assert_eq!(late.err(), Some(BrokerError::NotFound(format!("the exchange {exchange}"))));
    ear.until_heard(&gone(&exchange)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_was_made_again_is_bound_by_the_next_reader() {
    let (client, _connection, channel) =
        both(Settings { heartbeat: Duration::from_mins(10), ..Settings::default() }).await;
    let exchange = declare(&client, &channel, ExchangeKind::Direct).await;
    let (_early, early) = client.share(source(&exchange, "k")).await;
    delete(&channel, &exchange).await;
    declare(&client, &channel, ExchangeKind::Topic).await;
    assert_eq!(client.publish(message(&client, &exchange, "k", "lost")).await, Ok(Outcome::UNROUTED));
    let (_late, late) = client.share(source(&exchange, "k")).await;
    assert_eq!(client.publish(message(&client, &exchange, "k", "found")).await, Ok(Outcome::DONE));
    for ear in [early, late] {
        assert_eq!(ear.until("found").await, ["found"]);
    }
}

/// A client in a virtual host of its own, whose exchanges can be deleted.
async fn alone(virtual_host: &str) -> (Client, Connection, Channel) {
    let node = rabbitmq::shared().await;
    node.control(&["add_vhost", virtual_host]).await;
    node.control(&["set_permissions", "-p", virtual_host, "guest", ".*", ".*", ".*"]).await;
    let uri = node.uri_of(virtual_host);
    let connection = Connection::connect(&uri, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let settings = Settings { uri: vec![Uri(uri)], heartbeat: Duration::from_secs(1), ..Settings::default() };
    let broker = amqp::connect(&settings).unwrap();
    let client = Client::of(&broker).await;
    std::mem::forget(broker); // its drop ends it, and the process ends soon
    (client, connection, channel)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_to_users_is_bound_again_when_its_exchange_was_deleted() {
    let (client, _connection, channel) = alone("users-lost").await;
    let (_guard, ear) = client.listen_as("bob", "/user/queue/a").await;
    client.send("/user/bob/queue/a", "before").await;
    delete(&channel, "stompgate.user").await;
    // A SEND makes it again, and is truthful meanwhile.
    let routed = async { while !client.publish(client.message("/user/bob/queue/a", "after")).await.unwrap().routed {} };
    in_time(routed).await;
    assert_eq!(ear.until_heard(&Heard::Message("after".into())).await[1], Heard::Restored, "something may be missing");
    // Nobody sends: it is looked for.
    delete(&channel, "stompgate.user").await;
    let restored = async {
        while ear.heard().iter().filter(|heard| **heard == Heard::Restored).count() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(restored).await;
    client.send("/user/bob/queue/a", "again").await;
    ear.until_heard(&Heard::Message("again".into())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_topics_are_told_when_the_exchange_of_topics_is_gone() {
    let node = rabbitmq::shared().await;
    let connection = Connection::connect(&node.uri(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let name = format!("topics-{}", std::process::id());
    let (options, arguments) = (ExchangeDeclareOptions::default(), FieldTable::default());
    channel.exchange_declare(name.as_str().into(), ExchangeKind::Topic, options, arguments).await.unwrap();
    let settings = Settings { exchange: name.clone(), heartbeat: Duration::from_secs(1), ..Settings::default() };
    let (client, _connection, _channel) = both(settings).await;
    let (_guard, ear) = client.listen("/topic/a").await;
    delete(&channel, &name).await;
    let told = async {
        while !ear.heard().iter().any(|heard| matches!(heard, Heard::Ended(BrokerError::NotFound(_)))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(told).await;
    channel.exchange_declare(name.as_str().into(), ExchangeKind::Topic, options, FieldTable::default()).await.unwrap();
    let (_guard, ear) = client.listen("/topic/a").await;
    client.send("/topic/a", "again").await;
    ear.until("again").await;
}
