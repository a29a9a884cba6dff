//! What the broker says of each message reaches its own sender, and nobody else.

use stompgate::broker::BrokerError;
use stompgate::broker::amqp::Settings;
use stompgate::message::{Destination, Message, Outcome};

use crate::amqp_wire::both;
use crate::harness::{Client, Heard, in_time};

fn to_reply_queue(client: &Client, name: &str) -> Message {
    let destination = Destination::ReplyQueue(name.to_owned().into());
    Message { destination, ..client.message("/queue/unused", "answer") }
}

/// RabbitMQ confirms many with one frame, whether or not it has returned some of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_is_said_to_be_routed_or_not_as_it_was() {
    let (client, _connection, _channel) = both(Settings { publish_channels: 1, ..Settings::default() }).await;
    let mut reader = client.read_with("/queue/a", 1_000).await;
    let (_guard, ear) = client.listen("/topic/heard").await;
    let mut expected = Vec::new();
    for round in 0..200 {
        for (destination, is_there) in
            [("/topic/nobody", false), ("/queue/a", true), ("/topic/nobody/else", false), ("/topic/heard", true)]
        {
            let message = client.message(destination, &round.to_string());
            let permit = client.link.reserve().await.unwrap();
            expected.push((client.link.publish(permit, message), is_there, destination, round));
        }
    }
    for (confirmation, is_there, destination, round) in expected {
        let outcome = if is_there { Outcome::DONE } else { Outcome::UNROUTED };
        assert_eq!(in_time(confirmation).await, Ok(outcome), "{destination} {round}");
    }
    for round in 0..200 {
        reader.take(&round.to_string()).await;
    }
    reader.expect_nothing();
    assert_eq!(ear.until("199").await.len(), 200);
}

/// RabbitMQ 3.10 ends the whole connection for a bad one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_address_of_a_direct_reply_costs_nobody_else_anything() {
    let (client, connection, channel) = both(Settings { publish_channels: 1, ..Settings::default() }).await;
    let (_guard, ear) = client.listen("/topic/a").await;
    client.send("/topic/a", "before").await;
    for name in ["amq.rabbitmq.reply-to.x.y", "amq.rabbitmq.reply-to", "stompgate.durable.abc", "orders"] {
        let refused = client.publish(to_reply_queue(&client, name)).await;
        assert!(matches!(refused, Err(BrokerError::Rejected(_))), "{name}: {refused:?}");
        let queue = Destination::Queue(name.to_owned().into());
        let refused = client.publish(Message { destination: queue, ..client.message("/queue/unused", "x") }).await;
        assert_eq!(matches!(refused, Err(BrokerError::Rejected(_))), name.starts_with("amq."), "{name}: {refused:?}");
    }
    let forged = client.publish(to_reply_queue(&client, "amq.rabbitmq.reply-to.AAAAAAAA.BBBBBBBB")).await;
    assert!(matches!(forged, Err(BrokerError::Rejected(_)) | Ok(Outcome { routed: false, .. })), "{forged:?}");
    client.send("/topic/a", "after").await;
    let heard = ear.until("after").await;
    assert_eq!(heard, ["before", "after"], "and nothing was restored in between");
    assert!(!ear.heard().contains(&Heard::Restored));
    drop((connection, channel));
}
