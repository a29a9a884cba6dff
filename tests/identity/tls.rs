//! `amqps://`, and several nodes.

use std::path::PathBuf;
use std::time::Duration;

use stompgate::auth;
use stompgate::broker::amqp::{Identity, Settings, Uri};
use stompgate::broker::{self, Kind, LinkState};
use stompgate::gateway::Gateway;

use crate::support::{Client, gateway_with, until};
use crate::{connect, free_port, gateway_at, log, node};

async fn amqps(user: &str, query: &str) -> Vec<Uri> {
    vec![Uri(format!("amqps://{user}127.0.0.1:{}/%2f{query}", node().await.tls_port))]
}

async fn file(name: &str) -> Option<PathBuf> {
    Some(node().await.authorities.file(name))
}

async fn talk(gateway: &Gateway, client: &mut Client) {
    client.subscribe("id:0\ndestination:/topic/secured").await;
    client.send("SEND\ndestination:/topic/secured\n\nx").await;
    client.expect("MESSAGE").await.saying("x");
    assert_eq!(*gateway.broker_state().borrow(), LinkState::Up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_is_reached_over_tls_with_a_client_certificate() {
    let (ca, certificate, key) = (file("ca").await, file("client").await, file("client-key").await);
    for (user, query) in [("guest:guest@", ""), ("", "?auth_mechanism=external")] {
        let gateway = gateway_at(amqps(user, query).await, |config| {
            let amqp = &mut config.broker.amqp;
            (amqp.ca, amqp.certificate, amqp.key) = (ca.clone(), certificate.clone(), key.clone());
        })
        .await;
        talk(&gateway, &mut Client::connect(&gateway, "1.2").await).await;
    }
    // Whom the certificate names is the gateway; users still log in with their passcodes.
    let gateway = gateway_at(amqps("", "?auth_mechanism=external").await, |config| {
        let amqp = &mut config.broker.amqp;
        (amqp.ca, amqp.certificate, amqp.key) = (ca, certificate, key);
        amqp.identity = Identity::PerUser;
        config.auth.kind = auth::Kind::Broker;
    })
    .await;
    talk(&gateway, &mut connect(&gateway, "ada").await).await;
}

/// Two attempts at least have failed, and the log has said why.
async fn never_connects(change: impl FnOnce(&mut Settings), why: &str) {
    let uri = amqps("guest:guest@", "").await;
    let said = log::lines(why).len();
    let gateway = gateway_with(|config| {
        config.broker.kind = Kind::Amqp;
        config.broker.amqp.uri = uri;
        config.broker.amqp.reconnect_max = Duration::from_millis(100);
        change(&mut config.broker.amqp);
    });
    let told = || {
        let lines = log::lines(why);
        let (warned, tried) = (lines.iter().filter(|line| line.contains(" WARN ")), lines.len());
        warned.count() > 0 && tried >= said + 6
    };
    until("the log to say why", told).await;
    assert_eq!(*gateway.broker_state().borrow(), LinkState::Recovering);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_of_another_authority_is_not_trusted() {
    let (ca, certificate, key) = (file("stranger").await, file("client").await, file("client-key").await);
    let change = |amqp: &mut Settings| (amqp.ca, amqp.certificate, amqp.key) = (ca, certificate, key);
    never_connects(change, "no connection to the broker, virtual host /: 127.0.0.1:").await;
    assert!(!log::lines("invalid peer certificate: UnknownIssuer").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_a_certificate_that_the_broker_trusts_stays_out() {
    let (ca, certificate, key) = (file("ca").await, file("unknown").await, file("unknown-key").await);
    let without = ca.clone();
    never_connects(|amqp| amqp.ca = without, "no connection to the broker, virtual host /: 127.0.0.1:").await;
    let change = |amqp: &mut Settings| (amqp.ca, amqp.certificate, amqp.key) = (ca, certificate, key);
    never_connects(change, "no connection to the broker, virtual host /: 127.0.0.1:").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_no_certificates_stop_the_start() {
    let uri = amqps("guest:guest@", "").await;
    let (ca, key) = (file("ca").await, file("ca-that-is-missing").await);
    let no_certificate = file("client-key").await;
    for (settings, named) in [
        (Settings { ca: key.clone(), ..Settings::default() }, "broker.amqp.ca: cannot read"),
        (Settings { ca: no_certificate, ..Settings::default() }, "has no certificate"),
        (Settings { certificate: ca.clone(), key: ca, ..Settings::default() }, "broker.amqp.key"),
    ] {
        let settings = Settings { uri: uri.clone(), ..settings };
        let settings = broker::Settings { kind: Kind::Amqp, amqp: settings, ..broker::Settings::default() };
        let error = broker::connect(&settings, Duration::ZERO).err().expect("no start").to_string();
        assert!(error.contains(named), "{named} in {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_passed_over() {
    let dead = Uri(format!("amqp://guest:guest@127.0.0.1:{}/%2f", free_port()));
    let alive = Uri(node().await.rabbitmq.uri());
    let gateway = gateway_at(vec![dead.clone(), alive.clone()], |_| {}).await;
    talk(&gateway, &mut Client::connect(&gateway, "1.2").await).await;
    let gateway = gateway_at(vec![dead, alive], |config| {
        config.broker.amqp.identity = Identity::PerUser;
        config.auth.kind = auth::Kind::Broker;
    })
    .await;
    talk(&gateway, &mut connect(&gateway, "ada").await).await;
}
