//! The broker goes away and comes back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use stompgate::broker::{Broker, Event, LinkState, SharedSource, Source, Subscribe, amqp};
use stompgate::message::{Headers, Settlement};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout};

use crate::amqp_wire::both;
use crate::harness::{Client, Ear, Heard, Reader, text};
use crate::rabbitmq::RabbitMq;

/// Erlang takes its time to start.
const PATIENCE: Duration = Duration::from_mins(2);

fn connect(node: &RabbitMq) -> Arc<dyn Broker> {
    let settings = amqp::Settings {
        uri: vec![amqp::Uri(node.uri())],
        reconnect_max: Duration::from_secs(1),
        ..amqp::Settings::default()
    };
    amqp::connect(&settings).unwrap()
}

async fn until(broker: &Arc<dyn Broker>, wanted: LinkState) {
    timeout(PATIENCE, broker.state().wait_for(|state| *state == wanted)).await.unwrap().unwrap();
}

async fn event(reader: &mut Reader) -> Event {
    timeout(PATIENCE, std::future::poll_fn(|context| reader.subscription.poll_next(context))).await.unwrap()
}

async fn until_heard(ear: &Ear, wanted: &Heard) {
    let deadline = Instant::now() + PATIENCE;
    while !ear.heard().contains(wanted) {
        assert!(Instant::now() < deadline, "{wanted:?} was not heard, only {:?}", ear.heard());
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_before_the_outage_is_there_after_it() {
    let mut node = RabbitMq::start().await;
    node.kill();
    // The gateway starts although nobody answers.
    let broker = connect(&node);
    assert_eq!(*broker.state().borrow(), LinkState::Recovering);
    let client = Client::of(&broker).await;
    let early = {
        let link = Arc::clone(&client.link);
        let message = client.message("/queue/a", "early");
        tokio::spawn(async move { link.publish(link.reserve().await.unwrap(), message).await })
    };
    node.run().await;
    until(&broker, LinkState::Up).await;
    assert!(timeout(PATIENCE, early).await.unwrap().unwrap().unwrap().routed);

    let (_guard, ear) = client.listen("/topic/news/#").await;
    let exchange = SharedSource::Exchange { exchange: "amq.topic".into(), key: format!("{}.#", client.mark).into() };
    let (_bound, bound) = client.share(exchange).await;
    let mut jobs = client.read("/queue/a").await;
    let mut copies = client.read("/topic/news/a").await;
    let held = jobs.expect("early").await;
    client.send("/topic/news/a", "before").await;
    copies.take("before").await;

    node.sync().await;
    node.kill();
    until(&broker, LinkState::Recovering).await;
    assert!(matches!(event(&mut jobs).await, Event::Interrupted));
    assert!(matches!(event(&mut copies).await, Event::Interrupted));
    assert!(!client.settle(&[&held], Settlement::Accept).await, "it went with its link");
    let waiting = client.link.publish(client.link.reserve().await.unwrap(), client.message("/queue/a", "meanwhile"));
    let begun = Instant::now();
    node.run().await;
    assert!(timeout(PATIENCE, waiting).await.unwrap().unwrap().routed);
    until(&broker, LinkState::Up).await;

    assert!(matches!(event(&mut jobs).await, Event::Restored));
    assert!(jobs.take("early").await.redelivered, "it was delivered before");
    jobs.take("meanwhile").await;
    assert!(matches!(event(&mut copies).await, Event::Restored));
    for ear in [&ear, &bound] {
        until_heard(ear, &Heard::Restored).await;
    }
    println!("restored {:?} after the start of the node", begun.elapsed());
    client.send("/topic/news/a", "after").await;
    assert!(copies.take("after").await.gap);
    for ear in [&ear, &bound] {
        until_heard(ear, &Heard::Message("after".to_owned())).await;
    }
}

/// The alarm that a broker raises when it has too little memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_takes_no_messages_holds_publishers_and_nobody_else() {
    let node = RabbitMq::start().await;
    let broker = connect(&node);
    until(&broker, LinkState::Up).await;
    let client = Client::of(&broker).await;
    for body in ["1", "2", "3"] {
        client.send("/queue/a", body).await;
    }
    node.control(&["set_vm_memory_high_watermark", "0"]).await;
    // The broker says so to whoever publishes.
    let mut waiting = client.link.publish(client.link.reserve().await.unwrap(), client.message("/queue/b", "waiting"));
    until(&broker, LinkState::Blocked).await;
    let mut reader = client.read_with("/queue/a", 1).await;
    for body in ["1", "2", "3"] {
        reader.take(body).await; // each needs the acknowledgement of the one before
    }
    assert!(timeout(Duration::from_millis(100), &mut waiting).await.is_err());
    node.control(&["set_vm_memory_high_watermark", "0.4"]).await;
    until(&broker, LinkState::Up).await;
    assert!(timeout(PATIENCE, waiting).await.unwrap().unwrap().routed);
    client.read("/queue/b").await.take("waiting").await;
}

/// How often each message was delivered, and how often with a reason to come twice.
#[derive(Default)]
struct Account {
    delivered: HashMap<String, usize>,
    excused: HashMap<String, usize>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirmed_messages_survive_kills() {
    const KILLS: usize = 3;
    let mut node = RabbitMq::start().await;
    let broker = connect(&node);
    until(&broker, LinkState::Up).await;
    let client = Client::of(&broker).await;
    client.send("/queue/a", "0").await;
    node.sync().await;
    let account = Arc::new(Mutex::new(Account::default()));
    let counting = tokio::spawn(count(client.clone(), Arc::clone(&account)));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let publishing = tokio::spawn(publish(client.clone(), stopped));
    for pause in [300, 500, 200].into_iter().take(KILLS) {
        until(&broker, LinkState::Up).await;
        sleep(Duration::from_millis(pause)).await;
        node.kill();
        node.run().await;
    }
    until(&broker, LinkState::Up).await;
    sleep(Duration::from_millis(300)).await;
    stop.send(true).unwrap();
    let confirmed = timeout(PATIENCE, publishing).await.unwrap().unwrap();
    assert!(timeout(PATIENCE, client.publish(client.message("/queue/a", "end"))).await.unwrap().unwrap().routed);
    timeout(PATIENCE, counting).await.unwrap().unwrap();
    let account = account.lock().unwrap();
    let lost: Vec<_> = confirmed.iter().filter(|body| !account.delivered.contains_key(*body)).collect();
    let doubled = account.delivered.iter().filter(|(_, count)| **count > 1).count();
    let unexcused: Vec<_> = account
        .delivered
        .iter()
        .filter(|(body, count)| **count - 1 > account.excused.get(*body).copied().unwrap_or_default())
        .collect();
    println!("{KILLS} kills: {} confirmed, {} lost, {doubled} more than once", confirmed.len(), lost.len());
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(unexcused.is_empty(), "twice without a mark: {unexcused:?}");
    assert!(confirmed.len() > 100, "too few to mean anything");
}

/// Publishes until it is stopped; returns what was confirmed.
async fn publish(client: Client, stopped: tokio::sync::watch::Receiver<bool>) -> Vec<String> {
    let mut confirmations = Vec::new();
    for number in 1.. {
        if *stopped.borrow() {
            break;
        }
        let body = number.to_string();
        let permit = client.link.reserve().await.unwrap();
        confirmations.push((client.link.publish(permit, client.message("/queue/a", &body)), body));
        sleep(Duration::from_millis(1)).await;
    }
    let mut confirmed = Vec::new();
    for (confirmation, body) in confirmations {
        assert!(confirmation.await.unwrap().routed, "{body}");
        confirmed.push(body);
    }
    confirmed
}

/// Accepts all that comes until the end of it.
async fn count(client: Client, account: Arc<Mutex<Account>>) {
    let mut reader = client.read("/queue/a").await;
    loop {
        let Event::Delivery(delivery) = event(&mut reader).await else { continue };
        let body = text(&delivery.message);
        client.settle(&[&delivery], Settlement::Accept).await;
        if body == "end" {
            return;
        }
        let mut account = account.lock().unwrap();
        *account.delivered.entry(body.clone()).or_default() += 1;
        if delivery.redelivered || delivery.message.headers.get("stompgate-republished").is_some() {
            *account.excused.entry(body).or_default() += 1;
        }
    }
}

/// The AMQP library would hold on to it for as long as nobody answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_given_up_is_closed() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = vec![amqp::Uri(format!("amqp://guest:guest@{}", silent.local_addr().unwrap()))];
    let connect_timeout = Duration::from_millis(200);
    let broker = amqp::connect(&amqp::Settings { uri, connect_timeout, ..amqp::Settings::default() }).unwrap();
    for _ in 0..3 {
        let (mut socket, _) = timeout(PATIENCE, silent.accept()).await.unwrap().unwrap();
        let mut greeting = Vec::new();
        timeout(PATIENCE, socket.read_to_end(&mut greeting)).await.expect("it is closed").unwrap();
        assert_eq!(greeting, b"AMQP\0\0\x09\x01");
    }
    assert_eq!(*broker.state().borrow(), LinkState::Recovering);
}

/// What is begun at the broker is also ended there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_is_given_up_while_it_opens_leaves_no_reader_behind() {
    let (client, _connection, channel) = both(amqp::Settings::default()).await;
    client.send("/queue/a", "for whoever is there").await;
    let readers = async || {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let name = format!("{}/a", client.mark);
        channel.queue_declare(name.as_str().into(), passive, FieldTable::default()).await.unwrap().consumer_count()
    };
    let opening = async || {
        let source = Source::Queue(format!("{}/a", client.mark).into());
        let mut opening = client.link.subscribe(Subscribe { source, prefetch: 10, arguments: Headers::new() });
        while readers().await == 0 {
            if opening.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                return None;
            }
        }
        Some(opening)
    };
    let gone = async || while readers().await > 0 {};
    // Not polled any more once the broker has a reader: so its answer has not been heard. If it was heard before the reader
    // was seen, that proves nothing, and is done once more.
    let mut unheard = opening().await;
    while unheard.is_none() {
        timeout(PATIENCE, gone()).await.unwrap();
        unheard = opening().await;
    }
    drop(unheard);
    timeout(PATIENCE, gone()).await.unwrap();
    client.read("/queue/a").await.take("for whoever is there").await;
}
