//! Whether the gateway lives, and whether clients should be sent to it.

use hyper::StatusCode;
use serde_json::json;

use super::answer::{Answer, json};
use super::{Readiness, Services, Settings};
use crate::broker::LinkState;

/// That it answers is all that is asked, and that every thread which serves clients, or the broker, does. If one hangs the
/// answer is 504, in the end; if one has panicked, 503.
pub(super) async fn alive(services: &Services) -> Answer {
    let (status, word, reason) = if services.is_alive().await {
        (StatusCode::OK, "alive", "the gateway answers")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not alive", "a thread that served clients, or the broker, has panicked")
    };
    json(status, &json!({ "status": word, "reasons": [reason] }))
}

/// 200 while clients should come here, 503 while they should not, with every reason for that.
pub(super) fn ready(settings: &Settings, services: &Services) -> Answer {
    let broker = services.broker_state();
    let is_draining = services.is_draining();
    let mut reasons = Vec::new();
    if is_draining {
        reasons.push("the gateway is shutting down");
    }
    if broker == LinkState::Recovering && settings.readiness == Readiness::BrokerUp {
        reasons.push("the broker cannot be reached, and admin.readiness is \"broker-up\"");
    }
    let (status, word) = if reasons.is_empty() {
        reasons.push("the gateway accepts clients");
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    json(status, &json!({ "status": word, "reasons": reasons, "broker": broker.as_str(), "draining": is_draining }))
}
