//! The threads that serve clients (`server.workers`).

use std::collections::HashSet;
use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use stompgate::chain::Answer;
use stompgate::config::Config;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_tungstenite::client_async;

use crate::operation::ask;
use crate::support::program::Program;
use crate::support::{Client, Gateway, Raw, builder, gateway_with, soon, until};

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
    assert!(workers.len() == 3 && workers.iter().all(|name| name.starts_with("worker-")), "{workers:?}");
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

/// A gateway with two workers, on which a SEND to `/app/hang` keeps its worker until something is sent to the second value.
fn hanging(configure: impl FnOnce(&mut Config)) -> (Gateway, mpsc::Sender<()>) {
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let builder = builder(|config| {
        config.server.workers = Some(2);
        config.admin.timeout = Duration::from_millis(500);
        configure(config);
    });
    let gateway = builder.handler("/app/hang", move |_| {
        let held = Arc::clone(&held);
        async move {
            let _ = held.lock().expect("no panic").recv();
            Ok(None)
        }
    });
    (gateway.start().expect("a gateway that starts"), release)
}

/// Asks after the gateway's health until the answer is this.
async fn expect_health(gateway: &Gateway, status: u16) {
    soon("another health", async { while ask(gateway, "GET /healthz").await.status != status {} }).await;
}

/// A handler that never yields holds up the clients of its own worker only, and is seen from outside.
#[tokio::test]
async fn a_worker_that_hangs_is_not_alive() {
    let (gateway, release) = hanging(|_| {});
    let mut client = Client::connect(&gateway, "1.2").await;
    expect_health(&gateway, 200).await;
    client.send("SEND\ndestination:/app/hang\nreceipt:1\n\n").await;
    expect_health(&gateway, 504).await;
    release.send(()).expect("a handler");
    client.expect("RECEIPT").await;
    expect_health(&gateway, 200).await;
}

#[tokio::test]
async fn a_worker_that_hangs_does_not_keep_the_gateway_from_ending() {
    let (gateway, _release) = hanging(|config| config.server.shutdown_timeout = Duration::from_millis(500));
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/app/hang\n\n").await;
    expect_health(&gateway, 504).await;
    soon("the end", gateway.shut_down()).await;
}

/// Whatever wakes it makes its thread panic.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a panic that is meant, outside of any task");
    }
}

/// What panics in a client's task ends that client alone. But code of the program's may be run by the thread itself.
#[tokio::test]
async fn a_worker_that_has_panicked_is_not_alive() {
    let builder = builder(|config| config.server.workers = Some(2));
    let handler = |_| async {
        let mut timer = pin!(sleep(Duration::from_millis(1)));
        let _ = timer.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::new(Panics))));
        pending().await
    };
    let gateway = builder.handler("/app/panic", handler).start().expect("a gateway that starts");
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/app/panic\n\n").await;
    expect_health(&gateway, 503).await;
    until("the client's end", || gateway.connections() == 0).await;
    // Who came to its listener while that was closed is turned away, and from then on the other worker serves all.
    let mut served = 0;
    while served < 8 {
        let stream = TcpStream::connect(gateway.address()).await.expect("a gateway that accepts");
        served += u32::from(soon("an end of the handshake", client_async(gateway.url(), stream)).await.is_ok());
    }
    soon("the end", gateway.shut_down()).await;
}

#[tokio::test]
async fn a_gateway_that_can_open_no_more_files_does_not_fill_its_log() {
    const FILES: usize = 8;
    let program = Program::start(&["server.workers=2", "server.handshake_timeout=2s"]);
    program.limit_files(FILES);
    let mut silent = Vec::new();
    for _ in 0..4 * FILES {
        silent.push(Raw::tcp_to(&program.address).await);
    }
    program.logs("could not be accepted").await;
    silent.swap_remove(0).expect_end().await; // two seconds later, in which each thread has tried again twenty times
    let said = program.log().matches("could not be accepted").count();
    assert!(said < 20, "{said} lines");
    drop(silent);
    soon("a place", program.connected()).await;
}
