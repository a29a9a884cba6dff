//! Compressed messages of the WebSocket (contract, §7, Compression; RFC 7692).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use stompgate::config::Config;

use crate::support::operator::ask;
use crate::support::raw::{BINARY, CLOSE, FIN, PING, PONG, TEXT, masked, request};
use crate::support::{Gateway, Raw, connect_frame, gateway, gateway_with, wire};

/// The first byte and the payload.
type WebSocketFrame<'a> = (u8, &'a [u8]);

const RSV1: u8 = 0x40;
const CONTINUATION: u8 = 0x00;
const EXTENSIONS: &str = "sec-websocket-extensions";
/// What browsers offer.
const OFFER: &str = "permessage-deflate; client_max_window_bits";
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

fn compressing() -> Gateway {
    compressing_with(|_| {})
}

fn compressing_with(change: impl FnOnce(&mut Config)) -> Gateway {
    gateway_with(|config| {
        config.server.deflate.enabled = true;
        change(config);
    })
}

/// An open WebSocket on which this was agreed.
async fn upgraded(gateway: &Gateway, offer: &str, answer: &str) -> Raw {
    let (raw, answered) = Raw::upgraded_with(gateway, &[(EXTENSIONS, offer)]).await;
    assert_eq!(answered.get(EXTENSIONS), answer);
    raw
}

/// A session that may compress.
async fn connected(gateway: &Gateway) -> Raw {
    let mut raw = upgraded(gateway, OFFER, ANSWER).await;
    raw.login("1.2").await;
    raw
}

/// A session that listens to `/topic/a`.
async fn listening(gateway: &Gateway, id: &str) -> Raw {
    let mut raw = connected(gateway).await;
    raw.text(wire(format!("SUBSCRIBE\nid:{id}\ndestination:/topic/a\nreceipt:s"))).await;
    raw.expect("RECEIPT").await;
    raw
}

fn deflated(plain: impl AsRef<[u8]>) -> Vec<u8> {
    let plain = plain.as_ref();
    let mut out = Vec::with_capacity(plain.len() + 1000);
    let mut compress = Compress::new(Compression::best(), false);
    compress.compress_vec(plain, &mut out, FlushCompress::Sync).expect("bytes");
    out.strip_suffix(&[0, 0, 0xff, 0xff]).expect("a flush").to_vec()
}

fn inflated(mut compressed: Vec<u8>) -> String {
    compressed.extend([0, 0, 0xff, 0xff]);
    let mut plain = Vec::with_capacity(1024 * 1024);
    let mut decompress = Decompress::new(false); // one of its own for each message: no context is taken over
    decompress.decompress_vec(&compressed, &mut plain, FlushDecompress::Sync).expect("DEFLATE data");
    assert_eq!(decompress.total_in(), compressed.len() as u64, "all of it");
    String::from_utf8(plain).expect("text")
}

fn send(body: &str) -> Vec<u8> {
    wire(format!("SEND\ndestination:/topic/a\n\n{body}"))
}

/// So many bytes that can be compressed to a third or so.
fn prose(length: usize) -> String {
    let words = ["price", "volume", "open", "close", "bid", "ask"];
    let numbers = (0..length).map(|number| number.wrapping_mul(7919) % 10_007);
    let pairs = words.iter().cycle().zip(numbers).map(|(word, number)| format!("{word}={number}"));
    let mut text = pairs.collect::<Vec<_>>().join(" ");
    text.truncate(length);
    text
}

#[tokio::test]
async fn without_the_setting_no_offer_is_agreed_to() {
    let gateway = gateway();
    let (mut raw, answer) = Raw::upgraded_with(&gateway, &[(EXTENSIONS, OFFER)]).await;
    assert_eq!(answer.maybe(EXTENSIONS), None);
    raw.frame(TEXT | RSV1, deflated(wire(connect_frame("1.2", "")))).await;
    raw.expect_error("websocket-protocol", 1002).await;
}

#[tokio::test]
async fn offers_are_answered_as_they_are_made() {
    let gateway = compressing();
    for (offer, answer) in [
        ("permessage-deflate", Some(ANSWER)),
        (OFFER, Some(ANSWER)),
        ("permessage-deflate; client_max_window_bits=9", Some(ANSWER)),
        (
            "permessage-deflate; server_max_window_bits=10",
            Some(
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10",
            ),
        ),
        ("permessage-deflate; server_max_window_bits=99, permessage-deflate", Some(ANSWER)),
        ("permessage-deflate; server_max_window_bits=99", None),
        ("permessage-deflate; unheard_of", None),
        ("permessage-bzip2", None),
        (";;,=", None),
    ] {
        let (mut raw, answered) = Raw::upgraded_with(&gateway, &[(EXTENSIONS, offer)]).await;
        assert_eq!(answered.maybe(EXTENSIONS), answer, "{offer}");
        raw.login("1.2").await; // declined or not, the WebSocket is open
    }
    assert_eq!(Raw::upgraded_with(&gateway, &[]).await.1.maybe(EXTENSIONS), None, "none was offered");
}

#[tokio::test]
async fn without_an_agreement_rsv1_is_a_protocol_error() {
    let gateway = compressing();
    let mut raw = Raw::connected(&gateway, "1.2").await;
    raw.frame(TEXT | RSV1, deflated(send("x"))).await;
    raw.expect_error("websocket-protocol", 1002).await;
}

#[tokio::test]
async fn a_session_may_be_compressed_from_its_first_message_on() {
    let gateway = compressing();
    let mut raw = upgraded(&gateway, OFFER, ANSWER).await;
    raw.frame(TEXT | RSV1, deflated(wire(connect_frame("1.2", "")))).await;
    raw.expect("CONNECTED").await;
    raw.frame(BINARY | RSV1, deflated(wire("SUBSCRIBE\nid:0\ndestination:/topic/a\nreceipt:s"))).await;
    raw.expect("RECEIPT").await;
    raw.text(send("one that is not")).await;
    raw.expect("MESSAGE").await.saying("one that is not");
}

#[tokio::test]
async fn a_client_that_speaks_with_its_handshake_is_understood() {
    let gateway = compressing();
    let mut raw = Raw::tcp(&gateway).await;
    let connect = masked(TEXT | RSV1, &deflated(wire(connect_frame("1.2", ""))));
    let request = request("GET /ws HTTP/1.1", &[(EXTENSIONS, OFFER)]);
    raw.write([request.into_bytes(), connect].concat()).await;
    assert_eq!(raw.answer().await.status, 101);
    raw.expect("CONNECTED").await;
}

#[tokio::test]
async fn fragments_arrive_with_pings_between_them() {
    let gateway = compressing();
    let mut reader = listening(&gateway, "0").await;
    let mut writer = connected(&gateway).await;
    let body = prose(100_000);
    let message = deflated(send(&body));
    let (first, rest) = message.split_at(10);
    writer.frame(RSV1 | TEXT & !FIN, first).await;
    for fragment in rest.chunks(7_000) {
        writer.frame(PING, "still there?").await;
        assert_eq!(writer.next().await, Some((PONG, b"still there?".to_vec())));
        writer.frame(CONTINUATION, fragment).await;
    }
    writer.frame(FIN | CONTINUATION, "").await;

    let (first, payload) = reader.message("a message").await;
    assert_eq!(first, TEXT | RSV1);
    assert!(payload.len() < body.len() / 2 && payload.len() > 16 * 1024, "{}", payload.len());
    let frame = inflated(payload);
    assert!(frame.starts_with("MESSAGE\n") && frame.ends_with(&format!("\n\n{body}\0")));
}

#[tokio::test]
async fn each_reader_is_sent_what_it_agreed_to() {
    let gateway = compressing();
    let offers = [
        (OFFER, ANSWER.to_owned(), true),
        ("permessage-deflate; server_max_window_bits=11", format!("{ANSWER}; server_max_window_bits=11"), true),
        ("permessage-deflate; server_max_window_bits=10", format!("{ANSWER}; server_max_window_bits=10"), false),
    ];
    let mut readers = Vec::new();
    for (offer, answer, is_compressed) in &offers {
        readers.push((upgraded(&gateway, offer, answer).await, *is_compressed));
    }
    readers.push((Raw::upgraded(&gateway).await, false));
    for (reader, _) in &mut readers {
        reader.login("1.2").await;
        reader.text(wire("SUBSCRIBE\nid:0\ndestination:/topic/a\nreceipt:s")).await;
        reader.expect("RECEIPT").await;
    }
    let (short, long) = (prose(200), prose(1500));
    let mut writer = Raw::connected(&gateway, "1.2").await;
    writer.text([send(&short), send(&long)].concat()).await;
    let (mut plain, mut compressed) = (Vec::new(), Vec::new());
    for (mut reader, is_compressed) in readers {
        reader.expect("MESSAGE").await.saying(&short); // nobody gains by 200 bytes
        let (first, payload) = reader.message("a message").await;
        assert_eq!(first, if is_compressed { TEXT | RSV1 } else { TEXT });
        if is_compressed {
            compressed.push(payload.len());
            plain.push(inflated(payload));
        } else {
            plain.push(String::from_utf8(payload).expect("text"));
        }
    }
    assert!(plain[0].ends_with(&format!("\n\n{long}\0")));
    assert!(plain.iter().all(|frame| *frame == plain[0]));

    let metrics = ask(&gateway.admin_address().expect("a port").to_string(), "GET /metrics", "", b"").await.body;
    for (name, value) in [("plain", plain[0].len() * 2), ("sent", compressed.iter().sum())] {
        let line = format!("stompgate_deflate_{name}_bytes_total {value}\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn what_cannot_be_inflated_is_closed_with_1007() {
    let gateway = compressing();
    let whole = deflated(send(&prose(500)));
    for broken in [&[0x06, 0x00][..], &whole[..whole.len() / 2], &[]] {
        let mut raw = connected(&gateway).await;
        raw.frame(TEXT | RSV1, broken).await;
        raw.expect_error("invalid-deflate", 1007).await.about("client_no_context_takeover");
    }
    let mut raw = upgraded(&gateway, OFFER, ANSWER).await;
    raw.frame(TEXT | RSV1, [0x06, 0x00]).await;
    raw.expect_error("invalid-deflate", 1007).await;
}

#[tokio::test]
async fn a_text_that_is_none_once_inflated_is_closed_with_1007() {
    let gateway = compressing();
    let mut raw = connected(&gateway).await;
    raw.frame(TEXT | RSV1, deflated([&send("caf")[..], b"\xe9"].concat())).await;
    raw.expect_error("invalid-utf8", 1007).await;
}

#[tokio::test]
async fn rsv1_where_it_does_not_belong_is_closed_with_1002() {
    let gateway = compressing();
    let message = deflated(send("x"));
    let begun = (RSV1 | TEXT & !FIN, &message[..4]);
    let attacks: &[(&str, &[WebSocketFrame])] = &[
        ("a continuation", &[begun, (RSV1 | FIN | CONTINUATION, &message[4..])]),
        ("a Ping", &[(RSV1 | PING, b"")]),
        ("a close", &[(RSV1 | CLOSE, &[3, 0xE8])]),
        ("a message within another", &[begun, (RSV1 | TEXT, &message)]),
        ("beside RSV2", &[(RSV1 | 0x20 | TEXT, &message)]),
    ];
    for (what, frames) in attacks {
        let mut raw = connected(&gateway).await;
        for (first, payload) in *frames {
            raw.frame(*first, payload).await;
        }
        let error = raw.expect_error("websocket-protocol", 1002).await;
        assert!(!error.body().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn a_bomb_is_closed_with_1009() {
    let gateway = compressing_with(|config| config.session.max_body = 1024 * 1024);
    let bomb = deflated(vec![b'\n'; 16 * 1024 * 1024]);
    assert!(bomb.len() < 20_000, "{} bytes", bomb.len());
    let mut raw = connected(&gateway).await;
    raw.frame(TEXT | RSV1, &bomb).await;
    raw.expect_error("too-large", 1009).await.about("session.max_body");

    let mut stranger = upgraded(&gateway, OFFER, ANSWER).await;
    stranger.frame(TEXT | RSV1, &bomb).await;
    stranger.expect_error("too-large", 1009).await.about("session.max_connect_bytes");
}

#[tokio::test]
async fn rates_count_what_was_inflated() {
    let gateway = compressing_with(|config| config.session.max_bytes_per_second = 10_000);
    let mut raw = connected(&gateway).await;
    raw.frame(TEXT | RSV1, deflated(send(&"x".repeat(100_000)))).await;
    raw.expect_error("rate-exceeded", 4429).await.about("session.max_bytes_per_second");
}
