//! How fast clients get in: TCP, WebSocket, CONNECT and SUBSCRIBE with a receipt, each client waiting for each answer.

use std::io;

use crate::client::{self, Client, IN_FLIGHT};
use crate::plan::Plan;
use crate::process::Gateway;
use crate::report::Report;

/// Runs the scenario, with a new gateway for each round.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let (mut rate, mut cpu, mut own) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let server = gateway.start()?;
        let address = server.address();
        let meter = server.meter()?;
        let clients =
            client::many(plan.connects, move || Client::subscribe(address, 0, "/topic/bench", "auto")).await?;
        let (usage, number) = (meter.read(&server)?, clients.len() as f64);
        rate.push(number / usage.seconds);
        cpu.push(usage.server / number);
        own.push(usage.own);
    }
    let scenario = format!("connect + subscribe, {IN_FLIGHT} in flight");
    report.add(&scenario, "clients/s", rate, &[]);
    report.add(&scenario, "CPU per client, µs", cpu, &[]);
    report.add(&scenario, "load generator's CPU, % of a core", own, &[]);
    Ok(())
}
