//! Builds the parts from a [`Config`], joins them, and runs until shutdown.

mod builder;
mod reload;
mod supervisor;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::broker::{self, Broker, LinkState};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::server::admin::{self, Admin, Reload, Reloaded, UNREADABLE};
use crate::server::{Parts, Server, Services, Workers};
use crate::telemetry::Log;
use crate::traces::Traces;

pub use builder::Builder;
use builder::Program;
use reload::{Read, Reloader};

/// A running gateway. When it is dropped it accepts nobody any more, and the threads that serve its clients end;
/// [`Gateway::shut_down`] lets them finish. With `server.workers = 0` the clients that are there are served on.
pub struct Gateway {
    address: SocketAddr,
    url: String,
    accepting: JoinSet<()>,
    admin: Option<Operators>,
    services: Arc<Services>,
    broker: Arc<dyn Broker>,
    reload: Option<Arc<dyn Reload>>,
    workers: Workers,
}

/// The port for operators; it answers until this is dropped.
struct Operators {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Gateway {
    /// Starts a gateway inside a tokio runtime. When this returns, it accepts clients. They have threads of their own, as
    /// `server.workers` says, and the gateway's own connections to the broker have one; what a client opens at the broker, such
    /// as a link of its own user, is with that client. The port for operators is served by the runtime.
    ///
    /// # Errors
    /// Settings that cannot be carried out: an address in use, a certificate that is none. The text names the setting.
    pub fn start(config: Config) -> io::Result<Gateway> {
        Gateway::builder(config).start()
    }

    /// A gateway to which a program adds parts of its own before it starts.
    pub fn builder(config: Config) -> Builder {
        Builder::new(config)
    }

    fn build(config: Config, program: Program, log: Log, read: Option<Read>) -> io::Result<Gateway> {
        let workers = Workers::start(config.server.workers)?;
        let broker = {
            let _there = workers.of_broker().enter();
            broker::connect(&config.broker, config.auth.cache).map_err(io::Error::other)?
        };
        let scheme = if config.server.tls.files().is_some() { "wss" } else { "ws" };
        let path = config.server.path.clone();
        let metrics = Arc::new(Metrics::with(&config.metrics, config.separators()));
        let node = config.node.name.clone().unwrap_or_else(random_name);
        let parts = Parts {
            live: program.live(&config, &metrics)?,
            metrics,
            traces: Traces::start(&config.traces, &node).map_err(io::Error::other)?,
            separators: config.separators(),
            node,
            broker: Arc::clone(&broker),
            log: log.clone(),
        };
        let server = Server::bind(parts, &workers)?;
        let address = server.address()?;
        let services = server.services();
        let admin = config.admin.clone();
        let reload: Option<Arc<dyn Reload>> = match read {
            Some(read) => Some(Arc::new(Reloader::new(read, program, Arc::clone(&services), log, config))),
            None => None,
        };
        let admin = admin.enabled.then(|| Operators::start(admin, &services, reload.clone())).transpose()?;
        let url = format!("{scheme}://{address}{path}");
        let accepting = server.accept();
        Ok(Gateway { address, url, accepting, admin, services, broker, reload, workers })
    }

    /// Reads the settings again, and puts in force what can be; see [`Builder::reloading`].
    ///
    /// # Errors
    /// Why everything stays as it was.
    pub fn reload(&self) -> Result<Reloaded, String> {
        self.reload.as_ref().map_or_else(|| Err(UNREADABLE.to_owned()), |reload| reload.reload())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it answers operators, unless `admin.enabled` is off.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.address)
    }

    /// What a client connects to, such as `ws://127.0.0.1:8080/ws`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether the broker can be used, and every change of that.
    pub fn broker_state(&self) -> watch::Receiver<LinkState> {
        self.broker.state()
    }

    /// The longest time that [`Gateway::shut_down`] takes, but for the end of the broker's links and of the threads.
    fn shutdown_time(&self) -> Duration {
        let server = &self.services.live().server;
        server.drain_grace + server.drain_window + server.shutdown_timeout
    }

    /// Clients that are connected.
    pub fn connections(&self) -> usize {
        self.services.connections()
    }

    /// Destinations that are read at the broker for any number of clients.
    pub fn shared_subscriptions(&self) -> usize {
        self.services.hub.sources()
    }

    /// Is not ready for `server.drain_grace`; then stops accepting, lets clients finish what is in flight, closes them
    /// with 1012, in waves over `server.drain_window`, ends the broker's links, and exports the spans that wait. From its
    /// end on the port is free, unless a thread that serves clients hangs.
    pub async fn shut_down(mut self) {
        self.services.begin_draining();
        let live = self.services.live();
        tokio::time::sleep(live.server.drain_grace).await;
        // The port is closed once the tasks have gone, not when they are told to; that of a thread which hangs does not go.
        let within = live.server.drain_window + live.server.shutdown_timeout;
        let accepting = timeout(within, self.accepting.shutdown());
        let (_, left) = tokio::join!(accepting, self.services.shut_down());
        if left > 0 {
            warn!(left, "clients were still there after server.shutdown_timeout");
        }
        self.broker.close().await;
        self.services.traces.close().await;
        let hanging = self.workers.end().await;
        if hanging > 0 {
            warn!(hanging, "threads that serve clients hang, and are left");
        }
    }
}

impl Operators {
    fn start(settings: admin::Settings, services: &Arc<Services>, reload: Option<Arc<dyn Reload>>) -> io::Result<Self> {
        let admin = Admin::bind(settings, Arc::clone(services), reload)?;
        let address = admin.address()?;
        Ok(Operators { address, serving: tokio::spawn(admin.serve()) })
    }
}

impl Drop for Operators {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Runs a gateway until SIGTERM or Ctrl-C, then shuts it down. A second signal ends the process at once. SIGHUP has `read`
/// read the settings again.
///
/// # Errors
/// As [`Gateway::start`].
pub async fn run(
    config: Config,
    log: Log,
    read: impl Fn() -> Result<Config, String> + Send + Sync + 'static,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let gateway = Gateway::builder(config).log(log).reloading(read).start()?;
    let admin = gateway.admin_address().map(|address| format!(" (metrics and health: http://{address})"));
    println!("listening on {}{}", gateway.url(), admin.unwrap_or_default());
    let _watchdog = supervisor::ready(gateway.url(), Arc::clone(&gateway.services));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                supervisor::reloading();
                let _ = gateway.reload(); // which logs what came of it
                supervisor::reloaded();
            }
        }
    }
    supervisor::stopping(gateway.shutdown_time());
    info!(clients = gateway.connections(), "shutting down; a second signal ends the process at once");
    tokio::select! {
        () = gateway.shut_down() => Ok(()),
        _ = terminate.recv() => Err(io::Error::other("ended by a second signal")),
        _ = interrupt.recv() => Err(io::Error::other("ended by a second signal")),
    }
}

/// A name that no other node has: 32 random bits in hexadecimal.
fn random_name() -> String {
    let random = getrandom::u32().unwrap_or_else(|_| std::process::id());
    format!("{random:08x}")
}
