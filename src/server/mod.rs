//! The edge: sockets, WebSocket, and the one task that each client has.

pub mod admin;
mod chained;
mod connection;
mod consumers;
mod deflate;
mod drain;
mod ending;
mod frames;
mod live;
mod operation;
mod origin;
mod port;
mod registry;
mod report;
mod settings;
mod socket;
mod stream;
mod tap;
mod tls;
mod websocket;
mod workers;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::broker::{Broker, LinkState};
use crate::hub::Hub;
use crate::hub::outbox::Outbox;
use crate::message::{Refusal, Separators, Text};
use crate::metrics::{Handshake, Metrics};
use crate::telemetry::Log;
use crate::traces::Traces;

use connection::Connection;
use deflate::Agreed;
pub use deflate::Settings as Deflate;
pub use live::Live;
use registry::{Registration, Registry};
pub use settings::{Settings, Tls};
use socket::Socket;
use stream::Stream;
pub use workers::Workers;
use workers::{Runtimes, spawn_client};

/// Sockets beyond `server.max_connections` that are taken only to be told so; further ones are closed at once.
const SPARE_CONNECTIONS: usize = 64;
/// How long to wait after an error such as “too many open files” before accepting again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every client's task works with.
pub struct Services {
    live: RwLock<Arc<Live>>,
    /// Places for sockets, those that are only told that there are too many among them.
    sockets: Arc<Semaphore>,
    /// `[destination] separators`.
    pub separators: Separators,
    /// Begins the name of every session.
    pub node: String,
    /// Where links come from.
    pub broker: Arc<dyn Broker>,
    /// The shared subscriptions.
    pub hub: Hub,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is recorded.
    pub traces: Traces,
    /// What is logged.
    pub log: Log,
    registry: Arc<Registry>,
    runtimes: Runtimes,
}

/// Everything that [`Services`] is made of.
pub struct Parts {
    /// What a reload can change.
    pub live: Live,
    /// `[destination] separators`.
    pub separators: Separators,
    /// Begins the name of every session.
    pub node: String,
    /// Where links come from.
    pub broker: Arc<dyn Broker>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is recorded.
    pub traces: Traces,
    /// What is logged.
    pub log: Log,
}

/// A port that listens, and what serves its clients.
pub struct Server {
    /// One for each of the runtimes.
    listeners: Vec<TcpListener>,
    services: Arc<Services>,
}

/// One client, as its task knows it.
struct Client {
    /// The name of its session.
    id: Text,
    peer: SocketAddr,
    outbox: Arc<Outbox>,
    registration: Registration,
    #[expect(dead_code, reason = "held for its Drop")]
    permit: OwnedSemaphorePermit,
}

impl Server {
    /// Listens, without accepting anyone yet. Clients will be served by these workers.
    ///
    /// # Errors
    /// An address that cannot be had; the text names the setting.
    pub fn bind(parts: Parts, workers: &Workers) -> io::Result<Server> {
        let Parts { live, separators, node, broker, metrics, traces, log } = parts;
        let runtimes = workers.runtimes();
        let listeners = port::listen_shared(live.server.listen, "server.listen", runtimes.of_clients())?;
        let services = Services {
            hub: Hub::new(&live.outbox, separators, Arc::clone(&metrics), traces.clone()),
            registry: Arc::new(Registry::new(live.limits())),
            sockets: Arc::new(Semaphore::new(live.sockets())),
            live: RwLock::new(Arc::new(live)),
            metrics,
            traces,
            separators,
            node,
            broker,
            log,
            runtimes,
        };
        Ok(Server { listeners, services: Arc::new(services) })
    }

    /// Where it listens; with port 0 in the settings, the port that the system chose.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listeners.first().ok_or(io::ErrorKind::AddrNotAvailable)?.local_addr()
    }

    /// What every client's task works with.
    pub fn services(&self) -> Arc<Services> {
        Arc::clone(&self.services)
    }

    /// Accepts clients, with a task for each listener, until these have ended or are dropped. The clients live on; [`Services::shut_down`] ends them.
    pub fn accept(self) -> JoinSet<()> {
        let Server { listeners, services } = self;
        let mut accepting = JoinSet::new();
        for (listener, runtime) in listeners.into_iter().zip(services.runtimes.of_clients()) {
            accepting.spawn_on(accept(listener, Arc::clone(&services)), runtime);
        }
        accepting
    }
}

impl Services {
    /// What a reload can change, as it is now.
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this holds. Limits and authentication are for the clients that come; rules, routes and
    /// handlers for all.
    pub fn apply(&self, live: Live) {
        let live = Arc::new(live);
        self.registry.set_limits(live.limits());
        let before =
            std::mem::replace(&mut *self.live.write().unwrap_or_else(PoisonError::into_inner), Arc::clone(&live));
        match live.sockets().checked_sub(before.sockets()) {
            Some(more) => self.sockets.add_permits(more),
            None => drop(self.sockets.forget_permits(before.sockets() - live.sockets())),
        }
        self.registry.wake_all();
    }

    /// Clients that are connected.
    pub fn connections(&self) -> usize {
        self.registry.len()
    }

    /// Whether the gateway is about to stop.
    pub fn is_draining(&self) -> bool {
        self.registry.is_draining()
    }

    /// Whether every thread that serves clients does. The answer does not come while one of them hangs.
    pub async fn is_alive(&self) -> bool {
        self.runtimes.are_alive().await
    }

    /// Whether the broker can be used.
    pub fn broker_state(&self) -> LinkState {
        *self.broker.state().borrow()
    }
}

async fn accept(listener: TcpListener, services: Arc<Services>) {
    let mut is_failing = false;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Of the attempts that fail in a row the first one says so, on each thread.
                if !std::mem::replace(&mut is_failing, true) {
                    warn!(%error, "a connection could not be accepted; the gateway goes on trying");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        is_failing = false;
        let Ok(permit) = Arc::clone(&services.sockets).try_acquire_owned() else {
            services.metrics.handshake(Handshake::Overload);
            debug!(%peer, "closed at once: too many connections (server.max_connections)");
            continue;
        };
        let (services, live) = (Arc::clone(&services), services.live());
        tokio::spawn(async move {
            let within = live.server.handshake_timeout;
            match tokio::time::timeout(within, serve(&services, &live, stream, peer, permit)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    services.metrics.handshake(Handshake::Failed);
                    debug!(%peer, error, "handshake failed");
                }
                Err(_) => {
                    services.metrics.handshake(Handshake::TimedOut);
                    debug!(%peer, "no handshake within server.handshake_timeout");
                }
            }
        });
    }
}

/// One socket, from TLS to the answer that makes it a WebSocket or does not.
async fn serve(
    services: &Arc<Services>,
    live: &Arc<Live>,
    socket: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    socket.set_nodelay(true)?;
    let stream = match &live.tls {
        Some(tls) => Stream::from(tls.accept(socket).await?),
        None => Stream::from(socket),
    };
    let within = live.server.handshake_timeout;
    let permit = std::sync::Mutex::new(Some(permit));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let answer = websocket_or_not(services, live, peer, request, &permit);
        async move { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(within)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await?;
    Ok(())
}

/// Answers one request. A 101 takes the socket's permit along to the task of the client that it makes.
fn websocket_or_not(
    services: &Arc<Services>,
    live: &Arc<Live>,
    peer: SocketAddr,
    request: hyper::Request<Incoming>,
    permit: &std::sync::Mutex<Option<OwnedSemaphorePermit>>,
) -> websocket::Answer {
    let (parts, body) = request.into_parts();
    let (answer, agreed) = match websocket::answer(&parts, &live.server) {
        Ok(answered) => answered,
        Err(answer) => {
            services.metrics.handshake(Handshake::Refused);
            debug!(%peer, status = answer.status().as_u16(), path = parts.uri.path(), "no WebSocket");
            return answer;
        }
    };
    let taken = permit.lock().ok().and_then(|mut permit| permit.take());
    if let Some(permit) = taken {
        let request = hyper::Request::from_parts(parts, body);
        // A task of its own: the one that served HTTP would keep its buffers for as long as the client stays.
        tokio::spawn(upgrade(Arc::clone(services), Arc::clone(live), peer, request, agreed, permit));
    }
    answer
}

async fn upgrade(
    services: Arc<Services>,
    live: Arc<Live>,
    peer: SocketAddr,
    request: hyper::Request<Incoming>,
    agreed: Option<Agreed>,
    permit: OwnedSemaphorePermit,
) {
    let (stream, early) = match hyper::upgrade::on(request).await.map(Upgraded::downcast::<TokioIo<Stream>>) {
        Ok(Ok(parts)) => (parts.io.into_inner(), parts.read_buf),
        Ok(Err(_)) => return debug!(%peer, "upgraded to a stream of another kind"),
        Err(error) => return debug!(%peer, %error, "upgrade failed"),
    };
    services.metrics.handshake(Handshake::Upgraded);
    let compression = agreed.map(|agreed| (agreed, &live.server.deflate));
    let socket = Socket::new(stream, &early, live.websocket_config(), compression).await;
    drop(early);
    let (client, refused) = admit(&services, &live, peer, agreed.is_some(), permit);
    // Boxed by a function of its own, so that what only the upgrade needs is not kept beside the client.
    let mut connection = Box::new(Connection::new(services, live, client, socket));
    if let Some(refusal) = refused {
        connection.refuse(refusal);
    }
    spawn_client(run(connection));
}

fn admit(
    services: &Arc<Services>,
    live: &Live,
    peer: SocketAddr,
    is_compressed: bool,
    permit: OwnedSemaphorePermit,
) -> (Client, Option<Refusal>) {
    let outbox = Outbox::new(Arc::clone(&live.outbox), Arc::clone(&services.metrics));
    let outbox = Arc::new(if is_compressed { outbox.compressed() } else { outbox });
    let (registration, refused) = services.registry.register(peer, Arc::clone(&outbox));
    let id = Text::from(format!("{}-{}", services.node, registration.number()));
    (Client { id, peer, outbox, registration, permit }, refused)
}

async fn run(mut connection: Box<Connection>) {
    connection.run().await;
}
