//! What a broker says of itself, and whether that is true.

use std::sync::Arc;

use stompgate::broker::{Broker, BrokerError, LinkState, SharedSource, Source, Subscribe};
use stompgate::message::{Destination, Headers, Outcome};

use crate::harness::{Client, Ear, in_time};

/// It is refused, and the refusal names it and what to use instead.
fn assert_refused<T>(answer: Result<T, BrokerError>, name: &str) {
    match answer.err() {
        Some(BrokerError::Unsupported { what, why }) => {
            assert!(what.contains(name) && !why.is_empty(), "{what}: {why}");
        }
        other => panic!("{name} was to be refused: {other:?}"),
    }
}

pub(crate) async fn exchanges_are_refused_by_name_or_there(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    if client.link.capabilities().exchanges {
        return; // what they do is told by the broker's own tests
    }
    let source = Source::Exchange { exchange: "amq.topic".into(), key: "a".into() };
    assert_refused(client.open(source, 1).await, "/exchange");
    let source = SharedSource::Exchange { exchange: "amq.topic".into(), key: "a".into() };
    assert_refused(client.link.share(source, Arc::new(Ear::default())).await.map(drop), "/exchange");
    assert_refused(client.open(Source::ExistingQueue("a".into()), 1).await, "/amq/queue");
    let mut message = client.message("/queue/a", "x");
    message.destination = Destination::Exchange { exchange: "e".into(), key: "".into() };
    assert_refused(client.publish(message.clone()).await, "/exchange");
    message.destination = Destination::ExistingQueue("a".into());
    assert_refused(client.publish(message).await, "/amq/queue");
}

pub(crate) async fn arguments_are_refused_by_name_or_taken(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let arguments = Headers::from([("x-max-length", "10")]);
    let source = Source::Queue(format!("{}-arguments", client.mark).into());
    let answer = in_time(client.link.subscribe(Subscribe { source, prefetch: 1, arguments })).await;
    let mut message = client.message("/queue/arguments", "x");
    message.options.arguments = Some(Box::new(Headers::from([("x-max-length", "10")])));
    let published = client.publish(message).await;
    if client.link.capabilities().arguments {
        assert!(answer.is_ok());
        assert_eq!(published, Ok(Outcome::DONE));
    } else {
        assert_refused(answer, "x-max-length");
        assert_refused(published, "x-max-length");
    }
}

pub(crate) async fn what_belongs_to_others_is_refused(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let mut message = client.message("/topic/a", "x");
    for (kind, name) in [("app", "/app"), ("temp-queue", "/temp-queue")] {
        message.destination = match client.at("/topic/a", stompgate::message::Usage::Send) {
            Destination::Topic(name) if kind == "app" => Destination::Application(name),
            _ => Destination::TemporaryQueue("x".into()),
        };
        assert_refused(client.publish(message.clone()).await, name);
    }
}

pub(crate) async fn the_state_is_up(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    assert!(client.link.try_reserve().is_some());
    assert_eq!(*broker.state().borrow(), LinkState::Up);
}
