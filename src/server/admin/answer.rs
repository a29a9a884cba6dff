//! What a request of an operator is answered with.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::message::Refusal;

pub(super) type Answer = Response<Full<Bytes>>;

pub(super) fn text(content_type: &'static str, text: String) -> Answer {
    let answer = Response::new(Full::from(text));
    with(with(answer, CONTENT_TYPE, content_type), CACHE_CONTROL, "no-store")
}

pub(super) fn json(status: StatusCode, value: &Value) -> Answer {
    let mut answer = text("application/json", format!("{value}\n"));
    *answer.status_mut() = status;
    answer
}

/// A problem document (RFC 9457) without a type of its own: title and status say it.
pub(super) fn problem(status: StatusCode, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or_default();
    let answer = json(status, &json!({ "title": title, "status": status.as_u16(), "detail": detail }));
    with(answer, CONTENT_TYPE, "application/problem+json")
}

/// The problem document of a refusal, with its code, and more members.
pub(super) fn refused(status: StatusCode, refusal: &Refusal, more: &[(&str, Value)]) -> Answer {
    let mut document = json!({
        "title": refusal.message,
        "status": status.as_u16(),
        "code": refusal.code,
        "detail": refusal.detail,
    });
    for (name, value) in more {
        document[*name] = value.clone();
    }
    with(json(status, &document), CONTENT_TYPE, "application/problem+json")
}

pub(super) fn with(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}
