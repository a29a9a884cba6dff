//! The end of the gateway: what is in flight is finished, and clients are told to go elsewhere.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::support::raw::{CLOSE, TEXT, masked, request};
use crate::support::{Client, Gateway, Raw, connect_frame, gateway, gateway_with, wire};

#[tokio::test]
async fn clients_are_closed_with_1001_and_the_port_is_free() {
    let gateway = gateway();
    let address = gateway.address();
    let mut waiting = Client::open(&gateway).await;
    let mut connected = Client::connect(&gateway, "1.2").await;
    let mut subscribed = Client::connect(&gateway, "1.2").await;
    subscribed.subscribe("id:0\ndestination:/topic/a").await;
    subscribed.subscribe("id:1\ndestination:/queue/a\nack:client").await;
    let shut_down = tokio::spawn(gateway.shut_down());
    for client in [&mut waiting, &mut connected, &mut subscribed] {
        client.expect_close(1001).await;
    }
    crate::support::soon("the end", shut_down).await.expect("no panic");
    assert!(TcpStream::connect(address).await.is_err(), "the port is still open");
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

/// The program itself, listening on a free port.
struct Program {
    child: Child,
    address: String,
}

impl Program {
    fn start(settings: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stompgate"));
        command
            .args(["--listen", "127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = command.spawn().expect("a program that starts");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let said = lines.map_while(Result::ok).find_map(|line| {
            let url = line.split_once("ws://")?.1;
            Some(url.split_once('/')?.0.to_owned())
        });
        Program { child, address: said.expect("where it listens") }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    async fn ends(mut self) -> ExitStatus {
        let waiting = tokio::task::spawn_blocking(move || self.child.wait().expect("an exit code"));
        crate::support::soon("the program to end", waiting).await.expect("no panic")
    }

    async fn connected(&self) -> Raw {
        let mut raw = Raw::tcp_to(&self.address).await;
        raw.write(request("GET /ws HTTP/1.1", &[])).await;
        assert_eq!(raw.answer().await.status, 101);
        raw.write(masked(TEXT, &wire(connect_frame("1.2", "")))).await;
        raw.expect("CONNECTED").await;
        raw
    }
}

#[tokio::test]
async fn a_first_signal_ends_the_program_with_success() {
    for signal in ["TERM", "INT"] {
        let program = Program::start(&[]);
        let mut client = program.connected().await;
        program.signal(signal);
        client.expect_close(1001).await;
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
        assert_eq!((opcode, &payload[..2]), (CLOSE, &1001_u16.to_be_bytes()[..]));
        program.signal(second); // the client does not answer the close
        assert!(!program.ends().await.success(), "{first}, {second}");
    }
}
