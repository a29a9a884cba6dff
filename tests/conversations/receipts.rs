//! Receipts tell the truth (contract, §4).

use crate::support::{Client, gateway, gateway_with};

#[tokio::test]
async fn every_command_can_ask_for_a_receipt() {
    let gateway = gateway();
    for version in ["1.0", "1.1", "1.2"] {
        let mut client = Client::connect(&gateway, version).await;
        client.does("SEND\ndestination:/queue/a\n\nx").await;
        client.does("SEND\ndestination:/queue/a\n\ny").await;
        client.does("BEGIN\ntransaction:t").await;
        client.does("SEND\ndestination:/topic/a\ntransaction:t\n\nx").await;
        client.does("COMMIT\ntransaction:t").await;
        client.does("BEGIN\ntransaction:t").await;
        client.does("ABORT\ntransaction:t").await;
        let receipt = client.asks("SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client-individual").await;
        let mut names = Vec::new();
        for command in ["RECEIPT", "MESSAGE", "MESSAGE"] {
            let frame = client.expect(command).await;
            match command {
                "RECEIPT" => _ = frame.with("receipt-id", &receipt),
                _ if version == "1.2" => names.push(format!("id:{}", frame.get("ack"))),
                _ => names.push(format!("subscription:0\nmessage-id:{}", frame.get("message-id"))),
            }
        }
        client.does(&format!("ACK\n{}", names[0])).await;
        client.does(&format!("NACK\n{}\nrequeue:false", names[1])).await;
        client.does("UNSUBSCRIBE\nid:0").await;
        client.disconnect().await;
    }
}

#[tokio::test]
async fn nothing_is_answered_without_being_asked() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SUBSCRIBE\nid:0\ndestination:/topic/a").await;
    client.send("BEGIN\ntransaction:t").await;
    client.send("SEND\ndestination:/topic/b\ntransaction:t\n\nx").await;
    client.send("COMMIT\ntransaction:t").await;
    client.send("SEND\ndestination:/topic/b\n\nx").await;
    client.send("UNSUBSCRIBE\nid:0").await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_receipt_id_is_what_was_asked_for_to_the_letter() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/queue/a\nreceipt:a\\cb\\\\ \\n c\n\nx").await;
    client.expect("RECEIPT").await.with("receipt-id", "a:b\\ \n c").saying("").without("routed");
}

#[tokio::test]
async fn what_reaches_nobody_is_a_receipt_with_routed_false() {
    let gateway = gateway();
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    for destination in ["/topic/a", "/user/nobody/queue/a", "/reply-queue/amq.gen-nobody"] {
        client.does(&format!("SEND\ndestination:{destination}\n\nx")).await.unrouted();
    }
    client.does("SEND\ndestination:/queue/a\n\nstored").await.without("routed");
    client.subscribe("id:0\ndestination:/topic/a").await;
    client.send("SEND\ndestination:/topic/a\nreceipt:7\n\nx").await;
    // Which of the two comes first is the broker's business.
    for frame in [client.expect_any().await, client.expect_any().await] {
        if frame.maybe("receipt-id").is_some() {
            frame.of("RECEIPT").with("receipt-id", "7").without("routed");
        } else {
            frame.of("MESSAGE").saying("x");
        }
    }
}

#[tokio::test]
async fn sends_are_pipelined_and_every_receipt_comes() {
    let gateway = gateway_with(|config| config.session.max_unconfirmed = 10);
    let mut client = Client::connect(&gateway, "1.2").await;
    let frames = (0..1000)
        .map(|number| format!("SEND\ndestination:/queue/a\nreceipt:{number}\n\nx\0"))
        .collect::<Vec<_>>()
        .concat();
    client.send_message(frames.into_bytes()).await;
    let mut receipts = std::collections::HashSet::new();
    for _ in 0..1000 {
        receipts.insert(client.expect("RECEIPT").await.get("receipt-id"));
    }
    assert_eq!(receipts.len(), 1000);
}

#[tokio::test]
async fn nothing_is_missed_after_the_receipt_for_subscribe() {
    let gateway = gateway();
    let mut writer = Client::connect(&gateway, "1.2").await;
    for (id, destination) in [("0", "/topic/a"), ("1", "/topic/a/#"), ("2", "/queue/a")] {
        let mut reader = Client::connect(&gateway, "1.2").await;
        reader.subscribe(&format!("id:{id}\ndestination:{destination}")).await;
        let destination = destination.trim_end_matches("/#");
        writer.does(&format!("SEND\ndestination:{destination}\n\nx")).await;
        reader.expect("MESSAGE").await.with("subscription", id);
    }
}
