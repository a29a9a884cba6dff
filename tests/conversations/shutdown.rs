//! The end of the gateway: what is in flight is finished, and clients are told to go elsewhere.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, UnixDatagram};

use crate::support::program::Program;
use crate::support::raw::{CLOSE, request};
use crate::support::{Client, Gateway, Raw, gateway_with};

#[tokio::test]
async fn clients_are_closed_with_1012_and_the_port_is_free() {
    let gateway = gateway_on_an_address_of_its_own(64);
    let address = gateway.address();
    let mut waiting = Client::open(&gateway).await;
    let mut connected = Client::connect(&gateway, "1.2").await;
    let mut subscribed = Client::connect(&gateway, "1.2").await;
    subscribed.subscribe("id:0\ndestination:/topic/a").await;
    subscribed.subscribe("id:1\ndestination:/queue/a\nack:client").await;
    let shut_down = tokio::spawn(gateway.shut_down());
    for client in [&mut waiting, &mut connected, &mut subscribed] {
        client.expect_close(1012).await;
    }
    crate::support::soon("the end", shut_down).await.expect("no panic");
    expect_free(address).await;
}

#[tokio::test]
async fn the_port_is_free_when_nobody_was_there_to_be_closed() {
    let gateway = gateway_on_an_address_of_its_own(128);
    let address = gateway.address();
    crate::support::soon("the end", gateway.shut_down()).await;
    expect_free(address).await;
}

#[tokio::test]
async fn a_gateway_that_is_dropped_listens_no_more() {
    for workers in [0, 2] {
        let gateway = gateway_with(|config| {
            config.server.listen = address_of_its_own(192);
            config.server.workers = Some(workers);
        });
        let address = gateway.address();
        drop(gateway);
        let closed = async { while TcpStream::connect(address).await.is_ok() {} };
        crate::support::soon("the end of the port", closed).await;
    }
}

fn gateway_on_an_address_of_its_own(network: u8) -> Gateway {
    gateway_with(|config| config.server.listen = address_of_its_own(network))
}

/// A loopback address that no other server of this machine listens on. A port of 127.0.0.1 that is given back may be
/// another test's in the next moment, and who asks whether it is free would speak to that one. `network` is 64, 128 or 192:
/// the process id, which has 22 bits at most, is the rest.
fn address_of_its_own(network: u8) -> SocketAddr {
    let own = Ipv4Addr::new(127, network, 0, 0).to_bits() | (std::process::id() & 0x3f_ffff);
    SocketAddr::from((Ipv4Addr::from_bits(own), 0))
}

async fn expect_free(address: SocketAddr) {
    let refused = TcpStream::connect(address).await.expect_err("the port is still open");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

/// Shuts the gateway down while a client publishes to a topic that another one reads: how many receipts there were, and
/// how many messages.
pub(crate) async fn shut_down_in_full_flight(gateway: Gateway) -> (usize, usize) {
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/a").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    let frames = (0..100)
        .map(|number| format!("SEND\ndestination:/topic/a\nreceipt:{number}\n\nx\0"))
        .collect::<Vec<_>>()
        .concat();
    writer.send_message(frames.into_bytes()).await;
    writer.expect("RECEIPT").await; // it has begun
    let shut_down = tokio::spawn(gateway.shut_down());
    let receipts = 1 + count_to_close(&mut writer, "RECEIPT").await;
    let messages = count_to_close(&mut reader, "MESSAGE").await;
    crate::support::soon("the end", shut_down).await.expect("no panic");
    (receipts, messages)
}

async fn count_to_close(client: &mut Client, command: &str) -> usize {
    let mut count = 0;
    loop {
        match client.next_message(command).await {
            Some(message) if message.is_close() => {
                client.expect_end().await;
                return count;
            }
            Some(message) => {
                assert!(message.into_data().starts_with(command.as_bytes()));
                count += 1;
            }
            None => panic!("a close, not the end of the connection"),
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_close_is_left_after_a_while() {
    let gateway = gateway_with(|config| config.server.shutdown_timeout = Duration::from_millis(200));
    let mut raw = Raw::connected(&gateway, "1.2").await;
    crate::support::soon("the end", gateway.shut_down()).await;
    assert_eq!(raw.next().await.map(|(first, _)| first), Some(CLOSE));
}

#[tokio::test]
async fn a_gateway_that_drains_serves_on_but_is_not_ready() {
    let gateway = gateway_with(|config| config.server.drain_grace = Duration::from_hours(1));
    let (address, admin) = (gateway.address(), gateway.admin_address().expect("a port for operators"));
    let mut known = Client::connect(&gateway, "1.2").await;
    known.does("SEND\ndestination:/topic/a\n\nx").await;
    let shut_down = tokio::spawn(gateway.shut_down());
    let not_ready = crate::support::soon("not to be ready", async {
        loop {
            let mut raw = Raw::tcp_to(admin).await;
            raw.write("GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
            let answer = raw.answer().await;
            if answer.status == 503 {
                break answer;
            }
        }
    });
    let not_ready = not_ready.await;
    assert!(not_ready.body.contains("\"draining\":true"), "{not_ready:?}");
    known.does("SEND\ndestination:/topic/a\n\nx").await;
    let mut new = Raw::tcp_to(address).await;
    new.write(request("GET /ws HTTP/1.1", &[])).await;
    assert_eq!(new.answer().await.status, 101);
    shut_down.abort();
}

#[tokio::test]
async fn clients_are_closed_in_waves_and_nobody_waits_for_those_that_left() {
    let gateway = gateway_with(|config| config.server.drain_window = Duration::from_hours(1));
    let mut one = Client::connect(&gateway, "1.2").await;
    let mut other = Client::connect(&gateway, "1.2").await;
    let shut_down = tokio::spawn(gateway.shut_down());
    let mut left = tokio::select! {
        _ = one.expect_close(1012) => other,
        _ = other.expect_close(1012) => one,
    };
    left.does("SEND\ndestination:/topic/a\n\nx").await;
    left.disconnect().await;
    crate::support::soon("the end", shut_down).await.expect("no panic");
}

#[tokio::test]
async fn a_first_signal_ends_the_program_with_success() {
    for signal in ["TERM", "INT"] {
        let program = Program::start(&[]);
        let mut client = program.connected().await;
        program.signal(signal);
        client.expect_close(1012).await;
        assert!(program.ends().await.success(), "{signal}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_program_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM"), ("INT", "INT")] {
        let program = Program::start(&["server.shutdown_timeout=1h", "server.close_timeout=1h"]);
        let mut client = program.connected().await;
        program.signal(first);
        let (opcode, payload) = client.next().await.expect("a close");
        assert_eq!((opcode, &payload[..2]), (CLOSE, &1012_u16.to_be_bytes()[..]));
        program.signal(second); // the client does not answer the close
        assert!(!program.ends().await.success(), "{first}, {second}");
    }
}

#[tokio::test]
async fn systemd_is_told() {
    let file = std::env::temp_dir().join(format!("stompgate-notify-{}", std::process::id()));
    let systemd = UnixDatagram::bind(&file).expect("a socket");
    let told = async |what: &str| {
        let mut buffer = [0; 1024];
        loop {
            let length = crate::support::soon(what, systemd.recv(&mut buffer)).await.expect("a datagram");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.lines().any(|line| line == what) {
                break text;
            }
        }
    };
    let environment = [("NOTIFY_SOCKET", file.to_str().expect("a path")), ("WATCHDOG_USEC", "20000")];
    let program = Program::start_with(&["server.drain_window=2s"], &environment);
    assert!(told("READY=1").await.contains("STATUS=ws://"));
    told("WATCHDOG=1").await;
    told("WATCHDOG=1").await;
    program.signal("TERM");
    assert!(told("STOPPING=1").await.contains("EXTEND_TIMEOUT_USEC=12000000"));
    assert!(program.ends().await.success());
    std::fs::remove_file(file).expect("a file");
}
