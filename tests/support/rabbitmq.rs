//! A RabbitMQ of the tests' own, from Debian's package: own node name, ports, folder and epmd.
//!
//! A shell stands between: it starts the node and ends it, by its process id, when its standard input ends. So the node
//! goes with the tests, however these end. Where RabbitMQ is missing, that is an error: `tests/run` installs it.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

/// Below the wrapper that Debian puts in /usr/sbin, which insists on its own user and folders.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// Erlang is slow to start, and more so on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);

const SCRIPT: &str = r#"
cd "$1" || exit 1
epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 </dev/null >/dev/null 2>&1 &
epmd=$!
"$2" </dev/null >server.log 2>&1 &
node=$!
echo "$node"
cat >/dev/null
kill -9 "$node"
kill "$epmd"
wait
[ -e keep ] || rm -rf "$1"
"#;

/// A node of RabbitMQ. Dropping it ends it and removes its data.
pub(crate) struct RabbitMq {
    folder: PathBuf,
    name: String,
    /// Where it takes connections.
    pub(crate) port: u16,
    internal_ports: [u16; 2],
    running: Option<Child>,
}

/// The one that all tests of this program share.
pub(crate) async fn shared() -> &'static RabbitMq {
    static NODE: OnceCell<RabbitMq> = OnceCell::const_new();
    NODE.get_or_init(RabbitMq::start).await
}

impl RabbitMq {
    /// A node with nothing in it.
    pub(crate) async fn start() -> RabbitMq {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(Path::new(SERVER).exists(), "{SERVER} is missing; tests/run installs the package rabbitmq-server");
        let name = format!("stompgate-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        let [port, distribution, epmd] = free_ports();
        let config = format!("listeners.tcp.1 = 127.0.0.1:{port}\nlog.file.level = warning\n");
        std::fs::write(folder.join("rabbitmq.conf"), config).unwrap();
        std::fs::write(folder.join("enabled_plugins"), "[].\n").unwrap();
        let mut node = RabbitMq { folder, name, port, internal_ports: [distribution, epmd], running: None };
        node.run().await;
        node
    }

    /// Where it takes connections.
    pub(crate) fn uri(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Ends it as a power failure does; its data stays.
    pub(crate) fn kill(&mut self) {
        std::fs::write(self.folder.join("keep"), "").unwrap();
        self.end();
    }

    /// Starts it again after [`RabbitMq::kill`].
    pub(crate) async fn run(&mut self) {
        let _ = std::fs::remove_file(self.folder.join("keep"));
        let [distribution, epmd] = self.internal_ports;
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(&self.folder).arg(SERVER);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        for (variable, file) in [
            ("HOME", "."),
            ("RABBITMQ_MNESIA_BASE", "data"),
            ("RABBITMQ_LOG_BASE", "log"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
        ] {
            command.env(variable, self.folder.join(file));
        }
        command.env("RABBITMQ_NODENAME", format!("{}@localhost", self.name));
        command.env("RABBITMQ_DIST_PORT", distribution.to_string());
        command.env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 2:2");
        command.env("ERL_EPMD_PORT", epmd.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        // So that the script replaces itself by Erlang's machine, and its process id is the node's.
        command.env("RUNNING_UNDER_SYSTEMD", "true");
        let mut child = command.spawn().unwrap();
        let mut process = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut process).unwrap();
        self.running = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
            let failed = log.contains("BOOT FAILED") || Instant::now() > deadline;
            assert!(!failed, "RabbitMQ does not start:\n{log}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs `rabbitmqctl` on it.
    pub(crate) async fn control(&self, arguments: &[&str]) {
        let mut command = tokio::process::Command::new(CONTROL);
        command.args(["-n", &format!("{}@localhost", self.name)]).args(arguments).stdin(Stdio::null());
        command.env("HOME", &self.folder).env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        command.env("ERL_EPMD_PORT", self.internal_ports[1].to_string());
        let done = command.output().await.unwrap();
        assert!(done.status.success(), "rabbitmqctl {arguments:?}: {done:?}");
    }

    fn end(&mut self) {
        if let Some(mut child) = self.running.take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.folder.join("keep"));
        self.end();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Ports that nobody listens on.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
