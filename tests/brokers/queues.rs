//! Queues: competing readers, credit, redelivery.

use std::sync::Arc;
use std::task::Poll;

use stompgate::broker::{Broker, Event};
use stompgate::message::Settlement;

use crate::harness::{Client, Reader, text};

async fn send_all(client: &Client, place: &str, bodies: &[&str]) {
    for body in bodies {
        client.send(place, body).await;
    }
}

pub(crate) async fn a_queue_keeps_messages_until_somebody_reads(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    send_all(&client, "/queue/a", &["1", "2", "3"]).await;
    let mut reader = client.read("/queue/a").await;
    for body in ["1", "2", "3"] {
        let delivery = reader.take(body).await;
        assert!(!delivery.redelivered && !delivery.gap);
    }
}

pub(crate) async fn one_message_goes_to_one_reader(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let (mut one, mut two) = (client.read("/queue/a").await, client.read("/queue/a").await);
    client.send("/queue/a", "only").await;
    let delivery = tokio::select! {
        delivery = one.next() => delivery,
        delivery = two.next() => delivery,
    };
    assert_eq!(text(&delivery.message), "only");
    assert!(client.settle(&[&delivery], Settlement::Accept).await);
    drop((one, two));
    client.send("/queue/a", "end").await;
    client.read("/queue/a").await.take("end").await;
}

pub(crate) async fn prefetch_bounds_what_is_unsettled(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    send_all(&client, "/queue/a", &["1", "2", "3"]).await;
    let mut reader = client.read_with("/queue/a", 2).await;
    let first = reader.expect("1").await;
    reader.expect("2").await;
    reader.expect_nothing();
    reader.settle(&first, Settlement::Accept).await;
    reader.expect("3").await;
}

pub(crate) async fn a_requeued_message_comes_back_first(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    send_all(&client, "/queue/a", &["1", "2", "3"]).await;
    let mut reader = client.read_with("/queue/a", 1).await;
    let first = reader.expect("1").await;
    reader.settle(&first, Settlement::Requeue).await;
    assert!(reader.take("1").await.redelivered);
    assert!(!reader.take("2").await.redelivered);
    reader.take("3").await;
}

pub(crate) async fn what_a_dropped_reader_held_comes_back_in_order(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    send_all(&client, "/queue/a", &["1", "2", "3", "4"]).await;
    let mut reader = client.read_with("/queue/a", 3).await;
    reader.expect("1").await;
    reader.take("2").await;
    reader.expect("3").await;
    drop(reader);
    let mut heir = client.read("/queue/a").await;
    for body in ["1", "3"] {
        assert!(heir.take(body).await.redelivered, "{body}");
    }
    // A broker may have sent it ahead, so that it counts as redelivered.
    heir.take("4").await;
}

pub(crate) async fn a_rejected_message_is_gone(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    send_all(&client, "/queue/a", &["bad", "good"]).await;
    let mut reader = client.read_with("/queue/a", 1).await;
    let bad = reader.expect("bad").await;
    reader.settle(&bad, Settlement::Reject).await;
    reader.take("good").await;
}

pub(crate) async fn settling_twice_is_settled_once(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    send_all(&client, "/queue/a", &["1", "2"]).await;
    let mut reader = client.read("/queue/a").await;
    let (one, two) = (reader.expect("1").await, reader.expect("2").await);
    assert!(client.settle(&[&one], Settlement::Accept).await);
    assert!(!client.settle(&[&one, &two], Settlement::Requeue).await);
    assert!(reader.take("2").await.redelivered);
}

pub(crate) async fn a_cancelled_reader_can_still_settle(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    send_all(&client, "/queue/a", &["1", "2", "3"]).await;
    let mut reader = client.read_with("/queue/a", 2).await;
    let first = reader.expect("1").await;
    reader.expect("2").await;
    reader.subscription.cancel(false).await.unwrap();
    assert!(client.settle(&[&first], Settlement::Accept).await);
    reader.expect_nothing();
    drop(reader);
    let mut heir = client.read("/queue/a").await;
    assert!(heir.take("2").await.redelivered);
    heir.take("3").await;
}

pub(crate) async fn what_was_settled_before_the_drop_stays_settled(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    send_all(&client, "/queue/a", &["1", "2", "3"]).await;
    for cancelled in [false, true] {
        let mut reader = client.read_with("/queue/a", 1).await;
        let first = reader.next().await;
        if cancelled {
            reader.subscription.cancel(false).await.unwrap();
        }
        let settled = reader.settle(&first, Settlement::Accept); // called, and nobody waits for the confirmation yet
        drop(reader);
        settled.await;
    }
    assert!(!client.read("/queue/a").await.take("3").await.redelivered);
}

pub(crate) async fn two_readers_take_turns(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let (mut one, mut two) = (client.read("/queue/a").await, client.read("/queue/a").await);
    let bodies = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    // Both have credit for all ten, and each gets its half.
    tokio::join!(five(&mut one), five(&mut two), send_all(&client, "/queue/a", &bodies));
}

pub(crate) async fn a_dropped_reader_hands_its_call_on(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let (mut first, mut second) = (client.read("/queue/a").await, client.read("/queue/a").await);
    first.expect_nothing();
    let mut waiting = tokio::spawn(async move { second.take("1").await.redelivered });
    tokio::task::yield_now().await;
    client.send("/queue/a", "1").await;
    if let Poll::Ready(Event::Delivery(_)) = first.ask() {
        drop(first);
        assert!((&mut waiting).await.unwrap());
    } else {
        drop(first);
        waiting.await.unwrap();
    }
}

async fn five(reader: &mut Reader) {
    for _ in 0..5 {
        reader.next().await;
    }
}
