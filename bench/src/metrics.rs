//! What counting costs: gateways that count frames and messages (`metrics.messages`) and gateways that do not, in turn.

use std::io;

use crate::fan_out::{self, Crowd, FEW, WINDOWS};
use crate::plan::Plan;
use crate::process::Gateway;
use crate::report::Report;

/// Runs the scenario: with one subscriber, where each message is a SEND, a delivery and a write, and with some.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let mut silent = gateway.clone();
    silent.settings.push("metrics.messages=false".to_owned());
    for subscribers in [1, FEW] {
        let crowds = [
            Crowd::of_gateway(gateway.start()?, subscribers).await?,
            Crowd::of_gateway(silent.start()?, subscribers).await?,
        ];
        let mut crowds = fan_out::warmed_up(crowds).await?;
        for window in WINDOWS {
            let [counting, silent] = fan_out::in_turn(&mut crowds, window, plan).await?;
            let scenario = format!("metrics, {subscribers} subscribers, window {window}");
            counting.report_beside("without metrics", &silent, &scenario, report);
        }
        fan_out::finish(crowds).await?;
    }
    Ok(())
}
