//! Messages of back ends that have no broker client: published as a SEND is, and answered after the broker's confirm.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::call::{Call, bad};
use crate::broker::{Confirmation, base64};
use crate::message::{Capabilities, CloseCode, Headers, Message, Outcome, Refusal, Text};
use crate::server::Services;
use crate::server::connection::{now, outcome_of};
use crate::session::sessionless;

/// One message as a call brings it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    destination: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    #[serde(default)]
    body_base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    messages: Vec<Document>,
}

/// Publishes one message.
pub(super) async fn one(services: &Services, call: &Call) -> Result<Answer, Answer> {
    single(services, call, call.document()?).await
}

/// Publishes one message to every session of a user.
pub(super) async fn to_user(services: &Services, call: &Call, user: &str) -> Result<Answer, Answer> {
    let document: Document = call.document()?;
    let name = document.destination.trim_start_matches('/');
    let destination = format!("/user/{}/{name}", user.replace('%', "%25").replace('/', "%2F"));
    single(services, call, Document { destination, ..document }).await
}

/// Publishes many messages, in their order. If one of them is wrong in itself, none is published.
pub(super) async fn many(services: &Services, call: &Call, most: usize) -> Result<Answer, Answer> {
    let Batch { messages } = call.document()?;
    if messages.is_empty() || messages.len() > most {
        let count = messages.len();
        return Err(bad(&format!("There are {count} messages; expected 1 to {most} (setting admin.max_messages).")));
    }
    let results = publish(services, call, messages, |index, refusal| {
        bad_message(&Refusal { detail: format!("Message {index}: {}", refusal.detail), ..refusal })
    });
    let results = results.await?;
    let told: Vec<_> = results.iter().map(|result| result.as_ref().map_or_else(failed, told)).collect();
    match results.iter().find_map(|result| result.as_ref().err()) {
        None => Ok(answer::json(StatusCode::OK, &json!({ "results": told }))),
        Some(refusal) => {
            let detail =
                format!("Not all messages were taken; results has each, in order. The first: {}", refusal.detail);
            let first = Refusal { detail, ..refusal.clone() };
            Err(answer::refused(status(refusal), &first, &[("results", Value::from(told))]))
        }
    }
}

async fn single(services: &Services, call: &Call, document: Document) -> Result<Answer, Answer> {
    let results = publish(services, call, vec![document], |_, refusal| bad_message(&refusal)).await?;
    match results.into_iter().next() {
        Some(Ok(outcome)) => Ok(answer::json(StatusCode::OK, &told(&outcome))),
        Some(Err(refusal)) => Err(answer::refused(status(&refusal), &refusal, &[])),
        None => Err(bad("There is no message.")),
    }
}

/// Publishes in order over the gateway's own link, and waits for all confirmations. `wrong` answers for a message, given
/// by its place, that cannot be one.
async fn publish(
    services: &Services,
    call: &Call,
    documents: Vec<Document>,
    wrong: impl Fn(usize, Refusal) -> Answer,
) -> Result<Vec<Result<Outcome, Refusal>>, Answer> {
    let unavailable = |error| {
        let refusal = Refusal::from(error);
        answer::refused(status(&refusal), &refusal, &[])
    };
    let host = call.parameter("host").map(Text::from);
    let link = services.broker.own_link(host).await.map_err(unavailable)?;
    let mut messages = Vec::with_capacity(documents.len());
    for (index, document) in documents.into_iter().enumerate() {
        let message = message(services, document, link.capabilities());
        messages.push(message.map_err(|refusal| wrong(index, refusal))?);
    }
    let since = now();
    let mut confirmations = Vec::with_capacity(messages.len());
    for message in messages {
        services.metrics.arrived(&message.destination);
        confirmations.push(match link.reserve().await {
            Ok(permit) => link.publish(permit, message),
            Err(error) => Confirmation::Ready(Err(error)),
        });
    }
    let mut results = Vec::with_capacity(confirmations.len());
    for confirmation in confirmations {
        let result = confirmation.await.map_err(Refusal::from);
        services.metrics.published(outcome_of(&result), 1, now().saturating_duration_since(since));
        results.push(result);
    }
    Ok(results)
}

/// The message, under the rules and limits of a SEND.
fn message(services: &Services, document: Document, capabilities: Capabilities) -> Result<Message, Refusal> {
    let Document { destination, headers: given, body, body_base64 } = document;
    let body = match body_base64 {
        None => Bytes::from(body),
        Some(_) if !body.is_empty() => return Err(invalid("body_base64", "with body", "one of the two")),
        Some(text) => base64::decoded(&text).ok_or_else(|| invalid("body_base64", "…", "base64 (RFC 4648)"))?.into(),
    };
    let limits = Arc::clone(&services.live().session);
    let mut headers = Headers::with_capacity(given.len() + 1);
    headers.push("destination", destination);
    for (name, value) in given {
        if name.is_empty() || name == "destination" || name.contains('\0') || value.contains('\0') {
            return Err(invalid(
                &name,
                &value,
                "a name and a value without NUL; the destination has a member of its own",
            ));
        }
        headers.push(name, value);
    }
    for (what, size, limit, setting) in [
        ("The number of headers", headers.len(), limits.max_headers, "session.max_headers"),
        ("All headers together, in bytes,", headers.size(), limits.max_header_bytes, "session.max_header_bytes"),
        ("The body, in bytes,", body.len(), limits.max_body, "session.max_body"),
    ] {
        if size > limit {
            return Err(Refusal::too_large(what, limit, setting));
        }
    }
    sessionless(headers, body, capabilities, services.separators)
}

fn invalid(header: &str, value: &str, expected: &str) -> Refusal {
    Refusal::invalid_header(header, value, expected)
}

fn bad_message(refusal: &Refusal) -> Answer {
    answer::refused(StatusCode::BAD_REQUEST, refusal, &[])
}

fn told(outcome: &Outcome) -> Value {
    let mut told = json!({ "routed": outcome.routed });
    if let Some(warning) = &outcome.warning {
        told["warning"] = Value::from(warning.as_str());
    }
    told
}

fn failed(refusal: &Refusal) -> Value {
    json!({ "code": refusal.code, "detail": refusal.detail })
}

/// Whether it is worth another attempt is what tells the two apart.
fn status(refusal: &Refusal) -> StatusCode {
    match refusal.close {
        CloseCode::BROKER_UNAVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
