//! How much of the broker many subscriptions take: bindings, not queues, and one for all who read the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use stompgate::broker::{BrokerError, LinkState, Shared, SharedSource, Subscriber, amqp};
use stompgate::hub::{Hub, Settings, outbox::Outbox};
use stompgate::message::{Message, Outcome, Pattern, Separators, Spelling};
use stompgate::stomp::{Reader, Version};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::Client;
use crate::rabbitmq::RabbitMq;

const MANY: usize = 10_000;
/// Enough to know what a binding takes.
const BARE: usize = MANY / 10;
/// Requests that wait for the broker at a time.
const AT_ONCE: usize = 1_000;
const PATIENCE: Duration = Duration::from_mins(2);

/// Hears for all subscriptions, and counts.
#[derive(Default)]
struct Crowd {
    messages: AtomicUsize,
    restored: AtomicUsize,
    new: Notify,
}

impl Crowd {
    async fn until(&self, count: &AtomicUsize, wanted: usize) {
        let reached = async {
            while count.load(Ordering::SeqCst) < wanted {
                self.new.notified().await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{count:?} of {wanted}"));
        assert_eq!(count.load(Ordering::SeqCst), wanted);
    }
}

impl Subscriber for Crowd {
    fn deliver(&self, _: &Arc<Message>) {
        self.messages.fetch_add(1, Ordering::SeqCst);
        self.new.notify_one();
    }
    fn replay(&self, _: u64, _: &Arc<Message>) {}
    fn replayed(&self, _: u64) {}
    fn restored(&self) {
        self.restored.fetch_add(1, Ordering::SeqCst);
        self.new.notify_one();
    }
    fn ended(&self, reason: &BrokerError) {
        panic!("{reason}");
    }
}

fn topic(name: &str) -> SharedSource {
    SharedSource::Topic(Pattern::canonical(name.to_owned()))
}

/// The queues that are bound to the topics' exchange, one line for each binding.
async fn bindings(node: &RabbitMq) -> Vec<String> {
    let listed = node.control(&["-q", "--no-table-headers", "list_bindings", "source_name", "destination_name"]).await;
    listed.lines().filter_map(|line| line.strip_prefix("amq.topic\t")).map(str::to_owned).collect()
}

/// What a program would need that binds as many keys and does nothing else, by what it needs for a tenth of them.
async fn bare(node: &RabbitMq) -> Duration {
    let connection = Connection::connect(&node.uri(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let empty = FieldTable::default();
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("bare".into(), options, empty.clone()).await.unwrap();
    let begun = Instant::now();
    let (nowait, confirmed) = (QueueBindOptions { nowait: true }, QueueBindOptions::default());
    for number in 1..BARE {
        let key = format!("bare.{number}").as_str().into();
        channel.queue_bind("bare".into(), "amq.topic".into(), key, nowait, empty.clone()).await.unwrap();
    }
    channel.queue_bind("bare".into(), "amq.topic".into(), "bare.0".into(), confirmed, empty).await.unwrap();
    let took = begun.elapsed() * u32::try_from(MANY / BARE).unwrap();
    channel.queue_delete("bare".into(), QueueDeleteOptions::default()).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
    took
}

/// Opens them all, as many sessions do at a time.
async fn share_all(client: &Client, crowd: &Arc<Crowd>) -> Vec<Box<dyn Shared>> {
    let opening = stream::iter(0..MANY).map(async |number| {
        let source = topic(&format!("{}/{number}", client.mark));
        client.link.share(source, Arc::clone(crowd) as Arc<dyn Subscriber>).await.unwrap()
    });
    timeout(PATIENCE, opening.buffer_unordered(AT_ONCE).collect()).await.unwrap()
}

/// One message for each of them; and each of them gets one.
async fn send_all(client: &Client, crowd: &Crowd) {
    let before = crowd.messages.load(Ordering::SeqCst);
    let mut confirmations = Vec::with_capacity(MANY);
    for number in 0..MANY {
        let permit = client.link.reserve().await.unwrap();
        confirmations.push(client.link.publish(permit, client.message(&format!("/topic/{number}"), "x")));
    }
    for confirmation in timeout(PATIENCE, join_all(confirmations)).await.unwrap() {
        assert_eq!(confirmation, Ok(Outcome::DONE));
    }
    crowd.until(&crowd.messages, before + MANY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_topics_are_many_bindings_on_a_few_queues() {
    let mut node = RabbitMq::start().await;
    let settings = amqp::Settings {
        uri: vec![amqp::Uri(node.uri())],
        linger: Duration::from_millis(500),
        reconnect_max: Duration::from_secs(1),
        ..amqp::Settings::default()
    };
    let broker = amqp::connect(&settings).unwrap();
    timeout(PATIENCE, broker.state().wait_for(|state| *state == LinkState::Up)).await.unwrap().unwrap();
    let client = Client::of(&broker).await;
    let (bare, crowd) = (bare(&node).await, Arc::new(Crowd::default()));

    let begun = Instant::now();
    let guards = share_all(&client, &crowd).await;
    let bound = begun.elapsed();
    let mut queues = bindings(&node).await;
    assert_eq!(queues.len(), MANY);
    queues.sort_unstable();
    queues.dedup();
    assert!(queues.len() <= usize::from(settings.shared_queues), "{queues:?}");
    send_all(&client, &crowd).await;

    node.kill();
    node.run().await; // comes back when the first connection is taken
    let begun = Instant::now();
    crowd.until(&crowd.restored, MANY).await;
    println!("{MANY} bindings: bare {bare:?}, of subscriptions {bound:?}, restored after {:?}", begun.elapsed());
    assert_eq!(bindings(&node).await.len(), MANY);
    send_all(&client, &crowd).await;

    drop(guards);
    let unbound = async {
        while !bindings(&node).await.is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, unbound).await.unwrap();
    one_binding_is_enough_for_all_who_read_the_same(&node, &client).await;
}

async fn one_binding_is_enough_for_all_who_read_the_same(node: &RabbitMq, client: &Client) {
    let settings = Arc::new(Settings::default());
    let hub = Hub::new(&settings, Separators::Both, Arc::default(), stompgate::traces::Traces::default());
    let outboxes: Vec<_> = (0..MANY).map(|_| Arc::new(Outbox::new(Arc::clone(&settings), Arc::default()))).collect();
    let joining = outboxes.iter().enumerate().map(|(number, outbox)| {
        let subscription = Some(format!("sub-{}", number % 5).into());
        let reader = Reader { subscription, spelling: Spelling::Slash, version: Version::V12 };
        hub.subscribe(&client.link, topic(&format!("{}/one", client.mark)), reader, Arc::clone(outbox))
    });
    let members = timeout(PATIENCE, join_all(joining)).await.unwrap();
    assert!(members.iter().all(Result::is_ok));
    assert_eq!(bindings(node).await.len(), 1);
    client.send("/topic/one", "x").await;
    let arrived = async {
        while outboxes.iter().any(|outbox| outbox.is_empty()) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, arrived).await.unwrap();
}
