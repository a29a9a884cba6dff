//! One publisher, many subscribers of one topic, saturated: the publisher is at most a window ahead of the slowest
//! subscriber. Gateway and floor take turns.
//!
//! With a window of 1 every delivery is a write of its own, as on the floor. With a larger one the gateway may put what
//! waits for a client into one write; the row “deliveries per read” shows how far that went.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::client::{self, Client, IN_FLIGHT};
use crate::floor;
use crate::plan::Plan;
use crate::process::{Gateway, Server, Usage};
use crate::report::Report;
use crate::wire;

const DESTINATION: &str = "/topic/bench";
/// CPU of the server.
pub const CPU: &str = "CPU per delivery, µs";
/// How many there were.
pub const RATE: &str = "deliveries/s";
/// Subscribers of the smaller half.
pub const FEW: usize = 100;
/// How far the publisher may be ahead.
pub const WINDOWS: [u64; 2] = [1, 16];
/// At most this far.
const LARGEST_WINDOW: usize = 64;
/// Messages before the first measurement; the last one shows what a delivery looks like.
pub const WARM_UP: u64 = 100;
/// For how long a message that is delivered twice is waited for, at the end.
const AFTERMATH: Duration = Duration::from_millis(200);

/// When a publisher stops.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// So many messages have been published.
    Messages(u64),
    /// So much time has gone by.
    Elapsed(Duration),
}

/// A server with a publisher and its subscribers.
pub struct Crowd {
    server: Server,
    publisher: Client,
    progress: Rc<Progress>,
    #[expect(dead_code, reason = "the subscribers go when this is dropped")]
    receiving: JoinSet<()>,
    /// Makes the message of a number.
    message: fn(u64) -> Vec<u8>,
    next: u64,
}

/// What the subscribers have got.
struct Progress {
    subscribers: u32,
    /// By number of the message, modulo the length.
    got: [Cell<u32>; LARGEST_WINDOW],
    /// Messages that all have got.
    complete: Cell<u64>,
    deliveries: Cell<u64>,
    reads: Cell<u64>,
    /// The delivery of the last message of the warm-up.
    sample: RefCell<Vec<u8>>,
    failure: RefCell<Option<io::Error>>,
    changed: Notify,
}

/// One measurement.
pub struct Sample {
    /// Messages that came, at all subscribers together.
    pub deliveries: f64,
    reads: f64,
    /// What they cost.
    pub usage: Usage,
}

/// The quantities of one crowd, by round.
pub struct Rounds {
    /// Deliveries per second.
    pub rate: Vec<f64>,
    /// CPU of the server, and of a broker behind it, for each delivery, in microseconds.
    pub cpu: Vec<f64>,
    /// Of it the broker's.
    pub broker_cpu: Vec<f64>,
    per_read: Vec<f64>,
    own_cpu: Vec<f64>,
}

/// What the scenario is called.
pub fn name(subscribers: usize, window: u64) -> String {
    format!("fan-out, {subscribers} subscribers, window {window}")
}

/// Runs the scenario with many subscribers and with few.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    for subscribers in [FEW, plan.clients] {
        let crowd = Crowd::of_gateway(gateway.start()?, subscribers).await?;
        let mut crowds = warmed_up([crowd]).await?;
        let floor = Crowd::of_floor(Server::floor()?, subscribers, &crowds[0].delivery()?).await?;
        crowds.extend(warmed_up([floor]).await?);
        for window in WINDOWS {
            let [of_gateway, of_floor] = in_turn(&mut crowds, window, plan).await?;
            of_gateway.report(&of_floor, &name(subscribers, window), report);
        }
        finish(crowds).await?;
    }
    Ok(())
}

/// Each has had its first messages.
pub async fn warmed_up(crowds: impl IntoIterator<Item = Crowd>) -> io::Result<Vec<Crowd>> {
    let mut warm = Vec::new();
    for mut crowd in crowds {
        crowd.publish(1, Until::Messages(WARM_UP)).await?;
        warm.push(crowd);
    }
    Ok(warm)
}

/// Measures so many crowds in turn. Who is first changes, lest one of them always run on a warmer machine.
pub async fn in_turn<const COUNT: usize>(
    crowds: &mut [Crowd],
    window: u64,
    plan: &Plan,
) -> io::Result<[Rounds; COUNT]> {
    let mut rounds = [const { Rounds::new() }; COUNT];
    for round in 0..plan.rounds {
        for turn in 0..COUNT {
            let turn = (turn + round) % COUNT;
            rounds[turn].push(&crowds[turn].measure(window, Until::Elapsed(plan.round)).await?);
        }
    }
    Ok(rounds)
}

/// Nothing comes twice to any of them. Returns their servers.
pub async fn finish(crowds: Vec<Crowd>) -> io::Result<Vec<Server>> {
    let mut servers = Vec::new();
    for crowd in crowds {
        servers.push(crowd.finish().await?);
    }
    Ok(servers)
}

/// The first two of them, once they have seen to it that their clients are gone: a broker has queues to delete.
pub async fn both(servers: Vec<Server>) -> io::Result<[Server; 2]> {
    for server in &servers {
        server.come_to_rest().await?;
    }
    let mut servers = servers.into_iter();
    servers.next().zip(servers.next()).map(Into::into).ok_or_else(|| io::Error::other("fewer than two servers"))
}

impl Crowd {
    /// Subscribers and publisher of a gateway.
    pub async fn of_gateway(server: Server, subscribers: usize) -> io::Result<Crowd> {
        let address = server.address();
        let receivers =
            client::many(subscribers, IN_FLIGHT, move || Client::subscribe(address, 0, DESTINATION, "auto")).await?;
        let publisher = Client::connect(address, 0).await?;
        Ok(Crowd::new(server, publisher, receivers))
    }

    /// Subscribers and publisher of an MQTT broker, with the same bodies.
    pub async fn of_mosquitto(server: Server, subscribers: usize) -> io::Result<Crowd> {
        const TOPIC: &str = "bench";
        let (address, next) = (server.address(), Rc::new(Cell::new(1)));
        let subscribe = move || Client::mqtt(address, next.replace(next.get() + 1), Some(TOPIC));
        let receivers = client::many(subscribers, IN_FLIGHT, subscribe).await?;
        let publisher = Client::mqtt(address, 0, None).await?;
        Ok(Crowd { message: |number| wire::mqtt_publish(TOPIC, number), ..Crowd::new(server, publisher, receivers) })
    }

    /// Subscribers of JSON and their publisher, compressed or not.
    pub async fn of_json(server: Server, subscribers: usize, is_compressed: bool) -> io::Result<Crowd> {
        let address = server.address();
        let receivers = if is_compressed {
            client::many(subscribers, IN_FLIGHT, move || Client::subscribe_compressed(address, DESTINATION)).await?
        } else {
            client::many(subscribers, IN_FLIGHT, move || Client::subscribe(address, 0, DESTINATION, "auto")).await?
        };
        let publisher = Client::connect(address, 0).await?;
        let message = |number| wire::send_json(DESTINATION, number);
        Ok(Crowd { message, ..Crowd::new(server, publisher, receivers) })
    }

    /// Subscribers and publisher of the floor, which sends this for each message.
    pub async fn of_floor(server: Server, subscribers: usize, delivery: &[u8]) -> io::Result<Crowd> {
        let address = server.address();
        let receivers = client::many(subscribers, IN_FLIGHT, move || floor::subscribe(address)).await?;
        let length = wire::send(DESTINATION, None, 0, 0).len();
        let publisher = floor::publisher(address, length, delivery).await?;
        Ok(Crowd::new(server, publisher, receivers))
    }

    fn new(server: Server, publisher: Client, receivers: Vec<Client>) -> Crowd {
        let progress = Rc::new(Progress {
            subscribers: u32::try_from(receivers.len()).unwrap_or(u32::MAX),
            got: [const { Cell::new(0) }; LARGEST_WINDOW],
            complete: Cell::new(0),
            deliveries: Cell::new(0),
            reads: Cell::new(0),
            sample: RefCell::default(),
            failure: RefCell::default(),
            changed: Notify::new(),
        });
        let mut receiving = JoinSet::new();
        for receiver in receivers {
            receiving.spawn_local(receive(receiver, Rc::clone(&progress)));
        }
        Crowd {
            server,
            publisher,
            progress,
            receiving,
            message: |number| wire::send(DESTINATION, None, number, 0),
            next: 0,
        }
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Publishes, never more than `window` messages ahead of the slowest subscriber, and waits until all have all.
    pub async fn publish(&mut self, window: u64, until: Until) -> io::Result<()> {
        let (start, first) = (Instant::now(), self.next);
        loop {
            let is_over = match until {
                Until::Messages(messages) => self.next - first >= messages,
                Until::Elapsed(time) => start.elapsed() >= time,
            };
            if is_over {
                return self.progress.reached(self.next).await;
            }
            self.progress.reached((self.next + 1).saturating_sub(window)).await?;
            self.publisher.send(&(self.message)(self.next)).await?;
            self.next += 1;
        }
    }

    /// Publishes, and meters it.
    pub async fn measure(&mut self, window: u64, until: Until) -> io::Result<Sample> {
        let meter = self.server.meter()?;
        let (deliveries, reads) = (self.progress.deliveries.get(), self.progress.reads.get());
        self.publish(window, until).await?;
        Ok(Sample {
            usage: meter.read(&self.server)?,
            deliveries: (self.progress.deliveries.get() - deliveries) as f64,
            reads: (self.progress.reads.get() - reads) as f64,
        })
    }

    /// What a delivery looks like on the wire.
    pub fn delivery(&self) -> io::Result<Vec<u8>> {
        wire::delivery(&self.progress.sample.borrow())
    }

    /// Nothing comes twice. The clients go, and the server is there for others.
    pub async fn finish(self) -> io::Result<Server> {
        tokio::time::sleep(AFTERMATH).await;
        self.progress.check().map(|()| self.server)
    }
}

impl Progress {
    fn got(&self, number: u64, frame: &[u8]) {
        self.deliveries.set(self.deliveries.get() + 1);
        let got = &self.got[usize::try_from(number).unwrap_or(0) % LARGEST_WINDOW];
        got.set(got.get() + 1);
        if got.get() < self.subscribers {
            return;
        }
        got.set(0);
        self.complete.set(number + 1); // each gets them in order, so the last to get this one had all before it
        self.changed.notify_one();
        if number == WARM_UP - 1 {
            self.sample.replace(frame.to_vec());
        }
    }

    async fn reached(&self, messages: u64) -> io::Result<()> {
        while self.complete.get() < messages {
            self.check()?;
            self.changed.notified().await;
        }
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        self.failure.take().map_or(Ok(()), Err)
    }
}

/// Every message must come once and in order.
async fn receive(client: Client, progress: Rc<Progress>) {
    let mut next = 0;
    loop {
        let read = client.read(|frame| {
            let number = wire::number(frame)?;
            if number != next {
                return Err(io::Error::other(format!("message {number} came in place of {next}")));
            }
            next += 1;
            progress.got(number, frame);
            Ok(())
        });
        if let Err(error) = read.await {
            progress.failure.replace(Some(error));
            progress.changed.notify_one();
            return;
        }
        progress.reads.set(progress.reads.get() + 1);
    }
}

impl Rounds {
    const fn new() -> Self {
        Rounds { rate: Vec::new(), cpu: Vec::new(), broker_cpu: Vec::new(), per_read: Vec::new(), own_cpu: Vec::new() }
    }

    fn push(&mut self, sample: &Sample) {
        self.rate.push(sample.deliveries / sample.usage.seconds);
        self.cpu.push(sample.usage.server / sample.deliveries);
        self.broker_cpu.push(sample.usage.broker / sample.deliveries);
        self.per_read.push(sample.deliveries / sample.reads);
        self.own_cpu.push(sample.usage.own);
    }

    /// Adds the two quantities that matter beside anything.
    pub fn report_beside(self, beside: &'static str, other: &Rounds, scenario: &str, report: &mut Report) {
        report.add_beside(beside, scenario, CPU, self.cpu, &other.cpu);
        report.add_beside(beside, scenario, RATE, self.rate, &other.rate);
    }

    fn report(self, floor: &Rounds, scenario: &str, report: &mut Report) {
        report.add(scenario, CPU, self.cpu, &floor.cpu);
        report.add(scenario, RATE, self.rate, &floor.rate);
        report.add(scenario, "deliveries per read", self.per_read, &floor.per_read);
        report.add(scenario, "load generator's CPU, % of a core", self.own_cpu, &floor.own_cpu);
    }
}
