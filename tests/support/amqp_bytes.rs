//! A program that writes AMQP byte by byte, for what no library sends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// No UTF-8.
pub(crate) const BYTE: u8 = 0xFF;

/// A connection with one channel, which confirms.
struct Raw(TcpStream);

impl Raw {
    fn connect(uri: &str) -> Raw {
        let (address, host) = uri.rsplit_once('@').unwrap().1.split_once('/').unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut raw = Raw(stream);
        raw.0.write_all(b"AMQP\0\0\x09\x01").unwrap();
        raw.expect([10, 10]); // start
        let mut start_ok = vec![0, 0, 0, 0];
        start_ok.extend_from_slice(b"\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US");
        raw.method(0, [10, 11], &start_ok);
        let tune = raw.expect([10, 30]);
        raw.method(0, [10, 31], &tune);
        let host = host.replace("%2f", "/");
        raw.method(0, [10, 40], &[&[u8::try_from(host.len()).unwrap()], host.as_bytes(), &[0, 0]].concat()); // open
        raw.expect([10, 41]);
        raw.method(1, [20, 10], &[0]); // a channel
        raw.expect([20, 11]);
        raw.method(1, [85, 10], &[0]); // with confirms
        raw.expect([85, 11]);
        raw
    }

    fn publish(&mut self, exchange: &str, key: &[u8], content_type: &[u8]) {
        let mut publish = vec![0, 0];
        for text in [exchange.as_bytes(), key] {
            publish.push(u8::try_from(text.len()).unwrap());
            publish.extend_from_slice(text);
        }
        publish.push(0);
        self.method(1, [60, 40], &publish);
        let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0x80, 0];
        header.push(u8::try_from(content_type.len()).unwrap());
        header.extend_from_slice(content_type);
        self.frame(2, 1, &header);
        self.frame(3, 1, b"poison");
        self.expect([60, 80]);
    }

    fn method(&mut self, channel: u8, [class, method]: [u8; 2], arguments: &[u8]) {
        let payload = [&[0, class, 0, method], arguments].concat();
        self.frame(1, channel, &payload);
    }

    fn frame(&mut self, kind: u8, channel: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&[kind, 0, channel], &length[..], payload, &[0xCE]].concat();
        self.0.write_all(&frame).unwrap();
    }

    /// The arguments of the next method, which must be this one.
    fn expect(&mut self, wanted: [u8; 2]) -> Vec<u8> {
        loop {
            let mut head = [0; 7];
            self.0.read_exact(&mut head).unwrap();
            let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut payload = vec![0; length + 1];
            self.0.read_exact(&mut payload).unwrap();
            if head[0] == 1 {
                assert_eq!([payload[1], payload[3]], wanted, "{}", String::from_utf8_lossy(&payload));
                return payload[4..length].to_vec();
            }
        }
    }
}

/// Publishes to the broker and virtual host of this URI, and has the confirmation before it returns.
pub(crate) async fn publish(uri: &str, exchange: &str, key: Vec<u8>, content_type: &'static [u8]) {
    let (uri, exchange) = (uri.to_owned(), exchange.to_owned());
    let publishing = tokio::task::spawn_blocking(move || Raw::connect(&uri).publish(&exchange, &key, content_type));
    publishing.await.unwrap();
}
