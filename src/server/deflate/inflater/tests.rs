use std::io::{self, Read, Write};

use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, WebSocket};

use super::{Fault, Inflater, PIECE};

const TEXT: u8 = 0x01;
const BINARY: u8 = 0x02;
const CONTINUATION: u8 = 0x00;
const PING: u8 = 0x89;
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

const LIMIT: usize = 1024 * 1024;

/// What a client sends, inflated for tungstenite in pieces.
struct Wire {
    inflater: Inflater,
    bytes: Vec<u8>,
    /// Bytes that come at a time.
    at_a_time: usize,
    /// Bytes that have waited to be read at most.
    waited: usize,
}

impl Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.inflater.read(out).map_err(io::Error::other)?;
            self.waited = self.waited.max(self.inflater.plain.len() + read);
            if read > 0 || self.bytes.is_empty() {
                return Ok(read);
            }
            let come = self.at_a_time.min(self.bytes.len());
            self.inflater.push(&self.bytes[..come]);
            self.bytes.drain(..come);
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn websocket(bytes: Vec<u8>, at_a_time: usize) -> WebSocket<Wire> {
    let wire = Wire { inflater: Inflater::new(LIMIT), bytes, at_a_time, waited: 0 };
    let limits = WebSocketConfig::default().max_message_size(Some(LIMIT)).max_frame_size(Some(LIMIT));
    WebSocket::from_raw_socket(wire, Role::Server, Some(limits.read_buffer_size(4096)))
}

/// What tungstenite makes of it: the messages, and what ended them.
fn received(bytes: Vec<u8>, at_a_time: usize) -> (Vec<Message>, Error) {
    let mut websocket = websocket(bytes, at_a_time);
    let mut messages = Vec::new();
    loop {
        match websocket.read() {
            Ok(message) => messages.push(message),
            Err(error) => return (messages, error),
        }
    }
}

fn fault(bytes: Vec<u8>) -> Option<Fault> {
    match received(bytes, 1000).1 {
        Error::Io(error) => Fault::of(&error),
        _ => None,
    }
}

/// A masked frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0xa5, 0x5a, 0x12, 0x34];
    let mut bytes = vec![first];
    match payload.len() {
        short @ ..126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        long @ 126..=0xffff => {
            bytes.push(0x80 | 0x7e);
            bytes.extend(u16::try_from(long).unwrap().to_be_bytes());
        }
        longer => {
            bytes.push(0x80 | 0x7f);
            bytes.extend((longer as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A message as a client compresses it that flushes every so many bytes, and ends with a block marked as the last or not.
fn deflated(plain: &[u8], level: u32, flush_every: usize, ends_with_last: bool) -> Vec<u8> {
    let mut compress = Compress::new(Compression::new(level), false);
    let mut out = Vec::with_capacity(plain.len() * 2 + plain.len() / flush_every * 16 + 64);
    for part in plain.chunks(flush_every) {
        compress.compress_vec(part, &mut out, FlushCompress::Sync).unwrap();
    }
    if ends_with_last {
        compress.compress_vec(&[], &mut out, FlushCompress::Finish).unwrap();
        out.push(0); // §7.2.3.4
        return out;
    }
    compress.compress_vec(&[], &mut out, FlushCompress::Sync).unwrap();
    out.strip_suffix(&[0, 0, 0xff, 0xff]).map_or(vec![0], <[u8]>::to_vec)
}

fn whole(plain: &[u8]) -> Vec<u8> {
    frame(FIN | RSV1 | BINARY, &deflated(plain, 6, usize::MAX, false))
}

/// Bytes that grow when they are compressed.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn the_examples_of_the_rfc() {
    let hello: [(&str, Vec<Vec<u8>>); 5] = [
        ("§7.2.3.1", vec![frame(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00])]),
        ("§7.2.3.1, in fragments", vec![frame(0x41, &[0xf2, 0x48, 0xcd]), frame(0x80, &[0xc9, 0xc9, 0x07, 0x00])]),
        (
            "§7.2.3.3: no compression",
            vec![frame(0xc1, &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00])],
        ),
        ("§7.2.3.4: BFINAL", vec![frame(0xc1, &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00])]),
        (
            "§7.2.3.5: two blocks",
            vec![frame(0xc1, &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00])],
        ),
    ];
    for (name, frames) in hello {
        for at_a_time in [1, 1000] {
            assert_eq!(received(frames.concat(), at_a_time).0, [Message::text("Hello")], "{name}");
        }
    }
    assert_eq!(received(frame(0xc1, &[0x00]), 1).0, [Message::text("")], "§7.2.3.6: an empty message");
}

#[test]
fn a_message_refers_to_none_before_it() {
    // §7.2.3.2: the second "Hello", in the window of the first.
    let (first, second) =
        (frame(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]), frame(0xc1, &[0xf2, 0x00, 0x11, 0x00, 0x00]));
    assert_eq!(fault([first, second].concat()), Some(Fault::Corrupt));
}

#[test]
fn what_was_not_compressed_passes_as_it_is() {
    let frames = [
        frame(FIN | TEXT, b"plain"),
        frame(TEXT, b"pl"),
        frame(PING, b"!"),
        frame(FIN | CONTINUATION, b"ain"),
        whole(b"deflated"),
        frame(FIN | BINARY, &noise(70_000)),
    ];
    let expected = [
        Message::text("plain"),
        Message::Ping(b"!".as_slice().into()),
        Message::text("plain"),
        Message::binary(b"deflated".as_slice()),
        Message::binary(noise(70_000)),
    ];
    assert_eq!(received(frames.concat(), 7).0, expected);
}

#[test]
fn rsv1_where_it_does_not_belong_is_left_to_tungstenite_to_refuse() {
    let hello = deflated(b"Hello", 6, usize::MAX, false);
    let begun = frame(RSV1 | TEXT, &hello);
    for (name, frames) in [
        ("a continuation", vec![begun.clone(), frame(FIN | RSV1 | CONTINUATION, &[])]),
        ("a continuation of nothing", vec![frame(FIN | RSV1 | CONTINUATION, &hello)]),
        ("a Ping", vec![frame(RSV1 | PING, b"")]),
        ("a message in another", vec![begun.clone(), frame(FIN | RSV1 | TEXT, &hello)]),
        ("a plain message in another", vec![begun.clone(), frame(FIN | TEXT, b"x")]),
        ("a message in a plain one", vec![frame(TEXT, b"x"), frame(FIN | RSV1 | TEXT, &hello)]),
        ("RSV2 beside it", vec![frame(FIN | RSV1 | 0x20 | TEXT, &hello)]),
        ("unmasked", vec![[&[FIN | RSV1 | TEXT, 7][..], &hello].concat()]),
    ] {
        let (messages, error) = received(frames.concat(), 3);
        assert!(matches!(error, Error::Protocol(_)), "{name}: {error:?}");
        assert_eq!(messages, [], "{name}");
    }
}

#[test]
fn text_is_still_text_once_it_is_inflated() {
    for broken in [&b"caf\xe9"[..], &b"\xf0\x9f\x98"[..]] {
        let (_, error) = received(frame(FIN | RSV1 | TEXT, &deflated(broken, 6, usize::MAX, false)), 100);
        assert!(matches!(error, Error::Utf8(_)), "{error:?}");
    }
    // A character that two pieces share.
    let text = "😀".repeat(PIECE);
    let text = format!("x{text}");
    let (messages, _) = received(frame(FIN | RSV1 | TEXT, &deflated(text.as_bytes(), 6, usize::MAX, false)), 100);
    assert_eq!(messages, [Message::text(text)]);
}

#[test]
fn what_is_broken_is_refused() {
    let text = deflated(&b"a quick brown fox and a quick brown dog ".repeat(10), 6, usize::MAX, false);
    for cut in 0..text.len() {
        assert_eq!(fault(frame(FIN | RSV1 | TEXT, &text[..cut])), Some(Fault::Corrupt), "cut at {cut}");
    }
    let reserved_block = [0x06, 0x00];
    assert_eq!(fault(frame(FIN | RSV1 | TEXT, &reserved_block)), Some(Fault::Corrupt));
    let half_a_stored_block = [0x00, 100, 0x00, !100, 0xff, b'x'];
    assert_eq!(fault(frame(FIN | RSV1 | TEXT, &half_a_stored_block)), Some(Fault::Corrupt));
}

#[test]
fn a_few_blocks_may_be_marked_as_the_last() {
    let empty = |blocks| frame(FIN | RSV1 | TEXT, &[[0x03, 0x00].repeat(blocks), vec![0x00]].concat());
    assert_eq!(received(empty(15), 1000).0, [Message::text("")]);
    assert_eq!(fault(empty(16)), Some(Fault::Corrupt));
}

#[test]
fn a_message_of_the_largest_size_fits_even_if_it_grows() {
    for (flush_every, plain) in [(usize::MAX, noise(LIMIT)), (1000, vec![b'x'; LIMIT])] {
        let bytes = frame(FIN | RSV1 | BINARY, &deflated(&plain, 0, flush_every, false));
        assert!(bytes.len() > LIMIT);
        assert!(received(bytes, 5000).0 == [Message::binary(plain)], "flushed every {flush_every}");
    }
}

#[test]
fn a_bomb_ends_at_the_limit_and_never_takes_memory() {
    let bomb = whole(&vec![0; 16 * LIMIT]);
    assert!(bomb.len() < 20_000, "{}", bomb.len());
    let mut websocket = websocket(bomb, usize::MAX);
    let error = websocket.read().unwrap_err();
    assert!(matches!(error, Error::Capacity(_)), "{error:?}");
    let wire = websocket.get_ref();
    assert!(wire.waited < 2 * PIECE, "{} bytes waited", wire.waited);
}

#[test]
fn what_inflates_to_nothing_has_an_end() {
    let nothing = [0x00, 0x00, 0x00, 0xff, 0xff].repeat(LIMIT / 4);
    assert_eq!(fault(frame(FIN | RSV1 | BINARY, &nothing)), Some(Fault::TooLarge));
    let fragment = frame(CONTINUATION, &nothing[..5 * (LIMIT / 40)]);
    let fragments = [frame(RSV1 | BINARY, &[]), fragment.repeat(10)].concat();
    assert_eq!(fault(fragments), Some(Fault::TooLarge));
}

#[test]
fn an_idle_client_holds_no_buffers() {
    let mut websocket = websocket([whole(&noise(100_000)), frame(PING, b"")].concat(), 5000);
    assert!(websocket.read().unwrap().is_binary());
    assert!(websocket.read().unwrap().is_ping());
    let inflater = &websocket.get_ref().inflater;
    assert_eq!((inflater.raw.capacity(), inflater.plain.capacity()), (0, 0));
    assert!(inflater.message.is_none());
}

fn plain() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        (0_usize..100_000).prop_map(noise),
        (any::<u8>(), 0_usize..100_000).prop_map(|(byte, length)| vec![byte; length]),
        ("[a-z ]{1,40}", 1_usize..2_000).prop_map(|(text, times)| text.repeat(times).into_bytes()),
    ]
}

proptest! {
    #[test]
    fn every_message_arrives_however_it_was_compressed_and_cut(
        plain in plain(),
        level in 0_u32..10,
        flush_every in prop_oneof![Just(usize::MAX), 100_usize..40_000],
        ends_with_last in any::<bool>(),
        fragment in 1_usize..70_000,
        at_a_time in 1_usize..9_000,
    ) {
        let compressed = deflated(&plain, level, flush_every, ends_with_last);
        let mut bytes = frame(RSV1 | BINARY, &[]);
        let fragments = compressed.chunks(fragment.max(compressed.len() / 50));
        let count = fragments.len();
        for fragment in fragments {
            bytes.extend(frame(CONTINUATION, fragment));
            bytes.extend(frame(PING, b"?"));
        }
        bytes.extend(frame(FIN | CONTINUATION, &[]));
        bytes.extend(whole(b"the next one"));
        let (mut messages, _) = received(bytes, at_a_time);
        messages.retain(|message| !message.is_ping());
        prop_assert!(messages == [Message::binary(plain), Message::binary(b"the next one".as_slice())], "{count}");
    }

    #[test]
    fn nothing_that_comes_does_harm(
        frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..200)), 0..8),
        rest in prop::collection::vec(any::<u8>(), 0..50),
        at_a_time in 1_usize..100,
    ) {
        let frames = frames.iter().flat_map(|(first, payload)| frame(*first, payload));
        let mut websocket = websocket(frames.chain(rest).collect(), at_a_time);
        while websocket.read().is_ok() {}
        prop_assert!(websocket.get_ref().waited < 2 * PIECE);
    }
}
