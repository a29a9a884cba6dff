//! How costs grow: with clients, with destinations, with subscriptions that come and go; and how long a start takes.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use crate::client::{self, Client, IN_FLIGHT};
use crate::fan_out::{self, Crowd, Until, WARM_UP};
use crate::idle;
use crate::plan::Plan;
use crate::process::{Gateway, Server};
use crate::report::Report;
use crate::wire;

/// The most clients at a time.
pub const MOST: usize = 15_000;
/// Clients of one topic.
const CLIENTS: [usize; 4] = [100, 1000, 5000, MOST];
/// Topics, each with one subscriber.
const DESTINATIONS: [usize; 4] = [1, 100, 10_000, 100_000];
/// Clients that subscribe to these, each to as many: at most to what `session.max_subscriptions` allows.
const READERS: usize = 100;
/// Messages that are counted together.
const MESSAGES: usize = 1000;
/// Messages that are on their way to the topics at a time.
const WINDOW: usize = 16;
/// Clients whose subscriptions come and go.
const RESTLESS: usize = 64;
/// Subscriptions that each of them makes, and ends, at a time.
const STORM: usize = 100;

/// Runs the scenario.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    start(gateway, plan, report)?;
    for number in CLIENTS {
        clients(gateway, number, plan, report).await?;
    }
    for number in DESTINATIONS {
        destinations(gateway, number, plan, report).await?;
    }
    storm(gateway, plan, report).await
}

/// From the start of the process until it listens.
fn start(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let mut times = Vec::new();
    for _ in 0..plan.rounds {
        let begun = Instant::now();
        let server = gateway.start()?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        drop(server);
    }
    report.add("start", "time until it listens, ms", times, &[]);
    Ok(())
}

/// Memory of each of so many clients, and CPU of a delivery to each, beside the floor.
async fn clients(gateway: &Gateway, number: usize, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let [mut memory, mut own, mut floors] = [const { Vec::new() }; 3];
    for _ in 0..plan.rounds {
        memory.push(idle::resident(gateway.start()?, number).await?);
        let mut crowd = Crowd::of_gateway(gateway.start()?, number).await?;
        own.push(cpu(&mut crowd, plan).await?);
        let delivery = crowd.delivery()?;
        crowd.finish().await?; // descriptors are for one crowd at a time
        let mut crowd = Crowd::of_floor(Server::floor()?, number, &delivery).await?;
        floors.push(cpu(&mut crowd, plan).await?);
        crowd.finish().await?;
    }
    let scenario = format!("scale, {number} clients of a topic");
    report.add(&scenario, idle::RSS, memory, &[]);
    report.add(&scenario, fan_out::CPU, own, &floors);
    Ok(())
}

async fn cpu(crowd: &mut Crowd, plan: &Plan) -> io::Result<f64> {
    crowd.publish(1, Until::Messages(WARM_UP)).await?;
    let sample = crowd.measure(1, Until::Elapsed(plan.round)).await?;
    Ok(sample.usage.server / sample.deliveries)
}

/// Memory of each of so many topics with a subscriber, and CPU of a message to one of them.
async fn destinations(gateway: &Gateway, number: usize, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let [mut memory, mut making, mut cpu] = [const { Vec::new() }; 3];
    for _ in 0..plan.rounds {
        let server = gateway.start()?;
        let (address, readers) = (server.address(), number.min(READERS));
        let publisher = Client::connect(address, 0).await?;
        let readers = client::many(readers, IN_FLIGHT, move || Client::connect(address, 0)).await?;
        let (before, meter) = (server.memory()?.rss, server.meter()?);
        for (index, reader) in readers.iter().enumerate() {
            subscribe(reader, (index..number).step_by(READERS)).await?;
        }
        making.push(meter.read(&server)?.server / number as f64);
        memory.push((server.memory()?.rss as f64 - before as f64) / number as f64);
        rounds(&publisher, &readers, number, 0).await?;
        let meter = server.meter()?;
        let (begun, mut sent) = (Instant::now(), 0);
        while begun.elapsed() < plan.round {
            rounds(&publisher, &readers, number, sent).await?;
            sent += MESSAGES;
        }
        cpu.push(meter.read(&server)?.server / sent as f64);
    }
    let scenario = format!("scale, {number} topics with a subscriber each");
    report.add(&scenario, "CPU per message, µs", cpu, &[]);
    report.add(&scenario, "CPU per SUBSCRIBE, µs", making, &[]);
    report.add(&scenario, "RSS per topic and subscription, bytes", memory, &[]);
    Ok(())
}

/// The topic that the message of this number goes to: all in turn, neighbours far from each other.
fn topic(number: usize, topics: usize) -> usize {
    number.wrapping_mul(7919) % topics
}

fn name(topic: usize) -> String {
    format!("/topic/scale.{}.{topic}", topic % MESSAGES)
}

async fn subscribe(client: &Client, topics: impl Iterator<Item = usize>) -> io::Result<()> {
    let (mut frames, mut topics) = (Vec::new(), topics.peekable());
    while let Some(topic) = topics.next() {
        let receipt = if topics.peek().is_none() { "receipt:subscribed\n" } else { "" };
        let frame = format!("SUBSCRIBE\nid:{topic}\ndestination:{}\n{receipt}\n\0", name(topic));
        wire::push_message(frame.as_bytes(), &mut frames);
    }
    client.send(&frames).await?;
    client.expect("RECEIPT\n").await
}

/// Publishes [`MESSAGES`], the first of which has this number, and waits for each at its subscriber.
async fn rounds(publisher: &Client, readers: &[Client], topics: usize, first: usize) -> io::Result<()> {
    for start in (first..first + MESSAGES).step_by(WINDOW) {
        let (mut frames, mut expected) = (Vec::new(), vec![Vec::new(); readers.len()]);
        for number in start..(start + WINDOW).min(first + MESSAGES) {
            let topic = topic(number, topics);
            frames.extend(wire::send(&name(topic), None, number as u64, 0));
            expected[topic % READERS].push(number as u64);
        }
        publisher.send(&frames).await?;
        for (reader, expected) in readers.iter().zip(expected) {
            receive(reader, &expected).await?;
        }
    }
    Ok(())
}

async fn receive(reader: &Client, expected: &[u64]) -> io::Result<()> {
    let mut left = expected;
    while !left.is_empty() {
        reader
            .read(|frame| match left.split_first() {
                Some((number, rest)) if wire::number(frame)? == *number => {
                    left = rest;
                    Ok(())
                }
                _ => Err(io::Error::other("a message was lost, doubled or reordered")),
            })
            .await?;
    }
    Ok(())
}

/// Clients that subscribe and unsubscribe all the time.
async fn storm(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let server = gateway.start()?;
    let address = server.address();
    let clients = client::many(RESTLESS, IN_FLIGHT, move || Client::connect(address, 0)).await?;
    let clients: Vec<_> = clients.into_iter().map(Rc::new).collect();
    let (mut rate, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let (meter, begun, mut tasks) = (server.meter()?, Instant::now(), tokio::task::JoinSet::new());
        for (index, client) in clients.iter().map(Rc::clone).enumerate() {
            let until = plan.round;
            tasks.spawn_local(async move {
                let (frames, mut pairs) = (come_and_go(index), 0);
                while begun.elapsed() < until {
                    client.send(&frames).await?;
                    client.expect("RECEIPT\n").await?;
                    pairs += STORM;
                }
                Ok::<_, io::Error>(pairs)
            });
        }
        let mut pairs = 0;
        while let Some(done) = tasks.join_next().await {
            pairs += done??;
        }
        let usage = meter.read(&server)?;
        rate.push(pairs as f64 / usage.seconds);
        cpu.push(usage.server / pairs as f64);
    }
    let scenario = format!("scale, {RESTLESS} clients that subscribe and unsubscribe");
    report.add(&scenario, "SUBSCRIBE and UNSUBSCRIBE, pairs/s", rate, &[]);
    report.add(&scenario, "CPU per pair, µs", cpu, &[]);
    Ok(())
}

/// Subscribes to topics, a third of them with others, and takes all of it back.
fn come_and_go(client: usize) -> Vec<u8> {
    let mut frames = Vec::new();
    for number in 0..STORM {
        let owner = if number % 3 == 0 { 0 } else { client };
        let frame = format!("SUBSCRIBE\nid:{number}\ndestination:/topic/storm.{owner}.{number}\n\n\0");
        wire::push_message(frame.as_bytes(), &mut frames);
    }
    for number in 0..STORM {
        let receipt = if number + 1 == STORM { "receipt:gone\n" } else { "" };
        wire::push_message(format!("UNSUBSCRIBE\nid:{number}\n{receipt}\n\0").as_bytes(), &mut frames);
    }
    frames
}
