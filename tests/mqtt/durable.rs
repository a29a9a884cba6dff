//! Durable subscriptions as sessions that the broker keeps.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stompgate::broker::{Broker, BrokerError, Event, LinkState, Source, mqtt};
use stompgate::message::{Destination, DurableName, Outcome, Settlement, Usage};

use crate::harness::{Client, Reader, in_time, text};
use crate::mosquitto::Mosquitto;
use crate::proxy::{Cut, Proxy};

/// Each change is on the disk before the next.
const SAVING: &str = "autosave_on_changes true";

async fn connect(server: &Mosquitto, version: mqtt::Version) -> Arc<dyn Broker> {
    connect_to(server.uri(), version).await
}

async fn connect_to(uri: String, version: mqtt::Version) -> Arc<dyn Broker> {
    connect_with(mqtt::Settings { uri: mqtt::Uri(uri), version, ..mqtt::Settings::default() }).await
}

async fn connect_with(settings: mqtt::Settings) -> Arc<dyn Broker> {
    let settings = mqtt::Settings { qos: 1, reconnect_max: Duration::from_millis(200), ..settings };
    let broker = mqtt::connect(&settings).unwrap();
    in_time(broker.state().wait_for(|state| *state == LinkState::Up)).await.unwrap();
    broker
}

async fn open(client: &Client) -> Result<Reader, BrokerError> {
    let name = DurableName { user: "ada".into(), client: "laptop".into(), name: "news".into() };
    let pattern = Destination::parse("/topic/news", Usage::Subscribe, stompgate::message::Separators::Both).unwrap();
    let Destination::Topic(pattern) = pattern else { panic!("a topic") };
    client.open(Source::Durable(name, pattern), 10).await
}

async fn send(client: &Client, body: &str) {
    let mut message = client.message("/topic/x", body);
    message.destination = Destination::parse("/topic/news", Usage::Send, stompgate::message::Separators::Both).unwrap();
    assert_eq!(client.publish(message).await, Ok(Outcome::DONE));
}

async fn the_last_to_come_reads_it(settings: mqtt::Settings) {
    let (here, there) = (connect_with(settings.clone()).await, connect_with(settings).await);
    let (one, other) = (Client::of(&here).await, Client::of(&there).await);
    let mut first = open(&one).await.unwrap();
    send(&one, "1").await;
    first.expect("1").await;
    let mut second = open(&other).await.unwrap();
    // Told once, and nothing after it.
    let told = first.event().await;
    assert!(matches!(&told, Event::Ended(BrokerError::InUse(name)) if name == "news"), "{told:?}");
    first.expect_nothing();
    assert!(second.take("1").await.redelivered);
    // The first does not come back: whoever fights for a session takes it over from the other again and again.
    for number in 0..20 {
        send(&one, &number.to_string()).await;
        second.take(&number.to_string()).await;
    }
    second.expect_nothing();
    // But it may ask for it again.
    drop(first);
    let mut again = open(&one).await.unwrap();
    let told = second.event().await;
    assert!(matches!(&told, Event::Ended(BrokerError::InUse(_))), "{told:?}");
    send(&one, "end").await;
    again.take("end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_to_come_reads_it_and_the_other_is_told_once() {
    let server = Mosquitto::start("").await;
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let uri = mqtt::Uri(server.uri());
        the_last_to_come_reads_it(mqtt::Settings { uri, version, ..mqtt::Settings::default() }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_to_come_reads_it_by_websocket_and_by_tls_too() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mqtt-durable-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| folder.join(name));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = format!("certfile {}\nkeyfile {}", certificate.display(), key.display());
    let [ws, wss, mqtts] = free_ports();
    let listener = |port| format!("listener {port} 127.0.0.1\n");
    let by_websocket = |port| format!("{}protocol websockets\n", listener(port));
    let lines = format!("{}{}{tls}\n{}{tls}", by_websocket(ws), by_websocket(wss), listener(mqtts));
    let _server = Mosquitto::start(&lines).await;
    for (address, ca) in [
        (format!("ws://127.0.0.1:{ws}"), None),
        (format!("wss://localhost:{wss}"), Some(&certificate)),
        (format!("mqtts://localhost:{mqtts}"), Some(&certificate)),
    ] {
        for version in [mqtt::Version::V5, mqtt::Version::V311] {
            let (uri, ca) = (mqtt::Uri(address.clone()), ca.cloned());
            the_last_to_come_reads_it(mqtt::Settings { uri, version, ca, ..mqtt::Settings::default() }).await;
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Without a word between gateways, a connection that is closed alone says it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_to_come_reads_it_where_gateways_cannot_hear_each_other() {
    let rules = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mqtt-rules-{}", std::process::id()));
    std::fs::write(&rules, "topic readwrite #\ntopic deny stompgate/session/#\n").unwrap();
    let server = Mosquitto::start(&format!("acl_file {}", rules.display())).await;
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let uri = mqtt::Uri(server.uri());
        the_last_to_come_reads_it(mqtt::Settings { uri, version, ..mqtt::Settings::default() }).await;
    }
    std::fs::remove_file(&rules).unwrap();
}

/// Ports that nobody listens on.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// All connections break at once: nobody has taken anything over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_heals_and_is_no_takeover() {
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let server = Mosquitto::start("").await;
        let proxy = Proxy::before(server.port());
        let broker = connect_to(format!("mqtt://127.0.0.1:{}", proxy.port()), version).await;
        let direct = connect(&server, version).await;
        let (client, sender) = (Client::of(&broker).await, Client::of(&direct).await);
        let mut reader = open(&client).await.unwrap();
        for (number, how) in [Cut::Reset, Cut::Fin, Cut::Reset].into_iter().enumerate() {
            let accepted = proxy.accepted();
            proxy.cut(how);
            // Those that publish, and read, and the reader's own.
            in_time(async {
                while proxy.accepted() < accepted + 3 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
            send(&sender, &number.to_string()).await;
            // Whatever the reader is told, it is no end.
            let delivery = reader.next_after_break().await;
            assert_eq!((text(&delivery.message), delivery.gap), (number.to_string(), false));
            reader.settle(&delivery, Settlement::Accept).await;
            in_time(broker.state().wait_for(|state| *state == LinkState::Up)).await.unwrap();
        }
    }
}

/// As a firewall does that forgets one connection. The broker says as little then as when somebody else has logged in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_of_its_own_connection_alone_heals_and_is_no_takeover() {
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let server = Mosquitto::start("").await;
        let proxy = Proxy::before(server.port());
        let broker = connect_to(format!("mqtt://127.0.0.1:{}", proxy.port()), version).await;
        let client = Client::of(&broker).await;
        let shared = proxy.accepted();
        let mut reader = open(&client).await.unwrap();
        for (number, how) in [Cut::Fin, Cut::Reset, Cut::Fin, Cut::Reset].into_iter().enumerate() {
            let accepted = proxy.accepted();
            proxy.cut_after(shared, how);
            send(&client, &number.to_string()).await;
            let delivery = reader.next_after_break().await;
            assert_eq!((text(&delivery.message), delivery.gap), (number.to_string(), false));
            reader.settle(&delivery, Settlement::Accept).await;
            in_time(async {
                while proxy.accepted() == accepted {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
            assert_eq!(*broker.state().borrow(), LinkState::Up);
        }
        // Somebody else is noticed as before.
        let direct = connect(&server, version).await;
        let mut other = open(&Client::of(&direct).await).await.unwrap();
        loop {
            match reader.event().await {
                Event::Restored => {}
                Event::Ended(BrokerError::InUse(_)) => break,
                told => panic!("{told:?}"),
            }
        }
        send(&client, "end").await;
        while text(&other.next_after_break().await.message) != "end" {}
    }
}

/// By 3.1.1 the broker does not know what is too large for us, and sends it on each connection again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_be_read_is_named_and_is_no_takeover() {
    let server = Mosquitto::start("").await;
    let settings = mqtt::Settings {
        uri: mqtt::Uri(server.uri()),
        version: mqtt::Version::V311,
        max_packet: 1_000,
        ..mqtt::Settings::default()
    };
    let broker = connect_with(settings).await;
    let direct = connect(&server, mqtt::Version::V311).await;
    let (client, sender) = (Client::of(&broker).await, Client::of(&direct).await);
    let mut reader = open(&client).await.unwrap();
    send(&sender, &"x".repeat(2_000)).await;
    let told = loop {
        match reader.event().await {
            Event::Restored => {}
            other => break other,
        }
    };
    let poison = BrokerError::Poison("the durable subscription news".to_owned());
    assert!(matches!(&told, Event::Ended(why) if *why == poison), "{told:?}");
    drop(reader);
    assert_eq!(open(&client).await.err(), Some(poison));
    // Whoever can read it, does.
    let mut reader = open(&sender).await.unwrap();
    assert_eq!(reader.next_after_break().await.message.body.len(), 2_000);
}

/// As `kill -9` does to a gateway: its sockets are closed, and nothing more is said on them.
async fn a_killed_gateway_leaves_it_behind(version: mqtt::Version) {
    let server = Arc::new(Mosquitto::start("").await);
    let doomed = Arc::clone(&server);
    let killed = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let broker = connect(&doomed, version).await;
            let client = Client::of(&broker).await;
            let mut reader = open(&client).await.unwrap();
            for body in ["1", "2", "3"] {
                send(&client, body).await;
            }
            reader.take("1").await;
            reader.expect("2").await;
            // So that its acknowledgement is there, too.
            send(&client, "4").await;
            std::mem::forget((reader, broker));
        });
        runtime.shutdown_background();
    });
    tokio::task::spawn_blocking(|| killed.join().unwrap()).await.unwrap();
    let broker = connect(&server, version).await;
    let client = Client::of(&broker).await;
    send(&client, "5").await;
    let mut reader = open(&client).await.unwrap();
    let mut bodies = Vec::new();
    while bodies.last().is_none_or(|last| last != "5") {
        let delivery = reader.next_after_break().await;
        reader.settle(&delivery, Settlement::Accept).await;
        bodies.push(text(&delivery.message));
        assert!(delivery.redelivered || bodies.last().unwrap() != "2");
    }
    // Its last acknowledgement may have been cut off.
    bodies.retain(|body| body != "1");
    assert_eq!(bodies, ["2", "3", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_leaves_it_behind_5() {
    a_killed_gateway_leaves_it_behind(mqtt::Version::V5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_leaves_it_behind_311() {
    a_killed_gateway_leaves_it_behind(mqtt::Version::V311).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_settled_does_not_come_again_though_what_came_before_it_does() {
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let server = Mosquitto::start("").await;
        let broker = connect(&server, version).await;
        let client = Client::of(&broker).await;
        let mut reader = open(&client).await.unwrap();
        for body in ["1", "2", "3"] {
            send(&client, body).await;
        }
        reader.expect("1").await;
        reader.take("2").await;
        reader.expect("3").await;
        drop(reader);
        let mut reader = open(&client).await.unwrap();
        for body in ["1", "3"] {
            assert!(reader.take(body).await.redelivered, "{body}");
        }
        send(&client, "4").await;
        assert!(!reader.take("4").await.redelivered);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_broker_neither_loses_nor_repeats() {
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let mut server = Mosquitto::start(SAVING).await;
        let broker = connect(&server, version).await;
        let client = Client::of(&broker).await;
        let mut reader = open(&client).await.unwrap();
        for body in ["1", "2", "3"] {
            send(&client, body).await;
        }
        let one = reader.expect("1").await;
        let two = reader.expect("2").await;
        server.kill();
        in_time(broker.state().wait_for(|state| *state == LinkState::Recovering)).await.unwrap();
        assert!(client.settle(&[&two], Settlement::Accept).await);
        server.run().await;
        in_time(broker.state().wait_for(|state| *state == LinkState::Up)).await.unwrap();
        let three = reader.next_after_break().await;
        assert_eq!((text(&three.message).as_str(), three.gap), ("3", false));
        assert!(client.settle(&[&one, &three], Settlement::Accept).await);
        send(&client, "4").await;
        let four = reader.next_after_break().await;
        assert_eq!((text(&four.message).as_str(), four.gap), ("4", false));
        reader.settle(&four, Settlement::Accept).await;
        reader.subscription.cancel(false).await.unwrap();
        drop(reader);
        let mut reader = open(&client).await.unwrap();
        send(&client, "5").await;
        reader.take("5").await;
    }
}

/// Its acknowledgements were handed over, and never came there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_settled_in_a_black_hole_does_not_come_again() {
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let server = Mosquitto::start("").await;
        let proxy = Proxy::before(server.port());
        let broker = connect_to(format!("mqtt://127.0.0.1:{}", proxy.port()), version).await;
        let direct = connect(&server, version).await;
        let (client, sender) = (Client::of(&broker).await, Client::of(&direct).await);
        let mut reader = open(&client).await.unwrap();
        for body in ["1", "2", "3"] {
            send(&sender, body).await;
        }
        let one = reader.expect("1").await;
        let two = reader.expect("2").await;
        let three = reader.expect("3").await;
        proxy.black_hole();
        assert!(client.settle(&[&one, &two], Settlement::Accept).await);
        proxy.cut(Cut::Reset);
        proxy.pass();
        send(&sender, "4").await;
        let four = reader.next_after_break().await;
        assert_eq!((text(&four.message).as_str(), four.gap), ("4", false));
        assert!(client.settle(&[&three, &four], Settlement::Accept).await);
        // Nor does it for the next reader.
        proxy.black_hole();
        drop(reader);
        proxy.cut(Cut::Reset);
        proxy.pass();
        let mut reader = open(&client).await.unwrap();
        send(&sender, "5").await;
        assert_eq!(text(&reader.next_after_break().await.message), "5");
    }
}
