//! Why bytes are not a frame.

use crate::message::Refusal;

use super::Command;

/// How many bytes of the client's own text an error repeats.
const SHOWN: usize = 32;

/// The first fault in a stream of frames. Texts taken from the stream are cut short, and every message prints them
/// with control characters escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The first line is no command of any version.
    #[error("the command {0:?} does not exist")]
    UnknownCommand(String),
    /// A NUL where a command or header should be (STOMP 1.2, “STOMP Frames”: NUL ends the frame, after the body).
    #[error("a NUL stands inside the command or headers; a blank line must end the headers before the body begins")]
    NulInHead,
    /// Command or headers are not UTF-8 (STOMP 1.2, “Value Encoding”).
    #[error("the command and headers are not UTF-8")]
    NotUtf8,
    /// A CR that no LF follows (STOMP 1.2, “Augmented BNF”: no CR in names and values).
    #[error("a carriage return stands alone; it belongs before a line feed, or is written \\r in a header")]
    BareCarriageReturn,
    /// A header line without a colon.
    #[error("the header line {0:?} has no colon")]
    MissingColon(String),
    /// A header without a name.
    #[error("the header line {0:?} has no name before its colon")]
    EmptyName(String),
    /// An escape that the version does not define (STOMP 1.2, “Value Encoding”: a fatal protocol error).
    #[error("the header line {0:?} has an undefined escape; defined are \\n, \\c, \\\\ and, since 1.2, \\r")]
    UndefinedEscape(String),
    /// A `content-length` that is not a number of bytes.
    #[error("the header \"content-length\" has the value {0:?}; expected decimal digits")]
    ContentLength(String),
    /// No NUL after the bytes that `content-length` counts.
    #[error("no NUL follows the body of {0} bytes that content-length announces")]
    MissingNul(usize),
    /// A body where none may be (STOMP 1.2, “Body”).
    #[error("{0} must not have a body; only SEND, MESSAGE and ERROR may")]
    UnexpectedBody(Command),
    /// More headers than the limit.
    #[error("the number of headers exceeds the limit of {0}")]
    TooManyHeaders(usize),
    /// Headers longer than the limit.
    #[error("the headers exceed the limit of {0} bytes")]
    HeadersTooLarge(usize),
    /// A body longer than the limit.
    #[error("the body exceeds the limit of {limit} bytes")]
    BodyTooLarge {
        /// What `content-length` says, if it is there.
        announced: Option<usize>,
        /// The limit in bytes.
        limit: usize,
    },
    /// A whole frame longer than the limit for frames before CONNECT is through.
    #[error("the frame exceeds the limit of {0} bytes")]
    FrameTooLarge(usize),
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::UnknownCommand(command) => Refusal::unknown_command(&command),
            DecodeError::TooManyHeaders(limit) => {
                Refusal::too_large("The number of headers", limit, "session.max_headers")
            }
            DecodeError::HeadersTooLarge(limit) => {
                Refusal::too_large("The size of the headers in bytes", limit, "session.max_header_bytes")
            }
            DecodeError::BodyTooLarge { announced: Some(length), limit } => {
                Refusal::too_large(&format!("The body of {length} bytes"), limit, "session.max_body")
            }
            DecodeError::BodyTooLarge { announced: None, limit } => {
                Refusal::too_large("The size of the body in bytes", limit, "session.max_body")
            }
            DecodeError::FrameTooLarge(limit) => {
                Refusal::too_large("The size of the CONNECT frame in bytes", limit, "session.max_connect_bytes")
            }
            other => Refusal::malformed(sentence(&other.to_string())),
        }
    }
}

/// The beginning of what the client wrote, for an error to show.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned()
}

fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).chain(['.']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_names_its_setting() {
        for (error, setting) in [
            (DecodeError::TooManyHeaders(100), "session.max_headers"),
            (DecodeError::HeadersTooLarge(16_384), "session.max_header_bytes"),
            (DecodeError::BodyTooLarge { announced: Some(9), limit: 8 }, "session.max_body"),
            (DecodeError::BodyTooLarge { announced: None, limit: 8 }, "session.max_body"),
            (DecodeError::FrameTooLarge(16_384), "session.max_connect_bytes"),
        ] {
            let refusal = Refusal::from(error);
            assert_eq!(refusal.code, "too-large");
            assert!(refusal.detail.contains(setting), "{refusal}");
        }
    }

    #[test]
    fn a_fault_is_told_in_a_sentence_with_its_value() {
        let refusal = Refusal::from(DecodeError::MissingColon("no\u{7}colon".into()));
        assert_eq!(refusal.code, "malformed-frame");
        assert_eq!(refusal.detail, r#"The header line "no\u{7}colon" has no colon."#);
        assert_eq!(Refusal::from(DecodeError::UnknownCommand("GET /".into())).code, "unknown-command");
    }

    #[test]
    fn an_excerpt_is_short_and_text() {
        assert_eq!(excerpt(&[b'x'; 1000]).len(), SHOWN);
        assert_eq!(excerpt(b"a\xff"), "a\u{fffd}");
    }
}
