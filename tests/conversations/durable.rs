//! Durable subscriptions (contract, §3).

use crate::support::{Client, Gateway, gateway};

/// The two spellings: headers of CONNECT, of SUBSCRIBE and of UNSUBSCRIBE.
pub(crate) const SPELLINGS: [(&str, &str, &str); 3] = [
    ("login:ada", "id:news\ndestination:/topic/news\ndurable:true", "id:news\ndurable:true"),
    (
        "login:ada\nclient-id:laptop",
        "id:0\ndestination:/topic/news\ndurable-subscription-name:news",
        "id:0\ndurable-subscription-name:news",
    ),
    (
        "login:ada",
        "id:0\ndestination:/topic/news\nclient-id:laptop\ndurable-subscription-name:news",
        "id:0\nclient-id:laptop\ndurable-subscription-name:news",
    ),
];

/// A session that has opened the subscription, and gone without closing it.
pub(crate) async fn opened(gateway: &Gateway, connect: &str, subscribe: &str) {
    let mut client = Client::connect_with(gateway, "1.2", connect).await;
    client.subscribe(subscribe).await;
    client.disconnect().await;
    crate::support::until("the session to end", || gateway.connections() == 0).await;
}

/// Somebody who has sent these to `/topic/news`, and gone.
pub(crate) async fn published(gateway: &Gateway, bodies: &[&str]) {
    let mut client = Client::connect(gateway, "1.2").await;
    for body in bodies {
        client.does(&format!("SEND\ndestination:/topic/news\n\n{body}")).await;
    }
    client.disconnect().await;
    crate::support::until("the session to end", || gateway.connections() == 0).await;
}

#[tokio::test]
async fn a_durable_subscription_collects_while_nobody_reads_it() {
    for (connect, subscribe, _) in SPELLINGS {
        let gateway = gateway();
        opened(&gateway, connect, subscribe).await;
        published(&gateway, &["1", "2"]).await;
        let mut client = Client::connect_with(&gateway, "1.2", connect).await;
        client.send(format!("SUBSCRIBE\n{subscribe}")).await;
        client.expect("MESSAGE").await.saying("1").with("destination", "/topic/news");
        client.expect("MESSAGE").await.saying("2");
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn unsubscribe_with_durable_deletes_it() {
    for (connect, subscribe, unsubscribe) in SPELLINGS {
        let gateway = gateway();
        let mut client = Client::connect_with(&gateway, "1.2", connect).await;
        client.subscribe(subscribe).await;
        client.does(&format!("UNSUBSCRIBE\n{unsubscribe}")).await;
        client.does("SEND\ndestination:/topic/news\n\nx").await.unrouted();
        client.subscribe(subscribe).await;
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn it_can_be_deleted_by_a_session_that_does_not_read_it() {
    for (connect, subscribe, unsubscribe) in SPELLINGS {
        let gateway = gateway();
        opened(&gateway, connect, subscribe).await;
        let mut client = Client::connect_with(&gateway, "1.2", connect).await;
        client.does(&format!("UNSUBSCRIBE\n{unsubscribe}")).await;
        client.does("SEND\ndestination:/topic/news\n\nx").await.unrouted();
        client.send(format!("UNSUBSCRIBE\n{unsubscribe}\nreceipt:7")).await;
        client.expect_error("not-found", 1008).await.with("receipt-id", "7");
    }
}

#[tokio::test]
async fn a_plain_unsubscribe_leaves_it() {
    let gateway = gateway();
    let (connect, subscribe, _) = SPELLINGS[0];
    let mut client = Client::connect_with(&gateway, "1.2", connect).await;
    client.subscribe(subscribe).await;
    client.does("UNSUBSCRIBE\nid:news").await;
    client.does("SEND\ndestination:/topic/news\n\nx").await;
    client.send(format!("SUBSCRIBE\n{subscribe}")).await;
    client.expect("MESSAGE").await.saying("x");
}

#[tokio::test]
async fn while_one_session_reads_it_another_cannot() {
    let gateway = gateway();
    let (connect, subscribe, unsubscribe) = SPELLINGS[1];
    let mut first = Client::connect_with(&gateway, "1.2", connect).await;
    first.subscribe(subscribe).await;
    for frame in [format!("SUBSCRIBE\n{subscribe}"), format!("UNSUBSCRIBE\n{unsubscribe}")] {
        let mut second = Client::connect_with(&gateway, "1.2", connect).await;
        second.send(format!("{frame}\nreceipt:7")).await;
        let error = second.expect_error("subscription-in-use", 1008).await.with("receipt-id", "7");
        error.with("message", "Durable subscription in use");
    }
    first.send("SEND\ndestination:/topic/news\n\nx").await;
    first.expect("MESSAGE").await.saying("x");
}

#[tokio::test]
async fn its_identity_is_user_client_and_name() {
    let gateway = gateway();
    let subscribe = "id:0\ndestination:/topic/news\ndurable-subscription-name:news";
    let mut clients = Vec::new();
    for connect in ["login:ada\nclient-id:laptop", "login:bob\nclient-id:laptop", "login:ada\nclient-id:phone"] {
        let mut client = Client::connect_with(&gateway, "1.2", connect).await;
        client.subscribe(subscribe).await;
        clients.push(client);
    }
    clients[0].send("SEND\ndestination:/topic/news\n\nx").await;
    for client in &mut clients {
        client.expect("MESSAGE").await.saying("x");
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_to_the_next_session() {
    let gateway = gateway();
    let (connect, subscribe, _) = SPELLINGS[0];
    let mut first = Client::connect_with(&gateway, "1.2", connect).await;
    first.subscribe(&format!("{subscribe}\nack:client-individual")).await;
    for body in ["1", "2"] {
        first.send(format!("SEND\ndestination:/topic/news\n\n{body}")).await;
    }
    first.expect("MESSAGE").await;
    let ack = first.expect("MESSAGE").await.saying("2").get("ack");
    first.does(&format!("ACK\nid:{ack}")).await;
    first.vanish();
    crate::support::until("the session to end", || gateway.connections() == 0).await;
    let mut second = Client::connect_with(&gateway, "1.2", connect).await;
    second.send(format!("SUBSCRIBE\n{subscribe}")).await;
    second.expect("MESSAGE").await.saying("1").with("redelivered", "true");
    second.expect_nothing().await;
}

#[tokio::test]
async fn a_durable_subscription_may_be_a_pattern() {
    let gateway = gateway();
    opened(&gateway, "login:ada", "id:all\ndestination:/topic/*\ndurable:true").await;
    published(&gateway, &["x"]).await;
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    client.send("SUBSCRIBE\nid:all\ndestination:/topic/*\ndurable:true").await;
    client.expect("MESSAGE").await.saying("x").with("destination", "/topic/news");
}
