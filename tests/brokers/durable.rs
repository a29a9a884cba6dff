//! Durable subscriptions.

use std::sync::Arc;

use stompgate::broker::{Broker, BrokerError, Source};
use stompgate::message::{Destination, DurableName, Usage};

use crate::harness::{Client, Reader};

/// A client with a durable subscription's name, unless the broker refuses these by name.
async fn durable(broker: &Arc<dyn Broker>) -> Option<(Client, DurableName)> {
    let client = Client::of(broker).await;
    let name = DurableName { user: client.mark.clone().into(), client: "c".into(), name: "sub-0".into() };
    if client.link.capabilities().durable {
        return Some((client, name));
    }
    let refused = open(&client, &name, "/topic/a").await.err().unwrap();
    assert!(matches!(refused, BrokerError::Unsupported { .. }), "{refused}");
    None
}

async fn open(client: &Client, name: &DurableName, spelling: &str) -> Result<Reader, BrokerError> {
    let Destination::Topic(pattern) = client.at(spelling, Usage::Subscribe) else { panic!("{spelling} is no topic") };
    client.open(Source::Durable(name.clone(), pattern), 10).await
}

pub(crate) async fn a_durable_subscription_outlives_its_reader(broker: Arc<dyn Broker>) {
    let Some((client, name)) = durable(&broker).await else { return };
    let mut reader = open(&client, &name, "/topic/a/#").await.unwrap();
    client.send("/topic/a", "1").await;
    client.send("/topic/a", "2").await;
    reader.expect("1").await;
    drop(reader);
    client.send("/topic/a/b", "3").await;
    let mut reader = open(&client, &name, "/topic/a/#").await.unwrap();
    assert!(reader.take("1").await.redelivered);
    reader.take("2").await;
    reader.take("3").await;
    reader.subscription.cancel(true).await.unwrap();
    assert_eq!(client.publish(client.message("/topic/a", "4")).await, Ok(client.unrouted()));
}

pub(crate) async fn a_durable_subscription_has_one_reader(broker: Arc<dyn Broker>) {
    let Some((client, name)) = durable(&broker).await else { return };
    let mut reader = open(&client, &name, "/topic/a").await.unwrap();
    assert_eq!(open(&client, &name, "/topic/a").await.err(), Some(BrokerError::InUse("sub-0".to_owned())));
    assert_eq!(client.link.delete_durable(&name).await, Err(BrokerError::InUse("sub-0".to_owned())));
    let other = DurableName { user: format!("{}x", client.mark).into(), ..name.clone() };
    let mut stranger = open(&client, &other, "/topic/a").await.unwrap();
    stranger.subscription.cancel(true).await.unwrap();
    // UNSUBSCRIBE frees it, though deliveries may still be unsettled.
    client.send("/topic/a", "1").await;
    reader.expect("1").await;
    reader.subscription.cancel(false).await.unwrap();
    let mut next = open(&client, &name, "/topic/a").await.unwrap();
    drop(reader);
    next.take("1").await;
    next.subscription.cancel(true).await.unwrap();
}

pub(crate) async fn another_pattern_under_the_same_name_keeps_what_waits(broker: Arc<dyn Broker>) {
    let Some((client, name)) = durable(&broker).await else { return };
    drop(open(&client, &name, "/topic/a").await.unwrap());
    client.send("/topic/a", "1").await;
    let mut reader = open(&client, &name, "/topic/b/+").await.unwrap();
    assert_eq!(client.publish(client.message("/topic/a", "2")).await, Ok(client.unrouted()));
    client.send("/topic/b/c", "3").await;
    reader.take("1").await;
    reader.take("3").await;
    reader.subscription.cancel(true).await.unwrap();
}

pub(crate) async fn a_deleted_one_begins_anew(broker: Arc<dyn Broker>) {
    let Some((client, name)) = durable(&broker).await else { return };
    drop(open(&client, &name, "/topic/a").await.unwrap());
    client.send("/topic/a", "1").await;
    assert_eq!(client.link.delete_durable(&name).await, Ok(()));
    let mut reader = open(&client, &name, "/topic/a").await.unwrap();
    client.send("/topic/a", "2").await;
    reader.take("2").await;
    reader.subscription.cancel(true).await.unwrap();
}

pub(crate) async fn an_unknown_one_cannot_be_deleted(broker: Arc<dyn Broker>) {
    let Some((client, name)) = durable(&broker).await else { return };
    assert!(matches!(client.link.delete_durable(&name).await, Err(BrokerError::NotFound(_))));
}
