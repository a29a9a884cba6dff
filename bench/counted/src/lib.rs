//! Fixed pieces of the gateway's work: what is counted, and what the benches time.
//!
//! Each does the same on every machine: no socket, no second thread, no task, and nothing that depends on the time.

mod codec;
mod delivery;
mod session;

pub use codec::{decode, decode_all, decoder, encode, headers, message, send};
pub use delivery::{fan_out, route};
pub use session::receipts;

/// One kind of work, ready to be done again and again.
pub struct Piece {
    /// Frames, messages or deliveries of one [`Piece::run`]: what is divided by.
    pub units: u64,
    work: Box<dyn FnMut()>,
}

/// A piece by its name in `counts.txt`.
#[derive(Clone, Copy)]
pub struct Named {
    /// The name.
    pub name: &'static str,
    /// Makes it ready.
    pub ready: fn() -> Piece,
}

/// All of them.
pub const PIECES: [Named; 5] = [
    Named { name: "decode", ready: decode },
    Named { name: "encode", ready: encode },
    Named { name: "receipts", ready: receipts },
    Named { name: "route", ready: route },
    Named { name: "fan-out", ready: fan_out },
];

impl Piece {
    fn new(units: u64, work: impl FnMut() + 'static) -> Self {
        Piece { units, work: Box::new(work) }
    }

    /// Does it once.
    pub fn run(&mut self) {
        (self.work)();
    }
}
