//! Crowds: many publishers, many readers, and readers that come and go.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use stompgate::broker::{Broker, Event};
use stompgate::message::{Delivery, Settlement, Usage};
use tokio::sync::watch;

use crate::harness::{Client, Heard, in_time, text};

const PUBLISHERS: usize = 4;
const READERS: usize = 6;
const EACH: usize = 500;

/// What the readers have settled, and how many that is.
struct Score {
    settled: Mutex<HashSet<String>>,
    count: watch::Sender<usize>,
}

/// Chance that is the same in every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

impl Score {
    fn add(&self, body: String) {
        assert!(self.settled.lock().unwrap().insert(body), "settled twice");
        self.count.send_modify(|count| *count += 1);
    }
}

pub(crate) async fn every_message_is_settled_by_exactly_one_reader(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    client.prime(&client.at("/queue/crowd", Usage::Send)).await;
    let score = Arc::new(Score { settled: Mutex::default(), count: watch::Sender::new(0) });
    let mut tasks = Vec::new();
    for seed in 0..READERS {
        tasks.push(tokio::spawn(read_restlessly(client.clone(), Arc::clone(&score), Dice(seed as u64))));
    }
    for publisher in 0..PUBLISHERS {
        tasks.push(tokio::spawn(publish(client.clone(), "/queue/crowd", publisher)));
    }
    for task in tasks {
        in_time(task).await.unwrap();
    }
    assert_eq!(score.settled.lock().unwrap().len(), PUBLISHERS * EACH);
}

/// Accepts, requeues or drops its subscription with everything in it, until all is settled.
async fn read_restlessly(client: Client, score: Arc<Score>, mut dice: Dice) {
    let mut count = score.count.subscribe();
    loop {
        let prefetch = 1 + u16::try_from(dice.throw(20)).unwrap();
        let mut reader = client.read_with("/queue/crowd", prefetch).await;
        while dice.throw(40) > 0 {
            let first = tokio::select! {
                delivery = reader.next() => delivery,
                _ = count.wait_for(|count| *count == PUBLISHERS * EACH) => return,
            };
            let mut held = vec![first];
            // Never waits with something in hand, or all readers could wait for each other.
            while dice.throw(3) > 0
                && let Poll::Ready(Event::Delivery(delivery)) = reader.ask()
            {
                held.push(delivery);
            }
            if dice.throw(20) == 0 {
                break;
            }
            for delivery in &held {
                settle(&client, &score, delivery, &mut dice).await;
            }
        }
    }
}

async fn settle(client: &Client, score: &Score, delivery: &Delivery, dice: &mut Dice) {
    if dice.throw(5) == 0 {
        assert!(client.settle(&[delivery], Settlement::Requeue).await);
    } else {
        assert!(client.settle(&[delivery], Settlement::Accept).await);
        score.add(text(&delivery.message));
    }
}

async fn publish(client: Client, place: &'static str, publisher: usize) {
    for number in 0..EACH {
        client.publish(client.message(place, &format!("{publisher}:{number}"))).await.unwrap();
    }
}

/// The queue is made and removed all the time, and never with a message in it.
pub(crate) async fn a_queue_that_comes_and_goes_loses_nothing(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    client.prime(&client.at("/queue/a", Usage::Send)).await;
    let publishing = tokio::spawn(publish(client.clone(), "/queue/a", 0));
    for number in 0..EACH {
        let mut reader = client.read_with("/queue/a", 1).await;
        reader.take(&format!("0:{number}")).await;
    }
    in_time(publishing).await.unwrap();
}

pub(crate) async fn publishers_keep_their_order_in_a_crowd(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let (_guard, ear) = client.listen("/topic/+").await;
    let mut reader = client.read("/queue/a").await;
    let mut tasks = Vec::new();
    for publisher in 0..PUBLISHERS {
        tasks.push(tokio::spawn(publish(client.clone(), "/topic/a", publisher)));
        tasks.push(tokio::spawn(publish(client.clone(), "/queue/a", publisher)));
    }
    let mut queued = Vec::new();
    for _ in 0..PUBLISHERS * EACH {
        let delivery = reader.next().await;
        reader.settle(&delivery, Settlement::Accept).await;
        queued.push(text(&delivery.message));
    }
    for task in tasks {
        in_time(task).await.unwrap();
    }
    client.send("/topic/a", "end").await;
    ear.until("end").await;
    let heard = ear.heard();
    for publisher in 0..PUBLISHERS {
        let expected: Vec<_> = (0..EACH).map(|number| format!("{publisher}:{number}")).collect();
        let own = |body: &&String| body.starts_with(&format!("{publisher}:"));
        assert!(queued.iter().filter(own).eq(&expected));
        let heard = heard.iter().filter_map(|heard| match heard {
            Heard::Message(body) => Some(body),
            _ => None,
        });
        assert!(heard.filter(own).eq(&expected));
    }
}
