//! In front of Mosquitto: fan-out beside the floor and beside Mosquitto alone with as many clients of its own; publishing
//! and reading beside a program that does the same with the same library and nothing else. They take turns.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Broker, Event, EventLoop, MqttOptions, NetworkOptions, PublishOptions};
use tokio::sync::Notify;

use crate::bridge::{self, Anything, Bare, arrive, measured, told};
use crate::client::Client;
use crate::fan_out::{self, Crowd, FEW};
use crate::mosquitto::Mosquitto;
use crate::plan::Plan;
use crate::process::{self, Gateway, Server};
use crate::report::{BARE_MQTT, MOSQUITTO, Report};
use crate::wire;

/// CPU of both.
pub const CPU: &str = "CPU per delivery, gateway and Mosquitto, µs";
/// CPU of the gateway alone, or of the bare program.
pub const BRIDGE_CPU: &str = "CPU per message, µs";
const RATE: &str = "messages/s";
const TOPIC: &str = "bench/mqtt";
/// Messages that wait for their confirmation at a time.
const WINDOW: u64 = 512;
/// Messages of each second of a round of reading.
const FEED: u64 = 10_000;
/// The qualities of service that are measured.
pub const QUALITIES: [u8; 2] = [0, 1];

/// What a scenario of the gateway alone is called here.
pub fn name(alone: &str) -> String {
    format!("in front of Mosquitto: {alone}")
}

/// What publishing is called.
pub fn sending(qos: u8) -> String {
    name(&format!("SEND with receipts, qos {qos}"))
}

/// What reading is called.
pub fn reading(qos: u8) -> String {
    name(&format!("MESSAGE of a topic, qos {qos}"))
}

/// Runs the scenario.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    for subscribers in [FEW, plan.clients] {
        fan_out(gateway, plan, subscribers, report).await?;
    }
    let mut gateway = gateway.clone();
    gateway.settings.push("outbox.max_bytes=1000000000".to_owned());
    for qos in QUALITIES {
        publishing(&gateway, qos, plan, report).await?;
        consuming(&gateway, qos, plan, report).await?;
    }
    Ok(())
}

async fn fan_out(gateway: &Gateway, plan: &Plan, subscribers: usize, report: &mut Report) -> io::Result<()> {
    let bridged = Crowd::of_gateway(gateway.start_before_mosquitto(Mosquitto::start()?)?, subscribers).await?;
    let alone = Crowd::of_mosquitto(Server::mosquitto(Mosquitto::start()?), subscribers).await?;
    let mut crowds = fan_out::warmed_up([bridged, alone]).await?;
    let floor = Crowd::of_floor(Server::floor()?, subscribers, &crowds[0].delivery()?).await?;
    crowds.extend(fan_out::warmed_up([floor]).await?);
    let [bridged, alone, floor] = fan_out::in_turn(&mut crowds, 1, plan).await?;
    fan_out::finish(crowds).await?;
    let scenario = name(&fan_out::name(subscribers, 1));
    report.add_beside(MOSQUITTO, &scenario, CPU, bridged.cpu.clone(), &alone.cpu);
    report.add_beside(MOSQUITTO, &scenario, fan_out::RATE, bridged.rate.clone(), &alone.rate);
    report.add(&scenario, CPU, bridged.cpu, &floor.cpu);
    report.add(&scenario, "of it Mosquitto's, µs", bridged.broker_cpu, &[]);
    report.add(&scenario, fan_out::RATE, bridged.rate, &floor.rate);
    Ok(())
}

async fn publishing(gateway: &Gateway, qos: u8, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let broker = Mosquitto::start()?;
    let place = place(broker.address(), qos);
    let server = gateway.start_before_mosquitto(broker)?;
    let producer = Client::connect(server.address(), 0).await?;
    // A destination and the header behind it.
    let destination = format!("/topic/{TOPIC}\nqos:{qos}");
    bridge::send(&producer, &destination, Duration::from_millis(200)).await?; // warms up
    let (mut rate, mut cpu) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..plan.rounds {
        for turn in [round % 2, (round + 1) % 2] {
            let (messages, seconds, used) = if turn == 0 {
                let meter = server.meter()?;
                let messages = bridge::send(&producer, &destination, plan.round).await? as f64;
                let usage = meter.read(&server)?;
                (messages, usage.seconds, usage.server - usage.broker)
            } else {
                Bare::start("bare-mqtt-publisher", &place, plan.round)?.wait()?
            };
            rate[turn].push(messages / seconds);
            cpu[turn].push(used / messages);
        }
    }
    add(report, &sending(qos), rate, cpu);
    Ok(())
}

async fn consuming(gateway: &Gateway, qos: u8, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let broker = Mosquitto::start()?;
    let (address, place) = (broker.address(), place(broker.address(), qos));
    let server = gateway.start_before_mosquitto(broker)?;
    let reader = Client::subscribe(server.address(), 0, &format!("/topic/{TOPIC}"), "auto").await?;
    let (feeder, mut events) = connect(address, "feeder")?;
    tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let messages = FEED * u64::try_from(plan.round.as_millis()).unwrap_or(u64::MAX) / 1000;
    let (arrived, changed) = (Rc::new(Cell::new(0)), Rc::new(Notify::new()));
    tokio::task::spawn_local({
        let (arrived, changed) = (Rc::clone(&arrived), Rc::clone(&changed));
        async move {
            // An error shows as messages that do not come.
            let mut count = |_: &[u8]| {
                arrived.set(arrived.get() + 1);
                Ok(())
            };
            while reader.read(&mut count).await.is_ok() {
                changed.notify_one();
            }
        }
    });
    let mut published = 0;
    let (mut rate, mut cpu) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..plan.rounds {
        for turn in [round % 2, (round + 1) % 2] {
            published += messages;
            let (seconds, used) = if turn == 0 {
                let meter = server.meter()?;
                publish(&feeder, qos, |sent| sent >= messages).await.map_err(io::Error::other)?;
                arrive(published, &arrived, &changed).await;
                let usage = meter.read(&server)?;
                (usage.seconds, usage.server - usage.broker)
            } else {
                let bare = Bare::start("bare-mqtt-consumer", &place, plan.round)?;
                publish(&feeder, qos, |sent| sent >= messages).await.map_err(io::Error::other)?;
                let (_, seconds, used) = bare.wait()?;
                arrive(published, &arrived, &changed).await; // it has read the same, which is of no other turn
                (seconds, used)
            };
            rate[turn].push(messages as f64 / seconds);
            cpu[turn].push(used / messages as f64);
        }
    }
    add(report, &reading(qos), rate, cpu);
    Ok(())
}

fn add(report: &mut Report, scenario: &str, rate: [Vec<f64>; 2], cpu: [Vec<f64>; 2]) {
    let ([rate, bare_rate], [cpu, bare_cpu]) = (rate, cpu);
    report.add_beside(BARE_MQTT, scenario, BRIDGE_CPU, cpu, &bare_cpu);
    report.add_beside(BARE_MQTT, scenario, RATE, rate, &bare_rate);
}

/// What a child is told: where the broker is, and a quality of service.
fn place(address: SocketAddr, qos: u8) -> String {
    format!("{address}#{qos}")
}

fn parse(place: &str) -> Result<(SocketAddr, u8), Anything> {
    let (address, qos) = place.split_once('#').ok_or("an address, # and a quality of service")?;
    Ok((address.parse()?, qos.parse()?))
}

/// The bare publisher: what a child runs.
pub fn bare_publisher(place: &str, time: Duration) -> io::Result<()> {
    measured(async {
        let (address, qos) = parse(place)?;
        let (client, mut events) = connect(address, "publisher")?;
        tokio::spawn(async move { while events.poll().await.is_ok() {} });
        publish(&client, qos, |sent| sent >= WINDOW).await?; // warms up
        println!("ready");
        let (start, before) = (Instant::now(), process::own_cpu()?);
        let sent = publish(&client, qos, |_| start.elapsed() >= time).await?;
        told(sent, start, before)
    })
}

/// The bare consumer: what a child runs.
pub fn bare_consumer(place: &str, time: Duration) -> io::Result<()> {
    measured(async {
        let (address, _) = parse(place)?;
        let (client, mut events) = connect(address, "consumer")?;
        client.try_subscribe(TOPIC, QoS::AtLeastOnce)?;
        while !matches!(events.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
        println!("ready");
        let messages = FEED * u64::try_from(time.as_millis()).unwrap_or(u64::MAX) / 1000;
        let (start, before, mut arrived) = (Instant::now(), process::own_cpu()?, 0);
        while arrived < messages {
            arrived += u64::from(matches!(events.poll().await?, Event::Incoming(Packet::Publish(_))));
        }
        told(messages, start, before)
    })
}

/// As the gateway connects.
fn connect(address: SocketAddr, name: &str) -> io::Result<(AsyncClient, EventLoop)> {
    let broker = Broker::tcp(address.ip().to_string(), address.port());
    let mut options = MqttOptions::new(format!("bench-{name}-{}", std::process::id()), broker);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_max_request_batch(64).set_outgoing_inflight_upper_limit(1000).set_network_options(network);
    AsyncClient::builder(options).unbounded().try_build().map_err(io::Error::other)
}

/// Publishes until it is over, never more than the window ahead of the confirmations, and waits for the last of them.
async fn publish(client: &AsyncClient, qos: u8, over: impl Fn(u64) -> bool) -> Result<u64, Anything> {
    let quality = if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    let (mut sent, mut flying) = (0, FuturesUnordered::new());
    loop {
        while (flying.len() as u64) < WINDOW && !over(sent) {
            let body = vec![b'x'; wire::BODY];
            let notice = client.try_publish_tracked(TOPIC, body, PublishOptions::new(quality))?;
            flying.push(notice.wait_async());
            sent += 1;
        }
        match flying.next().await {
            Some(confirmed) => drop(confirmed?),
            None => return Ok(sent),
        }
    }
}
