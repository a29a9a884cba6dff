//! Any bytes, in any pieces, to frames and back.

use bytes::{Bytes, BytesMut};
use stompgate::message::Headers;
use stompgate::stomp::{Command, DecodeError, Decoder, Frame, Item, Limits, MessageFrame, Version, encode};

const WIDE: Limits = Limits { headers: 1000, header_bytes: 1 << 20, body: 1 << 20, frame: None };
const NARROW: Limits = Limits { headers: 3, header_bytes: 40, body: 20, frame: None };

/// A frame, with the version that it was read by.
type Read = (Item, Option<Version>);

/// Reads a stream whole and in pieces; both must give the same. Then writes each frame again, and reads that.
///
/// The first byte chooses version and limits, the second how many of the following bytes are lengths of pieces; the
/// rest is the stream. Digits do for both, so that seeds can be written by hand.
pub fn decoder(data: &[u8]) {
    let [mode, count, rest @ ..] = data else { return };
    let (lengths, stream) = rest.split_at(usize::from(count & 7).min(rest.len()));
    let limits = match mode >> 2 & 3 {
        0 => WIDE,
        1 => NARROW,
        2 => Limits { frame: Some(48), ..WIDE },
        _ => Limits { frame: Some(48), ..NARROW },
    };
    let version = [None, Some(Version::V10), Some(Version::V11), Some(Version::V12)][usize::from(mode & 3)];

    let whole = read(version, limits, [stream]);
    assert_eq!(whole, read(version, limits, pieces(stream, lengths)), "whole and in pieces");
    assert_eq!(whole, read(version, limits, stream.chunks(1)), "whole and byte by byte");
    for (item, version) in whole.0 {
        if let Item::Frame(frame) = item {
            check_frame(&frame, version, limits);
        }
    }
}

fn pieces<'a>(mut stream: &'a [u8], lengths: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let length = lengths.next().map_or(stream.len(), |length| usize::from(*length) % 64 + 1);
        let (piece, rest) = stream.split_at(length.min(stream.len()));
        stream = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Reads as a session does: what CONNECT or CONNECTED says of the version counts from there on.
fn read<'a>(
    mut version: Option<Version>,
    limits: Limits,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Read>, Option<DecodeError>) {
    let mut decoder = Decoder::new(limits);
    if let Some(version) = version {
        decoder.set_version(version);
    }
    let mut items = Vec::new();
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next() {
                Ok(Some(item)) => {
                    let agreed = agreed(&item);
                    items.push((item, version));
                    if let (None, Some(agreed)) = (version, agreed) {
                        version = Some(agreed);
                        decoder.set_version(agreed);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next().as_ref(), Err(&error), "a fault is for ever");
                    assert!(decoder.is_empty());
                    return (items, Some(error));
                }
            }
        }
        check_size(decoder.buffered(), limits);
    }
    (items, None)
}

fn agreed(item: &Item) -> Option<Version> {
    let Item::Frame(frame) = item else { return None };
    match frame.command {
        Command::Connect | Command::Stomp => {
            Version::negotiate(frame.header("accept-version").map(|offered| &**offered))
        }
        Command::Connected => Version::negotiate(frame.header("version").map(|offered| &**offered)),
        _ => None,
    }
}

fn check_size(buffered: usize, limits: Limits) {
    let command = 32;
    let most = command + limits.header_bytes + limits.body + 1;
    assert!(buffered <= most.min(limits.frame.unwrap_or(usize::MAX)), "{buffered} bytes are held");
}

fn check_frame(frame: &Frame, version: Option<Version>, limits: Limits) {
    assert!(frame.headers.len() <= limits.headers && frame.headers.size() <= limits.header_bytes);
    assert!(frame.body.len() <= limits.body);
    check_round_trip(frame, version);
    for version in Version::ALL {
        check_message(frame, version);
    }
}

/// What was read and can be written is read as the same.
fn check_round_trip(frame: &Frame, version: Option<Version>) {
    let version = version.unwrap_or(Version::V12); // it has words for all that is read before
    let mut out = BytesMut::new();
    let omitted = encode(frame, version, &mut out);
    let again = read_one(&out.freeze(), version);
    assert_eq!(again.command, frame.command);
    assert_eq!(again.body, frame.body);
    assert_eq!(without_length(&again).len() + omitted, without_length(frame).len());
    if omitted == 0 {
        assert_eq!(without_length(&again), without_length(frame));
    }
}

/// Whatever a publisher's headers are, a MESSAGE with them is one frame, with the fields that it was given.
fn check_message(frame: &Frame, version: Version) {
    let message = MessageFrame {
        subscription: Some("s"),
        message_id: "m",
        ack: Some("a"),
        destination: "/topic/d",
        redelivered: true,
        gap: true,
        headers: &frame.headers,
        body: &frame.body,
    };
    let mut out = BytesMut::new();
    message.encode(version, &mut out);
    let read = read_one(&out.freeze(), version);
    assert_eq!(read.body, frame.body);
    for (name, value) in
        [("subscription", "s"), ("message-id", "m"), ("ack", "a"), ("destination", "/topic/d"), ("redelivered", "true")]
    {
        assert_eq!(read.headers.iter().filter(|(known, _)| **known == name).count(), 1);
        assert_eq!(read.header(name).map(|value| &**value), Some(value));
    }
}

fn without_length(frame: &Frame) -> Headers {
    let mut headers = frame.headers.clone();
    headers.remove("content-length");
    headers
}

fn read_one(bytes: &Bytes, version: Version) -> Frame {
    let mut decoder = Decoder::new(WIDE);
    decoder.set_version(version);
    decoder.push(bytes.clone());
    match decoder.next() {
        Ok(Some(Item::Frame(frame))) if decoder.is_empty() => frame,
        other => panic!("{bytes:?} was written as one frame, and is {other:?}"),
    }
}
