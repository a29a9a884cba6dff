//! What is special to queues in front of MQTT: what is rejected, and what is held.

use std::sync::Arc;
use std::time::Duration;

use stompgate::broker::{Broker, BrokerError, Event, LinkState, Source, Transaction, mqtt};
use stompgate::message::{Destination, Outcome, Separators, Settlement, Text, Usage};

use crate::harness::{Client, Reader, in_time, text};
use crate::mosquitto::Mosquitto;
use crate::proxy::{Cut, Proxy};

async fn connect(server: &Mosquitto, settings: mqtt::Settings) -> Arc<dyn Broker> {
    connect_to(mqtt::Settings { uri: mqtt::Uri(server.uri()), ..settings }).await
}

async fn connect_to(settings: mqtt::Settings) -> Arc<dyn Broker> {
    let settings = mqtt::Settings {
        qos: 1,
        reconnect_max: Duration::from_millis(200),
        shared_subscriptions: true,
        envelope: settings.version == mqtt::Version::V311,
        ..settings
    };
    let broker = mqtt::connect(&settings).unwrap();
    in_time(broker.state().wait_for(|state| *state == LinkState::Up)).await.unwrap();
    broker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_rejected_goes_to_the_dead_letters_once() {
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let server = Mosquitto::start("").await;
        let dead_letter = Some("/queue/dead".to_owned());
        let broker = connect(&server, mqtt::Settings { version, dead_letter, ..mqtt::Settings::default() }).await;
        let client = Client::of(&broker).await;
        let mut dead = client.open(Source::Queue("dead".into()), 10).await.unwrap();
        let mut reader = client.read_with("/queue/a", 1).await;
        let Destination::Queue(queue) = client.at("/queue/a", Usage::Send) else { panic!("a queue") };
        for body in ["1", "2", "3"] {
            client.send("/queue/a", body).await;
        }
        let one = reader.expect("1").await;
        reader.settle(&one, Settlement::Reject).await;
        let letter = dead.take("1").await;
        let header = |name: &str| letter.message.headers.get(name).cloned();
        assert_eq!(header("x-first-death-reason"), Some(Text::from("rejected")));
        assert_eq!(header("x-first-death-queue"), Some(queue));
        // In a transaction, too.
        let two = reader.expect("2").await;
        let settlements = vec![(two.id.into_iter().collect(), Settlement::Reject)];
        let commit = client.link.commit(Transaction { messages: Vec::new(), settlements });
        assert_eq!(in_time(in_time(commit).await.unwrap()).await, Ok(Outcome::DONE));
        let two = dead.expect("2").await;
        // What dies there is gone.
        dead.settle(&two, Settlement::Reject).await;
        reader.take("3").await;
        let mut last = client.message("/queue/a", "last");
        last.destination = Destination::parse("/queue/dead", Usage::Send, Separators::Both).unwrap();
        client.publish(last).await.unwrap();
        dead.take("last").await;
    }
}

/// It is here before its time is over, where the reader is full: the broker cannot know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_while_its_reader_is_busy_is_not_delivered() {
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let server = Mosquitto::start("").await;
        let linger = Duration::from_mins(1);
        let broker = connect(&server, mqtt::Settings { version, linger, ..mqtt::Settings::default() }).await;
        let client = Client::of(&broker).await;
        // The reader takes over a place at the broker that is larger than its prefetch.
        drop(client.read_with("/queue/a", 10).await);
        let mut reader = client.read_with("/queue/a", 1).await;
        client.send("/queue/a", "1").await;
        let one = reader.expect("1").await;
        let mut brief = client.message("/queue/a", "2");
        brief.headers.set("expiration", "1000");
        brief.options.expiration = Some(Duration::from_secs(1));
        assert_eq!(client.publish(brief).await, Ok(Outcome::DONE));
        client.send("/queue/a", "3").await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        reader.settle(&one, Settlement::Accept).await;
        reader.take("3").await;
        reader.expect_nothing();
    }
}

fn holding(version: mqtt::Version) -> mqtt::Settings {
    mqtt::Settings {
        version,
        hold_queues: vec!["orders".to_owned()],
        linger: Duration::ZERO,
        ..mqtt::Settings::default()
    }
}

fn plain(version: mqtt::Version) -> mqtt::Settings {
    mqtt::Settings { version, ..mqtt::Settings::default() }
}

async fn send(client: &Client, body: &str) {
    let mut message = client.message("/topic/x", body);
    message.destination = Destination::Queue("orders".into());
    message.options.persistent = true;
    let permit = in_time(client.link.reserve()).await.unwrap();
    assert_eq!(in_time(client.link.publish(permit, message)).await, Ok(Outcome::DONE));
}

async fn read(client: &Client) -> Reader {
    client.open(Source::Queue("orders".into()), 10).await.unwrap()
}

/// Until the broker has the subscription of whoever holds. There is no sign of it but that somebody is there.
async fn held(client: &Client) {
    in_time(async {
        loop {
            let mut message = client.message("/topic/x", "probe");
            message.destination = Destination::Queue("orders".into());
            let permit = client.link.reserve().await.unwrap();
            if client.link.publish(permit, message).await.unwrap().routed {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_queue_waits_for_its_first_reader() {
    let server = Mosquitto::start("").await;
    let broker = connect(&server, holding(mqtt::Version::V5)).await;
    let client = Client::of(&broker).await;
    held(&client).await;
    for body in ["1", "2", "3"] {
        send(&client, body).await;
    }
    let mut reader = read(&client).await;
    reader.take("probe").await;
    reader.take("1").await;
    reader.expect("2").await;
    drop(reader);
    // Nobody is there again, for longer than any linger.
    send(&client, "4").await;
    let mut reader = read(&client).await;
    assert!(reader.take("2").await.redelivered);
    reader.take("3").await;
    reader.take("4").await;
}

/// As `kill -9` does to a gateway: its sockets are closed, and nothing more is said on them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_queue_outlives_its_gateway() {
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let server = Arc::new(Mosquitto::start("").await);
        let doomed = Arc::clone(&server);
        let killed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let broker = connect(&doomed, holding(version)).await;
                let client = Client::of(&broker).await;
                let mut reader = read(&client).await;
                for body in ["1", "2"] {
                    send(&client, body).await;
                    reader.expect(body).await;
                }
                std::mem::forget((reader, broker));
            });
            runtime.shutdown_background();
        });
        tokio::task::spawn_blocking(|| killed.join().unwrap()).await.unwrap();
        // Nobody holds it but the broker.
        let other = connect(&server, mqtt::Settings { version, ..mqtt::Settings::default() }).await;
        let client = Client::of(&other).await;
        send(&client, "3").await;
        let broker = connect(&server, holding(version)).await;
        let mut reader = read(&Client::of(&broker).await).await;
        for body in ["1", "2", "3"] {
            let delivery = reader.take(body).await;
            assert_eq!(delivery.redelivered, body != "3", "{body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_reader_of_a_held_queue_gets_its_share() {
    let server = Mosquitto::start("").await;
    let broker = connect(&server, holding(mqtt::Version::V5)).await;
    let client = Client::of(&broker).await;
    let (first, mut second) = (read(&client).await, read(&client).await);
    drop(first);
    for number in 0..20 {
        let body = number.to_string();
        send(&client, &body).await;
        second.take(&body).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_another_gateway_holds_now_can_be_read_on() {
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let server = Mosquitto::start("").await;
        let first = connect(&server, holding(version)).await;
        let client = Client::of(&first).await;
        let mut reader = read(&client).await;
        send(&client, "before").await;
        reader.take("before").await;
        let second = connect(&server, holding(version)).await;
        let told = reader.event().await;
        assert!(matches!(&told, Event::Ended(BrokerError::Rejected(why)) if why.contains("hold_queues")), "{told:?}");
        drop(reader);
        // Beside the one that holds it now.
        let (mut here, mut there) = (read(&client).await, read(&Client::of(&second).await).await);
        let mut bodies: Vec<_> = (0..20).map(|number: u32| number.to_string()).collect();
        for body in &bodies {
            send(&client, body).await;
        }
        let mut share = 0;
        while !bodies.is_empty() {
            let (delivery, is_here) = tokio::select! {
                delivery = here.next() => (delivery, true),
                delivery = there.next() => (delivery, false),
            };
            share += usize::from(is_here);
            let reader = if is_here { &here } else { &there };
            reader.settle(&delivery, Settlement::Accept).await;
            bodies.retain(|body| *body != text(&delivery.message));
        }
        assert!((1..20).contains(&share), "{share}");
    }
}

/// What is settled before and after its connection is cut is settled, and nothing else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_queue_is_settled_across_a_cut() {
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let server = Mosquitto::start("").await;
        let proxy = Proxy::before(server.port());
        let through =
            |settings| mqtt::Settings { uri: mqtt::Uri(format!("mqtt://127.0.0.1:{}", proxy.port())), ..settings };
        let (broker, direct) = (connect_to(through(holding(version))).await, connect(&server, plain(version)).await);
        let (client, sender) = (Client::of(&broker).await, Client::of(&direct).await);
        let mut reader = read(&client).await;
        let mut taken = Vec::new();
        for body in ["1", "2", "3", "4"] {
            send(&sender, body).await;
            taken.push(reader.expect(body).await);
        }
        // In a black hole: the broker does not hear of it.
        proxy.black_hole();
        assert!(client.settle(&[&taken[1]], Settlement::Accept).await);
        assert!(client.settle(&[&taken[0]], Settlement::Accept).await);
        proxy.cut(Cut::Reset);
        proxy.pass();
        send(&sender, "5").await;
        let five = reader.next_after_break().await;
        assert_eq!((text(&five.message).as_str(), five.gap), ("5", false));
        // The one had come by the connection before.
        assert!(client.settle(&[&taken[3], &five], Settlement::Accept).await);
        drop(reader);
        in_time(broker.close()).await; // what it has to say is said
        // Whoever holds it next has what was not settled, and what the one before could not say.
        let broker = connect(&server, holding(version)).await;
        let mut reader = read(&Client::of(&broker).await).await;
        assert!(reader.expect("3").await.redelivered);
        send(&sender, "6").await;
        let mut bodies = Vec::new();
        while bodies.last().is_none_or(|last| last != "6") {
            bodies.push(text(&reader.next_after_break().await.message));
        }
        bodies.retain(|body| !["4", "5"].contains(&body.as_str())); // they stood behind 3
        assert_eq!(bodies, ["6"]);
    }
}

/// By 3.1.1 the broker does not know what is too large for us. It is gone when the broker has lost the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_could_not_be_held_for_what_was_in_it_is_held_again() {
    let mut server = Mosquitto::start("persistence false").await;
    let small = mqtt::Settings { max_packet: 1_000, ..holding(mqtt::Version::V311) };
    let (broker, direct) = (connect(&server, small).await, connect(&server, plain(mqtt::Version::V5)).await);
    let (client, sender) = (Client::of(&broker).await, Client::of(&direct).await);
    let mut reader = read(&client).await;
    send(&sender, &"x".repeat(2_000)).await;
    let told = loop {
        match reader.event().await {
            Event::Restored => {}
            other => break other,
        }
    };
    assert!(matches!(&told, Event::Ended(BrokerError::Poison(what)) if what == "the queue orders"), "{told:?}");
    drop(reader);
    // Meanwhile it can be read, beside the place that is held: of two messages, one goes here.
    let mut reader = read(&client).await;
    in_time(async {
        loop {
            send(&sender, "beside").await;
            tokio::select! {
                delivery = reader.next() => break reader.settle(&delivery, Settlement::Accept).await,
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
    })
    .await;
    drop(reader);
    server.kill();
    server.run().await;
    held(&sender).await;
    send(&sender, "kept").await;
    let mut reader = read(&client).await;
    while text(&reader.next().await.message) != "kept" {}
}

/// The broker has more for it than it may have on its way, and waits for the first acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_has_for_a_reader_that_leaves_goes_to_the_others() {
    const MESSAGES: usize = 100;
    let server = Mosquitto::start("").await;
    let broker = connect(&server, mqtt::Settings::default()).await;
    let client = Client::of(&broker).await;
    let (mut leaver, mut heir) = (client.read_with("/queue/a", 3).await, client.read_with("/queue/a", 3).await);
    for number in 0..MESSAGES {
        client.send("/queue/a", &number.to_string()).await;
    }
    let kept = leaver.next().await;
    in_time(leaver.subscription.cancel(false)).await.unwrap();
    let mut bodies = std::collections::HashSet::from([text(&kept.message)]);
    while bodies.len() < MESSAGES {
        let delivery = heir.next().await;
        heir.settle(&delivery, Settlement::Accept).await;
        bodies.insert(text(&delivery.message));
    }
    leaver.settle(&kept, Settlement::Accept).await;
}
