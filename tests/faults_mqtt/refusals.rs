//! The broker is there and says no, or cannot do what somebody asks for.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use stompgate::broker::LinkState;
use stompgate::broker::mqtt::Version;
use stompgate::config::Config;
use stompgate::gateway::Gateway;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::mosquitto::Mosquitto;
use crate::rabbitmq::{RabbitMq, Setup, free_ports};
use crate::scripted::{Asked, Script, Scripted, Then, read};
use crate::support::{Client, Received, until as eventually};
use crate::{by, connect_all, gateway_at, send_until_read, until, uri};

by_both_versions! {
    a_login_that_is_refused_is_waited_for_at_the_start_and_later,
    holding_outlives_a_refusal,
    a_queue_that_may_not_be_held_is_asked_for_again_and_again,
    a_connection_that_is_not_accepted_says_why,
    a_subscription_that_is_refused_says_so_and_breaks_nothing,
    a_subscription_that_is_not_granted_again_ends_with_an_error,
}

async fn before(script: Script) -> (Gateway, Scripted) {
    let broker = Scripted::start(script).await;
    let gateway = gateway_at(uri(broker.port), |_| {});
    until(&gateway, LinkState::Up).await;
    (gateway, broker)
}

/// A gateway before a broker that says this of itself.
async fn before_one_that_says(connack: &[u8]) -> (Gateway, Scripted) {
    before(Script { connack: connack.to_vec(), ..Script::default() }).await
}

/// Does this as a client of its own, which gets an ERROR for it.
async fn refused(gateway: &Gateway, frame: &str, code: &str) -> Received {
    let mut client = Client::connect(gateway, "1.2").await;
    let receipt = client.asks(frame).await;
    client.expect("ERROR").await.with("receipt-id", &receipt).with("code", code)
}

/// Does this as a client of its own, which gets its RECEIPT.
async fn done(gateway: &Gateway, frame: &str) {
    Client::connect(gateway, "1.2").await.does(frame).await;
}

#[tokio::test]
async fn without_shared_subscriptions_there_are_no_queues() {
    let (gateway, _broker) = before_one_that_says(&[0x2a, 0]).await;
    let error = refused(&gateway, "SUBSCRIBE\nid:0\ndestination:/queue/a", "unsupported").await;
    error.about("shared subscriptions");
    done(&gateway, "SUBSCRIBE\nid:0\ndestination:/topic/a").await;
}

#[tokio::test]
async fn a_quality_of_service_that_the_broker_does_not_have_is_refused_where_it_was_asked_for() {
    let (gateway, _broker) = before_one_that_says(&[0x24, 1]).await;
    refused(&gateway, "SEND\ndestination:/topic/a\nqos:2\n\nx", "unsupported").await.about("qos:1");
    done(&gateway, "SEND\ndestination:/topic/a\nqos:1\n\nx").await;
    let (gateway, _broker) = before_one_that_says(&[0x24, 0]).await;
    refused(&gateway, "SEND\ndestination:/topic/a\nqos:1\n\nx", "unsupported").await.about("qos:0");
    // Nobody named a quality: the best that there is will do.
    done(&gateway, "SEND\ndestination:/topic/a\npersistent:true\n\nx").await;
}

#[tokio::test]
async fn without_wildcards_names_can_be_read() {
    let (gateway, _broker) = before_one_that_says(&[0x28, 0]).await;
    refused(&gateway, "SUBSCRIBE\nid:0\ndestination:/topic/a/*", "unsupported").await.about("wildcards");
    let frame = "SUBSCRIBE\nid:0\ndestination:/topic/a/*\nack:client";
    refused(&gateway, frame, "unsupported").await.about("wildcards");
    done(&gateway, "SUBSCRIBE\nid:0\ndestination:/topic/a/b").await;
}

#[tokio::test]
async fn without_retained_messages_none_is_taken() {
    let (gateway, _broker) = before_one_that_says(&[0x25, 0]).await;
    refused(&gateway, "SEND\ndestination:/topic/a\nretain:true\n\nx", "unsupported").await.about("last values");
    done(&gateway, "SUBSCRIBE\nid:0\ndestination:/topic/a").await;
}

#[tokio::test]
async fn a_message_that_is_too_large_for_the_broker_is_refused_and_no_other() {
    let (gateway, _broker) = before_one_that_says(&[0x27, 0, 0, 4, 0]).await;
    let large = format!("SEND\ndestination:/topic/a\n\n{}", "x".repeat(2_000));
    refused(&gateway, &large, "rejected").await.about("at most 1024");
    done(&gateway, "SEND\ndestination:/topic/a\n\nx").await;
}

#[tokio::test]
async fn no_more_is_on_its_way_than_the_broker_takes() {
    let script = Script { connack: vec![0x21, 0, 2], late: Duration::from_millis(20), ..Script::default() };
    let (gateway, broker) = before(script).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    for _ in 0..10 {
        client.asks("SEND\ndestination:/topic/a\n\nx").await;
    }
    for _ in 0..10 {
        client.expect("RECEIPT").await;
    }
    assert_eq!(broker.most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_quota_that_is_exceeded_is_an_error_for_the_sender_alone() {
    let (gateway, _broker) = before(Script { puback: 0x97, ..Script::default() }).await;
    let [mut innocent] = connect_all(&gateway).await;
    refused(&gateway, "SEND\ndestination:/topic/a\n\nx", "rejected").await.about("QuotaExceeded");
    innocent.does("SEND\ndestination:/topic/a\nqos:0\n\nx").await;
    // A COMMIT asks for an answer, whatever its messages ask for.
    innocent.does("BEGIN\ntransaction:t").await;
    innocent.does("SEND\ndestination:/topic/a\nqos:0\ntransaction:t\n\nx").await;
    innocent.asks("COMMIT\ntransaction:t").await;
    innocent.expect("ERROR").await.with("code", "rejected").about("QuotaExceeded");
}

#[tokio::test]
async fn a_connection_that_is_taken_over_comes_back_under_another_name() {
    let (gateway, broker) = before(Script::default()).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("SEND\ndestination:/topic/a\n\nx").await;
    broker.take_over();
    until(&gateway, LinkState::Recovering).await;
    until(&gateway, LinkState::Up).await;
    client.does("SEND\ndestination:/topic/a\n\nx").await;
}

/// By MQTT 5 the broker says so itself (reason 0x8E), whether gateways hear each other or not.
#[tokio::test]
async fn a_durable_subscription_that_is_taken_over_ends_with_one_error_and_no_fight() {
    let (gateway, broker) = before(Script::default()).await;
    let mut reader = Client::connect_with(&gateway, "1.2", "client-id:laptop").await;
    reader.subscribe("id:0\ndestination:/topic/a\ndurable-subscription-name:news").await;
    let logins = || broker.logins().iter().filter(|name| name.contains("-durable-")).count();
    assert_eq!(logins(), 1);
    broker.take_over();
    reader.expect("ERROR").await.with("code", "subscription-in-use").about("news");
    // All others are back, more than once, and this one is not.
    for _ in 0..2 {
        until(&gateway, LinkState::Up).await;
        done(&gateway, "SEND\ndestination:/topic/a\n\nx").await;
        broker.take_over();
        until(&gateway, LinkState::Recovering).await;
    }
    assert_eq!(logins(), 1);
}

/// The status of `GET /readyz`.
async fn readiness(gateway: &Gateway) -> String {
    let mut stream = TcpStream::connect(gateway.admin_address().unwrap()).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

/// The broker's file of passwords, with one user in it.
struct Users(PathBuf);

impl Users {
    fn new(passcode: &str) -> Users {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mosquitto-users-{}-{number}", std::process::id());
        let users = Users(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        users.write(passcode);
        users
    }

    fn write(&self, passcode: &str) {
        std::fs::write(&self.0, format!("gateway:{passcode}\n")).unwrap();
        let hashed = Command::new("mosquitto_passwd").arg("-U").arg(&self.0).status();
        assert!(hashed.unwrap().success());
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What the gateways of this program log.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn a_login_that_is_refused_is_waited_for_at_the_start_and_later(version: Version) {
    let users = Users::new("another");
    let mut server = Mosquitto::start(&format!("allow_anonymous false\npassword_file {}", users.0.display())).await;
    let address = server.uri().replace("mqtt://", "mqtt://gateway:secret@");
    let gateway = gateway_at(address, |config| {
        by(version)(config);
        config.admin.enabled = true;
    });
    let [mut reader] = connect_all(&gateway).await;
    let mut subscribed = Some(reader.asks("SUBSCRIBE\nid:0\ndestination:/topic/a").await);
    assert_eq!(*gateway.broker_state().borrow(), LinkState::Recovering);
    assert_eq!(readiness(&gateway).await, "503");
    for (passcode, state, ready) in
        [("secret", LinkState::Up, "200"), ("changed", LinkState::Recovering, "503"), ("secret", LinkState::Up, "200")]
    {
        server.kill();
        until(&gateway, LinkState::Recovering).await;
        users.write(passcode);
        server.run().await;
        if state == LinkState::Recovering {
            eventually("a refusal", || server.log().contains("not authorised")).await;
        }
        until(&gateway, state).await;
        assert_eq!(readiness(&gateway).await, ready);
        if let Some(subscribed) = subscribed.take() {
            reader.expect("RECEIPT").await.with("receipt-id", &subscribed); // what it loses from now on is a gap
        }
    }
    let mut sender = Client::connect(&gateway, "1.2").await;
    let mut came = send_until_read(&mut sender, &mut reader, "SEND\ndestination:/topic/a\n\nnews").await;
    came.remove(0).saying("news").with("gap", "true");
}

/// The login is refused for a while, at the start and later; then the queue is held: it keeps what is sent while nobody reads.
async fn holding_outlives_a_refusal(version: Version) {
    let users = Users::new("another");
    let settings = format!("allow_anonymous false\npassword_file {}\nlog_type all", users.0.display());
    let mut server = Mosquitto::start(&settings).await;
    let address = server.uri().replace("mqtt://", "mqtt://gateway:secret@");
    let gateway = gateway_at(address, |config| {
        by(version)(config);
        config.broker.mqtt.hold_queues = vec!["orders".to_owned()];
        config.broker.mqtt.linger = Duration::ZERO;
    });
    for _ in 0..2 {
        eventually("refusals", || server.log().matches("not authorised").count() >= 6).await;
        server.kill();
        users.write("secret");
        server.run().await;
        until(&gateway, LinkState::Up).await;
        let is_granted = |line: &str| line.contains("-hold-") && line.contains("Sending SUBACK to ");
        eventually("somebody who holds it", || server.log().lines().any(is_granted)).await;
        // One attempt: a reader that has been there before would have a place of its own.
        let [mut sender, mut reader] = connect_all(&gateway).await;
        sender.does("SEND\ndestination:/queue/orders\n\nkept").await;
        reader.send("SUBSCRIBE\nid:0\ndestination:/queue/orders").await;
        reader.expect("MESSAGE").await.saying("kept");
        reader.disconnect().await;
        server.kill();
        until(&gateway, LinkState::Recovering).await;
        users.write("changed");
        server.run().await;
    }
}

/// That the broker does not want it may change.
async fn a_queue_that_may_not_be_held_is_asked_for_again_and_again(version: Version) {
    let broker = Scripted::start(Script { subscribes: vec![Then::Refused; 100], ..Script::default() }).await;
    let _gateway = gateway_at(uri(broker.port), |config| {
        by(version)(config);
        config.broker.mqtt.hold_queues = vec!["orders".to_owned()];
    });
    let is_it = |asked: &&Asked| asked.filter == "$share/stompgate/queue/orders";
    eventually("three attempts", || broker.asked().iter().filter(is_it).count() >= 3).await;
}

/// Each by its name, and with what to do about it.
async fn a_connection_that_is_not_accepted_says_why(version: Version) {
    const LOGIN: &str = "look at the login in broker.mqtt.uri";
    const CLIENT_ID: &str = "look at broker.mqtt.client_id";
    let said = match version {
        Version::V311 => vec![
            (1, "RefusedProtocolVersion", "try broker.mqtt.version = \"5\""),
            (2, "BadClientId", CLIENT_ID),
            (3, "ServiceUnavailable", ""),
            (4, "BadUserNamePassword", LOGIN),
            (5, "NotAuthorized", LOGIN),
        ],
        Version::V5 => vec![
            (0x84, "UnsupportedProtocolVersion", "try broker.mqtt.version = \"3.1.1\""),
            (0x85, "ClientIdentifierNotValid", CLIENT_ID),
            (0x86, "BadUserNamePassword", LOGIN),
            (0x87, "NotAuthorized", LOGIN),
            (0x88, "ServerUnavailable", ""),
            (0x89, "ServerBusy", ""),
            (0x97, "QuotaExceeded", ""),
        ],
    };
    for (refusal, name, hint) in said {
        let broker = Scripted::start(Script { refusal, ..Script::default() }).await;
        let gateway = gateway_at(uri(broker.port), by(version));
        for destination in ["/topic/a\nack:client", "/queue/a"] {
            let frame = format!("SUBSCRIBE\nid:0\ndestination:{destination}");
            refused(&gateway, &frame, "rejected").await.about(name).about(hint);
        }
        assert_eq!(*gateway.broker_state().borrow(), LinkState::Recovering);
    }
}

async fn a_subscription_that_is_refused_says_so_and_breaks_nothing(version: Version) {
    for (frame, hint) in [
        ("SUBSCRIBE\nid:0\ndestination:/topic/a", ""),
        ("SUBSCRIBE\nid:0\ndestination:/topic/a/#\nack:client", ""),
        ("SUBSCRIBE\nid:0\ndestination:/queue/a", "broker.mqtt.shared_subscriptions"),
    ] {
        let broker = Scripted::start(Script { subscribes: vec![Then::Refused], ..Script::default() }).await;
        let gateway = gateway_at(uri(broker.port), by(version));
        until(&gateway, LinkState::Up).await;
        let error = refused(&gateway, frame, "rejected").await.about("The broker did not take it");
        match version {
            Version::V5 => error.about("ImplementationSpecific"),
            Version::V311 => error.about("MQTT 3.1.1 does not say why").about(hint),
        };
        // The next one is granted, by the connection that was there.
        done(&gateway, frame).await;
        assert_eq!(*gateway.broker_state().borrow(), LinkState::Up);
    }
}

/// The connection breaks, and comes back without the subscription.
async fn a_subscription_that_is_not_granted_again_ends_with_an_error(version: Version) {
    let subscribes = vec![Then::Granted, Then::Refused];
    let broker = Scripted::start(Script { subscribes, ..Script::default() }).await;
    let gateway = gateway_at(uri(broker.port), by(version));
    until(&gateway, LinkState::Up).await;
    let [mut reader] = connect_all(&gateway).await;
    reader.subscribe("id:0\ndestination:/topic/a\nack:client").await;
    broker.take_over();
    reader.expect("ERROR").await.with("code", "rejected").about("the topic a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restricted_mosquitto_is_taken_at_its_word() {
    let server = Mosquitto::start("max_qos 1\nretain_available false\nmax_packet_size 2000").await;
    let gateway = gateway_at(server.uri(), |_| {});
    until(&gateway, LinkState::Up).await;
    refused(&gateway, "SEND\ndestination:/topic/a\nqos:2\n\nx", "unsupported").await.about("qos:1");
    refused(&gateway, "SEND\ndestination:/topic/a\nretain:true\n\nx", "unsupported").await.about("last values");
    let large = format!("SEND\ndestination:/topic/a\n\n{}", "x".repeat(3_000));
    refused(&gateway, &large, "rejected").await.about("at most 2000");
    done(&gateway, "SEND\ndestination:/topic/a\n\nx").await;
}

/// RabbitMQ 3.10's plugin closes the connection of MQTT 5 without a word, and has topics under 3.1.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmqs_plugin_has_topics_under_3_1_1_and_no_queues() {
    let (_node, port) = plugin().await;
    let at = |version: Version| {
        let change = move |config: &mut Config| config.broker.mqtt.version = version;
        gateway_at(guest(port), change)
    };
    let gateway = at(Version::V311);
    until(&gateway, LinkState::Up).await;
    let [mut reader, mut sender] = connect_all(&gateway).await;
    reader.subscribe("id:0\ndestination:/topic/a/#").await;
    sender.does("SEND\ndestination:/topic/a/b\n\nx").await;
    reader.expect("MESSAGE").await.saying("x").with("destination", "/topic/a/b");
    let error = refused(&gateway, "SUBSCRIBE\nid:0\ndestination:/queue/a", "unsupported").await;
    error.about("broker.mqtt.shared_subscriptions");
    // With 5 it does not come up, and the log says why.
    let _ = tracing_subscriber::fmt().with_ansi(false).with_writer(|| Log).try_init();
    let fifth = at(Version::V5);
    let logged = || String::from_utf8_lossy(&LOG.lock().unwrap()).contains("try broker.mqtt.version = \"3.1.1\"");
    eventually("a word in the log", logged).await;
    assert_eq!(*fifth.broker_state().borrow(), LinkState::Recovering);
}

/// Why `broker.mqtt.shared_subscriptions` is not for it: it takes the filter for a topic of that name, and what is sent to
/// the queue never comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmqs_plugin_grants_shared_subscriptions_and_delivers_nothing() {
    let (_node, port) = plugin().await;
    let gateway = gateway_at(guest(port), by(Version::V311));
    until(&gateway, LinkState::Up).await;
    let [mut reader] = connect_all(&gateway).await;
    reader.subscribe("id:0\ndestination:/queue/a").await;
    // One connection, and one place that both would go to: what is sent first would come first.
    let mut program = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let login = b"\x10\x1b\0\x04MQTT\x04\xc2\0\0\0\x01p\0\x05guest\0\x05guest";
    program.write_all(login).await.unwrap();
    assert_eq!(read(&mut program).await, Some((0x20, vec![0, 0])));
    for (number, topic) in (1..).zip(["queue/a", "$share/stompgate/queue/a"]) {
        let body =
            [&[0, u8::try_from(topic.len()).unwrap()], topic.as_bytes(), &[0, number], topic.as_bytes()].concat();
        program.write_all(&[&[0x32, u8::try_from(body.len()).unwrap()], &body[..]].concat()).await.unwrap();
        assert_eq!(read(&mut program).await, Some((0x40, vec![0, number])));
    }
    reader.expect("MESSAGE").await.saying("$share/stompgate/queue/a").with("destination", "/queue/a");
}

/// RabbitMQ with its plugin, and the port of that.
async fn plugin() -> (RabbitMq, u16) {
    let [port] = free_ports();
    let configuration = format!("mqtt.listeners.tcp.1 = 127.0.0.1:{port}\n");
    let setup = Setup { plugins: "rabbitmq_mqtt", configuration, ..Setup::default() };
    (RabbitMq::start_with(&setup).await, port)
}

fn guest(port: u16) -> String {
    format!("mqtt://guest:guest@127.0.0.1:{port}")
}
