//! Subscribers that stop reading: what the others notice, and what it takes to keep what the former do not read.

use std::io;

use futures_util::future::try_join_all;

use crate::client::Client;
use crate::latency::{self, FEWS_RATE};
use crate::plan::Plan;
use crate::process::Gateway;
use crate::report::{NOBODY_STALLED, Report};
use crate::wire;

/// Subscribers that read.
const READING: usize = 95;
/// Subscribers that do not.
const STALLED: usize = 5;
/// Bytes of a message that fills them up, and how many of these there are: more than socket buffers and outbox take.
const FILLING: (usize, u64) = (16 * 1024, 1024);
/// Lets an outbox that is full stay full: by default its client would be disconnected, and be no burden any more.
const POLICY: &str = "outbox.policy=[{ destination = \"/topic/#\", when_full = \"drop-oldest\" }]";

/// Memory of a client that does not read.
pub const MEMORY: &str = "RSS per stalled client, bytes";

/// What the scenario is called.
pub fn name() -> String {
    format!("{STALLED} of {} stalled: {}", READING + STALLED, latency::name(READING, FEWS_RATE))
}

/// Runs the scenario.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let mut gateway = gateway.clone();
    gateway.settings.push(POLICY.to_owned());
    let servers = [gateway.start()?, gateway.start()?];
    let [burdened, _] = &servers;
    // What the first clients and messages bring is there without anybody who stalls.
    let (publisher, readers) = latency::join(burdened, READING).await?;
    latency::measure(publisher, &readers, FEWS_RATE, plan.latency).await?;
    drop(readers);
    let before = burdened.memory()?.rss;
    let address = burdened.address();
    let stalled = (0..STALLED).map(|_| Client::subscribe_narrow(address, latency::DESTINATION));
    let stalled = try_join_all(stalled).await?;
    fill(&Client::connect(address, 0).await?).await?;
    let memory = (burdened.memory()?.rss as f64 - before as f64) / STALLED as f64;
    let [beside_stalled, alone] = latency::in_turn(&servers, READING, FEWS_RATE, plan).await?;
    for client in &stalled {
        client.read(|_| Ok(())).await?; // is still there
    }
    beside_stalled.report_beside(NOBODY_STALLED, &alone, &name(), report);
    report.add_beside(NOBODY_STALLED, &name(), MEMORY, vec![memory], &[]);
    Ok(())
}

async fn fill(publisher: &Client) -> io::Result<()> {
    let (size, messages) = FILLING;
    for number in 0..messages {
        publisher.send(&wire::send_bytes(latency::DESTINATION, size, number)).await?;
        publisher.expect("RECEIPT\n").await?;
    }
    Ok(())
}
