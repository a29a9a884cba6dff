//! What MQTT does not do and all others can (contract, §12): carry control characters, every name of a topic, every
//! pattern, and times shorter than a second; and give to another what waits for one reader of a queue. What becomes of
//! all this there, `mqtt.rs` says.

use std::time::Duration;

use crate::frames::listening;
use crate::queues::{reader, sender};
use crate::slow::{MESSAGES, number, numbered, small_outbox};
use crate::support::{Client, gateway, gateway_with};
use crate::topics::expect_matched;

#[tokio::test]
async fn headers_are_escaped_both_ways_in_1_1_and_1_2() {
    let gateway = gateway();
    let mut v12 = listening(&gateway, "1.2").await;
    v12.send("SEND\ndestination:/topic/a\na\\cb:c\\nd\\\\e\\rf:g\n\nx").await;
    let message = v12.expect("MESSAGE").await.with("a:b", "c\nd\\e\rf:g");
    assert_eq!(message.body(), "x");
    let mut v11 = listening(&gateway, "1.1").await;
    v11.send("SEND\ndestination:/topic/a\na\\cb:c\\nd\\\\e:g\n\nx").await;
    v11.expect("MESSAGE").await.with("a:b", "c\nd\\e:g");
    v12.expect("MESSAGE").await.with("a:b", "c\nd\\e:g");
}

#[tokio::test]
async fn a_header_that_the_readers_version_cannot_say_is_left_out() {
    let gateway = gateway();
    let mut v10 = listening(&gateway, "1.0").await;
    let mut v11 = listening(&gateway, "1.1").await;
    let mut v12 = Client::connect(&gateway, "1.2").await;
    let injection = "evil\\n\\nSEND";
    v12.send(format!("SEND\ndestination:/topic/a\nlf:{injection}\ncr:a\\rb\nx\\cy:1\nplain:1\n\nbody")).await;
    v10.expect("MESSAGE")
        .await
        .with("plain", "1")
        .without("lf")
        .without("cr")
        .without("x:y")
        .without("x")
        .saying("body");
    v11.expect("MESSAGE")
        .await
        .with("plain", "1")
        .with("lf", "evil\n\nSEND")
        .without("cr")
        .with("x:y", "1")
        .saying("body");
}

#[tokio::test]
async fn cr_before_lf_is_stripped_in_1_2_alone() {
    let gateway = gateway();
    let mut v12 = listening(&gateway, "1.2").await;
    v12.send("SEND\r\ndestination:/topic/a\r\nfoo:1\r\n\r\nx\r\n").await;
    v12.expect("MESSAGE").await.with("foo", "1").saying("x\r\n");
    let mut v11 = Client::connect(&gateway, "1.1").await;
    v11.send("SEND\ndestination:/topic/a\nfoo:1\r\n\nx").await;
    v12.expect("MESSAGE").await.with("foo", "1\r").saying("x");
}

#[tokio::test]
async fn wildcards_may_stand_anywhere() {
    let gateway = gateway();
    let names = ["/topic/a/x/c", "/topic/a/c", "/topic/a/x/y/c", "/topic/a/x", "/topic/foo1/c", "/topic/bar/c"];
    expect_matched(&gateway, "/topic/a/*/c", &names, &["/topic/a/x/c"]).await;
    expect_matched(&gateway, "/topic/a/#/c", &names, &["/topic/a/x/c", "/topic/a/c", "/topic/a/x/y/c"]).await;
    expect_matched(&gateway, "/topic/foo*/c", &names, &["/topic/foo1/c"]).await;
    expect_matched(&gateway, "/topic/**/x", &names, &["/topic/a/x"]).await;
}

#[tokio::test]
async fn percent_writes_any_character() {
    let gateway = gateway();
    let names = ["/topic/50%25", "/topic/gl%C3%BCck", "/topic/glück", "/topic/a%2Fb"];
    expect_matched(&gateway, "/topic/glück", &names, &["/topic/gl%C3%BCck", "/topic/glück"]).await;
    expect_matched(&gateway, "/topic/50%25", &names, &["/topic/50%25"]).await;
    expect_matched(&gateway, "/topic/a/b", &["/topic/a%2Fb", "/topic/a/b"], &["/topic/a/b"]).await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/*").await;
    client.send("SEND\ndestination:/topic/a%2Fb\n\nx").await;
    client.expect("MESSAGE").await.with("destination", "/topic/a%2Fb");
}

#[tokio::test]
async fn dollar_topics_are_not_matched_by_a_leading_wildcard() {
    let gateway = gateway();
    let names = ["/topic/$share/x", "/topic/a/$b"];
    expect_matched(&gateway, "/topic/#", &names, &["/topic/a/$b"]).await;
    expect_matched(&gateway, "/topic/*/x", &names, &[]).await;
    expect_matched(&gateway, "/topic/$share/*", &names, &["/topic/$share/x"]).await;
}

#[tokio::test]
async fn a_message_that_has_expired_is_not_delivered() {
    let gateway = gateway();
    sender(&gateway, &["expiration:1|gone", "expiration:60000|in time", "for ever"]).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut reader = reader(&gateway, "").await;
    assert_eq!(reader.bodies(2).await, ["in time", "for ever"]);
}

#[tokio::test]
async fn a_queue_waits_for_a_slow_consumer_and_loses_nothing() {
    let gateway = gateway_with(small_outbox);
    let mut slow = Client::connect_narrow(&gateway, "1.2").await;
    slow.subscribe("id:0\ndestination:/queue/flood").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    for count in 0..MESSAGES {
        writer.does(&format!("SEND\ndestination:/queue/flood\n\n{}", numbered(count))).await;
    }
    let mut other = Client::connect(&gateway, "1.2").await;
    other.send("SUBSCRIBE\nid:0\ndestination:/queue/flood").await;
    let mut read = Vec::new();
    while read.last() != Some(&(MESSAGES - 1)) {
        read.push(number(&other.expect("MESSAGE").await.body()));
    }
    assert!(read.is_sorted(), "out of order");
    let rest = slow.bodies(MESSAGES - read.len()).await;
    let mut first: Vec<_> = rest.iter().map(|body| number(body)).collect();
    assert!(first.is_sorted(), "out of order");
    first.extend(read);
    assert_eq!(first, (0..MESSAGES).collect::<Vec<_>>());
}
