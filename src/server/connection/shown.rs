//! A frame as the log may show it: never its body, and only headers that are known to hold no secret.

use std::fmt;

use crate::stomp::Frame;

/// What says which frame it was, and nothing else of it. A header of the application's own may be a secret.
const SHOWN: &[&str] = &[
    "accept-version",
    "ack",
    "code",
    "content-length",
    "content-type",
    "destination",
    "durable",
    "heart-beat",
    "host",
    "id",
    "login",
    "message",
    "message-id",
    "prefetch-count",
    "receipt",
    "receipt-id",
    "routed",
    "session",
    "settled",
    "status",
    "subscription",
    "transaction",
    "user-name",
    "version",
];

/// Writes a frame for the log.
pub(super) struct Shown<'a>(pub(super) &'a Frame);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Frame { command, headers, body } = self.0;
        write!(f, "{command}")?;
        for (name, value) in headers.iter() {
            if SHOWN.contains(&&**name) {
                write!(f, " {name}:{:?}", &**value)?;
            }
        }
        write!(f, " ({} headers, {} bytes of body)", headers.len(), body.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Headers;
    use crate::stomp::Command;

    #[test]
    fn secrets_and_bodies_are_not_shown() {
        let headers = [
            ("login", "ada"),
            ("passcode", "hunter2"),
            ("authorization", "hunter2"),
            ("my-own", "hunter2"),
            ("id", "1"),
        ];
        let frame = Frame { command: Command::Connect, headers: Headers::from(headers), body: "hunter2".into() };
        assert_eq!(Shown(&frame).to_string(), "CONNECT login:\"ada\" id:\"1\" (5 headers, 7 bytes of body)");
    }
}
