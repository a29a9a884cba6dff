//! The broker goes away and comes back, or was never what it was taken for.

use std::sync::Arc;
use std::time::Duration;

use stompgate::broker::{Broker, LinkState, mqtt};
use stompgate::message::Outcome;
use tokio::time::{sleep, timeout};

use crate::harness::{Client, Heard, in_time};
use crate::mosquitto::Mosquitto;

const PATIENCE: Duration = Duration::from_mins(1);

fn connect(server: &Mosquitto, version: mqtt::Version) -> Arc<dyn Broker> {
    let settings = mqtt::Settings {
        uri: mqtt::Uri(server.uri()),
        version,
        qos: 1,
        reconnect_max: Duration::from_millis(200),
        ..mqtt::Settings::default()
    };
    mqtt::connect(&settings).unwrap()
}

async fn until(broker: &Arc<dyn Broker>, wanted: LinkState) {
    timeout(PATIENCE, broker.state().wait_for(|state| *state == wanted)).await.unwrap().unwrap();
}

async fn what_was_there_is_there_again(version: mqtt::Version) {
    let mut server = Mosquitto::start("").await;
    server.kill();
    // The gateway starts although nobody answers.
    let broker = connect(&server, version);
    assert_eq!(*broker.state().borrow(), LinkState::Recovering);
    let client = Client::of(&broker).await;
    let early = {
        let link = Arc::clone(&client.link);
        let message = client.message("/topic/early", "early");
        tokio::spawn(async move { link.publish(link.reserve().await.unwrap(), message).await })
    };
    server.run().await;
    until(&broker, LinkState::Up).await;
    assert_eq!(timeout(PATIENCE, early).await.unwrap().unwrap(), Ok(client.unrouted()));
    let (_guard, ear) = client.listen("/topic/news/#").await;
    client.send("/topic/news/a", "before").await;
    ear.until("before").await;

    server.kill();
    until(&broker, LinkState::Recovering).await;
    let waiting =
        client.link.publish(client.link.reserve().await.unwrap(), client.message("/topic/news/a", "meanwhile"));
    let mut joining = Box::pin(client.listen("/topic/other"));
    assert!(timeout(Duration::from_millis(50), &mut joining).await.is_err());
    server.run().await;
    timeout(PATIENCE, waiting).await.unwrap().unwrap();
    until(&broker, LinkState::Up).await;
    let (_other, other) = joining.await;
    in_time(ear.until_heard(&Heard::Restored)).await;
    client.send("/topic/news/a", "after").await;
    ear.until_heard(&Heard::Message("after".to_owned())).await;
    client.send("/topic/other", "other").await;
    other.until("other").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_before_the_outage_is_there_after_it_5() {
    what_was_there_is_there_again(mqtt::Version::V5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_before_the_outage_is_there_after_it_311() {
    what_was_there_is_there_again(mqtt::Version::V311).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirmed_topic_messages_are_confirmed_once_though_the_broker_is_killed() {
    const KILLS: usize = 5;
    let mut server = Mosquitto::start("").await;
    let broker = connect(&server, mqtt::Version::V5);
    until(&broker, LinkState::Up).await;
    let client = Client::of(&broker).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let publisher = client.clone();
    let publishing = tokio::spawn(async move {
        let mut answers = Vec::new();
        while !*stopped.borrow() {
            let permit = publisher.link.reserve().await.unwrap();
            answers.push(publisher.link.publish(permit, publisher.message("/topic/a", "x")));
            sleep(Duration::from_millis(1)).await;
        }
        answers
    });
    for _ in 0..KILLS {
        until(&broker, LinkState::Up).await;
        sleep(Duration::from_millis(100)).await;
        server.kill();
        until(&broker, LinkState::Recovering).await;
        server.run().await;
    }
    until(&broker, LinkState::Up).await;
    stop.send(true).unwrap();
    let answers = publishing.await.unwrap();
    assert!(answers.len() > 100, "too few to mean anything");
    for answer in answers {
        assert_eq!(timeout(PATIENCE, answer).await.unwrap(), Ok(Outcome::UNROUTED));
    }
}
