//! `set_headers`: headers that a route adds or replaces.

use std::collections::{BTreeMap, HashSet};

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
        let mut known = HashSet::new();
        if let Some(name) = headers.keys().find(|name| !known.insert(reader.canonical(name))) {
            return Err(format!("has {name:?} twice; in HTTP capitals make no other header"));
        }
        Ok(SetHeaders { headers: headers.iter().map(read).collect::<Result<_, _>>()?, reader })
    }
}

impl Reader {
    /// What is the same for two names of one header.
    fn canonical(self, name: &str) -> String {
        if self == Reader::Service { name.to_ascii_lowercase() } else { name.to_owned() }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::step::tests::{pattern, run, send, status};

    fn step(name: &str, text: &str, reader: Reader) -> Result<SetHeaders, String> {
        SetHeaders::new(&[(name.to_owned(), text.to_owned())].into(), &pattern(), reader)
    }

    /// All that comes of a header `x` of the client's.
    fn set(text: &str, owner: &str, reader: Reader) -> Result<Vec<String>, Failure> {
        let mut request = send("");
        request.variables.0[0].1 = owner.to_owned();
        request.headers.push("x", "forged");
        request.headers.push("x", "forged again");
        run(&step("x", text, reader).unwrap(), &mut request, "zoë")?;
        let found = request.headers.iter().filter(|(name, _)| &***name == "x");
        Ok(found.map(|(_, value)| value.to_string()).collect())
    }

    #[test]
    fn what_the_route_sets_takes_the_place_of_what_the_client_said() {
        let text = "{owner} of {user} in {session}";
        assert_eq!(set(text, "a\nb%", Reader::Client).unwrap(), ["a\nb% of zoë in s-1"]);
        assert_eq!(set(text, "a\nb%", Reader::Service).unwrap(), ["a%0Ab%25 of zo%C3%AB in s-1"]);
        assert_eq!(set("{claim.team}", "", Reader::Client).unwrap(), ["red,blue"]);
        assert_eq!(status(set("{claim.none}", "", Reader::Client).map(drop)), 403);
    }

    #[test]
    fn what_means_something_else_is_not_set() {
        let names = |reader: Reader, names: &[&str]| {
            names.iter().map(|name| step(name, "", reader).is_ok()).collect::<Vec<_>>()
        };
        for name in OWN.into_iter().chain(["", "a:b", "a\nb", "stompgate-user"]) {
            assert_eq!(names(Reader::Client, &[name]), [false], "{name:?}");
        }
        for name in OWN_IN_CALLS.into_iter().chain(["", "a b", "Host", "Idempotency-Key", "Stompgate-User"]) {
            assert_eq!(names(Reader::Service, &[name]), [false], "{name:?}");
        }
        assert_eq!(names(Reader::Client, &["host", "a b", "X"]), [true; 3]);
        assert_eq!(names(Reader::Service, &["authorization", "X-Y"]), [true; 2]);
    }

    #[test]
    fn a_header_of_http_is_named_once_whatever_its_capitals() {
        let headers = ["X", "x"].map(|name| (name.to_owned(), String::new())).into();
        let set = |reader| SetHeaders::new(&headers, &pattern(), reader).map(|_| ());
        assert!(set(Reader::Service).is_err_and(|why| why.contains("twice")));
        assert_eq!(set(Reader::Client), Ok(()), "in STOMP they are two");
    }

    #[test]
    fn a_header_of_http_is_ascii_and_its_variables_are_known() {
        for (text, reader, is_good) in [
            ("ä", Reader::Client, true),
            ("ä", Reader::Service, false),
            ("a\r\nb: c", Reader::Service, false),
            ("{other}", Reader::Client, false),
            ("{owner", Reader::Client, false),
        ] {
            assert_eq!(step("x", text, reader).is_ok(), is_good, "{text:?} {reader:?}");
        }
    }
}
