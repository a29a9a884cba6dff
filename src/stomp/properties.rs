//! What holds for any frame and any bytes.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use crate::message::Headers;

use super::*;

const WIDE: Limits = Limits { headers: 100, header_bytes: 16_384, body: 65_536, frame: None };

/// Text with whatever is special in some version, in every order.
fn text(least: usize) -> impl Strategy<Value = String> {
    let characters = prop::sample::select(vec!['a', 'n', 'c', 'r', 'é', ' ', ':', '\\', '\n', '\r', '\0']);
    prop::collection::vec(characters, least..6).prop_map(String::from_iter)
}

/// Text that every version has words for, in a name too.
fn plain(least: usize) -> impl Strategy<Value = String> {
    let characters = prop::sample::select(vec!['a', 'n', 'c', 'é', '✓', ' ', '\\', 't']);
    prop::collection::vec(characters, least..6).prop_map(String::from_iter)
}

fn frames(name: impl Strategy<Value = String>, value: impl Strategy<Value = String>) -> impl Strategy<Value = Frame> {
    let known = prop::sample::select(vec![("accept-version", "1.0"), ("accept-version", "1.2"), ("version", "1.1")]);
    let header = prop_oneof![
        4 => (name, value),
        1 => known.prop_map(|(name, value)| (name.to_owned(), value.to_owned())),
    ];
    let parts = (
        prop::sample::select(Command::ALL.to_vec()),
        prop::collection::vec(header, 0..6),
        prop::collection::vec(any::<u8>(), 0..20),
    );
    parts.prop_map(|(command, headers, body)| {
        let frame = Frame { headers: headers.into_iter().collect(), ..Frame::new(command) };
        if command.may_have_body() { frame.with_body(body) } else { frame }
    })
}

fn versions() -> impl Strategy<Value = Version> {
    prop::sample::select(Version::ALL.to_vec())
}

fn bytes_of(frame: &Frame, version: Version) -> (Bytes, usize) {
    let mut out = BytesMut::new();
    let omitted = encode(frame, version, &mut out);
    (out.freeze(), omitted)
}

fn without_length(frame: &Frame) -> Frame {
    let mut frame = frame.clone();
    frame.headers.remove("content-length");
    frame
}

/// The one frame that `bytes` are.
fn read_one(bytes: Bytes, version: Version) -> Frame {
    let mut decoder = Decoder::new(WIDE);
    decoder.set_version(version);
    decoder.push(bytes);
    match decoder.next() {
        Ok(Some(Item::Frame(frame))) if decoder.is_empty() => frame,
        other => panic!("{other:?}"),
    }
}

/// Everything that `pieces` hold, and what the decoder held between them at most.
fn read(version: Option<Version>, limits: Limits, pieces: &[&[u8]]) -> (Vec<Item>, Option<DecodeError>, usize) {
    let mut decoder = Decoder::new(limits);
    if let Some(version) = version {
        decoder.set_version(version);
    }
    let (mut items, mut held) = (Vec::new(), 0);
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => return (items, Some(error), held),
            }
        }
        held = held.max(decoder.buffered());
    }
    (items, None, held)
}

/// Streams that are nearly right: pieces of frames, in any order.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        6 => prop::sample::select(vec![
            &b"CONNECT\n"[..], b"SEND\n", b"SEND\r\n", b"MESSAGE\n", b"SUBSCRIBE\n", b"a:b\n", b"a: b\r\n", b"a\\c:\\r\n",
            b"content-length:3\n", b"content-length:30\n", b"\n", b"\r\n", b"\n\n", b"\0", b"\n\0", b"\n\0", b"abc\0", b"\r",
        ]).prop_map(<[u8]>::to_vec),
        2 => (frames(text(0), text(0)), versions()).prop_map(|(frame, version)| bytes_of(&frame, version).0.to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat())
}

fn split<'a>(mut stream: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for length in lengths {
        let (piece, rest) = stream.split_at((*length).min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces.push(stream);
    pieces
}

fn limits() -> impl Strategy<Value = Limits> {
    (0usize..4, 0usize..40, 0usize..40, prop::option::of(0usize..80))
        .prop_map(|(headers, header_bytes, body, frame)| Limits { headers, header_bytes, body, frame })
}

proptest! {
    #[test]
    fn what_is_written_is_read(frame in frames(plain(1), plain(0)), version in versions()) {
        let (bytes, omitted) = bytes_of(&frame, version);
        prop_assert_eq!(omitted, 0);
        prop_assert_eq!(without_length(&read_one(bytes, version)), frame);
    }

    #[test]
    fn what_cannot_be_written_is_left_out_and_counted(frame in frames(text(0), text(0)), version in versions()) {
        let (bytes, omitted) = bytes_of(&frame, version);
        let again = without_length(&read_one(bytes, version));
        prop_assert_eq!(again.headers.len() + omitted, frame.headers.len());
        prop_assert_eq!(&again.body, &frame.body);
        if omitted == 0 {
            prop_assert_eq!(again, frame);
        }
    }

    #[test]
    fn nothing_but_nul_and_an_empty_name_is_left_out_in_1_2(frame in frames(text(0), text(0))) {
        prop_assume!(!frame.command.is_handshake());
        let impossible = |(name, value): &(&crate::message::Text, &crate::message::Text)| {
            name.is_empty() || name.contains('\0') || value.contains('\0')
        };
        let expected = frame.headers.iter().filter(impossible).count();
        prop_assert_eq!(bytes_of(&frame, Version::V12).1, expected);
    }

    #[test]
    fn a_message_is_one_frame_whatever_its_publisher_wrote(frame in frames(text(0), text(0)), version in versions()) {
        let message = MessageFrame {
            subscription: Some("s"), message_id: "m", ack: None, destination: "/topic/d", redelivered: true, gap: false,
            headers: &frame.headers, body: &frame.body,
        };
        let mut out = BytesMut::new();
        let omitted = message.encode(version, &mut out);
        let read = without_length(&read_one(out.freeze(), version));
        prop_assert_eq!(read.headers.len() + omitted, frame.headers.len() + 4);
        let own: Headers = read.headers.iter().take(4).map(|(name, value)| (name.clone(), value.clone())).collect();
        let expected = [("subscription", "s"), ("message-id", "m"), ("destination", "/topic/d"), ("redelivered", "true")];
        prop_assert_eq!(own, Headers::from(expected));
    }

    #[test]
    fn it_does_not_matter_in_which_pieces_the_bytes_come(
        stream in streams(),
        lengths in prop::collection::vec(0usize..20, 0..10),
        version in prop::option::of(versions()),
        limits in prop_oneof![Just(WIDE), limits()],
    ) {
        let (items, fault, _) = read(version, limits, &[&stream]);
        let (in_pieces, fault_in_pieces, _) = read(version, limits, &split(&stream, &lengths));
        prop_assert_eq!((&items, &fault), (&in_pieces, &fault_in_pieces));
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        let (single, fault_in_single, _) = read(version, limits, &single);
        prop_assert_eq!((items, fault), (single, fault_in_single));
    }

    #[test]
    fn limits_are_kept(stream in streams(), limits in limits(), version in prop::option::of(versions())) {
        let pieces: Vec<&[u8]> = stream.chunks(7).collect();
        let (items, _, held) = read(version, limits, &pieces);
        let command_line = 32;
        prop_assert!(held <= command_line + limits.header_bytes + limits.body + 1);
        // A CR between frames may be half of a heart-beat, and is no part of any frame.
        prop_assert!(limits.frame.is_none_or(|limit| held <= limit.max(1)));
        for item in items {
            let Item::Frame(frame) = item else { continue };
            prop_assert!(frame.headers.len() <= limits.headers);
            prop_assert!(frame.headers.size() <= limits.header_bytes);
            prop_assert!(frame.body.len() <= limits.body);
        }
    }

    #[test]
    fn no_bytes_do_harm(stream in prop::collection::vec(any::<u8>(), 0..200), version in prop::option::of(versions())) {
        let _ = read(version, WIDE, &[&stream]);
    }
}
