//! Where an MQTT broker is, and as whom to log in there: `mqtts://user:passcode@host:8883`.

use crate::message::decode;

/// The parts of a URI.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) scheme: Scheme,
    pub(super) host: String,
    pub(super) port: u16,
    /// For WebSocket: with its leading slash.
    pub(super) path: String,
    pub(super) login: Option<(String, String)>,
}

/// What carries MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

impl Address {
    /// Reads a URI. No text of an error shows it, because there may be a passcode in it.
    pub(super) fn parse(uri: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = uri.split_once("://").ok_or("must begin with mqtt://, mqtts://, ws:// or wss://")?;
        let (scheme, usual_port) = match scheme {
            "mqtt" => (Scheme::Mqtt, 1883),
            "mqtts" => (Scheme::Mqtts, 8883),
            "ws" => (Scheme::Ws, 80),
            "wss" => (Scheme::Wss, 443),
            _ => return Err("must begin with mqtt://, mqtts://, ws:// or wss://"),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, ""),
        };
        let is_websocket = matches!(scheme, Scheme::Ws | Scheme::Wss);
        if !is_websocket && !matches!(path, "" | "/") {
            return Err("has a path, which means something to ws:// and wss:// only");
        }
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, authority),
        };
        let login = login.map(parse_login).transpose()?;
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| "has a port that is no number from 1 to 65535")?)
            }
            _ => (place, usual_port),
        };
        if host.is_empty() || port == 0 {
            return Err("needs a host, as in mqtt://host:1883");
        }
        let path = if is_websocket && path.is_empty() { "/mqtt" } else { path };
        Ok(Address { scheme, host: host.to_owned(), port, path: path.to_owned(), login })
    }
}

fn parse_login(login: &str) -> Result<(String, String), &'static str> {
    let part = |text| match decode(text) {
        Some(text) => Ok(text.into_owned()),
        None => Err("has a % in its login that two hexadecimal digits do not follow; write %25 for a percent sign"),
    };
    let (user, passcode) = login.split_once(':').unwrap_or((login, ""));
    Ok((part(user)?, part(passcode)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_has_its_parts() {
        let address = Address::parse("mqtts://shop:a%40b@broker").unwrap();
        assert_eq!((address.scheme, address.host.as_str(), address.port), (Scheme::Mqtts, "broker", 8883));
        assert_eq!(address.login, Some(("shop".to_owned(), "a@b".to_owned())));
        let address = Address::parse("ws://[::1]:8080").unwrap();
        assert_eq!((address.host.as_str(), address.port, address.path.as_str()), ("[::1]", 8080, "/mqtt"));
        assert_eq!(Address::parse("wss://h/x").unwrap().path, "/x");
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in ["host", "http://h", "mqtt://", "mqtt://h:x", "mqtt://h/path", "mqtt://a%zz@h", "mqtt://h:0"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
