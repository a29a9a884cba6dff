//! What counting costs: gateways that count frames and messages (`metrics.messages`) and gateways that do not, in turn.

use std::io;

use crate::fan_out::{Crowd, FEW, Until, WARM_UP};
use crate::plan::Plan;
use crate::process::Gateway;
use crate::report::Report;

/// Messages that the publisher may be ahead.
const WINDOW: u64 = 16;

/// Runs the scenario: with one subscriber, where each message is a SEND, a delivery and a write, and with some.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let mut silent = gateway.clone();
    silent.settings.push("metrics.messages=false".to_owned());
    for subscribers in [1, FEW] {
        let mut crowds = [
            Crowd::of_gateway(gateway.start()?, subscribers).await?,
            Crowd::of_gateway(silent.start()?, subscribers).await?,
        ];
        let (mut cpu, mut rate) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
        for crowd in &mut crowds {
            crowd.publish(1, Until::Messages(WARM_UP)).await?;
        }
        for round in 0..plan.rounds {
            for turn in [round % 2, (round + 1) % 2] {
                let sample = crowds[turn].measure(WINDOW, Until::Elapsed(plan.round)).await?;
                cpu[turn].push(sample.usage.server / sample.deliveries);
                rate[turn].push(sample.deliveries / sample.usage.seconds);
            }
        }
        let scenario = format!("metrics, {subscribers} subscribers, window {WINDOW}");
        let ([cpu, silent_cpu], [rate, silent_rate]) = (cpu, rate);
        let beside = "without metrics";
        report.add_beside(beside, &scenario, "CPU per delivery, µs", cpu, &silent_cpu);
        report.add_beside(beside, &scenario, "deliveries/s", rate, &silent_rate);
        for crowd in crowds {
            crowd.finish().await?;
        }
    }
    Ok(())
}
