//! ACK and NACK in the three modes and the three versions (contract, §3).

use crate::support::{Client, Gateway, gateway};

/// Puts `count` messages, `1` and so on, into a queue.
async fn fill(gateway: &Gateway, queue: &str, count: usize) {
    let mut client = Client::connect(gateway, "1.2").await;
    for number in 1..=count {
        client.does(&format!("SEND\ndestination:/queue/{queue}\n\n{number}")).await;
    }
    client.disconnect().await;
}

/// The queue still holds these once `client` is gone, and nothing else.
async fn expect_left(gateway: &Gateway, client: Client, queue: &str, expected: &[&str]) {
    client.vanish();
    let mut reader = Client::connect(gateway, "1.2").await;
    crate::support::until("the other session to end", || gateway.connections() == 1).await;
    reader.send(format!("SUBSCRIBE\nid:left\ndestination:/queue/{queue}\nack:client")).await;
    assert_eq!(reader.bodies(expected.len()).await, expected);
    reader.send(format!("SEND\ndestination:/queue/{queue}\n\nend")).await;
    reader.expect("MESSAGE").await.saying("end");
}

/// Subscribes 0 to `/queue/a` in this mode, and takes three messages: what ACK names of each.
async fn take_three(client: &mut Client, version: &str, mode: &str) -> Vec<String> {
    client.send(format!("SUBSCRIBE\nid:0\ndestination:/queue/a\nack:{mode}")).await;
    let mut names = Vec::new();
    for number in 1..=3 {
        let message = client.expect("MESSAGE").await.saying(number.to_string()).without("redelivered");
        names.push(match version {
            "1.2" => format!("id:{}", message.get("ack")),
            "1.1" => format!("subscription:0\nmessage-id:{}", message.without("ack").get("message-id")),
            _ => format!("message-id:{}", message.without("ack").get("message-id")),
        });
    }
    names
}

#[tokio::test]
async fn client_is_cumulative_in_every_version() {
    for version in ["1.0", "1.1", "1.2"] {
        let gateway = gateway();
        fill(&gateway, "a", 3).await;
        let mut client = Client::connect(&gateway, version).await;
        let names = take_three(&mut client, version, "client").await;
        client.does(&format!("ACK\n{}", names[1])).await;
        expect_left(&gateway, client, "a", &["3"]).await;
    }
}

#[tokio::test]
async fn client_individual_is_one_message_in_every_version() {
    for version in ["1.0", "1.1", "1.2"] {
        let gateway = gateway();
        fill(&gateway, "a", 3).await;
        let mut client = Client::connect(&gateway, version).await;
        let names = take_three(&mut client, version, "client-individual").await;
        client.does(&format!("ACK\n{}", names[1])).await;
        expect_left(&gateway, client, "a", &["1", "3"]).await;
    }
}

#[tokio::test]
async fn cumulative_acks_stay_within_their_subscription() {
    let gateway = gateway();
    fill(&gateway, "a", 2).await;
    fill(&gateway, "b", 2).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SUBSCRIBE\nid:a\ndestination:/queue/a\nack:client").await;
    client.bodies(2).await;
    client.send("SUBSCRIBE\nid:b\ndestination:/queue/b\nack:client").await;
    client.expect("MESSAGE").await;
    let last = client.expect("MESSAGE").await.with("subscription", "b").get("ack");
    client.does(&format!("ACK\nid:{last}")).await;
    expect_left(&gateway, client, "a", &["1", "2"]).await;
}

#[tokio::test]
async fn nack_in_client_mode_is_cumulative_too() {
    let gateway = gateway();
    fill(&gateway, "a", 3).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    let names = take_three(&mut client, "1.2", "client").await;
    client.send(format!("NACK\n{}", names[1])).await;
    for body in ["1", "2"] {
        client.expect("MESSAGE").await.saying(body).with("redelivered", "true");
    }
    client.expect_nothing().await;
}

#[tokio::test]
async fn the_ack_header_is_there_where_an_acknowledgement_is_wanted() {
    let gateway = gateway();
    fill(&gateway, "a", 1).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/a\nack:auto").await;
    client.expect("MESSAGE").await.without("ack");
    client.subscribe("id:1\ndestination:/topic/a").await;
    client.send("SEND\ndestination:/topic/a\n\nx").await;
    client.expect("MESSAGE").await.without("ack");
}

#[tokio::test]
async fn without_an_ack_header_the_mode_is_auto() {
    let gateway = gateway();
    fill(&gateway, "a", 1).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/a").await;
    client.expect("MESSAGE").await;
    client.expect_nothing().await;
    expect_left(&gateway, client, "a", &[]).await;
}

#[tokio::test]
async fn message_ids_are_unique_per_delivery() {
    let gateway = gateway();
    fill(&gateway, "a", 2).await;
    let mut client = Client::connect(&gateway, "1.1").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client-individual\nprefetch-count:1").await;
    let mut ids = std::collections::HashSet::new();
    for _ in 0..5 {
        let id = client.expect("MESSAGE").await.get("message-id");
        client.send(format!("NACK\nsubscription:0\nmessage-id:{id}")).await;
        assert!(ids.insert(id), "the same id twice");
    }
}

#[tokio::test]
async fn a_delivery_stays_ackable_after_unsubscribe() {
    let gateway = gateway();
    fill(&gateway, "a", 3).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    let names = take_three(&mut client, "1.2", "client-individual").await;
    client.does("UNSUBSCRIBE\nid:0").await;
    client.does(&format!("ACK\n{}", names[0])).await.without("settled");
    client.does(&format!("NACK\n{}\nrequeue:false", names[1])).await;
    client.expect_nothing().await;
    expect_left(&gateway, client, "a", &["3"]).await;
}

#[tokio::test]
async fn what_is_put_back_after_unsubscribe_goes_to_another() {
    let gateway = gateway();
    fill(&gateway, "a", 3).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    let names = take_three(&mut client, "1.2", "client-individual").await;
    client.does("UNSUBSCRIBE\nid:0").await;
    let mut other = Client::connect(&gateway, "1.2").await;
    other.subscribe("id:0\ndestination:/queue/a").await;
    client.does(&format!("NACK\n{}", names[2])).await;
    other.expect("MESSAGE").await.saying("3").with("redelivered", "true");
    other.expect_nothing().await;
}

#[tokio::test]
async fn an_unknown_ack_is_an_error() {
    let gateway = gateway();
    for (version, frame) in [
        ("1.2", "ACK\nid:nothing"),
        ("1.2", "ACK\nid:0-0"),
        ("1.2", "NACK\nid:999999999999999999999-1"),
        ("1.2", "ACK\nid:0--1"),
        ("1.1", "ACK\nsubscription:0\nmessage-id:0-0"),
        ("1.0", "ACK\nmessage-id:T0"),
    ] {
        let mut client = Client::connect(&gateway, version).await;
        client.send(format!("{frame}\nreceipt:7")).await;
        client.expect_error("unknown-ack", 1008).await.with("receipt-id", "7").with("message", "Message not found");
    }
}

#[tokio::test]
async fn what_is_acknowledged_twice_is_unknown() {
    for (mode, acknowledged, again) in [("client-individual", 1, 1), ("client", 2, 0), ("client", 1, 1)] {
        let gateway = gateway();
        fill(&gateway, "a", 3).await;
        let mut client = Client::connect(&gateway, "1.2").await;
        let names = take_three(&mut client, "1.2", mode).await;
        client.does(&format!("ACK\n{}", names[acknowledged])).await;
        client.send(format!("ACK\n{}", names[again])).await;
        client.expect_error("unknown-ack", 1008).await;
    }
}

#[tokio::test]
async fn a_delivery_belongs_to_its_session_and_subscription() {
    let gateway = gateway();
    fill(&gateway, "a", 3).await;
    let mut client = Client::connect(&gateway, "1.1").await;
    let names = take_three(&mut client, "1.1", "client").await;
    let mut thief = Client::connect(&gateway, "1.1").await;
    thief.send(format!("ACK\n{}", names[0])).await;
    thief.expect_error("unknown-ack", 1008).await;
    client.subscribe("id:1\ndestination:/queue/b\nack:client").await;
    client.send(format!("ACK\n{}", names[0].replace("subscription:0", "subscription:1"))).await;
    client.expect_error("unknown-ack", 1008).await;
}

#[tokio::test]
async fn in_1_1_ack_needs_the_subscription() {
    let gateway = gateway();
    fill(&gateway, "a", 3).await;
    let mut client = Client::connect(&gateway, "1.1").await;
    let names = take_three(&mut client, "1.1", "client").await;
    client.send(format!("ACK\n{}", names[0].lines().nth(1).expect("a message-id"))).await;
    client.expect_error("missing-header", 1002).await.with("message", "Missing subscription");
}

#[tokio::test]
async fn topics_may_be_read_with_acknowledgements() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a\nack:client-individual\nprefetch-count:1").await;
    let mut other = Client::connect(&gateway, "1.2").await;
    other.subscribe("id:0\ndestination:/topic/a\nack:client").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    for body in ["1", "2"] {
        writer.does(&format!("SEND\ndestination:/topic/a\n\n{body}")).await;
    }
    client.expect("MESSAGE").await.saying("1");
    assert_eq!(other.bodies(2).await, ["1", "2"], "each has its own copy");
}

#[tokio::test]
async fn a_topic_with_acknowledgements_pauses_and_comes_again() {
    let gateway = gateway();
    let mut writer = Client::connect(&gateway, "1.2").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a.*\nack:client-individual\nprefetch-count:1").await;
    for body in ["1", "2"] {
        writer.does(&format!("SEND\ndestination:/topic/a/b\n\n{body}")).await;
    }
    let ack = client.expect("MESSAGE").await.saying("1").with("destination", "/topic/a.b").get("ack");
    client.expect_nothing().await;
    client.send(format!("NACK\nid:{ack}")).await;
    let ack = client.expect("MESSAGE").await.saying("1").with("redelivered", "true").get("ack");
    client.send(format!("ACK\nid:{ack}")).await;
    client.expect("MESSAGE").await.saying("2");
}

#[tokio::test]
async fn a_mode_or_a_count_that_is_none_is_an_error() {
    let gateway = gateway();
    for (header, value) in [("ack", "yes"), ("ack", "Client"), ("prefetch-count", "-1"), ("prefetch-count", "many")] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send(format!("SUBSCRIBE\nid:0\ndestination:/queue/a\n{header}:{value}")).await;
        client.expect_error("invalid-header", 1002).await.about(header).about(value);
    }
    fill(&gateway, "b", 1).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/queue/b\nack:client").await;
    let ack = client.expect("MESSAGE").await.get("ack");
    client.send(format!("NACK\nid:{ack}\nrequeue:perhaps")).await;
    client.expect_error("invalid-header", 1002).await.about("requeue");
}

#[tokio::test]
async fn what_needs_no_ack_takes_no_mode() {
    let gateway = gateway();
    for destination in ["/user/queue/a", "/user/topic/a", "/temp-queue/a"] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send(format!("SUBSCRIBE\nid:0\ndestination:{destination}\nack:client")).await;
        client.expect_error("unsupported", 1008).await.about("ack:auto");
    }
}
