//! Bytes on the wire: WebSocket frames, the few STOMP frames that the scenarios send, and the marks in a body.

use std::cell::RefCell;
use std::io;

use flate2::{Decompress, FlushDecompress};
use serde_json::json;

/// Bytes of every body.
pub const BODY: usize = 256;
/// Digits of each of the two numbers that a body begins with.
const DIGITS: usize = 16;

/// The bit that every frame of a client has, beside its length.
const MASKED: u8 = 0x80;

/// Bytes of a body of JSON.
pub const JSON: usize = 1024;

thread_local! {
    static INFLATE: RefCell<(Decompress, Vec<u8>)> = RefCell::new((Decompress::new(false), Vec::with_capacity(16 * JSON)));
}

/// What a WebSocket frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole message, text or binary.
    Data,
    /// The same, compressed.
    Deflated,
    /// To be answered with a pong.
    Ping,
    /// An answer to a ping.
    Pong,
}

/// Appends a client's text message. The mask is zero, which a server cannot tell from any other.
pub fn push_message(payload: &[u8], out: &mut Vec<u8>) {
    push_frame(0x81, payload, out);
}

/// Appends a client's answer to a ping.
pub fn push_pong(payload: &[u8], out: &mut Vec<u8>) {
    push_frame(0x8a, payload, out);
}

fn push_frame(first: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..=125), _) => out.push(MASKED + length),
        (_, Ok(length)) => {
            out.push(MASKED + 126);
            out.extend(length.to_be_bytes());
        }
        _ => {
            out.push(MASKED + 127);
            out.extend((payload.len() as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
}

/// A server's text message: what a delivery looks like on the wire.
pub fn delivery(payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(payload.len()).ok().filter(|length| *length > 125);
    let length = length.ok_or_else(|| io::Error::other("a delivery of unexpected size"))?;
    Ok([&[0x81, 126], &length.to_be_bytes()[..], payload].concat())
}

/// Splits the first frame of a server off `bytes`: its kind, its payload and how many bytes it takes.
/// `None` while it is not complete.
pub fn split_frame(bytes: &[u8]) -> io::Result<Option<(Kind, &[u8], usize)>> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let (length, head) = match (second, rest) {
        (0..=125, _) => (usize::from(*second), 2),
        (126, [a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [0, 0, 0, 0, a, b, c, d, ..]) => (u32::from_be_bytes([*a, *b, *c, *d]) as usize, 10),
        (126, _) => return Ok(None),
        (127, _) if rest.len() < 8 => return Ok(None),
        _ => return Err(io::Error::other("a frame that is masked or too long")),
    };
    let Some(payload) = bytes.get(head..head + length) else { return Ok(None) };
    let kind = match first {
        0x81 | 0x82 => Kind::Data,
        0xc1 | 0xc2 => Kind::Deflated,
        0x89 => Kind::Ping,
        0x8a => Kind::Pong,
        0x88 => return Err(io::Error::other(format!("closed: {}", String::from_utf8_lossy(payload)))),
        _ => return Err(io::Error::other("a fragment or an unknown frame")),
    };
    Ok(Some((kind, payload, head + length)))
}

/// Splits the first MQTT packet off `bytes`: what follows its length, and how many bytes it takes. `None` while it is not
/// complete.
pub fn split_packet(bytes: &[u8]) -> io::Result<Option<(Kind, &[u8], usize)>> {
    let (mut length, mut head) = (0, 1);
    loop {
        let Some(byte) = bytes.get(head) else { return Ok(None) };
        if head > 4 {
            return Err(io::Error::other("a packet that is too long"));
        }
        length |= usize::from(byte & 0x7f) << (7 * (head - 1));
        head += 1;
        if *byte < 0x80 {
            break;
        }
    }
    Ok(bytes.get(head..head + length).map(|body| (Kind::Data, body, head + length)))
}

/// A CONNECT of MQTT 3.1.1, without keep-alive.
pub fn mqtt_connect(name: usize) -> Vec<u8> {
    packet(0x10, &[&text("MQTT")[..], &[4, 2, 0, 0], &text(&format!("bench-{name}"))].concat())
}

/// A SUBSCRIBE at quality of service 0.
pub fn mqtt_subscribe(topic: &str) -> Vec<u8> {
    packet(0x82, &[&[0, 1][..], &text(topic), &[0]].concat())
}

/// A PUBLISH at quality of service 0, with the marks where a body of STOMP has them.
pub fn mqtt_publish(topic: &str, number: u64) -> Vec<u8> {
    let body = format!("\n\n{number:016x}{:016x}{:.<fill$}", 0, "", fill = BODY - 2 * DIGITS);
    packet(0x30, &[&text(topic)[..], body.as_bytes()].concat())
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes()[..], text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let (mut packet, mut length) = (vec![first], body.len());
    while length > 0x7f {
        packet.push(0x80 | u8::try_from(length & 0x7f).unwrap_or_default());
        length >>= 7;
    }
    packet.push(u8::try_from(length).unwrap_or_default());
    packet.extend(body);
    packet
}

/// A SEND as one WebSocket message, its body ending one byte before the end.
pub fn send(destination: &str, receipt: Option<u64>, number: u64, time: u64) -> Vec<u8> {
    let receipt = receipt.map_or(String::new(), |receipt| format!("receipt:{receipt}\n"));
    let frame = format!(
        "SEND\ndestination:{destination}\n{receipt}content-length:{BODY}\n\n{number:016x}{time:016x}{:.<fill$}\0",
        "",
        fill = BODY - 2 * DIGITS
    );
    let mut message = Vec::new();
    push_message(frame.as_bytes(), &mut message);
    message
}

/// The same with a kibibyte of JSON behind the marks.
pub fn send_json(destination: &str, number: u64) -> Vec<u8> {
    let quotes = ["AAPL", "MSFT", "GOOG", "AMZN", "NVDA", "TSLA", "META", "ORCL", "INTC", "CSCO"].iter().zip(number..);
    let quotes = quotes.map(|(symbol, number)| {
        let [price, volume] = [7919, 104_729].map(|prime| number.wrapping_mul(prime) % 100_000);
        json!({ "symbol": symbol, "price": price as f64 / 100.0, "volume": volume, "time": number, "venue": "XNAS" })
    });
    let (time, mut quotes) = (0, json!({ "quotes": quotes.collect::<Vec<_>>() }).to_string());
    let padding = JSON.saturating_sub(2 * DIGITS + quotes.len());
    quotes.extend(std::iter::repeat_n(' ', padding));
    let frame =
        format!("SEND\ndestination:{destination}\ncontent-type:application/json\n\n{number:016x}{time:016x}{quotes}\0");
    let mut message = Vec::new();
    push_message(frame.as_bytes(), &mut message);
    message
}

/// The same with so many bytes behind the mark of its number, and a receipt.
pub fn send_bytes(destination: &str, size: usize, number: u64) -> Vec<u8> {
    let frame = format!("SEND\ndestination:{destination}\nreceipt:{number}\n\n{number:016x}{:.<size$}\0", "");
    let mut message = Vec::new();
    push_message(frame.as_bytes(), &mut message);
    message
}

/// Hands over what a message was compressed from.
pub fn inflated(payload: &[u8], on_frame: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    INFLATE.with_borrow_mut(|(decompress, plain)| {
        decompress.reset(false);
        plain.clear();
        for part in [payload, &[0x00, 0x00, 0xff, 0xff]] {
            decompress.decompress_vec(part, plain, FlushDecompress::Sync).map_err(io::Error::other)?;
        }
        on_frame(plain)
    })
}

/// Where the body stands in a frame.
pub fn body_start(frame: &[u8]) -> Option<usize> {
    memchr::memmem::find(frame, b"\n\n").map(|end| end + 2)
}

/// The number that the body of a MESSAGE begins with.
pub fn number(frame: &[u8]) -> io::Result<u64> {
    mark(frame, 0)
}

/// The time that stands behind the number.
pub fn time(frame: &[u8]) -> io::Result<u64> {
    mark(frame, DIGITS)
}

fn mark(frame: &[u8], offset: usize) -> io::Result<u64> {
    let digits = body_start(frame).and_then(|start| frame.get(start + offset..start + offset + DIGITS));
    let text = digits.and_then(|digits| std::str::from_utf8(digits).ok());
    text.and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or_else(|| io::Error::other(format!("not a message of this run: {}", String::from_utf8_lossy(frame))))
}

/// The value of a header that escapes nothing.
pub fn header<'a>(frame: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let start = memchr::memmem::find(frame, format!("\n{name}:").as_bytes())? + name.len() + 2;
    let rest = &frame[start..];
    rest.get(..memchr::memchr(b'\n', rest)?)
}

/// Copies the marks of the message `from` into `to`, both ending with body and NUL: for the floor.
pub fn copy_marks(from: &[u8], to: &mut [u8]) {
    if let (Some(source), Some(target)) = (body_start(from), body_start(to)) {
        to[target..target + 2 * DIGITS].copy_from_slice(&from[source..source + 2 * DIGITS]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_where_they_were_written() {
        let message = send("/topic/a", Some(7), 258, u64::MAX);
        assert_eq!(number(&message).unwrap(), 258);
        assert_eq!(time(&message).unwrap(), u64::MAX);
        assert_eq!(header(&message, "receipt"), Some(&b"7"[..]));
    }

    #[test]
    fn a_packet_is_split_off_once_it_is_complete() {
        let bytes = mqtt_publish("bench", 258);
        for end in 0..bytes.len() {
            assert_eq!(split_packet(&bytes[..end]).unwrap(), None);
        }
        let (_, body, length) = split_packet(&bytes).unwrap().unwrap();
        assert_eq!((number(body).unwrap(), length), (258, bytes.len()));
    }

    #[test]
    fn a_frame_is_split_off_once_it_is_complete() {
        let bytes = [&[0x81, 126, 0, 200][..], &[b'x'; 200], &[0x89, 0]].concat();
        for end in 0..204 {
            assert_eq!(split_frame(&bytes[..end]).unwrap(), None);
        }
        assert_eq!(split_frame(&bytes).unwrap(), Some((Kind::Data, &[b'x'; 200][..], 204)));
        assert_eq!(split_frame(&bytes[204..]).unwrap(), Some((Kind::Ping, &[][..], 2)));
    }
}
