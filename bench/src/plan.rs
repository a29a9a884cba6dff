//! How long and how often each scenario runs, and the list of scenarios.

use std::fmt;
use std::io;
use std::time::Duration;

use clap::ValueEnum;

use crate::process::Gateway;
use crate::report::Report;
use crate::{
    app, bridge, bridged, broker_cost, connecting, deflate, fan_out, heartbeats, idle, latency, metrics, mqtt, plugin,
    queue, restart, returning, rules, scale, stalled, tls, workers,
};

/// Clients of the larger half of what idle ones are measured by, unless others are more.
const MANY_IDLE: usize = 10_000;

/// Counts and times of one run of all scenarios.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Subscribers or idle clients of the larger scenarios.
    pub clients: usize,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Length of one round.
    pub round: Duration,
    /// Length of one round of latency, of which more messages are needed: a tail is made of few of them.
    pub latency: Duration,
    /// For how long idle clients are watched.
    pub idle: Duration,
    /// Connections that are made in one round of connecting.
    pub connects: usize,
}

impl Plan {
    /// The quick plan has one round, unless told otherwise, and shorter ones.
    pub fn new(is_quick: bool, clients: usize, rounds: Option<usize>) -> Self {
        let (usual, round, latency, idle, connects) =
            if is_quick { (1, 700, 1000, 5, 1000) } else { (3, 3000, 10_000, 10, 2000) };
        let [round, latency] = [round, latency].map(Duration::from_millis);
        Plan { clients, rounds: rounds.unwrap_or(usual), round, latency, idle: Duration::from_secs(idle), connects }
    }

    /// How many clients do nothing but exchange heart-beats, one after the other.
    pub fn idlers(&self) -> Vec<usize> {
        let many = (self.clients < MANY_IDLE).then_some(MANY_IDLE);
        [self.clients].into_iter().chain(many).collect()
    }

    /// When a scenario that has not ended must have failed.
    pub fn limit(&self, scenario: Scenario) -> Duration {
        let rounds = u32::try_from(self.rounds).unwrap_or(u32::MAX);
        // A RabbitMQ takes its time to start, and to let thousands of clients in.
        let start = Duration::from_mins(if scenario.is_long() { 10 } else { 0 }) * rounds;
        Duration::from_mins(1)
            + start
            + (heartbeats::SPREAD + self.idle) * 4 * rounds
            + (self.round + self.latency) * rounds * 16
    }
}

/// One group of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// One publisher, many subscribers, saturated; beside the floor.
    FanOut,
    /// One publisher, one subscriber, a low fixed rate; beside the floor.
    Latency,
    /// One producer with receipts; one and four consumers, in each ack mode.
    Queue,
    /// Connect, CONNECT, SUBSCRIBE.
    Connect,
    /// Memory of clients that do nothing, and after some messages.
    IdleMemory,
    /// CPU of clients that send and get heart-beats only; beside the floor.
    IdleCpu,
    /// What counting costs: metrics of frames and messages, on and off.
    Metrics,
    /// SEND to RECEIPT through routes of `/app`, beside a topic.
    App,
    /// SEND to RECEIPT under many rules, beside none.
    Rules,
    /// Fan-out and memory of compressed messages, beside the same without.
    Deflate,
    /// Latency and memory while some subscribers do not read, beside the same without them.
    Stalled,
    /// Fan-out with two threads that serve clients, beside one.
    Workers,
    /// Handshakes of TLS beside what OpenSSL could do, and memory of its clients beside plain ones.
    Tls,
    /// In front of RabbitMQ, beside a bare AMQP program. Only when it is asked for.
    Bridge,
    /// Fan-out and latency in front of RabbitMQ, beside RabbitMQ's own plugin and the floor. Only when it is asked for.
    Bridged,
    /// Fan-out in front of Mosquitto, beside Mosquitto alone and the floor; publishing and reading beside a bare MQTT
    /// program. Only when it is asked for.
    Mqtt,
    /// Fan-out, latency, connecting and memory beside RabbitMQ's own plugin. Only when it is asked for.
    Plugin,
    /// All clients come at once, beside RabbitMQ's own plugin. Only when it is asked for.
    Returning,
    /// RabbitMQ is killed and started again, beside a bare AMQP program that binds as much. Only when it is asked for.
    Restart,
    /// How costs grow with clients, destinations and subscriptions. Only when it is asked for.
    Scale,
    /// What many subscribers cost RabbitMQ, through the gateway and through its own plugin. Only when it is asked for.
    BrokerCost,
}

impl Scenario {
    /// All, in the order of the report.
    pub fn all() -> impl Iterator<Item = Scenario> {
        Scenario::value_variants().iter().copied()
    }

    /// Whether it starts a RabbitMQ or thousands of clients, and so is left out unless it is asked for.
    pub fn is_long(self) -> bool {
        matches!(
            self,
            Scenario::Bridge
                | Scenario::Bridged
                | Scenario::Mqtt
                | Scenario::Plugin
                | Scenario::Returning
                | Scenario::Restart
                | Scenario::Scale
                | Scenario::BrokerCost
        )
    }

    /// Clients that it has at a time, at most.
    pub fn clients(self, plan: &Plan) -> usize {
        match self {
            Scenario::Scale => scale::MOST,
            Scenario::IdleCpu => plan.idlers().into_iter().max().unwrap_or_default(),
            _ => plan.clients,
        }
    }

    /// Whether a goal is set for something that it measures.
    pub fn has_goals(self) -> bool {
        !matches!(
            self,
            Scenario::Queue
                | Scenario::Metrics
                | Scenario::App
                | Scenario::Rules
                | Scenario::Scale
                | Scenario::BrokerCost
        )
    }

    /// Runs it and adds its rows.
    pub async fn run(self, gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
        match self {
            Scenario::FanOut => fan_out::run(gateway, plan, report).await,
            Scenario::Latency => latency::run(gateway, plan, report).await,
            Scenario::Queue => queue::run(gateway, plan, report).await,
            Scenario::Connect => connecting::run(gateway, plan, report).await,
            Scenario::IdleMemory => idle::memory(gateway, plan, report).await,
            Scenario::IdleCpu => heartbeats::run(gateway, plan, report).await,
            Scenario::Metrics => metrics::run(gateway, plan, report).await,
            Scenario::App => app::run(gateway, plan, report).await,
            Scenario::Rules => rules::run(gateway, plan, report).await,
            Scenario::Deflate => deflate::run(gateway, plan, report).await,
            Scenario::Stalled => stalled::run(gateway, plan, report).await,
            Scenario::Workers => workers::run(gateway, plan, report).await,
            Scenario::Tls => tls::run(gateway, plan, report).await,
            Scenario::Bridge => bridge::run(gateway, plan, report).await,
            Scenario::Bridged => bridged::run(gateway, plan, report).await,
            Scenario::Mqtt => mqtt::run(gateway, plan, report).await,
            Scenario::Plugin => plugin::run(gateway, plan, report).await,
            Scenario::Returning => returning::run(gateway, plan, report).await,
            Scenario::Restart => restart::run(gateway, plan, report).await,
            Scenario::Scale => scale::run(gateway, plan, report).await,
            Scenario::BrokerCost => broker_cost::run(gateway, plan, report).await,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}
