//! Kills and cuts at random moments, and an account of every message: none that was confirmed is lost, and none comes
//! twice without saying why.
//!
//! `STOMPGATE_FAULTS_KILLS` and `STOMPGATE_FAULTS_CUTS` say how many there are, `STOMPGATE_FAULTS_SEED` repeats a run as
//! far as the moments go.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use stompgate::broker::LinkState;
use stompgate::gateway::Gateway;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::account::{self, PUBLISHERS, Random, all, consume, from_environment, lock, publish, settled};
use crate::proxy::{Cut, Proxy};
use crate::support::{Client, until as eventually};
use crate::{gateway_at, node, until, uri};

/// RabbitMQ's two kinds of durable queues.
const QUEUES: [&str; 2] = ["classic", "quorum"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_confirmed_message_is_delivered_and_doubles_say_why() {
    let (kills, cuts) = (from_environment("KILLS", 2), from_environment("CUTS", 20));
    let seed = from_environment("SEED", u64::from(getrandom::u32().unwrap()));
    println!("STOMPGATE_FAULTS_KILLS={kills} STOMPGATE_FAULTS_CUTS={cuts} STOMPGATE_FAULTS_SEED={seed}");
    let mut random = Random(seed);
    let mut node = node().await;
    let proxy = Proxy::before(node.port);
    let gateway = Arc::new(gateway_at(uri(proxy.port()), |config| config.broker.amqp.queue_arguments = Some(true)));
    let account = account::open(&QUEUES);
    let mut consumers = Vec::new();
    let (done, is_done) = watch::channel(false);
    for queue in QUEUES {
        for mode in ["client", "client-individual"] {
            let client = subscribed(&gateway, queue, mode).await;
            consumers.push(tokio::spawn(consume(client, queue, Arc::clone(&account), is_done.clone())));
        }
    }
    let (stop, is_stopped) = watch::channel(false);
    let publish = |number| publish(Arc::clone(&gateway), number, Arc::clone(&account), is_stopped.clone());
    let publishers: Vec<_> = (0..PUBLISHERS).map(|number| tokio::spawn(publish(number))).collect();

    // RabbitMQ 3.10 writes down that there is a quorum queue some seconds after it was declared. If it is killed before,
    // the queue begins anew, without its messages and without a leader, for ever.
    eventually("the quorum queue on disk", || node.has_on_disk("names.dets", "quorum")).await;
    let (mut kills_left, mut cuts_left) = (kills, cuts);
    while kills_left + cuts_left > 0 {
        sleep(Duration::from_millis(random.below(1500))).await;
        if random.below(kills_left + cuts_left) < kills_left {
            kills_left -= 1;
            node.kill();
            sleep(Duration::from_millis(random.below(1000))).await;
            node.run().await;
        } else {
            cuts_left -= 1;
            proxy.cut(if random.below(2) == 0 { Cut::Fin } else { Cut::Reset });
        }
    }
    until(&gateway, LinkState::Up).await;
    stop.send(true).unwrap();
    all(publishers).await;
    settled(&account, &HashSet::new()).await;
    done.send(true).unwrap();
    all(consumers).await;
    let account = lock(&account);
    println!("{kills} kills, {cuts} cuts: {}", account.figures());
    assert!(account.missing().is_empty(), "lost: {:?}", account.missing());
    assert!(account.unexcused().is_empty(), "twice without a mark: {:?}", account.unexcused());
    assert!(account.errors.is_empty(), "the broker came back in time, and yet: {:?}", account.errors);
    assert_eq!(account.unrouted, 0);
    assert!(account.confirmed.len() > 100, "too few to mean anything");
}

/// A reader of a queue, whose gateway says every few seconds that it is still there.
async fn subscribed(gateway: &Gateway, queue: &str, mode: &str) -> Client {
    let mut client = Client::connect_with(gateway, "1.2", "heart-beat:0,5000\n").await;
    let kind = if queue == "quorum" { "x-queue-type:quorum\n" } else { "" };
    let headers = format!("id:0\ndestination:/queue/{queue}\nack:{mode}\nprefetch-count:20\n{kind}");
    client.subscribe(&headers).await;
    client
}
