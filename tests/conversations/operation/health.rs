//! Whether the gateway lives, and whether clients should be sent to it.

use std::net::TcpListener;

use stompgate::config::Config;
use stompgate::gateway::Gateway;
#[cfg(feature = "amqp")]
use stompgate::{
    broker::{Kind, amqp::Uri},
    server::admin::Readiness,
};

use super::ask;
use crate::support::{Client, gateway, gateway_with, soon, until};

/// A gateway in front of an AMQP broker that is not there.
#[cfg(feature = "amqp")]
fn without_broker(readiness: Readiness) -> Gateway {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    gateway_with(|config| {
        config.broker.kind = Kind::Amqp;
        config.broker.amqp.uri = vec![Uri(format!("amqp://{nobody}"))];
        config.admin.readiness = readiness;
    })
}

#[tokio::test]
async fn a_gateway_that_runs_is_alive_and_ready() {
    let gateway = gateway();
    let alive = ask(&gateway, "GET /healthz").await;
    assert_eq!((alive.status, alive.get("content-type")), (200, "application/json"));
    assert!(alive.body.contains("\"status\":\"alive\""), "{alive:?}");
    let ready = ask(&gateway, "GET /readyz").await;
    assert_eq!(ready.status, 200);
    for part in ["\"status\":\"ready\"", "\"broker\":\"up\"", "\"draining\":false"] {
        assert!(ready.body.contains(part), "{part} in {ready:?}");
    }
}

#[cfg(feature = "amqp")]
#[tokio::test]
async fn without_its_broker_a_gateway_is_alive_but_not_ready() {
    let gateway = without_broker(Readiness::BrokerUp);
    assert_eq!(ask(&gateway, "GET /healthz").await.status, 200);
    let ready = ask(&gateway, "GET /readyz").await;
    assert_eq!(ready.status, 503);
    for part in ["\"status\":\"not ready\"", "\"broker\":\"recovering\"", "admin.readiness"] {
        assert!(ready.body.contains(part), "{part} in {ready:?}");
    }
    soon("the end", gateway.shut_down()).await;
}

#[cfg(feature = "amqp")]
#[tokio::test]
async fn a_gateway_may_be_ready_without_its_broker() {
    let gateway = without_broker(Readiness::Listening);
    let ready = ask(&gateway, "GET /readyz").await;
    assert_eq!(ready.status, 200);
    assert!(ready.body.contains("\"broker\":\"recovering\""), "{ready:?}");
    soon("the end", gateway.shut_down()).await;
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_document() {
    let gateway = gateway();
    let nothing = ask(&gateway, "GET /metric").await;
    assert_eq!((nothing.status, nothing.get("content-type")), (404, "application/problem+json"));
    for part in ["\"title\":\"Not Found\"", "\"status\":404", "/metrics, /healthz and /readyz"] {
        assert!(nothing.body.contains(part), "{part} in {nothing:?}");
    }
    let posted = ask(&gateway, "POST /metrics").await;
    assert_eq!((posted.status, posted.get("allow")), (405, "GET, HEAD"));
    assert_eq!(posted.get("content-type"), "application/problem+json");
    assert_eq!(ask(&gateway, "GET /ws").await.status, 404, "clients have a port of their own");
}

#[tokio::test]
async fn a_port_that_is_taken_names_the_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().expect("an address");
    config.admin.listen = taken.local_addr().expect("an address");
    let error = Gateway::start(config).err().expect("no start").to_string();
    for part in ["admin.listen: cannot listen on ", "in use", "admin.enabled = false"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[tokio::test]
async fn a_gateway_can_do_without_the_port() {
    let gateway = gateway_with(|config| config.admin.enabled = false);
    assert_eq!(gateway.admin_address(), None);
    Client::connect(&gateway, "1.2").await.disconnect().await;
}

#[tokio::test]
async fn the_port_is_free_after_the_end() {
    let gateway = gateway();
    let address = gateway.admin_address().expect("a port");
    soon("the end", gateway.shut_down()).await;
    until("the port to be free", || TcpListener::bind(address).is_ok()).await;
}
