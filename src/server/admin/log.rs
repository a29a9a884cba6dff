//! What is logged, and of whom everything.

use std::collections::BTreeSet;

use hyper::StatusCode;
use serde_json::json;
use tracing::info;

use super::answer::{self, Answer, problem};
use super::call::{Call, bad};
use super::sessions::number;
use crate::server::Services;
use crate::telemetry::State;

/// What is logged.
pub(super) fn show(services: &Services, _call: &Call) -> Result<Answer, Answer> {
    services.log.state().map(|state| told(&state)).ok_or_else(foreign)
}

/// Changes what is logged, until it is changed again or the program ends.
pub(super) fn change(services: &Services, call: &Call) -> Result<Answer, Answer> {
    let before = services.log.state().ok_or_else(foreign)?;
    let after =
        services.log.change(call.document()?).map_err(|why| bad(&format!("The log stays as it was: {why}.")))?;
    let changed: BTreeSet<_> = before.sessions.symmetric_difference(&after.sessions).collect();
    for session in changed.into_iter().filter_map(|id| number(services, id)) {
        services.registry.wake(session);
    }
    info!(level = after.level, sessions = ?after.sessions, "an operator has changed what is logged");
    Ok(told(&after))
}

fn told(state: &State) -> Answer {
    answer::json(StatusCode::OK, &json!({ "level": state.level, "sessions": state.sessions }))
}

fn foreign() -> Answer {
    let detail = "The log is that of the program which embeds the gateway; it is changed there.";
    problem(StatusCode::NOT_IMPLEMENTED, detail)
}
