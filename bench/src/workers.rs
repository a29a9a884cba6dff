//! Fan-out with two threads that serve clients, beside one: what it costs that a message crosses threads.

use std::io;

use crate::fan_out::{self, Crowd, FEW};
use crate::plan::Plan;
use crate::process::Gateway;
use crate::report::{ONE_WORKER, Report};

/// What the scenario is called.
pub fn name(subscribers: usize) -> String {
    format!("two workers: {}", fan_out::name(subscribers, 1))
}

/// Runs the scenario with many subscribers and with few.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    for subscribers in [FEW, plan.clients] {
        let crowds = [
            Crowd::of_gateway(gateway.start_with_workers(2)?, subscribers).await?,
            Crowd::of_gateway(gateway.start_with_workers(1)?, subscribers).await?,
        ];
        let mut crowds = fan_out::warmed_up(crowds).await?;
        let [two, one] = fan_out::in_turn(&mut crowds, 1, plan).await?;
        fan_out::finish(crowds).await?;
        two.report_beside(ONE_WORKER, &one, &name(subscribers), report);
    }
    Ok(())
}
