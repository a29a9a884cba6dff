//! A RabbitMQ of the tests' own, from Debian's package: own node name, ports, folder and epmd.
//!
//! `rabbitmq.sh` stands between: it ends the node when the tests end, however these end. Where RabbitMQ is missing, that
//! is an error: `tests/run` installs it.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

/// What `rabbitmq.sh` runs.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// Erlang is slow to start, and more so on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// It is given to `sh -c`: a test program may be run from anywhere.
const SCRIPT: &str = include_str!("rabbitmq.sh");

/// A node of RabbitMQ. Dropping it ends it and removes its data.
pub(crate) struct RabbitMq {
    folder: PathBuf,
    name: String,
    /// Where it takes connections.
    pub(crate) port: u16,
    internal_ports: [u16; 2],
    running: Option<Child>,
}

/// What a node is started with.
#[derive(Default)]
pub(crate) struct Setup {
    /// Names, with commas between them.
    pub(crate) plugins: &'static str,
    /// Lines of `rabbitmq.conf`.
    pub(crate) configuration: String,
    /// Users, virtual hosts and permissions, in JSON.
    pub(crate) definitions: String,
}

/// The one that all tests of this program share.
pub(crate) async fn shared() -> &'static RabbitMq {
    static NODE: OnceCell<RabbitMq> = OnceCell::const_new();
    NODE.get_or_init(RabbitMq::start).await
}

impl RabbitMq {
    /// A node with nothing in it.
    pub(crate) async fn start() -> RabbitMq {
        Self::start_with(&Setup::default()).await
    }

    /// A node that is set up for something.
    pub(crate) async fn start_with(setup: &Setup) -> RabbitMq {
        Self::make(setup, None).await
    }

    /// A node in one cluster with this one.
    #[allow(dead_code, reason = "not every program that shares this file has a cluster")]
    pub(crate) async fn join(&self) -> RabbitMq {
        let node = Self::make(&Setup::default(), Some(self)).await;
        node.control(&["stop_app"]).await;
        node.control(&["join_cluster", &format!("{}@localhost", self.name)]).await;
        node.control(&["start_app"]).await;
        node
    }

    async fn make(setup: &Setup, beside: Option<&RabbitMq>) -> RabbitMq {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(Path::new(SERVER).exists(), "{SERVER} is missing; tests/run installs the package rabbitmq-server");
        let name = format!("stompgate-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        let [port, distribution, mut epmd] = free_ports();
        if let Some(other) = beside {
            // Nodes of one cluster find each other by the same epmd, and know each other by the same cookie.
            epmd = other.internal_ports[1];
            std::fs::copy(other.folder.join(".erlang.cookie"), folder.join(".erlang.cookie")).unwrap();
        }
        let mut config = format!("listeners.tcp.1 = 127.0.0.1:{port}\nlog.file.level = warning\n");
        config.push_str(&setup.configuration);
        if !setup.definitions.is_empty() {
            let file = folder.join("definitions.json");
            std::fs::write(&file, &setup.definitions).unwrap();
            config = format!("{config}load_definitions = {}\n", file.display());
        }
        std::fs::write(folder.join("rabbitmq.conf"), config).unwrap();
        std::fs::write(folder.join("enabled_plugins"), format!("[{}].\n", setup.plugins)).unwrap();
        let mut node = RabbitMq { folder, name, port, internal_ports: [distribution, epmd], running: None };
        node.run().await;
        node
    }

    /// Where it takes connections.
    pub(crate) fn uri(&self) -> String {
        self.uri_of("%2f")
    }

    /// Where it takes connections to one of its virtual hosts.
    pub(crate) fn uri_of(&self, virtual_host: &str) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{virtual_host}", self.port)
    }

    /// Comes back when the queues that it has are on disk. RabbitMQ 3.10 says once in a while that a new one is there before
    /// it has written that down, and when it is killed then, it begins without the queue.
    #[allow(dead_code, reason = "not every program that shares this file kills it so soon")]
    pub(crate) async fn sync(&self) {
        self.control(&["eval", "mnesia:dump_log()."]).await;
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
        command.args(["-c", SCRIPT, "sh"]).arg(&self.folder).arg(&self.name);
        command.args([distribution, epmd].map(|port| port.to_string()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
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

    /// Runs `rabbitmqctl` on it, and returns what that prints.
    pub(crate) async fn control(&self, arguments: &[&str]) -> String {
        let mut command = tokio::process::Command::new(CONTROL);
        command.args(["-n", &format!("{}@localhost", self.name)]).args(arguments).stdin(Stdio::null());
        command.env("HOME", &self.folder).env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        command.env("ERL_EPMD_PORT", self.internal_ports[1].to_string());
        let done = command.output().await.unwrap();
        assert!(done.status.success(), "rabbitmqctl {arguments:?}: {done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Whether a file of what it knows of its quorum queues has this text in it.
    #[allow(dead_code, reason = "not every program that shares this file asks")]
    pub(crate) fn has_on_disk(&self, file: &str, text: &str) -> bool {
        let node = format!("{}@localhost", self.name);
        let file = self.folder.join("data").join(&node).join("quorum").join(&node).join(file);
        std::fs::read(file).unwrap_or_default().windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// What it has logged so far.
    #[allow(dead_code, reason = "not every program that shares this file reads it")]
    pub(crate) fn log(&self) -> String {
        let file = format!("log/{}@localhost.log", self.name);
        std::fs::read_to_string(self.folder.join(file)).unwrap_or_default()
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

/// Definitions of virtual hosts, and of users with the passcode `guest` who may do everything in all of them.
#[allow(dead_code, reason = "not every program that shares this file needs so many")]
pub(crate) fn definitions(virtual_hosts: &[String], users: &[&str]) -> String {
    let list = |items: Vec<String>| items.join(", ");
    let all_users =
        users.iter().map(|user| format!(r#"{{"name": "{user}", "password": "guest", "tags": ["administrator"]}}"#));
    let hosts = virtual_hosts.iter().map(|host| format!(r#"{{"name": "{host}"}}"#));
    let permissions = virtual_hosts.iter().flat_map(|host| {
        let everything = r#""configure": ".*", "write": ".*", "read": ".*""#;
        users.iter().map(move |user| format!(r#"{{"user": "{user}", "vhost": "{host}", {everything}}}"#))
    });
    let [users, hosts, permissions] = [list(all_users.collect()), list(hosts.collect()), list(permissions.collect())];
    format!(r#"{{"users": [{users}], "vhosts": [{hosts}], "permissions": [{permissions}]}}"#)
}

/// Ports that nobody listens on.
pub(crate) fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
