//! However many read a topic, it is one subscription at the broker.

use crate::gateway_at;
use crate::mosquitto::Mosquitto;
use crate::support::Client;

const SESSIONS: usize = 5;
const SUBSCRIBERS: usize = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_subscribers_of_a_topic_are_one_subscription() {
    let server = Mosquitto::start("sys_interval 1\nset_tcp_nodelay true").await;
    let gateway = gateway_at(server.uri(), |config| {
        config.broker.mqtt.system_topics = true;
        config.outbox.max_bytes = 64 * 1024 * 1024;
    });
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let mut session = Client::connect(&gateway, "1.2").await;
        for id in 1..SUBSCRIBERS / SESSIONS {
            session.send(format!("SUBSCRIBE\nid:{id}\ndestination:/topic/a")).await;
        }
        session.subscribe("id:0\ndestination:/topic/a").await;
        sessions.push(session);
    }
    let mut sender = Client::connect(&gateway, "1.2").await;
    sender.does("SEND\ndestination:/topic/a\n\nx").await.without("routed");
    for session in &mut sessions {
        assert_eq!(session.bodies(SUBSCRIBERS / SESSIONS).await.len(), SUBSCRIBERS / SESSIONS);
    }
    // The topic, and the one that says so.
    let mut observer = Client::connect(&gateway, "1.2").await;
    observer.send("SUBSCRIBE\nid:0\ndestination:/topic/$SYS/broker/subscriptions/count").await;
    let mut count = observer.expect("MESSAGE").await.body();
    while count != "2" {
        assert!(count.parse::<usize>().unwrap() < 2, "{count} subscriptions");
        count = observer.expect("MESSAGE").await.body();
    }
}
