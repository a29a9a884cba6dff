//! What a gateway does in front of an MQTT broker that it does nowhere else (contract, §12).

use crate::queues::{reader, sender};
use crate::slow::{MESSAGES, number, numbered};
use crate::support::{Client, gateway, gateway_with};
use crate::topics::{expect_matched, refused_to_send, refused_to_subscribe};

#[tokio::test]
async fn names_that_mqtt_cannot_say_are_refused_by_name() {
    let gateway = gateway();
    for name in ["a%2Fb", "a%2Bb", "a%23b"] {
        refused_to_send(&gateway, &format!("/topic/{name}"), "unsupported").await;
        refused_to_subscribe(&gateway, &format!("/topic/{name}"), "unsupported").await;
    }
    // These belong to the broker, and to /queue.
    refused_to_send(&gateway, "/topic/$SYS/x", "unsupported").await;
    refused_to_subscribe(&gateway, "/topic/$SYS/#", "unsupported").await;
    refused_to_send(&gateway, "/topic/queue/a", "unsupported").await;
    refused_to_subscribe(&gateway, "/topic/queue/a", "unsupported").await;
    for pattern in ["/topic/#/x", "/topic/**.x"] {
        refused_to_subscribe(&gateway, pattern, "unsupported").await;
    }
}

#[tokio::test]
async fn what_can_be_said_is_matched_as_everywhere() {
    let gateway = gateway();
    let names = ["/topic/a/x/c", "/topic/a/c", "/topic/a/x/y/c", "/topic/a/x", "/topic/foo1/c", "/topic/bar/$c"];
    expect_matched(&gateway, "/topic/a/#/c", &names, &["/topic/a/x/c", "/topic/a/c", "/topic/a/x/y/c"]).await;
    expect_matched(&gateway, "/topic/foo*/c", &names, &["/topic/foo1/c"]).await;
    expect_matched(&gateway, "/topic/*/$c", &names, &["/topic/bar/$c"]).await;
    let names = ["/topic/50%25", "/topic/gl%C3%BCck", "/topic/glück", "/topic/a%2Eb"];
    expect_matched(&gateway, "/topic/glück", &names, &["/topic/gl%C3%BCck", "/topic/glück"]).await;
    expect_matched(&gateway, "/topic/50%25", &names, &["/topic/50%25"]).await;
    expect_matched(&gateway, "/topic/a/b", &names, &[]).await;
    expect_matched(&gateway, "/topic/*", &names[3..], &["/topic/a%2Eb"]).await;
}

/// What the broker has put aside for a reader stays that one's; what waits here goes to whoever has nothing to do.
#[tokio::test]
async fn a_slow_reader_of_a_queue_loses_nothing() {
    let gateway = gateway_with(crate::slow::small_outbox);
    let mut slow = Client::connect_narrow(&gateway, "1.2").await;
    slow.subscribe("id:0\ndestination:/queue/flood").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    for count in 0..MESSAGES {
        writer.does(&format!("SEND\ndestination:/queue/flood\n\n{}", numbered(count))).await;
    }
    let read: Vec<_> = slow.bodies(MESSAGES).await.iter().map(|body| number(body)).collect();
    assert_eq!(read, (0..MESSAGES).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_waits_for_one_reader_here_goes_to_another_in_its_order() {
    let gateway = gateway();
    // The reader takes over a place at the broker that is larger than its prefetch.
    sender(&gateway, &["1", "2", "3", "4"]).await;
    let mut paused = reader(&gateway, "ack:client\nprefetch-count:1").await;
    paused.expect("MESSAGE").await.saying("1");
    let mut other = reader(&gateway, "").await;
    assert_eq!(other.bodies(3).await, ["2", "3", "4"]);
}
