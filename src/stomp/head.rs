//! The head of a frame: command and headers, up to the blank line.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::{memchr, memchr2};

use crate::message::{Headers, Text};

use super::dialect::Dialect;
use super::error::excerpt;
use super::{Command, DecodeError, Limits, Version};

/// The longest first line that is waited for. Commands are shorter; more is only shown in the error.
const COMMAND_LINE: usize = 32;

/// How far a head has been searched for its end. Positions count from the frame's first byte.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    scanned: usize,
    line_start: usize,
    /// Known after the first line, with the position where the headers begin.
    command: Option<(Command, usize)>,
    headers: usize,
}

/// A head that is complete.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) command: Command,
    pub(super) headers: Headers,
    /// Bytes on the wire, blank line included.
    pub(super) size: usize,
}

impl HeadScan {
    /// Goes on to search `window`, the frame's bytes so far; the answer is the length of the head when it is complete.
    ///
    /// Faults are found in the order of their bytes, so that it does not matter in which pieces these arrive.
    pub(super) fn find_end(
        &mut self,
        window: &[u8],
        version: Option<Version>,
        limits: &Limits,
    ) -> Result<Option<usize>, DecodeError> {
        while let Some(offset) = memchr2(b'\n', 0, &window[self.scanned..]) {
            let end = self.scanned + offset;
            self.check_size(&window[..=end], limits)?;
            if window[end] == 0 {
                return Err(DecodeError::NulInHead);
            }
            let line = &window[self.line_start..end];
            (self.scanned, self.line_start) = (end + 1, end + 1);
            if self.is_last(line, version, limits)? {
                return Ok(Some(end + 1));
            }
        }
        self.scanned = window.len();
        self.check_size(window, limits)?;
        Ok(None)
    }

    fn check_size(&self, bytes: &[u8], limits: &Limits) -> Result<(), DecodeError> {
        let most = self.command.map_or(COMMAND_LINE, |(_, start)| start.saturating_add(limits.header_bytes));
        match limits.frame {
            Some(limit) if limit < most && bytes.len() > limit => Err(DecodeError::FrameTooLarge(limit)),
            _ if bytes.len() <= most => Ok(()),
            _ if self.command.is_none() => Err(DecodeError::UnknownCommand(excerpt(bytes))),
            _ => Err(DecodeError::HeadersTooLarge(limits.header_bytes)),
        }
    }

    fn is_last(&mut self, line: &[u8], version: Option<Version>, limits: &Limits) -> Result<bool, DecodeError> {
        let Some((command, _)) = self.command else {
            self.command = Some((command_of(line, version)?, self.line_start));
            return Ok(false);
        };
        let is_blank = line.is_empty() || (line == b"\r" && Dialect::new(command, version).strips_carriage_return);
        if is_blank {
            return Ok(true);
        }
        self.headers += 1;
        if self.headers > limits.headers {
            return Err(DecodeError::TooManyHeaders(limits.headers));
        }
        Ok(false)
    }

    /// Reads the complete head. Names and values are slices of `bytes`, but for those with escapes in them.
    pub(super) fn parse(self, bytes: Bytes, version: Option<Version>) -> Result<Head, DecodeError> {
        let size = bytes.len();
        let block = Text::try_from(bytes).map_err(|_| DecodeError::NotUtf8)?;
        let Some((command, start)) = self.command else { return Err(DecodeError::NulInHead) }; // a head has a command
        let dialect = Dialect::new(command, version);
        let mut headers = parse_headers(&block, start, self.headers, dialect.narrowed_to(&block))?;
        let told_by_headers = Dialect::for_headers(command, version, &headers);
        if told_by_headers != dialect {
            headers = drop_spaces(&headers, told_by_headers);
        }
        Ok(Head { command, headers, size })
    }
}

fn command_of(line: &[u8], version: Option<Version>) -> Result<Command, DecodeError> {
    let stripped = line.strip_suffix(b"\r").unwrap_or(line);
    let command = Command::from_bytes(stripped);
    command
        .filter(|command| stripped.len() == line.len() || Dialect::new(*command, version).strips_carriage_return)
        .ok_or_else(|| DecodeError::UnknownCommand(excerpt(line)))
}

fn without_line_end(line: &str, dialect: Dialect) -> &str {
    if dialect.strips_carriage_return { line.strip_suffix('\r').unwrap_or(line) } else { line }
}

fn parse_headers(block: &Text, start: usize, count: usize, dialect: Dialect) -> Result<Headers, DecodeError> {
    let mut headers = Headers::with_capacity(count);
    let mut rest = &block[start..];
    for _ in 0..count {
        let Some((line, after)) = split_once(b'\n', rest) else { break };
        rest = after;
        let (name, value) = parse_line(block, without_line_end(line, dialect), dialect)?;
        headers.push(name, value);
    }
    Ok(headers)
}

/// The first colon divides name and value. The grammar of 1.1 and 1.2 has no further plain colon in a value; clients
/// write them all the same (`destination:/topic/a:b`), peers accept them, and there is only one way to understand them.
fn parse_line(block: &Text, line: &str, dialect: Dialect) -> Result<(Text, Text), DecodeError> {
    if dialect.strips_carriage_return && memchr(b'\r', line.as_bytes()).is_some() {
        return Err(DecodeError::BareCarriageReturn);
    }
    let shown = || excerpt(line.as_bytes());
    let (name, value) = split_once(b':', line).ok_or_else(|| DecodeError::MissingColon(shown()))?;
    if name.is_empty() {
        return Err(DecodeError::EmptyName(shown()));
    }
    let text = |raw| unescaped(block, raw, dialect).ok_or_else(|| DecodeError::UndefinedEscape(shown()));
    Ok((text(name)?, text(dialect.after_colon(value))?))
}

/// As `str` has it, in half the time.
fn split_once(divider: u8, text: &str) -> Option<(&str, &str)> {
    let at = memchr(divider, text.as_bytes())?;
    Some((&text[..at], &text[at + 1..]))
}

fn unescaped(block: &Text, raw: &str, dialect: Dialect) -> Option<Text> {
    Some(match dialect.unescape(raw).ok()? {
        Cow::Borrowed(text) => block.slice_ref(text),
        Cow::Owned(text) => Text::from(text),
    })
}

/// The handshake of 1.0 is known by its headers only, after they have been read.
fn drop_spaces(headers: &Headers, dialect: Dialect) -> Headers {
    headers.iter().map(|(name, value)| (name.clone(), value.slice_ref(dialect.after_colon(value)))).collect()
}
