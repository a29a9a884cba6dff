//! A rolling restart: two gateways behind a balancer that asks each whether it is ready, before one RabbitMQ, under load.
//! One after the other is replaced by a new one. Nothing that was confirmed is lost, and everybody is told to go with 1012.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::support::program::Program;
use crate::{PATIENCE, node, uri};

const PUBLISHERS: usize = 3;
const CONSUMERS: usize = 4;
/// Receipts that a publisher waits for at a time.
const WINDOW: usize = 10;
/// Messages between two restarts, at least.
const BETWEEN: usize = 300;

#[derive(Default)]
struct Account {
    confirmed: HashSet<String>,
    /// How often each was sent: once more for each connection that ended before its receipt came.
    sent: HashMap<String, usize>,
    delivered: HashMap<String, usize>,
    redelivered: usize,
    /// How connections ended, but for the last ones.
    ends: BTreeMap<String, usize>,
}

impl Account {
    fn deliver(&mut self, body: &str, is_marked: bool) {
        *self.delivered.entry(body.trim_end_matches('\0').to_owned()).or_default() += 1;
        self.redelivered += usize::from(is_marked);
    }

    fn missing(&self) -> Vec<&String> {
        self.confirmed.iter().filter(|body| !self.delivered.contains_key(*body)).collect()
    }
}

type Shared = Arc<Mutex<Account>>;

fn lock(account: &Shared) -> MutexGuard<'_, Account> {
    account.lock().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_no_message_and_every_client_is_told_to_go() {
    let node = node().await;
    let gateway = || {
        let uri = format!("broker.amqp.uri={}", uri(node.port));
        let drain = ["server.drain_grace=200ms", "server.drain_window=500ms"];
        Program::start(&["broker.kind=amqp", &uri, drain[0], drain[1]])
    };
    let mut gateways = vec![gateway(), gateway()];
    let balancer = Balancer::start(&gateways).await;
    let account = Shared::default();
    let (done, is_done) = watch::channel(false);
    let (stop, is_stopped) = watch::channel(false);
    let consumer = |_| tokio::spawn(consume(balancer.address.clone(), Arc::clone(&account), is_done.clone()));
    let consumers: Vec<_> = (0..CONSUMERS).map(consumer).collect();
    let publisher = |number| {
        let (address, account) = (balancer.address.clone(), Arc::clone(&account));
        tokio::spawn(publish(address, number, account, is_stopped.clone()))
    };
    let publishers: Vec<_> = (0..PUBLISHERS).map(publisher).collect();

    for _ in 0..4 {
        let wanted = lock(&account).confirmed.len() + BETWEEN;
        until("messages to be confirmed", || lock(&account).confirmed.len() >= wanted).await;
        let old = gateways.remove(0);
        gateways.push(gateway());
        balancer.add(gateways.last().unwrap());
        old.signal("TERM");
        assert!(old.ends().await.success(), "the end of a gateway");
    }
    stop.send(true).unwrap();
    all(publishers).await;
    until("everything to be delivered", || lock(&account).missing().is_empty()).await;
    done.send(true).unwrap();
    all(consumers).await;

    let account = lock(&account);
    let lost = account.missing().len();
    let doubles: usize = account.delivered.values().map(|times| times - 1).sum();
    let again: usize = account.sent.values().map(|times| times - 1).sum();
    println!(
        "4 restarts: {} confirmed, {lost} lost, {doubles} delivered more than once ({} marked as redelivered, {again} sent \
         again for want of a receipt); connections ended: {:?}",
        account.confirmed.len(),
        account.redelivered,
        account.ends,
    );
    assert_eq!(lost, 0, "{:?}", account.missing());
    assert!(doubles <= account.redelivered + again, "doubles without a reason");
    assert_eq!(account.ends.keys().collect::<Vec<_>>(), ["1012"], "how connections ended");
    assert!(account.ends["1012"] >= 4, "somebody was moved at each restart");
}

/// Sends again, on the next connection, what had no receipt when the last one ended.
async fn publish(address: String, publisher: usize, account: Shared, is_stopped: watch::Receiver<bool>) {
    let mut open: Vec<String> = Vec::new();
    let mut next = 0;
    loop {
        let mut peer = Peer::connect(&address).await;
        for body in &open {
            peer.publish(body, &account).await;
        }
        loop {
            let more = !*is_stopped.borrow();
            if !more && open.is_empty() {
                return;
            }
            if more && open.len() < WINDOW {
                let body = format!("{publisher}-{next}");
                next += 1;
                peer.publish(&body, &account).await;
                open.push(body);
                continue;
            }
            match peer.next().await {
                Ok(frame) => {
                    assert!(frame.starts_with("RECEIPT\n"), "{frame}");
                    let receipt = header(&frame, "receipt-id").expect("a receipt's name").to_owned();
                    open.retain(|body| *body != receipt);
                    lock(&account).confirmed.insert(receipt);
                }
                Err(end) => {
                    *lock(&account).ends.entry(end).or_default() += 1;
                    break;
                }
            }
        }
    }
}

async fn consume(address: String, account: Shared, mut is_done: watch::Receiver<bool>) {
    loop {
        let mut peer = Peer::connect(&address).await;
        peer.send("SUBSCRIBE\nid:0\ndestination:/queue/rolling\nack:client-individual\nprefetch-count:20\n\n").await;
        loop {
            let frame = tokio::select! {
                biased;
                frame = peer.next() => frame,
                done = is_done.wait_for(|done| *done) => return drop(done.unwrap()),
            };
            match frame {
                Ok(frame) => {
                    let (head, body) = frame.split_once("\n\n").unwrap();
                    assert!(head.starts_with("MESSAGE\n"), "{frame}");
                    lock(&account).deliver(body, header(head, "redelivered").is_some());
                    peer.send(&format!("ACK\nid:{}\n\n", header(head, "ack").unwrap())).await;
                }
                Err(end) => {
                    *lock(&account).ends.entry(end).or_default() += 1;
                    break;
                }
            }
        }
    }
}

fn header<'a>(frame: &'a str, name: &str) -> Option<&'a str> {
    frame.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// A client that takes the end of its connection as it comes.
struct Peer(WebSocketStream<TcpStream>);

impl Peer {
    /// A session, as soon as there is a gateway for it.
    async fn connect(address: &str) -> Peer {
        let connect = async {
            loop {
                if let Some(peer) = Self::try_connect(address).await {
                    return peer;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, connect).await.expect("a gateway")
    }

    async fn try_connect(address: &str) -> Option<Peer> {
        let stream = TcpStream::connect(address).await.ok()?;
        let (socket, _) = client_async(format!("ws://{address}/ws"), stream).await.ok()?;
        let mut peer = Peer(socket);
        peer.send("CONNECT\naccept-version:1.2\nhost:localhost\n\n").await;
        peer.next().await.ok().filter(|frame| frame.starts_with("CONNECTED\n")).map(|_| peer)
    }

    async fn publish(&mut self, body: &str, account: &Shared) {
        *lock(account).sent.entry(body.to_owned()).or_default() += 1;
        let frame = format!("SEND\ndestination:/queue/rolling\npersistent:true\nreceipt:{body}\n\n{body}");
        self.send(&frame).await;
    }

    /// A connection that has ended is noticed by whoever reads.
    async fn send(&mut self, frame: &str) {
        let _ = self.0.send(Message::text(format!("{frame}\0"))).await;
    }

    /// The next frame, or how the connection ended.
    async fn next(&mut self) -> Result<String, String> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("a frame or an end") {
                Some(Ok(Message::Text(text))) if text.as_str() != "\n" => return Ok(text.to_string()),
                Some(Ok(Message::Close(Some(close)))) => return Err(u16::from(close.code).to_string()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("without a close".to_owned()),
            }
        }
    }
}

/// Asks each gateway in turn whether it is ready, for every connection that comes.
struct Balancer {
    address: String,
    targets: Arc<Mutex<Vec<Target>>>,
    accepting: JoinHandle<()>,
}

#[derive(Clone)]
struct Target {
    address: String,
    admin: String,
}

impl Balancer {
    async fn start(gateways: &[Program]) -> Balancer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let targets = Arc::new(Mutex::new(Vec::new()));
        let accepting = tokio::spawn(balance(listener, Arc::clone(&targets)));
        let balancer = Balancer { address, targets, accepting };
        for gateway in gateways {
            balancer.add(gateway);
        }
        balancer
    }

    fn add(&self, gateway: &Program) {
        let target = Target { address: gateway.address.clone(), admin: gateway.admin.clone() };
        self.targets.lock().unwrap().push(target);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn balance(listener: TcpListener, targets: Arc<Mutex<Vec<Target>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let mut order = targets.lock().unwrap();
        order.rotate_left(1);
        let order = order.clone();
        connections.spawn(carry(client, order));
    }
}

async fn carry(mut client: TcpStream, targets: Vec<Target>) {
    for Target { address, admin } in targets {
        if is_ready(&admin).await
            && let Ok(mut gateway) = TcpStream::connect(address).await
        {
            let _ = tokio::io::copy_bidirectional(&mut client, &mut gateway).await;
            return;
        }
    }
}

async fn is_ready(admin: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(admin).await else { return false };
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    asked.is_ok() && stream.read_to_string(&mut answer).await.is_ok() && answer.starts_with("HTTP/1.1 200 ")
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let held = timeout(PATIENCE, async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    held.await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

async fn all(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        timeout(PATIENCE, task).await.expect("a task that ends").unwrap();
    }
}
