//! `/topic/…` and the spelling of destinations (contract, §1 and §3).

use crate::support::{Client, Gateway, gateway};

/// What a SEND to this destination is refused with.
pub(crate) async fn refused_to_send(gateway: &Gateway, destination: &str, code: &str) -> String {
    let mut client = Client::connect(gateway, "1.2").await;
    client.send(format!("SEND\ndestination:{destination}\n\nx")).await;
    client.expect_error(code, 1008).await.body()
}

/// What a SUBSCRIBE to this destination is refused with.
pub(crate) async fn refused_to_subscribe(gateway: &Gateway, destination: &str, code: &str) -> String {
    let mut client = Client::connect(gateway, "1.2").await;
    client.send(format!("SUBSCRIBE\nid:0\ndestination:{destination}")).await;
    client.expect_error(code, 1008).await.body()
}

/// A reader of `pattern` gets `expected` of what is sent to each of `names`, in this order, and nothing else.
pub(crate) async fn expect_matched(gateway: &Gateway, pattern: &str, names: &[&str], expected: &[&str]) {
    let mut reader = Client::connect(gateway, "1.2").await;
    reader.subscribe(&format!("id:0\ndestination:{pattern}")).await;
    for name in names {
        reader.send(format!("SEND\ndestination:{name}\n\n{name}")).await;
    }
    // It comes by the same subscription, and so after all the others.
    if let Some(name) = expected.first() {
        reader.send(format!("SEND\ndestination:{name}\n\nend")).await;
        assert_eq!(reader.bodies(expected.len() + 1).await, [expected, &["end"]].concat(), "{pattern}");
    } else {
        reader.expect_nothing().await;
    }
}

#[tokio::test]
async fn every_subscriber_gets_a_copy_with_the_same_message_id() {
    let gateway = gateway();
    let mut clients = Vec::new();
    for version in ["1.0", "1.1", "1.2"] {
        let mut client = Client::connect(&gateway, version).await;
        client.subscribe("id:sub-1\ndestination:/topic/news").await;
        clients.push(client);
    }
    clients[0].send("SEND\ndestination:/topic/news\ncontent-type:text/plain\n\nhello").await;
    let mut ids = Vec::new();
    for client in &mut clients {
        let message = client.expect("MESSAGE").await.with("destination", "/topic/news").with("subscription", "sub-1");
        let message = message.with("content-type", "text/plain").saying("hello").without("ack").without("redelivered");
        ids.push(message.get("message-id"));
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn who_does_not_subscribe_gets_nothing() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("SEND\ndestination:/topic/news\n\nhello").await.unrouted();
    client.subscribe("id:0\ndestination:/topic/news").await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn slash_and_dot_are_one_topic_and_each_reader_sees_its_own_separator() {
    let gateway = gateway();
    let mut slash = Client::connect(&gateway, "1.2").await;
    slash.subscribe("id:0\ndestination:/topic/a/b").await;
    let mut dot = Client::connect(&gateway, "1.2").await;
    dot.subscribe("id:0\ndestination:/topic/a.b").await;
    let mut dots = Client::connect(&gateway, "1.2").await;
    dots.subscribe("id:0\ndestination:/topic/a.#").await;
    for spelling in ["/topic/a/b", "/topic/a.b"] {
        slash.send(format!("SEND\ndestination:{spelling}\n\nx")).await;
        slash.expect("MESSAGE").await.with("destination", "/topic/a/b");
        dot.expect("MESSAGE").await.with("destination", "/topic/a.b");
        dots.expect("MESSAGE").await.with("destination", "/topic/a.b");
    }
}

#[tokio::test]
async fn wildcards_have_three_spellings() {
    let gateway = gateway();
    let names = ["/topic/a", "/topic/a/b", "/topic/a.c", "/topic/a/b/c", "/topic/b/b", "/topic/ab"];
    for pattern in ["/topic/a/*", "/topic/a.*", "/topic/a/+"] {
        expect_matched(&gateway, pattern, &names, &["/topic/a/b", "/topic/a.c"]).await;
    }
    for pattern in ["/topic/a/#", "/topic/a.#", "/topic/a/**"] {
        let all = ["/topic/a", "/topic/a/b", "/topic/a.c", "/topic/a/b/c"];
        expect_matched(&gateway, pattern, &names, &all).await;
    }
    expect_matched(&gateway, "/topic/#", &names, &names).await;
}

#[tokio::test]
async fn a_pattern_shows_the_destination_that_was_sent_to() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a/**").await;
    client.send("SEND\ndestination:/topic/a.b.c\n\nx").await;
    client.expect("MESSAGE").await.with("destination", "/topic/a/b/c");
}

#[tokio::test]
async fn overlapping_subscriptions_each_get_their_copy() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    for (id, destination) in [("0", "/topic/a/b"), ("1", "/topic/a/*"), ("2", "/topic/a/#"), ("3", "/topic/a/b")] {
        client.subscribe(&format!("id:{id}\ndestination:{destination}")).await;
    }
    client.send("SEND\ndestination:/topic/a/b\n\nx").await;
    let mut subscriptions = Vec::new();
    for _ in 0..4 {
        subscriptions.push(client.expect("MESSAGE").await.get("subscription"));
    }
    subscriptions.sort();
    assert_eq!(subscriptions, ["0", "1", "2", "3"]);
    client.expect_nothing().await;
}

#[tokio::test]
async fn what_percent_cannot_write_is_an_invalid_destination() {
    let gateway = gateway();
    for name in ["%", "%2", "%zz", "a%", "%00", "%FF", "%C3"] {
        for kind in ["topic", "queue"] {
            refused_to_send(&gateway, &format!("/{kind}/{name}"), "invalid-destination").await;
            refused_to_subscribe(&gateway, &format!("/{kind}/{name}"), "invalid-destination").await;
        }
    }
}

#[tokio::test]
async fn nothing_is_sent_to_a_wildcard() {
    let gateway = gateway();
    for destination in
        ["/topic/*", "/topic/a.#", "/topic/a/+", "/topic/**", "/topic/a*", "/queue/*", "/user/ada/topic/#"]
    {
        let body = refused_to_send(&gateway, destination, "invalid-destination").await;
        assert!(body.contains(destination), "{body}");
    }
}

#[tokio::test]
async fn queues_take_no_pattern() {
    let gateway = gateway();
    for destination in ["/queue/*", "/queue/a.#", "/queue/a+", "/amq/queue/*", "/user/queue/#"] {
        refused_to_subscribe(&gateway, destination, "invalid-destination").await;
    }
}

#[tokio::test]
async fn names_that_begin_with_stompgate_are_the_gateways_own() {
    let gateway = gateway();
    for destination in [
        "/topic/stompgate.x",
        "/topic/stompgate/x",
        "/topic/stompgate%2Ex",
        "/topic/stompgate%2Fx",
        "/queue/stompgate.x",
        "/queue/stompgate/x",
        "/queue/stompgate%2Ex",
    ] {
        refused_to_send(&gateway, destination, "invalid-destination").await;
        refused_to_subscribe(&gateway, destination, "invalid-destination").await;
    }
    let names = ["/topic/stompgates", "/topic/x.stompgate.y"];
    expect_matched(&gateway, "/topic/#", &names, &names).await;
}

#[tokio::test]
async fn an_unknown_destination_lists_the_kinds_there_are() {
    let gateway = gateway();
    for destination in ["/nowhere/x", "news", "topic/news", "/", "/topic", "/amq/x", "//topic/a"] {
        let body = refused_to_send(&gateway, destination, "unknown-destination").await;
        assert!(["/topic/", "/queue/", "/user/", "/app/"].iter().all(|kind| body.contains(kind)), "{body}");
        refused_to_subscribe(&gateway, destination, "unknown-destination").await;
    }
}

#[tokio::test]
async fn a_destination_without_a_name_is_invalid() {
    let gateway = gateway();
    for destination in ["/topic/", "/queue/", "/user/ada/queue/", "/reply-queue/"] {
        refused_to_send(&gateway, destination, "invalid-destination").await;
    }
    for destination in ["/topic/", "/queue/", "/user/queue/", "/temp-queue/"] {
        refused_to_subscribe(&gateway, destination, "invalid-destination").await;
    }
}

#[tokio::test]
async fn app_without_a_handler_is_an_error() {
    let gateway = gateway();
    refused_to_send(&gateway, "/app/marco", "no-handler").await;
    refused_to_subscribe(&gateway, "/app/marco", "no-handler").await;
}

#[tokio::test]
async fn the_same_id_twice_is_an_error_in_the_words_of_rabbitmq() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/topic/b\nreceipt:7").await;
    let error = client.expect_error("duplicate-subscription", 1008).await.with("receipt-id", "7");
    error.with("message", "Duplicated subscription identifier");
}

#[tokio::test]
async fn an_id_is_free_again_after_unsubscribe() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    client.does("UNSUBSCRIBE\nid:0").await;
    client.does("SEND\ndestination:/topic/a\n\nx").await;
    client.subscribe("id:0\ndestination:/topic/b").await;
    client.send("SEND\ndestination:/topic/b\n\nx").await;
    client.expect("MESSAGE").await.with("subscription", "0");
}

#[tokio::test]
async fn unsubscribe_of_what_is_not_subscribed_is_an_error() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("UNSUBSCRIBE\nid:0\nreceipt:7").await;
    client
        .expect_error("unknown-subscription", 1008)
        .await
        .with("receipt-id", "7")
        .with("message", "Subscription not found");
}

#[tokio::test]
async fn unsubscribe_ends_one_subscription_and_no_other() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    client.subscribe("id:1\ndestination:/topic/a").await;
    client.does("UNSUBSCRIBE\nid:0").await;
    client.send("SEND\ndestination:/topic/a\n\nx").await;
    client.expect("MESSAGE").await.with("subscription", "1");
    client.expect_nothing().await;
}

#[tokio::test]
async fn in_1_0_the_destination_takes_the_place_of_the_id() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.0").await;
    client.subscribe("destination:/topic/a").await;
    client.send("SEND\ndestination:/topic/a\n\nx").await;
    client.expect("MESSAGE").await.without("subscription").with("destination", "/topic/a");
    client.does("UNSUBSCRIBE\ndestination:/topic/a").await;
    client.does("SEND\ndestination:/topic/a\n\nx").await;
    client.subscribe("destination:/topic/b").await;
    client.send("SUBSCRIBE\ndestination:/topic/b").await;
    client.expect_error("duplicate-subscription", 1008).await;
}

#[tokio::test]
async fn a_selector_is_refused_and_never_ignored() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/topic/a\nselector:price > 10").await;
    client.expect_error("unsupported", 1008).await.about("selector");
}

#[tokio::test]
async fn messages_of_one_sender_come_in_order() {
    let gateway = gateway();
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/#").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    for number in 0..500 {
        writer.send(format!("SEND\ndestination:/topic/a/{}\n\n{number}", number % 7)).await;
    }
    let expected: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    assert_eq!(reader.bodies(500).await, expected);
}

#[tokio::test]
async fn one_source_is_read_once_for_all_its_readers() {
    let gateway = gateway();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.subscribe("id:0\ndestination:/topic/a").await;
        client.subscribe("id:1\ndestination:/topic/b").await;
        clients.push(client);
    }
    assert_eq!(gateway.shared_subscriptions(), 2);
    for client in &mut clients {
        client.does("UNSUBSCRIBE\nid:1").await;
    }
    assert_eq!(gateway.shared_subscriptions(), 1);
}
