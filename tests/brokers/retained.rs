//! Retained messages.

use std::sync::Arc;

use stompgate::broker::{Broker, BrokerError};

use crate::harness::{Client, Heard};

/// A client, unless the broker refuses to retain by name.
async fn retaining(broker: &Arc<dyn Broker>) -> Option<Client> {
    let client = Client::of(broker).await;
    if client.link.capabilities().retain {
        return Some(client);
    }
    let mut message = client.message("/topic/a", "x");
    message.options.retain = true;
    assert!(matches!(client.publish(message).await, Err(BrokerError::Unsupported { .. })));
    None
}

fn replayed(reader: u64, body: &str) -> Heard {
    Heard::Replayed(reader, body.to_owned())
}

pub(crate) async fn a_late_reader_gets_the_last_value(broker: Arc<dyn Broker>) {
    let Some(client) = retaining(&broker).await else { return };
    client.retain("/topic/a/b", "old").await;
    client.retain("/topic/a/b", "new").await;
    client.retain("/topic/a/c", "other").await;
    let (guard, ear) = client.listen("/topic/a/b").await;
    guard.replay(7).await.unwrap();
    assert_eq!(ear.until_heard(&Heard::ReplayEnded(7)).await, [replayed(7, "new"), Heard::ReplayEnded(7)]);
}

pub(crate) async fn an_empty_body_forgets(broker: Arc<dyn Broker>) {
    let Some(client) = retaining(&broker).await else { return };
    let (guard, ear) = client.listen("/topic/#").await;
    client.retain("/topic/a", "x").await;
    client.retain("/topic/b", "y").await;
    client.retain("/topic/a", "").await;
    // Those who are there get it as any other message.
    assert_eq!(ear.until("").await, ["x", "y", ""]);
    guard.replay(1).await.unwrap();
    let heard = ear.until_heard(&Heard::ReplayEnded(1)).await;
    assert_eq!(heard[3..], [replayed(1, "y"), Heard::ReplayEnded(1)]);
    client.retain("/topic/b", "").await;
}

pub(crate) async fn a_replay_is_for_one_reader(broker: Arc<dyn Broker>) {
    let Some(client) = retaining(&broker).await else { return };
    let (guard, ear) = client.listen("/topic/+").await;
    client.retain("/topic/a", "x").await;
    for reader in [1, 2] {
        guard.replay(reader).await.unwrap();
        ear.until_heard(&Heard::ReplayEnded(reader)).await;
    }
    let replays = [1, 2].map(|reader| [replayed(reader, "x"), Heard::ReplayEnded(reader)]).concat();
    assert_eq!(ear.heard(), [vec![Heard::Message("x".to_owned())], replays].concat());
    client.retain("/topic/a", "").await;
}

pub(crate) async fn a_dedicated_reader_gets_it_in_its_queue(broker: Arc<dyn Broker>) {
    let Some(client) = retaining(&broker).await else { return };
    client.retain("/topic/a", "x").await;
    let mut reader = client.read("/topic/+").await;
    client.send("/topic/a", "live").await;
    reader.take("x").await;
    reader.take("live").await;
    client.retain("/topic/a", "").await;
}

/// However a replay falls between two changes, no old value comes after a new one and the last one comes.
pub(crate) async fn a_reader_gets_each_value_once_while_it_changes(broker: Arc<dyn Broker>) {
    let Some(client) = retaining(&broker).await else { return };
    let writer = client.clone();
    let writing = tokio::spawn(async move {
        for number in 0..300 {
            writer.retain("/topic/a", &number.to_string()).await;
        }
    });
    for _ in 0..30 {
        let (guard, ear) = client.listen("/topic/a").await;
        guard.replay(1).await.unwrap();
        let values = ear.heard().into_iter().filter_map(|heard| match heard {
            Heard::Message(body) | Heard::Replayed(_, body) => Some(body.parse::<u32>().unwrap()),
            Heard::ReplayEnded(_) => None,
            other => panic!("a message was expected, not {other:?}"),
        });
        assert!(values.is_sorted(), "an old value came after a new one");
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
    let mut reader = client.read("/topic/a").await;
    reader.take("299").await;
    client.retain("/topic/a", "").await;
}
