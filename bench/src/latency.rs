//! One publisher at a fixed low rate, one subscriber. The load is open loop: a message's time runs from when it was due,
//! not from when it was sent, so that a stall counts for every message it delays.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::floor;
use crate::plan::Plan;
use crate::process::{Gateway, Server};
use crate::report::Report;
use crate::wire;

const DESTINATION: &str = "/topic/bench";
/// Messages per second.
pub const RATE: u32 = 500;
/// For how long the last message is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the scenario.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let mut halves = [Vec::new(), Vec::new()];
    let mut tails = [Vec::new(), Vec::new()];
    for round in 0..plan.rounds {
        for turn in [round % 2, (round + 1) % 2] {
            let server = if turn == 0 { gateway.start()? } else { Server::floor()? };
            let (publisher, subscriber) = if turn == 0 { join(&server).await? } else { join_floor(&server).await? };
            let mut times = measure(publisher, subscriber, plan.round).await?;
            times.sort_unstable();
            halves[turn].push(percentile(&times, 50));
            tails[turn].push(percentile(&times, 99));
        }
    }
    let scenario = format!("latency, 1 subscriber, {RATE}/s");
    let ([gateway_half, floor_half], [gateway_tail, floor_tail]) = (halves, tails);
    report.add(&scenario, "p50, µs", gateway_half, &floor_half);
    report.add(&scenario, "p99, µs", gateway_tail, &floor_tail);
    Ok(())
}

/// Publisher and subscriber.
pub async fn join(server: &Server) -> io::Result<(Client, Client)> {
    let subscriber = Client::subscribe(server.address(), 0, DESTINATION, "auto").await?;
    Ok((Client::connect(server.address(), 0).await?, subscriber))
}

async fn join_floor(server: &Server) -> io::Result<(Client, Client)> {
    let subscriber = floor::subscribe(server.address()).await?;
    let message = wire::send(DESTINATION, None, 0, 0);
    // What a gateway adds to its deliveries is about what SEND has more than MESSAGE: near enough for a round trip.
    let delivery = wire::delivery(&message[8..])?;
    Ok((floor::publisher(server.address(), message.len(), &delivery).await?, subscriber))
}

/// The time of each message, in nanoseconds.
pub async fn measure(publisher: Client, subscriber: Client, time: Duration) -> io::Result<Vec<u64>> {
    let (start, publisher) = (Instant::now(), publisher.into_blocking()?);
    let messages = u32::try_from((time * RATE).as_secs()).unwrap_or(u32::MAX).max(1);
    let times = Rc::new(RefCell::new(Vec::new()));
    let sender = thread::spawn(move || publish(publisher, start, messages));
    let patience = tokio::time::timeout(time + PATIENCE, async {
        while times.borrow().len() < messages as usize {
            subscriber
                .read(|frame| {
                    let mut times = times.borrow_mut();
                    if wire::number(frame)? != times.len() as u64 {
                        return Err(io::Error::other("a message was lost, doubled or reordered"));
                    }
                    times.push(nanoseconds(start.elapsed()).saturating_sub(wire::time(frame)?));
                    Ok(())
                })
                .await?;
        }
        Ok(())
    });
    let received = patience.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let sent = sender.join().unwrap_or_else(|_| Err(io::Error::other("the publisher failed")));
    received.and(sent)?;
    Ok(times.take())
}

/// A thread of its own, because the runtime's clock ticks in milliseconds.
fn publish(mut stream: TcpStream, start: Instant, messages: u32) -> io::Result<()> {
    nix::sys::prctl::set_timerslack(1)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    for number in 0..messages {
        let due = Duration::from_secs(1) / RATE * (number + 1);
        thread::sleep(due.saturating_sub(start.elapsed()));
        stream.write_all(&wire::send(DESTINATION, None, number.into(), nanoseconds(due)))?;
    }
    Ok(())
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
