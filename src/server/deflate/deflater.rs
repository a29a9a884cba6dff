//! Messages to a client.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};

use super::{Agreed, Settings};
use crate::hub::outbox::Compressed;

/// What a message ends with that is flushed, and what does not travel (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// How messages to one client are compressed.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Deflater {
    min: usize,
    max: usize,
    level: u32,
}

thread_local! {
    /// What compressed the last message, of 300 KiB or so, for the next one, and its level.
    static SPARE: RefCell<Option<(u32, Compress)>> = const { RefCell::new(None) };
}

impl Deflater {
    /// A message that is no longer than the window of the client cannot refer back beyond it: longer ones go as they
    /// are. So one compressed form suits every client.
    pub(in crate::server) fn new(agreed: Agreed, settings: &Settings) -> Self {
        let window = agreed.server_max_window_bits.map_or(usize::MAX, |bits| 1 << bits);
        Deflater { min: settings.min_size, max: settings.max_size.min(window), level: settings.level }
    }

    /// The compressed form of a frame, unless it goes as it is: for its size, or since it would not get smaller. It is
    /// made once for all clients that `shared` goes to.
    pub(in crate::server) fn deflate(self, frame: &Bytes, shared: Option<&Compressed>) -> Option<Bytes> {
        if !(self.min..=self.max).contains(&frame.len()) {
            return None;
        }
        match shared {
            Some(shared) => shared.get_or_make(|| compress(frame, self.level)),
            None => compress(frame, self.level),
        }
    }
}

fn compress(frame: &[u8], level: u32) -> Option<Bytes> {
    let spare = SPARE.take().filter(|(known, _)| *known == level).map(|(_, compress)| compress);
    let mut compress = spare.unwrap_or_else(|| Compress::new(Compression::new(level), false));
    compress.reset();
    // What cannot be compressed grows by an eighth at most: 9 bits for each byte.
    let mut out = Vec::with_capacity(frame.len() + frame.len() / 8 + 64);
    let done = compress.compress_vec(frame, &mut out, FlushCompress::Sync);
    let is_whole = done.is_ok() && compress.total_in() == frame.len() as u64 && out.len() < out.capacity();
    let length = out.strip_suffix(&TAIL).filter(|_| is_whole)?.len();
    // One that was not emptied would not be emptied by its reset, either.
    SPARE.set(Some((level, compress)));
    if length >= frame.len() {
        return None;
    }
    out.truncate(length);
    out.shrink_to_fit();
    Some(Bytes::from(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Decompress, FlushDecompress};
    use proptest::prelude::*;

    fn deflater(bits: Option<u8>) -> Deflater {
        Deflater::new(Agreed { server_max_window_bits: bits }, &Settings::default())
    }

    #[test]
    fn what_gains_nothing_goes_as_it_is() {
        let random = (0..2000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[n as usize % 2]);
        assert_eq!(deflater(None).deflate(&random.collect(), None), None, "random");
        let text = |length| Bytes::from(vec![b'x'; length]);
        for (length, is_deflated) in [(511, false), (512, true), (256 * 1024, true), (256 * 1024 + 1, false)] {
            assert_eq!(deflater(None).deflate(&text(length), None).is_some(), is_deflated, "{length}");
        }
        for (length, is_deflated) in [(1024, true), (1025, false)] {
            assert_eq!(deflater(Some(10)).deflate(&text(length), None).is_some(), is_deflated, "{length}");
        }
    }

    proptest! {
        #[test]
        fn whoever_inflates_it_has_the_frame(part in prop::collection::vec(any::<u8>(), 200..5_000), level in 1_u32..10) {
            let frame = Bytes::from(part.repeat(3));
            let settings = Settings { level, min_size: 0, ..Settings::default() };
            let agreed = Agreed { server_max_window_bits: None };
            let Some(deflated) = Deflater::new(agreed, &settings).deflate(&frame, None) else {
                return Err(TestCaseError::fail("what is said three times can be compressed"));
            };
            prop_assert!(deflated.len() < frame.len());
            let mut inflated = Vec::with_capacity(frame.len() + 1);
            let compressed = [&deflated, &TAIL[..]].concat();
            Decompress::new(false).decompress_vec(&compressed, &mut inflated, FlushDecompress::Sync)?;
            prop_assert_eq!(inflated, frame);
        }
    }

    #[test]
    fn what_is_shared_is_compressed_once() {
        let (frame, shared) = (Bytes::from(vec![b'x'; 1000]), Compressed::default());
        let first = deflater(None).deflate(&frame, Some(&shared)).unwrap();
        let second = deflater(None).deflate(&frame, Some(&shared)).unwrap();
        assert_eq!(first.as_ptr(), second.as_ptr());
    }
}
