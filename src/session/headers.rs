//! Headers of frames: reading those that commands have in common, and writing those of RECEIPT.

use std::str::FromStr;

use bytes::Bytes;

use crate::message::{Headers, Outcome, Refusal, Text};
use crate::stomp::{Command, Frame};

/// RECEIPT, with what the client should know of the outcome (contract, §4).
pub(super) fn receipt(receipt: &Text, outcome: &Outcome) -> Frame {
    let mut headers = Headers::from([("receipt-id", receipt.clone())]);
    if !outcome.routed {
        headers.push("routed", "false");
    }
    if !outcome.settled {
        headers.push("settled", "false");
    }
    if let Some(warning) = &outcome.warning {
        headers.push("warning", warning.as_str());
    }
    Frame { command: Command::Receipt, headers, body: Bytes::new() }
}

/// A header that its command demands.
pub(super) fn required<'a>(frame: &'a Frame, header: &str) -> Result<&'a Text, Refusal> {
    match frame.headers.get(header) {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(Refusal::missing_header(frame.command.as_str(), header)),
    }
}

/// A header that is `true` or `false`.
pub(super) fn flag(frame: &Frame, header: &str) -> Result<Option<bool>, Refusal> {
    match frame.headers.get(header).map(|value| &**value) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(Refusal::invalid_header(header, other, "true or false")),
    }
}

/// A header that is a whole number.
pub(super) fn number<N: FromStr>(frame: &Frame, header: &str, expected: &str) -> Result<Option<N>, Refusal> {
    let Some(value) = frame.headers.get(header) else { return Ok(None) };
    match value.parse() {
        Ok(number) if value.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Some(number)),
        _ => Err(Refusal::invalid_header(header, value, expected)),
    }
}
