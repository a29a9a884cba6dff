//! What memory clients take that do nothing.

use std::io;
use std::time::Duration;

use crate::client::Client;
use crate::fan_out::{Crowd, Until};
use crate::plan::Plan;
use crate::process::{Gateway, Memory, Server};
use crate::report::Report;

/// Messages that each client gets before its memory is looked at again.
const MESSAGES: u64 = 100;
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
