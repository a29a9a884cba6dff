//! Request and reply.

use std::sync::Arc;

use stompgate::broker::{Broker, Source};
use stompgate::message::{Destination, Outcome, Text};

use crate::harness::{Client, Reader};

async fn asker(client: &Client) -> (Reader, Text) {
    let reader = client.open(Source::Reply, 10).await.unwrap();
    let address = reader.subscription.reply_address().unwrap().clone();
    (reader, address)
}

async fn answer(client: &Client, address: &Text, body: &str) -> Outcome {
    let mut message = client.message("/topic/unused", body);
    message.destination = Destination::ReplyQueue(address.clone());
    client.publish(message).await.unwrap()
}

pub(crate) async fn an_answer_finds_the_one_who_asked(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let ((mut one, first), (mut two, second)) = (asker(&client).await, asker(&client).await);
    assert_eq!(answer(&client, &second, "for two").await, Outcome::DONE);
    assert_eq!(answer(&client, &first, "for one").await, Outcome::DONE);
    assert_eq!(answer(&client, &first, "more").await, Outcome::DONE);
    two.expect("for two").await;
    one.expect("for one").await;
    one.expect("more").await;
}

pub(crate) async fn a_reply_address_goes_with_its_owner(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let (mut reader, address) = asker(&client).await;
    reader.subscription.cancel(false).await.unwrap();
    drop(reader);
    assert_eq!(answer(&client, &address, "late").await, client.unrouted());
}

pub(crate) async fn reply_addresses_cannot_be_guessed(broker: Arc<dyn Broker>) {
    let client = Client::of(&broker).await;
    let ((_one, first), (_two, second)) = (asker(&client).await, asker(&client).await);
    assert_ne!(first, second);
    assert!(first.len() >= 22, "128 bits are no fewer characters: {first}");
}
