//! Who clients are at RabbitMQ, and how the gateway gets there: logins, permissions, virtual hosts, TLS (contract, §7 and
//! §11).
//!
//! Whole conversations with a gateway before a real RabbitMQ; one node for all of them, with users and virtual hosts of
//! its own, and a listener that wants client certificates. The names of the tests are the rules.
#![cfg(feature = "amqp")]

#[path = "../conversations/peer/memory.rs"]
mod peer;
#[allow(dead_code, reason = "the tests of outages use the rest of it")]
#[path = "../support/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "other tests use the rest of it")]
#[path = "../support/rabbitmq.rs"]
mod rabbitmq;
#[allow(dead_code, unused_imports, reason = "the conversations use the rest of it")]
#[path = "../conversations/support/mod.rs"]
mod support;

mod authorities;
mod backends;
mod links;
mod log;
mod logins;
mod permissions;
mod tls;
mod virtual_hosts;

use std::net::TcpListener;
use std::time::Duration;

use stompgate::auth;
use stompgate::broker::amqp::{Identity, Settings, Uri};
use stompgate::broker::{Kind, LinkState};
use stompgate::config::Config;
use stompgate::gateway::Gateway;
use tokio::sync::OnceCell;

use authorities::Authorities;
use rabbitmq::{RabbitMq, Setup};
use support::{Client, Received, gateway_with, soon};

/// The node, and who may certify what there.
pub(crate) struct Node {
    rabbitmq: RabbitMq,
    tls_port: u16,
    authorities: Authorities,
}

/// Users of the node: name, virtual host, and what may be configured, written and read there. Each one's passcode is
/// `secret-of-` and the name. Those who change or go belong to one test each.
const USERS: &[(&str, &str, [&str; 3])] = &[
    ("ada", "/", [".*"; 3]),
    ("ada", "shop", [".*"; 3]),
    ("bob", "/", [".*"; 3]),
    ("carol", "/", [".*"; 3]),
    ("dora", "/", [".*"; 3]),
    ("emil", "/", [".*"; 3]),
    ("faye", "/", [".*"; 3]),
    // Whoever reads topics needs queues of the gateway's, and nothing else here.
    (
        "gus",
        "/",
        [
            r"stompgate\\.(shared|sub)\\..*",
            r"stompgate\\.(shared|sub)\\..*|amq\\.default",
            r"(amq\\.topic|stompgate\\.(shared|sub)\\..*|open)",
        ],
    ),
    ("hank", "nowhere-else", [".*"; 3]),
];

async fn node() -> &'static Node {
    static NODE: OnceCell<Node> = OnceCell::const_new();
    NODE.get_or_init(|| async {
        log::capture();
        let (authorities, tls_port) = (Authorities::new(), free_port());
        let configuration = format!(
            "listeners.ssl.1 = 127.0.0.1:{tls_port}\n{}\
             auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\nssl_cert_login_from = common_name\n",
            authorities.configuration()
        );
        let setup = Setup { plugins: "rabbitmq_auth_mechanism_ssl", configuration, definitions: definitions() };
        Node { rabbitmq: RabbitMq::start_with(&setup).await, tls_port, authorities }
    })
    .await
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn definitions() -> String {
    let mut names: Vec<_> = USERS.iter().map(|(name, ..)| *name).collect();
    names.dedup();
    let users = names.iter().map(|name| format!(r#"{{"name": "{name}", "password": "secret-of-{name}", "tags": []}}"#));
    let guest = r#"{"name": "guest", "password": "guest", "tags": ["administrator"]}"#.to_owned();
    let permission = |user: &str, vhost: &str, [configure, write, read]: [&str; 3]| {
        format!(
            r#"{{"user": "{user}", "vhost": "{vhost}", "configure": "{configure}", "write": "{write}", "read": "{read}"}}"#
        )
    };
    let everywhere = ["/", "shop", "nowhere-else"];
    let of_guest = everywhere.iter().map(|vhost| permission("guest", vhost, [".*"; 3]));
    let of_users = USERS.iter().map(|(user, vhost, allowed)| permission(user, vhost, *allowed));
    let vhosts = everywhere.map(|vhost| format!(r#"{{"name": "{vhost}"}}"#)).join(", ");
    let users = users.chain([guest]).collect::<Vec<_>>().join(", ");
    let permissions = of_guest.chain(of_users).collect::<Vec<_>>().join(", ");
    let queues = r#"{"name": "open", "vhost": "/", "durable": true, "auto_delete": false, "arguments": {}}"#;
    format!(r#"{{"users": [{users}], "vhosts": [{vhosts}], "permissions": [{permissions}], "queues": [{queues}]}}"#)
}

/// A gateway before the node.
async fn gateway(change: impl FnOnce(&mut Settings)) -> Gateway {
    gateway_at(vec![Uri(node().await.rabbitmq.uri())], |config| change(&mut config.broker.amqp)).await
}

/// A gateway whose clients are users of the node.
async fn per_user(change: impl FnOnce(&mut Config)) -> Gateway {
    gateway_at(vec![Uri(node().await.rabbitmq.uri())], |config| {
        config.broker.amqp.identity = Identity::PerUser;
        config.auth.kind = auth::Kind::Broker;
        change(config);
    })
    .await
}

async fn gateway_at(uri: Vec<Uri>, change: impl FnOnce(&mut Config)) -> Gateway {
    let gateway = gateway_with(|config| {
        config.broker.kind = Kind::Amqp;
        config.broker.amqp.uri = uri;
        config.broker.amqp.reconnect_max = Duration::from_millis(200);
        change(config);
    });
    let mut state = gateway.broker_state();
    soon("the broker", state.wait_for(|state| *state == LinkState::Up)).await.unwrap();
    gateway
}

/// The headers of a CONNECT with the passcode of the definitions.
fn login(user: &str) -> String {
    format!("login:{user}\npasscode:secret-of-{user}")
}

/// A client that has logged in.
async fn connect(gateway: &Gateway, user: &str) -> Client {
    Client::connect_with(gateway, "1.2", &login(user)).await
}

/// The ERROR for a CONNECT with these headers.
async fn refused(gateway: &Gateway, headers: &str, code: &str, close: u16) -> Received {
    let mut client = Client::open(gateway).await;
    client.send(format!("CONNECT\naccept-version:1.2\n{headers}")).await;
    client.expect_error(code, close).await
}
