//! A RabbitMQ from Debian's package, with its Web STOMP plugin, for as long as it is measured.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Ends the node when its standard input ends.
const SCRIPT: &str = include_str!("../../tests/support/rabbitmq.sh");
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// Erlang is slow to start.
const PATIENCE: Duration = Duration::from_mins(2);
/// Milliseconds after which the plugin closes a client that says nothing. Its minute is less than many clients take to
/// connect.
const IDLE: u32 = 3_600_000;
/// The clients' account.
const DEFINITIONS: &str = r#"{
  "users": [{"name": "bench", "password": "bench", "tags": ["administrator"]}],
  "vhosts": [{"name": "/"}],
  "permissions": [{"user": "bench", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}]
}"#;

/// A node. It ends when this is dropped.
#[derive(Debug)]
pub struct RabbitMq {
    shell: Child,
    process: u32,
    folder: PathBuf,
    name: String,
    ports: Ports,
}

#[derive(Debug)]
struct Ports {
    amqp: u16,
    web_stomp: u16,
    distribution: u16,
    epmd: u16,
}

/// What a node holds.
#[derive(Clone, Copy, Debug)]
pub struct Holdings {
    /// Connections of any protocol.
    pub connections: f64,
    /// Channels, those that STOMP sessions have inside the broker among them.
    pub channels: f64,
    /// Queues.
    pub queues: f64,
    /// Bindings, those of queues to the default exchange not counted.
    pub bindings: f64,
    /// Erlang processes.
    pub processes: f64,
    /// What Erlang has allocated, in bytes.
    pub allocated: f64,
}

impl RabbitMq {
    /// Starts one on free ports; comes back when both of its listeners accept.
    pub fn start() -> io::Result<RabbitMq> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("stompgate-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir_all(&folder)?;
        let [amqp, web_stomp, stomp, distribution, epmd] = free_ports()?;
        let definitions = folder.join("definitions.json");
        fs::write(&definitions, DEFINITIONS)?;
        let configuration = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp}\nstomp.listeners.tcp.1 = 127.0.0.1:{stomp}\n\
             web_stomp.tcp.ip = 127.0.0.1\nweb_stomp.tcp.port = {web_stomp}\n\
             web_stomp.ws_opts.idle_timeout = {IDLE}\n\
             log.file.level = warning\nload_definitions = {}\n",
            definitions.display()
        );
        fs::write(folder.join("rabbitmq.conf"), configuration)?;
        fs::write(folder.join("enabled_plugins"), "[rabbitmq_web_stomp].\n")?;
        let ports = Ports { amqp, web_stomp, distribution, epmd };
        let (shell, process) = launch(&folder, &name, &ports)?;
        let node = RabbitMq { shell, process, folder, name, ports };
        node.wait(amqp)?;
        node.wait(web_stomp)?;
        Ok(node)
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) -> io::Result<()> {
        let keep = self.folder.join("keep");
        fs::write(&keep, "")?;
        drop(self.shell.stdin.take());
        self.shell.wait()?;
        fs::remove_file(keep)
    }

    /// Starts it again with what it has on its disk; comes back when it accepts AMQP.
    pub fn start_again(&mut self) -> io::Result<()> {
        (self.shell, self.process) = launch(&self.folder, &self.name, &self.ports)?;
        self.wait(self.ports.amqp)
    }

    /// Where the gateway connects.
    pub fn uri(&self) -> String {
        format!("amqp://bench:bench@127.0.0.1:{}/%2f", self.ports.amqp)
    }

    /// Where clients of the plugin connect.
    pub fn web_stomp(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.web_stomp))
    }

    /// The process id of Erlang's machine.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// What it holds now, garbage not counted.
    pub fn holdings(&self) -> io::Result<Holdings> {
        let ask = "[garbage_collect(P) || P <- processes()], \
                   io:format(\"~w ~w ~w ~w ~w ~w~n\", [ets:info(connection_created, size), \
                   ets:info(channel_created, size), length(rabbit_amqqueue:list()), \
                   ets:info(rabbit_route, size), erlang:system_info(process_count), erlang:memory(total)]).";
        let mut command = Command::new(CONTROL);
        command.args(["-n", &format!("{}@localhost", self.name), "eval", ask]).stdin(Stdio::null());
        command.env("HOME", &self.folder).env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        command.env("ERL_EPMD_PORT", self.ports.epmd.to_string());
        let done = command.output()?;
        let text = String::from_utf8_lossy(&done.stdout);
        let numbers: Vec<f64> =
            text.lines().next().unwrap_or_default().split(' ').filter_map(|number| number.parse().ok()).collect();
        let [connections, channels, queues, bindings, processes, allocated] = numbers[..] else {
            return Err(io::Error::other(format!("rabbitmqctl eval: {done:?}")));
        };
        Ok(Holdings { connections, channels, queues, bindings, processes, allocated })
    }

    fn wait(&self, port: u16) -> io::Result<()> {
        let begun = Instant::now();
        while let Err(error) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            if begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
                return Err(io::Error::new(error.kind(), format!("RabbitMQ does not start:\n{log}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// The shell that ends the node, and the node's process id.
fn launch(folder: &Path, name: &str, ports: &Ports) -> io::Result<(Child, u32)> {
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "sh"]).arg(folder).arg(name);
    command.args([ports.distribution, ports.epmd].map(|port| port.to_string()));
    let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut process = String::new();
    shell.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut process)).transpose()?;
    let process = process.trim().parse().map_err(|_| io::Error::other("no process id of RabbitMQ"))?;
    Ok((shell, process))
}

fn free_ports<const COUNT: usize>() -> io::Result<[u16; COUNT]> {
    let listeners = [(); COUNT].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut ports = [0; COUNT];
    let listeners = listeners.into_iter().collect::<io::Result<Vec<_>>>()?;
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
