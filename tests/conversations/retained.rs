//! Retained messages, which the embedded broker alone has (contract, §2).

use crate::support::{Client, gateway};

#[tokio::test]
async fn the_last_retained_message_waits_for_whoever_subscribes() {
    let gateway = gateway();
    let mut writer = Client::connect(&gateway, "1.2").await;
    for price in ["1", "2"] {
        writer.does(&format!("SEND\ndestination:/topic/price/x\nretain:true\n\n{price}")).await;
    }
    writer.does("SEND\ndestination:/topic/price/y\nretain:true\n\n9").await;
    writer.does("SEND\ndestination:/topic/price/x\n\nnot retained").await;
    for _ in 0..2 {
        let mut reader = Client::connect(&gateway, "1.2").await;
        reader.send("SUBSCRIBE\nid:0\ndestination:/topic/price/x").await;
        reader.expect("MESSAGE").await.saying("2").with("destination", "/topic/price/x");
        reader.send("SUBSCRIBE\nid:1\ndestination:/topic/price.*").await;
        let mut all = reader.bodies(2).await;
        all.sort();
        assert_eq!(all, ["2", "9"]);
        reader.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_retained_message_reaches_those_who_listen_already() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    client.send("SEND\ndestination:/topic/a\nretain:true\n\nx").await;
    client.expect("MESSAGE").await.saying("x");
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_retained_message_waits_for_subscriptions_with_acknowledgements_too() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("SEND\ndestination:/topic/a\nretain:true\n\nx").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/topic/a\nack:client").await;
    let ack = client.expect("MESSAGE").await.saying("x").get("ack");
    client.does(&format!("ACK\nid:{ack}")).await;
}

#[tokio::test]
async fn an_empty_body_deletes_what_is_retained() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("SEND\ndestination:/topic/a\nretain:true\n\nx").await;
    client.does("SEND\ndestination:/topic/a\nretain:true\n\n").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn only_topics_retain() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/queue/a\nretain:true\n\nx").await;
    client.expect_error("forbidden-header", 1008).await.about("retain");
}
