//! Fan-out of a kibibyte of JSON to clients whose messages are compressed, and to others, in turn; and what both keep in
//! memory.

use std::io;

use crate::fan_out::{self, Crowd, FEW};
use crate::idle;
use crate::plan::Plan;
use crate::process::Gateway;
use crate::report::{PLAIN, Report};

/// What the scenario is called.
pub fn name(subscribers: usize) -> String {
    format!("compressed fan-out of 1 KiB of JSON, {subscribers} subscribers")
}

/// Runs the scenario with many subscribers and with few.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    for subscribers in [FEW, plan.clients] {
        let crowds = [
            Crowd::of_json(gateway.start_compressing()?, subscribers, true).await?,
            Crowd::of_json(gateway.start()?, subscribers, false).await?,
        ];
        let mut crowds = fan_out::warmed_up(crowds).await?;
        let [compressed, uncompressed] = fan_out::in_turn(&mut crowds, 1, plan).await?;
        fan_out::finish(crowds).await?;
        compressed.report_beside(PLAIN, &uncompressed, &name(subscribers), report);
    }
    memory(gateway, plan, report).await
}

async fn memory(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let (mut idle, mut used) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..plan.rounds {
        for (turn, is_compressed) in [true, false].into_iter().enumerate() {
            let server = if is_compressed { gateway.start_compressing()? } else { gateway.start()? };
            let [before, after] = idle::resident_json(server, plan.clients, is_compressed).await?;
            idle[turn].push(before);
            used[turn].push(after);
        }
    }
    for (measure, [compressed, plain]) in [(idle::RSS, idle), ("RSS per client after 100 messages, bytes", used)] {
        report.add_beside(PLAIN, &name(plan.clients), measure, compressed, &plain);
    }
    Ok(())
}
