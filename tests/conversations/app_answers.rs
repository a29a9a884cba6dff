//! What HTTP services may answer, over HTTPS, large, broken or without end (contract, §10).

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use stompgate::chain::{HttpSettings, RouteSettings};
use stompgate::gateway::Gateway;
use tokio_rustls::TlsAcceptor;

use crate::support::service::{Answer, Service, answer};
use crate::support::{Client, gateway_with};

fn gateway(url: String, change: impl FnOnce(&mut HttpSettings)) -> Gateway {
    let mut http = HttpSettings { url, breaker_failures: 0, ..HttpSettings::default() };
    change(&mut http);
    let route = RouteSettings { pattern: "/app/x".into(), http: Some(http), ..RouteSettings::default() };
    gateway_with(|config| config.app.route = vec![route])
}

/// What a TLS service needs, and the file by which it can be trusted.
fn certificate(name: &str) -> (TlsAcceptor, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.pem", std::process::id()));
    std::fs::write(&file, made.cert.pem()).expect("a place for a file");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions of TLS").with_no_client_auth();
    let config = builder.with_single_cert(vec![made.cert.der().clone()], key).expect("a certificate and its key");
    (TlsAcceptor::from(Arc::new(config)), file)
}

#[tokio::test]
async fn a_service_is_called_over_tls_if_its_authority_is_known_and_not_otherwise() {
    let (acceptor, ca) = certificate("service");
    let (_, other) = certificate("other");
    let service = Service::start_tls([answer("200 OK", "over TLS")], acceptor).await;
    let url = format!("https://localhost:{}/x", service.address.port());
    let trusting = gateway(url.clone(), |http| http.ca = Some(ca));
    let mut client = Client::connect(&trusting, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/x").await;
    client.send("SEND\ndestination:/app/x\n\n").await;
    client.expect("MESSAGE").await.saying("over TLS");
    assert_eq!(service.calls().len(), 1);
    for ca in [Some(other), None] {
        let wary = gateway(url.clone(), |http| http.ca = ca);
        let mut client = Client::connect(&wary, "1.2").await;
        client.does("SEND\ndestination:/app/x\n\n").await.with("status", "502");
    }
    let plain = format!("https://{}/x", service.address);
    let mut client = Client::connect(&gateway(plain, |_| {}), "1.2").await;
    client.does("SEND\ndestination:/app/x\n\n").await.with("status", "502");
    assert_eq!(service.calls().len(), 1, "nobody was told anything before trust was there");
}

#[tokio::test]
async fn an_answer_of_ten_megabytes_comes_through_if_it_may_and_is_refused_if_not() {
    let large = "x".repeat(10 * 1024 * 1024);
    let service = Service::start([answer("200 OK", &large)]).await;
    let url = format!("http://{}/", service.address);
    let open = gateway(url.clone(), |http| http.max_response = large.len());
    let mut client = Client::connect(&open, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/x").await;
    client.send("SEND\ndestination:/app/x\n\n").await;
    client.expect("MESSAGE").await.saying(large);
    let narrow = gateway(url, |_| {});
    let mut client = Client::connect(&narrow, "1.2").await;
    client.subscribe("id:e\ndestination:/user/queue/errors").await;
    client.send("SEND\ndestination:/app/x\n\n").await;
    client.expect("MESSAGE").await.with("status", "502").about("larger than 1048576 bytes");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_rubbish_or_never_ends_is_a_failure_and_no_more() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let service = Service::start([
        Answer::Last(format!("{chunked}5\r\nhal").into_bytes()),
        Answer::Last(format!("{chunked}rubbish\r\nrubbish").into_bytes()),
        Answer::Last(b"HTTP/1.1 200 OK\r\n\x00\x01\xff: \xfe\r\n\r\n".to_vec()),
        Answer::Last(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n".to_vec()),
        Answer::Endless(chunked.into(), b"400\r\n".iter().copied().chain([b'z'; 1024]).chain(*b"\r\n").collect()),
        Answer::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: y\r\n".to_vec()),
        answer("200 OK", "fine again"),
    ])
    .await;
    let gateway = gateway(format!("http://{}/", service.address), |_| {});
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/x").await;
    for _ in 0..6 {
        client.does("SEND\ndestination:/app/x\n\n").await.with("status", "502");
    }
    client.send("SEND\ndestination:/app/x\n\n").await;
    client.expect("MESSAGE").await.with("destination", "/topic/x").saying("fine again");
}
