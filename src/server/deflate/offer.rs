//! What a client offers and what the gateway agrees to (RFC 7692 §5 and §7.1).

use hyper::header::{HeaderMap, SEC_WEBSOCKET_EXTENSIONS};

/// What was agreed on with one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct Agreed {
    /// Base-2 logarithm of the largest distance that the client is prepared for, if it said so.
    pub(super) server_max_window_bits: Option<u8>,
}

/// The first offer that can be agreed to. One with a parameter that is unknown, repeated or out of range is declined
/// (§5.1), and the WebSocket is opened without compression if there is no other.
pub(in crate::server) fn negotiate(headers: &HeaderMap) -> Option<Agreed> {
    let lists = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).find_map(agree)
}

fn agree(offer: &str) -> Option<Agreed> {
    let mut parts = offer.split(';').map(str::trim);
    if parts.next() != Some("permessage-deflate") {
        return None;
    }
    let mut agreed = Agreed { server_max_window_bits: None };
    let mut known = Vec::new();
    for parameter in parts {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name.trim(), Some(unquoted(value.trim()))),
            None => (parameter, None),
        };
        if known.contains(&name) {
            return None;
        }
        known.push(name);
        match (name, value) {
            // The first two hold anyway; and however far back a client refers, it can be inflated.
            ("server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(value)) => drop(window_bits(value)?),
            ("server_max_window_bits", Some(value)) => agreed.server_max_window_bits = Some(window_bits(value)?),
            _ => return None,
        }
    }
    Some(agreed)
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// 8 to 15, without a leading zero.
fn window_bits(value: &str) -> Option<u8> {
    value.parse().ok().filter(|bits| (8..=15).contains(bits) && !value.starts_with(['0', '+']))
}

impl Agreed {
    /// The value of `Sec-WebSocket-Extensions` that says so.
    pub(in crate::server) fn answer(self) -> String {
        let answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        match self.server_max_window_bits {
            Some(bits) => format!("{answer}; server_max_window_bits={bits}"),
            None => answer.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(offers: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for offer in offers {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, hyper::header::HeaderValue::from_static(offer));
        }
        negotiate(&headers).map(Agreed::answer)
    }

    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn what_browsers_offer_is_agreed_to() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate ;client_max_window_bits = \"10\"",
            "x-webkit-deflate-frame, permessage-deflate; client_max_window_bits",
        ] {
            assert_eq!(negotiated(&[offer]).as_deref(), Some(PLAIN), "{offer}");
        }
        assert_eq!(negotiated(&["bbf-usp-protocol", "permessage-deflate"]).as_deref(), Some(PLAIN));
    }

    #[test]
    fn a_smaller_window_is_agreed_to_and_said() {
        let answer = negotiated(&["permessage-deflate; server_max_window_bits=9"]);
        assert_eq!(answer, Some(format!("{PLAIN}; server_max_window_bits=9")));
    }

    #[test]
    fn what_cannot_be_kept_is_declined_and_the_next_offer_counts() {
        for offer in [
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "permessage-deflate; client_max_window_bits=x",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; mux",
            "permessage-deflate;",
            "permessage-deflat",
            "",
        ] {
            assert_eq!(negotiated(&[offer]), None, "{offer}");
            assert_eq!(negotiated(&[offer, "permessage-deflate"]).as_deref(), Some(PLAIN), "{offer}");
        }
        assert_eq!(negotiated(&[]), None);
    }
}
