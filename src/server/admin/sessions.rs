//! Who is here, what they read, and how to end it.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::answer::{self, Answer, problem};
use super::call::{Call, bad};
use crate::message::Refusal;
use crate::server::Services;
use crate::server::registry::SessionOverview;
use crate::session::Overview;

/// The sessions of all users or of one, page by page.
pub(super) fn list(services: &Services, call: &Call) -> Result<Answer, Answer> {
    let limit = call.limit()?;
    let after = match call.parameter("after") {
        None => None,
        Some(id) => Some(number(services, id).ok_or_else(|| {
            bad(&format!("The parameter after is {id:?}; expected the id of a session of this gateway."))
        })?),
    };
    let sessions = services.registry.sessions(after, limit + 1, call.parameter("user"));
    let id = |session: &SessionOverview| format!("{}-{}", services.node, session.number);
    let shown = |session: &SessionOverview| json!({ "id": id(session), "user": &*session.user, "address": session.peer.to_string() });
    let (page, next) = page(&sessions, limit, id);
    Ok(listed("sessions", page.iter().map(shown), next))
}

/// The open subscriptions of one session, page by page.
pub(super) async fn subscriptions(services: &Services, call: &Call, id: &str) -> Result<Answer, Answer> {
    let limit = call.limit()?;
    let after = match call.parameter("after").map(|text| (text, text.parse::<u32>())) {
        None => None,
        Some((_, Ok(number))) => Some(number),
        Some((text, Err(_))) => return Err(bad(&format!("The parameter after is {text:?}; expected a number."))),
    };
    let asked = number(services, id).and_then(|number| services.registry.ask(number));
    let answer = asked.ok_or_else(|| missing(id))?.await.map_err(|_| missing(id))?;
    let later: Vec<_> = answer.into_iter().filter(|one| after.is_none_or(|after| one.number > after)).collect();
    let shown = |one: &Overview| {
        json!({
            "number": one.number,
            "id": one.id.as_deref(),
            "destination": &*one.destination,
            "ack": one.ack,
            "durable": one.is_durable,
            "unacknowledged": one.unacknowledged,
        })
    };
    let (page, next) = page(&later, limit, |one| one.number.to_string());
    Ok(listed("subscriptions", page.iter().map(shown), next))
}

/// Ends one session.
pub(super) fn end(services: &Services, call: &Call, id: &str) -> Result<Answer, Answer> {
    let refusal = Refusal::removed(call.reason()?);
    let is_found = number(services, id).is_some_and(|number| services.registry.end(number, refusal));
    if is_found { Ok(ended(1)) } else { Err(missing(id)) }
}

/// Ends every session of a user on this gateway.
pub(super) fn end_all(services: &Services, call: &Call, user: &str) -> Result<Answer, Answer> {
    let refusal = Refusal::removed(call.reason()?);
    Ok(ended(services.registry.end_all(user, &refusal)))
}

fn ended(sessions: usize) -> Answer {
    answer::json(StatusCode::OK, &json!({ "disconnected": sessions }))
}

fn missing(id: &str) -> Answer {
    problem(StatusCode::NOT_FOUND, &format!("There is no session {id:?} on this gateway, or it has ended."))
}

/// The number within a session's id.
pub(super) fn number(services: &Services, id: &str) -> Option<u64> {
    id.strip_prefix(&*services.node)?.strip_prefix('-')?.parse().ok()
}

/// The first `limit` items, and the name of the last one if there are more.
fn page<T>(items: &[T], limit: usize, name: impl Fn(&T) -> String) -> (&[T], Option<String>) {
    match items.get(..limit) {
        Some(page) if items.len() > limit => (page, page.last().map(name)),
        _ => (items, None),
    }
}

fn listed(name: &str, items: impl Iterator<Item = Value>, next: Option<String>) -> Answer {
    let mut document = json!({ name: items.collect::<Vec<_>>() });
    if let Some(next) = next {
        document["next"] = Value::from(next);
    }
    answer::json(StatusCode::OK, &document)
}
