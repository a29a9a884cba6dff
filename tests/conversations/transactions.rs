//! BEGIN, COMMIT and ABORT (contract, §5).

use std::time::Duration;

use crate::support::{Client, Gateway, gateway, gateway_with};

/// A client that has begun `t`, and one that listens to `/topic/a`.
pub(crate) async fn begun(gateway: &Gateway) -> (Client, Client) {
    let mut reader = Client::connect(gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/a").await;
    let mut client = Client::connect(gateway, "1.2").await;
    client.does("BEGIN\ntransaction:t").await;
    (client, reader)
}

#[tokio::test]
async fn nothing_is_published_before_commit_and_all_of_it_then() {
    let gateway = gateway();
    let (mut client, mut reader) = begun(&gateway).await;
    for body in ["1", "2", "3"] {
        client.does(&format!("SEND\ndestination:/topic/a\ntransaction:t\n\n{body}")).await;
    }
    client.does("SEND\ndestination:/topic/a\n\noutside").await;
    reader.expect("MESSAGE").await.saying("outside");
    reader.expect_nothing().await;
    client.does("COMMIT\ntransaction:t").await;
    for body in ["1", "2", "3"] {
        reader.expect("MESSAGE").await.saying(body).without("transaction");
    }
}

#[tokio::test]
async fn abort_forgets_it_all() {
    let gateway = gateway();
    let (mut client, mut reader) = begun(&gateway).await;
    client.send("SEND\ndestination:/topic/a\ntransaction:t\n\nx").await;
    client.does("ABORT\ntransaction:t").await;
    reader.expect_nothing().await;
    client.does("BEGIN\ntransaction:t").await;
    client.does("COMMIT\ntransaction:t").await;
    reader.expect_nothing().await;
}

#[tokio::test]
async fn the_end_of_a_session_aborts() {
    let gateway = gateway();
    for end in ["nothing", "DISCONNECT", "FOO"] {
        let (mut client, mut reader) = begun(&gateway).await;
        client.does("SEND\ndestination:/topic/a\ntransaction:t\n\nx").await;
        match end {
            "nothing" => client.vanish(),
            "DISCONNECT" => client.disconnect().await,
            _ => {
                client.send(end).await;
                client.expect_error("unknown-command", 1002).await;
            }
        }
        crate::support::until("the session to end", || gateway.connections() == 1).await;
        reader.expect_nothing().await;
        reader.disconnect().await;
        crate::support::until("the session to end", || gateway.connections() == 0).await;
    }
}

#[tokio::test]
async fn frames_in_a_transaction_are_checked_when_they_arrive() {
    let gateway = gateway();
    for (frame, code) in [
        ("SEND\ndestination:/nowhere/x\ntransaction:t\n\nx", "unknown-destination"),
        ("SEND\ndestination:/topic/*\ntransaction:t\n\nx", "invalid-destination"),
        ("SEND\ndestination:/topic/a\nuser-id:someone-else\ntransaction:t\n\nx", "forbidden-header"),
        ("ACK\nid:0-0\ntransaction:t", "unknown-ack"),
    ] {
        let (mut client, _reader) = begun(&gateway).await;
        client.send(frame).await;
        client.expect_error(code, 1008).await;
    }
}

#[tokio::test]
async fn acks_are_applied_at_commit() {
    let gateway = gateway();
    let (mut client, _reader) = begun(&gateway).await;
    client.does("SEND\ndestination:/queue/a\n\n1").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client\nprefetch-count:1").await;
    let ack = client.expect("MESSAGE").await.saying("1").get("ack");
    client.does(&format!("ACK\nid:{ack}\ntransaction:t")).await;
    client.does("SEND\ndestination:/queue/a\n\n2").await;
    client.expect_nothing().await; // the first is still held
    client.send("COMMIT\ntransaction:t").await;
    client.expect("MESSAGE").await.saying("2");
}

#[tokio::test]
async fn commit_acknowledges_what_its_subscription_has_left_behind() {
    let gateway = gateway();
    let (mut client, _reader) = begun(&gateway).await;
    client.does("SEND\ndestination:/queue/jobs\npersistent:true\n\njob").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/jobs\nack:client").await;
    let ack = client.expect("MESSAGE").await.saying("job").get("ack");
    client.does("UNSUBSCRIBE\nid:0").await;
    client.does(&format!("ACK\nid:{ack}\ntransaction:t")).await;
    client.does("SEND\ndestination:/queue/results\npersistent:true\ntransaction:t\n\nresult").await;
    client.does("COMMIT\ntransaction:t").await.without("settled");
    // Whoever reads the queue next finds only what comes now.
    client.subscribe("id:1\ndestination:/queue/jobs").await;
    client.send("SEND\ndestination:/queue/jobs\n\nnext").await;
    client.expect("MESSAGE").await.saying("next");
}

#[tokio::test]
async fn after_abort_what_was_acknowledged_waits_again() {
    let gateway = gateway();
    let (mut client, _reader) = begun(&gateway).await;
    client.does("SEND\ndestination:/queue/a\n\n1").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client").await;
    let ack = client.expect("MESSAGE").await.get("ack");
    client.does(&format!("ACK\nid:{ack}\ntransaction:t")).await;
    client.does("ABORT\ntransaction:t").await;
    client.does(&format!("ACK\nid:{ack}")).await.without("settled");
    client.vanish();
    let mut other = Client::connect(&gateway, "1.2").await;
    other.subscribe("id:0\ndestination:/queue/a").await;
    other.expect_nothing().await;
}

#[tokio::test]
async fn what_a_dead_transaction_acknowledged_goes_to_another() {
    let gateway = gateway();
    let (mut client, _reader) = begun(&gateway).await;
    client.does("SEND\ndestination:/queue/a\n\n1").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client").await;
    let ack = client.expect("MESSAGE").await.get("ack");
    client.does(&format!("ACK\nid:{ack}\ntransaction:t")).await;
    client.vanish();
    let mut other = Client::connect(&gateway, "1.2").await;
    other.send("SUBSCRIBE\nid:0\ndestination:/queue/a").await;
    other.expect("MESSAGE").await.saying("1").with("redelivered", "true");
}

#[tokio::test]
async fn a_cumulative_ack_is_fixed_when_it_arrives() {
    let gateway = gateway();
    let (mut client, _reader) = begun(&gateway).await;
    for body in ["1", "2"] {
        client.does(&format!("SEND\ndestination:/queue/a\n\n{body}")).await;
    }
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client").await;
    client.expect("MESSAGE").await;
    let ack = client.expect("MESSAGE").await.saying("2").get("ack");
    client.does(&format!("ACK\nid:{ack}\ntransaction:t")).await;
    client.send("SEND\ndestination:/queue/a\n\n3").await;
    client.expect("MESSAGE").await.saying("3");
    client.does("COMMIT\ntransaction:t").await;
    client.vanish();
    let mut other = Client::connect(&gateway, "1.2").await;
    other.send("SUBSCRIBE\nid:0\ndestination:/queue/a").await;
    other.expect("MESSAGE").await.saying("3");
    other.expect_nothing().await;
}

#[tokio::test]
async fn commit_ends_before_the_next_frame_begins() {
    let gateway = gateway();
    let (mut client, mut reader) = begun(&gateway).await;
    let frames = [
        "SEND\ndestination:/topic/a\ntransaction:t\n\n1\0",
        "COMMIT\ntransaction:t\n\n\0",
        "SEND\ndestination:/topic/a\n\n2\0",
    ];
    client.send_message(frames.concat().into_bytes()).await;
    assert_eq!(reader.bodies(2).await, ["1", "2"]);
}

#[tokio::test]
async fn a_transaction_is_its_sessions_own() {
    let gateway = gateway();
    let (mut client, mut reader) = begun(&gateway).await;
    client.does("SEND\ndestination:/topic/a\ntransaction:t\n\nx").await;
    let mut other = Client::connect(&gateway, "1.2").await;
    other.does("BEGIN\ntransaction:t").await;
    other.does("COMMIT\ntransaction:t").await;
    reader.expect_nothing().await;
    client.does("COMMIT\ntransaction:t").await;
    reader.expect("MESSAGE").await;
}

#[tokio::test]
async fn several_transactions_may_be_open() {
    let gateway = gateway();
    let (mut client, mut reader) = begun(&gateway).await;
    client.send("BEGIN\ntransaction:u").await;
    for name in ["t", "u"] {
        client.send(format!("SEND\ndestination:/topic/a\ntransaction:{name}\n\n{name}")).await;
    }
    client.send("COMMIT\ntransaction:u").await;
    reader.expect("MESSAGE").await.saying("u");
    client.send("COMMIT\ntransaction:t").await;
    reader.expect("MESSAGE").await.saying("t");
}

#[tokio::test]
async fn what_is_open_cannot_begin_and_what_is_not_cannot_end() {
    let gateway = gateway();
    for (frame, code) in [
        ("BEGIN\ntransaction:t", "transaction-open"),
        ("COMMIT\ntransaction:u", "unknown-transaction"),
        ("ABORT\ntransaction:u", "unknown-transaction"),
        ("SEND\ndestination:/topic/a\ntransaction:u\n\nx", "unknown-transaction"),
        ("ACK\nid:0-0\ntransaction:u", "unknown-transaction"),
        ("NACK\nid:0-0\ntransaction:u", "unknown-transaction"),
    ] {
        let (mut client, _reader) = begun(&gateway).await;
        client
            .send(format!("{}\nreceipt:7\n{}", frame.split_once('\n').unwrap().0, frame.split_once('\n').unwrap().1))
            .await;
        client.expect_error(code, 1008).await.with("receipt-id", "7");
    }
}

#[tokio::test]
async fn each_limit_of_transactions_has_its_own_text() {
    let gateway = gateway_with(|config| {
        config.session.max_transactions = 2;
        config.session.max_transaction_frames = 3;
        config.session.max_transaction_bytes = 1000;
    });
    let (mut client, _reader) = begun(&gateway).await;
    client.does("BEGIN\ntransaction:u").await;
    client.send("BEGIN\ntransaction:v").await;
    client.expect_error("limit-exceeded", 1008).await.about("session.max_transactions").about("2");
    let (mut client, _reader) = begun(&gateway).await;
    for _ in 0..4 {
        client.send("SEND\ndestination:/topic/a\ntransaction:t\n\nx").await;
    }
    client.expect_error("limit-exceeded", 1008).await.about("session.max_transaction_frames").about("3");
    let (mut client, _reader) = begun(&gateway).await;
    client.send(format!("SEND\ndestination:/topic/a\ntransaction:t\n\n{}", "x".repeat(1001))).await;
    client.expect_error("limit-exceeded", 1008).await.about("session.max_transaction_bytes").about("1000");
}

#[tokio::test]
async fn transactions_can_be_switched_off() {
    let gateway = gateway_with(|config| config.session.max_transactions = 0);
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("BEGIN\ntransaction:t").await;
    client.expect_error("limit-exceeded", 1008).await.about("session.max_transactions");
}

#[tokio::test]
async fn a_transaction_that_is_open_for_too_long_is_an_error() {
    let gateway = gateway_with(|config| config.session.transaction_timeout = Duration::from_millis(30));
    let (mut client, mut reader) = begun(&gateway).await;
    client.send("SEND\ndestination:/topic/a\ntransaction:t\n\nx").await;
    client.expect_error("limit-exceeded", 1008).await.about("session.transaction_timeout");
    reader.expect_nothing().await;
}
