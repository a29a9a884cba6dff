//! `wss`, and IPv6.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use stompgate::config::Config;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::raw::{Raw, request};
use crate::support::{Client, Gateway, gateway_with, until};

/// A gateway with a certificate of its own, and a client's trust in it.
fn gateway(name: &str, change: impl FnOnce(&mut Config)) -> (Gateway, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let write = |what: &str, pem: String| -> PathBuf {
        let path = directory.join(format!("{name}-{}-{what}.pem", std::process::id()));
        std::fs::write(&path, pem).expect("a place for a file");
        path
    };
    let certificate = write("certificate", made.cert.pem());
    let key = write("key", made.signing_key.serialize_pem());
    let gateway = gateway_with(|config| {
        config.server.tls.certificate = Some(certificate.clone());
        config.server.tls.key = Some(key.clone());
        change(config);
    });
    for file in [certificate, key] {
        std::fs::remove_file(file).expect("a file that was read");
    }
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let trust = builder.expect("versions of TLS").with_root_certificates(roots).with_no_client_auth();
    (gateway, Arc::new(trust))
}

async fn secured(gateway: &Gateway, trust: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(gateway.address()).await.expect("a gateway that accepts");
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::clone(trust)).connect(name, stream).await.expect("a handshake")
}

#[tokio::test]
async fn the_whole_conversation_goes_over_tls() {
    let (gateway, trust) = gateway("talk", |_| {});
    assert!(gateway.url().starts_with("wss://"), "{}", gateway.url());
    let mut client = Client::open_on(&gateway, secured(&gateway, &trust).await).await;
    client.login("1.2", "login:ada").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    let body = "y".repeat(200 * 1024);
    client.send(format!("SEND\ndestination:/topic/a\n\n{body}")).await;
    client.expect("MESSAGE").await.saying(body);
    client.disconnect().await;
    until("the connection to be forgotten", || gateway.connections() == 0).await;
}

#[tokio::test]
async fn who_comes_back_needs_no_full_handshake_however_many_came_meanwhile() {
    let (gateway, trust) = gateway("tickets", |_| {});
    let mut client = Client::open_on(&gateway, secured(&gateway, &trust).await).await;
    client.login("1.2", "login:ada").await; // what it reads has the tickets in it
    client.disconnect().await;
    for _ in 0..300 {
        let mut forgetful = ClientConfig::clone(&trust);
        forgetful.resumption = Resumption::disabled();
        let other = secured(&gateway, &Arc::new(forgetful)).await;
        assert_eq!(other.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
    let again = secured(&gateway, &trust).await;
    assert_eq!(again.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    let mut client = Client::open_on(&gateway, again).await;
    client.login("1.2", "login:ada").await;
}

#[tokio::test]
async fn errors_and_limits_are_the_same_over_tls() {
    let (gateway, trust) = gateway("errors", |_| {});
    let mut client = Client::open_on(&gateway, secured(&gateway, &trust).await).await;
    client.send(format!("CONNECT\nx:{}", "y".repeat(20_000))).await;
    client.expect_error("too-large", 1009).await.about("session.max_connect_bytes");
    let mut client = Client::open_on(&gateway, secured(&gateway, &trust).await).await;
    client.login("1.2", "").await;
    client.send("FOO").await;
    client.expect_error("unknown-command", 1002).await;
}

#[tokio::test]
async fn what_is_no_tls_is_ended_and_nobody_else_notices() {
    let (gateway, trust) = gateway("noise", |config| config.server.handshake_timeout = Duration::from_millis(200));
    let mut client = Client::open_on(&gateway, secured(&gateway, &trust).await).await;
    client.login("1.2", "").await;
    for bytes in [request("GET /ws HTTP/1.1", &[]).into_bytes(), vec![0; 1000], vec![0x16, 0x03, 0x01], Vec::new()] {
        let mut raw = Raw::tcp(&gateway).await;
        raw.write(bytes).await;
        raw.read_to_end().await;
    }
    client.expect_nothing().await;
}

#[tokio::test]
async fn broken_handshakes_leave_no_task_behind() {
    let (gateway, trust) = gateway("broken", |_| {});
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = alive();
    for number in 0..200 {
        let mut raw = Raw::tcp(&gateway).await;
        match number % 4 {
            0 => {}
            1 => raw.write([0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await, // the beginning of a ClientHello
            2 => {
                let mut stream = secured(&gateway, &trust).await;
                stream.write_all(b"GET /ws HTTP/1.1\r\nhost: loc").await.expect("an open connection");
            }
            _ => {
                let mut client = Client::open_on(&gateway, secured(&gateway, &trust).await).await;
                client.login("1.2", "").await;
                client.subscribe("id:0\ndestination:/queue/a\nack:client").await;
                client.vanish();
            }
        }
        raw.reset();
    }
    until("the connections to be forgotten", || gateway.connections() == 0).await;
    until("the tasks to end", || alive() <= before).await;
}

#[test]
fn a_certificate_that_is_none_stops_the_start() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = directory.join(format!("none-{}.pem", std::process::id()));
    std::fs::write(&file, "no certificate").expect("a place for a file");
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().expect("an address");
    config.admin.enabled = false;
    config.server.tls.certificate = Some(file.clone());
    config.server.tls.key = Some(file.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let error = runtime.block_on(async { Gateway::start(config).err().expect("no start").to_string() });
    assert!(error.contains("server.tls."), "{error}");
    std::fs::remove_file(file).expect("a file");
}

#[tokio::test]
async fn ipv6_is_served_like_ipv4() {
    let gateway = gateway_with(|config| config.server.listen = "[::1]:0".parse().expect("an address"));
    assert!(gateway.url().starts_with("ws://[::1]:"), "{}", gateway.url());
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    client.send("SEND\ndestination:/topic/a\n\nx").await;
    client.expect("MESSAGE").await.saying("x");
}
