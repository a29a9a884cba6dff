//! `set_headers`: headers that a route adds or replaces.

use std::collections::BTreeMap;

use hyper::header::HeaderName;

use super::Step;
use crate::chain::Failure;
use crate::chain::handler::Request;
use crate::chain::template::{RoutePattern, Template, Values, readable};
use crate::message::Text;

/// Sets headers to texts with `{variables}`.
pub(super) struct SetHeaders {
    headers: Vec<(Text, Template)>,
    reader: Reader,
}

/// Who reads the headers, and so what may stand in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// Those who read the message: any text.
    Client,
    /// An HTTP service: visible ASCII and spaces, in which values are percent-encoded as in `stompgate-user`.
    Service,
}

impl SetHeaders {
    pub(super) fn new(
        headers: &BTreeMap<String, String>,
        pattern: &RoutePattern,
        reader: Reader,
    ) -> Result<Self, String> {
        let read = |(name, text): (&String, &String)| {
            if !reader.may_have(name) {
                return Err(format!("has {name:?}, which is no name of a header, or one that is the gateway's own"));
            }
            if reader == Reader::Service && text.contains(|character| !matches!(character, ' '..='~')) {
                return Err(format!("has {text:?} for {name}; a header of HTTP is visible ASCII and spaces"));
            }
            let template = Template::parse(text)?;
            template.check(pattern)?;
            Ok((Text::from(name.as_str()), template))
        };
        Ok(SetHeaders { headers: headers.iter().map(read).collect::<Result<_, _>>()?, reader })
    }
}

impl Reader {
    fn may_have(self, name: &str) -> bool {
        match self {
            Reader::Client => {
                let is_name = !name.is_empty() && !name.contains([':', '\n', '\r', '\0']);
                is_name && !name.starts_with("stompgate-") && !OWN.contains(&name)
            }
            Reader::Service => {
                let lower = name.to_ascii_lowercase();
                let is_name = HeaderName::from_bytes(name.as_bytes()).is_ok();
                is_name && !lower.starts_with("stompgate-") && !OWN_IN_CALLS.contains(&lower.as_str())
            }
        }
    }
}

/// Headers that mean something else than they say.
const OWN: [&str; 8] =
    ["destination", "message-id", "subscription", "content-length", "receipt", "transaction", "ack", "reply-to"];
/// Headers of HTTP that the connection, or the call as such, needs for itself.
const OWN_IN_CALLS: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Step for SetHeaders {
    fn run(&self, request: &mut Request, values: &Values<'_>) -> Result<(), Failure> {
        for (name, template) in &self.headers {
            let value = template.fill(values, |value| {
                Ok(match self.reader {
                    Reader::Client => value.to_owned(),
                    Reader::Service => readable(value),
                })
            })?;
            request.headers.set(name.clone(), value);
        }
        Ok(())
    }
}
