//! The opening handshake: which requests become WebSockets, and what the others are told.
//!
//! tungstenite speaks the protocol afterwards. It is laxer than RFC 6455 in one thing that is known: it accepts lengths
//! that are not encoded in the fewest bytes (§5.2).
#![expect(clippy::result_large_err, reason = "an answer is made once per connection, far from any hot path")]

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::http::{HeaderName, request};
use hyper::{Method, Response, StatusCode, Version as HttpVersion};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Settings;
use super::deflate::{Agreed, negotiate};
use super::origin::{is_allowed_host, is_allowed_origin};
use crate::stomp::Version;

/// What an HTTP request is answered with.
pub(super) type Answer = Response<Full<Bytes>>;

/// Answers a request: `Ok` is a 101, and the connection becomes a WebSocket, with compression if that was agreed on.
pub(super) fn answer(request: &request::Parts, settings: &Settings) -> Result<(Answer, Option<Agreed>), Answer> {
    if request.uri.path() != settings.path {
        let path = &settings.path;
        return Err(refuse(
            StatusCode::NOT_FOUND,
            &format!("There is nothing here. The WebSocket endpoint is {path}."),
        ));
    }
    if request.method != Method::GET {
        let refusal = refuse(StatusCode::METHOD_NOT_ALLOWED, "A WebSocket handshake is a GET (RFC 6455, 4.1).");
        return Err(with(refusal, ALLOW, "GET"));
    }
    if request.version < HttpVersion::HTTP_11 {
        return Err(refuse(StatusCode::BAD_REQUEST, "A WebSocket handshake needs HTTP/1.1 (RFC 6455, 4.1)."));
    }
    check_host_and_origin(&request.headers, settings)?;
    check_upgrade(&request.headers)?;
    let protocol = choose_protocol(&request.headers)?;
    let key = websocket_key(&request.headers)?;

    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer = with(answer, UPGRADE, "websocket");
    answer = with(answer, CONNECTION, "Upgrade");
    answer = with(answer, SEC_WEBSOCKET_ACCEPT, &derive_accept_key(key));
    if let Some(version) = protocol {
        answer = with(answer, SEC_WEBSOCKET_PROTOCOL, version.subprotocol());
    }
    let agreed = settings.deflate.enabled.then(|| negotiate(&request.headers)).flatten();
    if let Some(agreed) = agreed {
        answer = with(answer, SEC_WEBSOCKET_EXTENSIONS, &agreed.answer());
    }
    Ok((answer, agreed))
}

fn check_host_and_origin(headers: &HeaderMap, settings: &Settings) -> Result<(), Answer> {
    let forbid = |why: &str| refuse(StatusCode::FORBIDDEN, why);
    // With two of them, a proxy in front and the gateway may each believe another one.
    for name in [HOST, ORIGIN] {
        if headers.get_all(&name).iter().count() > 1 {
            return Err(refuse(StatusCode::BAD_REQUEST, &format!("There must be one {name} header (RFC 9112, 3.2).")));
        }
    }
    let Some(host) = text(headers, &HOST) else {
        return Err(refuse(StatusCode::BAD_REQUEST, "The Host header is missing (RFC 9112, 3.2)."));
    };
    if !is_allowed_host(host, settings) {
        return Err(forbid(
            "This Host is not served here. A gateway on a loopback address answers to loopback names only; \
             the setting server.allowed_hosts lists others.",
        ));
    }
    match headers.get(ORIGIN).map(HeaderValue::to_str) {
        None if settings.require_origin => {
            Err(forbid("The Origin header is missing, and server.require_origin is on."))
        }
        None => Ok(()),
        Some(Ok(origin)) if is_allowed_origin(origin, host, settings) => Ok(()),
        Some(_) => Err(forbid(
            "Pages of this Origin may not connect; the setting server.allowed_origins lists those that may.",
        )),
    }
}

/// RFC 6455 §4.2.1, the points 3, 4 and 6.
fn check_upgrade(headers: &HeaderMap) -> Result<(), Answer> {
    if !has_token(headers, &UPGRADE, "websocket") || !has_token(headers, &CONNECTION, "upgrade") {
        let refusal =
            refuse(StatusCode::UPGRADE_REQUIRED, "This is a WebSocket endpoint: speak STOMP over WebSocket to it.");
        return Err(with(with(refusal, UPGRADE, "websocket"), CONNECTION, "Upgrade"));
    }
    if text(headers, &SEC_WEBSOCKET_VERSION) != Some("13") {
        let refusal = refuse(StatusCode::UPGRADE_REQUIRED, "The WebSocket version must be 13 (RFC 6455, 4.4).");
        return Err(with(refusal, SEC_WEBSOCKET_VERSION, "13"));
    }
    Ok(())
}

/// The key, which is 16 bytes in base64 (RFC 6455 §4.2.1, point 5).
fn websocket_key(headers: &HeaderMap) -> Result<&[u8], Answer> {
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next().map(HeaderValue::as_bytes), keys.next()) {
        (Some(key), None) if is_base64_of_16_bytes(key) => Ok(key),
        _ => Err(refuse(
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key must be there once, 16 bytes in base64 (RFC 6455, 4.1).",
        )),
    }
}

fn is_base64_of_16_bytes(key: &[u8]) -> bool {
    let [digits @ .., b'=', b'='] = key else { return false };
    digits.len() == 22 && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte))
}

/// The best version that the client offers. None offered is fine; only unknown ones offered is not (contract, §7).
fn choose_protocol(headers: &HeaderMap) -> Result<Option<Version>, Answer> {
    let offered = || {
        let lists = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        lists.flat_map(|list| list.split(',')).map(str::trim)
    };
    let best = offered().filter_map(Version::from_subprotocol).max();
    if best.is_none() && headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        let why = "None of the sub-protocols offered is spoken here; offer v12.stomp, v11.stomp or v10.stomp, or none.";
        return Err(refuse(StatusCode::BAD_REQUEST, why));
    }
    Ok(best)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(token))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn refuse(status: StatusCode, why: &str) -> Answer {
    let mut answer = Response::new(Full::from(format!("{why}\n")));
    *answer.status_mut() = status;
    with(answer, CONTENT_TYPE, "text/plain; charset=utf-8")
}

fn with(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}
