//! What one client does that the broker ends connections for costs nobody else anything, or as little as can be.

use std::time::Duration;

use stompgate::broker::LinkState;
use stompgate::broker::mqtt::Version;
use stompgate::config::Config;
use stompgate::gateway::Gateway;

use crate::mosquitto::Mosquitto;
use crate::scripted::{Script, Scripted, Then};
use crate::support::{Client, until as eventually};
use crate::{PATIENCE, behind_a_proxy, by, connect_all, gateway_at, send_until_read, until, uri};

by_both_versions! {
    a_topic_that_is_too_deep_is_refused_and_breaks_nothing,
    a_subscription_that_breaks_the_connection_each_time_is_given_up,
    a_connection_that_breaks_while_it_is_subscribed_to_is_subscribed_to_again,
    a_place_that_the_broker_did_not_give_back_is_given_to_nobody,
    last_values_come_all_however_long_they_take,
}

/// More levels than Mosquitto takes: it closes the connection of whoever subscribes or publishes there.
fn deep() -> String {
    vec!["a"; 300].join("/")
}

async fn before_mosquitto(version: Version, change: impl FnOnce(&mut Config)) -> (Gateway, Mosquitto) {
    let server = Mosquitto::start("").await;
    let gateway = gateway_at(server.uri(), |config| {
        by(version)(config);
        change(config);
    });
    until(&gateway, LinkState::Up).await;
    (gateway, server)
}

async fn a_topic_that_is_too_deep_is_refused_and_breaks_nothing(version: Version) {
    let (gateway, _server) = before_mosquitto(version, |_| {}).await;
    let [mut reader, mut sender] = connect_all(&gateway).await;
    reader.subscribe("id:0\ndestination:/topic/a").await;
    for frame in [
        format!("SUBSCRIBE\nid:0\ndestination:/topic/{}", deep()),
        format!("SUBSCRIBE\nid:0\ndestination:/topic/{}/#\nack:client", deep()),
        format!("SUBSCRIBE\nid:0\ndestination:/queue/{}", deep()),
        format!("SUBSCRIBE\nid:0\ndestination:/user/topic/{}", deep()),
        format!("SEND\ndestination:/topic/{}\nqos:0\n\nx", deep()),
    ] {
        let mut offender = Client::connect(&gateway, "1.2").await;
        offender.asks(&frame).await;
        let error = offender.expect("ERROR").await.with("code", "limit-exceeded");
        error.about("broker.mqtt.max_topic_levels");
    }
    sender.does("SEND\ndestination:/topic/a\n\nnews").await.without("routed");
    reader.expect("MESSAGE").await.saying("news").without("gap");
}

/// The limit is off, so the broker has its say.
async fn a_subscription_that_breaks_the_connection_each_time_is_given_up(version: Version) {
    let (gateway, _server) = before_mosquitto(version, |config| config.broker.mqtt.max_topic_levels = 1_000).await;
    let [mut reader, mut sender] = connect_all(&gateway).await;
    reader.subscribe("id:0\ndestination:/topic/a").await;
    for mode in ["auto", "client"] {
        let mut offender = Client::connect(&gateway, "1.2").await;
        offender.asks(&format!("SUBSCRIBE\nid:0\ndestination:/topic/{}\nack:{mode}", deep())).await;
        offender.expect("ERROR").await.with("code", "rejected").about("broke each time");
    }
    // The readers of before are there again, and others can come.
    let mut came = send_until_read(&mut sender, &mut reader, "SEND\ndestination:/topic/a\n\nnews").await;
    came.remove(0).saying("news").with("gap", "true");
    let mut late = Client::connect(&gateway, "1.2").await;
    late.subscribe("id:0\ndestination:/topic/b").await;
    sender.does("SEND\ndestination:/topic/b\n\nmore").await.without("routed");
    late.expect("MESSAGE").await.saying("more").without("gap");
}

/// Whoever is granted a subscription has it, also when the connection ends with that very word.
async fn a_connection_that_breaks_while_it_is_subscribed_to_is_subscribed_to_again(version: Version) {
    for first in [Then::GrantedAndLeft, Then::Left] {
        for (frame, filter) in [
            ("SUBSCRIBE\nid:0\ndestination:/topic/a\nack:client", "a"),
            ("SUBSCRIBE\nid:0\ndestination:/queue/a", "$share/stompgate/queue/a"),
        ] {
            let broker = Scripted::start(Script { subscribes: vec![first], ..Script::default() }).await;
            let gateway = gateway_at(uri(broker.port), by(version));
            until(&gateway, LinkState::Up).await;
            let mut client = Client::connect(&gateway, "1.2").await;
            client.does(frame).await;
            eventually("a second time", || broker.asked().len() == 2).await;
            let [one, other] = &broker.asked()[..] else { panic!("two of them") };
            assert_eq!((one.filter.as_str(), other.filter.as_str()), (filter, filter));
            // The last values come with the first that is granted; by 3.1.1 nobody can say that they are not wanted.
            let wanted = |is_first| version == Version::V311 || filter == "a" && is_first;
            assert_eq!((one.retained, other.retained), (wanted(true), wanted(first == Then::Left)));
        }
    }
}

async fn a_place_that_the_broker_did_not_give_back_is_given_to_nobody(version: Version) {
    let subscribes = vec![Then::Granted, Then::Refused];
    let broker = Scripted::start(Script { subscribes, ..Script::default() }).await;
    let gateway = gateway_at(uri(broker.port), |config| {
        by(version)(config);
        config.broker.mqtt.linger = PATIENCE;
    });
    until(&gateway, LinkState::Up).await;
    let [mut first, mut second] = connect_all(&gateway).await;
    first.subscribe("id:0\ndestination:/queue/a").await;
    broker.take_over();
    first.expect("ERROR").await.with("code", "rejected");
    drop(first);
    second.subscribe("id:0\ndestination:/queue/a").await;
    let queue = "$share/stompgate/queue/a";
    assert_eq!(broker.asked().iter().filter(|asked| asked.filter == queue).count(), 3);
}

/// Longer than any pause in which nothing comes: the broker has much to say, and a slow line.
async fn last_values_come_all_however_long_they_take(version: Version) {
    const VALUES: usize = 12;
    let (gateway, proxy, server) = behind_a_proxy(by(version)).await;
    let near = gateway_at(server.uri(), by(version));
    let [mut sender] = connect_all(&near).await;
    let value = "x".repeat(60_000);
    for number in 0..VALUES {
        sender.does(&format!("SEND\ndestination:/topic/values/{number}\nretain:true\n\n{value}")).await;
    }
    let [mut reader] = connect_all(&gateway).await;
    proxy.delay(Duration::from_millis(400));
    let receipt = reader.asks("SUBSCRIBE\nid:0\ndestination:/topic/values/#").await;
    for _ in 0..VALUES {
        reader.expect("MESSAGE").await.with("retain", "true");
    }
    reader.expect("RECEIPT").await.with("receipt-id", &receipt);
}
