//! Measures a stompgate: fan-out beside a bare-socket floor, queues, connecting, latency, what idle clients cost, and
//! what clients cost a RabbitMQ behind it.
//!
//! ```text
//! main ──► scenario (fan_out, latency, queue, connecting, idle, app, ..., plugin, broker_cost)
//!              │ starts a child: the gateway, or this program as `floor-server`      process, floor
//!              │ drives clients on one thread                                         client, wire
//!              └─► rows ──► Markdown and JSON                                         report, goals
//! ```
//! Each scenario checks what it measures: nothing lost, doubled or reordered, or it fails.

mod app;
mod bridge;
mod bridged;
mod broker_cost;
mod client;
mod connecting;
mod deflate;
mod fan_out;
mod floor;
mod goals;
mod heartbeats;
mod idle;
mod idle_floor;
mod latency;
mod metrics;
mod mosquitto;
mod mqtt;
mod plan;
mod plugin;
mod process;
mod queue;
mod rabbitmq;
mod report;
mod restart;
mod returning;
mod rules;
mod scale;
mod stalled;
mod tls;
mod wire;
mod workers;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use plan::{Plan, Scenario};
use report::Report;

/// Measures a stompgate on this machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The gateway's binary
    #[arg(long, env = "BENCH_GATEWAY", value_name = "FILE", default_value = "target/release/stompgate")]
    gateway: PathBuf,
    /// A setting of the gateway; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// One round, and a shorter one, without idle-cpu: two minutes
    #[arg(long)]
    quick: bool,
    /// Subscribers or idle clients of the larger scenarios
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=15000))]
    clients: u32,
    /// Rounds, gateway and floor in turn [default: 3, with --quick 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: Option<u32>,
    /// Only these scenarios
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Everything that a goal is set for, RabbitMQ's plugin among it, and a table of the goals
    #[arg(long, conflicts_with = "only")]
    compare: bool,
    /// Write the values of every round to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Subcommand)]
enum Command {
    /// Serve as the floor: started by the measurements themselves
    #[command(hide = true)]
    FloorServer,
    /// Serve as the floor of idle clients: started by the measurements themselves
    #[command(hide = true)]
    IdleFloorServer,
    /// Publish by AMQP for so many milliseconds: started by the measurements themselves
    #[command(hide = true)]
    BarePublisher {
        /// Where the broker is
        uri: String,
        /// For how long
        milliseconds: u64,
    },
    /// Publish by MQTT for so many milliseconds: started by the measurements themselves
    #[command(hide = true)]
    BareMqttPublisher {
        /// Where the broker is, # and the quality of service
        place: String,
        /// For how long
        milliseconds: u64,
    },
    /// Consume by MQTT what they publish: started by the measurements themselves
    #[command(hide = true)]
    BareMqttConsumer {
        /// Where the broker is, # and the quality of service
        place: String,
        /// How many seconds' worth of messages
        milliseconds: u64,
    },
    /// Consume by AMQP what they publish: started by the measurements themselves
    #[command(hide = true)]
    BareConsumer {
        /// Where the broker is
        uri: String,
        /// How many seconds' worth of messages
        milliseconds: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Some(Command::FloorServer) => floor::serve(),
        Some(Command::IdleFloorServer) => idle_floor::serve(),
        Some(Command::BarePublisher { uri, milliseconds }) => {
            bridge::bare_publisher(uri, Duration::from_millis(*milliseconds))
        }
        Some(Command::BareMqttPublisher { place, milliseconds }) => {
            mqtt::bare_publisher(place, Duration::from_millis(*milliseconds))
        }
        Some(Command::BareMqttConsumer { place, milliseconds }) => {
            mqtt::bare_consumer(place, Duration::from_millis(*milliseconds))
        }
        Some(Command::BareConsumer { uri, milliseconds }) => {
            bridge::bare_consumer(uri, Duration::from_millis(*milliseconds))
        }
        None => measure(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    let plan = Plan::new(arguments.quick, arguments.clients as usize, arguments.rounds.map(|rounds| rounds as usize));
    let gateway = process::Gateway { binary: arguments.gateway.clone(), settings: arguments.set.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report = Report::new();
    let chosen = |scenario: &Scenario| match arguments.only.as_slice() {
        [] if arguments.quick && *scenario == Scenario::IdleCpu => false, // heart-beats take their time
        [] if arguments.compare => scenario.has_goals(),
        [] => !scenario.is_long(),
        only => only.contains(scenario),
    };
    let chosen: Vec<_> = Scenario::all().filter(chosen).collect();
    let clients = chosen.iter().map(|scenario| scenario.clients(&plan)).max().unwrap_or(0);
    raise_descriptors(clients as u64 + 256)?;
    for scenario in chosen {
        eprintln!("bench: {scenario} ...");
        let within = plan.limit(scenario);
        let tasks = tokio::task::LocalSet::new();
        let run = tasks.run_until(async {
            let run = scenario.run(&gateway, &plan, &mut report);
            tokio::time::timeout(within, run).await.unwrap_or_else(|_| Err(late(within)))
        });
        runtime.block_on(run).map_err(|error| io::Error::new(error.kind(), format!("{scenario}: {error}")))?;
    }
    if arguments.compare {
        println!("{}", goals::markdown(&report, &plan));
    }
    print!("{}", report.markdown());
    let Some(file) = &arguments.json else { return Ok(()) };
    let mut all = report.json();
    if arguments.compare {
        all = serde_json::json!({ "goals": goals::json(&report, &plan), "rows": all });
    }
    std::fs::write(file, all.to_string())
}

fn late(within: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("not done within {} s", within.as_secs()))
}

/// Descriptors for this process and, by inheritance, for the servers.
fn raise_descriptors(needed: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < needed {
        return Err(io::Error::other(format!("{needed} descriptors are needed, and the hard limit is {hard}")));
    }
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
