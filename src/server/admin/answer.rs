//! What a request of an operator is answered with.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

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

pub(super) fn with(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}
