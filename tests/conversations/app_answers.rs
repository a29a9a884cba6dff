//! What HTTP services may answer, over HTTPS, large, broken or without end (contract, §10).

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use stompgate::chain::{HttpSettings, RouteSettings};
use stompgate::gateway::Gateway;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::support::service::{Answer, Service, answer};
use crate::support::{Client, gateway_with, until};

const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

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
    let trusting = gateway(url.clone(), |http| http.ca = Some(ca.clone()));
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
    // Its authority is known, but this is not the name that its certificate is for.
    let by_address = gateway(format!("https://{}/x", service.address), |http| http.ca = Some(ca));
    let mut client = Client::connect(&by_address, "1.2").await;
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

#[tokio::test]
async fn so_many_calls_are_under_way_at_a_time_and_the_others_wait_and_come() {
    const CLIENTS: usize = 8;
    let permits = Arc::new(Semaphore::new(0));
    let service = Service::start([Answer::Held(Arc::clone(&permits), NO_CONTENT.into())]).await;
    let gateway = gateway(format!("http://{}/", service.address), |http| http.max_concurrent = 3);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send("SEND\ndestination:/app/x\nreceipt:r\n\n").await;
        clients.push(client);
    }
    for answered in 0..CLIENTS {
        let expected = CLIENTS.min(answered + 3);
        until("those that may", || service.calls().len() >= expected).await;
        // Whoever comes in now comes after all that could have been called.
        Client::connect(&gateway, "1.2").await.disconnect().await;
        assert_eq!(service.calls().len(), expected, "after {answered} answers");
        permits.add_permits(1);
    }
    for client in &mut clients {
        client.expect("RECEIPT").await.without("status");
    }
}

#[tokio::test]
async fn connections_are_kept_and_used_again_if_the_setting_says_so() {
    for (max_idle, is_kept) in [(16, true), (0, false)] {
        let service = Service::start([Answer::Bytes(NO_CONTENT.into())]).await;
        let gateway = gateway(format!("http://{}/", service.address), |http| http.max_idle = max_idle);
        let mut client = Client::connect(&gateway, "1.2").await;
        for _ in 0..20 {
            client.does("SEND\ndestination:/app/x\n\n").await.without("status");
        }
        assert_eq!(service.connections() < 20, is_kept, "{} connections", service.connections());
    }
}

#[tokio::test]
async fn a_service_that_dies_at_work_and_comes_back_costs_only_what_it_had() {
    let service = Service::start([Answer::Held(Arc::new(Semaphore::new(0)), Vec::new())]).await;
    let address = service.address;
    let gateway = gateway(format!("http://{address}/"), |_| {});
    let mut client = Client::connect(&gateway, "1.2").await;
    let receipt = client.asks("SEND\ndestination:/app/x\n\n").await;
    until("the call", || service.calls().len() == 1).await;
    drop(service);
    client.expect("RECEIPT").await.with("receipt-id", &receipt).with("status", "502");
    client.does("SEND\ndestination:/app/x\n\n").await.with("status", "502");
    let _service = Service::start_at(address, [Answer::Bytes(NO_CONTENT.into())]).await;
    client.does("SEND\ndestination:/app/x\n\n").await.without("status");
}
