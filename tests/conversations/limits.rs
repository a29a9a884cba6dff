//! How many there may be of everything, each with a text that names its setting (contract, §7).

use crate::support::{Client, Raw, connect_frame, gateway_with, until, wire};

#[tokio::test]
async fn subscriptions_of_one_session() {
    let gateway = gateway_with(|config| config.session.max_subscriptions = 2);
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    client.subscribe("id:1\ndestination:/queue/a").await;
    client.does("UNSUBSCRIBE\nid:0").await;
    client.subscribe("id:2\ndestination:/topic/a").await;
    client.send("SUBSCRIBE\nid:3\ndestination:/topic/a\nreceipt:7").await;
    let error = client.expect_error("limit-exceeded", 1008).await.with("receipt-id", "7");
    error.about("session.max_subscriptions").about("2");
}

#[tokio::test]
async fn reply_addresses_count_as_subscriptions() {
    let gateway = gateway_with(|config| config.session.max_subscriptions = 2);
    let mut client = Client::connect(&gateway, "1.2").await;
    for name in ["a", "b", "c"] {
        client.send(format!("SEND\ndestination:/topic/a\nreply-to:/temp-queue/{name}\n\nx")).await;
    }
    client.expect_error("limit-exceeded", 1008).await.about("session.max_subscriptions");
}

#[tokio::test]
async fn connections_in_all() {
    let gateway = gateway_with(|config| config.server.max_connections = 2);
    let first = Client::connect(&gateway, "1.2").await;
    let _second = Client::connect(&gateway, "1.2").await;
    let mut third = Client::open(&gateway).await;
    let error = third.expect_error("overload", 1013).await;
    error.with("message", "Too many connections").about("server.max_connections").about("2");
    first.disconnect().await;
    until("a place", || gateway.connections() == 1).await;
    Client::connect(&gateway, "1.2").await;
}

#[tokio::test]
async fn sockets_far_beyond_all_connections_are_closed_at_once() {
    let gateway = gateway_with(|config| config.server.max_connections = 1);
    let _only = Client::connect(&gateway, "1.2").await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(Raw::tcp(&gateway).await);
    }
    let mut late = Raw::tcp(&gateway).await;
    late.expect_end().await;
    drop(idle);
}

#[tokio::test]
async fn connections_of_one_address() {
    let gateway = gateway_with(|config| config.server.max_connections_per_address = 1);
    let first = Client::connect(&gateway, "1.2").await;
    let mut second = Client::open(&gateway).await;
    second.expect_error("overload", 1013).await.about("server.max_connections_per_address");
    first.disconnect().await;
    until("a place", || gateway.connections() == 0).await;
    Client::connect(&gateway, "1.2").await;
}

#[tokio::test]
async fn sessions_of_one_user() {
    let gateway = gateway_with(|config| config.auth.max_sessions_per_user = 1);
    let first = Client::connect_with(&gateway, "1.2", "login:ada").await;
    let mut second = Client::open(&gateway).await;
    second.send(connect_frame("1.2", "login:ada")).await;
    second.expect_error("overload", 1013).await.about("auth.max_sessions_per_user");
    Client::connect_with(&gateway, "1.2", "login:bob").await;
    first.disconnect().await;
    until("a place", || gateway.connections() == 0).await;
    Client::connect_with(&gateway, "1.2", "login:ada").await;
}

#[tokio::test]
async fn many_sessions_of_one_user_that_come_together() {
    let gateway = gateway_with(|config| config.auth.max_sessions_per_user = 1);
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut raw = Raw::upgraded(&gateway).await;
        raw.text(wire(connect_frame("1.2", "login:ada"))).await;
        clients.push(raw);
    }
    let mut connected = 0;
    for client in &mut clients {
        let (_, payload) = client.next().await.expect("an answer");
        connected += usize::from(payload.starts_with(b"CONNECTED"));
    }
    assert_eq!(connected, 1);
}

#[tokio::test]
async fn frames_per_second() {
    let gateway = gateway_with(|config| config.session.max_frames_per_second = 5);
    let mut client = Client::connect(&gateway, "1.2").await;
    let burst: String = "SEND\ndestination:/topic/a\n\nx\0".repeat(100);
    client.send_message(burst.into_bytes()).await;
    let error = client.expect_error("rate-exceeded", 4429).await.with("message", "Rate exceeded");
    error.about("session.max_frames_per_second").about("5 frames");
}

#[tokio::test]
async fn bytes_per_second() {
    let gateway = gateway_with(|config| config.session.max_bytes_per_second = 1000);
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send(format!("SEND\ndestination:/topic/a\n\n{}", "x".repeat(5000))).await;
    let error = client.expect_error("rate-exceeded", 4429).await;
    error.about("session.max_bytes_per_second").about("1000 bytes");
}

#[tokio::test]
async fn control_frames_count_as_bytes() {
    let gateway = gateway_with(|config| config.session.max_bytes_per_second = 1000);
    let mut raw = Raw::connected(&gateway, "1.2").await;
    for _ in 0..50 {
        raw.try_write(crate::support::raw::masked(crate::support::raw::PING, &[0; 125])).await;
    }
    loop {
        let (first, payload) = raw.next().await.expect("an ERROR");
        if first == crate::support::raw::TEXT {
            assert!(String::from_utf8_lossy(&payload).contains("code:rate-exceeded"));
            break;
        }
    }
}
