//! Fan-out and latency in front of RabbitMQ. CPU is that of the gateway and of RabbitMQ together; beside it stand
//! RabbitMQ's own Web STOMP plugin and the floor, in turn.

use std::io;

use crate::fan_out::{self, Crowd, FEW};
use crate::latency::{self, FEWS_RATE, RATE};
use crate::plan::Plan;
use crate::process::{Gateway, Server};
use crate::rabbitmq::RabbitMq;
use crate::report::{PLUGIN, Report};

/// CPU of both.
pub const CPU: &str = "CPU per delivery, gateway and RabbitMQ, µs";

/// What a scenario of the gateway alone is called here.
pub fn name(alone: &str) -> String {
    format!("in front of RabbitMQ: {alone}")
}

/// Runs the scenario.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let mut servers = [gateway.start_before(RabbitMq::start()?)?, Server::plugin(RabbitMq::start()?)];
    for subscribers in [FEW, plan.clients] {
        servers = fan_out(servers, plan, subscribers, report).await?;
    }
    latency(&servers, plan, report).await
}

async fn fan_out(
    [gateway, plugin]: [Server; 2],
    plan: &Plan,
    subscribers: usize,
    report: &mut Report,
) -> io::Result<[Server; 2]> {
    let bridged = Crowd::of_gateway(gateway, subscribers).await?;
    let plugin = Crowd::of_gateway(plugin, subscribers).await?;
    let mut crowds = fan_out::warmed_up([bridged, plugin]).await?;
    let floor = Crowd::of_floor(Server::floor()?, subscribers, &crowds[0].delivery()?).await?;
    crowds.extend(fan_out::warmed_up([floor]).await?);
    let [bridged, plugin, floor] = fan_out::in_turn(&mut crowds, 1, plan).await?;
    let servers = fan_out::finish(crowds).await?;
    let scenario = name(&fan_out::name(subscribers, 1));
    report.add_beside(PLUGIN, &scenario, CPU, bridged.cpu.clone(), &plugin.cpu);
    report.add_beside(PLUGIN, &scenario, "of it RabbitMQ's, µs", bridged.broker_cpu, &plugin.broker_cpu);
    report.add_beside(PLUGIN, &scenario, fan_out::RATE, bridged.rate.clone(), &plugin.rate);
    report.add(&scenario, CPU, bridged.cpu, &floor.cpu);
    report.add(&scenario, fan_out::RATE, bridged.rate, &floor.rate);
    fan_out::both(servers).await
}

async fn latency(servers: &[Server; 2], plan: &Plan, report: &mut Report) -> io::Result<()> {
    for (subscribers, rate) in [(1, RATE), (FEW, FEWS_RATE)] {
        let [bridged, plugin] = latency::in_turn(servers, subscribers, rate, plan).await?;
        bridged.report_beside(PLUGIN, &plugin, &name(&latency::name(subscribers, rate)), report);
    }
    Ok(())
}
