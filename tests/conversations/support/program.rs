//! The program itself, as another process.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::raw::{TEXT, masked, request};
use super::{Raw, connect_frame, soon, wire};

/// The program itself, listening on free ports. It ends with the test.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: String,
    pub(crate) admin: String,
    log: PathBuf,
}

impl Program {
    /// With these settings, as `key=value`.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::start_with(settings, &[])
    }

    /// With these settings and variables.
    pub(crate) fn start_with(settings: &[&str], environment: &[(&str, &str)]) -> Self {
        let arguments: Vec<_> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        Self::start_as(&arguments, environment)
    }

    /// With these arguments and variables.
    pub(crate) fn start_as(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("log-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_stompgate"));
        command
            .args(["--listen", "127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"])
            .args(arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).expect("a file for its log"));
        let mut child = command.spawn().expect("a program that starts");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let said = lines.map_while(Result::ok).find_map(|line| {
            let (address, rest) = line.split_once("ws://")?.1.split_once('/')?;
            let admin = rest.split_once("http://").map_or("", |(_, admin)| admin.trim_end_matches(')'));
            Some((address.to_owned(), admin.to_owned()))
        });
        let (address, admin) = said.expect("where it listens");
        Program { child, address, admin, log }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("its log")
    }

    /// Waits until it has logged this.
    pub(crate) async fn logs(&self, what: &str) {
        super::until(what, || self.log().contains(what)).await;
    }

    /// Lets it open so many more files than it has open now, and no more.
    pub(crate) fn limit_files(&self, more: usize) {
        let id = self.child.id();
        let open = fs::read_dir(format!("/proc/{id}/fd")).expect("its files").count();
        let limits = ["--pid".to_owned(), id.to_string(), format!("--nofile={}", open + more)];
        assert!(Command::new("prlimit").args(limits).status().expect("prlimit").success());
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    pub(crate) async fn ends(mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("an exit code") {
                    break status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        soon("the program to end", ended).await
    }

    /// A client that is connected to it.
    pub(crate) async fn connected(&self) -> Raw {
        self.connected_with("").await.0
    }

    /// The same with more headers in its CONNECT, and the name of its session.
    pub(crate) async fn connected_with(&self, headers: &str) -> (Raw, String) {
        let mut raw = Raw::tcp_to(&self.address).await;
        raw.write(request("GET /ws HTTP/1.1", &[])).await;
        assert_eq!(raw.answer().await.status, 101);
        raw.write(masked(TEXT, &wire(connect_frame("1.2", headers)))).await;
        let session = raw.expect("CONNECTED").await.get("session");
        (raw, session)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.log);
    }
}
