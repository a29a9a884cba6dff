//! What clients cost that do nothing: memory, and the CPU of their heart-beats.

use std::io;
use std::time::Duration;

use crate::client::{self, Client, IN_FLIGHT};
use crate::fan_out::{Crowd, Until};
use crate::plan::Plan;
use crate::process::{Gateway, Memory, Server};
use crate::report::Report;

/// Messages that each client gets before its memory is looked at again.
const MESSAGES: u64 = 100;
/// The heart-beat that clients offer and ask for, in milliseconds.
const HEARTBEAT: u32 = 10_000;
/// Memory of a client that has done nothing but subscribe.
pub const RSS: &str = "RSS per idle client, bytes";
/// For buffers to be given back, and for connecting to be over.
pub const SETTLE: Duration = Duration::from_secs(1);

/// Memory of a server with clients.
struct Sample {
    empty: Memory,
    /// For each client: RSS and PSS, in bytes.
    idle: [f64; 2],
    /// When it has got some messages.
    used: [f64; 2],
}

/// What the scenario is called.
pub fn name(clients: usize) -> String {
    format!("memory, {clients} clients with a subscription")
}

/// Memory of a gateway before and with idle clients, and when each has got some messages.
pub async fn memory(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let [mut before, mut idle, mut idle_shared, mut used, mut used_shared] = [const { Vec::new() }; 5];
    for _ in 0..plan.rounds {
        let sample = measure(gateway.start()?, plan.clients, Crowd::of_gateway).await?;
        before.push(sample.empty.rss as f64 / 1024.0);
        let [rss, pss] = sample.idle;
        idle.push(rss);
        idle_shared.push(pss);
        let [rss, pss] = sample.used;
        used.push(rss);
        used_shared.push(pss);
    }
    let scenario = name(plan.clients);
    report.add(&scenario, "RSS with one client, KiB", before, &[]);
    report.add(&scenario, RSS, idle, &[]);
    report.add(&scenario, "PSS per idle client, bytes", idle_shared, &[]);
    report.add(&scenario, "RSS per client after 100 messages, bytes", used, &[]);
    report.add(&scenario, "PSS per client after 100 messages, bytes", used_shared, &[]);
    Ok(())
}

/// RSS of a server for each idle client, in bytes.
pub async fn resident(server: Server, clients: usize) -> io::Result<f64> {
    Ok(measure(server, clients, Crowd::of_gateway).await?.idle[0])
}

/// The same for clients that are sent JSON, compressed or not; idle, and when each has got some messages.
pub async fn resident_json(server: Server, clients: usize, is_compressed: bool) -> io::Result<[f64; 2]> {
    let crowd = async |server, clients| Crowd::of_json(server, clients, is_compressed).await;
    let Sample { idle, used, .. } = measure(server, clients, crowd).await?;
    Ok([idle[0], used[0]])
}

async fn measure(
    server: Server,
    clients: usize,
    crowd: impl AsyncFnOnce(Server, usize) -> io::Result<Crowd>,
) -> io::Result<Sample> {
    // The first client brings memory that all share.
    let _first = Client::subscribe(server.address(), 0, "/topic/first", "auto").await?;
    let empty = server.memory()?;
    let mut crowd = crowd(server, clients).await?;
    tokio::time::sleep(SETTLE).await;
    let idle = per_client(empty, crowd.server().memory()?, clients);
    crowd.publish(16, Until::Messages(MESSAGES)).await?;
    tokio::time::sleep(SETTLE).await;
    let used = per_client(empty, crowd.server().memory()?, clients);
    Ok(Sample { empty, idle, used })
}

fn per_client(before: Memory, now: Memory, clients: usize) -> [f64; 2] {
    [(now.rss, before.rss), (now.pss, before.pss)].map(|(now, before)| (now as f64 - before as f64) / clients as f64)
}

/// What the scenario of heart-beats is called.
pub fn cpu_name(clients: usize) -> String {
    format!("idle, {clients} clients, 10 s heart-beats")
}

/// CPU of a gateway whose clients only exchange heart-beats.
pub async fn cpu(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let server = gateway.start()?;
    let address = server.address();
    let clients =
        client::many(plan.clients, IN_FLIGHT, move || Client::subscribe(address, HEARTBEAT, "/topic/bench", "auto"))
            .await?;
    let interval = Duration::from_millis(HEARTBEAT.into());
    let number = clients.len();
    let mut beating = tokio::task::JoinSet::new();
    for (index, client) in clients.into_iter().enumerate() {
        let first = interval.mul_f64((index + 1) as f64 / (number + 1) as f64);
        beating.spawn_local(beat(client, first, interval));
    }
    tokio::time::sleep(SETTLE).await;
    let meter = server.meter()?;
    tokio::time::sleep(plan.idle).await;
    let usage = meter.read(&server)?;
    if let Some(ended) = beating.try_join_next() {
        return Err(ended?.err().unwrap_or_else(|| io::Error::other("a client ended")));
    }
    let per_second = usage.server / usage.seconds / number as f64;
    let scenario = cpu_name(number);
    report.add(&scenario, "CPU per client and second, µs", vec![per_second], &[]);
    Ok(())
}

/// Sends heart-beats spread evenly over the interval, and reads what comes.
async fn beat(client: Client, first: Duration, interval: Duration) -> io::Result<()> {
    let mut due = tokio::time::interval_at(tokio::time::Instant::now() + first, interval);
    let mut message = Vec::new();
    crate::wire::push_message(b"\n", &mut message);
    loop {
        tokio::select! {
            _ = due.tick() => client.send(&message).await?,
            // Nothing but heart-beats and pings comes, and `read` only ever returns after one read.
            result = client.read(|_| Ok(())) => result?,
        }
    }
}
