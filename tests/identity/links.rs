//! One link for each user and passcode, and what bounds them.

use std::time::Duration;

use futures_util::future::join_all;
use stompgate::broker::amqp::Uri;
use stompgate::gateway::Gateway;

use crate::proxy::Proxy;
use crate::support::{Client, soon, until};
use crate::{connect, gateway_at, login, node, per_user, refused};

/// Connections that the gateway of the service account makes.
const SERVICE: usize = 3;

async fn per_user_behind_a_proxy(verifications: usize) -> (Gateway, Proxy) {
    let proxy = Proxy::before(node().await.rabbitmq.port);
    let uri = Uri(format!("amqp://guest:guest@127.0.0.1:{}/%2f", proxy.port()));
    let gateway = gateway_at(vec![uri], |config| {
        config.broker.amqp.identity = stompgate::broker::amqp::Identity::PerUser;
        config.auth.kind = stompgate::auth::Kind::Broker;
        config.broker.amqp.max_verifications = verifications;
    })
    .await;
    (gateway, proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_share_nothing_and_sessions_of_one_user_everything() {
    let (gateway, proxy) = per_user_behind_a_proxy(8).await;
    let mut clients = Vec::new();
    for user in ["ada", "ada", "bob", "bob"] {
        let mut client = connect(&gateway, user).await;
        client.subscribe("id:0\ndestination:/topic/common").await;
        clients.push(client);
    }
    assert_eq!(gateway.shared_subscriptions(), 2);
    for sender in [0, 2] {
        clients[sender].send("SEND\ndestination:/topic/common\n\nx").await;
        for client in &mut clients {
            client.expect("MESSAGE").await.saying("x");
        }
    }
    // For each user: one to ask about the login, one to read with, one to publish on.
    assert_eq!(proxy.accepted(), SERVICE + 2 * 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_with_one_login_asks_the_broker_once() {
    let (gateway, proxy) = per_user_behind_a_proxy(8).await;
    proxy.black_hole();
    let crowd = join_all((0..50).map(|_| connect(&gateway, "ada")));
    let released = async {
        until("the question", || proxy.accepted() == SERVICE + 1).await;
        until("the crowd", || gateway.connections() == 50).await;
        proxy.pass();
    };
    let (crowd, ()) = soon("everybody", async { tokio::join!(crowd, released) }).await;
    assert_eq!((crowd.len(), proxy.accepted()), (50, SERVICE + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_with_bad_logins_asks_the_broker_a_few_at_a_time() {
    let (gateway, proxy) = per_user_behind_a_proxy(2).await;
    let _known = connect(&gateway, "ada").await;
    let before = proxy.accepted();
    proxy.black_hole();
    let headers: Vec<_> = (0..20).map(|number| format!("login:nobody-{number}\npasscode:secret-of-nobody")).collect();
    let crowd = join_all(headers.iter().map(|headers| refused(&gateway, headers, "not-authenticated", 4401)));
    let released = async {
        until("the questions", || proxy.accepted() == before + 2).await;
        until("the crowd", || gateway.connections() == 21).await;
        // Those who are known need not wait for them.
        for _ in 0..5 {
            connect(&gateway, "ada").await;
        }
        assert_eq!(proxy.accepted(), before + 2);
        proxy.pass();
    };
    let (errors, ()) = soon("everybody", async { tokio::join!(crowd, released) }).await;
    assert_eq!((errors.len(), proxy.accepted()), (20, before + 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_are_bounded_and_unused_ones_make_room() {
    let gateway = per_user(|config| config.broker.amqp.max_user_links = 1).await;
    let ada = connect(&gateway, "ada").await;
    connect(&gateway, "ada").await;
    refused(&gateway, &login("bob"), "limit-exceeded", 1008).await.about("broker.amqp.max_user_links");
    ada.disconnect().await;
    soon("room", async {
        loop {
            let mut bob = Client::open(&gateway).await;
            bob.send(format!("CONNECT\naccept-version:1.2\n{}", login("bob"))).await;
            if bob.expect_any().await.maybe("version") == Some("1.2") {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_nobody_uses_closes() {
    let gateway = per_user(|config| config.broker.amqp.user_link_idle = Duration::from_millis(50)).await;
    let mut client = connect(&gateway, "faye").await;
    client.subscribe("id:0\ndestination:/topic/faye").await;
    client.send("SEND\ndestination:/topic/faye\n\nx").await;
    client.expect("MESSAGE").await;
    let connections = async || {
        let listed = node().await.rabbitmq.control(&["list_connections", "-q", "user"]).await;
        listed.lines().filter(|user| *user == "faye").count()
    };
    assert_eq!(connections().await, 2, "one to read with, and one to publish on");
    client.disconnect().await;
    soon("its connections to go", async { while connections().await > 0 {} }).await;
    // And it comes back.
    let mut client = connect(&gateway, "faye").await;
    client.subscribe("id:0\ndestination:/topic/faye").await;
}
