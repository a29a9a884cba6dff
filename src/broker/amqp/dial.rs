//! How a connection to the broker is made: its addresses, as whom, to which virtual host, and TLS.

use std::fs;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, RustlsConnector, RustlsConnectorConfig, TLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use lapin::{Connection, ConnectionProperties, Error, runtime};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::errors::refused_connection;
use super::settings::{Settings, Uri};
use crate::broker::BrokerError;
use crate::message::Text;

/// A broker that is asked to close a connection has so long for it.
pub(super) const CLOSING: Duration = Duration::from_secs(2);

/// Makes connections that are alike.
#[derive(Clone)]
pub(super) struct Dialer {
    /// The nodes of a cluster, all with the same login and virtual host.
    nodes: Vec<AMQPUri>,
    tls: Option<RustlsConnector>,
    connect_timeout: Duration,
    /// The user whose connections these are; `None` for the service account.
    user: Option<Text>,
    /// How often a connection was made again; counted for all who dial in this way, whatever as.
    reconnects: Arc<AtomicU64>,
    /// Which of the nodes answered last.
    answered: Arc<AtomicUsize>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct NoConnection {
    /// For the log.
    pub(super) why: String,
    /// What the broker said, if it did not want us. Asking again will not help before somebody changes its users.
    pub(super) refused: Option<BrokerError>,
}

/// Why a URI is none. The text does not show it, because there may be a passcode in it.
pub(super) fn check_uri(uri: &str) -> Result<AMQPUri, String> {
    let mut parsed = uri.parse::<AMQPUri>().map_err(|why| format!("cannot be read: {why}"))?;
    if let Some(address) = ipv6_literal(uri) {
        address.clone_into(&mut parsed.authority.host);
    }
    Ok(parsed)
}

/// What stands in brackets as the host. The parser of URIs knows names only, and takes "localhost" for it.
fn ipv6_literal(uri: &str) -> Option<&str> {
    let authority = uri.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    host.strip_prefix('[')?.split_once(']').map(|(address, _)| address)
}

impl Dialer {
    /// For the service account. Reads the files that the settings name.
    pub(super) fn new(settings: &Settings) -> Result<Self, (&'static str, String)> {
        let mut nodes = Vec::new();
        for Uri(uri) in &settings.uri {
            let mut uri = check_uri(uri).map_err(|why| ("broker.amqp.uri", why))?;
            uri.query.frame_max = Some(settings.frame_max);
            uri.query.heartbeat = u16::try_from(settings.heartbeat.as_secs()).ok();
            nodes.push(uri);
        }
        let is_secured = nodes.iter().any(|uri| uri.scheme == AMQPScheme::AMQPS);
        let tls = if is_secured { Some(tls(settings)?) } else { None };
        Ok(Dialer {
            nodes,
            tls,
            connect_timeout: settings.connect_timeout,
            user: None,
            reconnects: Arc::default(),
            answered: Arc::default(),
        })
    }

    /// The same to another virtual host.
    pub(super) fn to(&self, virtual_host: &str) -> Dialer {
        let mut dialer = self.clone();
        for node in &mut dialer.nodes {
            virtual_host.clone_into(&mut node.vhost);
        }
        dialer
    }

    /// The same for a user of the broker's.
    pub(super) fn of_user(&self, user: &Text, passcode: &str, frame_max: u32) -> Dialer {
        let mut dialer = self.clone();
        for node in &mut dialer.nodes {
            (**user).clone_into(&mut node.authority.userinfo.username);
            passcode.clone_into(&mut node.authority.userinfo.password);
            // The service account may be known by the gateway's certificate; a user never is.
            node.query.auth_mechanism = Some(SASLMechanism::Plain);
            node.query.frame_max = Some(frame_max);
        }
        dialer.user = Some(user.clone());
        dialer
    }

    /// The virtual host that all connections are to.
    pub(super) fn virtual_host(&self) -> &str {
        self.nodes.first().map_or("/", |uri| &uri.vhost)
    }

    /// A connection was made, the one of this number that its owner has had.
    pub(super) fn connected(&self, generation: u64) {
        self.reconnects.fetch_add(u64::from(generation > 1), Ordering::Relaxed);
    }

    /// How often a connection was made again.
    pub(super) fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// How many nodes there are to try.
    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The user whose connections these are; `None` for the service account.
    pub(super) fn user(&self) -> Option<&Text> {
        self.user.as_ref()
    }

    /// A connection to one of the nodes: the next one with each attempt.
    pub(super) async fn dial(&self, name: &str, attempt: u32) -> Result<Connection, NoConnection> {
        self.dial_within(self.connect_timeout, name, attempt).await
    }

    async fn dial_within(&self, within: Duration, name: &str, attempt: u32) -> Result<Connection, NoConnection> {
        let at = attempt as usize % self.nodes.len().max(1);
        let Some(node) = self.nodes.get(at) else { return Err("no broker is configured".to_owned().into()) };
        let connecting = connect(node.clone(), self.tls.clone(), name);
        match tokio::time::timeout(within, connecting).await {
            Ok(Ok(connection)) => {
                self.answered.store(at, Ordering::Relaxed);
                Ok(connection)
            }
            Ok(Err(error)) => {
                let user = &node.authority.userinfo.username;
                let refused = refused_connection(&error, user, &node.vhost);
                Err(NoConnection { why: format!("{}: {error}", address(node)), refused })
            }
            Err(_) => Err(format!("{}: no answer within {within:?}", address(node)).into()),
        }
    }

    /// Whether the broker lets this user in: asks each node until one answers, and keeps nothing. The first is the one
    /// that answered last, and all together have less time than one connection, because a client waits.
    pub(super) async fn check(&self) -> Result<(), BrokerError> {
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let first = u32::try_from(self.answered.load(Ordering::Relaxed)).unwrap_or_default();
        let within = self.connect_timeout / nodes.saturating_add(1);
        for next in 0..nodes {
            match self.dial_within(within, "checks a login", first.saturating_add(next)).await {
                Ok(connection) => {
                    tokio::spawn(async move {
                        let closing = connection.close(200, "checked".into());
                        let _ = tokio::time::timeout(CLOSING, closing).await; // it goes with its handle at the latest
                    });
                    return Ok(());
                }
                Err(NoConnection { refused: Some(refused), .. }) => return Err(refused),
                Err(NoConnection { why, .. }) => tracing::debug!("a login cannot be checked: {why}"),
            }
        }
        Err(BrokerError::Unavailable)
    }
}

impl From<String> for NoConnection {
    fn from(why: String) -> Self {
        NoConnection { why, refused: None }
    }
}

fn address(node: &AMQPUri) -> String {
    format!("{}:{}", node.authority.host, node.authority.port)
}

async fn connect(uri: AMQPUri, tls: Option<RustlsConnector>, name: &str) -> Result<Connection, Error> {
    let properties = ConnectionProperties::default().with_connection_name(format!("stompgate {name}").into());
    let begun = Begun::default();
    let socket = Arc::clone(&begun.0);
    let connecting = Connection::connector(
        uri,
        runtime::default_runtime()?,
        async move |uri: AMQPUri, runtime| {
            let tcp = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
            let stream = AMQPUriTcpExt::connect_with_config_async(&tcp, TLSConfig::default(), &runtime).await?;
            if let AsyncTcpStream::Plain(stream) = &stream {
                let copy = stream.get_ref().as_fd().try_clone_to_owned()?;
                *socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy.into());
            }
            match &tls {
                Some(tls) if uri.scheme == AMQPScheme::AMQPS => {
                    Ok(stream.into_rustls(tls, &uri.authority.host).await?)
                }
                _ => Ok(stream),
            }
        },
        properties,
    );
    let connected = connecting.await;
    begun.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    connected
}

/// The socket of a connection whose handshake is not done. lapin's thread holds on to it for as long as the other side
/// says nothing, whoever has stopped to wait for it: so it is shut down when this is dropped.
#[derive(Default)]
struct Begun(Arc<Mutex<Option<TcpStream>>>);

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(socket) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = socket.shutdown(Shutdown::Both); // it may be closed already
        }
    }
}

/// Not lapin's own way from files to TLS: with a CA of the operator's, that goes on to trust the whole public web.
fn tls(settings: &Settings) -> Result<RustlsConnector, (&'static str, String)> {
    const CERTIFICATE: &str = "broker.amqp.certificate";
    let config = match &settings.ca {
        None => RustlsConnectorConfig::new_with_webpki_root_certs(),
        Some(path) => {
            RustlsConnectorConfig::default().with_parsable_certificates(certificates("broker.amqp.ca", path)?)
        }
    };
    let connector = match (&settings.certificate, &settings.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(CERTIFICATE, certificate)?;
            let key = PrivateKeyDer::from_pem_slice(&read("broker.amqp.key", key)?)
                .map_err(|why| ("broker.amqp.key", format!("{} has no private key: {why}", key.display())))?;
            config.connector_with_single_cert(chain, key)
        }
        _ => config.connector_with_no_client_auth(),
    };
    connector.map_err(|why| (CERTIFICATE, format!("cannot be used: {why}")))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, (&'static str, String)> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(key, path)?).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err((key, format!("{} has no certificate; expected a PEM file", path.display()))),
        Err(why) => Err((key, format!("{} is no PEM file: {why}", path.display()))),
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, (&'static str, String)> {
    fs::read(path).map_err(|why| (key, format!("cannot read {}: {why}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_uri_is_a_name_or_an_address() {
        for (uri, host) in [
            ("amqp://u:p@[::1]:5671/%2f", "::1"),
            ("amqps://[fd00::7]", "fd00::7"),
            ("amqp://127.0.0.1:5672", "127.0.0.1"),
            ("amqp://user:p%5B@rabbit.example/[x]", "rabbit.example"),
        ] {
            assert_eq!(check_uri(uri).unwrap().authority.host, host, "{uri}");
        }
    }
}
