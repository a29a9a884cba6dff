//! The connection breaks, stalls, or is not there to begin with.

use std::time::Duration;

use stompgate::broker::LinkState;
use stompgate::broker::mqtt::Version;
use stompgate::gateway::Gateway;

use crate::mosquitto::Mosquitto;
use crate::proxy::{Cut, Proxy};
use crate::support::{Client, Received, until as eventually};
use crate::{PATIENCE, ack, behind_a_proxy, by, connect_all, gateway_at, send_until_read, unrouted, until, uri};

by_both_versions! {
    a_cut_costs_nobody_a_subscription,
    a_killed_broker_costs_nobody_a_subscription,
    a_black_hole_is_noticed_by_the_keep_alive_and_healed,
    every_receipt_resolves_when_nothing_answers,
    a_broker_that_is_not_there_yet_is_waited_for,
}

/// One of each kind of subscriber, and a publisher. The worker has something in its hands.
struct Company {
    plain: Client,
    acknowledging: Client,
    worker: Client,
    job: Received,
    asking: Client,
    publisher: Client,
}

impl Company {
    async fn of(gateway: &Gateway) -> Company {
        let [mut plain, mut acknowledging, mut worker, mut asking, mut publisher] = connect_all(gateway).await;
        plain.subscribe("id:0\ndestination:/topic/news/#").await;
        acknowledging.subscribe("id:0\ndestination:/topic/acknowledged\nack:client").await;
        worker.subscribe("id:0\ndestination:/queue/work\nack:client-individual\nprefetch-count:2").await;
        asking.subscribe("id:0\ndestination:/temp-queue/answers").await;
        for topic in ["news/a", "acknowledged"] {
            publisher.does(&format!("SEND\ndestination:/topic/{topic}\n\nbefore")).await.without("routed");
        }
        plain.expect("MESSAGE").await.saying("before").without("gap");
        let copy = acknowledging.expect("MESSAGE").await.saying("before").without("gap");
        ack(&mut acknowledging, &copy).await.without("settled");
        publisher.does("SEND\ndestination:/queue/work\n\njob").await.without("routed");
        let job = worker.expect("MESSAGE").await.saying("job").without("redelivered");
        Company { plain, acknowledging, worker, job, asking, publisher }
    }

    /// Everybody has what they had, and knows what may be missing.
    async fn carries_on(mut self) {
        // What it had stays its own: the broker has forgotten it.
        ack(&mut self.worker, &self.job).await.without("settled");
        for (reader, topic) in [(&mut self.plain, "news/b"), (&mut self.acknowledging, "acknowledged")] {
            let news = format!("SEND\ndestination:/topic/{topic}\n\nafter");
            let mut came = send_until_read(&mut self.publisher, reader, &news).await.into_iter();
            came.next().expect("the first").saying("after").with("gap", "true");
            came.for_each(|message| drop(message.saying("after").without("gap")));
        }
        let question = "SEND\ndestination:/queue/work\nreply-to:/temp-queue/answers\n\nquestion";
        let questions = send_until_read(&mut self.asking, &mut self.worker, question).await;
        let answer = format!("SEND\ndestination:{}\n\nanswer", questions[0].get("reply-to"));
        for answer in send_until_read(&mut self.worker, &mut self.asking, &answer).await {
            answer.saying("answer");
        }
    }
}

async fn a_cut_costs_nobody_a_subscription(version: Version) {
    for how in [Cut::Reset, Cut::Fin] {
        let (gateway, proxy, _server) = behind_a_proxy(by(version)).await;
        let company = Company::of(&gateway).await;
        proxy.cut(how);
        until(&gateway, LinkState::Recovering).await;
        until(&gateway, LinkState::Up).await;
        company.carries_on().await;
    }
}

async fn a_killed_broker_costs_nobody_a_subscription(version: Version) {
    let mut server = Mosquitto::start("").await;
    let gateway = gateway_at(server.uri(), by(version));
    let company = Company::of(&gateway).await;
    server.kill();
    until(&gateway, LinkState::Recovering).await;
    // Clients come, ask and wait while there is nobody.
    let mut early = Client::connect(&gateway, "1.2").await;
    let subscribed = early.asks("SUBSCRIBE\nid:0\ndestination:/queue/early").await;
    let mut sender = Client::connect(&gateway, "1.2").await;
    let sent = sender.asks("SEND\ndestination:/topic/nobody\n\nearly").await;
    server.run().await;
    until(&gateway, LinkState::Up).await;
    early.expect("RECEIPT").await.with("receipt-id", &subscribed);
    unrouted(sender.expect("RECEIPT").await.with("receipt-id", &sent), version);
    sender.does("SEND\ndestination:/queue/early\n\nearly").await.without("routed");
    early.expect("MESSAGE").await.saying("early");
    company.carries_on().await;
}

async fn a_black_hole_is_noticed_by_the_keep_alive_and_healed(version: Version) {
    let (gateway, proxy, _server) = behind_a_proxy(|config| {
        by(version)(config);
        config.broker.mqtt.keep_alive = Duration::from_secs(1);
        config.broker.mqtt.connect_timeout = PATIENCE;
    })
    .await;
    let company = Company::of(&gateway).await;
    let connections = proxy.accepted();
    let mut publisher = Client::connect(&gateway, "1.2").await;
    proxy.black_hole();
    let receipt = publisher.asks("SEND\ndestination:/topic/nobody\n\nmeanwhile").await;
    // Each connection has been found dead, and a new one hangs in the black hole.
    eventually("new connections", || proxy.accepted() == 2 * connections).await;
    assert_eq!(*gateway.broker_state().borrow(), LinkState::Recovering);
    proxy.pass();
    until(&gateway, LinkState::Up).await;
    unrouted(publisher.expect("RECEIPT").await.with("receipt-id", &receipt), version);
    company.carries_on().await;
}

async fn every_receipt_resolves_when_nothing_answers(version: Version) {
    let (gateway, proxy, _server) = behind_a_proxy(|config| {
        by(version)(config);
        config.session.confirm_timeout = Duration::from_secs(2);
        config.broker.mqtt.keep_alive = Duration::from_mins(10); // so that it is not noticed
    })
    .await;
    let [mut sender, mut many, mut reader, mut committer, mut goer] = connect_all(&gateway).await;
    committer.does("BEGIN\ntransaction:t").await;
    committer.does("SEND\ndestination:/topic/silence\ntransaction:t\n\nx").await;
    proxy.black_hole();
    sender.send("SEND\ndestination:/topic/silence\nqos:1\n\nwithout a receipt").await;
    let mut receipts = Vec::new();
    for _ in 0..3 {
        receipts.push(many.asks("SEND\ndestination:/topic/silence\n\nx").await);
    }
    reader.asks("SUBSCRIBE\nid:0\ndestination:/topic/another").await;
    committer.asks("COMMIT\ntransaction:t").await;
    goer.send("SEND\ndestination:/topic/silence\nqos:2\n\nx").await;
    goer.asks("DISCONNECT").await;
    for client in [&mut sender, &mut reader, &mut committer, &mut goer] {
        client.expect_error("confirm-timeout", 4503).await;
    }
    let error = many.expect_error("confirm-timeout", 4503).await;
    for receipt in receipts {
        assert!(error.maybe("receipt-id") == Some(&receipt) || error.body().contains(&receipt), "{error:?}");
    }
    proxy.cut(Cut::Reset);
    proxy.pass();
    let mut healed = Client::connect(&gateway, "1.2").await;
    healed.does("SEND\ndestination:/topic/silence\n\nhealed").await;
}

async fn a_broker_that_is_not_there_yet_is_waited_for(version: Version) {
    let server = Mosquitto::start("").await;
    let proxy = Proxy::before(server.port());
    proxy.refuse();
    let gateway = gateway_at(uri(proxy.port()), by(version));
    assert_eq!(*gateway.broker_state().borrow(), LinkState::Recovering);
    let [mut reader, mut sender] = connect_all(&gateway).await;
    let subscribed = reader.asks("SUBSCRIBE\nid:0\ndestination:/topic/a").await;
    let sent = sender.asks("SEND\ndestination:/topic/nobody\n\nx").await;
    proxy.pass();
    until(&gateway, LinkState::Up).await;
    reader.expect("RECEIPT").await.with("receipt-id", &subscribed);
    sender.expect("RECEIPT").await.with("receipt-id", &sent);
    sender.does("SEND\ndestination:/topic/a\n\nnews").await.without("routed");
    reader.expect("MESSAGE").await.saying("news").without("gap");
}
