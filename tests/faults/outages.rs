//! The connection breaks, stalls, or is not there to begin with.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use stompgate::broker::LinkState;
use stompgate::gateway::Gateway;

use crate::proxy::{Cut, Proxy};
use crate::rabbitmq::RabbitMq;
use crate::support::{Client, Received, operator, soon, until as eventually};
use crate::{
    PATIENCE, ack, behind_a_proxy, connect_all, gateway_at, node, rabbitmq, send_until_routed, until, uri, uri_as,
};

/// One of each kind of subscriber, each with something in its hands, and a publisher.
struct Company {
    name: String,
    plain: Client,
    acknowledging: Client,
    worker: Client,
    job: Received,
    asking: Client,
    publisher: Client,
}

impl Company {
    async fn of(gateway: &Gateway, name: &str) -> Company {
        let [mut plain, mut acknowledging, mut worker, mut asking, mut publisher] = connect_all(gateway).await;
        plain.subscribe(&format!("id:0\ndestination:/topic/{name}/#")).await;
        acknowledging.subscribe(&format!("id:0\ndestination:/topic/{name}-acknowledged\nack:client")).await;
        worker.subscribe(&format!("id:0\ndestination:/queue/{name}\nack:client-individual\nprefetch-count:1")).await;
        asking.subscribe("id:0\ndestination:/temp-queue/answers").await;
        for topic in [format!("{name}/a"), format!("{name}-acknowledged")] {
            publisher.does(&format!("SEND\ndestination:/topic/{topic}\n\nbefore")).await.without("routed");
        }
        plain.expect("MESSAGE").await.saying("before").without("gap");
        let copy = acknowledging.expect("MESSAGE").await.saying("before").without("gap");
        ack(&mut acknowledging, &copy).await.without("settled");
        publisher.does(&format!("SEND\ndestination:/queue/{name}\n\njob")).await;
        let job = worker.expect("MESSAGE").await.saying("job").without("redelivered");
        Company { name: name.to_owned(), plain, acknowledging, worker, job, asking, publisher }
    }

    /// Everybody has what they had, and knows what may be missing.
    async fn carries_on(mut self) {
        let name = &self.name;
        let again = self.worker.expect("MESSAGE").await.saying("job").with("redelivered", "true").without("gap");
        ack(&mut self.worker, &self.job).await.with("settled", "false");
        ack(&mut self.worker, &again).await.without("settled");
        send_until_routed(&mut self.publisher, &format!("SEND\ndestination:/topic/{name}/b\n\nafter")).await;
        self.plain.expect("MESSAGE").await.saying("after").with("gap", "true");
        send_until_routed(&mut self.publisher, &format!("SEND\ndestination:/topic/{name}-acknowledged\n\nafter")).await;
        self.acknowledging.expect("MESSAGE").await.saying("after").with("gap", "true");
        let question = format!("SEND\ndestination:/queue/{name}\nreply-to:/temp-queue/answers\n\nquestion");
        self.asking.does(&question).await;
        let question = self.worker.expect("MESSAGE").await.saying("question");
        ack(&mut self.worker, &question).await.without("settled");
        let answer = format!("SEND\ndestination:{}\n\nanswer", question.get("reply-to"));
        send_until_routed(&mut self.worker, &answer).await;
        self.asking.expect("MESSAGE").await.saying("answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_costs_nobody_a_subscription() {
    for how in [Cut::Reset, Cut::Fin] {
        let (gateway, proxy) = behind_a_proxy(|_| {}).await;
        let company = Company::of(&gateway, &format!("cut-{how:?}")).await;
        proxy.cut(how);
        company.carries_on().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_costs_nobody_a_subscription() {
    let mut node = node().await;
    let gateway = gateway_at(node.uri(), |_| {});
    let company = Company::of(&gateway, "kill").await;
    node.kill();
    until(&gateway, LinkState::Recovering).await;
    // Clients come, ask and wait while there is nobody.
    let mut early = Client::connect(&gateway, "1.2").await;
    let receipt = early.asks("SUBSCRIBE\nid:0\ndestination:/queue/early").await;
    let sent = early.asks("SEND\ndestination:/queue/early\n\nearly").await;
    node.run().await;
    until(&gateway, LinkState::Up).await;
    early.expect("RECEIPT").await.with("receipt-id", &receipt);
    let mut frames = [early.expect_any().await, early.expect_any().await];
    frames.sort_by_key(|frame| frame.maybe("receipt-id").is_none());
    let [receipt, message] = frames;
    receipt.of("RECEIPT").with("receipt-id", &sent);
    message.of("MESSAGE").saying("early");
    company.carries_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_is_noticed_by_the_heartbeats_and_healed() {
    let (gateway, proxy) = behind_a_proxy(|config| {
        config.broker.amqp.heartbeat = Duration::from_secs(1);
        config.broker.amqp.connect_timeout = PATIENCE;
    })
    .await;
    let connections = proxy.accepted();
    let company = Company::of(&gateway, "black-hole").await;
    let [mut publisher, mut reader] = connect_all(&gateway).await;
    reader.subscribe("id:0\ndestination:/queue/black-hole-b").await;
    proxy.black_hole();
    let receipt = publisher.asks("SEND\ndestination:/queue/black-hole-b\n\nmeanwhile").await;
    // Each connection has been found dead, and a new one hangs in the black hole.
    eventually("new connections", || proxy.accepted() == 2 * connections).await;
    assert_eq!(*gateway.broker_state().borrow(), LinkState::Recovering);
    proxy.pass();
    until(&gateway, LinkState::Up).await;
    publisher.expect("RECEIPT").await.with("receipt-id", &receipt).without("routed");
    let first = reader.expect("MESSAGE").await.saying("meanwhile");
    publisher.does("SEND\ndestination:/queue/black-hole-b\n\nafter").await;
    // The first of them may have been held back by the black hole and come out of it; then the second is marked.
    let second = reader.expect("MESSAGE").await;
    if second.body() == "meanwhile" {
        let marks = [&first, &second].map(|frame| usize::from(frame.maybe("stompgate-republished").is_some()));
        let again = usize::from(second.maybe("redelivered").is_some());
        assert!(marks.iter().sum::<usize>() + again >= 1, "twice without a mark");
        reader.expect("MESSAGE").await.saying("after");
    } else {
        second.saying("after");
    }
    company.carries_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_receipt_resolves_when_nothing_answers() {
    let (gateway, proxy) = behind_a_proxy(|config| {
        config.session.confirm_timeout = Duration::from_secs(2);
        config.broker.amqp.heartbeat = Duration::from_mins(10); // so that it is not noticed
    })
    .await;
    let [mut sender, mut many, mut reader, mut leaver, mut committer, mut goer] = connect_all(&gateway).await;
    leaver.subscribe("id:0\ndestination:/queue/silence").await;
    committer.does("BEGIN\ntransaction:t").await;
    committer.does("SEND\ndestination:/queue/silence\ntransaction:t\n\nx").await;
    proxy.black_hole();
    sender.send("SEND\ndestination:/queue/silence\n\nwithout a receipt").await;
    let mut receipts = Vec::new();
    for _ in 0..3 {
        receipts.push(many.asks("SEND\ndestination:/queue/silence\n\nx").await);
    }
    reader.asks("SUBSCRIBE\nid:0\ndestination:/queue/another").await;
    leaver.asks("UNSUBSCRIBE\nid:0").await;
    committer.asks("COMMIT\ntransaction:t").await;
    goer.send("SEND\ndestination:/queue/silence\n\nx").await;
    goer.asks("DISCONNECT").await;
    for client in [&mut sender, &mut reader, &mut leaver, &mut committer, &mut goer] {
        client.expect_error("confirm-timeout", 4503).await;
    }
    let error = many.expect_error("confirm-timeout", 4503).await;
    for receipt in receipts {
        assert!(error.maybe("receipt-id") == Some(&receipt) || error.body().contains(&receipt), "{error:?}");
    }
    proxy.cut(Cut::Reset);
    proxy.pass();
    let mut healed = Client::connect(&gateway, "1.2").await;
    healed.does("SEND\ndestination:/queue/silence\n\nhealed").await.without("routed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_there_yet_is_waited_for() {
    let proxy = Proxy::before(rabbitmq::shared().await.port);
    proxy.refuse();
    let gateway = gateway_at(uri(proxy.port()), |_| {});
    assert_eq!(*gateway.broker_state().borrow(), LinkState::Recovering);
    wait_and_heal(&gateway, "not-there", async { proxy.pass() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_does_not_know_us_yet_is_waited_for() {
    let node = rabbitmq::shared().await;
    let gateway = gateway_at(uri_as("newcomer:secret", node.port), |_| {});
    let admit = async {
        assert_eq!(*gateway.broker_state().borrow(), LinkState::Recovering);
        node.control(&["add_user", "newcomer", "secret"]).await;
        node.control(&["set_permissions", "newcomer", ".*", ".*", ".*"]).await;
    };
    wait_and_heal(&gateway, "not-known", admit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_expects_another_password_is_waited_for() {
    let node = rabbitmq::shared().await;
    node.control(&["add_user", "mistaken", "another"]).await;
    node.control(&["set_permissions", "mistaken", ".*", ".*", ".*"]).await;
    let gateway = gateway_at(uri_as("mistaken:secret", node.port), |_| {});
    let correct = async {
        eventually("an attempt", || node.log().contains("user 'mistaken'")).await;
        assert_eq!(*gateway.broker_state().borrow(), LinkState::Recovering);
        node.control(&["change_password", "mistaken", "secret"]).await;
    };
    wait_and_heal(&gateway, "mistaken", correct).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_takes_no_more_connections_is_waited_for() {
    let node = rabbitmq::shared().await;
    node.control(&["add_vhost", "crowded"]).await;
    node.control(&["set_permissions", "-p", "crowded", "guest", ".*", ".*", ".*"]).await;
    node.control(&["set_vhost_limits", "-p", "crowded", r#"{"max-connections": 0}"#]).await;
    let gateway = gateway_at(node.uri_of("crowded"), |_| {});
    let make_room = async {
        eventually("an attempt", || node.log().contains("connection limit")).await;
        assert_eq!(*gateway.broker_state().borrow(), LinkState::Recovering);
        node.control(&["clear_vhost_limits", "-p", "crowded"]).await;
    };
    wait_and_heal(&gateway, "crowded", make_room).await;
}

/// Clients are let in and wait; then the broker takes us, and all is well.
async fn wait_and_heal(gateway: &Gateway, name: &str, heal: impl Future<Output = ()>) {
    let [mut reader, mut sender] = connect_all(gateway).await;
    let subscribed = reader.asks(&format!("SUBSCRIBE\nid:0\ndestination:/topic/{name}")).await;
    let sent = sender.asks(&format!("SEND\ndestination:/queue/{name}\n\nx")).await;
    heal.await;
    until(gateway, LinkState::Up).await;
    reader.expect("RECEIPT").await.with("receipt-id", &subscribed);
    sender.expect("RECEIPT").await.with("receipt-id", &sent).without("routed");
    sender.does(&format!("SEND\ndestination:/topic/{name}\n\nnews")).await.without("routed");
    reader.expect("MESSAGE").await.saying("news").without("gap");
}

/// The alarms that a broker raises when it has too little memory, or too little room on its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_broker_holds_senders_and_nobody_else() {
    let node = node().await;
    holds_senders(&node, ["set_vm_memory_high_watermark", "0.0000001"], ["set_vm_memory_high_watermark", "0.4"]).await;
    holds_senders(&node, ["set_disk_free_limit", "1000000GB"], ["set_disk_free_limit", "1MB"]).await;
}

async fn holds_senders(node: &RabbitMq, raise: [&str; 2], lower: [&str; 2]) {
    let proxy = Proxy::before(node.port);
    let gateway = gateway_at(uri(proxy.port()), |config| config.broker.amqp.heartbeat = Duration::from_secs(1));
    until(&gateway, LinkState::Up).await;
    let [mut sender, mut waiting, mut worker, mut listener] = connect_all(&gateway).await;
    listener.subscribe("id:0\ndestination:/topic/blocked").await;
    for body in ["1", "2", "3"] {
        sender.does(&format!("SEND\ndestination:/queue/blocked\n\n{body}")).await;
    }
    let connections = proxy.accepted();
    node.control(&raise).await;
    let receipt = sender.asks("SEND\ndestination:/topic/blocked\n\nnews").await;
    until(&gateway, LinkState::Blocked).await;
    let late = waiting.asks("SEND\ndestination:/queue/blocked\n\n4").await;
    worker.subscribe("id:0\ndestination:/queue/blocked\nack:client\nprefetch-count:1").await;
    for body in ["1", "2", "3"] {
        let delivery = worker.expect("MESSAGE").await.saying(body);
        ack(&mut worker, &delivery).await.without("settled"); // the next comes by this alone
    }
    // Longer than it takes to find a connection dead; a connection that is found so is made anew.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(proxy.accepted(), connections, "a connection was lost");
    assert_eq!(*gateway.broker_state().borrow(), LinkState::Blocked);
    node.control(&lower).await;
    until(&gateway, LinkState::Up).await;
    sender.expect("RECEIPT").await.with("receipt-id", &receipt).without("routed");
    waiting.expect("RECEIPT").await.with("receipt-id", &late).without("routed");
    let last = worker.expect("MESSAGE").await.saying("4").without("redelivered");
    ack(&mut worker, &last).await.without("settled");
    listener.expect("MESSAGE").await.saying("news").without("gap");
    assert_eq!(proxy.accepted(), connections, "a connection was lost");
    soon("the end", gateway.shut_down()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_api_publishes_is_answered_by_the_confirmation_and_by_nothing_before() {
    let timeout = Duration::from_secs(5);
    let (gateway, proxy) = behind_a_proxy(|config| {
        config.admin.api_key = Some(operator::KEY.into());
        config.admin.timeout = timeout;
        config.broker.amqp.heartbeat = Duration::from_mins(10); // so that it is not noticed
    })
    .await;
    let admin = gateway.admin_address().expect("a port for operators").to_string();
    let message = json!({ "destination": "/queue/by-api", "body": "x" });
    assert_eq!(operator::done(&admin, "POST /messages", message.clone()).await, json!({ "routed": true }));
    proxy.black_hole();
    {
        let mut held = pin!(operator::call(&admin, "POST /messages", &message));
        tokio::select! {
            biased;
            early = &mut held => panic!("answered without the broker: {early:?}"),
            () = beside(&admin) => {}
        }
        proxy.pass();
        assert_eq!(held.await.status, 200);
    }
    proxy.black_hole();
    operator::refused(&admin, "POST /messages", message.clone(), 504, "admin.timeout").await;
    proxy.refuse();
    proxy.cut(Cut::Reset);
    until(&gateway, LinkState::Recovering).await;
    let answer = operator::call(&admin, "POST /messages", &message).await;
    assert!(matches!(answer.status, 503 | 504), "{answer:?}");
    proxy.pass();
    until(&gateway, LinkState::Up).await;
    assert_eq!(operator::done(&admin, "POST /messages", message).await, json!({ "routed": true }));
}

/// Other calls are answered.
async fn beside(admin: &str) {
    for _ in 0..20 {
        operator::done(admin, "GET /sessions", Value::Null).await;
    }
}
