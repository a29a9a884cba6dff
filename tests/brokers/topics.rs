//! Topics, and what is sent to users.

use std::sync::Arc;

use stompgate::broker::{Broker, BrokerError, Event, SharedSource};
use stompgate::message::{Destination, Headers, Pattern, Usage};

use crate::harness::{Client, Ear, Heard};

pub(crate) async fn every_subscriber_gets_a_copy(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let (_one, first) = client.listen("/topic/a").await;
    let (_two, second) = client.listen("/topic/a").await;
    client.send("/topic/a", "hello").await;
    assert_eq!(first.until("hello").await, ["hello"]);
    assert_eq!(second.until("hello").await, ["hello"]);
}

pub(crate) async fn a_pattern_gets_what_it_matches(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let (_any, any) = client.listen("/topic/#").await;
    let (_one, one) = client.listen("/topic/a/+/c").await;
    let (_glob, glob) = client.listen("/topic/a/b*/#").await;
    for (place, body) in [("a/b/c", "1"), ("a/c", "2"), ("a/x/c", "3"), ("a/bx/d", "4"), ("a/x/c", "5"), ("a/b", "6")] {
        client.send(&format!("/topic/{place}"), body).await;
    }
    assert_eq!(any.until("6").await, ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(one.until("5").await, ["1", "3", "5"]);
    assert_eq!(glob.until("6").await, ["1", "4", "6"]);
}

pub(crate) async fn overlapping_patterns_each_get_one_copy(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let mut ears = Vec::new();
    for pattern in ["/topic/a/b", "/topic/a/+", "/topic/#", "/topic/#/b", "/topic/a/b/#"] {
        ears.push(client.listen(pattern).await);
    }
    client.send("/topic/a/b", "once").await;
    client.send("/topic/a/b", "end").await;
    for (_, ear) in &ears {
        assert_eq!(ear.until("end").await, ["once", "end"]);
    }
}

pub(crate) async fn order_is_the_publishers(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let (_guard, ear) = client.listen("/topic/+").await;
    let sent: Vec<_> = (0..200).map(|number| number.to_string()).collect();
    for body in &sent {
        client.send("/topic/a", body).await;
    }
    assert_eq!(ear.until("199").await, sent);
}

pub(crate) async fn nobody_there_is_unrouted(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let (_guard, _ear) = client.listen("/topic/a").await;
    assert_eq!(client.publish(client.message("/topic/b", "x")).await, Ok(client.unrouted()));
    assert_eq!(client.publish(client.message("/user/nobody/queue/x", "x")).await, Ok(client.unrouted()));
}

pub(crate) async fn a_dropped_guard_hears_nothing_more(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let (first, gone) = client.listen("/topic/a").await;
    let (_second, stays) = client.listen("/topic/+").await;
    client.send("/topic/a", "1").await;
    gone.until("1").await;
    drop(first);
    client.send("/topic/a", "2").await;
    stays.until("2").await;
    assert_eq!(gone.heard(), [Heard::Message("1".to_owned())]);
}

pub(crate) async fn leading_wildcards_are_blind_to_system_names(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let ear = Arc::new(Ear::default());
    let everything = SharedSource::Topic(Pattern::canonical("#"));
    let _guard = client.link.share(everything, ear.clone()).await.unwrap();
    let mut system = client.message("/topic/a", "system");
    system.destination = Destination::Topic(Pattern::canonical(format!("$x{}", client.mark)));
    // A broker may refuse such a topic; it must not deliver it.
    let _ = client.publish(system).await;
    client.send("/topic/a", "end").await;
    let heard = ear.until_heard(&Heard::Message("end".to_owned())).await;
    assert!(!heard.contains(&Heard::Message("system".to_owned())));
}

pub(crate) async fn users_have_names_of_their_own(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let (_one, first) = client.listen_as("bob", "/user/queue/orders").await;
    let (_two, second) = client.listen_as("bob", "/user/topic/#").await;
    let (_three, other) = client.listen_as("eve", "/user/queue/orders").await;
    client.send("/user/bob/queue/orders", "1").await;
    client.send("/user/bob/topic/a/b", "2").await;
    client.send("/user/bob/queue/orders", "3").await;
    client.send("/user/eve/queue/orders", "4").await;
    assert_eq!(first.until("3").await, ["1", "3"]);
    assert_eq!(second.until("2").await, ["2"]);
    assert_eq!(other.until("4").await, ["4"]);
}

pub(crate) async fn acknowledged_topics_have_queues_of_their_own(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let mut one = client.read("/topic/a/#").await;
    let mut two = client.read_with("/topic/a/b", 1).await;
    client.send("/topic/a/b", "1").await;
    client.send("/topic/a/b", "2").await;
    let first = one.expect("1").await;
    assert!(first.id.is_some() && !first.redelivered && !first.gap);
    one.take("2").await;
    two.take("1").await;
    two.take("2").await;
    for reader in [&mut one, &mut two] {
        reader.subscription.cancel(false).await.unwrap();
    }
    drop((one, two));
    assert_eq!(client.publish(client.message("/topic/a/b", "3")).await, Ok(client.unrouted()));
}

pub(crate) async fn headers_and_body_arrive_as_sent(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let mut reader = client.read("/topic/a").await;
    let mut message = client.message("/topic/a", "");
    message.headers = Headers::from([("content-type", "text/plain"), ("x", "ä"), ("correlation-id", "7")]);
    message.body = vec![0, 255, 10, 0].into();
    client.publish(message.clone()).await.unwrap();
    let delivered = reader.next().await.message;
    assert_eq!(delivered.body, message.body);
    assert_eq!(delivered.destination, client.at("/topic/a", Usage::Send));
    for (name, value) in message.headers.iter() {
        assert_eq!(delivered.headers.get(name), Some(value), "{name}");
    }
}

pub(crate) async fn a_closed_broker_says_so(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let (_guard, ear) = client.listen("/topic/a").await;
    let mut reader = client.read("/queue/a").await;
    broker.close().await;
    assert_eq!(ear.until_heard(&Heard::Ended(BrokerError::Unavailable)).await.len(), 1);
    assert!(matches!(reader.event().await, Event::Ended(BrokerError::Unavailable)));
    for place in ["/topic/a", "/queue/a"] {
        assert_eq!(client.publish(client.message(place, "x")).await, Err(BrokerError::Unavailable));
    }
}
