//! Bytes to frames, and messages to bytes.

use std::hint::black_box;

use bytes::Bytes;
use stompgate::hub::render;
use stompgate::message::Headers;
use stompgate::stomp::{Decoder, Item, Limits, MessageFrame, Version};

use crate::Piece;

/// Bytes of a body, as the goals for a delivery have them.
const BODY: usize = 256;
const FRAMES: u64 = 1000;

/// Frames as a browser sends them, each in a piece of its own.
pub fn decode() -> Piece {
    let frame = send(BODY);
    let mut decoder = decoder();
    Piece::new(FRAMES, move || {
        for _ in 0..FRAMES {
            decode_all(&mut decoder, &frame);
        }
    })
}

/// MESSAGE frames as they are made once for all readers that want the same.
pub fn encode() -> Piece {
    let headers = headers();
    let body = Bytes::from(vec![b'x'; BODY]);
    Piece::new(FRAMES, move || {
        for _ in 0..FRAMES {
            black_box(render(&message(&headers, &body), Version::V12));
        }
    })
}

/// A decoder of STOMP 1.2 behind its CONNECT.
pub fn decoder() -> Decoder {
    let limits = Limits { headers: 100, header_bytes: 16 * 1024, body: 1024 * 1024, frame: None };
    let mut decoder = Decoder::new(limits);
    decoder.set_version(Version::V12);
    decoder
}

/// Decodes what came until more must come, and counts frames.
pub fn decode_all(decoder: &mut Decoder, bytes: &Bytes) -> usize {
    decoder.push(bytes.clone());
    let mut frames = 0;
    while let Ok(Some(item)) = decoder.next() {
        frames += usize::from(matches!(black_box(item), Item::Frame(_)));
    }
    frames
}

/// A SEND with a body of that many bytes.
pub fn send(body: usize) -> Bytes {
    let mut frame = b"SEND\ndestination:/topic/prices.stocks.acme\ncontent-type:application/json\nreceipt:message-17\n\
        x-origin:exchange\\c 1\n"
        .to_vec();
    frame.extend(format!("content-length:{body}\n\n").into_bytes());
    frame.resize(frame.len() + body, b'x');
    frame.push(0);
    frame.into()
}

/// Headers of a message that travels.
pub fn headers() -> Headers {
    Headers::from([("content-type", "application/json"), ("x-origin", "exchange: 1"), ("priority", "4")])
}

/// A MESSAGE for a reader with `ack:auto`.
pub fn message<'a>(headers: &'a Headers, body: &'a [u8]) -> MessageFrame<'a> {
    MessageFrame {
        subscription: Some("sub-0"),
        message_id: "T12345",
        ack: None,
        destination: "/topic/prices.stocks.acme",
        redelivered: false,
        gap: false,
        headers,
        body,
    }
}
