//! One compressed message from a client, inflated as it comes.

use std::cell::RefCell;
use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};

use super::Fault;

/// Put in behind a message: what did not travel of it (RFC 7692 §7.2.2), and an empty block that is marked as the last.
/// A message that breaks off within a block does not get as far as that mark.
const END: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];

/// Blocks of one message that may be marked as the last. Nobody needs more than one of its own, and each costs the time
/// in which a window is emptied.
const LASTS: usize = 16;

thread_local! {
    /// What inflated the last message, of 40 KiB or so, for the next one.
    static SPARE: RefCell<Option<Decompress>> = const { RefCell::new(None) };
}

/// A compressed message that has begun.
pub(super) struct Message {
    inflate: Decompress,
    /// Put in, and not inflated yet.
    input: Vec<u8>,
    /// There may be more to come of what was put in.
    has_more: bool,
    /// Everything has been put in.
    is_whole: bool,
    /// Blocks that were marked as the last one.
    lasts: usize,
    /// Such a block ended where we are, and what inflates has been emptied.
    is_at_end: bool,
}

impl Message {
    pub(super) fn new() -> Self {
        let inflate = SPARE.take().unwrap_or_else(|| Decompress::new(false));
        Message { inflate, input: Vec::new(), has_more: false, is_whole: false, lasts: 0, is_at_end: false }
    }

    /// Whether all that was put in has been inflated.
    pub(super) fn is_drained(&self) -> bool {
        self.input.is_empty() && !self.has_more
    }

    /// Puts in what came, unmasked.
    pub(super) fn push(&mut self, bytes: impl Iterator<Item = u8>) {
        self.input.extend(bytes);
    }

    /// Nothing more will come.
    pub(super) fn end(&mut self) {
        if !self.is_whole {
            self.is_whole = true;
            self.input.extend(END);
        }
    }

    /// Inflates into `piece` what there is room for; says how much that was.
    ///
    /// # Errors
    /// [`Fault::Corrupt`].
    pub(super) fn inflate(&mut self, piece: &mut [u8]) -> Result<usize, Fault> {
        let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
        let done = self.inflate.decompress(&self.input, piece, FlushDecompress::None);
        let status = done.map_err(|_| Fault::Corrupt)?;
        let read = usize::try_from(self.inflate.total_in() - read).unwrap_or(usize::MAX);
        let written = usize::try_from(self.inflate.total_out() - written).unwrap_or(usize::MAX);
        self.input.drain(..read.min(self.input.len()));
        let has_moved = read > 0 || written > 0;
        // It may hold something back although there is room: all is out only when nothing comes any more.
        self.has_more = has_moved;
        self.is_at_end &= !has_moved;
        if status == Status::StreamEnd {
            // A block that is marked as the last need not be the message's last (§7.2.3.4).
            self.inflate.reset(false);
            (self.has_more, self.is_at_end) = (false, true);
            self.lasts += 1;
            if self.lasts > LASTS {
                return Err(Fault::Corrupt);
            }
        } else if !has_moved && !self.input.is_empty() {
            return Err(Fault::Corrupt); // nothing would ever come of it
        }
        Ok(written)
    }

    /// Keeps what may serve the next message of any client.
    ///
    /// # Errors
    /// [`Fault::Corrupt`]: it has broken off.
    pub(super) fn finish(self) -> Result<(), Fault> {
        if !self.is_at_end {
            return Err(Fault::Corrupt);
        }
        SPARE.set(Some(self.inflate)); // emptied at the end: nothing of one client's message is left to the next
        Ok(())
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").finish_non_exhaustive()
    }
}
