//! One client's bad message never costs another client anything, even on the same publishing channel (contract, §11).

use std::collections::HashMap;

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions};
use lapin::types::FieldTable;
use stompgate::gateway::Gateway;

use crate::support::Client;
use crate::{amqp, behind_a_proxy, connect_all, rabbitmq};

/// So many messages of an innocent client are on their way when the bad one comes.
const ON_THEIR_WAY: usize = 50;

/// Sends `bad` amid the messages of an innocent client, and expects an ERROR of this code for it alone.
async fn amid_innocents(gateway: &Gateway, queue: &str, bad: &str, code: &str) {
    let [mut innocent, mut reader, mut culprit] = connect_all(gateway).await;
    reader.subscribe(&format!("id:0\ndestination:/queue/{queue}\nprefetch-count:1000")).await;
    let mut receipts = Vec::new();
    for number in 0..2 * ON_THEIR_WAY {
        if number == ON_THEIR_WAY {
            culprit.send(bad).await;
        }
        receipts.push(innocent.asks(&format!("SEND\ndestination:/queue/{queue}\n\n{number}")).await);
    }
    let error = culprit.expect("ERROR").await.with("code", code);
    for _ in &receipts {
        let receipt = innocent.expect("RECEIPT").await.without("routed").get("receipt-id");
        assert!(receipts.contains(&receipt), "{receipt}, after {error:?}");
    }
    arrive(&mut reader, queue).await;
    innocent.disconnect().await;
    reader.disconnect().await;
}

/// All come, in order; again only with a mark.
async fn arrive(reader: &mut Client, queue: &str) {
    let (mut times, mut next) = (HashMap::<usize, usize>::new(), 0);
    while next < 2 * ON_THEIR_WAY {
        let message = reader.expect("MESSAGE").await;
        let number = message.body().parse().unwrap();
        let before = times.entry(number).or_default();
        let marked = message.maybe("stompgate-republished").is_some();
        assert!(*before == 0 || marked, "{queue}: {number} came twice without a mark");
        assert!(*before > 0 || number == next, "{queue}: {number} came before {next}");
        next += usize::from(*before == 0);
        *before += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_at_the_gateway_reaches_no_channel() {
    let (gateway, _proxy) = behind_a_proxy(|config| config.broker.amqp.publish_channels = 1).await;
    let name = "x".repeat(300);
    for (number, (bad, code)) in [
        ("SEND\ndestination:/exchange/faults-absent/key\n\nx".to_owned(), "not-found"),
        ("SEND\ndestination:/amq/queue/faults-absent\n\nx".to_owned(), "not-found"),
        ("SEND\ndestination:/queue/bad\nuser-id:somebody-else\n\nx".to_owned(), "forbidden-header"),
        ("SEND\ndestination:/queue/bad\nexpiration:abc\n\nx".to_owned(), "invalid-header"),
        (format!("SEND\ndestination:/queue/{name}\n\nx"), "rejected"),
        (format!("SEND\ndestination:/topic/{name}\n\nx"), "rejected"),
        (format!("SEND\ndestination:/exchange/amq.topic/{name}\n\nx"), "rejected"),
        (format!("SEND\ndestination:/queue/bad\n{name}:x\n\nx"), "rejected"),
        (format!("SEND\ndestination:/queue/bad\ncontent-type:{name}\n\nx"), "rejected"),
    ]
    .into_iter()
    .enumerate()
    {
        amid_innocents(&gateway, &format!("innocent-{number}"), &bad, code).await;
    }
}

/// RabbitMQ reads CC and BCC in the headers table as more routing keys, and closes the channel if they are no lists.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_mean_something_to_the_broker_do_not_travel() {
    let (gateway, _proxy) = behind_a_proxy(|config| config.broker.amqp.publish_channels = 1).await;
    let [mut innocent, mut reader] = connect_all(&gateway).await;
    reader.subscribe("id:0\ndestination:/queue/carbon").await;
    for header in ["CC:elsewhere", "BCC:elsewhere", "x-death:many"] {
        let receipt = innocent.asks("SEND\ndestination:/queue/carbon\n\nbefore").await;
        innocent.send(format!("SEND\ndestination:/queue/carbon\n{header}\n\n{header}")).await;
        innocent.expect("RECEIPT").await.with("receipt-id", &receipt);
        reader.expect("MESSAGE").await.saying("before").without("stompgate-republished");
        let (name, _) = header.split_once(':').unwrap();
        reader.expect("MESSAGE").await.saying(header).without(name).without("stompgate-republished");
    }
}

/// What only the broker can find: it closes the channel, with all that is on its way there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_closes_the_channel_fails_alone() {
    let (gateway, _proxy) = behind_a_proxy(|config| config.broker.amqp.publish_channels = 1).await;
    let (_connection, channel) = amqp(rabbitmq::shared().await).await;
    let [mut before] = connect_all(&gateway).await;
    let declare = |name: &str, internal: bool| {
        let options = ExchangeDeclareOptions { internal, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(name.into(), ExchangeKind::Fanout, options, FieldTable::default())
    };
    declare("faults-deleted", false).await.unwrap();
    declare("faults-internal", true).await.unwrap();
    before.does("SEND\ndestination:/exchange/faults-deleted/key\n\nx").await.with("routed", "false");
    channel.exchange_delete("faults-deleted".into(), ExchangeDeleteOptions::default()).await.unwrap();
    let bad = "SEND\ndestination:/exchange/faults-deleted/key\n\nx";
    amid_innocents(&gateway, "innocent-of-deleted", bad, "not-found").await;
    let [mut reader, mut innocent, mut culprit] = connect_all(&gateway).await;
    reader.subscribe("id:0\ndestination:/queue/innocent-of-internal").await;
    let receipt = innocent.asks("SEND\ndestination:/queue/innocent-of-internal\n\nx").await;
    culprit.send("SEND\ndestination:/exchange/faults-internal/key\n\nx").await;
    culprit.expect("ERROR").await;
    innocent.expect("RECEIPT").await.with("receipt-id", &receipt);
    reader.expect("MESSAGE").await.saying("x");
}
