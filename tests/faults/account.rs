//! An account of every message that publishers with receipts have sent to queues and acknowledging readers have got.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use stompgate::gateway::Gateway;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::PATIENCE;
use crate::support::{Client, Received};

pub(crate) const PUBLISHERS: usize = 4;
/// Receipts that a publisher waits for at a time.
const WINDOW: usize = 20;

/// What became of the messages; each is known by its queue and body.
pub(crate) struct Account {
    queues: &'static [&'static str],
    /// Those that publishers have sent.
    pub(crate) sent: HashSet<String>,
    /// Those that have their RECEIPT.
    pub(crate) confirmed: HashSet<String>,
    /// Those whose RECEIPT said that nobody was there.
    pub(crate) unrouted: usize,
    /// Sessions of publishers that ended with an ERROR.
    pub(crate) errors: Vec<String>,
    pub(crate) delivered: HashMap<String, Deliveries>,
}

#[derive(Default)]
pub(crate) struct Deliveries {
    count: usize,
    redelivered: usize,
    republished: usize,
}

pub(crate) type Shared = Arc<Mutex<Account>>;

/// An account of messages to these queues.
pub(crate) fn open(queues: &'static [&'static str]) -> Shared {
    let (sent, confirmed, errors, delivered) = Default::default();
    Arc::new(Mutex::new(Account { queues, sent, confirmed, unrouted: 0, errors, delivered }))
}

/// Reads and acknowledges until all is done. That its session lasts is part of the test.
pub(crate) async fn consume(mut client: Client, queue: &str, account: Shared, mut is_done: watch::Receiver<bool>) {
    loop {
        let message = tokio::select! {
            biased;
            message = client.expect_ever("MESSAGE") => message,
            done = is_done.wait_for(|done| *done) => return drop(done.unwrap()),
        };
        lock(&account).deliver(queue, &message);
        client.send(format!("ACK\nid:{}", message.get("ack"))).await;
    }
}

/// Sends to the queues in turn, with a receipt for each, until it is told to stop and has all receipts.
pub(crate) async fn publish(
    gateway: Arc<Gateway>,
    publisher: usize,
    account: Shared,
    is_stopped: watch::Receiver<bool>,
) {
    let queues = lock(&account).queues;
    let mut client = Client::connect_with(&gateway, "1.2", "heart-beat:0,5000\n").await;
    let mut open = HashSet::new();
    let mut sent = 0;
    loop {
        let more = !*is_stopped.borrow();
        if more && open.len() < WINDOW {
            let queue = queues[sent % queues.len()];
            let body = format!("{publisher}-{sent}");
            sent += 1;
            let receipt = format!("{queue}/{body}");
            let frame = format!("SEND\ndestination:/queue/{queue}\npersistent:true\nreceipt:{receipt}\n\n{body}");
            lock(&account).sent.insert(receipt.clone());
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
            client.expect_close(if frame.get("code") == "rejected" { 1008 } else { 4503 }).await;
            client = Client::connect_with(&gateway, "1.2", "heart-beat:0,5000\n").await;
            continue;
        }
        let receipt = frame.of("RECEIPT");
        let (name, routed) = (receipt.get("receipt-id"), receipt.maybe("routed").is_none());
        assert!(open.remove(&name), "{name} came twice, or for nothing");
        let mut account = lock(&account);
        if routed {
            account.confirmed.insert(name);
        } else {
            account.unrouted += 1;
        }
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
    pub(crate) fn missing(&self) -> Vec<&String> {
        self.confirmed.iter().filter(|message| !self.delivered.contains_key(*message)).collect()
    }

    /// What of that has no excuse.
    pub(crate) fn missing_but(&self, excused: &HashSet<String>) -> Vec<&String> {
        self.missing().into_iter().filter(|message| !excused.contains(*message)).collect()
    }

    /// What came more often than it gave reasons.
    pub(crate) fn unexcused(&self) -> Vec<&String> {
        let unexcused =
            self.delivered.iter().filter(|(_, times)| times.count - 1 > times.redelivered + times.republished);
        unexcused.map(|(message, _)| message).collect()
    }

    pub(crate) fn figures(&self) -> String {
        let mut figures = String::new();
        for queue in self.queues {
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
        let (sent, unrouted, errors) = (self.sent.len(), self.unrouted, self.errors.len());
        let _ = write!(
            figures,
            "\n  {sent} sent; {unrouted} unrouted; {errors} sessions of publishers ended with an ERROR"
        );
        figures
    }
}

/// Waits until nothing is missing but what has an excuse, or too long: what is missing then is lost.
pub(crate) async fn settled(account: &Shared, excused: &HashSet<String>) {
    let missing = || lock(account).missing_but(excused).len();
    let delivered = timeout(PATIENCE, async {
        while missing() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    });
    let _ = delivered.await;
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

pub(crate) fn from_environment<T: FromStr>(name: &str, default: T) -> T {
    let name = format!("STOMPGATE_FAULTS_{name}");
    match std::env::var(&name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name}: {value} is no number")),
        Err(_) => default,
    }
}

pub(crate) async fn all(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        timeout(PATIENCE, task).await.expect("a task that ends").unwrap();
    }
}

pub(crate) fn lock(account: &Shared) -> MutexGuard<'_, Account> {
    account.lock().unwrap()
}
