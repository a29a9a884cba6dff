//! The connection breaks amid the four packets of quality of service 2, at each of them, in both directions.
//!
//! A client of ours is new with each connection, so neither side can go on where it was (contract, §12): what was being
//! published is published again, and what was being read is known to have been there.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use stompgate::broker::LinkState;
use stompgate::broker::mqtt::Version;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::mosquitto::Mosquitto;
use crate::scripted::read;
use crate::support::{Client, until as eventually};
use crate::{by, gateway_at, send_until_read, until, uri};

by_both_versions! {
    what_is_published_comes_once_or_says_that_it_came_before,
    what_is_read_comes_once_and_the_next_says_that_there_was_a_gap,
}

/// The first bytes of packets, as they are without DUP and RETAIN.
const PUBLISH: u8 = 0x34;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const DUP_AND_RETAIN: u8 = 0b1001;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToBroker,
    ToGateway,
}

use Way::{ToBroker, ToGateway};

/// Of the message that a trap is set for.
const BODY: &[u8] = b"amid";

/// A proxy that ends a connection at a packet of one message, and keeps that packet.
struct Trap {
    port: u16,
    set: Arc<Mutex<Option<Set>>>,
    accepting: JoinHandle<()>,
}

struct Set {
    way: Way,
    packet: u8,
    /// What the message is called, once it has been seen.
    id: Option<[u8; 2]>,
}

impl Set {
    /// Whether this is the packet. Those of an earlier message may still come.
    fn springs(&mut self, way: Way, first: u8, body: &[u8]) -> bool {
        let packet = first & !DUP_AND_RETAIN;
        let id = match packet {
            PUBLISH => &body[2 + usize::from(u16::from_be_bytes([body[0], body[1]]))..],
            _ => body,
        };
        let id = id.first_chunk::<2>().copied();
        if packet == PUBLISH && body.windows(BODY.len()).any(|part| part == BODY) {
            self.id = id;
        }
        (way, packet) == (self.way, self.packet) && id.is_some() && id == self.id
    }
}

impl Trap {
    async fn before(broker: u16) -> Trap {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let set = Arc::new(Mutex::new(None));
        let trap = Arc::clone(&set);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((gateway, _)) = listener.accept().await {
                connections.spawn(carry(gateway, broker, Arc::clone(&trap)));
            }
        });
        Trap { port, set, accepting }
    }

    fn set(&self, way: Way, packet: u8) {
        *self.set.lock().unwrap() = Some(Set { way, packet, id: None });
    }

    fn has_sprung(&self) -> bool {
        self.set.lock().unwrap().is_none()
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.accepting.abort(); // and the connections with it: it owns them
    }
}

/// Carries one connection until one side ends it, or the trap springs.
async fn carry(mut gateway: TcpStream, broker: u16, trap: Arc<Mutex<Option<Set>>>) {
    let Ok(mut broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)).await else { return };
    for stream in [&gateway, &broker] {
        let _ = stream.set_nodelay(true); // a socket that is gone already
    }
    let ((gateway_reads, gateway_writes), (broker_reads, broker_writes)) = (gateway.split(), broker.split());
    tokio::select! {
        () = pump(gateway_reads, broker_writes, ToBroker, &trap) => {}
        () = pump(broker_reads, gateway_writes, ToGateway, &trap) => {}
    }
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, way: Way, trap: &Mutex<Option<Set>>) {
    while let Some((first, body)) = read(&mut from).await {
        if trap.lock().unwrap().take_if(|set| set.springs(way, first, &body)).is_some() {
            return;
        }
        let mut packet = vec![first];
        let mut length = body.len();
        while length > 0x7f {
            packet.push(0x80 | u8::try_from(length & 0x7f).unwrap());
            length >>= 7;
        }
        packet.push(u8::try_from(length).unwrap());
        packet.extend(body);
        if to.write_all(&packet).await.is_err() {
            return;
        }
    }
}

/// Mosquitto gives a message to its readers when it has PUBREL. So what breaks before comes once, and what breaks after twice.
async fn what_is_published_comes_once_or_says_that_it_came_before(version: Version) {
    let server = Mosquitto::start("").await;
    let trap = Trap::before(server.port()).await;
    let gateway = gateway_at(uri(trap.port), by(version));
    let beside = gateway_at(server.uri(), |config| {
        by(version)(config);
        config.broker.mqtt.subscribe_qos = 2;
    });
    let mut listener = Client::connect(&beside, "1.2").await;
    listener.subscribe("id:0\ndestination:/topic/a").await;
    let mut sender = Client::connect(&gateway, "1.2").await;
    for (way, packet, came_before) in
        [(ToBroker, PUBLISH, false), (ToGateway, PUBREC, false), (ToBroker, PUBREL, false), (ToGateway, PUBCOMP, true)]
    {
        let message = |body: &str| format!("SEND\ndestination:/topic/a\nqos:2\n\n{body}");
        sender.does(&message("before")).await.without("routed");
        listener.expect("MESSAGE").await.saying("before").with("qos", "2").without("stompgate-republished");
        trap.set(way, packet);
        sender.does(&message("amid")).await.without("routed");
        assert!(trap.has_sprung(), "{packet:#x}");
        if came_before {
            listener.expect("MESSAGE").await.saying("amid").without("stompgate-republished");
        }
        listener.expect("MESSAGE").await.saying("amid").with("stompgate-republished", "true").without("gap");
        // And no more than that.
        sender.does(&message("after")).await.without("routed");
        listener.expect("MESSAGE").await.saying("after").without("stompgate-republished").without("gap");
    }
}

async fn what_is_read_comes_once_and_the_next_says_that_there_was_a_gap(version: Version) {
    let server = Mosquitto::start("").await;
    let trap = Trap::before(server.port()).await;
    let gateway = gateway_at(uri(trap.port), |config| {
        by(version)(config);
        config.broker.mqtt.subscribe_qos = 2;
    });
    let beside = gateway_at(server.uri(), by(version));
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/a").await;
    let mut sender = Client::connect(&beside, "1.2").await;
    let message = |body: &str| format!("SEND\ndestination:/topic/a\nqos:2\n\n{body}");
    for (way, packet, comes) in
        [(ToGateway, PUBLISH, false), (ToBroker, PUBREC, true), (ToGateway, PUBREL, true), (ToBroker, PUBCOMP, true)]
    {
        sender.does(&message("before")).await;
        reader.expect("MESSAGE").await.saying("before").with("qos", "2").without("gap");
        trap.set(way, packet);
        sender.does(&message("amid")).await;
        if comes {
            reader.expect("MESSAGE").await.saying("amid").without("gap");
        }
        eventually("the cut", || trap.has_sprung()).await;
        until(&gateway, LinkState::Up).await;
        let mut came = send_until_read(&mut sender, &mut reader, &message("after")).await;
        came.remove(0).saying("after").with("gap", "true");
        for message in came {
            message.saying("after").without("gap");
        }
    }
}
