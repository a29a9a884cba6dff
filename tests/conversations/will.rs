//! The will: what a session leaves to be published when it ends without DISCONNECT (contract, §7).

use std::time::Duration;

use crate::support::{Client, Gateway, Raw, connect_frame, gateway, gateway_with, wire};

const WILL: &str = "will-destination:/topic/will\nwill-body:gone\\nfor good\nwill-content-type:text/plain";

/// What WILL becomes: CONNECT is never unescaped.
const BODY: &str = "gone\\nfor good";

async fn heir(gateway: &Gateway) -> Client {
    let mut heir = Client::connect(gateway, "1.2").await;
    heir.subscribe("id:0\ndestination:/topic/will").await;
    heir
}

async fn inherits(heir: &mut Client) {
    heir.expect("MESSAGE").await.saying(BODY).with("content-type", "text/plain").with("destination", "/topic/will");
}

#[tokio::test]
async fn a_will_is_published_when_the_connection_breaks() {
    let gateway = gateway();
    let mut heir = heir(&gateway).await;
    Client::connect_with(&gateway, "1.2", WILL).await.vanish();
    inherits(&mut heir).await;
    let mut raw = Raw::upgraded(&gateway).await;
    raw.text(wire(connect_frame("1.1", WILL))).await;
    raw.expect("CONNECTED").await;
    raw.reset();
    inherits(&mut heir).await;
    heir.expect_nothing().await;
}

#[tokio::test]
async fn a_will_is_published_when_the_websocket_is_closed_without_disconnect() {
    let gateway = gateway();
    let mut heir = heir(&gateway).await;
    let mut client = Client::connect_with(&gateway, "1.2", WILL).await;
    client.close(1000).await;
    client.expect_close(1000).await;
    inherits(&mut heir).await;
}

#[tokio::test]
async fn a_will_is_published_when_the_session_ends_in_an_error() {
    let gateway = gateway();
    let mut heir = heir(&gateway).await;
    let mut client = Client::connect_with(&gateway, "1.2", WILL).await;
    client.send("FOO").await;
    client.expect_error("unknown-command", 1002).await;
    inherits(&mut heir).await;
}

#[tokio::test]
async fn a_will_is_published_when_the_client_falls_silent() {
    let gateway = gateway_with(|config| config.session.heartbeat_min = Duration::from_millis(10));
    let mut heir = heir(&gateway).await;
    let _client = Client::connect_with(&gateway, "1.2", &format!("{WILL}\nheart-beat:20,0")).await;
    inherits(&mut heir).await;
}

#[tokio::test]
async fn a_will_is_not_published_after_disconnect() {
    let gateway = gateway();
    let mut heir = heir(&gateway).await;
    Client::connect_with(&gateway, "1.2", WILL).await.disconnect().await;
    let mut client = Client::connect_with(&gateway, "1.2", WILL).await;
    client.send("DISCONNECT").await;
    client.vanish();
    crate::support::until("the sessions to end", || gateway.connections() == 1).await;
    heir.expect_nothing().await;
}

#[tokio::test]
async fn a_will_says_whose_it_is() {
    let gateway = gateway();
    let mut heir = heir(&gateway).await;
    Client::connect_with(&gateway, "1.2", &format!("login:ada\n{WILL}")).await.vanish();
    heir.expect("MESSAGE").await.with("stompgate-user", "ada");
}

#[tokio::test]
async fn a_will_may_go_to_a_queue() {
    let gateway = gateway();
    Client::connect_with(&gateway, "1.2", "will-destination:/queue/will\nwill-body:x").await.vanish();
    let mut heir = Client::connect(&gateway, "1.2").await;
    heir.send("SUBSCRIBE\nid:0\ndestination:/queue/will").await;
    heir.expect("MESSAGE").await.saying("x");
}

#[tokio::test]
async fn a_will_that_cannot_be_published_is_refused_at_connect() {
    let gateway = gateway();
    for (destination, code, close) in [
        ("/nowhere/x", "unknown-destination", 1008),
        ("/topic/*", "invalid-destination", 1008),
        ("/topic/stompgate.x", "invalid-destination", 1008),
        ("/app/x", "no-handler", 1008),
    ] {
        let mut client = Client::open(&gateway).await;
        client.send(connect_frame("1.2", &format!("will-destination:{destination}\nwill-body:x"))).await;
        client.expect_error(code, close).await;
    }
}

#[tokio::test]
async fn a_refused_connect_leaves_no_will() {
    let gateway = gateway();
    let mut heir = heir(&gateway).await;
    let mut client = Client::open(&gateway).await;
    client.send(connect_frame("9.9", WILL)).await;
    client.expect_error("unsupported-version", 1002).await;
    heir.expect_nothing().await;
}

#[tokio::test]
async fn a_subscriber_of_its_own_will_does_not_stop_it() {
    let gateway = gateway();
    let mut heir = heir(&gateway).await;
    let mut client = Client::connect_with(&gateway, "1.2", WILL).await;
    client.subscribe("id:0\ndestination:/topic/will").await;
    client.vanish();
    inherits(&mut heir).await;
}

#[tokio::test]
async fn a_will_with_a_bad_flag_is_refused() {
    let gateway = gateway();
    let mut client = Client::open(&gateway).await;
    client.send(connect_frame("1.2", &format!("{WILL}\nwill-persistent:maybe"))).await;
    client.expect_error("invalid-header", 1002).await.about("will-persistent");
}
