//! Frames on the WebSocket and between the versions of STOMP (contract, §2 and §7).

use tokio_tungstenite::tungstenite::Message;

use crate::support::raw::{BINARY, FIN, PING, PONG, TEXT, masked};
use crate::support::{Client, Gateway, Raw, gateway, wire};

/// A client that listens to `/topic/a` as subscription 0.
pub(crate) async fn listening(gateway: &Gateway, version: &str) -> Client {
    let mut client = Client::connect(gateway, version).await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    client
}

#[tokio::test]
async fn text_and_binary_messages_are_both_accepted() {
    let gateway = gateway();
    let mut client = listening(&gateway, "1.2").await;
    client.send_websocket(Message::text("SEND\ndestination:/topic/a\n\nin text\0")).await;
    client.expect("MESSAGE").await.saying("in text").in_text();
    client.send_websocket(Message::binary(&b"SEND\ndestination:/topic/a\n\nin binary\0"[..])).await;
    client.expect("MESSAGE").await.saying("in binary").in_text();
}

#[tokio::test]
async fn a_body_that_is_not_utf_8_comes_in_a_binary_message() {
    let gateway = gateway();
    let mut client = listening(&gateway, "1.2").await;
    let body = [0xff, 0x00, 0xfe, b'x'];
    client.send_message([b"SEND\ndestination:/topic/a\ncontent-length:4\n\n", &body[..], b"\0"].concat()).await;
    client.expect("MESSAGE").await.saying(body).with("content-length", "4").in_binary();
    client.send("SEND\ndestination:/topic/a\n\nglück").await;
    client.expect("MESSAGE").await.saying("glück").in_text();
}

#[tokio::test]
async fn several_frames_may_come_in_one_message() {
    let gateway = gateway();
    let mut client = listening(&gateway, "1.2").await;
    let frames: Vec<u8> = (0..10).flat_map(|n| wire(format!("SEND\ndestination:/topic/a\n\n{n}"))).collect();
    client.send_message(frames).await;
    assert_eq!(client.bodies(10).await, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

#[tokio::test]
async fn one_frame_may_come_in_several_messages() {
    let gateway = gateway();
    let mut client = listening(&gateway, "1.2").await;
    let body = "stompjs splits at 8 KiB. ".repeat(8192);
    for piece in wire(format!("SEND\ndestination:/topic/a\n\n{body}")).chunks(8192) {
        client.send_message(piece.to_vec()).await;
    }
    client.expect("MESSAGE").await.saying(body);
}

#[tokio::test]
async fn frames_may_come_one_byte_at_a_time() {
    let gateway = gateway();
    let mut raw = Raw::upgraded(&gateway).await;
    let connect = "CONNECT\r\naccept-version:1.2\r\nhost:localhost\r\n\r\n\0\n";
    let subscribe = "SUBSCRIBE\nid:0\ndestination:/topic/a\n\n\0\r\n";
    let send = "SEND\ndestination:/topic/a\ncontent-length:3\n\na\0b\0";
    for byte in [connect, subscribe, send].concat().bytes() {
        raw.text([byte]).await;
    }
    raw.expect("CONNECTED").await;
    raw.expect("MESSAGE").await.saying("a\0b");
    let mut bytes = Raw::connected(&gateway, "1.2").await;
    bytes.text(wire("SUBSCRIBE\nid:0\ndestination:/topic/b")).await;
    for byte in masked(TEXT, &wire("SEND\ndestination:/topic/b\n\nslowly")) {
        bytes.write([byte]).await;
    }
    bytes.expect("MESSAGE").await.saying("slowly");
}

#[tokio::test]
async fn a_multibyte_character_may_be_cut_between_two_binary_messages() {
    let gateway = gateway();
    let mut client = listening(&gateway, "1.2").await;
    let bytes = wire("SEND\ndestination:/topic/a\n\nü");
    let (first, second) = bytes.split_at(bytes.len() - 2);
    client.send_websocket(Message::binary(first.to_vec())).await;
    client.send_websocket(Message::binary(second.to_vec())).await;
    client.expect("MESSAGE").await.saying("ü");
}

#[tokio::test]
async fn fragments_are_put_together_with_control_frames_among_them() {
    let gateway = gateway();
    let mut raw = Raw::connected(&gateway, "1.2").await;
    raw.text(wire("SUBSCRIBE\nid:0\ndestination:/topic/a")).await;
    let frame = wire("SEND\ndestination:/topic/a\n\nglück");
    let cut = frame.len() - 4; // within the ü
    raw.frame(TEXT & !FIN, &frame[..10]).await;
    raw.frame(PING, "in between").await;
    raw.frame(0, &frame[10..cut]).await;
    raw.frame(0, "").await;
    raw.frame(FIN, &frame[cut..]).await;
    assert_eq!(raw.next().await, Some((PONG, b"in between".to_vec())));
    raw.expect("MESSAGE").await.saying("glück");
}

#[tokio::test]
async fn a_large_message_goes_out_in_fragments_of_one_message() {
    let gateway = gateway();
    let mut client = listening(&gateway, "1.2").await;
    let mut raw = Raw::connected(&gateway, "1.2").await;
    raw.text(wire("SUBSCRIBE\nid:0\ndestination:/topic/a\nreceipt:1")).await;
    raw.expect("RECEIPT").await;
    let body = (0..200 * 1024 / 8).map(|n| format!("{n:07} ")).collect::<Vec<_>>().concat();
    client.send(format!("SEND\ndestination:/topic/a\n\n{body}")).await;
    client.expect("MESSAGE").await.saying(&body).in_text();
    let first = raw.next().await.expect("a fragment");
    assert_eq!(first.0, TEXT & !FIN, "a first fragment of more");
    assert!(first.1.len() < body.len());
    let mut payload = first.1;
    loop {
        let (first, fragment) = raw.next().await.expect("a fragment");
        assert_eq!(first & !FIN, 0, "a continuation");
        payload.extend_from_slice(&fragment);
        if first & FIN != 0 {
            break;
        }
    }
    assert!(String::from_utf8(payload).expect("text").ends_with(&format!("{body}\0")));
}

#[tokio::test]
async fn line_ends_between_frames_are_heart_beats_and_nothing_else() {
    let gateway = gateway();
    let mut client = listening(&gateway, "1.2").await;
    for noise in ["\n", "\n\n\n", "\r\n", "\r\n\n\r\n"] {
        client.send_message(noise.as_bytes().to_vec()).await;
    }
    client.send("\n\nSEND\ndestination:/topic/a\n\nhello").await;
    client.expect("MESSAGE").await.saying("hello");
    client.send_websocket(Message::text("")).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn with_content_length_a_body_may_hold_nul() {
    let gateway = gateway();
    let mut client = listening(&gateway, "1.2").await;
    client.send("SEND\ndestination:/topic/a\ncontent-length:5\n\na\0b\0c").await;
    client.expect("MESSAGE").await.saying("a\0b\0c").with("content-length", "5");
}

#[tokio::test]
async fn every_message_says_its_content_length() {
    let gateway = gateway();
    let mut client = listening(&gateway, "1.1").await;
    client.send("SEND\ndestination:/topic/a\n\nfour").await;
    client.expect("MESSAGE").await.with("content-length", "4");
    client.send("SEND\ndestination:/topic/a\n\n").await;
    client.expect("MESSAGE").await.with("content-length", "0").saying("");
}

#[tokio::test]
async fn in_1_0_nothing_is_escaped() {
    let gateway = gateway();
    let mut v10 = listening(&gateway, "1.0").await;
    v10.send("SEND\ndestination:/topic/a\npath:C:\\new\\c\n\nx").await;
    v10.expect("MESSAGE").await.with("path", r"C:\new\c");
    let mut v12 = listening(&gateway, "1.2").await;
    v12.send("SEND\ndestination:/topic/a\npath:C\\c\\\\new\n\nx").await;
    v12.expect("MESSAGE").await.with("path", r"C:\new");
    v10.expect("MESSAGE").await.with("path", r"C:\new");
}

#[tokio::test]
async fn an_undefined_escape_is_fatal_in_1_1_and_1_2() {
    let gateway = gateway();
    for (version, header) in [("1.2", r"a:\t"), ("1.2", r"a:b\"), ("1.2", r"a\x:b"), ("1.1", r"a:\r"), ("1.1", r"a:\t")]
    {
        let mut client = Client::connect(&gateway, version).await;
        client.send(format!("SEND\ndestination:/topic/a\n{header}\n\nx")).await;
        client.expect_error("malformed-frame", 1002).await.about("escape");
    }
}

#[tokio::test]
async fn of_a_repeated_header_the_first_counts_and_travels() {
    let gateway = gateway();
    let mut client = listening(&gateway, "1.2").await;
    client.send("SEND\ndestination:/topic/a\ndestination:/topic/b\nfoo:1\nfoo:2\n\nx").await;
    let message = client.expect("MESSAGE").await.with("destination", "/topic/a").with("foo", "1");
    assert_eq!(message.count("foo"), 1);
    assert_eq!(message.count("destination"), 1);
}

#[tokio::test]
async fn in_1_0_one_space_after_the_colon_is_dropped_and_kept_later() {
    let gateway = gateway();
    let mut v12 = listening(&gateway, "1.2").await;
    let mut v10 = Client::connect(&gateway, "1.0").await;
    v10.send("SEND\ndestination: /topic/a\nfoo:  1\n\nx").await;
    v12.expect("MESSAGE").await.with("foo", " 1");
    v12.send("SEND\ndestination:/topic/a\nfoo: 1\n\nx").await;
    v12.expect("MESSAGE").await.with("foo", " 1");
}

#[tokio::test]
async fn in_1_0_other_frames_may_have_a_body_and_it_is_ignored() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.0").await;
    client.send("SUBSCRIBE\ndestination:/topic/a\nreceipt:1\n\nignored").await;
    client.expect("RECEIPT").await;
}

#[tokio::test]
async fn what_a_publisher_says_travels_verbatim() {
    let gateway = gateway();
    let mut client = listening(&gateway, "1.2").await;
    client
        .send(
            "SEND\ndestination:/topic/a\ncontent-type:text/plain;charset=utf-8\ncontent-encoding:identity\n\
             correlation-id:c-1\nreply-to:/topic/answers\npriority:4\ntimestamp:1700000000\ntype:t\napp-id:app\n\
             amqp-message-id:m-1\nX-Custom:Wert mit Ü\n\nx",
        )
        .await;
    let message = client.expect("MESSAGE").await;
    let message = message.with("content-type", "text/plain;charset=utf-8").with("content-encoding", "identity");
    let message = message.with("correlation-id", "c-1").with("reply-to", "/topic/answers").with("priority", "4");
    let message = message.with("timestamp", "1700000000").with("type", "t").with("app-id", "app");
    message.with("amqp-message-id", "m-1").with("X-Custom", "Wert mit Ü");
}

#[tokio::test]
async fn what_speaks_to_the_gateway_does_not_travel() {
    let gateway = gateway();
    let mut reader = listening(&gateway, "1.2").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client
        .send(
            "SEND\ndestination:/topic/a\nreceipt:r\nlogin:l\npasscode:p\nauthorization:a\nsubscription:9\nack:9\n\
             redelivered:true\ngap:true\ndurable:true\nauto-delete:true\nexclusive:true\nCC:c\nBCC:b\nx-death:d\n\
             x-first-death-queue:q\n\nx",
        )
        .await;
    let mut message = reader.expect("MESSAGE").await.with("subscription", "0").with("destination", "/topic/a");
    for name in [
        "receipt",
        "transaction",
        "login",
        "passcode",
        "authorization",
        "ack",
        "redelivered",
        "gap",
        "durable",
        "auto-delete",
        "exclusive",
        "CC",
        "BCC",
        "x-death",
        "x-first-death-queue",
    ] {
        message = message.without(name);
    }
}

#[tokio::test]
async fn every_message_says_who_sent_it() {
    let gateway = gateway();
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    for claim in ["", "user-id:ada\n", "stompgate-user:ada\n"] {
        client.send(format!("SEND\ndestination:/topic/a\n{claim}\nx")).await;
        let message = client.expect("MESSAGE").await.with("stompgate-user", "ada");
        assert_eq!(message.count("stompgate-user"), 1);
    }
}

#[tokio::test]
async fn nobody_speaks_in_anothers_name_or_in_the_gateways() {
    let gateway = gateway();
    for header in ["user-id:bob", "stompgate-user:bob", "stompgate-republished:true", "stompgate-x:1", "message-id:m"] {
        let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
        client.send(format!("SEND\ndestination:/topic/a\nreceipt:7\n{header}\n\nx")).await;
        let error = client.expect_error("forbidden-header", 1008).await.with("receipt-id", "7");
        error.about(header.split_once(':').expect("a header").0);
    }
}

#[tokio::test]
async fn a_bad_number_is_an_error_that_names_header_and_value() {
    let gateway = gateway();
    for (header, value) in [
        ("expiration", "abc"),
        ("expiration", "-1"),
        ("priority", "high"),
        ("priority", "256"),
        ("timestamp", "now"),
        ("qos", "3"),
        ("persistent", "yes"),
        ("retain", "1"),
    ] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send(format!("SEND\ndestination:/topic/a\n{header}:{value}\n\nx")).await;
        client.expect_error("invalid-header", 1002).await.about(header).about(value);
    }
}

#[tokio::test]
async fn both_kinds_of_message_may_be_mixed_within_a_frame() {
    let gateway = gateway();
    let mut raw = Raw::connected(&gateway, "1.2").await;
    raw.text(wire("SUBSCRIBE\nid:0\ndestination:/topic/a")).await;
    let frame = wire("SEND\ndestination:/topic/a\n\nhello");
    raw.frame(TEXT, &frame[..9]).await;
    raw.frame(BINARY, &frame[9..]).await;
    raw.expect("MESSAGE").await.saying("hello");
}
