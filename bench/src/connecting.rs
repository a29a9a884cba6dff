//! How fast clients get in: TCP, WebSocket, CONNECT and SUBSCRIBE with a receipt, each client waiting for each answer.

use std::io;

use crate::client::{self, Client, IN_FLIGHT};
use crate::plan::Plan;
use crate::process::{Gateway, Server};
use crate::report::Report;

/// How many got in.
pub const RATE: &str = "clients/s";
/// What each of them cost.
pub const CPU: &str = "CPU per client, µs";

/// What letting clients in took.
pub struct Sample {
    /// Clients per second.
    pub rate: f64,
    /// CPU of the server for each, in microseconds.
    pub cpu: f64,
    own: f64,
}

/// What the scenario is called.
pub fn name() -> String {
    format!("connect + subscribe, {IN_FLIGHT} in flight")
}

/// Runs the scenario, with a new gateway for each round.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let (mut rate, mut cpu, mut own) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let sample = measure(&gateway.start()?, plan.connects, IN_FLIGHT).await?;
        rate.push(sample.rate);
        cpu.push(sample.cpu);
        own.push(sample.own);
    }
    let scenario = name();
    report.add(&scenario, RATE, rate, &[]);
    report.add(&scenario, CPU, cpu, &[]);
    report.add(&scenario, "load generator's CPU, % of a core", own, &[]);
    Ok(())
}

/// Lets so many clients in, so many at a time.
pub async fn measure(server: &Server, clients: usize, in_flight: usize) -> io::Result<Sample> {
    let address = server.address();
    measure_by(server, clients, in_flight, move || Client::subscribe(address, 0, "/topic/bench", "auto")).await
}

/// The same for clients that find their own way in.
pub async fn measure_by<Making: Future<Output = io::Result<Client>> + 'static>(
    server: &Server,
    clients: usize,
    in_flight: usize,
    make: impl Fn() -> Making + Clone + 'static,
) -> io::Result<Sample> {
    let meter = server.meter()?;
    let clients = client::many(clients, in_flight, make).await?;
    let (usage, number) = (meter.read(server)?, clients.len() as f64);
    Ok(Sample { rate: number / usage.seconds, cpu: usage.server / number, own: usage.own })
}
