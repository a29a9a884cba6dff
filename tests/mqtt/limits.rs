//! Where something is too large, too many, or has nowhere to go.

use std::sync::Arc;
use std::time::Duration;

use stompgate::broker::{Broker, BrokerError, Event, LinkState, SharedSource, Source, Transaction, mqtt};
use stompgate::message::{Destination, DurableName, Outcome, Settlement, Usage};
use stompgate::metrics::Figures;

use crate::harness::{Client, Ear, Heard, in_time};
use crate::mosquitto::Mosquitto;

async fn connect(server: &Mosquitto, settings: mqtt::Settings) -> Arc<dyn Broker> {
    let reconnect_max = Duration::from_millis(200);
    let settings = mqtt::Settings { uri: mqtt::Uri(server.uri()), qos: 1, reconnect_max, ..settings };
    let broker = mqtt::connect(&settings).unwrap();
    in_time(broker.state().wait_for(|state| *state == LinkState::Up)).await.unwrap();
    broker
}

/// What the broker tells of itself under this name.
fn figure(broker: &Arc<dyn Broker>, name: &str) -> String {
    let mut figures = Figures::default();
    broker.report(&mut figures);
    let text = format!("{figures:?}").replace("\\n", "\n");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
    line.trim().to_owned()
}

fn topic(client: &Client, spelling: &str) -> SharedSource {
    let Destination::Topic(pattern) = client.at(spelling, Usage::Subscribe) else { panic!("a topic") };
    SharedSource::Topic(pattern)
}

/// By 3.1.1 nobody says which filter a message is for, so those that overlap have connections of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_overlapping_filters_needed_goes_with_them() {
    let server = Mosquitto::start("").await;
    let (version, linger) = (mqtt::Version::V311, Duration::from_millis(50));
    let broker = connect(&server, mqtt::Settings { version, linger, ..mqtt::Settings::default() }).await;
    let client = Client::of(&broker).await;
    let connections = |wanted: &'static str| {
        let broker = Arc::clone(&broker);
        in_time(async move {
            while figure(&broker, "stompgate_mqtt_connections ") != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    };
    let (kept, ear) = client.listen("/topic/a/#").await;
    for body in ["1", "2"] {
        connections("2").await;
        let (second, other) = client.listen("/topic/a/+").await;
        connections("3").await;
        client.send("/topic/a/b", body).await;
        other.until_heard(&Heard::Message(body.to_owned())).await;
        ear.until_heard(&Heard::Message(body.to_owned())).await;
        drop(second);
    }
    connections("2").await;
    client.send("/topic/a/b", "3").await;
    ear.until_heard(&Heard::Message("3".to_owned())).await;
    drop(kept);
}

/// The broker does not know what is too large for us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_value_that_is_too_large_costs_its_own_topic_and_no_other() {
    let server = Mosquitto::start("").await;
    let small = mqtt::Settings { version: mqtt::Version::V311, max_packet: 1_000, ..mqtt::Settings::default() };
    let broker = connect(&server, small).await;
    let direct = connect(&server, mqtt::Settings::default()).await;
    let client = Client::of(&broker).await;
    let mut publisher = client.clone();
    publisher.link = Client::of(&direct).await.link;
    let (_innocent, ear) = client.listen("/topic/innocent").await;
    let (_later, later) = client.listen("/topic/later").await;
    publisher.retain("/topic/large", &"x".repeat(2_000)).await;
    let offended = client.link.share(topic(&client, "/topic/large"), Arc::new(Ear::default()));
    let told = in_time(offended).await.err();
    assert!(matches!(&told, Some(BrokerError::Rejected(why)) if why.contains("broker.mqtt.max_packet")), "{told:?}");
    // And one that somebody reads already.
    publisher.retain("/topic/later", &"x".repeat(2_000)).await;
    let ended = async {
        while !later.heard().iter().any(|heard| matches!(heard, Heard::Ended(BrokerError::Rejected(_)))) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    in_time(ended).await;
    // With a connection of its own, too.
    let Destination::Topic(pattern) = client.at("/topic/large", Usage::Subscribe) else { panic!("a topic") };
    let alone = client.open(Source::Topic(pattern), 10).await;
    let told = match alone {
        Err(why) => why,
        Ok(mut reader) => loop {
            match reader.event().await {
                Event::Restored => {}
                Event::Ended(why) => break why,
                other => panic!("{other:?}"),
            }
        },
    };
    assert!(matches!(told, BrokerError::Poison(_) | BrokerError::Rejected(_)), "{told:?}");
    // Everybody else is there again.
    in_time(async {
        while publisher.publish(publisher.message("/topic/innocent", "probe")).await != Ok(Outcome::DONE) {}
    })
    .await;
    ear.until_heard(&Heard::Message("probe".to_owned())).await;
    assert!(!ear.heard().iter().any(|heard| matches!(heard, Heard::Ended(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_that_nobody_is_there_for_is_counted_as_lost() {
    let server = Mosquitto::start("").await;
    let dead_letter = Some("/queue/dead".to_owned());
    let broker = connect(&server, mqtt::Settings { dead_letter, ..mqtt::Settings::default() }).await;
    let client = Client::of(&broker).await;
    let mut reader = client.read("/queue/a").await;
    let counts = |broker| {
        ["stompgate_mqtt_dead_letters_lost_total ", "stompgate_mqtt_dead_lettered_total "]
            .map(|name| figure(broker, name))
    };
    for (lost, sent) in [("1", "0"), ("1", "1")] {
        client.send("/queue/a", "given up").await;
        let delivery = reader.expect("given up").await;
        reader.settle(&delivery, Settlement::Reject).await;
        assert_eq!(counts(&broker), [lost, sent]);
        // From now on somebody is there.
        drop(client.open(Source::Queue("dead".into()), 10).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_a_transaction_loses_are_counted_once() {
    let server = Mosquitto::start("").await;
    let broker = connect(&server, mqtt::Settings { version: mqtt::Version::V311, ..mqtt::Settings::default() }).await;
    let client = Client::of(&broker).await;
    let mut message = client.message("/topic/a", "x");
    message.headers.set("a", "1");
    message.headers.set("b", "2");
    let commit = client.link.commit(Transaction { messages: vec![message], settlements: Vec::new() });
    in_time(in_time(commit).await.unwrap()).await.unwrap();
    assert_eq!(figure(&broker, "stompgate_mqtt_headers_dropped_total "), "2");
}

async fn durable(client: &Client, name: &str, spelling: &str) -> Result<crate::harness::Reader, BrokerError> {
    let name = DurableName { user: "ada".into(), client: "laptop".into(), name: name.into() };
    let Destination::Topic(pattern) = client.at(spelling, Usage::Subscribe) else { panic!("a topic") };
    client.open(Source::Durable(name, pattern), 10).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_durable_subscriptions_are_open_than_the_setting_allows() {
    let server = Mosquitto::start("").await;
    let broker = connect(&server, mqtt::Settings { max_durable: 2, ..mqtt::Settings::default() }).await;
    let client = Client::of(&broker).await;
    let first = durable(&client, "first", "/topic/a").await.unwrap();
    let _second = durable(&client, "second", "/topic/a").await.unwrap();
    let told = durable(&client, "third", "/topic/a").await.err();
    let setting = "broker.mqtt.max_durable";
    assert!(
        matches!(&told, Some(BrokerError::LimitExceeded { limit: 2, setting: s, .. }) if *s == setting),
        "{told:?}"
    );
    // One that is not read counts no more.
    drop(first);
    let _third = durable(&client, "third", "/topic/a").await.unwrap();
    assert!(durable(&client, "first", "/topic/a").await.is_err());
}

/// Nobody can ask a broker what a session has subscribed to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_subscription_that_another_gateway_moves_goes_on_with_both_until_it_is_deleted() {
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let server = Mosquitto::start("").await;
        let settings = mqtt::Settings { version, ..mqtt::Settings::default() };
        let before = connect(&server, settings.clone()).await;
        let mut client = Client::of(&before).await;
        let mut reader = durable(&client, "news", "/topic/old").await.unwrap();
        client.send("/topic/old", "1").await;
        reader.take("1").await;
        drop(reader);
        before.close().await;
        let broker = connect(&server, settings).await;
        client.link = Client::of(&broker).await.link;
        let mut reader = durable(&client, "news", "/topic/new").await.unwrap();
        for (spelling, body) in [("/topic/old", "2"), ("/topic/new", "3")] {
            client.send(spelling, body).await;
            reader.take(body).await;
        }
        in_time(reader.subscription.cancel(true)).await.unwrap();
        drop(reader);
        let mut reader = durable(&client, "news", "/topic/new").await.unwrap();
        client.publish(client.message("/topic/old", "4")).await.unwrap();
        client.send("/topic/new", "5").await;
        reader.take("5").await;
        // Where it was opened before, it is moved.
        drop(reader);
        let mut reader = durable(&client, "news", "/topic/old").await.unwrap();
        client.publish(client.message("/topic/new", "6")).await.unwrap();
        client.send("/topic/old", "7").await;
        reader.take("7").await;
    }
}
