//! A Mosquitto of the tests' own, from Debian's package: own ports and folder.
//!
//! A shell stands between: it starts the broker and ends it, by its process id, when its standard input ends. So the
//! broker goes with the tests, however these end. Where Mosquitto is missing, that is an error: `tests/run` installs it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

const SERVER: &str = "/usr/sbin/mosquitto";
const PATIENCE: Duration = Duration::from_mins(1);

const SCRIPT: &str = r#"
cd "$1" || exit 1
"$2" -c mosquitto.conf </dev/null >server.log 2>&1 &
broker=$!
cat >/dev/null
kill -9 "$broker"
wait
[ -e keep ] || rm -rf "$1"
"#;

/// A Mosquitto. Dropping it ends it and removes its data.
pub(crate) struct Mosquitto {
    folder: PathBuf,
    port: u16,
    running: Option<Child>,
}

impl Mosquitto {
    /// One with nothing in it, and with these lines added to its settings.
    pub(crate) async fn start(settings: &str) -> Mosquitto {
        assert!(Path::new(SERVER).exists(), "{SERVER} is missing; tests/run installs the package mosquitto");
        loop {
            let mut broker = Self::on_free_port(settings);
            if broker.try_to_run().await {
                return broker;
            }
        }
    }

    fn on_free_port(settings: &str) -> Mosquitto {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("stompgate-mosquitto-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        // The user is asked for only where root starts it.
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n\
             persistence_location {}/\nautosave_interval 1\nlog_dest stderr\n{settings}\n",
            folder.display()
        );
        std::fs::write(folder.join("mosquitto.conf"), config).unwrap();
        Mosquitto { folder, port, running: None }
    }

    /// Where it takes connections.
    pub(crate) fn uri(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// The port of it.
    #[allow(dead_code, reason = "not every program that shares this file has a proxy before it")]
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What it has logged since it was started last.
    #[allow(dead_code, reason = "few ask for it")]
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    /// Ends it as a power failure does; what it has written stays.
    pub(crate) fn kill(&mut self) {
        std::fs::write(self.folder.join("keep"), "").unwrap();
        self.end();
    }

    /// Starts it again after [`Mosquitto::kill`].
    pub(crate) async fn run(&mut self) {
        while !self.try_to_run().await {
            sleep(Duration::from_millis(100)).await; // somebody has its port for a moment
        }
    }

    /// Starts it, unless somebody has its port. Only its own log says that it is there: others may listen, too.
    async fn try_to_run(&mut self) -> bool {
        let log = self.folder.join("server.log");
        let _ = std::fs::remove_file(self.folder.join("keep"));
        let _ = std::fs::remove_file(&log);
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(&self.folder).arg(SERVER);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.running = Some(command.spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            if log.contains(" running\n") {
                return true;
            }
            if log.contains("Address already in use") {
                self.kill();
                return false;
            }
            assert!(Instant::now() < deadline && !log.contains("Error"), "Mosquitto does not start:\n{log}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn end(&mut self) {
        if let Some(mut child) = self.running.take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.folder.join("keep"));
        self.end();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
