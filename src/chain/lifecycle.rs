//! `[app.lifecycle]`: a service that is told who comes and goes, and what they read.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::info;

use super::http::{self, Service};
use super::template::RoutePattern;
use super::{Answer, Context, Event, Failure, Interceptor, Interest, Rejection, Subscription};
use crate::message::{Destination, Principal, Refusal};

/// `[app.lifecycle]`: calls to a service when clients come and go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What it is called for. Default all.
    #[serde(default = "Moment::all")]
    pub on: Vec<Moment>,
    /// The service.
    pub http: http::Settings,
}

/// What a service can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// A client has been authenticated; the service may refuse it, or give it another name.
    Connect,
    /// A session has ended.
    Disconnect,
    /// A client subscribes; the service may refuse it.
    Subscribe,
    /// A client has unsubscribed.
    Unsubscribe,
}

impl Moment {
    fn all() -> Vec<Self> {
        vec![Moment::Connect, Moment::Disconnect, Moment::Subscribe, Moment::Unsubscribe]
    }
}

/// Tells a service who comes and goes.
pub(super) struct Lifecycle {
    on: Vec<Moment>,
    service: Service,
}

impl Lifecycle {
    /// The error names the setting and says what is wrong with it.
    pub(super) fn new(settings: &Settings) -> Result<Self, (&'static str, String)> {
        let service = Service::new(&settings.http, &RoutePattern::default())?;
        Ok(Lifecycle { on: settings.on.clone(), service })
    }

    async fn tell(&self, event: &'static str, more: Value, context: &Context) -> Result<Option<Answer>, Failure> {
        let mut body = json!({
            "event": event,
            "session": &*context.session,
            "user": &*context.principal.name,
            "peer": context.peer.to_string(),
            "host": context.tenant.as_deref(),
        });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        self.service.notify(event, Bytes::from(body.to_string()), context).await
    }

    /// What nobody waits for may fail: the service was told too late, or not at all.
    async fn report(&self, event: &'static str, more: Value, context: &Context) {
        if let Err(Failure { status, reason }) = self.tell(event, more, context).await {
            info!(session = %context.session, event, status, reason, "a lifecycle call failed");
        }
    }
}

#[async_trait]
impl Interceptor for Lifecycle {
    fn name(&self) -> &'static str {
        "lifecycle"
    }

    fn interest(&self, event: Event<'_>) -> Interest {
        let moment = match event {
            Event::Connect => Moment::Connect,
            Event::Disconnect => Moment::Disconnect,
            // What nobody answers must go on being refused for that.
            Event::Subscribe(Destination::Application(_)) | Event::Send(_) => return Interest::None,
            Event::Subscribe(_) => Moment::Subscribe,
            Event::Unsubscribe(_) => Moment::Unsubscribe,
        };
        if self.on.contains(&moment) { Interest::Ordered } else { Interest::None }
    }

    async fn connect(&self, principal: Principal, context: &Context) -> Result<Principal, Rejection> {
        let answer = match self.tell("connect", json!({}), context).await {
            Ok(answer) => answer,
            Err(Failure { status: 401 | 403, .. }) => return Err(Refusal::not_authenticated(&principal.name).into()),
            Err(failure) => return Err(failure.into()),
        };
        match answer.and_then(|answer| named(&answer.body)) {
            None => Ok(principal),
            Some(Ok(name)) => Ok(Principal::new(name).with(principal.claims)),
            Some(Err(why)) => Err(Failure::new(502, why).into()),
        }
    }

    async fn subscribe(&self, subscription: &Subscription, context: &Context) -> Result<Option<Answer>, Rejection> {
        self.tell("subscribe", of(subscription), context).await?;
        Ok(None)
    }

    async fn unsubscribe(&self, subscription: &Subscription, context: &Context) {
        self.report("unsubscribe", of(subscription), context).await;
    }

    async fn disconnect(&self, cause: &str, context: &Context) {
        self.report("disconnect", json!({ "cause": cause }), context).await;
    }
}

fn of(subscription: &Subscription) -> Value {
    json!({ "subscription": subscription.number, "destination": subscription.destination.to_string() })
}

/// The name that a service gives to a client with `{"user": "…"}`, if it does.
fn named(body: &[u8]) -> Option<Result<String, &'static str>> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let name = answer.get("user")?;
    Some(match name.as_str() {
        Some(name) if (1..=128).contains(&name.len()) && !name.chars().any(char::is_control) => Ok(name.to_owned()),
        _ => Err("the service names a user that cannot be one: 1 to 128 bytes without control characters"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_names_users_or_does_not() {
        assert_eq!(named(b"{\"user\":\"ada\"}"), Some(Ok("ada".to_owned())));
        for none in [&b""[..], b"ok", b"{}", b"[]"] {
            assert_eq!(named(none), None);
        }
        for bad in ["{\"user\":1}", "{\"user\":\"\"}", "{\"user\":\"a\\nb\"}"] {
            assert!(named(bad.as_bytes()).unwrap().is_err(), "{bad}");
        }
    }
}
