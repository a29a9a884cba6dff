//! All clients come at once, as after a restart: TCP, WebSocket, CONNECT and SUBSCRIBE with a receipt. Beside RabbitMQ's own
//! Web STOMP plugin. A client that does not get in tries again, as real ones do, and is counted.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::client::Client;
use crate::connecting::{self, Sample};
use crate::plan::Plan;
use crate::plugin;
use crate::process::{Gateway, Server};
use crate::report::{PLUGIN, Report};

/// After which a client tries again.
const PAUSE: Duration = Duration::from_secs(1);

/// How often a client did not get in.
pub const FAILED: &str = "attempts that failed";

/// What the scenario is called.
pub fn name(clients: usize) -> String {
    format!("return of {clients} clients at once")
}

/// Runs the scenario, with new servers for each round.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let [mut rate, mut cpu, mut failed] = [const { [Vec::new(), Vec::new()] }; 3];
    for _ in 0..plan.rounds {
        for (turn, server) in plugin::both(gateway)?.into_iter().enumerate() {
            let (sample, failures) = measure(&server, plan.clients).await?;
            rate[turn].push(sample.rate);
            cpu[turn].push(sample.cpu);
            failed[turn].push(f64::from(failures));
        }
    }
    for (measure, [own, plugins]) in [(connecting::RATE, rate), (connecting::CPU, cpu), (FAILED, failed)] {
        report.add_beside(PLUGIN, &name(plan.clients), measure, own, &plugins);
    }
    Ok(())
}

async fn measure(server: &Server, clients: usize) -> io::Result<(Sample, u32)> {
    let (address, failures) = (server.address(), Rc::new(Cell::new(0)));
    let counted = Rc::clone(&failures);
    let come_back = move || {
        let failures = Rc::clone(&counted);
        async move {
            loop {
                match Client::subscribe(address, 0, "/topic/bench", "auto").await {
                    Ok(client) => return Ok(client),
                    Err(_) => failures.set(failures.get() + 1),
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    let sample = connecting::measure_by(server, clients, clients, come_back).await?;
    Ok((sample, failures.get()))
}
