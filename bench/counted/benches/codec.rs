//! How long decoding and encoding take: `cargo bench --manifest-path bench/counted/Cargo.toml --features timed`.

use bytes::Bytes;
use counted::{decode_all, decoder, headers, message, send};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use stompgate::hub::{render, render_frame};
use stompgate::stomp::{Command, Frame, Version};

/// Bytes of bodies.
const BODIES: [usize; 4] = [0, 256, 4 * 1024, 64 * 1024];

fn main() {
    divan::main();
}

/// A SEND that came in one piece.
#[divan::bench(args = BODIES)]
fn decode_whole(bencher: Bencher, body: usize) {
    let frame = send(body);
    let mut decoder = decoder();
    bencher.counter(BytesCount::new(frame.len())).bench_local(|| decode_all(&mut decoder, black_box(&frame)));
}

/// A SEND with a body of 4 KiB that came in pieces of so many bytes.
#[divan::bench(args = [16, 256, 1400])]
fn decode_pieces(bencher: Bencher, size: usize) {
    let frame = send(4 * 1024);
    let pieces: Vec<Bytes> = frame.chunks(size).map(Bytes::copy_from_slice).collect();
    let mut decoder = decoder();
    bencher
        .counter(BytesCount::new(frame.len()))
        .bench_local(|| pieces.iter().map(|piece| decode_all(&mut decoder, black_box(piece))).sum::<usize>());
}

/// A MESSAGE as it is made once for all readers that want the same.
#[divan::bench(args = BODIES)]
fn encode_message(bencher: Bencher, body: usize) {
    let (headers, body) = (headers(), vec![b'x'; body]);
    let message = message(&headers, &body);
    bencher.bench_local(|| render(black_box(&message), Version::V12));
}

/// The same, without a reader of 1.0 being able to read what is escaped.
#[divan::bench(args = [Version::V10, Version::V11, Version::V12])]
fn encode_version(bencher: Bencher, version: Version) {
    let (headers, body) = (headers(), [b'x'; 256]);
    let message = message(&headers, &body);
    bencher.bench_local(|| render(black_box(&message), version));
}

/// The shortest frame of the session's own.
#[divan::bench]
fn encode_receipt(bencher: Bencher) {
    let receipt = Frame::new(Command::Receipt).with("receipt-id", "message-17");
    bencher.bench_local(|| render_frame(black_box(&receipt), Version::V12));
}
