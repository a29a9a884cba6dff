//! Heart-beats of STOMP and Pings of the WebSocket (contract, §7).

use std::time::Duration;

use stompgate::config::Config;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::support::raw::{PING, PONG, masked};
use crate::support::{Client, Raw, gateway, gateway_with, soon, wire};

/// Heart-beats as often as a client asks for.
fn fast(config: &mut Config) {
    config.session.heartbeat_min = Duration::from_millis(10);
}

#[tokio::test]
async fn intervals_are_held_within_the_bounds() {
    let gateway = gateway();
    for (asked, answered) in [
        ("0,0", "0,0"),
        ("10,10", "1000,1000"),
        ("10000,20000", "20000,10000"),
        ("100000,100000", "60000,100000"),
        ("0,5000", "5000,0"),
        ("5000,0", "0,5000"),
    ] {
        let mut client = Client::open(&gateway).await;
        client.login("1.2", &format!("heart-beat:{asked}")).await.with("heart-beat", answered);
    }
    Client::open(&gateway).await.login("1.2", "").await.with("heart-beat", "0,0");
}

#[tokio::test]
async fn the_gateway_sends_a_line_end_when_it_has_nothing_to_say() {
    let gateway = gateway_with(fast);
    let mut client = Client::connect_with(&gateway, "1.2", "heart-beat:0,20").await;
    for _ in 0..3 {
        client.expect_heartbeat().await;
    }
    client.disconnect().await;
}

#[tokio::test]
async fn a_client_that_is_silent_for_too_long_is_closed() {
    let gateway = gateway_with(fast);
    for version in ["1.1", "1.2"] {
        let mut client = Client::connect_with(&gateway, version, "heart-beat:20,0").await;
        let error = client.expect_error("heartbeat-timeout", 4408).await;
        error.with("message", "Heart-beat missing").about("20 ms");
    }
}

/// A client that says nothing whole for four times its interval, but for what `sign` sends three times in each.
async fn lives_by<F: AsyncFnMut(&mut Raw)>(mut sign: F) {
    const INTERVAL: Duration = Duration::from_millis(150);
    let gateway = gateway_with(fast);
    let mut raw = Raw::upgraded(&gateway).await;
    raw.text(wire("CONNECT\naccept-version:1.2\nhost:localhost\nheart-beat:150,0")).await;
    raw.expect("CONNECTED").await;
    let begun = Instant::now();
    while begun.elapsed() < 4 * INTERVAL {
        tokio::time::sleep(INTERVAL / 3).await;
        sign(&mut raw).await;
    }
    assert_eq!(gateway.connections(), 1);
}

#[tokio::test]
async fn a_line_end_is_a_heart_beat() {
    lives_by(async |raw| raw.text("\n").await).await;
}

#[tokio::test]
async fn a_pong_is_a_heart_beat_too() {
    lives_by(async |raw| raw.frame(PONG, "").await).await;
}

#[tokio::test]
async fn a_ping_is_a_heart_beat_too() {
    lives_by(async |raw| raw.frame(PING, "").await).await;
}

#[tokio::test]
async fn part_of_a_message_is_a_heart_beat_too() {
    // A message of four megabytes takes its time on a slow line.
    let mut bytes = masked(0x81, &wire("SEND\ndestination:/topic/a\n\nbit by bit")).into_iter();
    lives_by(async |raw| raw.write([bytes.next().expect("a longer message")]).await).await;
}

#[tokio::test]
async fn messages_stand_for_heart_beats() {
    let gateway = gateway_with(fast);
    let mut client = Client::connect_with(&gateway, "1.2", "heart-beat:200,0").await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(900) {
        tokio::time::sleep(Duration::from_millis(60)).await;
        client.does("SEND\ndestination:/topic/a\n\nx").await;
    }
    client.disconnect().await;
}

#[tokio::test]
async fn a_client_without_heart_beats_may_listen_in_silence() {
    let gateway = gateway_with(|config| config.server.ping_interval = Duration::from_millis(100));
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    for _ in 0..4 {
        assert!(matches!(client.next_websocket("a ping").await, Some(Message::Ping(_))));
    }
    client.does("SEND\ndestination:/topic/b\n\nx").await;
}

#[tokio::test]
async fn two_pings_without_an_answer_are_the_end() {
    let gateway = gateway_with(|config| config.server.ping_interval = Duration::from_millis(100));
    let mut raw = Raw::connected(&gateway, "1.2").await;
    for _ in 0..2 {
        assert_eq!(raw.next().await, Some((PING, Vec::new())));
    }
    raw.expect_error("unresponsive", 4408).await.about("server.ping_interval");
}

#[tokio::test]
async fn a_pong_is_an_answer() {
    let gateway = gateway_with(|config| config.server.ping_interval = Duration::from_millis(100));
    let mut raw = Raw::connected(&gateway, "1.2").await;
    for _ in 0..5 {
        assert_eq!(raw.next().await, Some((PING, Vec::new())));
        raw.frame(PONG, "").await;
    }
}

#[tokio::test]
async fn a_dead_client_goes_and_its_messages_with_it_to_another() {
    // Long enough for the message to come before the first Ping.
    let gateway = gateway_with(|config| config.server.ping_interval = Duration::from_millis(500));
    let mut dead = Raw::connected(&gateway, "1.2").await;
    dead.text(wire("SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client\nreceipt:1")).await;
    dead.expect("RECEIPT").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("SEND\ndestination:/queue/a\n\nx").await;
    dead.expect("MESSAGE").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/a").await;
    client.expect("MESSAGE").await.saying("x").with("redelivered", "true");
}

#[tokio::test]
async fn heart_beats_go_on_while_a_slow_client_takes_its_time() {
    // What is in the way is the client's own full socket: the gateway does not take its silence for death.
    let gateway = gateway_with(fast);
    let mut client = Client::connect_with(&gateway, "1.2", "heart-beat:0,20").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    let body = "y".repeat(500_000);
    writer.does(&format!("SEND\ndestination:/topic/a\n\n{body}")).await;
    soon("the message", client.expect("MESSAGE")).await.saying(body);
    client.expect_heartbeat().await;
}

#[tokio::test]
async fn a_client_that_the_gateway_does_not_read_from_is_not_taken_for_dead() {
    let gateway = gateway_with(|config| {
        fast(config);
        config.outbox.max_bytes = 64 * 1024;
        config.outbox.max_wait = Duration::from_mins(10);
    });
    let mut client = Client::open_narrow(&gateway).await;
    client.login("1.2", "heart-beat:1000,0").await;
    client.subscribe("id:0\ndestination:/queue/a").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    let body = "y".repeat(64 * 1024);
    for _ in 0..100 {
        writer.does(&format!("SEND\ndestination:/queue/a\n\n{body}")).await;
    }
    // It has not read for so long that its outbox is full, and not a byte of it has been read for as long.
    client.send_message(b"\n".to_vec()).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    client.send_message(b"\n".to_vec()).await;
    for _ in 0..100 {
        client.expect("MESSAGE").await;
        client.send_message(b"\n".to_vec()).await;
    }
}
