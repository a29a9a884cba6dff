//! What the settings make of a connection, as the broker sees it.

use std::time::Duration;

use stompgate::broker::LinkState;
use stompgate::broker::mqtt::Version;

use crate::mosquitto::Mosquitto;
use crate::support::Client;
use crate::support::program::Program;
use crate::{by, connect_all, gateway_at, until};

by_both_versions! {
    names_and_keep_alive_are_those_of_the_settings,
    qualities_are_those_of_the_settings_where_nobody_names_one,
    system_topics_are_closed_unless_a_setting_opens_them,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_runs_before_a_mosquitto_with_its_defaults() {
    let server = Mosquitto::start("").await;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/mosquitto.toml");
    let program = Program::start_as(&["--config", example], &[("STOMPGATE_BROKER__MQTT__URI", &server.uri())]);
    let place = (program.address.parse().unwrap(), format!("ws://{}/ws", program.address));
    let mut client = Client::open_at(&place).await;
    client.login("1.2", "").await;
    for destination in ["/topic/a", "/queue/a"] {
        client.subscribe(&format!("id:{destination}\ndestination:{destination}")).await;
        client.send(format!("SEND\ndestination:{destination}\npersistent:true\n\nx")).await;
        client.expect("MESSAGE").await.saying("x").with("destination", destination);
    }
    // The embedded broker would have done that, too.
    assert!(server.log().contains(" as stompgate-"), "{}", server.log());
}

async fn names_and_keep_alive_are_those_of_the_settings(version: Version) {
    let server = Mosquitto::start("").await;
    let at = |group: &str| {
        gateway_at(server.uri(), |config| {
            by(version)(config);
            config.broker.mqtt.client_id = "shop".into();
            config.broker.mqtt.keep_alive = Duration::from_secs(7);
            config.broker.mqtt.group = group.into();
        })
    };
    let (till, desk) = (at("till"), at("desk"));
    let ([mut one], [mut other]) = (connect_all(&till).await, connect_all(&desk).await);
    for reader in [&mut one, &mut other] {
        reader.subscribe("id:0\ndestination:/queue/a").await;
    }
    // Each group has a copy.
    let [mut sender] = connect_all(&till).await;
    sender.does("SEND\ndestination:/queue/a\n\nx").await.without("routed");
    one.expect("MESSAGE").await.saying("x");
    other.expect("MESSAGE").await.saying("x");
    let log = server.log();
    let logins: Vec<_> = log.lines().filter(|line| line.contains("New client connected")).collect();
    assert_eq!(logins.len(), 6, "{log}");
    for login in logins {
        assert!(login.contains(" as shop-") && login.contains(", k7"), "{login}");
    }
}

async fn qualities_are_those_of_the_settings_where_nobody_names_one(version: Version) {
    let server = Mosquitto::start("").await;
    let at = |sent: u8, read: u8| {
        let gateway = gateway_at(server.uri(), |config| {
            by(version)(config);
            (config.broker.mqtt.qos, config.broker.mqtt.subscribe_qos) = (sent, read);
        });
        async move {
            until(&gateway, LinkState::Up).await;
            let [mut reader] = connect_all(&gateway).await;
            reader.subscribe("id:0\ndestination:/topic/a").await;
            (gateway, reader)
        }
    };
    let (zero, one, two) = (at(0, 0).await, at(1, 1).await, at(2, 2).await);
    let mut readers = [zero.1, one.1, two.1];
    for (sent, gateway) in [&zero.0, &one.0, &two.0].into_iter().enumerate() {
        let [mut sender] = connect_all(gateway).await;
        sender.send("SEND\ndestination:/topic/a\n\nx").await;
        for (read, reader) in readers.iter_mut().enumerate() {
            let message = reader.expect("MESSAGE").await.saying("x");
            assert_eq!(message.maybe("qos").unwrap_or("0"), sent.min(read).to_string());
        }
    }
}

async fn system_topics_are_closed_unless_a_setting_opens_them(version: Version) {
    let server = Mosquitto::start("").await;
    for opened in [false, true] {
        let gateway = gateway_at(server.uri(), |config| {
            by(version)(config);
            config.broker.mqtt.system_topics = opened;
        });
        let [mut reader] = connect_all(&gateway).await;
        reader.asks("SUBSCRIBE\nid:0\ndestination:/topic/$SYS/broker/version").await;
        if opened {
            reader.expect("MESSAGE").await.about("mosquitto version");
        } else {
            reader.expect("ERROR").await.with("code", "unsupported").about("broker.mqtt.system_topics");
        }
    }
}
