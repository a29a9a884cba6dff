//! The gateway with its embedded broker, beside RabbitMQ's own Web STOMP plugin with the same clients, in turn.

use std::io;

use crate::client::IN_FLIGHT;
use crate::connecting;
use crate::fan_out::{self, Crowd, FEW, WINDOWS};
use crate::idle;
use crate::latency::{self, FEWS_RATE, MANYS_RATE, RATE};
use crate::plan::Plan;
use crate::process::{Gateway, Server};
use crate::rabbitmq::RabbitMq;
use crate::report::{PLUGIN, Report};

/// The plugin lets a few hundred clients in per second.
const PLUGINS_CONNECTS: usize = 500;

/// Runs the scenario.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let mut servers = both(gateway)?;
    for subscribers in [FEW, plan.clients] {
        servers = fan_out(servers, plan, subscribers, report).await?;
    }
    for (subscribers, rate) in [(1, RATE), (FEW, FEWS_RATE), (plan.clients, MANYS_RATE)] {
        let [own, plugins] = latency::in_turn(&servers, subscribers, rate, plan).await?;
        own.report_beside(PLUGIN, &plugins, &latency::name(subscribers, rate), report);
    }
    drop(servers);
    clients(gateway, plan, report).await
}

/// The gateway, and a RabbitMQ for its plugin.
pub fn both(gateway: &Gateway) -> io::Result<[Server; 2]> {
    Ok([gateway.start()?, Server::plugin(RabbitMq::start()?)])
}

async fn fan_out(
    servers: [Server; 2],
    plan: &Plan,
    subscribers: usize,
    report: &mut Report,
) -> io::Result<[Server; 2]> {
    let mut crowds = Vec::new();
    for server in servers {
        crowds.push(Crowd::of_gateway(server, subscribers).await?);
    }
    let mut crowds = fan_out::warmed_up(crowds).await?;
    for window in WINDOWS {
        let [own, plugins] = fan_out::in_turn(&mut crowds, window, plan).await?;
        own.report_beside(PLUGIN, &plugins, &fan_out::name(subscribers, window), report);
    }
    fan_out::both(fan_out::finish(crowds).await?).await
}

/// What it takes to let them in, and to have them.
async fn clients(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let [mut rate, mut cpu, mut memory] = [const { [Vec::new(), Vec::new()] }; 3];
    for _ in 0..plan.rounds {
        for (turn, server) in both(gateway)?.into_iter().enumerate() {
            let connects = if turn == 0 { plan.connects } else { PLUGINS_CONNECTS };
            let sample = connecting::measure(&server, connects, IN_FLIGHT).await?;
            rate[turn].push(sample.rate);
            cpu[turn].push(sample.cpu);
        }
        for (turn, server) in both(gateway)?.into_iter().enumerate() {
            memory[turn].push(idle::resident(server, plan.clients).await?);
        }
    }
    add(report, &connecting::name(), connecting::RATE, rate);
    add(report, &connecting::name(), connecting::CPU, cpu);
    add(report, &idle::name(plan.clients), idle::RSS, memory);
    Ok(())
}

fn add(report: &mut Report, scenario: &str, measure: &'static str, [gateway, plugin]: [Vec<f64>; 2]) {
    report.add_beside(PLUGIN, scenario, measure, gateway, &plugin);
}
