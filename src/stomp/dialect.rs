//! How one frame writes its lines: what the three versions and the handshake do differently.
//!
//! | | CONNECT, CONNECTED | 1.0 | 1.1 | 1.2 |
//! |---|---|---|---|---|
//! | CR before LF | dropped | kept | kept | dropped |
//! | escapes | none | none | `\n \c \\` | `\n \c \\ \r` |
//! | one space after the colon | dropped if it is 1.0's | dropped | kept | kept |
//!
//! Both directions live here, so that what the encoder writes is what the decoder reads.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use crate::message::Headers;

use super::{Command, Version};

/// The rules for the lines of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    /// A line ends in LF or CR LF; elsewhere in the line there is no CR.
    pub(super) strips_carriage_return: bool,
    /// Names and values are escaped, and how.
    escapes: Escapes,
    /// One space after the colon is not part of the value.
    ///
    /// The 1.0 specification writes `login: <username>` and `login:<username>` for the same thing; 1.1 and 1.2 forbid
    /// trimming. One space only, so that a value that begins with spaces can still be written.
    drops_space: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escapes {
    None,
    /// Without `\r`.
    V11,
    V12,
}

/// An escape that is not defined.
pub(super) struct UndefinedEscape;

impl Dialect {
    /// The rules for a frame, but for the space after the colon in the handshake ([`Dialect::for_headers`]).
    ///
    /// Before a version is agreed on, every frame reads like CONNECT.
    pub(super) const fn new(command: Command, version: Option<Version>) -> Self {
        let (strips_carriage_return, escapes, drops_space) = match version {
            _ if command.is_handshake() => (true, Escapes::None, false),
            None => (true, Escapes::None, false),
            Some(Version::V10) => (false, Escapes::None, true),
            Some(Version::V11) => (false, Escapes::V11, false),
            Some(Version::V12) => (true, Escapes::V12, false),
        };
        Dialect { strips_carriage_return, escapes, drops_space }
    }

    /// The rules for a frame with these headers: a handshake says by them whether it is one of 1.0.
    pub(super) fn for_headers(command: Command, version: Option<Version>, headers: &Headers) -> Self {
        let mut dialect = Self::new(command, version);
        dialect.drops_space |= command.is_handshake() && handshake_is_of_1_0(command, headers);
        dialect
    }

    /// What of these rules matters to the lines of this head: most have neither a CR nor an escape, and need not be
    /// searched for them line by line.
    pub(super) fn narrowed_to(self, head: &str) -> Self {
        let has = |byte| memchr::memchr(byte, head.as_bytes()).is_some();
        Dialect {
            strips_carriage_return: self.strips_carriage_return && has(b'\r'),
            escapes: if has(b'\\') { self.escapes } else { Escapes::None },
            ..self
        }
    }

    /// The value as it is meant, of what stands after the colon.
    pub(super) fn after_colon(self, value: &str) -> &str {
        if self.drops_space { value.strip_prefix(' ').unwrap_or(value) } else { value }
    }

    /// A name or value as it is meant (STOMP 1.2, “Value Encoding”).
    pub(super) fn unescape(self, raw: &str) -> Result<Cow<'_, str>, UndefinedEscape> {
        if self.escapes == Escapes::None || memchr::memchr(b'\\', raw.as_bytes()).is_none() {
            return Ok(Cow::Borrowed(raw));
        }
        let mut text = String::with_capacity(raw.len());
        let mut characters = raw.chars();
        while let Some(character) = characters.next() {
            text.push(if character == '\\' { self.escaped(characters.next())? } else { character });
        }
        Ok(Cow::Owned(text))
    }

    fn escaped(self, letter: Option<char>) -> Result<char, UndefinedEscape> {
        match letter {
            Some('n') => Ok('\n'),
            Some('c') => Ok(':'),
            Some('\\') => Ok('\\'),
            Some('r') if self.escapes == Escapes::V12 => Ok('\r'),
            _ => Err(UndefinedEscape),
        }
    }

    /// Writes one header line. False when this dialect has no words for it: then nothing is written, since a header
    /// that is cut or changed could be read as another header, or as another frame.
    pub(super) fn write(self, name: &str, value: &str, out: &mut BytesMut) -> bool {
        if name.is_empty() || !self.can_write(name.as_bytes(), true) || !self.can_write(value.as_bytes(), false) {
            return false;
        }
        self.write_text(name.as_bytes(), out);
        out.put_u8(b':');
        if self.drops_space && value.starts_with(' ') {
            out.put_u8(b' '); // the one that the reader drops
        }
        self.write_text(value.as_bytes(), out);
        out.put_u8(b'\n');
        true
    }

    /// CR is left out in 1.0 and 1.1 although the grammar has it, since many readers drop or strip it.
    fn can_write(self, text: &[u8], is_name: bool) -> bool {
        !text.iter().any(|byte| match byte {
            0 => true,
            b'\r' => self.escapes != Escapes::V12,
            b'\n' => self.escapes == Escapes::None,
            b':' => is_name && self.escapes == Escapes::None,
            _ => false,
        })
    }

    fn write_text(self, text: &[u8], out: &mut BytesMut) {
        if self.escapes == Escapes::None || !text.iter().any(|byte| escape_of(*byte).is_some()) {
            return out.extend_from_slice(text);
        }
        for byte in text {
            match escape_of(*byte) {
                Some(escape) => out.extend_from_slice(escape),
                None => out.put_u8(*byte),
            }
        }
    }
}

const fn escape_of(byte: u8) -> Option<&'static [u8]> {
    match byte {
        b'\n' => Some(b"\\n"),
        b'\r' => Some(b"\\r"), // only 1.2 comes this far with one
        b':' => Some(b"\\c"),
        b'\\' => Some(b"\\\\"),
        _ => None,
    }
}

/// Whether a handshake leads to a session of 1.0 at best, and so was written by that specification's rules.
fn handshake_is_of_1_0(command: Command, headers: &Headers) -> bool {
    match command {
        Command::Connected => headers.get("version").is_none_or(|version| version.trim_matches(' ') == "1.0"),
        _ => Version::negotiate(headers.get("accept-version").map(|offered| &**offered)) == Some(Version::V10),
    }
}
