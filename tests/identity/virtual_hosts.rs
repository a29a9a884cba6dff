//! CONNECT's `host` and the virtual hosts of the broker.

use stompgate::broker::amqp::Uri;

use crate::support::Client;
use crate::{gateway, gateway_at, login, node, per_user, refused};

fn map() -> std::collections::BTreeMap<String, String> {
    [("shop.example.com", "shop"), ("gone.example.com", "gone"), ("main", "/")]
        .map(|(host, virtual_host)| (host.to_owned(), virtual_host.to_owned()))
        .into()
}

async fn at(gateway: &stompgate::gateway::Gateway, host: &str, login: &str) -> Client {
    let mut client = Client::open(gateway).await;
    client.send(format!("CONNECT\naccept-version:1.2\n{host}{login}")).await;
    client.expect("CONNECTED").await;
    client.speaks("1.2");
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_virtual_host_is_a_world_of_its_own() {
    let gateway = gateway(|amqp| amqp.virtual_hosts = map()).await;
    let mut clients = Vec::new();
    for host in ["", "host:/\n", "host:main\n", "host:shop.example.com\n"] {
        let mut client = at(&gateway, host, "login:lia").await;
        client.subscribe("id:0\ndestination:/topic/worlds").await;
        client.subscribe("id:1\ndestination:/user/queue/worlds").await;
        clients.push(client);
    }
    let mut shop = clients.pop().unwrap();
    assert_eq!(gateway.shared_subscriptions(), 4, "two for each virtual host");
    shop.send("SEND\ndestination:/topic/worlds\n\nfrom the shop").await;
    shop.expect("MESSAGE").await.saying("from the shop");
    shop.send("SEND\ndestination:/user/lia/queue/worlds\n\nfrom the shop").await;
    shop.expect("MESSAGE").await.saying("from the shop");
    clients[0].send("SEND\ndestination:/topic/worlds\n\nfrom the main one").await;
    for client in &mut clients {
        client.expect("MESSAGE").await.saying("from the main one");
    }
    shop.expect_nothing().await;
    for host in ["/shop", "shop", "localhost", "two words"] {
        let error = refused(&gateway, &format!("host:{host}"), "unknown-host", 4403).await;
        error.with("message", &format!("Virtual host '{host}' access denied"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_map_there_is_one_virtual_host() {
    let uri = node().await.rabbitmq.uri().replace("%2f", "shop");
    let gateway = gateway_at(vec![Uri(uri)], |_| {}).await;
    let mut reader = at(&gateway, "host:shop\n", "").await;
    reader.subscribe("id:0\ndestination:/topic/one").await;
    let mut sender = at(&gateway, "host:gateway.example.com\n", "").await;
    sender.does("SEND\ndestination:/topic/one\n\nx").await.without("routed");
    reader.expect("MESSAGE").await.saying("x");
    for host in ["/", "/shop"] {
        refused(&gateway, &format!("host:{host}"), "unknown-host", 4403).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_checked_for_the_virtual_host_that_they_mean() {
    let gateway = per_user(|config| config.broker.amqp.virtual_hosts = map()).await;
    let mut shop = at(&gateway, "host:shop.example.com\n", &login("ada")).await;
    let mut main = at(&gateway, "host:main\n", &login("ada")).await;
    for client in [&mut shop, &mut main] {
        client.subscribe("id:0\ndestination:/topic/mine").await;
    }
    shop.send("SEND\ndestination:/topic/mine\n\nx").await;
    shop.expect("MESSAGE").await.saying("x");
    main.expect_nothing().await;
    for (host, user) in [("shop.example.com", "bob"), ("gone.example.com", "ada")] {
        let error = refused(&gateway, &format!("host:{host}\n{}", login(user)), "unknown-host", 4403).await;
        error.with("message", &format!("Virtual host '{host}' access denied"));
    }
}
