//! RabbitMQ's permissions decide, and its refusals reach the client.

use crate::support::Client;
use crate::{connect, login, per_user, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_does_not_allow_is_an_error_that_names_the_user() {
    let gateway = per_user(|_| {}).await;
    for (frame, what) in [
        // To write to an exchange, to make a queue, to read one, to bind a queue to the exchange of topics: no, no, no, yes.
        ("SEND\ndestination:/topic/gus\n\nx", "the exchange amq.topic"),
        ("SEND\ndestination:/exchange/amq.direct/k\n\nx", "the exchange amq.direct"),
        ("SEND\ndestination:/queue/of-gus\n\nx", "the queue of-gus"),
        ("SUBSCRIBE\nid:0\ndestination:/queue/of-gus", "the queue of-gus"),
        ("SUBSCRIBE\nid:0\ndestination:/topic/gus\ndurable:true", "the queue stompgate.durable."),
    ] {
        let mut client = connect(&gateway, "gus").await;
        let receipt = client.asks(frame).await;
        let error = client.expect_error("access-refused", 4403).await;
        error.with("message", "Access refused for user 'gus'").with("receipt-id", &receipt).about(what);
    }
    let mut client = connect(&gateway, "gus").await;
    client.subscribe("id:0\ndestination:/topic/gus").await;
    let mut ada = connect(&gateway, "ada").await;
    ada.does("SEND\ndestination:/topic/gus\n\nnews").await.without("routed");
    client.expect("MESSAGE").await.with("subscription", "0").saying("news");
    refused(&gateway, &login("hank"), "unknown-host", 4403).await.with("message", "Virtual host '/' access denied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_costs_nobody_else_on_the_link() {
    let gateway = per_user(|_| {}).await;
    let (mut good, mut bad) = (connect(&gateway, "gus").await, connect(&gateway, "gus").await);
    let mut asked = Vec::new();
    for number in 0..20 {
        asked.push(good.asks(&format!("SEND\ndestination:/queue/open\n\n{number}")).await);
        if number == 10 {
            bad.send("SEND\ndestination:/exchange/amq.direct/k\nreceipt:r\n\nx").await;
        }
    }
    bad.expect_error("access-refused", 4403).await.with("receipt-id", "r");
    while !asked.is_empty() {
        let receipt = good.expect("RECEIPT").await.get("receipt-id");
        asked.retain(|known| *known != receipt);
    }
    let mut ada = connect(&gateway, "ada").await;
    ada.subscribe("id:0\ndestination:/queue/open").await;
    let mut bodies: Vec<_> = ada.bodies(20).await;
    bodies.dedup();
    assert_eq!(bodies.first().map(String::as_str), Some("0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_vouches_for_a_user_id() {
    let gateway = per_user(|_| {}).await;
    let mut ada = connect(&gateway, "ada").await;
    ada.subscribe("id:0\ndestination:/topic/vouched").await;
    ada.send("SEND\ndestination:/topic/vouched\nuser-id:ada\n\nx").await;
    ada.expect("MESSAGE").await.with("user-id", "ada").with("stompgate-user", "ada");
    ada.send("SEND\ndestination:/topic/vouched\n\ny").await;
    ada.expect("MESSAGE").await.without("user-id").with("stompgate-user", "ada");
    // Over the service account's link there is nobody to vouch for her.
    ada.subscribe("id:1\ndestination:/user/queue/notes").await;
    ada.send("SEND\ndestination:/user/ada/queue/notes\nuser-id:ada\n\nz").await;
    ada.expect("MESSAGE").await.without("user-id").with("stompgate-user", "ada").saying("z");
    ada.send("SEND\ndestination:/topic/vouched\nuser-id:bob\n\nx").await;
    ada.expect_error("forbidden-header", 1008).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_users_need_no_permission() {
    let gateway = per_user(|_| {}).await;
    let (mut gus, mut bob) = (connect(&gateway, "gus").await, connect(&gateway, "bob").await);
    gus.subscribe("id:0\ndestination:/user/queue/notes").await;
    bob.subscribe("id:0\ndestination:/user/queue/notes").await;
    gus.does("SEND\ndestination:/user/bob/queue/notes\n\nhello").await.without("routed");
    bob.expect("MESSAGE").await.saying("hello").with("stompgate-user", "gus");
    bob.does("SEND\ndestination:/user/gus/queue/notes\n\nhello").await.without("routed");
    gus.expect("MESSAGE").await.saying("hello").with("destination", "/user/queue/notes");
    gus.send("BEGIN\ntransaction:t").await;
    gus.send("SEND\ndestination:/user/bob/queue/notes\ntransaction:t\n\nagain").await;
    gus.send("COMMIT\ntransaction:t").await;
    bob.expect("MESSAGE").await.saying("again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_with_a_login_of_their_own_may_name_queue_arguments() {
    let gateway = per_user(|_| {}).await;
    let mut ada = connect(&gateway, "ada").await;
    ada.subscribe("id:0\ndestination:/queue/limited\nx-max-length:1").await;
    let gateway = per_user(|config| config.broker.amqp.queue_arguments = Some(false)).await;
    let mut ada: Client = connect(&gateway, "ada").await;
    ada.send("SUBSCRIBE\nid:0\ndestination:/queue/limited-2\nx-max-length:1").await;
    ada.expect_error("unsupported", 1008).await;
}
