//! Messages that the gateway's AMQP library cannot read: they break the connection that they come on.

use std::time::Duration;

use stompgate::broker::amqp::Settings;
use stompgate::broker::{BrokerError, Event, Source, Subscribe};
use stompgate::message::{Destination, DurableName, Headers, Pattern, Settlement, Usage};

use crate::amqp_bytes::BYTE;
use crate::amqp_wire::both;
use crate::harness::{Client, Heard, Reader, in_time};
use crate::rabbitmq;

async fn publish(exchange: &str, key: Vec<u8>, content_type: &'static [u8]) {
    crate::amqp_bytes::publish(&rabbitmq::shared().await.uri(), exchange, key, content_type).await;
}

/// The next message, however often the connection breaks before it.
async fn delivered(reader: &mut Reader, body: &str) {
    loop {
        match reader.event().await {
            Event::Interrupted | Event::Restored => {}
            Event::Delivery(delivery) => {
                assert_eq!(crate::harness::text(&delivery.message), body);
                reader.settle(&delivery, Settlement::Accept).await;
                return;
            }
            other => panic!("{body} was expected, not {other:?}"),
        }
    }
}

async fn end(reader: &mut Reader) -> BrokerError {
    loop {
        if let Event::Ended(error) = reader.event().await {
            return error;
        }
    }
}

/// A durable subscription to all topics of this client: what is published there with a bad key reaches it.
fn everything(client: &Client) -> (DurableName, Pattern) {
    let name = DurableName { user: client.mark.clone().into(), client: "c".into(), name: "sub-0".into() };
    let Destination::Topic(pattern) = client.at("/topic/#", Usage::Subscribe) else { panic!("it is a topic") };
    (name, pattern)
}

async fn durable(client: &Client) -> Result<Reader, BrokerError> {
    let (name, pattern) = everything(client);
    client.open(Source::Durable(name, pattern), 10).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_message_cannot_be_read_is_parked_and_the_others_go_on() {
    let (client, _connection, _channel) = both(Settings::default()).await;
    let mut sick = durable(&client).await.unwrap();
    let mut well = client.read("/queue/a").await;
    let mut topic = client.read("/topic/other").await;
    client.send("/queue/a", "before").await;
    let held = well.expect("before").await;
    publish("amq.topic", [client.mark.as_bytes(), b".", &[BYTE]].concat(), b"text/plain").await;
    assert!(matches!(end(&mut sick).await, BrokerError::Poison(what) if what.contains("sub-0")));
    delivered(&mut well, "before").await;
    assert!(!client.settle(&[&held], Settlement::Accept).await, "it went with its link");
    assert!(matches!(topic.event().await, Event::Interrupted));
    assert!(matches!(topic.event().await, Event::Restored));
    client.send("/topic/other", "after").await;
    delivered(&mut topic, "after").await;

    // Whoever comes back for it is told at once, and nobody else is disturbed.
    let again = durable(&client).await.err();
    assert!(matches!(again, Some(BrokerError::Poison(_))), "{again:?}");
    client.send("/queue/a", "still well").await;
    well.take("still well").await;
    // Deleted, it begins anew.
    drop(sick);
    in_time(client.link.delete_durable(&everything(&client).0)).await.unwrap();
    let mut reader = durable(&client).await.unwrap();
    client.send("/topic/x", "fresh").await;
    reader.take("fresh").await;
    reader.subscription.cancel(true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_property_that_cannot_be_read_is_poison_too() {
    let (client, _connection, _channel) = both(Settings::default()).await;
    client.send("/queue/a", "1").await;
    let mut well = client.read("/queue/b").await;
    publish("", format!("{}/a", client.mark).into_bytes(), &[BYTE]).await;
    let mut sick = client.read("/queue/a").await;
    assert!(matches!(end(&mut sick).await, BrokerError::Poison(what) if what.contains(&client.mark)));
    client.send("/queue/b", "2").await;
    delivered(&mut well, "2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_go_on_after_a_message_that_cannot_be_read() {
    let (client, _connection, _channel) = both(Settings::default()).await;
    let (_guard, all) = client.listen("/topic/#").await;
    let (_guard, one) = client.listen("/topic/a").await;
    for round in 0..3 {
        publish("amq.topic", [client.mark.as_bytes(), b".", &[BYTE]].concat(), b"text/plain").await;
        for ear in [&all, &one] {
            let restored = async {
                while ear.heard().iter().filter(|heard| **heard == Heard::Restored).count() <= round {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            in_time(restored).await;
        }
        let body = format!("after {round}");
        client.send("/topic/a", &body).await;
        all.until_heard(&Heard::Message(body.clone())).await;
        one.until_heard(&Heard::Message(body)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_where_it_was_after_a_break() {
    let (client, _connection, _channel) = both(Settings { queue_arguments: Some(true), ..Settings::default() }).await;
    let source = Source::Queue(format!("{}/stream", client.mark).into());
    let arguments = Headers::from([("x-queue-type", "stream"), ("x-stream-offset", "first")]);
    let request = Subscribe { source, prefetch: 10, arguments };
    let mut stream = Reader::of(in_time(client.link.subscribe(request)).await.unwrap(), &client);
    for body in ["0", "1", "2"] {
        client.send("/queue/stream", body).await;
    }
    stream.take("0").await;
    let held = stream.expect("1").await;
    stream.take("2").await;
    let mut sick = durable(&client).await.unwrap();
    publish("amq.topic", [client.mark.as_bytes(), b".", &[BYTE]].concat(), b"text/plain").await;
    assert!(matches!(end(&mut sick).await, BrokerError::Poison(_)));
    assert!(matches!(stream.event().await, Event::Interrupted));
    assert!(!client.settle(&[&held], Settlement::Accept).await);
    assert!(matches!(stream.event().await, Event::Restored));
    client.send("/queue/stream", "3").await;
    // From the first that was not acknowledged, and not from the first of all.
    for (body, again) in [("1", true), ("2", true), ("3", false)] {
        assert_eq!(stream.take(body).await.redelivered, again, "{body}");
    }
}

/// Without a message there is no place in the stream to go on from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_has_brought_nothing_yet_has_a_gap_after_a_break() {
    let (client, _connection, _channel) = both(Settings { queue_arguments: Some(true), ..Settings::default() }).await;
    let source = Source::Queue(format!("{}/stream", client.mark).into());
    let request = Subscribe { source, prefetch: 10, arguments: Headers::from([("x-queue-type", "stream")]) };
    let mut stream = Reader::of(in_time(client.link.subscribe(request)).await.unwrap(), &client);
    let mut sick = durable(&client).await.unwrap();
    publish("amq.topic", [client.mark.as_bytes(), b".", &[BYTE]].concat(), b"text/plain").await;
    assert!(matches!(end(&mut sick).await, BrokerError::Poison(_)));
    assert!(matches!(stream.event().await, Event::Interrupted));
    assert!(matches!(stream.event().await, Event::Restored));
    client.send("/queue/stream", "1").await;
    assert!(stream.take("1").await.gap);
}
