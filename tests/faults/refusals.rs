//! The broker is there and says no, or has lost what somebody uses: that is the business of those whom it concerns.

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use stompgate::broker::LinkState;
use stompgate::config::Config;
use stompgate::gateway::Gateway;

use crate::proxy::Proxy;
use crate::support::{Client, Received};
use crate::{ack, amqp, behind_a_proxy, connect_all, gateway_at, rabbitmq, until, uri_as};

/// Everybody shares what can be shared: what costs one of them something costs all.
fn close_together(config: &mut Config) {
    config.broker.amqp.publish_channels = 1;
    config.broker.amqp.shared_queues = 1;
}

/// Somebody who does nothing wrong, and notices whatever others cause.
struct Innocent {
    topic: String,
    queue: String,
    listener: Client,
    worker: Client,
    publisher: Client,
    sent: usize,
}

impl Innocent {
    async fn of(gateway: &Gateway, topic: &str, queue: &str) -> Innocent {
        let [mut listener, mut worker, publisher] = connect_all(gateway).await;
        listener.subscribe(&format!("id:0\ndestination:/topic/{topic}")).await;
        worker.subscribe(&format!("id:0\ndestination:/queue/{queue}\nack:client")).await;
        Innocent { topic: topic.to_owned(), queue: queue.to_owned(), listener, worker, publisher, sent: 0 }
    }

    /// Everything of its own still arrives, once, in order, without a gap.
    async fn is_well(&mut self) {
        let number = self.sent.to_string();
        self.sent += 1;
        for destination in [format!("/topic/{}", self.topic), format!("/queue/{}", self.queue)] {
            self.publisher.does(&format!("SEND\ndestination:{destination}\n\n{number}")).await.without("routed");
        }
        self.listener.expect("MESSAGE").await.saying(&number).without("gap").without("stompgate-republished");
        let delivery = self.worker.expect("MESSAGE").await.saying(&number).without("gap").without("redelivered");
        ack(&mut self.worker, &delivery).await.without("settled");
    }
}

/// Does this as a client of its own, which gets an ERROR for it.
async fn refused(gateway: &Gateway, frame: &str) -> Received {
    let mut client = Client::connect(gateway, "1.2").await;
    let receipt = client.asks(frame).await;
    client.expect("ERROR").await.with("receipt-id", &receipt)
}

async fn delete_queue(channel: &Channel, name: &str) {
    channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_does_not_permit_costs_only_the_one_who_asked() {
    let node = rabbitmq::shared().await;
    node.control(&["add_user", "limited", "secret"]).await;
    let mine = "^(stompgate\\.|free|amq\\.topic|amq\\.default)";
    node.control(&["set_permissions", "limited", mine, mine, mine]).await;
    node.control(&["set_topic_permissions", "limited", "amq.topic", "^open\\.", "^open\\."]).await;
    let proxy = Proxy::before(node.port);
    let gateway = gateway_at(uri_as("limited:secret", proxy.port()), close_together);
    until(&gateway, LinkState::Up).await;
    let connections = proxy.accepted();
    let mut innocent = Innocent::of(&gateway, "open/a", "free").await;
    innocent.is_well().await;
    for frame in [
        "SUBSCRIBE\nid:0\ndestination:/topic/secret/a",
        "SUBSCRIBE\nid:0\ndestination:/topic/secret/a\nack:client",
        "SUBSCRIBE\nid:0\ndestination:/queue/secret",
        "SEND\ndestination:/queue/secret\n\nx",
        "SEND\ndestination:/topic/secret/a\n\nx",
        "SEND\ndestination:/exchange/amq.fanout/x\n\nx",
    ] {
        let error = refused(&gateway, frame).await;
        assert!(error.get("message").contains("refused"), "{frame}: {error:?}");
        innocent.is_well().await;
    }
    assert_eq!(proxy.accepted(), connections, "a connection was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_read_may_still_write() {
    let node = rabbitmq::shared().await;
    node.control(&["add_user", "writer", "secret"]).await;
    node.control(&["set_permissions", "writer", ".*", ".*", "^$"]).await;
    let proxy = Proxy::before(node.port);
    let gateway = gateway_at(uri_as("writer:secret", proxy.port()), close_together);
    until(&gateway, LinkState::Up).await;
    let connections = proxy.accepted();
    let [mut writer] = connect_all(&gateway).await;
    for frame in [
        "SUBSCRIBE\nid:0\ndestination:/topic/unread",
        "SUBSCRIBE\nid:0\ndestination:/topic/unread\nack:client",
        "SUBSCRIBE\nid:0\ndestination:/queue/unread",
        "SUBSCRIBE\nid:0\ndestination:/exchange/amq.fanout/x",
        "SUBSCRIBE\nid:0\ndestination:/user/queue/unread",
        "SUBSCRIBE\nid:0\ndestination:/temp-queue/unread",
    ] {
        let error = refused(&gateway, frame).await;
        assert!(error.get("message").contains("refused"), "{frame}: {error:?}");
        writer.does("SEND\ndestination:/queue/unread\n\nx").await.without("routed");
        writer.does("SEND\ndestination:/topic/unread\n\nx").await.with("routed", "false");
    }
    assert_eq!(proxy.accepted(), connections, "a connection was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_exchange_that_is_missing_is_said_at_once_and_used_when_it_is_there() {
    let (gateway, _proxy) = behind_a_proxy(|config| config.broker.amqp.exchange = "faults.topics".to_owned()).await;
    for frame in [
        "SUBSCRIBE\nid:0\ndestination:/topic/missing",
        "SUBSCRIBE\nid:0\ndestination:/topic/missing\nack:client",
        "SEND\ndestination:/topic/missing\n\nx",
    ] {
        refused(&gateway, frame).await.with("code", "not-found").about("faults.topics");
    }
    let [mut reader, mut user] = connect_all(&gateway).await;
    reader.does("SEND\ndestination:/queue/missing\n\nx").await.without("routed");
    user.subscribe("id:0\ndestination:/user/queue/missing").await;
    let (_connection, channel) = amqp(rabbitmq::shared().await).await;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let kind = ExchangeKind::Topic;
    channel.exchange_declare("faults.topics".into(), kind, options, FieldTable::default()).await.unwrap();
    reader.subscribe("id:0\ndestination:/topic/missing").await;
    user.does("SEND\ndestination:/topic/missing\n\nfound").await.without("routed");
    reader.expect("MESSAGE").await.saying("found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_is_made_again_for_its_readers_who_hear_of_the_gap() {
    let (gateway, _proxy) = behind_a_proxy(close_together).await;
    let (_connection, channel) = amqp(rabbitmq::shared().await).await;
    let mut innocent = Innocent::of(&gateway, "deleted", "deleted-innocent").await;
    let [mut reader, mut existing, mut publisher] = connect_all(&gateway).await;
    reader.subscribe("id:0\ndestination:/queue/deleted\nack:client").await;
    publisher.does("SEND\ndestination:/queue/deleted\n\nbefore").await;
    let delivery = reader.expect("MESSAGE").await.saying("before").without("gap");
    channel.queue_declare("not-ours".into(), QueueDeclareOptions::default(), FieldTable::default()).await.unwrap();
    existing.subscribe("id:0\ndestination:/amq/queue/not-ours").await;
    delete_queue(&channel, "deleted").await;
    delete_queue(&channel, "not-ours").await;
    // What must be there, and is not, is nobody's to make.
    existing.expect_error("not-found", 1008).await;
    publisher.does("SEND\ndestination:/queue/deleted\n\nafter").await.without("routed");
    reader.expect("MESSAGE").await.saying("after").with("gap", "true");
    ack(&mut reader, &delivery).await.with("settled", "false");
    innocent.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declaration_that_does_not_match_costs_nobody_else_anything() {
    let (gateway, _proxy) = behind_a_proxy(|config| {
        close_together(config);
        config.broker.amqp.queue_arguments = Some(true);
    })
    .await;
    let mut innocent = Innocent::of(&gateway, "mismatch", "mismatch-innocent").await;
    let [mut first, mut second] = connect_all(&gateway).await;
    first.subscribe("id:0\ndestination:/queue/mismatch\nx-max-length:7").await;
    let receipt = second.asks("SUBSCRIBE\nid:0\ndestination:/queue/mismatch\nx-max-length:8").await;
    second.expect_any().await.with("receipt-id", &receipt);
    innocent.is_well().await;
    innocent.publisher.does("SEND\ndestination:/queue/mismatch\n\nx").await.without("routed");
    first.expect("MESSAGE").await.saying("x").without("gap");
}
