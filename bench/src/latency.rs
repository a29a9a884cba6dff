//! One publisher at a fixed low rate, and subscribers. The load is open loop: a message's time runs from when it was due,
//! not from when it was sent, so that a stall counts for every message it delays.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use crate::client::{self, Client, IN_FLIGHT};
use crate::fan_out::FEW;
use crate::floor;
use crate::plan::Plan;
use crate::process::{Gateway, Server};
use crate::report::{FLOOR, Report};
use crate::wire;

/// Where all of it goes.
pub const DESTINATION: &str = "/topic/bench";
/// Messages per second, to one subscriber.
pub const RATE: u32 = 500;
/// The same, to a hundred.
pub const FEWS_RATE: u32 = 50;
/// The same, to a thousand.
pub const MANYS_RATE: u32 = 5;
/// For how long the last message is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time within which half of the deliveries came.
pub const HALF: &str = "p50, µs";
/// That within which 99 of 100 came.
pub const TAIL: &str = "p99, µs";

/// Percentiles of each round, in microseconds.
pub struct Times {
    half: Vec<f64>,
    tail: Vec<f64>,
}

/// What the scenario is called.
pub fn name(subscribers: usize, rate: u32) -> String {
    format!("latency, subscribers: {subscribers}, {rate}/s")
}

/// Runs the scenario.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    for (subscribers, rate) in [(1, RATE), (FEW, FEWS_RATE), (plan.clients, MANYS_RATE)] {
        let [mut own, mut floors] = [const { Times::new() }; 2];
        for round in 0..plan.rounds {
            for turn in [round % 2, (round + 1) % 2] {
                let server = if turn == 0 { gateway.start()? } else { Server::floor()? };
                let (publisher, subscribers) = if turn == 0 {
                    join(&server, subscribers).await?
                } else {
                    join_floor(&server, subscribers).await?
                };
                let times = measure(publisher, &subscribers, rate, plan.latency).await?;
                if turn == 0 { own.push(&times) } else { floors.push(&times) }
            }
        }
        own.report_beside(FLOOR, &floors, &name(subscribers, rate), report);
    }
    Ok(())
}

/// Measures so many servers in turn, with new clients each time.
pub async fn in_turn<const COUNT: usize>(
    servers: &[Server; COUNT],
    subscribers: usize,
    rate: u32,
    plan: &Plan,
) -> io::Result<[Times; COUNT]> {
    let mut all = [const { Times::new() }; COUNT];
    for round in 0..plan.rounds {
        for turn in 0..COUNT {
            let turn = (turn + round) % COUNT;
            let (publisher, subscribers) = join(&servers[turn], subscribers).await?;
            all[turn].push(&measure(publisher, &subscribers, rate, plan.latency).await?);
        }
    }
    Ok(all)
}

impl Times {
    const fn new() -> Self {
        Times { half: Vec::new(), tail: Vec::new() }
    }

    /// Adds a round's, which are sorted.
    pub fn push(&mut self, sorted: &[u64]) {
        self.half.push(percentile(sorted, 50));
        self.tail.push(percentile(sorted, 99));
    }

    /// Adds their rows.
    pub fn report_beside(self, beside: &'static str, other: &Times, scenario: &str, report: &mut Report) {
        report.add_beside(beside, scenario, HALF, self.half, &other.half);
        report.add_beside(beside, scenario, TAIL, self.tail, &other.tail);
    }
}

/// Publisher and subscribers.
pub async fn join(server: &Server, subscribers: usize) -> io::Result<(Client, Vec<Client>)> {
    let address = server.address();
    let receivers =
        client::many(subscribers, IN_FLIGHT, move || Client::subscribe(address, 0, DESTINATION, "auto")).await?;
    Ok((Client::connect(address, 0).await?, receivers))
}

async fn join_floor(server: &Server, subscribers: usize) -> io::Result<(Client, Vec<Client>)> {
    let address = server.address();
    let receivers = client::many(subscribers, IN_FLIGHT, move || floor::subscribe(address)).await?;
    let message = wire::send(DESTINATION, None, 0, 0);
    // What a gateway adds to its deliveries is about what SEND has more than MESSAGE: near enough for a round trip.
    let delivery = wire::delivery(&message[8..])?;
    Ok((floor::publisher(address, message.len(), &delivery).await?, receivers))
}

/// The time of each delivery, in nanoseconds and in their order, with so many messages per second. The first tenth of the
/// messages does not count: with these the server makes what it needs.
///
/// This thread never sleeps meanwhile: what it takes to wake the load generator is no time of the server's. But it gives way to
/// whoever wants its processor.
pub async fn measure(publisher: Client, subscribers: &[Client], rate: u32, time: Duration) -> io::Result<Vec<u64>> {
    let start = Instant::now();
    let messages = u32::try_from((time * rate).as_secs()).unwrap_or(u32::MAX).max(1);
    let receiving = try_join_all(subscribers.iter().map(|subscriber| receive(subscriber, start, messages as usize)));
    let patience = tokio::time::timeout(time + PATIENCE, receiving);
    let received = tokio::select! {
        received = patience => received.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        Err(failed) = publish(&publisher, start, rate, messages) => Err(failed),
    };
    let first = (messages as usize).div_ceil(10);
    let mut times: Vec<_> = received?.iter().flat_map(|times| times.iter().skip(first)).copied().collect();
    times.sort_unstable();
    Ok(times)
}

async fn receive(subscriber: &Client, start: Instant, messages: usize) -> io::Result<Vec<u64>> {
    let mut times = Vec::with_capacity(messages);
    while times.len() < messages {
        subscriber
            .read(|frame| {
                if wire::number(frame)? != times.len() as u64 {
                    return Err(io::Error::other("a message was lost, doubled or reordered"));
                }
                times.push(nanoseconds(start.elapsed()).saturating_sub(wire::time(frame)?));
                Ok(())
            })
            .await?;
    }
    Ok(times)
}

/// Publishes each message when it is due, and looks for what has come until then, and after the last one for ever.
async fn publish(publisher: &Client, start: Instant, rate: u32, messages: u32) -> io::Result<()> {
    for number in 0..messages {
        let due = Duration::from_secs(1) / rate * (number + 1);
        while start.elapsed() < due {
            look_again().await;
        }
        publisher.send(&wire::send(DESTINATION, None, number.into(), nanoseconds(due))).await?;
    }
    loop {
        look_again().await;
    }
}

/// Lets whoever waits for this processor have it, and then reads what has come.
async fn look_again() {
    thread::yield_now();
    tokio::task::yield_now().await;
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// In microseconds.
pub fn percentile(sorted: &[u64], percent: usize) -> f64 {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .map_or(f64::NAN, |time| *time as f64 / 1000.0)
}
