//! TLS: what a full handshake costs, beside what OpenSSL says that its cryptography alone asks for; and what a client of
//! `wss` keeps in memory, beside one of `ws`.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_rustls::{TlsConnector, rustls};

use crate::client::{self, IN_FLIGHT};
use crate::idle;
use crate::plan::Plan;
use crate::process::{Gateway, Server};
use crate::report::{OPENSSL, PLAIN_SOCKETS, Report};
use crate::wire;

/// Full handshakes that one core makes in a second.
pub const RATE: &str = "handshakes per second of CPU";
/// Memory of a client that has done nothing but subscribe.
pub const MEMORY: &str = idle::RSS;

/// What the scenario of handshakes is called.
pub const HANDSHAKES: &str = "TLS 1.3 full handshakes, P-256 and X25519";

/// What the scenario of memory is called.
pub fn name(clients: usize) -> String {
    format!("wss: {}", idle::name(clients))
}

/// Runs the scenario.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let identity = Identity::new()?;
    let (mut rate, mut bound) = (Vec::new(), Vec::new());
    let (mut memory, mut without) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        bound.push(openssl()?);
        rate.push(handshakes(&identity, &identity.start(gateway)?, plan.connects).await?);
        memory.push(resident(&identity, &identity.start(gateway)?, plan.clients).await?);
        without.push(idle::resident(gateway.start()?, plan.clients).await?);
    }
    report.add_beside(OPENSSL, HANDSHAKES, RATE, rate, &bound);
    report.add_beside(PLAIN_SOCKETS, &name(plan.clients), MEMORY, memory, &without);
    Ok(())
}

/// A certificate, its key, and who trusts it. The files are removed with it.
struct Identity {
    folder: PathBuf,
    connector: TlsConnector,
}

impl Identity {
    fn new() -> io::Result<Identity> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
        let folder = std::env::temp_dir().join(format!("stompgate-bench-tls-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("certificate.pem"), made.cert.pem())?;
        fs::write(folder.join("key.pem"), made.signing_key.serialize_pem())?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
        let builder = versions.map_err(io::Error::other)?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Identity { folder, connector: TlsConnector::from(Arc::new(config)) })
    }

    fn start(&self, gateway: &Gateway) -> io::Result<Server> {
        let mut gateway = gateway.clone();
        for (key, file) in [("certificate", "certificate.pem"), ("key", "key.pem")] {
            gateway.settings.push(format!("server.tls.{key}=\"{}\"", self.folder.join(file).display()));
        }
        gateway.start()
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

async fn shake_hands(connector: TlsConnector, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    connector.connect(ServerName::from(address.ip()), stream).await
}

/// For each second of the gateway's CPU.
async fn handshakes(identity: &Identity, server: &Server, count: usize) -> io::Result<f64> {
    let (address, connector, meter) = (server.address(), identity.connector.clone(), server.meter()?);
    let made = client::many(count, IN_FLIGHT, move || shake_hands(connector.clone(), address)).await?;
    Ok(made.len() as f64 / (meter.read(server)?.server / 1e6))
}

/// RSS for each idle client with a subscription, in bytes.
async fn resident(identity: &Identity, server: &Server, clients: usize) -> io::Result<f64> {
    let (address, connector) = (server.address(), identity.connector.clone());
    let subscribe = move || {
        let connector = connector.clone();
        async move { subscribe(shake_hands(connector, address).await?, address).await }
    };
    let _first = subscribe().await?;
    let before = server.memory()?.rss;
    let all = client::many(clients, IN_FLIGHT, subscribe).await?;
    tokio::time::sleep(idle::SETTLE).await;
    Ok((server.memory()?.rss as f64 - before as f64) / all.len() as f64)
}

async fn subscribe(mut stream: TlsStream<TcpStream>, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    says(&mut stream, client::upgrade(address, "").as_bytes(), b"\r\n\r\n").await?;
    for (frame, answer) in
        [(client::connect(0), "CONNECTED\n"), (client::subscribe("/topic/bench", "auto"), "RECEIPT\n")]
    {
        let mut message = Vec::new();
        wire::push_message(frame.as_bytes(), &mut message);
        says(&mut stream, &message, answer.as_bytes()).await?;
    }
    Ok(stream)
}

/// Sends it, and waits for a read that has the answer.
async fn says(stream: &mut TlsStream<TcpStream>, bytes: &[u8], answer: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    let mut got = Vec::new();
    while memchr::memmem::find(&got, answer).is_none() {
        if stream.read_buf(&mut got).await? == 0 {
            return Err(io::Error::other(format!("closed instead of {:?}", String::from_utf8_lossy(answer))));
        }
    }
    Ok(())
}

/// Handshakes that a core could make in a second if there was nothing to them but one signature with P-256, one X25519
/// key and one agreement by it.
fn openssl() -> io::Result<f64> {
    let mut command = Command::new("openssl");
    command.args(["speed", "-mr", "-seconds", "1", "ecdsap256", "ecdhx25519"]);
    let done = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text = done.map_err(|error| io::Error::new(error.kind(), format!("openssl speed: {error}")))?.stdout;
    let text = String::from_utf8_lossy(&text);
    // +F4:number:bits:signatures:checks, and +F5:number:bits:agreements; how many in a second, or, of older ones, seconds
    let seconds = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let number = line.split(':').nth(3)?.parse::<f64>().ok()?;
        Some(if number > 1.0 { 1.0 / number } else { number })
    };
    match (seconds("+F4"), seconds("+F5")) {
        (Some(signature), Some(agreement)) => Ok(1.0 / (signature + 2.0 * agreement)),
        _ => Err(io::Error::other(format!("openssl speed says {text:?}"))),
    }
}
