//! What rules cost: one client that sends and waits for its RECEIPT, to a topic that the last of many rules allows, beside
//! a gateway without rules.

use std::io;
use std::time::Instant;

use crate::app::round_trip;
use crate::client::Client;
use crate::latency::percentile;
use crate::plan::Plan;
use crate::process::Gateway;
use crate::report::Report;

const RULES: [usize; 3] = [0, 100, 1000];
/// Round trips that are not counted.
const WARM_UP: u64 = 50;

/// Runs the scenario.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let (mut times, mut cpu) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
    for round in 0..plan.rounds {
        for turn in 0..RULES.len() {
            let which = (round + turn) % RULES.len();
            let mut gateway = gateway.clone();
            gateway.settings.push(settings(RULES[which]));
            let server = gateway.start()?;
            let client = Client::connect(server.address(), 0).await?;
            for number in 0..WARM_UP {
                round_trip(&client, "/topic/last", number).await?;
            }
            let (meter, start, mut taken) = (server.meter()?, Instant::now(), Vec::new());
            while start.elapsed() < plan.round {
                taken.push(round_trip(&client, "/topic/last", WARM_UP).await?);
            }
            cpu[which].push(meter.read(&server)?.server / taken.len() as f64);
            taken.sort_unstable();
            times[which].push(percentile(&taken, 50));
        }
    }
    let ([none_time, some_time, many_time], [none_cpu, some_cpu, many_cpu]) = (times, cpu);
    for (rules, time, usage) in [(RULES[1], some_time, some_cpu), (RULES[2], many_time, many_cpu)] {
        let scenario = format!("SEND under {rules} rules");
        report.add_beside("SEND without rules", &scenario, "p50 of SEND to RECEIPT, µs", time, &none_time);
        report.add_beside("SEND without rules", &scenario, "CPU, µs", usage, &none_cpu);
    }
    Ok(())
}

/// So many rules about topics, of which the last is about the one that is sent to.
fn settings(rules: usize) -> String {
    let rule = |number: usize| {
        if number + 1 == rules {
            return "{ destinations = [\"/topic/last\"] }".to_owned();
        }
        format!("{{ destinations = [\"/topic/area-{number}/{{user}}/#\"] }}")
    };
    format!("access.rule=[{}]", (0..rules).map(rule).collect::<Vec<_>>().join(", "))
}
