//! Kills and cuts at random moments, and an account of every message: none that was confirmed is lost, and none comes
//! twice without saying why.
//!
//! `STOMPGATE_FAULTS_KILLS` and `STOMPGATE_FAULTS_CUTS` say how many there are, `STOMPGATE_FAULTS_SEED` repeats a run as
//! far as the moments go.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use stompgate::broker::LinkState;
use stompgate::gateway::Gateway;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::proxy::{Cut, Proxy};
use crate::support::{Client, Received};
use crate::{PATIENCE, gateway_at, node, until, uri};

/// RabbitMQ's two kinds of durable queues.
const QUEUES: [&str; 2] = ["classic", "quorum"];
const PUBLISHERS: usize = 4;
/// Receipts that a publisher waits for at a time.
const WINDOW: usize = 20;

#[derive(Default)]
struct Account {
    /// The queue and body of each message that has its RECEIPT.
    confirmed: HashSet<String>,
    /// Sessions of publishers that ended with an ERROR.
    errors: Vec<String>,
    delivered: HashMap<String, Deliveries>,
}

#[derive(Default)]
struct Deliveries {
    count: usize,
    redelivered: usize,
    republished: usize,
}

type Shared = Arc<Mutex<Account>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_confirmed_message_is_delivered_and_doubles_say_why() {
    let (kills, cuts) = (from_environment("KILLS", 2), from_environment("CUTS", 20));
    let seed = from_environment("SEED", u64::from(getrandom::u32().unwrap()));
    println!("STOMPGATE_FAULTS_KILLS={kills} STOMPGATE_FAULTS_CUTS={cuts} STOMPGATE_FAULTS_SEED={seed}");
    let mut random = Random(seed);
    let mut node = node().await;
    let proxy = Proxy::before(node.port);
    let gateway = Arc::new(gateway_at(uri(proxy.port()), |config| config.broker.amqp.queue_arguments = Some(true)));
    let account = Shared::default();
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
    let missing = || lock(&account).missing().len();
    let delivered = timeout(PATIENCE, async {
        while missing() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    });
    let _ = delivered.await; // what is missing then is lost
    done.send(true).unwrap();
    all(consumers).await;
    let account = lock(&account);
    println!("{kills} kills, {cuts} cuts: {}", account.figures());
    assert!(account.missing().is_empty(), "lost: {:?}", account.missing());
    assert!(account.unexcused().is_empty(), "twice without a mark: {:?}", account.unexcused());
    assert!(account.errors.is_empty(), "the broker came back in time, and yet: {:?}", account.errors);
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

/// Reads and acknowledges until all is done. That its session lasts is part of the test.
async fn consume(mut client: Client, queue: &str, account: Shared, mut is_done: watch::Receiver<bool>) {
    loop {
        let message = tokio::select! {
            biased;
            message = client.expect("MESSAGE") => message,
            done = is_done.wait_for(|done| *done) => return drop(done.unwrap()),
        };
        lock(&account).deliver(queue, &message);
        client.send(format!("ACK\nid:{}", message.get("ack"))).await;
    }
}

/// Sends to the queues in turn, with a receipt for each, until it is told to stop and has all receipts.
async fn publish(gateway: Arc<Gateway>, publisher: usize, account: Shared, is_stopped: watch::Receiver<bool>) {
    let mut client = Client::connect_with(&gateway, "1.2", "heart-beat:0,5000\n").await;
    let mut open = HashSet::new();
    let mut sent = 0;
    loop {
        let more = !*is_stopped.borrow();
        if more && open.len() < WINDOW {
            let queue = QUEUES[sent % QUEUES.len()];
            let body = format!("{publisher}-{sent}");
            sent += 1;
            let receipt = format!("{queue}/{body}");
            let frame = format!("SEND\ndestination:/queue/{queue}\npersistent:true\nreceipt:{receipt}\n\n{body}");
            client.send(frame).await;
            open.insert(receipt);
        }
        if !more && open.is_empty() {
            return;
        }
        let frame = tokio::select! {
            biased;
            frame = client.expect_any() => frame,
            () = sleep(Duration::from_millis(2)), if more && open.len() < WINDOW => continue,
        };
        if frame.maybe("code").is_some() {
            lock(&account).fail(&frame, &mut open);
            client.expect_close(4503).await;
            client = Client::connect_with(&gateway, "1.2", "heart-beat:0,5000\n").await;
            continue;
        }
        let receipt = frame.of("RECEIPT").without("routed").get("receipt-id");
        assert!(open.remove(&receipt), "{receipt} came twice, or for nothing");
        lock(&account).confirmed.insert(receipt);
    }
}

impl Account {
    fn deliver(&mut self, queue: &str, message: &Received) {
        let deliveries = self.delivered.entry(format!("{queue}/{}", message.body())).or_default();
        deliveries.count += 1;
        deliveries.redelivered += usize::from(message.maybe("redelivered").is_some());
        deliveries.republished += usize::from(message.maybe("stompgate-republished").is_some());
    }

    /// The one ERROR that answers for all receipts that were open.
    fn fail(&mut self, error: &Received, open: &mut HashSet<String>) {
        let body = error.body();
        let named = |receipt: &String| error.maybe("receipt-id") == Some(receipt) || body.contains(receipt.as_str());
        assert!(open.iter().all(named), "receipts that nobody answers for: {open:?} in {body}");
        open.clear();
        self.errors.push(body);
    }

    /// What was confirmed and has not been delivered.
    fn missing(&self) -> Vec<&String> {
        self.confirmed.iter().filter(|message| !self.delivered.contains_key(*message)).collect()
    }

    /// What came more often than it gave reasons.
    fn unexcused(&self) -> Vec<&String> {
        let unexcused =
            self.delivered.iter().filter(|(_, times)| times.count - 1 > times.redelivered + times.republished);
        unexcused.map(|(message, _)| message).collect()
    }

    fn figures(&self) -> String {
        let mut figures = String::new();
        for queue in QUEUES {
            let of_queue = |message: &&String| message.starts_with(queue);
            let times = || self.delivered.iter().filter(|(message, _)| of_queue(message)).map(|(_, times)| times);
            let _ = write!(
                figures,
                "\n  {queue}: {} confirmed, {} lost, {} delivered, {} of them more than once ({} redelivered, {} republished, {} without a mark)",
                self.confirmed.iter().filter(of_queue).count(),
                self.missing().into_iter().filter(|message| message.starts_with(queue)).count(),
                times().count(),
                times().filter(|times| times.count > 1).count(),
                times().map(|times| times.redelivered).sum::<usize>(),
                times().map(|times| times.republished).sum::<usize>(),
                self.unexcused().into_iter().filter(|message| message.starts_with(queue)).count(),
            );
        }
        let _ = write!(figures, "\n  {} sessions of publishers ended with an ERROR", self.errors.len());
        figures
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn from_environment<T: FromStr>(name: &str, default: T) -> T {
    let name = format!("STOMPGATE_FAULTS_{name}");
    match std::env::var(&name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name}: {value} is no number")),
        Err(_) => default,
    }
}

async fn all(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        timeout(PATIENCE, task).await.expect("a task that ends").unwrap();
    }
}

fn lock(account: &Shared) -> MutexGuard<'_, Account> {
    account.lock().unwrap()
}
