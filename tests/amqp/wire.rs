//! What only AMQP has, and what another AMQP program sees of us.

use std::time::Duration;

use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use stompgate::broker::{BrokerError, Event, Source, Subscribe, amqp::Settings};
use stompgate::message::{Destination, DurableName, Headers, Message, Outcome, Settlement};

use crate::backends::amqp_with;
use crate::harness::{Client, in_time, text};
use crate::rabbitmq;

/// A client of ours, and a program that speaks AMQP itself.
pub(crate) async fn both(settings: Settings) -> (Client, Connection, Channel) {
    let broker = amqp_with(settings).await;
    let client = Client::of(&broker).await;
    let connection =
        Connection::connect(&rabbitmq::shared().await.uri(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    std::mem::forget(broker); // its drop ends it, and the process ends soon
    (client, connection, channel)
}

fn to_exchange(client: &Client, exchange: &str, key: &str) -> Message {
    let mut message = client.message("/queue/unused", "x");
    message.destination = Destination::Exchange { exchange: exchange.to_owned().into(), key: key.to_owned().into() };
    message
}

fn one_channel() -> Settings {
    Settings { publish_channels: 1, ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn properties_are_where_an_amqp_program_expects_them() {
    let (client, _connection, channel) = both(Settings::default()).await;
    let name = format!("{}/a", client.mark);
    let mut message = client.message("/queue/a", "body");
    message.headers = Headers::from([
        ("content-type", "text/plain"),
        ("correlation-id", "c-1"),
        ("reply-to", "/queue/answers"),
        ("amqp-message-id", "m-1"),
        ("x-colour", "blue"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ]);
    message.options.priority = Some(3);
    message.options.expiration = Some(Duration::from_mins(1));
    client.publish(message).await.unwrap();
    let got = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await.unwrap().unwrap();
    let properties = &got.delivery.properties;
    assert_eq!(got.delivery.data, b"body");
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "text/plain");
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "c-1");
    assert_eq!(properties.reply_to().as_ref().unwrap().as_str(), "/queue/answers");
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "m-1");
    assert_eq!(properties.expiration().as_ref().unwrap().as_str(), "60000");
    assert_eq!((*properties.delivery_mode(), *properties.priority()), (Some(2), Some(3)));
    let colour = &properties.headers().as_ref().unwrap().inner()["x-colour"];
    assert_eq!(*colour, AMQPValue::LongString("blue".into()));
    let parent = &properties.headers().as_ref().unwrap().inner()["traceparent"];
    assert_eq!(*parent, AMQPValue::LongString("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()));
    got.delivery.ack(BasicAckOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_amqp_program_publishes_reaches_topics_and_queues() {
    let (client, _connection, channel) = both(Settings::default()).await;
    let (_guard, ear) = client.listen("/topic/a/b").await;
    let mut reader = client.read("/queue/a").await;
    let mut table = FieldTable::default();
    table.insert("count".into(), AMQPValue::LongInt(7));
    table.insert("destination".into(), AMQPValue::LongString("/queue/forged".into()));
    let properties = BasicProperties::default().with_content_type("text/plain".into()).with_headers(table);
    let options = BasicPublishOptions::default();
    let key = format!("{}.a.b", client.mark);
    channel.basic_publish("amq.topic".into(), key.as_str().into(), options, b"news", properties.clone()).await.unwrap();
    assert_eq!(ear.until("news").await, ["news"]);
    let queue = format!("{}/a", client.mark);
    channel.basic_publish("".into(), queue.as_str().into(), options, b"job", properties).await.unwrap();
    let job = reader.take("job").await;
    assert_eq!(job.message.headers.get("count").unwrap(), "7");
    assert_eq!(job.message.headers.get("content-type").unwrap(), "text/plain");
    assert_eq!(job.message.headers.get("destination"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_vanishes_costs_only_its_own_sender() {
    let (client, _connection, channel) = both(one_channel()).await;
    let exchange = format!("{}-e", client.mark);
    let (options, none) = (ExchangeDeclareOptions::default(), FieldTable::default());
    channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Direct, options, none).await.unwrap();
    let mut reader =
        client.open(Source::Exchange { exchange: exchange.clone().into(), key: "k".into() }, 10).await.unwrap();
    assert_eq!(client.publish(to_exchange(&client, &exchange, "k")).await, Ok(Outcome::DONE));
    assert_eq!(client.publish(to_exchange(&client, &exchange, "other")).await, Ok(Outcome::UNROUTED));
    reader.take("x").await;
    client.send("/queue/a", "first").await;
    // Now the gateway believes that it is there, and the broker closes the channel under all that is on its way.
    channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    let mut confirmations = Vec::new();
    for number in 0..100 {
        if number == 50 {
            confirmations
                .push(client.link.publish(client.link.reserve().await.unwrap(), to_exchange(&client, &exchange, "k")));
        }
        let message = client.message("/queue/a", &number.to_string());
        confirmations.push(client.link.publish(client.link.reserve().await.unwrap(), message));
    }
    let mut refused = 0;
    for confirmation in confirmations {
        match in_time(confirmation).await {
            Ok(outcome) => assert_eq!(outcome, Outcome::DONE),
            Err(error) => {
                assert_eq!(error, BrokerError::NotFound(format!("the exchange {exchange}")));
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 1);
    let mut queue = client.read("/queue/a").await;
    queue.take("first").await;
    let mut seen = Vec::new();
    while seen.len() < 100 {
        let delivery = queue.next().await;
        queue.settle(&delivery, Settlement::Accept).await;
        let body = text(&delivery.message);
        let twice = seen.contains(&body);
        assert!(!twice || delivery.message.headers.get("stompgate-republished").is_some(), "{body} twice, unmarked");
        if !twice {
            seen.push(body);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_exist_is_not_made() {
    let (client, _connection, _channel) = both(Settings::default()).await;
    let missing = format!("{}-missing", client.mark);
    let queue = BrokerError::NotFound(format!("the queue {missing}"));
    let exchange = BrokerError::NotFound(format!("the exchange {missing}"));
    assert_eq!(client.open(Source::ExistingQueue(missing.clone().into()), 1).await.err(), Some(queue.clone()));
    let source = Source::Exchange { exchange: missing.clone().into(), key: "".into() };
    assert_eq!(client.open(source, 1).await.err(), Some(exchange.clone()));
    let mut message = client.message("/queue/unused", "x");
    message.destination = Destination::ExistingQueue(missing.clone().into());
    assert_eq!(client.publish(message).await, Err(queue));
    assert_eq!(client.publish(to_exchange(&client, &missing, "")).await, Err(exchange));
    client.send("/queue/a", "still well").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_is_made_again_for_its_reader() {
    let (client, _connection, channel) = both(Settings::default()).await;
    client.send("/queue/a", "1").await;
    let mut reader = client.read("/queue/a").await;
    reader.take("1").await;
    let name = format!("{}/a", client.mark);
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    assert!(matches!(reader.event().await, Event::Interrupted));
    assert!(matches!(reader.event().await, Event::Restored));
    client.send("/queue/a", "2").await;
    assert!(reader.take("2").await.gap);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_is_made_again_by_a_sender_and_ends_a_reader_to_whom_it_must_exist() {
    let (client, _connection, channel) = both(Settings::default()).await;
    client.send("/queue/a", "1").await;
    let name = format!("{}/a", client.mark);
    let mut reader = client.open(Source::ExistingQueue(name.as_str().into()), 1).await.unwrap();
    reader.take("1").await;
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    assert!(matches!(reader.event().await, Event::Interrupted));
    match reader.event().await {
        Event::Ended(BrokerError::NotFound(what)) => assert!(what.contains(&name), "{what}"),
        other => panic!("an end was expected, not {other:?}"),
    }
    client.send("/queue/a", "2").await;
    client.read("/queue/a").await.take("2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_and_a_rejected_message_is_dead_lettered() {
    let (client, _connection, channel) = both(Settings::default()).await;
    let (name, dead) = (format!("{}/full", client.mark), format!("{}-dead", client.mark));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(dead.as_str().into(), durable, FieldTable::default()).await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    for (argument, value) in
        [("x-overflow", "reject-publish"), ("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", &dead)]
    {
        arguments.insert(argument.into(), AMQPValue::LongString(value.into()));
    }
    channel.queue_declare(name.as_str().into(), durable, arguments).await.unwrap();
    client.send("/queue/full", "1").await;
    let refused = client.publish(client.message("/queue/full", "2")).await;
    assert!(matches!(&refused, Err(BrokerError::Rejected(why)) if why.contains("full")), "{refused:?}");
    let mut reader = client.read("/queue/full").await;
    let first = reader.expect("1").await;
    reader.settle(&first, Settlement::Reject).await;
    let mut buried = client.open(Source::ExistingQueue(dead.into()), 1).await.unwrap();
    let death = buried.take("1").await.message.headers.get("x-death").cloned().unwrap();
    assert!(death.contains(r#""reason":"rejected""#), "{death}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_amqp_does_not_have_are_refused_before_they_cost_anything() {
    let (client, _connection, _channel) = both(one_channel()).await;
    let long = "x".repeat(300);
    let refused = client.publish(client.message(&format!("/queue/{long}"), "x")).await;
    assert!(matches!(&refused, Err(BrokerError::Rejected(why)) if why.contains("255")), "{refused:?}");
    let mut message = client.message("/queue/a", "x");
    message.headers.push(long.clone(), "value");
    assert!(matches!(client.publish(message).await, Err(BrokerError::Rejected(_))));
    let name = DurableName { user: long.into(), client: "".into(), name: "sub".into() };
    assert!(client.link.delete_durable(&name).await.is_err());
    client.send("/queue/a", "still well").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_are_off_with_a_service_account_unless_allowed() {
    let (client, _connection, _channel) = both(Settings::default()).await;
    let arguments = Headers::from([("x-max-length", "10")]);
    let source = Source::Queue(format!("{}-q", client.mark).into());
    let refused = client.link.subscribe(Subscribe { source, prefetch: 1, arguments }).await.err();
    assert!(matches!(&refused, Some(BrokerError::Unsupported { what, .. }) if what == "x-max-length"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_outlives_its_last_reader_by_the_linger() {
    let linger = Duration::from_millis(300);
    let (client, _connection, _channel) = both(Settings { linger, ..Settings::default() }).await;
    let (guard, _ear) = client.listen("/topic/a").await;
    client.send("/topic/a", "1").await;
    drop(guard);
    assert_eq!(client.publish(client.message("/topic/a", "2")).await, Ok(Outcome::DONE));
    let gone = async {
        while client.publish(client.message("/topic/a", "3")).await == Ok(Outcome::DONE) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(gone).await;
    let (_guard, ear) = client.listen("/topic/a").await;
    client.send("/topic/a", "4").await;
    assert_eq!(ear.until("4").await, ["4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_are_one_to_their_clients() {
    let (here, _connection, _channel) = both(Settings::default()).await;
    let (mut there, _other_connection, _other_channel) = both(Settings::default()).await;
    there.mark.clone_from(&here.mark);
    let (_topic, topic) = here.listen("/topic/a/+").await;
    let (_user, user) = here.listen_as("bob", "/user/queue/orders").await;
    let mut jobs = here.read("/queue/a").await;
    let mut replies = here.open(Source::Reply, 10).await.unwrap();
    there.send("/topic/a/b", "news").await;
    there.send("/user/bob/queue/orders", "order").await;
    there.send("/queue/a", "job").await;
    let mut reply = there.message("/queue/unused", "reply");
    reply.destination = Destination::ReplyQueue(replies.subscription.reply_address().unwrap().clone());
    assert_eq!(there.publish(reply).await, Ok(Outcome::DONE));
    topic.until("news").await;
    user.until("order").await;
    jobs.take("job").await;
    replies.take("reply").await;
}
