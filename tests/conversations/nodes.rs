//! Two gateways in front of one broker are one to their clients.

use crate::peer::at_one_broker;
use crate::shutdown::shut_down_in_full_flight;
use crate::support::{Client, Gateway, gateway_with, until};

pub(crate) fn two_gateways() -> [Gateway; 2] {
    let common = at_one_broker();
    [(); 2].map(|()| gateway_with(&common))
}

/// A client at each of them.
pub(crate) async fn one_at_each(gateways: &[Gateway; 2], headers: &str) -> [Client; 2] {
    let [here, there] = gateways;
    [Client::connect_with(here, "1.2", headers).await, Client::connect_with(there, "1.2", headers).await]
}

#[tokio::test]
async fn a_topic_reaches_the_subscribers_of_both() {
    let gateways = two_gateways();
    let [mut here, mut there] = one_at_each(&gateways, "login:ada").await;
    for client in [&mut here, &mut there] {
        client.subscribe("id:0\ndestination:/topic/news/*").await;
        client.subscribe("id:1\ndestination:/topic/news/a\nack:client").await;
    }
    here.send("SEND\ndestination:/topic/news/a\n\nhello").await;
    for client in [&mut here, &mut there] {
        for _ in 0..2 {
            let message = client.expect("MESSAGE").await.saying("hello").with("destination", "/topic/news/a");
            message.with("stompgate-user", "ada");
        }
    }
}

#[tokio::test]
async fn a_subscriber_anywhere_counts_as_routed() {
    let gateways = two_gateways();
    let [mut here, mut there] = one_at_each(&gateways, "").await;
    here.does("SEND\ndestination:/topic/a\n\nx").await.unrouted();
    there.subscribe("id:0\ndestination:/topic/a").await;
    here.does("SEND\ndestination:/topic/a\n\nx").await.without("routed");
}

#[tokio::test]
async fn the_readers_of_a_queue_compete_across_both() {
    let gateways = two_gateways();
    let mut readers = one_at_each(&gateways, "").await;
    for reader in &mut readers {
        reader.subscribe("id:0\ndestination:/queue/a\nack:client-individual\nprefetch-count:1").await;
    }
    let mut writer = Client::connect(&gateways[0], "1.2").await;
    for body in ["1", "2", "3"] {
        writer.does(&format!("SEND\ndestination:/queue/a\n\n{body}")).await;
    }
    let [mut here, mut there] = readers;
    let (mine, yours) = (here.expect("MESSAGE").await, there.expect("MESSAGE").await);
    assert_ne!(mine.body(), yours.body(), "one reader gets each");
    here.send(format!("ACK\nid:{}", mine.get("ack"))).await;
    here.expect("MESSAGE").await.saying("3");
    // What one gateway's client held goes to the other's.
    here.vanish();
    until("the session to end", || gateways[0].connections() == 1).await;
    there.does(&format!("ACK\nid:{}", yours.get("ack"))).await;
    there.expect("MESSAGE").await.saying("3").with("redelivered", "true");
}

#[tokio::test]
async fn a_user_is_reached_wherever_the_sessions_are() {
    let gateways = two_gateways();
    let mut sessions = one_at_each(&gateways, "login:ada").await;
    for session in &mut sessions {
        session.subscribe("id:0\ndestination:/user/queue/mail").await;
        session.subscribe("id:1\ndestination:/user/topic/a.*").await;
    }
    let mut bob = Client::connect_with(&gateways[1], "1.2", "login:bob").await;
    bob.subscribe("id:0\ndestination:/user/queue/mail").await;
    for (destination, shown, id) in
        [("/user/ada/queue/mail", "/user/queue/mail", "0"), ("/user/ada/topic/a/b", "/user/topic/a.b", "1")]
    {
        bob.does(&format!("SEND\ndestination:{destination}\n\nhello")).await.without("routed");
        for session in &mut sessions {
            let message = session.expect("MESSAGE").await.saying("hello").with("subscription", id);
            message.with("destination", shown).with("stompgate-user", "bob");
        }
    }
    bob.expect_nothing().await;
}

#[tokio::test]
async fn an_answer_finds_its_way_from_one_to_the_other() {
    let gateways = two_gateways();
    let [mut client, mut responder] = one_at_each(&gateways, "").await;
    responder.subscribe("id:0\ndestination:/queue/sums").await;
    for _ in 0..2 {
        let request = "SEND\ndestination:/queue/sums\nreply-to:/temp-queue/answers\ncorrelation-id:c-1\n\n1+1";
        client.does(request).await.without("routed");
        let request = responder.expect("MESSAGE").await.saying("1+1").with("correlation-id", "c-1");
        let answer = format!("SEND\ndestination:{}\ncorrelation-id:c-1\n\n2", request.get("reply-to"));
        responder.does(&answer).await.without("routed");
        let reply = client.expect("MESSAGE").await.saying("2").with("correlation-id", "c-1");
        reply.with("subscription", "/temp-queue/answers").with("destination", "/temp-queue/answers");
    }
}

#[tokio::test]
async fn what_was_confirmed_before_a_shutdown_is_in_the_broker() {
    let [first, second] = two_gateways();
    let mut reader = Client::connect(&second, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/a").await;
    let (receipts, _) = shut_down_in_full_flight(first).await;
    reader.bodies(receipts).await;
}
