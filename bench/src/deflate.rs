//! Fan-out of a kibibyte of JSON to clients whose messages are compressed, and to others, in turn; and what both keep in
//! memory.

use std::io;

use crate::fan_out::{Crowd, FEW, Until, WARM_UP};
use crate::idle;
use crate::plan::Plan;
use crate::process::Gateway;
use crate::report::{PLAIN, Report};

/// CPU of a delivery.
pub const CPU: &str = "CPU per delivery, µs";
/// Memory of a client that has done nothing but subscribe.
pub const IDLE: &str = "RSS per idle client, bytes";

/// What the scenario is called.
pub fn name(subscribers: usize) -> String {
    format!("compressed fan-out of 1 KiB of JSON, {subscribers} subscribers")
}

/// Runs the scenario with many subscribers and with few.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    for subscribers in [FEW, plan.clients] {
        let mut crowds = [
            Crowd::of_json(gateway.start_compressing()?, subscribers, true).await?,
            Crowd::of_json(gateway.start()?, subscribers, false).await?,
        ];
        for crowd in &mut crowds {
            crowd.publish(1, Until::Messages(WARM_UP)).await?;
        }
        let (mut cpu, mut rate) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for round in 0..plan.rounds {
            for turn in [round % 2, (round + 1) % 2] {
                let sample = crowds[turn].measure(1, Until::Elapsed(plan.round)).await?;
                cpu[turn].push(sample.usage.server / sample.deliveries);
                rate[turn].push(sample.deliveries / sample.usage.seconds);
            }
        }
        for crowd in crowds {
            crowd.finish().await?;
        }
        for (measure, [compressed, plain]) in [(CPU, cpu), ("deliveries/s", rate)] {
            report.add_beside(PLAIN, &name(subscribers), measure, compressed, &plain);
        }
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
    for (measure, [compressed, plain]) in [(IDLE, idle), ("RSS per client after 100 messages, bytes", used)] {
        report.add_beside(PLAIN, &name(plan.clients), measure, compressed, &plain);
    }
    Ok(())
}
