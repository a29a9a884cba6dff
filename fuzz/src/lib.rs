//! What must hold for any input: run by libFuzzer on what it invents, and by `cargo test` on the seeds.
//!
//! ```text
//! cargo test --manifest-path fuzz/Cargo.toml
//! cargo fuzz run --features libfuzzer decoder fuzz/corpus/decoder fuzz/seeds/decoder -- -dict=fuzz/stomp.dict
//! ```
//!
//! `decoder`, `destination` and `session` are pure functions; `handshake` speaks to a gateway over a socket.
//!
//! Seeds with a name are written by hand, those named by a hash are the least that covers what fuzzing found.

mod decoder;
mod destination;
mod handshake;
mod session;

pub use decoder::decoder;
pub use destination::destination;
pub use handshake::handshake;
pub use session::session;
