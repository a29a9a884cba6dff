//! What quality of service 0, 1 and 2 promise across a reconnect.

use std::time::Duration;

use stompgate::broker::LinkState;
use stompgate::broker::mqtt::Version;
use stompgate::gateway::Gateway;

use crate::proxy::{Cut, Proxy};
use crate::support::Client;
use crate::{behind_a_proxy, by, connect_all, gateway_at, send_until_read, until};

by_both_versions! {
    quality_1_is_published_again,
    quality_2_is_published_again,
    what_was_taken_and_not_confirmed_comes_twice_with_a_mark,
    quality_0_may_be_lost_though_it_has_its_receipt,
}

/// A message whose confirmation is on its way when the connection breaks: it goes again, and says so.
async fn sent_twice(version: Version, qos: u8) {
    let (gateway, proxy, _server) = behind_a_proxy(|config| {
        by(version)(config);
        config.broker.mqtt.subscribe_qos = 2;
    })
    .await;
    let [mut listener, mut sender] = connect_all(&gateway).await;
    listener.subscribe("id:0\ndestination:/topic/a").await;
    sender.does(&format!("SEND\ndestination:/topic/a\nqos:{qos}\n\nbefore")).await.without("routed");
    listener.expect("MESSAGE").await.saying("before").with("qos", &qos.to_string());
    proxy.black_hole();
    let receipt = sender.asks(&format!("SEND\ndestination:/topic/a\nqos:{qos}\n\nmeanwhile")).await;
    cut(&gateway, &proxy).await;
    sender.expect("RECEIPT").await.with("receipt-id", &receipt);
    // It may come before the subscription is back; what comes after that is marked.
    let after = "SEND\ndestination:/topic/a\n\nafter";
    let mut came = send_until_read(&mut sender, &mut listener, after).await;
    came.remove(0).with("gap", "true");
    for message in came {
        message.without("gap").saying("after");
    }
}

async fn cut(gateway: &Gateway, proxy: &Proxy) {
    proxy.cut(Cut::Reset);
    until(gateway, LinkState::Recovering).await;
    proxy.pass();
    until(gateway, LinkState::Up).await;
}

async fn quality_1_is_published_again(version: Version) {
    sent_twice(version, 1).await;
}

async fn quality_2_is_published_again(version: Version) {
    sent_twice(version, 2).await;
}

/// A broker that remembers would have to be asked about it; ours is a new client each time (contract, §12).
async fn what_was_taken_and_not_confirmed_comes_twice_with_a_mark(version: Version) {
    let (gateway, proxy, server) = behind_a_proxy(by(version)).await;
    // One who reads past the proxy, and so without a gap.
    let beside = gateway_at(server.uri(), by(version));
    let mut listener = Client::connect(&beside, "1.2").await;
    listener.subscribe("id:0\ndestination:/topic/a").await;
    let mut sender = Client::connect(&gateway, "1.2").await;
    // The answer is late, so that the cut comes between the message and its confirmation.
    proxy.delay(Duration::from_millis(500));
    let receipt = sender.asks("SEND\ndestination:/topic/a\n\nx").await;
    listener.expect("MESSAGE").await.saying("x").without("stompgate-republished").without("gap");
    proxy.cut(Cut::Reset);
    proxy.pass();
    listener.expect("MESSAGE").await.saying("x").with("stompgate-republished", "true").without("gap");
    sender.expect("RECEIPT").await.with("receipt-id", &receipt).without("routed");
}

/// Its RECEIPT says that it was written to the socket, no more.
async fn quality_0_may_be_lost_though_it_has_its_receipt(version: Version) {
    let (gateway, proxy, server) = behind_a_proxy(by(version)).await;
    let beside = gateway_at(server.uri(), by(version));
    let mut listener = Client::connect(&beside, "1.2").await;
    listener.subscribe("id:0\ndestination:/topic/a").await;
    let mut sender = Client::connect(&gateway, "1.2").await;
    proxy.black_hole();
    sender.does("SEND\ndestination:/topic/a\nqos:0\n\nlost").await.without("routed");
    cut(&gateway, &proxy).await;
    sender.does("SEND\ndestination:/topic/a\n\nafter").await;
    listener.expect("MESSAGE").await.saying("after").without("stompgate-republished");
}
