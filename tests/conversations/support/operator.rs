//! Whoever has the key of the API.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::Raw;
use super::raw::Answer;

/// The key that the gateways of the tests have.
pub(crate) const KEY: &str = "the-key-of-the-operators";

/// What the API says of itself.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let document = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/admin/openapi.json"));
    serde_json::from_str(document).expect("JSON")
});

/// What the port for operators answers to these bytes; nothing but what the document tells.
pub(crate) async fn ask(admin: &str, request: &str, headers: &str, body: &[u8]) -> Answer {
    let mut raw = Raw::tcp_to(admin).await;
    let length = body.len();
    raw.write(format!("{request} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{headers}\r\n")).await;
    raw.try_write(body).await;
    let answer = raw.answer().await;
    check(request, &answer);
    answer
}

/// Panics if the document has such a call, and neither this status nor an answer of this kind for it.
#[track_caller]
fn check(request: &str, answer: &Answer) {
    let (method, target) = request.split_once(' ').expect("a method and a path");
    let path = target.split('?').next().expect("a path");
    let is_meant = |known: &str| {
        let (known, path): (Vec<_>, Vec<_>) = (known.split('/').collect(), path.split('/').collect());
        known.len() == path.len()
            && known.iter().zip(path).all(|(known, part)| *known == part || known.starts_with('{'))
    };
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    let Some(call) = paths.iter().find_map(|(known, item)| is_meant(known).then(|| item.get(method.to_lowercase()))?)
    else {
        return;
    };
    let resolved = |value: &Value| match value["$ref"].as_str().and_then(|place| place.strip_prefix('#')) {
        Some(place) => DOCUMENT.pointer(place).expect("what is named").clone(),
        None => value.clone(),
    };
    let told = resolved(&call["responses"][answer.status.to_string()]);
    let kind = answer.get("content-type").split(';').next().expect("a type");
    let mut schema = told["content"][kind]["schema"].clone();
    assert!(schema.is_object(), "{request} answers {answer:?}, and told are {}", call["responses"]);
    let body =
        if kind.ends_with("json") { serde_json::from_str(&answer.body).expect("JSON") } else { json!(answer.body) };
    schema["components"] = DOCUMENT["components"].clone();
    jsonschema::validate(&schema, &body).unwrap_or_else(|wrong| panic!("{request} answers {body}: {wrong}"));
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
