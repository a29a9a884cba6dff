//! What clients cost that exchange heart-beats and do nothing else; beside the floor.

use std::io;
use std::pin::pin;
use std::time::Duration;

use tokio::select;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, sleep_until};

use crate::client::{self, Client, IN_FLIGHT};
use crate::idle::SETTLE;
use crate::idle_floor;
use crate::plan::Plan;
use crate::process::{Gateway, Server};
use crate::report::Report;
use crate::wire;

/// CPU of the server.
pub const CPU: &str = "CPU per client and second, µs";
/// Between two heart-beats, either way.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// Until every client has begun.
pub const SPREAD: Duration = INTERVAL.saturating_add(SETTLE);
/// The longest that a client waits for one.
const LATEST: Duration = INTERVAL.saturating_add(Duration::from_secs(1));
/// Of an interval: so far apart are what a client sends first and its heart-beats.
const GOLDEN: f64 = 0.618;

/// What the scenario is called.
pub fn name(clients: usize) -> String {
    format!("idle, {clients} clients, 10 s heart-beats")
}

/// CPU of a gateway and of the floor, in turn, whose clients only exchange heart-beats: of some, whose heart-beats find the
/// machine asleep, and of many.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    for clients in plan.idlers() {
        let mut values = [const { Vec::new() }; 2];
        for round in 0..plan.rounds {
            for turn in 0..2 {
                let turn = (turn + round) % 2;
                let is_gateway = turn == 0;
                let value =
                    if is_gateway { of_gateway(gateway, clients, plan).await } else { of_floor(clients, plan).await };
                values[turn].push(value?);
            }
        }
        let [own, floor] = values;
        report.add(&name(clients), CPU, own, &floor);
    }
    Ok(())
}

async fn of_gateway(gateway: &Gateway, clients: usize, plan: &Plan) -> io::Result<f64> {
    let server = gateway.start()?;
    let (address, interval) = (server.address(), u32::try_from(INTERVAL.as_millis()).unwrap_or(u32::MAX));
    let clients = client::many(clients, IN_FLIGHT, move || Client::connect(address, interval)).await?;
    let mut subscribe = Vec::new();
    wire::push_message(client::subscribe("/topic/bench", "auto").as_bytes(), &mut subscribe);
    measure(&server, clients, &subscribe, plan).await
}

async fn of_floor(clients: usize, plan: &Plan) -> io::Result<f64> {
    let server = Server::idle_floor()?;
    let address = server.address();
    let clients = client::many(clients, IN_FLIGHT, move || Client::bare(address)).await?;
    measure(&server, clients, idle_floor::BEGIN, plan).await
}

/// CPU of a server for each client, in microseconds per second. Each client sends `first` at a time of its own.
async fn measure(server: &Server, clients: Vec<Client>, first: &[u8], plan: &Plan) -> io::Result<f64> {
    let (number, mut beating) = (clients.len() as f64, JoinSet::new());
    for (index, client) in clients.into_iter().enumerate() {
        beating.spawn_local(beat(client, first.to_vec(), index as f64 / number));
    }
    sleep(SPREAD).await;
    let meter = server.meter()?;
    sleep(plan.idle).await;
    let usage = meter.read(server)?;
    match beating.try_join_next() {
        Some(ended) => Err(ended?.err().unwrap_or_else(|| io::Error::other("a client ended"))),
        None => Ok(usage.server / usage.seconds / number),
    }
}

/// Sends `first` at its part of the interval, heart-beats at another, and reads what comes; which must not be late.
///
/// The server's heart-beats count from its answer to `first`, and so they are spread as evenly as the client's, as those of
/// clients are that came one by one.
async fn beat(client: Client, first: Vec<u8>, part: f64) -> io::Result<()> {
    let start = Instant::now();
    let heartbeat = heartbeat_message();
    let mut due = interval_at(start + INTERVAL.mul_f64((part + GOLDEN).fract()), INTERVAL);
    let mut begin = pin!(sleep_until(start + INTERVAL.mul_f64(part)));
    let mut heard = None;
    loop {
        let late = heard.unwrap_or(start + INTERVAL) + LATEST;
        select! {
            () = &mut begin, if heard.is_none() => {
                client.send(&first).await?;
                heard = Some(Instant::now());
            }
            _ = due.tick() => client.send(&heartbeat).await?,
            // Nothing but heart-beats comes after the answer to `first`, and `read` only ever returns after one read.
            result = client.read(|_| Ok(())) => {
                result?;
                heard = heard.map(|_| Instant::now());
            }
            () = sleep_until(late) => return Err(io::Error::other("a heart-beat is late")),
        }
    }
}

fn heartbeat_message() -> Vec<u8> {
    let mut message = Vec::new();
    wire::push_message(b"\n", &mut message);
    message
}
