//! Clients that do not read, and those beside them (contract, §7).

use std::time::Duration;

use stompgate::config::Config;
use stompgate::hub::{OutboxPolicy, WhenFull};

use crate::support::{Client, Gateway, gateway_with, soon};

/// Together more than every buffer between the gateway and a client holds.
pub(crate) const MESSAGES: usize = 600;
const SIZE: usize = 16 * 1024;

pub(crate) fn small_outbox(config: &mut Config) {
    config.outbox.max_bytes = 256 * 1024;
    config.outbox.max_wait = Duration::from_mins(10);
}

fn gateway_that(when_full: WhenFull) -> Gateway {
    gateway_with(|config| {
        small_outbox(config);
        let key = (when_full == WhenFull::Conflate).then(|| "symbol".to_owned());
        config.outbox.policy = vec![OutboxPolicy { destination: "/topic/flood/#".to_owned(), when_full, key }];
    })
}

/// A body that begins with its number.
pub(crate) fn numbered(number: usize) -> String {
    format!("{number:<SIZE$}")
}

pub(crate) fn number(body: &str) -> usize {
    body.trim().parse().expect("a number")
}

/// A client that listens to `/topic/flood` and does not read, after a flood that another one read in order.
async fn flooded(gateway: &Gateway) -> Client {
    let mut slow = Client::connect_narrow(gateway, "1.2").await;
    slow.subscribe("id:0\ndestination:/topic/flood/#").await;
    let mut fast = Client::connect(gateway, "1.2").await;
    fast.subscribe("id:0\ndestination:/topic/flood/x").await;
    let mut writer = Client::connect(gateway, "1.2").await;
    for count in 0..MESSAGES {
        let body = numbered(count);
        writer.does(&format!("SEND\ndestination:/topic/flood/x\nsymbol:{}\n\n{body}", count % 5)).await;
        fast.expect("MESSAGE").await.saying(body);
    }
    fast.disconnect().await;
    slow
}

/// The numbers that a client reads until the answer to its next frame.
async fn numbers(client: &mut Client) -> Vec<usize> {
    let receipt = client.asks("SEND\ndestination:/topic/nobody-listens-here\n\n").await;
    let mut numbers = Vec::new();
    loop {
        let frame = client.expect_any().await;
        if frame.maybe("receipt-id") == Some(&receipt) {
            return numbers;
        }
        numbers.push(number(&frame.of("MESSAGE").body()));
    }
}

/// Reads numbered messages up to the ERROR; how many there were, in order and without a gap.
async fn read_to_error(client: &mut Client, about: &str) -> usize {
    for count in 0.. {
        let frame = client.expect_any().await;
        if frame.maybe("code").is_some() {
            frame.of("ERROR").with("code", "slow-consumer").with("message", "Slow consumer").about(about);
            client.expect_close(4508).await;
            return count;
        }
        assert_eq!(number(&frame.of("MESSAGE").body()), count);
    }
    unreachable!("an endless stream")
}

#[tokio::test]
async fn by_default_a_slow_client_is_disconnected_and_no_other_notices() {
    let gateway = gateway_with(small_outbox);
    let mut slow = flooded(&gateway).await;
    assert!(read_to_error(&mut slow, "outbox.max_bytes").await < MESSAGES);
}

#[tokio::test]
async fn drop_newest_keeps_what_came_first() {
    let gateway = gateway_that(WhenFull::DropNewest);
    let mut slow = flooded(&gateway).await;
    let read = numbers(&mut slow).await;
    assert!(read.len() < MESSAGES, "nothing was dropped");
    assert_eq!(read, (0..read.len()).collect::<Vec<_>>());
    slow.send(format!("SEND\ndestination:/topic/flood/x\n\n{MESSAGES}")).await;
    slow.expect("MESSAGE").await.saying(MESSAGES.to_string());
}

#[tokio::test]
async fn drop_oldest_keeps_what_came_last() {
    let gateway = gateway_that(WhenFull::DropOldest);
    let mut slow = flooded(&gateway).await;
    let read = numbers(&mut slow).await;
    assert!(read.len() < MESSAGES, "nothing was dropped");
    assert!(read.is_sorted_by(|one, next| one < next), "out of order");
    assert_eq!(read.last(), Some(&(MESSAGES - 1)));
}

#[tokio::test]
async fn conflate_keeps_the_newest_of_each_value() {
    let gateway = gateway_that(WhenFull::Conflate);
    let mut slow = flooded(&gateway).await;
    let read = numbers(&mut slow).await;
    assert!(read.len() < MESSAGES, "nothing was dropped");
    assert!(read.is_sorted_by(|one, next| one < next), "out of order");
    assert!(read.ends_with(&[595, 596, 597, 598, 599]), "the newest of five symbols");
}

#[tokio::test]
async fn a_policy_holds_for_its_destination_only() {
    let gateway = gateway_with(|config| {
        small_outbox(config);
        let policy =
            |destination: &str, when_full| OutboxPolicy { destination: destination.to_owned(), when_full, key: None };
        config.outbox.policy =
            vec![policy("/topic/other", WhenFull::DropNewest), policy("/topic/flood/y", WhenFull::DropOldest)];
    });
    let mut slow = flooded(&gateway).await;
    read_to_error(&mut slow, "outbox.max_bytes").await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_too_long_is_disconnected() {
    let gateway = gateway_with(|config| {
        small_outbox(config);
        config.outbox.max_wait = Duration::from_millis(200);
    });
    let mut heir = Client::connect(&gateway, "1.2").await;
    heir.subscribe("id:0\ndestination:/topic/will").await;
    let mut slow = Client::open_narrow(&gateway).await;
    slow.login("1.2", "will-destination:/topic/will").await;
    slow.subscribe("id:0\ndestination:/queue/flood").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    for count in 0..MESSAGES {
        writer.does(&format!("SEND\ndestination:/queue/flood\n\n{}", numbered(count))).await;
    }
    heir.expect("MESSAGE").await.with("destination", "/topic/will");
    assert!(read_to_error(&mut slow, "outbox.max_wait").await < MESSAGES);
}

#[tokio::test]
async fn what_a_slow_consumer_did_not_get_goes_to_another() {
    let gateway = gateway_with(small_outbox);
    let mut slow = Client::connect_narrow(&gateway, "1.2").await;
    slow.subscribe("id:0\ndestination:/queue/flood\nack:client\nprefetch-count:1000").await;
    let mut other = Client::connect(&gateway, "1.2").await;
    for count in 0..MESSAGES {
        other.does(&format!("SEND\ndestination:/queue/flood\n\n{}", numbered(count))).await;
    }
    slow.vanish();
    other.send("SUBSCRIBE\nid:0\ndestination:/queue/flood").await;
    let mut read = Vec::new();
    for _ in 0..MESSAGES {
        read.push(number(&other.expect("MESSAGE").await.body()));
    }
    read.sort_unstable();
    assert_eq!(read, (0..MESSAGES).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_empty_outbox_takes_one_message_of_any_size() {
    let gateway = gateway_with(|config| config.outbox.max_bytes = 1000);
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    for _ in 0..3 {
        let body = "y".repeat(300_000);
        client.send(format!("SEND\ndestination:/topic/a\n\n{body}")).await;
        client.expect("MESSAGE").await.saying(body);
    }
}

#[tokio::test]
async fn a_message_over_max_delivery_is_dropped() {
    let gateway = gateway_with(|config| config.outbox.max_delivery = 10_000);
    let mut writer = Client::connect(&gateway, "1.2").await;
    let body = "y".repeat(20_000);
    for destination in ["/topic/a", "/queue/a"] {
        for mode in ["auto", "client"] {
            let mut reader = Client::connect(&gateway, "1.2").await;
            reader.subscribe(&format!("id:0\ndestination:{destination}\nack:{mode}\nprefetch-count:1")).await;
            writer.does(&format!("SEND\ndestination:{destination}\n\n{body}")).await;
            writer.does(&format!("SEND\ndestination:{destination}\n\nsmall")).await;
            let message = reader.expect("MESSAGE").await.saying("small");
            if let Some(ack) = message.maybe("ack") {
                reader.does(&format!("ACK\nid:{ack}")).await;
            }
            reader.disconnect().await;
        }
    }
}

#[tokio::test]
async fn a_client_that_sends_and_does_not_read_is_not_read_from() {
    const FRAMES: usize = 400;
    let gateway = gateway_with(small_outbox);
    let mut greedy = Client::connect_narrow(&gateway, "1.2").await;
    greedy.subscribe("id:0\ndestination:/queue/echo").await;
    // It talks to itself, and takes none of it: it is slowed down rather than disconnected.
    for count in 0..FRAMES {
        let frame = format!("SEND\ndestination:/queue/echo\n\n{}", numbered(count));
        let sending = tokio::time::timeout(Duration::from_millis(500), greedy.send(frame));
        if sending.await.is_err() {
            break;
        }
    }
    let mut other = Client::connect(&gateway, "1.2").await;
    soon("another client", other.expect_nothing()).await;
    greedy.expect("MESSAGE").await.saying(numbered(0));
    greedy.expect("MESSAGE").await.saying(numbered(1));
}
