//! The edge: sockets, WebSocket, and the one task that each client has.

pub mod admin;
mod chained;
mod connection;
mod consumers;
mod drain;
mod operation;
mod origin;
mod registry;
mod report;
mod settings;
mod socket;
mod stream;
mod tls;
mod websocket;

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
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tracing::{debug, warn};

use crate::access::Rules;
use crate::auth::Authenticator;
use crate::broker::{Broker, LinkState};
use crate::chain::Chain;
use crate::hub::outbox::Outbox;
use crate::hub::{self, Hub};
use crate::message::{Handlers, Refusal, Separators, Text};
use crate::metrics::{Handshake, Metrics};
use crate::session;
use crate::telemetry::Log;

use connection::Connection;
use registry::{Limits, Registration, Registry};
pub use settings::{Settings, Tls};
use socket::Socket;
use stream::Stream;

/// Sockets beyond `server.max_connections` that are taken only to be told so; further ones are closed at once.
const SPARE_CONNECTIONS: usize = 64;
/// Connections that the kernel keeps for a gateway that is busy: a crowd that comes back after a restart.
const BACKLOG: u32 = 4096;
/// How long to wait after an error such as “too many open files” before accepting again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every client's task works with.
pub struct Services {
    /// `[server]`.
    pub server: Settings,
    /// `[session]`.
    pub session: Arc<session::Settings>,
    /// `[outbox]`.
    pub outbox: Arc<hub::Settings>,
    /// `[destination] separators`.
    pub separators: Separators,
    /// Begins the name of every session.
    pub node: String,
    /// Finds out who a client is.
    pub authenticator: Arc<dyn Authenticator>,
    /// Where links come from.
    pub broker: Arc<dyn Broker>,
    /// The interceptors.
    pub chain: Chain,
    /// The same, as sessions see it.
    pub handlers: Arc<dyn Handlers>,
    /// Who may send and subscribe where: of sessions that begin now.
    rules: RwLock<Arc<Rules>>,
    /// The shared subscriptions.
    pub hub: Hub,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is logged.
    pub log: Log,
    registry: Arc<Registry>,
}

/// Everything that [`Services`] is made of.
pub struct Parts {
    /// `[server]`.
    pub server: Settings,
    /// `[session]`.
    pub session: session::Settings,
    /// `[outbox]`.
    pub outbox: hub::Settings,
    /// `[destination] separators`.
    pub separators: Separators,
    /// Begins the name of every session.
    pub node: String,
    /// `[auth] max_sessions_per_user`.
    pub max_sessions_per_user: usize,
    /// Finds out who a client is.
    pub authenticator: Arc<dyn Authenticator>,
    /// Where links come from.
    pub broker: Arc<dyn Broker>,
    /// The interceptors.
    pub chain: Chain,
    /// What is logged.
    pub log: Log,
    /// Who may send and subscribe where.
    pub rules: Rules,
}

/// A listening socket and what serves its clients.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
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
    /// Listens, without accepting anyone yet.
    ///
    /// # Errors
    /// An address that cannot be had, or TLS files that cannot be used; the text names the setting.
    pub fn bind(parts: Parts) -> io::Result<Server> {
        let tls = parts.server.tls.files().map(|(certificate, key)| tls::acceptor(certificate, key)).transpose()?;
        let listener = listen(parts.server.listen, "server.listen")?;
        let limits = Limits {
            all: parts.server.max_connections,
            per_address: parts.server.max_connections_per_address,
            per_user: parts.max_sessions_per_user,
        };
        let outbox = Arc::new(parts.outbox);
        let metrics = Arc::new(Metrics::new());
        let services = Services {
            server: parts.server,
            session: Arc::new(parts.session),
            hub: Hub::new(&outbox, parts.separators, Arc::clone(&metrics)),
            metrics,
            outbox,
            separators: parts.separators,
            node: parts.node,
            authenticator: parts.authenticator,
            broker: parts.broker,
            handlers: Arc::new(parts.chain.clone()),
            chain: parts.chain,
            log: parts.log,
            rules: RwLock::new(Arc::new(parts.rules)),
            registry: Arc::new(Registry::new(limits)),
        };
        Ok(Server { listener, tls, services: Arc::new(services) })
    }

    /// Where it listens; with port 0 in the settings, the port that the system chose.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What every client's task works with.
    pub fn services(&self) -> Arc<Services> {
        Arc::clone(&self.services)
    }

    /// Accepts clients until this future is dropped. The clients live on; [`Services::shut_down`] ends them.
    pub async fn accept(self) {
        let sockets = Arc::new(Semaphore::new(self.services.server.max_connections + SPARE_CONNECTIONS));
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&sockets).try_acquire_owned() else {
                self.services.metrics.handshake(Handshake::Overload);
                debug!(%peer, "closed at once: too many connections (server.max_connections)");
                continue;
            };
            let (services, tls) = (Arc::clone(&self.services), self.tls.clone());
            tokio::spawn(async move {
                let within = services.server.handshake_timeout;
                match tokio::time::timeout(within, serve(&services, tls, stream, peer, permit)).await {
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
}

impl Services {
    /// Clients that are connected.
    pub fn connections(&self) -> usize {
        self.registry.len()
    }

    /// Who may send and subscribe where.
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the gateway is about to stop.
    pub fn is_draining(&self) -> bool {
        self.registry.is_draining()
    }

    /// Whether the broker can be used.
    pub fn broker_state(&self) -> LinkState {
        *self.broker.state().borrow()
    }

    /// Bytes of the largest WebSocket message: the largest frame, with room for command and line ends.
    fn max_websocket_message(&self) -> usize {
        self.session.max_body + self.session.max_header_bytes + 1024
    }

    fn websocket_config(&self) -> WebSocketConfig {
        let largest = self.max_websocket_message();
        WebSocketConfig::default()
            .read_buffer_size(self.server.read_buffer)
            .write_buffer_size(self.server.write_buffer)
            .max_message_size(Some(largest))
            .max_frame_size(Some(largest))
    }
}

/// Listens on the address that the setting `key` names.
fn listen(address: SocketAddr, key: &str) -> io::Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| io::Error::new(error.kind(), format!("{key}: cannot listen on {address}: {error}")))
}

/// One socket, from TLS to the answer that makes it a WebSocket or does not.
async fn serve(
    services: &Arc<Services>,
    tls: Option<TlsAcceptor>,
    socket: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    socket.set_nodelay(true)?;
    let stream = match tls {
        Some(tls) => Stream::from(tls.accept(socket).await?),
        None => Stream::from(socket),
    };
    let within = services.server.handshake_timeout;
    let permit = std::sync::Mutex::new(Some(permit));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let answer = websocket_or_not(services, peer, request, &permit);
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
    peer: SocketAddr,
    request: hyper::Request<Incoming>,
    permit: &std::sync::Mutex<Option<OwnedSemaphorePermit>>,
) -> websocket::Answer {
    let (parts, body) = request.into_parts();
    let answer = match websocket::answer(&parts, &services.server) {
        Ok(answer) => answer,
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
        tokio::spawn(upgrade(Arc::clone(services), peer, request, permit));
    }
    answer
}

async fn upgrade(
    services: Arc<Services>,
    peer: SocketAddr,
    request: hyper::Request<Incoming>,
    permit: OwnedSemaphorePermit,
) {
    let (stream, early) = match hyper::upgrade::on(request).await.map(Upgraded::downcast::<TokioIo<Stream>>) {
        Ok(Ok(parts)) => (parts.io.into_inner(), parts.read_buf),
        Ok(Err(_)) => return debug!(%peer, "upgraded to a stream of another kind"),
        Err(error) => return debug!(%peer, %error, "upgrade failed"),
    };
    services.metrics.handshake(Handshake::Upgraded);
    let socket = Socket::new(stream, &early, services.websocket_config()).await;
    drop(early);
    let (client, refused) = admit(&services, peer, permit);
    // Boxed by a function of its own, so that what only the upgrade needs is not kept beside the client.
    tokio::spawn(run(Box::new(Connection::new(services, client, socket)), refused));
}

fn admit(services: &Arc<Services>, peer: SocketAddr, permit: OwnedSemaphorePermit) -> (Client, Option<Refusal>) {
    let outbox = Arc::new(Outbox::new(Arc::clone(&services.outbox), Arc::clone(&services.metrics)));
    let (registration, refused) = services.registry.register(peer, Arc::clone(&outbox));
    let id = Text::from(format!("{}-{}", services.node, registration.number()));
    (Client { id, peer, outbox, registration, permit }, refused)
}

async fn run(mut connection: Box<Connection>, refused: Option<Refusal>) {
    connection.run(refused).await;
}
