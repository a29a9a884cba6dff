//! The gateway in front of RabbitMQ, beside a program that does the same with lapin and nothing else: publishing with
//! confirms, and consuming with acknowledgements for many messages at a time. The two take turns.
//!
//! The message is the same in both: 256 bytes, transient, with one header.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::sync::Notify;

use crate::client::Client;
use crate::plan::Plan;
use crate::process::{self, Gateway};
use crate::rabbitmq::RabbitMq;
use crate::report::Report;
use crate::wire;

/// What the two halves are called.
pub const SENDING: &str = "bridge, SEND with receipts";
pub const READING: &str = "bridge, MESSAGE of a topic";
/// What counts in both.
pub const CPU: &str = "CPU per message, µs (floor: bare lapin)";

/// The broker keeps the last message of this queue, so that it does not fill.
const QUEUE: &str = "stompgate-bench";
const DESTINATION: &str = "/queue/stompgate-bench";
const TOPIC: &str = "bench.bridge";
/// Messages that wait for their confirmation at a time.
const WINDOW: u64 = 512;
/// Messages before one acknowledgement, as the gateway does it.
const BATCH: u64 = 200;
const PREFETCH: u16 = 1000;
/// Messages of each second of a round of consuming.
const FEED: u64 = 10_000;

/// Runs both halves.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let node = RabbitMq::start()?;
    let uri = node.uri();
    let uri = uri.as_str();
    let amqp = ["broker.kind=amqp".to_owned(), format!("broker.amqp.uri={uri}"), "outbox.max_bytes=1000000000".into()];
    let settings = gateway.settings.iter().cloned().chain(amqp).collect();
    let gateway = Gateway { settings, ..gateway.clone() };
    let channel = connect(uri).await.map_err(io::Error::other)?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), options, arguments).await.map_err(io::Error::other)?;
    publishing(&gateway, uri, plan, report).await?;
    consuming(&gateway, uri, &channel, plan, report).await
}

async fn publishing(gateway: &Gateway, uri: &str, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let server = gateway.start()?;
    let producer = Client::connect(server.address(), 0).await?;
    let (mut rate, mut cpu) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    send(&producer, DESTINATION, Duration::from_millis(200)).await?; // warms up
    for round in 0..plan.rounds {
        for turn in [round % 2, (round + 1) % 2] {
            let (messages, seconds, used) = if turn == 0 {
                let meter = server.meter()?;
                let messages = send(&producer, DESTINATION, plan.round).await? as f64;
                let usage = meter.read(&server)?;
                (messages, usage.seconds, usage.server)
            } else {
                Bare::start("bare-publisher", uri, plan.round)?.wait()?
            };
            rate[turn].push(messages / seconds);
            cpu[turn].push(used / messages);
        }
    }
    add(report, SENDING, rate, cpu);
    Ok(())
}

async fn consuming(
    gateway: &Gateway,
    uri: &str,
    channel: &Channel,
    plan: &Plan,
    report: &mut Report,
) -> io::Result<()> {
    let server = gateway.start()?;
    let reader = Client::subscribe(server.address(), 0, "/topic/bench.bridge", "auto").await?;
    let messages = FEED * u64::try_from(plan.round.as_millis()).unwrap_or(u64::MAX) / 1000;
    let (arrived, changed) = (Rc::new(Cell::new(0)), Rc::new(Notify::new()));
    let mut published = 0;
    let (mut rate, mut cpu) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    tokio::task::spawn_local({
        let (arrived, changed) = (Rc::clone(&arrived), Rc::clone(&changed));
        async move {
            // An error shows as messages that do not come.
            while reader
                .read(|_| {
                    arrived.set(arrived.get() + 1);
                    Ok(())
                })
                .await
                .is_ok()
            {
                changed.notify_one();
            }
        }
    });
    for round in 0..plan.rounds {
        for turn in [round % 2, (round + 1) % 2] {
            published += messages;
            let (seconds, used) = if turn == 0 {
                let meter = server.meter()?;
                publish(channel, "amq.topic", TOPIC, |sent| sent >= messages).await.map_err(io::Error::other)?;
                arrive(published, &arrived, &changed).await;
                let usage = meter.read(&server)?;
                (usage.seconds, usage.server)
            } else {
                let bare = Bare::start("bare-consumer", uri, plan.round)?;
                publish(channel, "amq.topic", TOPIC, |sent| sent >= messages).await.map_err(io::Error::other)?;
                let (_, seconds, used) = bare.wait()?;
                arrive(published, &arrived, &changed).await; // it has read the same, which is of no other turn
                (seconds, used)
            };
            rate[turn].push(messages as f64 / seconds);
            cpu[turn].push(used / messages as f64);
        }
    }
    add(report, READING, rate, cpu);
    Ok(())
}

/// Waits until a reader has so many messages.
pub async fn arrive(messages: u64, arrived: &Cell<u64>, changed: &Notify) {
    while arrived.get() < messages {
        changed.notified().await;
    }
}

fn add(report: &mut Report, scenario: &str, rate: [Vec<f64>; 2], cpu: [Vec<f64>; 2]) {
    let ([rate, bare_rate], [cpu, bare_cpu]) = (rate, cpu);
    report.add(scenario, CPU, cpu, &bare_cpu);
    report.add(scenario, "messages/s (floor: bare lapin)", rate, &bare_rate);
}

/// Sends for so long, and waits for the receipts. Returns how many that were.
pub async fn send(producer: &Client, destination: &str, time: Duration) -> io::Result<u64> {
    let (start, receipts) = (Instant::now(), Cell::new(0));
    let (mut sent, mut out) = (0, Vec::new());
    while start.elapsed() < time || receipts.get() < sent {
        out.clear();
        while start.elapsed() < time && sent < receipts.get() + WINDOW {
            out.extend(wire::send(destination, Some(sent), sent, 0));
            sent += 1;
        }
        producer.send(&out).await?;
        if receipts.get() < sent {
            producer
                .read(|frame| {
                    receipts.set(receipts.get() + u64::from(frame.starts_with(b"RECEIPT\n")));
                    Ok(())
                })
                .await?;
        }
    }
    Ok(sent)
}

/// A child that measures itself.
pub struct Bare(Child, BufReader<std::process::ChildStdout>);

impl Bare {
    /// Comes back when it is ready.
    pub fn start(role: &str, uri: &str, time: Duration) -> io::Result<Bare> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([role, uri, &time.as_millis().to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no standard output"))?;
        let mut bare = Bare(child, BufReader::new(stdout));
        bare.line()?;
        Ok(bare)
    }

    /// Messages, seconds, and microseconds of CPU.
    pub fn wait(mut self) -> io::Result<(f64, f64, f64)> {
        let line = self.line()?;
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse().ok());
        self.0.wait()?;
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(messages), Some(seconds), Some(cpu)) => Ok((messages, seconds, cpu)),
            _ => Err(io::Error::other(format!("the bare program says {line:?}"))),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.1.read_line(&mut line)?;
        if line.is_empty() { Err(io::Error::other("the bare program has ended")) } else { Ok(line) }
    }
}

/// The bare publisher: what a child runs.
pub fn bare_publisher(uri: &str, time: Duration) -> io::Result<()> {
    measured(async {
        let channel = connect(uri).await?;
        publish(&channel, "", QUEUE, |sent| sent >= WINDOW).await?; // warms up
        println!("ready");
        let (start, before) = (Instant::now(), process::own_cpu()?);
        let sent = publish(&channel, "", QUEUE, |_| start.elapsed() >= time).await?;
        told(sent, start, before)
    })
}

/// The bare consumer: what a child runs.
pub fn bare_consumer(uri: &str, time: Duration) -> io::Result<()> {
    measured(async {
        let channel = connect(uri).await?;
        let none = FieldTable::default();
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(ShortString::default(), options, none.clone()).await?.name().clone();
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let bind = QueueBindOptions::default();
        channel.queue_bind(queue.clone(), "amq.topic".into(), TOPIC.into(), bind, none.clone()).await?;
        let options = BasicConsumeOptions::default();
        let mut consumer = channel.basic_consume(queue, ShortString::default(), options, none).await?;
        println!("ready");
        let messages = FEED * u64::try_from(time.as_millis()).unwrap_or(u64::MAX) / 1000;
        let (start, before) = (Instant::now(), process::own_cpu()?);
        for number in 1..=messages {
            let delivery = consumer.next().await.ok_or("the consumer has ended")??;
            if number % BATCH == 0 {
                channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await?;
            }
        }
        told(messages, start, before)
    })
}

/// What can fail in a program of a few lines.
pub type Anything = Box<dyn std::error::Error + Send + Sync>;

pub fn measured(work: impl Future<Output = Result<(), Anything>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work).map_err(io::Error::other)
}

pub fn told(messages: u64, start: Instant, before: Duration) -> Result<(), Anything> {
    let cpu = process::own_cpu()?.saturating_sub(before);
    println!("{messages} {} {}", start.elapsed().as_secs_f64(), cpu.as_secs_f64() * 1e6);
    Ok(())
}

/// A channel with confirms on a connection of its own.
pub async fn connect(uri: &str) -> Result<Channel, Anything> {
    let connection = Connection::connect(uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// Publishes until it is over, never more than the window ahead of the confirmations, and waits for the last of them.
async fn publish(channel: &Channel, exchange: &str, key: &str, over: impl Fn(u64) -> bool) -> Result<u64, Anything> {
    let mut table = FieldTable::default();
    table.insert("stompgate-user".into(), AMQPValue::LongString("bench".into()));
    let properties = BasicProperties::default().with_delivery_mode(1).with_headers(table);
    let (exchange, key, body) = (ShortString::try_new(exchange)?, ShortString::try_new(key)?, [b'x'; wire::BODY]);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let fly =
        async || channel.basic_publish(exchange.clone(), key.clone(), options, &body, properties.clone()).await?.await;
    let (mut sent, mut flying) = (0, FuturesUnordered::new());
    loop {
        while (flying.len() as u64) < WINDOW && !over(sent) {
            flying.push(fly());
            sent += 1;
        }
        match flying.next().await {
            Some(confirmed) => drop(confirmed?),
            None => return Ok(sent),
        }
    }
}
