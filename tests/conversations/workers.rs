//! The threads that serve clients (`server.workers`).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use stompgate::chain::Answer;
use stompgate::config::Config;

use crate::operation::ask;
use crate::support::{Client, Gateway, builder, gateway_with, soon};

/// A gateway that answers a SEND to `/app/where` to `/topic/where`, with the name of the thread that serves its sender.
fn telling_where(workers: usize) -> Gateway {
    let builder = builder(|config| config.server.workers = Some(workers));
    let here = || thread::current().name().unwrap_or_default().to_owned();
    let builder = builder.handler("/app/where", move |_| async move { Ok(Some(Answer::text(here()))) });
    builder.start().expect("a gateway that starts")
}

/// The names of the threads that serve these clients.
async fn threads(clients: &mut [Client]) -> HashSet<String> {
    let (asking, others) = clients.split_first_mut().expect("a client");
    asking.subscribe("id:where\ndestination:/topic/where").await;
    let mut threads = HashSet::new();
    for client in others {
        client.send("SEND\ndestination:/app/where\n\n").await;
        threads.insert(asking.expect("MESSAGE").await.body());
    }
    threads
}

#[tokio::test]
async fn readers_on_all_workers_get_all_that_any_of_them_sends() {
    const READERS: usize = 40;
    const MESSAGES: usize = 25;
    let gateway = telling_where(3);
    let mut clients = Vec::new();
    for _ in 0..READERS {
        clients.push(Client::connect(&gateway, "1.2").await);
    }
    let workers = threads(&mut clients).await;
    assert!(workers.len() > 1 && workers.iter().all(|name| name.starts_with("worker-")), "{workers:?}");
    for client in &mut clients {
        client.subscribe("id:0\ndestination:/topic/news").await;
    }
    let expected = |sender: usize| (0..MESSAGES).map(|number| format!("{sender}.{number}")).collect::<Vec<_>>();
    for sender in [0, READERS / 2, READERS - 1] {
        for body in expected(sender) {
            clients[sender].send(format!("SEND\ndestination:/topic/news\n\n{body}")).await;
        }
        for client in &mut clients {
            assert_eq!(client.bodies(MESSAGES).await, expected(sender));
        }
    }
}

#[tokio::test]
async fn without_workers_clients_are_served_where_the_gateway_was_started() {
    let gateway = telling_where(0);
    let mut clients = vec![Client::connect(&gateway, "1.2").await, Client::connect(&gateway, "1.2").await];
    let here = thread::current().name().expect("a name").to_owned();
    assert_eq!(threads(&mut clients).await, HashSet::from([here]));
}

#[tokio::test]
async fn a_second_gateway_is_told_that_the_port_is_taken() {
    let first = gateway_with(|config| config.server.workers = Some(2));
    let mut config = Config::default();
    config.server.workers = Some(2);
    config.server.listen = first.address();
    config.admin.enabled = false;
    let error = Gateway::start(config).err().expect("no start").to_string();
    for part in ["server.listen: cannot listen on ", "in use"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[tokio::test]
async fn a_gateway_that_is_dropped_takes_its_clients_along() {
    let gateway = gateway_with(|config| config.server.workers = Some(2));
    let mut client = Client::connect(&gateway, "1.2").await;
    drop(gateway);
    while client.try_send_message("\n").await.is_ok() {
        tokio::task::yield_now().await;
    }
}

/// A handler that never yields holds up the clients of its own worker only, and is seen from outside.
#[tokio::test]
async fn a_worker_that_hangs_is_not_alive() {
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let builder = builder(|config| {
        config.server.workers = Some(2);
        config.admin.timeout = Duration::from_millis(500);
    });
    let gateway = builder
        .handler("/app/hang", move |_| {
            let held = Arc::clone(&held);
            async move {
                let _ = held.lock().expect("no panic").recv();
                Ok(None)
            }
        })
        .start()
        .expect("a gateway that starts");
    let mut client = Client::connect(&gateway, "1.2").await;
    assert_eq!(ask(&gateway, "GET /healthz").await.status, 200);
    client.send("SEND\ndestination:/app/hang\nreceipt:1\n\n").await;
    let mut status = 200;
    while status == 200 {
        status = soon("an answer", ask(&gateway, "GET /healthz")).await.status;
    }
    assert_eq!(status, 504);
    release.send(()).expect("a handler");
    client.expect("RECEIPT").await;
    assert_eq!(ask(&gateway, "GET /healthz").await.status, 200);
}
