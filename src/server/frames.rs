//! The frames of RFC 6455 §5.2 in what a client sends: where each one begins and ends.

/// The header of a frame, as far as it has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Header {
    bytes: [u8; 14],
    length: usize,
}

impl Header {
    /// Takes its next byte, and says whether it is whole now.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        self.bytes[self.length] = byte;
        self.length += 1;
        self.length == self.expected()
    }

    /// Bytes that it has, as far as it says so.
    fn expected(&self) -> usize {
        if self.length < 2 {
            return 2;
        }
        let length = match self.bytes[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.is_masked() { 4 } else { 0 };
        2 + length + mask
    }

    /// What came of it.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// FIN, the reserved bits, and the opcode.
    pub(super) fn first(&self) -> u8 {
        self.bytes[0]
    }

    pub(super) fn is_last(&self) -> bool {
        self.first() & 0x80 != 0
    }

    pub(super) fn is_control(&self) -> bool {
        self.first() & 0x08 != 0
    }

    pub(super) fn is_masked(&self) -> bool {
        self.bytes[1] & 0x80 != 0
    }

    /// The masking key of a whole header that has one: its last four bytes.
    pub(super) fn mask(&self) -> [u8; 4] {
        let mut mask = [0; 4];
        mask.copy_from_slice(&self.bytes[self.length - 4..self.length]);
        mask
    }

    /// Bytes of the payload that follows a whole header.
    pub(super) fn payload(&self) -> u64 {
        let [_, second, length @ ..] = &self.bytes;
        match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([length[0], length[1]])),
            127 => length[..8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            short => u64::from(short),
        }
    }
}

/// Follows the frames in what is read, so as to know when no part of one waits in a buffer above.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: Header,
    payload_left: u64,
    /// A fragmented message has begun and not ended.
    is_fragmented: bool,
    /// Bytes of the largest payload.
    largest: u64,
}

impl Frames {
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let length = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload_left -= length as u64;
                bytes = &bytes[length..];
                continue;
            }
            bytes = rest;
            if self.header.push(*first) {
                self.begin_payload();
            }
        }
    }

    fn begin_payload(&mut self) {
        let header = std::mem::take(&mut self.header);
        self.payload_left = header.payload();
        if !header.is_control() {
            self.is_fragmented = !header.is_last();
        }
        self.largest = self.largest.max(self.payload_left);
    }

    /// Whether the last byte read was the last one of a message.
    pub(super) fn is_between_messages(&self) -> bool {
        self.header.length == 0 && self.payload_left == 0 && !self.is_fragmented
    }

    /// Bytes of the largest payload.
    pub(super) fn largest(&self) -> u64 {
        self.largest
    }

    pub(super) fn forget_largest(&mut self) {
        self.largest = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A masked frame as a client sends it, with its length in as many bytes as `longer` asks for at least.
    fn frame(first: u8, payload: usize, longer: u8) -> Vec<u8> {
        let mut bytes = vec![first];
        match (payload, longer) {
            (0..=125, 0) => bytes.push(0x80 | u8::try_from(payload).unwrap()),
            (0..=0xffff, 0 | 1) => {
                bytes.push(0x80 | 0x7e);
                bytes.extend(u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 0x7f);
                bytes.extend((payload as u64).to_be_bytes());
            }
        }
        bytes.extend([0; 4]);
        bytes.extend(vec![0xff; payload]);
        bytes
    }

    #[test]
    fn a_message_in_fragments_ends_with_its_last() {
        let mut frames = Frames::default();
        for (first, is_between) in [(0x01, false), (0x89, false), (0x00, false), (0x80, true), (0x82, true)] {
            frames.read(&frame(first, 10, 0));
            assert_eq!(frames.is_between_messages(), is_between, "{first:#x}");
        }
    }

    proptest! {
        #[test]
        fn the_end_of_a_message_is_known_however_it_is_split(
            lengths in prop::collection::vec((0usize..70_000, 0u8..3), 1..4),
            pieces in 1usize..5_000,
        ) {
            let mut frames = Frames::default();
            for (length, longer) in &lengths {
                let bytes = frame(0x82, *length, *longer);
                let (last, rest) = bytes.split_last().unwrap();
                for piece in rest.chunks(pieces) {
                    frames.read(piece);
                    prop_assert!(!frames.is_between_messages());
                }
                frames.read(&[*last]);
                prop_assert!(frames.is_between_messages());
            }
            prop_assert_eq!(frames.largest(), lengths.iter().map(|(length, _)| *length as u64).max().unwrap());
        }
    }
}
