//! What is special to queues in front of MQTT: what is rejected, and what is held.

use std::sync::Arc;
use std::time::Duration;

use stompgate::broker::{Broker, LinkState, Transaction, mqtt};
use stompgate::message::{Destination, Outcome, Separators, Settlement, Text, Usage};

use crate::harness::{Client, in_time};
use crate::mosquitto::Mosquitto;

async fn connect(server: &Mosquitto, settings: mqtt::Settings) -> Arc<dyn Broker> {
    let settings = mqtt::Settings {
        uri: mqtt::Uri(server.uri()),
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
        let mut dead = client.open(stompgate::broker::Source::Queue("dead".into()), 10).await.unwrap();
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
