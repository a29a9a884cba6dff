//! CONNECT's login and passcode are the broker's to judge.

use std::time::Duration;

use crate::support::{Client, gateway_with};
use crate::{connect, log, login, node, per_user, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_says_who_may_log_in() {
    let gateway = per_user(|_| {}).await;
    let mut client = Client::open(&gateway).await;
    client.login("1.2", &login("ada")).await.with("user-name", "ada");
    for (headers, user) in [
        ("login:ada\npasscode:secret-of-bob", "ada"),
        ("login:ada\npasscode:", "ada"),
        ("login:ada", "ada"),
        ("login:nobody\npasscode:secret-of-nobody", "nobody"),
        ("passcode:secret-of-ada", ""),
        ("", ""),
    ] {
        let error = refused(&gateway, headers, "not-authenticated", 4401).await;
        error.with("message", &format!("Access refused for user '{user}'"));
    }
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_passcode_counts_for_all_who_log_in_from_then_on() {
    let gateway = per_user(|config| config.auth.cache = Duration::ZERO).await;
    let remembering = per_user(|_| {}).await;
    let mut client = connect(&gateway, "dora").await;
    let _known = connect(&remembering, "dora").await;
    client.subscribe("id:0\ndestination:/topic/dora").await;
    node().await.rabbitmq.control(&["change_password", "dora", "secret-of-dora-2"]).await;
    refused(&gateway, &login("dora"), "not-authenticated", 4401).await;
    let mut again = Client::connect_with(&gateway, "1.2", "login:dora\npasscode:secret-of-dora-2").await;
    // Another passcode is another link, and who is in stays in.
    again.does("SEND\ndestination:/topic/dora\n\nx").await.without("routed");
    client.expect("MESSAGE").await.saying("x");
    // Within auth.cache the broker is not asked again.
    connect(&remembering, "dora").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_user_is_thrown_out() {
    let gateway = per_user(|_| {}).await;
    let mut client = connect(&gateway, "emil").await;
    client.subscribe("id:0\ndestination:/topic/emil").await;
    node().await.rabbitmq.control(&["delete_user", "emil"]).await;
    let error = client.expect_error("not-authenticated", 4401).await;
    error.with("message", "Access refused for user 'emil'");
    // Although auth.cache has not passed.
    refused(&gateway, &login("emil"), "not-authenticated", 4401).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_broker_is_away_nobody_new_is_let_in() {
    let gateway = gateway_with(|config| {
        config.broker.kind = stompgate::broker::Kind::Amqp;
        config.broker.amqp.uri = vec![stompgate::broker::amqp::Uri("amqp://guest:guest@127.0.0.1:1".to_owned())];
        config.broker.amqp.identity = stompgate::broker::amqp::Identity::PerUser;
        config.auth.kind = stompgate::auth::Kind::Broker;
    });
    refused(&gateway, &login("ada"), "broker-unavailable", 4503).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_passcode_is_written_to_the_log() {
    let gateway = per_user(|_| {}).await;
    let mut client = connect(&gateway, "bob").await;
    client.subscribe("id:0\ndestination:/topic/bob").await;
    client.send("SEND\ndestination:/topic/bob\n\nx").await;
    client.expect("MESSAGE").await;
    refused(&gateway, "login:bob\npasscode:secret-of-guesses", "not-authenticated", 4401).await;
    assert!(!log::lines("user=bob").is_empty(), "it speaks of the user");
    assert_eq!(log::lines("secret-of-"), [""; 0]);
}
