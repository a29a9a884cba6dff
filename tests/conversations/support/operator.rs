//! Whoever has the key of the API.

use serde_json::Value;

use super::Raw;
use super::raw::Answer;

/// The key that the gateways of the tests have.
pub(crate) const KEY: &str = "the-key-of-the-operators";

/// What the port for operators answers to these bytes.
pub(crate) async fn ask(admin: &str, request: &str, headers: &str, body: &[u8]) -> Answer {
    let mut raw = Raw::tcp_to(admin).await;
    let length = body.len();
    raw.write(format!("{request} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{headers}\r\n")).await;
    raw.try_write(body).await;
    raw.answer().await
}

/// A call with the key.
pub(crate) async fn call(admin: &str, request: &str, body: &Value) -> Answer {
    let headers = format!("authorization: Bearer {KEY}\r\ncontent-type: application/json\r\n");
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    ask(admin, request, &headers, &body).await
}

/// The same, whose answer must be 200 and is read.
pub(crate) async fn done(admin: &str, request: &str, body: Value) -> Value {
    let answer = call(admin, request, &body).await;
    assert_eq!((answer.status, answer.get("content-type")), (200, "application/json"), "{answer:?}");
    serde_json::from_str(&answer.body).expect("JSON")
}

/// The same, whose answer must be a problem document of this status that speaks of this.
pub(crate) async fn refused(admin: &str, request: &str, body: Value, status: u16, about: &str) -> Value {
    let answer = call(admin, request, &body).await;
    problem(&answer, status, about)
}

/// A problem document of this status that speaks of this.
#[track_caller]
pub(crate) fn problem(answer: &Answer, status: u16, about: &str) -> Value {
    assert_eq!((answer.status, answer.get("content-type")), (status, "application/problem+json"), "{answer:?}");
    assert!(answer.body.contains(about), "{about} in {answer:?}");
    let document: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(document["status"], serde_json::json!(status), "{document}");
    document
}
