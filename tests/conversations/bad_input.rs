//! Input that is against a rule: its ERROR, its close code, and nobody else notices (contract, §6).

use crate::support::raw::{BINARY, CLOSE, FIN, PING, TEXT, header};
use crate::support::{Client, Gateway, Raw, gateway, gateway_with, wire};

/// The first byte and the payload.
type WebSocketFrame<'a> = (u8, &'a [u8]);

#[tokio::test]
async fn a_text_message_that_is_not_utf_8_is_closed_with_1007() {
    let gateway = gateway();
    for payload in [&b"SEND\n\xff\n\n\0"[..], b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"] {
        let mut raw = Raw::connected(&gateway, "1.2").await;
        raw.text(payload).await;
        raw.expect_error("invalid-utf8", 1007).await;
    }
    let mut raw = Raw::upgraded(&gateway).await;
    raw.text(b"CONNECT\nlogin:\xff\n\n\0").await;
    raw.expect_error("invalid-utf8", 1007).await;
}

#[tokio::test]
async fn what_is_against_rfc_6455_is_closed_with_1002() {
    let gateway = gateway();
    let attacks: &[(&str, &[WebSocketFrame])] = &[
        ("RSV1", &[(TEXT | 0x40, b"\n")]),
        ("RSV2", &[(TEXT | 0x20, b"\n")]),
        ("RSV3", &[(TEXT | 0x10, b"\n")]),
        ("reserved opcode 3", &[(FIN | 3, b"\n")]),
        ("reserved opcode 7", &[(FIN | 7, b"\n")]),
        ("reserved control opcode B", &[(FIN | 0xB, b"")]),
        ("reserved control opcode F", &[(FIN | 0xF, b"")]),
        ("a fragmented ping", &[(PING & !FIN, b"")]),
        ("a ping of 126 bytes", &[(PING, &[0; 126])]),
        ("a continuation of nothing", &[(FIN, b"\n")]),
        ("a message within another", &[(TEXT & !FIN, b"\n"), (TEXT, b"\n")]),
    ];
    for (what, frames) in attacks {
        let mut raw = Raw::connected(&gateway, "1.2").await;
        for (first, payload) in *frames {
            raw.frame(*first, payload).await;
        }
        let error = raw.expect_error("websocket-protocol", 1002).await;
        assert!(!error.body().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn frames_that_are_not_masked_are_closed_with_1002() {
    let gateway = gateway();
    let mut raw = Raw::connected(&gateway, "1.2").await;
    raw.write([header(TEXT, 0, 1), vec![b'\n']].concat()).await;
    raw.expect_error("websocket-protocol", 1002).await;
}

#[tokio::test]
async fn a_close_frame_that_is_none_is_closed_with_1002() {
    let gateway = gateway();
    for payload in [&[3_u8][..], &[3, 0xEC], &[0, 0], &[3, 0xED], &[3, 0xEE]] {
        let mut raw = Raw::connected(&gateway, "1.2").await;
        raw.frame(CLOSE, payload).await;
        let (first, answer) = loop {
            match raw.next().await.expect("a close") {
                (first, answer) if first == CLOSE => break (first, answer),
                _ => {} // an ERROR may come first
            }
        };
        assert_eq!((first, &answer[..2]), (CLOSE, &1002_u16.to_be_bytes()[..]), "{payload:?}");
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_closed_with_1009_before_it_is_there() {
    let gateway = gateway();
    for kind in [TEXT, BINARY] {
        let mut raw = Raw::connected(&gateway, "1.2").await;
        raw.write(header(kind, 0x80, 100 * 1024 * 1024)).await;
        raw.write([0; 4]).await;
        raw.expect_error("too-large", 1009).await.about("session.max_body");
    }
    let mut raw = Raw::connected(&gateway, "1.2").await;
    raw.write([&[BINARY, 0xFF][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat()).await;
    let (code, close) = match raw.expect("ERROR").await.get("code").as_str() {
        "too-large" => ("too-large", 1009),
        _ => ("websocket-protocol", 1002), // the first bit of a length is not allowed, either
    };
    raw.expect_close(close).await;
    assert!(!code.is_empty());
}

#[tokio::test]
async fn fragments_that_add_up_to_too_much_are_closed_with_1009() {
    let gateway = gateway_with(|config| config.session.max_body = 10_000);
    let mut raw = Raw::connected(&gateway, "1.2").await;
    raw.frame(BINARY & !FIN, "x".repeat(10_000)).await;
    raw.frame(0, "x".repeat(10_000)).await;
    raw.frame(0, "x".repeat(10_000)).await;
    raw.expect_error("too-large", 1009).await;
}

#[tokio::test]
async fn a_frame_over_many_messages_is_held_to_the_same_limit() {
    let gateway = gateway_with(|config| config.session.max_body = 10_000);
    for head in ["", "content-length:10001\n"] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send_message(format!("SEND\ndestination:/topic/a\n{head}\n").into_bytes()).await;
        for _ in 0..11 {
            let _ = client.try_send_message(&"x".repeat(1000)).await;
        }
        client.expect_error("too-large", 1009).await.about("session.max_body");
    }
}

#[tokio::test]
async fn what_is_no_frame_is_a_malformed_frame() {
    let gateway = gateway();
    for (bytes, about) in [
        ("SEND\ndestination\n\n\0", "colon"),
        ("SEND\n:value\n\n\0", "name"),
        ("SEND\nfoo:a\0b\n\n\0", "NUL"),
        ("SEND\ndestination:/topic/a\ncontent-length:abc\n\nx\0", "content-length"),
        ("SEND\ndestination:/topic/a\ncontent-length:-1\n\nx\0", "content-length"),
        ("SEND\ndestination:/topic/a\ncontent-length:+1\n\nx\0", "content-length"),
        ("SEND\ndestination:/topic/a\ncontent-length:99999999999999999999999\n\nx\0", "content-length"),
        ("SEND\ndestination:/topic/a\ncontent-length:1\n\nxyz\0", "NUL"),
        ("SUBSCRIBE\nid:0\ndestination:/topic/a\n\nbody\0", "body"),
        ("SEND\nfoo:a\rb\n\n\0", "carriage return"),
        ("\rSEND\n\n\0", "carriage return"),
    ] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send_message(bytes.as_bytes().to_vec()).await;
        client.expect_error("malformed-frame", 1002).await.with("message", "Malformed frame").about(about);
    }
}

#[tokio::test]
async fn headers_that_are_not_utf_8_are_a_malformed_frame() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send_message(b"SEND\ndestination:/topic/a\nfoo:\xff\n\nx\0".to_vec()).await;
    client.expect_error("malformed-frame", 1002).await.about("UTF-8");
}

#[tokio::test]
async fn a_command_that_no_client_sends_is_unknown() {
    let gateway = gateway();
    for command in ["FOO", "send", "GET / HTTP/1.1", "MESSAGE", "RECEIPT", "ERROR", "CONNECTED", " SEND"] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send(format!("{command}\nfoo:1")).await;
        client.expect_error("unknown-command", 1002).await.with("message", "Unknown command");
    }
}

#[tokio::test]
async fn headers_are_counted_and_measured() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send(format!("SEND\ndestination:/topic/a\n{}\nx", "a:1\n".repeat(101))).await;
    client.expect_error("too-large", 1009).await.about("session.max_headers").about("100");
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send(format!("SEND\ndestination:/topic/a\nfoo:{}\n\nx", "y".repeat(17_000))).await;
    client.expect_error("too-large", 1009).await.about("session.max_header_bytes").about("16384");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_by_what_its_head_says() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send_message(b"SEND\ndestination:/topic/a\ncontent-length:4194305\n\n".to_vec()).await;
    client.expect_error("too-large", 1009).await.about("session.max_body").about("4194304");
}

#[tokio::test]
async fn a_header_that_its_command_needs_must_be_there() {
    let gateway = gateway();
    for (version, frame, message) in [
        ("1.2", "SEND\n\nx", "Missing destination"),
        ("1.2", "SEND\ndestination:\n\nx", "Missing destination"),
        ("1.2", "SUBSCRIBE\nid:0", "Missing destination"),
        ("1.2", "SUBSCRIBE\ndestination:/topic/a", "Missing id"),
        ("1.1", "SUBSCRIBE\ndestination:/topic/a", "Missing id"),
        ("1.2", "UNSUBSCRIBE\ndestination:/topic/a", "Missing id"),
        ("1.0", "UNSUBSCRIBE", "Missing id"),
        ("1.2", "ACK\nmessage-id:1", "Missing id"),
        ("1.1", "ACK\nsubscription:0", "Missing message-id"),
        ("1.0", "ACK", "Missing message-id"),
        ("1.2", "NACK", "Missing id"),
        ("1.2", "BEGIN", "Missing transaction"),
        ("1.2", "COMMIT", "Missing transaction"),
        ("1.2", "ABORT", "Missing transaction"),
    ] {
        let mut client = Client::connect(&gateway, version).await;
        client.send(frame).await;
        client.expect_error("missing-header", 1002).await.with("message", message);
    }
}

#[tokio::test]
async fn an_error_says_what_happened_and_whose_receipt_it_answers() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/nowhere/x\nreceipt:a\\cb\n\nx").await;
    let error = client.expect_error("unknown-destination", 1008).await.in_text();
    error.with("message", "Unknown destination").with("receipt-id", "a:b").about("/nowhere/x").about("/topic/");
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/nowhere/x\n\nx").await;
    client.expect_error("unknown-destination", 1008).await.without("receipt-id");
}

#[tokio::test]
async fn nothing_after_the_culprit_is_handled() {
    let gateway = gateway();
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/a").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    let frames = ["SEND\ndestination:/topic/a\n\nbefore\0", "FOO\n\n\0", "SEND\ndestination:/topic/a\n\nafter\0"];
    client.send_message(frames.concat().into_bytes()).await;
    let _ = client.try_send_message("SEND\ndestination:/topic/a\n\nlater\0").await;
    client.expect_error("unknown-command", 1002).await;
    reader.expect("MESSAGE").await.saying("before");
    reader.expect_nothing().await;
}

#[tokio::test]
async fn an_error_comes_after_all_that_was_sent_before_it() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    let body = "y".repeat(300_000);
    client.send(format!("SEND\ndestination:/topic/a\n\n{body}")).await;
    client.send("FOO").await;
    client.expect("MESSAGE").await.saying(body);
    client.expect_error("unknown-command", 1002).await;
}

#[tokio::test]
async fn an_error_of_a_client_that_wrote_on_is_not_lost() {
    let gateway = gateway();
    let mut raw = Raw::connected(&gateway, "1.2").await;
    raw.text(wire("FOO")).await;
    for _ in 0..100 {
        raw.try_write(crate::support::raw::masked(TEXT, &[b'\n'; 10_000])).await;
    }
    raw.expect_error("unknown-command", 1002).await;
}

#[tokio::test]
async fn nobody_else_notices() {
    let gateway = gateway();
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/a").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    let mut number = 0;
    for bad in [
        &b"FOO\n\n\0"[..],
        b"SEND\n\n\0",
        b"SEND\nfoo\n\n\0",
        b"SEND\ndestination:/nowhere\n\n\0",
        b"ACK\nid:1\n\n\0",
        b"SEND\ndestination:/topic/a\ncontent-length:3\n\nfour\0",
        b"\xff\xfe\n\n\0",
        b"SUBSCRIBE\nid:0\ndestination:/topic/%zz\n\n\0",
    ] {
        break_in(&gateway, bad).await;
        number += 1;
        writer.send(format!("SEND\ndestination:/topic/a\n\n{number}")).await;
        reader.expect("MESSAGE").await.saying(number.to_string());
    }
}

async fn break_in(gateway: &Gateway, bytes: &[u8]) {
    let mut client = Client::connect(gateway, "1.2").await;
    client.send_message(bytes.to_vec()).await;
    client.expect("ERROR").await;
}
