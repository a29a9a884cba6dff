//! Headers of STOMP and properties of MQTT: the table of the contract, §2, both ways.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::names::{Names, is_reply, is_text};
use super::settings::Version;
use super::wire::{Arrival, Packet, Properties};
use crate::broker::BrokerError;
use crate::broker::base64::{base64url, decoded};
use crate::message::{Destination, Headers, Message, PublishOptions, Text};

/// Marks what may have been published before (contract, §4).
pub(super) const REPUBLISHED: &str = "stompgate-republished";
/// Marks what was delivered before, and could not be returned to the broker but as a new message.
pub(super) const REDELIVERED: &str = "stompgate-redelivered";
/// What a reply address looks like to a STOMP client.
const REPLY_QUEUE: &str = "/reply-queue/";
/// Before correlation data that is no text.
const BASE64: &str = "base64:";
/// The longest string or binary that MQTT has.
const LONGEST: usize = 65_535;

/// How messages that come are read.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    pub(super) names: Names,
    pub(super) version: Version,
    pub(super) envelope: bool,
}

impl Reading {
    /// A message that was sent to this destination.
    pub(super) fn message(self, destination: Destination, arrival: &Arrival) -> Message {
        let (headers, body) = match self.version {
            Version::V5 => (headers(arrival), arrival.payload.clone()),
            Version::V311 => plain_headers(arrival, self.envelope),
        };
        Message { destination, headers, body, options: PublishOptions::default() }
    }
}

/// A message on its way to the broker, by MQTT 5.
pub(super) fn packet(message: &Message, topic: String, qos: u8) -> Result<Packet, BrokerError> {
    let mut properties = Properties::default();
    for (name, value) in message.headers.iter() {
        let text = || expressible(name, value).map(|()| value.to_string());
        match &**name {
            "content-type" => properties.content_type = Some(text()?),
            "correlation-id" => properties.correlation_data = Some(correlation_data(value)?),
            "reply-to" if !response_topic(value).contains(['+', '#']) && !value.is_empty() => {
                expressible(name, value)?;
                properties.response_topic = Some(response_topic(value).to_owned());
            }
            "persistent" | "expiration" | "retain" | "qos" => {} // parsed, in the options
            _ => {
                expressible("of a header's name", name)?;
                properties.user.push((name.to_string(), text()?));
            }
        }
    }
    properties.expiry = message.options.expiration.map(|after| {
        // Rounded up: a message must not go too soon.
        u32::try_from(after.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX)
    });
    let says_text = |kind: &String| kind.starts_with("text/") || kind.ends_with("json") || kind.ends_with("xml");
    properties.is_text =
        properties.content_type.as_ref().is_some_and(says_text) && std::str::from_utf8(&message.body).is_ok();
    Ok(Packet { topic, qos, retain: message.options.retain, properties, payload: message.body.clone() })
}

/// Marks a message that may be there already. By 3.1.1 the envelope is all that there is to mark.
pub(super) fn republish(packet: &mut Packet, envelope: bool) {
    if envelope {
        packet.payload = marked(&packet.payload).unwrap_or_else(|| packet.payload.clone());
    } else if !packet.properties.user.iter().any(|(name, _)| name == REPUBLISHED) {
        packet.properties.user.push((REPUBLISHED.to_owned(), "true".to_owned()));
    }
}

/// The headers of a message that came, by MQTT 5.
pub(super) fn headers(arrival: &Arrival) -> Headers {
    let properties = &arrival.properties;
    let mut headers = Headers::with_capacity(6 + properties.user.len());
    match &properties.content_type {
        Some(kind) => headers.push("content-type", kind.as_str()),
        None if properties.is_text => headers.push("content-type", "text/plain"),
        None => {}
    }
    if let Some(data) = &properties.correlation_data {
        let text = match Text::try_from(data.clone()) {
            Ok(text) if !text.starts_with(BASE64) => text,
            _ => Text::from(format!("{BASE64}{}", base64url(data))),
        };
        headers.push("correlation-id", text);
    }
    if let Some(topic) = &properties.response_topic {
        let prefix = if is_reply(topic) { REPLY_QUEUE } else { "" };
        headers.push("reply-to", format!("{prefix}{topic}"));
    }
    if let Some(seconds) = properties.expiry {
        headers.push("expiration", (u64::from(seconds) * 1_000).to_string());
    }
    push_delivery(&mut headers, arrival);
    for (name, value) in &properties.user {
        if !is_ours(name) && headers.get(name).is_none() {
            headers.push(name.as_str(), value.as_str());
        }
    }
    headers
}

/// A message on its way to the broker, by MQTT 3.1.1: as one JSON document, if that is wanted.
pub(super) fn plain_packet(message: &Message, topic: String, qos: u8, envelope: bool) -> Packet {
    let payload = if envelope { wrapped(message) } else { message.body.clone() };
    Packet { topic, qos, retain: message.options.retain, payload, ..Packet::default() }
}

/// Headers and body of a message that came by MQTT 3.1.1. What is no envelope is a body.
pub(super) fn plain_headers(arrival: &Arrival, envelope: bool) -> (Headers, Bytes) {
    let (mut headers, body) = envelope.then(|| unwrapped(&arrival.payload)).flatten().unwrap_or_default();
    push_delivery(&mut headers, arrival);
    (headers, body.unwrap_or_else(|| arrival.payload.clone()))
}

/// How long a message that came may still wait.
pub(super) fn time_left(message: &Message) -> Option<Duration> {
    message.headers.get("expiration")?.parse().ok().map(Duration::from_millis)
}

/// How it came.
fn push_delivery(headers: &mut Headers, arrival: &Arrival) {
    if arrival.qos > 0 {
        headers.set("qos", arrival.qos.to_string());
    }
    if arrival.retain {
        headers.set("retain", "true");
    }
}

/// Retaining an empty document would not make the broker forget, so that stays empty.
fn wrapped(message: &Message) -> Bytes {
    if message.body.is_empty() && message.options.retain {
        return Bytes::new();
    }
    let headers: Map<String, Value> =
        message.headers.iter().map(|(name, value)| (name.to_string(), Value::from(&**value))).collect();
    let document = match std::str::from_utf8(&message.body) {
        Ok(text) => json!({ "headers": headers, "body": text }),
        Err(_) => json!({ "headers": headers, "base64": base64url(&message.body) }),
    };
    document.to_string().into()
}

/// An envelope of ours with the mark; `None` for the empty one that makes the broker forget.
fn marked(envelope: &Bytes) -> Option<Bytes> {
    let mut document: Value = serde_json::from_slice(envelope).ok()?;
    document.get_mut("headers")?.as_object_mut()?.insert(REPUBLISHED.to_owned(), "true".into());
    Some(document.to_string().into())
}

fn unwrapped(payload: &Bytes) -> Option<(Headers, Option<Bytes>)> {
    let Ok(Value::Object(document)) = serde_json::from_slice(payload) else { return None };
    let Value::Object(carried) = document.get("headers")? else { return None };
    let body = match (document.get("body"), document.get("base64")) {
        (Some(Value::String(text)), _) => Bytes::from(text.clone()),
        (None, Some(Value::String(text))) => Bytes::from(decoded(text)?),
        _ => return None,
    };
    let mut headers = Headers::with_capacity(carried.len() + 2);
    for (name, value) in carried.iter().filter(|(name, _)| !is_ours(name) && !name.is_empty()) {
        match value {
            Value::String(text) => headers.push(name.as_str(), text.as_str()),
            other => headers.push(name.as_str(), other.to_string()),
        }
    }
    Some((headers, Some(body)))
}

/// What only the gateway may say in a MESSAGE.
fn is_ours(name: &str) -> bool {
    matches!(name, "subscription" | "message-id" | "ack" | "redelivered" | "gap" | "destination" | "content-length")
}

/// The topic behind a reply address that was handed out; anything else as it is.
fn response_topic(value: &str) -> &str {
    value.strip_prefix(REPLY_QUEUE).unwrap_or(value)
}

fn correlation_data(value: &Text) -> Result<Bytes, BrokerError> {
    let data = match value.strip_prefix(BASE64).and_then(decoded) {
        Some(bytes) => Bytes::from(bytes),
        None => value.as_bytes().clone(),
    };
    if data.len() > LONGEST { Err(too_long("correlation-id", data.len())) } else { Ok(data) }
}

fn expressible(name: &str, value: &str) -> Result<(), BrokerError> {
    if value.len() > LONGEST {
        return Err(too_long(name, value.len()));
    }
    if !is_text(value) {
        return Err(BrokerError::Rejected(format!(
            "the header {name:.40} has a control character, which MQTT does not allow in text"
        )));
    }
    Ok(())
}

fn too_long(name: &str, length: usize) -> BrokerError {
    BrokerError::Rejected(format!("the header {name:.40} has {length} bytes; MQTT allows {LONGEST}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<const COUNT: usize>(headers: [(&str, &str); COUNT], body: &'static [u8]) -> Message {
        Message {
            destination: Destination::Queue("q".into()),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            body: Bytes::from_static(body),
            options: PublishOptions::default(),
        }
    }

    fn back(packet: Packet) -> Arrival {
        let Packet { qos, retain, properties, payload, .. } = packet;
        Arrival { qos, retain, properties, payload, ..Arrival::default() }
    }

    #[test]
    fn each_header_has_its_property() {
        let mut message = message(
            [
                ("content-type", "application/json"),
                ("correlation-id", "7"),
                ("reply-to", "/reply-queue/stompgate/reply/n/t"),
                ("priority", "5"),
                ("type", "order"),
                ("x-colour", "grün"),
            ],
            b"{}",
        );
        message.options.expiration = Some(Duration::from_millis(1_001));
        let packet = packet(&message, "t".to_owned(), 1).unwrap();
        assert_eq!(packet.properties.response_topic.as_deref(), Some("stompgate/reply/n/t"));
        assert_eq!((packet.properties.expiry, packet.properties.is_text), (Some(2), true));
        assert_eq!(packet.properties.user.len(), 3);
        let back = headers(&back(packet));
        for (name, value) in message.headers.iter() {
            assert_eq!(back.get(name), Some(value), "{name}");
        }
        assert_eq!(
            (back.get("qos").unwrap(), back.get("expiration").unwrap()),
            (&Text::from("1"), &Text::from("2000"))
        );
    }

    #[test]
    fn correlation_data_is_the_same_bytes_both_ways() {
        for data in [&b"\xff\x00"[..], b"base64:AAAA", b"plain"] {
            let properties = Properties { correlation_data: Some(Bytes::from_static(data)), ..Properties::default() };
            let shown = headers(&Arrival { properties, ..Arrival::default() }).get("correlation-id").unwrap().clone();
            assert_eq!(correlation_data(&shown).unwrap(), data);
        }
    }

    #[test]
    fn what_mqtt_cannot_carry_is_refused() {
        let long = "x".repeat(65_536);
        for (name, value) in [("a", "x\ny"), ("a\u{7f}", "x"), ("a", &*long), ("content-type", "a\u{fdd0}")] {
            let refused = packet(&message([(name, value)], b""), "t".to_owned(), 0);
            assert!(matches!(refused, Err(BrokerError::Rejected(_))), "{name:?}");
        }
    }

    #[test]
    fn a_publisher_cannot_say_what_only_the_gateway_says() {
        let user = vec![("destination".to_owned(), "/queue/forged".to_owned()), ("a".to_owned(), "1".to_owned())];
        let headers =
            headers(&Arrival { properties: Properties { user, ..Properties::default() }, ..Arrival::default() });
        assert_eq!((headers.get("destination"), headers.get("a").unwrap()), (None, &Text::from("1")));
    }

    #[test]
    fn an_envelope_carries_headers_and_any_body() {
        for body in [&b"text"[..], b"\xff\x00"] {
            let message = message([("a", "1"), ("ack", "forged")], body);
            let (headers, back) = plain_headers(&back(plain_packet(&message, "t".to_owned(), 0, true)), true);
            assert_eq!((headers.get("a").unwrap(), headers.get("ack"), &*back), (&Text::from("1"), None, body));
        }
        for foreign in [&b"text"[..], b"{\"a\":1}", b"{\"headers\":{},\"base64\":\"?\"}"] {
            let payload = Bytes::from_static(foreign);
            let (headers, back) = plain_headers(&Arrival { payload, ..Arrival::default() }, true);
            assert_eq!((headers.len(), &*back), (0, foreign));
        }
        let mut forget = message([("a", "1")], b"");
        forget.options.retain = true;
        assert!(plain_packet(&forget, "t".to_owned(), 0, true).payload.is_empty());
    }
}
