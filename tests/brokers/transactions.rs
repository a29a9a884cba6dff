//! COMMIT: messages, then settlements.

use std::sync::Arc;

use stompgate::broker::{Broker, BrokerError, Transaction};
use stompgate::message::{Destination, Message, Outcome, Settlement};

use crate::harness::{Client, in_time};

async fn commit(client: &Client, transaction: Transaction) -> Result<Outcome, BrokerError> {
    in_time(in_time(client.link.commit(transaction)).await?).await
}

fn to_queues(client: &Client) -> Vec<Message> {
    vec![client.message("/queue/b", "1"), client.message("/queue/c", "2"), client.message("/queue/b", "3")]
}

pub(crate) async fn a_commit_publishes_and_settles(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let (_guard, ear) = client.listen("/topic/t").await;
    client.send("/queue/a", "job").await;
    let mut jobs = client.read("/queue/a").await;
    let job = jobs.expect("job").await;
    let mut messages = to_queues(&client);
    messages.push(client.message("/topic/t", "done"));
    for message in &messages {
        client.prime(&message.destination).await;
    }
    let settlements = vec![(vec![job.id.unwrap()], Settlement::Accept)];
    assert_eq!(commit(&client, Transaction { messages, settlements }).await, Ok(Outcome::DONE));
    ear.until("done").await;
    let (mut b, mut c) = (client.read("/queue/b").await, client.read("/queue/c").await);
    b.take("1").await;
    b.take("3").await;
    c.take("2").await;
    drop(jobs);
    client.send("/queue/a", "next").await;
    client.read("/queue/a").await.take("next").await;
}

pub(crate) async fn a_lost_delivery_publishes_nothing(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    client.send("/queue/a", "job").await;
    let mut jobs = client.read("/queue/a").await;
    let job = jobs.take("job").await;
    let settlements = vec![(vec![job.id.unwrap()], Settlement::Accept)];
    let transaction = Transaction { messages: to_queues(&client), settlements };
    assert_eq!(commit(&client, transaction).await, Err(BrokerError::DeliveryLost));
    nothing_was_published(&client).await;
}

pub(crate) async fn a_bad_message_publishes_nothing(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    if !client.link.capabilities().atomic_transactions {
        return;
    }
    client.send("/queue/a", "job").await;
    let mut jobs = client.read("/queue/a").await;
    let job = jobs.expect("job").await;
    let mut messages = to_queues(&client);
    let mut bad = client.message("/queue/b", "bad");
    bad.destination = Destination::TemporaryQueue("x".into());
    messages.push(bad);
    let settlements = vec![(vec![job.id.unwrap()], Settlement::Accept)];
    let refused = commit(&client, Transaction { messages, settlements }).await;
    assert!(matches!(refused, Err(BrokerError::Unsupported { .. })), "{refused:?}");
    nothing_was_published(&client).await;
    jobs.settle(&job, Settlement::Accept).await;
}

async fn nothing_was_published(client: &Client) {
    for place in ["/queue/b", "/queue/c"] {
        client.send(place, "end").await;
        client.read(place).await.take("end").await;
    }
}
