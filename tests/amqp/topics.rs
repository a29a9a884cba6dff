//! Topics that are read for many: nothing of them stays at the broker, and nothing waits for that.

use std::time::Duration;

use stompgate::broker::{LinkState, SharedSource, amqp};
use stompgate::message::{Outcome, Pattern};
use tokio::time::sleep;

use crate::backends::amqp_with;
use crate::harness::{Client, in_time};
use crate::rabbitmq::RabbitMq;

fn topic(client: &Client) -> SharedSource {
    SharedSource::Topic(Pattern::canonical(format!("{}/a", client.mark)))
}

/// Sends so many messages, whose bodies are their numbers.
async fn send(client: &Client, messages: usize) -> Vec<String> {
    let bodies: Vec<_> = (0..messages).map(|number| number.to_string()).collect();
    let mut confirmations = Vec::new();
    for body in &bodies {
        let permit = in_time(client.link.reserve()).await.unwrap();
        confirmations.push(client.link.publish(permit, client.message("/topic/a", body)));
    }
    for confirmation in confirmations {
        assert_eq!(in_time(confirmation).await, Ok(Outcome::DONE));
    }
    bodies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_messages_than_the_prefetch_arrive_in_order() {
    for shared_prefetch in [1, 2, 10] {
        let settings = amqp::Settings { shared_prefetch, ..amqp::Settings::default() };
        let broker = amqp_with(settings).await;
        let client = Client::of(&broker).await;
        let (_guard, ear) = client.share(topic(&client)).await;
        let bodies = send(&client, 500).await;
        assert_eq!(ear.until("499").await, bodies, "with a prefetch of {shared_prefetch}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_is_acknowledged_before_long_however_little_it_is() {
    let node = RabbitMq::start().await;
    let settings = amqp::Settings { uri: vec![amqp::Uri(node.uri())], ..amqp::Settings::default() };
    let broker = amqp::connect(&settings).unwrap();
    in_time(broker.state().wait_for(|state| *state == LinkState::Up)).await.unwrap();
    let client = Client::of(&broker).await;
    let (_guard, ear) = client.share(topic(&client)).await;
    send(&client, 3).await;
    ear.until("2").await;
    let acknowledged = async {
        loop {
            let left = node.control(&["-q", "--no-table-headers", "list_queues", "messages"]).await;
            let mut queues = left.lines().peekable();
            assert!(queues.peek().is_some(), "there are queues: {left:?}");
            if queues.all(|messages| messages == "0") {
                break;
            }
            sleep(Duration::from_millis(100)).await; // between two questions
        }
    };
    in_time(acknowledged).await;
}
