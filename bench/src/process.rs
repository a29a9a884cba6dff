//! The processes that are measured: starting, ending, and what the kernel counts for them.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::mosquitto::Mosquitto;
use crate::rabbitmq::RabbitMq;

/// Counts from one instant on.
#[derive(Debug)]
pub struct Meter {
    start: Instant,
    server: Duration,
    broker: Duration,
    own: Duration,
}

/// What was used since then.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Time on the clock.
    pub seconds: f64,
    /// CPU time of the server and of the broker behind it, in microseconds.
    pub server: f64,
    /// That of the broker alone.
    pub broker: f64,
    /// CPU time of this process, in hundredths of a core.
    pub own: f64,
}

/// How to start the gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Its binary.
    pub binary: PathBuf,
    /// `KEY=VALUE`, for `--set`.
    pub settings: Vec<String>,
}

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    process: u32,
    child: Option<Child>,
    broker: Option<Broker>,
    address: SocketAddr,
}

/// What stands behind a server, or is it.
#[derive(Debug)]
enum Broker {
    RabbitMq(RabbitMq),
    Mosquitto(Mosquitto),
}

impl Broker {
    fn process(&self) -> u32 {
        match self {
            Broker::RabbitMq(broker) => broker.process(),
            Broker::Mosquitto(broker) => broker.process(),
        }
    }
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident, shared pages counted in full.
    pub rss: u64,
    /// Resident, shared pages counted by share.
    pub pss: u64,
}

impl Gateway {
    /// Starts one on a free port.
    pub fn start(&self) -> io::Result<Server> {
        self.start_with(&[])
    }

    /// Starts one in front of a broker of its own, whose CPU counts, too.
    pub fn start_before(&self, broker: RabbitMq) -> io::Result<Server> {
        let uri = format!("broker.amqp.uri=\"{}\"", broker.uri());
        let mut server = self.start_with(&["broker.kind=\"amqp\"", &uri])?;
        server.broker = Some(Broker::RabbitMq(broker));
        Ok(server)
    }

    /// The same in front of a Mosquitto.
    pub fn start_before_mosquitto(&self, broker: Mosquitto) -> io::Result<Server> {
        let uri = format!("broker.mqtt.uri=\"mqtt://{}\"", broker.address());
        let mut server = self.start_with(&["broker.kind=\"mqtt\"", &uri])?;
        server.broker = Some(Broker::Mosquitto(broker));
        Ok(server)
    }

    /// Starts one that compresses what is sent to clients that offer it.
    pub fn start_compressing(&self) -> io::Result<Server> {
        self.start_with(&["server.deflate.enabled=true"])
    }

    /// Starts one with so many threads that serve clients.
    pub fn start_with_workers(&self, workers: usize) -> io::Result<Server> {
        self.start_with(&[&format!("server.workers={workers}")])
    }

    fn start_with(&self, settings: &[&str]) -> io::Result<Server> {
        let mut command = Command::new(&self.binary);
        command.args(["--set", "server.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"]);
        let own = self.settings.iter().map(String::as_str);
        command.args(settings.iter().copied().chain(own).flat_map(|setting| ["--set", setting]));
        Server::start(command)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.binary.display())))
    }
}

impl Server {
    /// Starts the floor on a free port.
    pub fn floor() -> io::Result<Server> {
        Server::start_own("floor-server")
    }

    /// The same for clients that are idle.
    pub fn idle_floor() -> io::Result<Server> {
        Server::start_own("idle-floor-server")
    }

    fn start_own(name: &str) -> io::Result<Server> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(name);
        Server::start(command)
    }

    /// Waits for the line `listening on ws://ADDRESS/...`.
    fn start(mut command: Command) -> io::Result<Server> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        let address = line.split("://").nth(1).and_then(|rest| rest.split('/').next()?.trim().parse().ok());
        if let (Some(Ok(_)), Some(address)) = (read, address) {
            return Ok(Server { process: child.id(), child: Some(child), broker: None, address });
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(io::Error::other(format!("did not say where it listens, but {line:?}")))
    }

    /// A broker's own plugin.
    pub fn plugin(broker: RabbitMq) -> Server {
        Server {
            process: broker.process(),
            child: None,
            address: broker.web_stomp(),
            broker: Some(Broker::RabbitMq(broker)),
        }
    }

    /// A broker by itself.
    pub fn mosquitto(broker: Mosquitto) -> Server {
        let (process, address) = (broker.process(), broker.address());
        Server { process, child: None, address, broker: Some(Broker::Mosquitto(broker)) }
    }

    /// The RabbitMQ behind it, or that it is.
    pub fn broker(&self) -> Option<&RabbitMq> {
        match &self.broker {
            Some(Broker::RabbitMq(broker)) => Some(broker),
            _ => None,
        }
    }

    /// The same, to be killed and started again.
    pub fn broker_mut(&mut self) -> Option<&mut RabbitMq> {
        match &mut self.broker {
            Some(Broker::RabbitMq(broker)) => Some(broker),
            _ => None,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to count.
    pub fn meter(&self) -> io::Result<Meter> {
        let (server, broker) = self.cpu()?;
        Ok(Meter { start: Instant::now(), server, broker, own: cpu("self")? })
    }

    /// CPU time since its start, with that of a broker behind it, and that of the broker.
    fn cpu(&self) -> io::Result<(Duration, Duration)> {
        let broker = self.broker.as_ref().map(Broker::process);
        let brokers = broker.map_or(Ok(Duration::ZERO), |process| cpu(&process.to_string()))?;
        let own = if broker == Some(self.process) { Duration::ZERO } else { cpu(&self.process.to_string())? };
        Ok((own + brokers, brokers))
    }

    /// Waits until it, and a broker behind it, have next to nothing to do, but not for ever.
    pub async fn come_to_rest(&self) -> io::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(20);
        const LOOK: Duration = Duration::from_millis(250);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let (before, _) = self.cpu()?;
            tokio::time::sleep(LOOK).await;
            if self.cpu()?.0.saturating_sub(before) < LOOK / 50 {
                break;
            }
        }
        Ok(())
    }

    /// Memory now.
    pub fn memory(&self) -> io::Result<Memory> {
        Memory::of(self.process)
    }
}

impl Memory {
    /// That of a process, now.
    pub fn of(process: u32) -> io::Result<Memory> {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
        };
        match (field("Rss:"), field("Pss:")) {
            (Some(rss), Some(pss)) => Ok(Memory { rss, pss }),
            _ => Err(io::Error::other("smaps_rollup without Rss and Pss")),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Meter {
    /// What was used since it began.
    pub fn read(&self, server: &Server) -> io::Result<Usage> {
        let seconds = self.start.elapsed().as_secs_f64();
        let ((server, broker), own) = (server.cpu()?, cpu("self")?);
        let micros = |now: Duration, before| now.saturating_sub(before).as_secs_f64() * 1e6;
        Ok(Usage {
            seconds,
            server: micros(server, self.server),
            broker: micros(broker, self.broker),
            own: micros(own, self.own) / 1e4 / seconds,
        })
    }
}

/// CPU time of this process since its start.
pub fn own_cpu() -> io::Result<Duration> {
    cpu("self")
}

/// User and system time of a process. The sum of the threads' run times has nanoseconds; `stat` has hundredths of a second, and is
/// for kernels that do not count the other.
pub fn cpu(process: &str) -> io::Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { return cpu_by_ticks(process) };
        let nanoseconds = text.split(' ').next().and_then(|number| number.parse().ok());
        sum += nanoseconds.map_or(Duration::ZERO, Duration::from_nanos);
    }
    if sum.is_zero() { cpu_by_ticks(process) } else { Ok(sum) }
}

/// Fields 14 and 15 of `stat`, in hundredths of a second as user space always gets them.
fn cpu_by_ticks(process: &str) -> io::Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(10 * ticks))
}
