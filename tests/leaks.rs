//! Ten thousand connections break in every state that one can be in, and leave nothing behind (contract, §6 and §7).
//!
//! Alone in its program, because it watches the memory of the whole process.

#[path = "conversations/peer/memory.rs"]
mod peer;
#[expect(dead_code, reason = "this conversation is a rough one")]
#[path = "conversations/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use stompgate::gateway::Gateway;
use stompgate::hub::{OutboxPolicy, WhenFull};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use support::raw::{CLOSE, FIN, PING, TEXT, header, masked, request};
use support::{Client, Raw, connect_frame, gateway_with, soon, until, wire};

const CONNECTIONS: usize = 10_000;
/// Fills every pool, table and buffer that stays.
const WARM_UP: usize = 2_000;
const AT_A_TIME: usize = 50;
/// What the process may have grown by: 400 bytes for each connection. A leaked outbox alone costs a thousand.
const TOLERANCE_KIB: usize = 4 * 1024;

/// Bytes of a compressed message, once it is inflated.
const BOMB: usize = 2 * 1024 * 1024;
const RSV1: u8 = 0x40;

/// What a client does before it breaks the connection. The number tells it from others in the same state.
#[derive(Clone, Copy, Debug)]
enum State {
    TcpOnly,
    HalfARequest,
    RefusedRequest,
    RequestWithoutReadingTheAnswer,
    Upgraded,
    HalfAWebSocketFrame,
    HalfAConnect,
    HalfABomb,
    AfterABomb,
    ConnectWithoutReadingTheAnswer,
    Connected,
    SubscribedToATopic,
    SubscribedToAPattern,
    SubscribedWithAcknowledgements,
    SubscribedToItsUser,
    WithUnackedMessages,
    WithAReplyAddress,
    WithADurableSubscription,
    WithAWill,
    InATransaction,
    InATransactionWithAcks,
    MidFrame,
    MidMessage,
    AfterAnError,
    AfterAProtocolError,
    AfterDisconnect,
    AfterItsClose,
    AfterAPing,
    Unsubscribed,
    WithAFullOutbox,
    WithAPausedConsumer,
}

use State::{
    AfterABomb, AfterAPing, AfterAProtocolError, AfterAnError, AfterDisconnect, AfterItsClose,
    ConnectWithoutReadingTheAnswer, Connected, HalfABomb, HalfAConnect, HalfARequest, HalfAWebSocketFrame,
    InATransaction, InATransactionWithAcks, MidFrame, MidMessage, RefusedRequest, RequestWithoutReadingTheAnswer,
    SubscribedToAPattern, SubscribedToATopic, SubscribedToItsUser, SubscribedWithAcknowledgements, TcpOnly,
    Unsubscribed, Upgraded, WithADurableSubscription, WithAFullOutbox, WithAPausedConsumer, WithAReplyAddress,
    WithAWill, WithUnackedMessages,
};

const STATES: [State; 31] = [
    TcpOnly,
    HalfARequest,
    RefusedRequest,
    RequestWithoutReadingTheAnswer,
    Upgraded,
    HalfAWebSocketFrame,
    HalfAConnect,
    HalfABomb,
    AfterABomb,
    ConnectWithoutReadingTheAnswer,
    Connected,
    SubscribedToATopic,
    SubscribedToAPattern,
    SubscribedWithAcknowledgements,
    SubscribedToItsUser,
    WithUnackedMessages,
    WithAReplyAddress,
    WithADurableSubscription,
    WithAWill,
    InATransaction,
    InATransactionWithAcks,
    MidFrame,
    MidMessage,
    AfterAnError,
    AfterAProtocolError,
    AfterDisconnect,
    AfterItsClose,
    AfterAPing,
    Unsubscribed,
    WithAFullOutbox,
    WithAPausedConsumer,
];

/// Brings a connection into a state.
async fn reach(state: State, gateway: &Gateway, number: usize) -> Raw {
    match state {
        TcpOnly | HalfARequest | RefusedRequest | RequestWithoutReadingTheAnswer => {
            without_websocket(state, gateway).await
        }
        Upgraded | HalfAWebSocketFrame | HalfAConnect | ConnectWithoutReadingTheAnswer => {
            without_session(state, gateway).await
        }
        HalfABomb | AfterABomb => {
            let offer = [("sec-websocket-extensions", "permessage-deflate")];
            let mut raw = Raw::upgraded_with(gateway, &offer).await.0;
            raw.login("1.2").await;
            let (first, rest) = bomb().split_at(bomb().len() / 40);
            raw.frame(TEXT & !FIN | RSV1, first).await;
            if matches!(state, AfterABomb) {
                raw.frame(FIN, rest).await;
                raw.expect_error("too-large", 1009).await;
            }
            raw
        }
        WithAWill => as_mortal(gateway, "will-destination:/topic/wills\nwill-body:gone").await,
        WithADurableSubscription => {
            // Four names for all: most are told that theirs is in use.
            let mut raw = as_mortal(gateway, &format!("client-id:{}", number % 4)).await;
            raw.text(wire("SUBSCRIBE\nid:d\ndestination:/topic/durable\ndurable:true")).await;
            raw
        }
        _ => {
            let mut raw = Raw::connected(gateway, "1.2").await;
            with_session(state, &mut raw, number).await;
            raw
        }
    }
}

/// A message that is a thousandth as long as what it is inflated to.
fn bomb() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut bomb = Vec::with_capacity(BOMB / 100);
        let mut compress = Compress::new(Compression::best(), false);
        compress.compress_vec(&vec![b'\n'; BOMB], &mut bomb, FlushCompress::Sync).expect("bytes");
        bomb
    })
}

async fn as_mortal(gateway: &Gateway, headers: &str) -> Raw {
    let mut raw = Raw::upgraded(gateway).await;
    raw.text(wire(connect_frame("1.2", &format!("login:mortal\n{headers}")))).await;
    raw.expect("CONNECTED").await;
    raw
}

async fn without_websocket(state: State, gateway: &Gateway) -> Raw {
    let mut raw = Raw::tcp(gateway).await;
    match state {
        HalfARequest => raw.write("GET /ws HTTP/1.1\r\nhost: loc").await,
        RefusedRequest => {
            raw.write(request("GET /elsewhere HTTP/1.1", &[])).await;
            raw.answer().await;
        }
        RequestWithoutReadingTheAnswer => raw.write(request("GET /ws HTTP/1.1", &[])).await,
        _ => {}
    }
    raw
}

async fn without_session(state: State, gateway: &Gateway) -> Raw {
    let mut raw = Raw::upgraded(gateway).await;
    match state {
        HalfAWebSocketFrame => raw.write(&masked(TEXT, b"CONNECT\n\n\0")[..4]).await,
        HalfAConnect => raw.text("CONNECT\naccept-vers").await,
        ConnectWithoutReadingTheAnswer => raw.text(wire(connect_frame("1.2", ""))).await,
        _ => {}
    }
    raw
}

async fn with_session(state: State, raw: &mut Raw, number: usize) {
    let own = format!("/topic/leaks/{number}");
    let subscribe =
        |destination: &str, more: &str| format!("SUBSCRIBE\nid:0\ndestination:{destination}\nreceipt:s{more}");
    match state {
        SubscribedToATopic => does(raw, &subscribe("/topic/leaks", "")).await,
        SubscribedToAPattern => does(raw, &subscribe(&format!("{own}/*/x.#"), "")).await,
        SubscribedWithAcknowledgements => does(raw, &subscribe(&own, "\nack:client")).await,
        SubscribedToItsUser => does(raw, &subscribe("/user/queue/mail", "")).await,
        WithUnackedMessages | InATransactionWithAcks => {
            does(raw, &subscribe(&own, "\nack:client-individual")).await;
            for _ in 0..3 {
                raw.text(wire(format!("SEND\ndestination:{own}\n\n{}", "x".repeat(1000)))).await;
            }
            let ack = raw.expect("MESSAGE").await.get("ack");
            if matches!(state, InATransactionWithAcks) {
                raw.text(wire("BEGIN\ntransaction:t")).await;
                raw.text(wire(format!("ACK\nid:{ack}\ntransaction:t"))).await;
            }
        }
        WithAReplyAddress => does(raw, "SEND\ndestination:/topic/leaks\nreply-to:/temp-queue/r\nreceipt:r\n\nx").await,
        InATransaction => {
            does(raw, "BEGIN\ntransaction:t\nreceipt:b").await;
            let body = "x".repeat(10_000);
            does(raw, &format!("SEND\ndestination:/topic/leaks\ntransaction:t\nreceipt:s\n\n{body}")).await;
        }
        MidFrame => raw.text(format!("SEND\ndestination:{own}\ncontent-length:5000\n\nand then")).await,
        MidMessage => {
            raw.frame(TEXT & !FIN, "SEND\ndestination:/topic/leaks\n\nfirst half").await;
            raw.write(header(0, 0x80, 100_000)).await;
        }
        AfterAnError => raw.text("FOO\n\n\0").await,
        AfterAProtocolError => raw.frame(FIN | 7, "").await,
        AfterDisconnect => raw.text(wire("DISCONNECT\nreceipt:d")).await,
        AfterItsClose => raw.frame(CLOSE, 1000_u16.to_be_bytes()).await,
        AfterAPing => raw.frame(PING, "are you there").await,
        Unsubscribed => {
            does(raw, &subscribe(&own, "\nack:client")).await;
            does(raw, "UNSUBSCRIBE\nid:0\nreceipt:u").await;
        }
        WithAFullOutbox => {
            // The flood fills the kernel's buffers first; how long that takes matters to nobody.
            does(raw, &subscribe("/topic/flood", "")).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        WithAPausedConsumer => {
            does(raw, &subscribe(&own, "\nack:client\nprefetch-count:1")).await;
            raw.text(wire(format!("SEND\ndestination:{own}\n\nx")).repeat(20)).await;
            raw.expect("MESSAGE").await;
        }
        _ => {}
    }
}

async fn does(raw: &mut Raw, frame: &str) {
    raw.text(wire(frame)).await;
    while raw.expect_any().await.maybe("receipt-id").is_none() {}
}

/// Makes and breaks so many connections, some with a reset, some with no more than the end of TCP.
async fn make_and_break(gateway: &Arc<Gateway>, count: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..AT_A_TIME {
        let (gateway, next) = (Arc::clone(gateway), Arc::clone(&next));
        workers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                let raw = reach(STATES[number % STATES.len()], &gateway, number).await;
                if (number / STATES.len()).is_multiple_of(4) { drop(raw) } else { raw.reset() }
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.expect("a worker that reaches every state");
    }
}

/// The same beside a flood.
async fn round(gateway: &Arc<Gateway>, count: usize) {
    let stop = Arc::new(AtomicBool::new(false));
    let flooding = tokio::spawn(flood(Arc::clone(gateway), Arc::clone(&stop)));
    make_and_break(gateway, count).await;
    stop.store(true, Ordering::Relaxed);
    soon("the flood to end", flooding).await.expect("a flood");
}

/// Sends itself numbered messages, one after the other, until it is told to stop. Returns how many.
async fn witness(gateway: Arc<Gateway>, stop: Arc<AtomicBool>) -> usize {
    let mut reader = Client::connect_with(&gateway, "1.2", "heart-beat:0,1000").await;
    reader.subscribe("id:0\ndestination:/topic/witness").await;
    reader.subscribe("id:1\ndestination:/queue/witness\nack:client").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    for number in 0.. {
        let body = number.to_string();
        writer.does(&format!("SEND\ndestination:/topic/witness\n\n{body}")).await.without("routed");
        reader.expect("MESSAGE").await.saying(&body).with("subscription", "0");
        writer.does(&format!("SEND\ndestination:/queue/witness\n\n{body}")).await;
        let message = reader.expect("MESSAGE").await.saying(&body).with("subscription", "1").without("redelivered");
        reader.send(format!("ACK\nid:{}", message.get("ack"))).await;
        if stop.load(Ordering::Relaxed) {
            return number;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    unreachable!("an endless stream")
}

/// Sends more than anybody can take who does not read.
async fn flood(gateway: Arc<Gateway>, stop: Arc<AtomicBool>) {
    let mut writer = Client::connect(&gateway, "1.2").await;
    let frame = format!("SEND\ndestination:/topic/flood\n\n{}", "x".repeat(256 * 1024));
    while !stop.load(Ordering::Relaxed) {
        writer.does(&frame).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writer.disconnect().await;
}

/// Waits until nobody but the witness is left.
async fn settled(gateway: &Gateway, tasks: Option<usize>) {
    until("the connections to be forgotten", || gateway.connections() == 2).await;
    until("the subscriptions to be closed", || gateway.shared_subscriptions() == 1).await;
    let alive = || Handle::current().metrics().num_alive_tasks();
    match tasks {
        Some(tasks) => until("the tasks to end", || alive() <= tasks).await,
        None => until("the tasks to end", || alive() <= 8).await,
    }
}

/// What the process holds of the machine's memory.
fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_broken_connections_leave_nothing_behind() {
    let gateway = Arc::new(gateway_with(|config| {
        config.server.close_timeout = Duration::from_millis(500);
        config.outbox.max_bytes = 256 * 1024;
        config.server.deflate.enabled = true;
        config.session.max_body = 256 * 1024;
        config.outbox.policy =
            vec![OutboxPolicy { destination: "/topic/flood".to_owned(), when_full: WhenFull::DropNewest, key: None }];
    }));
    let stop = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(witness(Arc::clone(&gateway), Arc::clone(&stop)));

    round(&gateway, WARM_UP).await;
    settled(&gateway, None).await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let before = resident_kib();

    round(&gateway, CONNECTIONS).await;
    settled(&gateway, Some(tasks)).await;
    let after = resident_kib();
    println!("{CONNECTIONS} connections: {before} KiB before, {after} KiB after; {tasks} tasks");
    assert!(after <= before + TOLERANCE_KIB, "{before} KiB before, {after} KiB after {CONNECTIONS} connections");

    stop.store(true, Ordering::Relaxed);
    let seen = soon("the witness", watching).await.expect("a witness that noticed nothing");
    assert!(seen > 100, "{seen} messages while all that happened");
}
