//! A cluster of two nodes, one of which goes away with the queues it has.

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use stompgate::broker::LinkState;

use crate::rabbitmq::RabbitMq;
use crate::{ack, amqp, connect_all, gateway_at, until};

/// RabbitMQ cancels the consumers of a queue whose node is gone. The queue still exists, and cannot be made elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_queue_whose_node_goes_away_wait_for_it() {
    let near = RabbitMq::start().await;
    let mut far = near.join().await;
    let (connection, channel) = amqp(&far).await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("far".into(), durable, FieldTable::default()).await.unwrap();
    drop((connection, channel));
    let gateway = gateway_at(near.uri(), |_| {});
    until(&gateway, LinkState::Up).await;
    let [mut reader, mut other, mut publisher] = connect_all(&gateway).await;
    reader.subscribe("id:0\ndestination:/queue/far\nack:client").await;
    other.subscribe("id:0\ndestination:/queue/near").await;
    publisher.does("SEND\ndestination:/queue/far\npersistent:true\n\nkept").await.without("routed");
    let held = reader.expect("MESSAGE").await.saying("kept").without("gap");

    far.kill();
    publisher.does("SEND\ndestination:/queue/near\n\nx").await.without("routed");
    other.expect("MESSAGE").await.saying("x").without("gap");
    assert_eq!(*gateway.broker_state().borrow(), LinkState::Up);

    far.run().await;
    let again = reader.expect("MESSAGE").await.saying("kept").with("redelivered", "true").with("gap", "true");
    ack(&mut reader, &held).await.with("settled", "false");
    ack(&mut reader, &again).await.without("settled");
    publisher.does("SEND\ndestination:/queue/far\n\nafter").await.without("routed");
    reader.expect("MESSAGE").await.saying("after");
}
