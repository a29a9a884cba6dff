//! Fan-out and latency in front of RabbitMQ. CPU is that of the gateway and of RabbitMQ together; beside it stand
//! RabbitMQ's own Web STOMP plugin and the floor, in turn.

use std::io;

use crate::fan_out::{self, Crowd, FEW, Until, WARM_UP};
use crate::latency::{self, FEWS_RATE, RATE};
use crate::plan::Plan;
use crate::process::{Gateway, Server};
use crate::rabbitmq::RabbitMq;
use crate::report::{PLUGIN, Report};

/// What a scenario of the gateway alone is called here.
pub fn name(alone: &str) -> String {
    format!("in front of RabbitMQ: {alone}")
}

/// Runs the scenario.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    for subscribers in [FEW, plan.clients] {
        fan_out(gateway, plan, subscribers, report).await?;
    }
    latency(gateway, plan, report).await
}

async fn fan_out(gateway: &Gateway, plan: &Plan, subscribers: usize, report: &mut Report) -> io::Result<()> {
    let bridged = Crowd::of_gateway(gateway.start_before(RabbitMq::start()?)?, subscribers).await?;
    let plugin = Crowd::of_gateway(Server::plugin(RabbitMq::start()?), subscribers).await?;
    let mut crowds = vec![bridged, plugin];
    for crowd in &mut crowds {
        crowd.publish(1, Until::Messages(WARM_UP)).await?;
    }
    let mut floor = Crowd::of_floor(Server::floor()?, subscribers, &crowds[0].delivery()?).await?;
    floor.publish(1, Until::Messages(WARM_UP)).await?;
    crowds.push(floor);
    let mut samples = [const { (Vec::new(), Vec::new(), Vec::new()) }; 3];
    for round in 0..plan.rounds {
        for turn in 0..crowds.len() {
            let turn = (turn + round) % crowds.len();
            let sample = crowds[turn].measure(1, Until::Elapsed(plan.round)).await?;
            samples[turn].0.push(sample.usage.server / sample.deliveries);
            samples[turn].1.push(sample.deliveries / sample.usage.seconds);
            samples[turn].2.push(sample.usage.broker / sample.deliveries);
        }
    }
    for crowd in crowds {
        crowd.finish().await?;
    }
    let scenario = name(&fan_out::name(subscribers, 1));
    let [(bridged, rate, brokers), (plugin, plugins_rate, plugins), (floor, floors_rate, _)] = samples;
    let measures = ["CPU per delivery, gateway and RabbitMQ, µs", "deliveries/s"];
    report.add_beside(PLUGIN, &scenario, measures[0], bridged.clone(), &plugin);
    report.add_beside(PLUGIN, &scenario, "of it RabbitMQ's, µs", brokers, &plugins);
    report.add_beside(PLUGIN, &scenario, measures[1], rate.clone(), &plugins_rate);
    report.add(&scenario, measures[0], bridged, &floor);
    report.add(&scenario, measures[1], rate, &floors_rate);
    Ok(())
}

async fn latency(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let servers = [gateway.start_before(RabbitMq::start()?)?, Server::plugin(RabbitMq::start()?)];
    for (subscribers, rate) in [(1, RATE), (FEW, FEWS_RATE)] {
        let (mut halves, mut tails) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for round in 0..plan.rounds {
            for turn in [round % 2, (round + 1) % 2] {
                let (publisher, subscribers) = latency::join(&servers[turn], subscribers).await?;
                let times = latency::measure(publisher, &subscribers, rate, plan.round).await?;
                halves[turn].push(latency::percentile(&times, 50));
                tails[turn].push(latency::percentile(&times, 99));
            }
        }
        let scenario = name(&latency::name(subscribers, rate));
        let ([half, plugins_half], [tail, plugins_tail]) = (halves, tails);
        report.add_beside(PLUGIN, &scenario, "p50, µs", half, &plugins_half);
        report.add_beside(PLUGIN, &scenario, "p99, µs", tail, &plugins_tail);
    }
    Ok(())
}
