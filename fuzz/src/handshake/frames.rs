//! The frames of WebSocket, from both sides.

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use stompgate::stomp::{Command, Decoder, Item, Limits, Version};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What a flush ends with, and what does not travel (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// Writes a frame as a client does.
pub(super) fn mask(first: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(first);
    match u8::try_from(payload.len()) {
        Ok(short) if short < 126 => out.push(0x80 | short),
        _ => {
            out.push(0x80 | 0x7e);
            out.extend(u16::try_from(payload.len()).expect("a payload that is not long").to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// A payload of 255 bytes at most as a client compresses it.
pub(super) fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    Compress::new(Compression::fast(), false).compress_vec(payload, &mut out, FlushCompress::Sync).expect("bytes");
    out.truncate(out.len() - TAIL.len());
    out
}

/// What a gateway may write: whole messages of a frame of STOMP each, at most one ERROR, and at most one close, the
/// last of all. The end may be missing: a client that is gone is not written to.
pub(super) fn check(mut bytes: &[u8], is_compressed: bool) {
    let (mut has_failed, mut has_closed) = (false, false);
    while let Some((first, payload, rest)) = next(bytes) {
        bytes = rest;
        assert!(!has_closed, "nothing follows the close");
        let (first, payload) = match first {
            0xc1 | 0xc2 if is_compressed => (first & !0x40, &*inflated(payload)),
            _ => (first, payload),
        };
        match first {
            0x81 | 0x82 => {
                assert!(first == 0x82 || std::str::from_utf8(payload).is_ok(), "a text that is none");
                assert!(!has_failed, "nothing follows the ERROR");
                has_failed = is_error(payload);
            }
            0x88 => {
                has_closed = true;
                check_close(payload, has_failed);
            }
            0x89 | 0x8a => assert!(payload.len() < 126),
            other => panic!("{other:#x} begins no frame of ours"),
        }
    }
}

/// First byte, payload, and the rest, if it is all there.
fn next(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [first, length, rest @ ..] = bytes else { return None };
    assert!(length & 0x80 == 0, "a gateway masks nothing");
    let (length, rest) = match (length, rest) {
        (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        (126 | 127, _) => return None,
        (short, rest) => (usize::from(*short), rest),
    };
    rest.split_at_checked(length).map(|(payload, rest)| (*first, payload, rest))
}

fn inflated(payload: &[u8]) -> Vec<u8> {
    let (compressed, mut plain) = ([payload, &TAIL].concat(), Vec::with_capacity(1 << 20));
    let mut decompress = Decompress::new(false);
    decompress.decompress_vec(&compressed, &mut plain, FlushDecompress::Sync).expect("DEFLATE data");
    assert_eq!(decompress.total_in(), compressed.len() as u64);
    assert!(plain.len() > payload.len(), "compressed for nothing");
    plain
}

fn is_error(payload: &[u8]) -> bool {
    let most = 1 << 20;
    let mut decoder = Decoder::new(Limits { headers: most, header_bytes: most, body: most, frame: None });
    decoder.set_version(Version::V12);
    decoder.push(Bytes::copy_from_slice(payload));
    match decoder.next() {
        Ok(Some(Item::Frame(frame))) if decoder.is_empty() => frame.command == Command::Error,
        Ok(Some(Item::Heartbeat)) => false,
        other => panic!("{payload:?} is {other:?}"),
    }
}

/// A code of RFC 6455 §7.4.1 that may be sent, or one of ours.
fn check_close(payload: &[u8], has_failed: bool) {
    if payload.is_empty() {
        return;
    }
    let [high, low, reason @ ..] = payload else { panic!("half a code") };
    let code = u16::from_be_bytes([*high, *low]);
    assert!(matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999), "{code} is no code");
    assert!(std::str::from_utf8(reason).is_ok());
    if has_failed {
        assert_ne!(code, 1000, "an ERROR is no normal end");
    }
}
