//! What many subscribers of one topic cost RabbitMQ: through the gateway, and through its own Web STOMP plugin.

use std::io;
use std::time::Duration;

use crate::fan_out::{Crowd, Until};
use crate::plan::Plan;
use crate::process::{Gateway, Memory, Server, cpu};
use crate::rabbitmq::{Holdings, RabbitMq};
use crate::report::{PLUGIN, Report};

/// Messages that each client gets while CPU is counted.
const MESSAGES: u64 = 20;
/// For connecting to be over, and the broker's own metrics to be up to date.
const SETTLE: Duration = Duration::from_secs(6);

/// One way to the broker, by round.
#[derive(Default)]
struct Way {
    connections: Vec<f64>,
    channels: Vec<f64>,
    queues: Vec<f64>,
    bindings: Vec<f64>,
    processes: Vec<f64>,
    allocated: Vec<f64>,
    resident: Vec<f64>,
    connecting: Vec<f64>,
    idle: Vec<f64>,
    fan_out: Vec<f64>,
    fan_out_together: Vec<f64>,
    seconds: Vec<f64>,
}

/// Runs the scenario: each round both ways, each time with a broker of its own.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let mut ways = [Way::default(), Way::default()];
    for round in 0..plan.rounds {
        for turn in [round % 2, (round + 1) % 2] {
            let broker = RabbitMq::start()?;
            let server = if turn == 0 { gateway.start_before(broker)? } else { Server::plugin(broker) };
            ways[turn].measure(server, plan).await?;
        }
    }
    let [of_gateway, of_plugin] = ways;
    of_gateway.report(&of_plugin, &format!("RabbitMQ with {} subscribers of one topic", plan.clients), report);
    Ok(())
}

impl Way {
    async fn measure(&mut self, server: Server, plan: &Plan) -> io::Result<()> {
        let clients = plan.clients as f64;
        let before = look(&server)?;
        let start = broker_cpu(&server)?;
        let mut crowd = Crowd::of_gateway(server, plan.clients).await?;
        tokio::time::sleep(SETTLE).await;
        self.connecting.push((broker_cpu(crowd.server())? - start) * 1e6 / clients);
        let (holdings, resident) = look(crowd.server())?;
        self.connections.push(holdings.connections);
        self.channels.push(holdings.channels);
        self.queues.push(holdings.queues);
        self.bindings.push(holdings.bindings);
        self.processes.push(holdings.processes - before.0.processes);
        self.allocated.push((holdings.allocated - before.0.allocated) / 1024.0 / clients);
        self.resident.push((resident - before.1) / 1024.0 / clients);
        let start = broker_cpu(crowd.server())?;
        tokio::time::sleep(plan.idle).await;
        self.idle.push((broker_cpu(crowd.server())? - start) * 100.0 / plan.idle.as_secs_f64());
        crowd.publish(1, Until::Messages(1)).await?; // the way is warm
        let start = broker_cpu(crowd.server())?;
        let sample = crowd.measure(1, Until::Messages(MESSAGES)).await?;
        self.fan_out.push((broker_cpu(crowd.server())? - start) * 1e6 / sample.deliveries);
        self.fan_out_together.push(sample.usage.server / sample.deliveries);
        self.seconds.push(sample.usage.seconds);
        crowd.finish().await.map(drop)
    }

    fn report(self, plugin: &Way, scenario: &str, report: &mut Report) {
        for (measure, gateway, plugin) in [
            ("connections to RabbitMQ", self.connections, &plugin.connections),
            ("channels", self.channels, &plugin.channels),
            ("queues", self.queues, &plugin.queues),
            ("bindings", self.bindings, &plugin.bindings),
            ("more Erlang processes", self.processes, &plugin.processes),
            ("RabbitMQ's memory per client, allocated, KiB", self.allocated, &plugin.allocated),
            ("RabbitMQ's memory per client, resident, KiB", self.resident, &plugin.resident),
            ("RabbitMQ's CPU per client that connects and subscribes, µs", self.connecting, &plugin.connecting),
            ("RabbitMQ's CPU while all are idle, % of a core", self.idle, &plugin.idle),
            ("RabbitMQ's CPU per delivery of 20 messages to all, µs", self.fan_out, &plugin.fan_out),
            ("the same with the gateway's, µs", self.fan_out_together, &plugin.fan_out_together),
            ("time for these 20 messages, s", self.seconds, &plugin.seconds),
        ] {
            report.add_beside(PLUGIN, scenario, measure, gateway, plugin);
        }
    }
}

/// What the broker holds, and its resident memory.
fn look(server: &Server) -> io::Result<(Holdings, f64)> {
    let broker = broker(server)?;
    let holdings = broker.holdings()?;
    Ok((holdings, Memory::of(broker.process())?.rss as f64))
}

/// In seconds.
fn broker_cpu(server: &Server) -> io::Result<f64> {
    Ok(cpu(&broker(server)?.process().to_string())?.as_secs_f64())
}

fn broker(server: &Server) -> io::Result<&RabbitMq> {
    server.broker().ok_or_else(|| io::Error::other("no broker behind the server"))
}
