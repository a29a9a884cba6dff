//! `[app.lifecycle]`: a service that is told who comes and goes, and what they read.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::info;

use super::http::{self, Service};
use super::template::RoutePattern;
use super::{Answer, Context, Event, Failure, Interceptor, Interest, Rejection, Subscription, claims};
use crate::message::{Destination, Principal, Refusal, Text};
use crate::metrics::{Meter, Metrics};

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

    fn name(self) -> &'static str {
        match self {
            Moment::Connect => "connect",
            Moment::Disconnect => "disconnect",
            Moment::Subscribe => "subscribe",
            Moment::Unsubscribe => "unsubscribe",
        }
    }
}

/// Tells a service who comes and goes.
pub(super) struct Lifecycle {
    on: Vec<(Moment, Meter)>,
    service: Service,
}

impl Lifecycle {
    /// The error names the setting and says what is wrong with it.
    pub(super) fn new(settings: &Settings) -> Result<Self, (&'static str, String)> {
        let service = Service::new(&settings.http, &RoutePattern::default())?;
        Ok(Lifecycle { on: settings.on.iter().map(|moment| (*moment, Meter::default())).collect(), service })
    }

    /// Counts its calls here, by what they are for.
    #[must_use]
    pub(super) fn counted_by(mut self, metrics: &Metrics) -> Self {
        for (moment, meter) in &mut self.on {
            *meter = metrics.meter(moment.name());
        }
        self
    }

    fn meter(&self, moment: Moment) -> Option<&Meter> {
        self.on.iter().find(|(on, _)| *on == moment).map(|(_, meter)| meter)
    }

    async fn tell(&self, moment: Moment, more: Value, context: &Context) -> Result<Option<Answer>, Failure> {
        let call = self.meter(moment).map(Meter::begin);
        let answered = self.call(moment.name(), more, context).await;
        if let Some(call) = call {
            call.end(answered.as_ref().err().map(|failure| failure.status));
        }
        answered
    }

    async fn call(&self, event: &'static str, more: Value, context: &Context) -> Result<Option<Answer>, Failure> {
        let mut body = json!({
            "event": event,
            "session": &*context.session,
            "user": &*context.principal.name,
            "peer": context.peer.to_string(),
            "host": context.tenant.as_deref(),
            "claims": claims::json(&context.principal.claims).unwrap_or_else(|| json!({})),
        });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        self.service.notify(event, Bytes::from(body.to_string()), context).await
    }

    /// What nobody waits for may fail: the service was told too late, or not at all.
    async fn report(&self, moment: Moment, more: Value, context: &Context) {
        if let Err(Failure { status, reason }) = self.tell(moment, more, context).await {
            let event = moment.name();
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
            Event::Subscribe(Destination::Application(_))
            | Event::Send(_)
            | Event::Acknowledge(_)
            | Event::Message(_) => return Interest::None,
            Event::Subscribe(_) => Moment::Subscribe,
            Event::Unsubscribe(_) => Moment::Unsubscribe,
        };
        if self.meter(moment).is_some() { Interest::Ordered } else { Interest::None }
    }

    async fn connect(&self, principal: Principal, context: &Context) -> Result<Principal, Rejection> {
        let answer = match self.tell(Moment::Connect, json!({}), context).await {
            Ok(answer) => answer,
            Err(Failure { status: 401 | 403, .. }) => return Err(Refusal::not_authenticated(&principal.name).into()),
            Err(failure) => return Err(failure.into()),
        };
        match answer {
            None => Ok(principal),
            Some(answer) => named(principal, &answer.body).map_err(|why| Failure::new(502, why).into()),
        }
    }

    async fn subscribe(&self, subscription: &Subscription, context: &Context) -> Result<Option<Answer>, Rejection> {
        self.tell(Moment::Subscribe, of(subscription), context).await?;
        Ok(None)
    }

    async fn unsubscribe(&self, subscription: &Subscription, context: &Context) {
        self.report(Moment::Unsubscribe, of(subscription), context).await;
    }

    async fn disconnect(&self, cause: &str, context: &Context) {
        self.report(Moment::Disconnect, json!({ "cause": cause }), context).await;
    }
}

fn of(subscription: &Subscription) -> Value {
    json!({ "subscription": subscription.number, "destination": subscription.destination.to_string() })
}

/// Who a client is after a service has said `{"user": "…", "claims": {…}}`, or one of these, or something else.
fn named(principal: Principal, body: &[u8]) -> Result<Principal, String> {
    let Ok(Value::Object(answer)) = serde_json::from_slice(body) else { return Ok(principal) };
    let name = match answer.get("user") {
        None => principal.name,
        Some(Value::String(name)) if (1..=128).contains(&name.len()) && !name.contains(char::is_control) => {
            Text::from(name.as_str())
        }
        Some(_) => {
            let why = "the service names a user that cannot be one: 1 to 128 bytes without control characters";
            return Err(why.to_owned());
        }
    };
    let claims = match answer.get("claims") {
        None => principal.claims,
        Some(Value::Object(given)) => claims::read(&principal.claims, given)?,
        Some(_) => return Err("the service gives claims that are no object".to_owned()),
    };
    Ok(Principal { name, claims })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_names_users_and_gives_them_claims_or_does_not() {
        let named = |body: &str| named(Principal::new("eve"), body.as_bytes());
        let ada = named(r#"{"user":"ada","claims":{"roles":["admin"]}}"#).unwrap();
        assert!(ada.name == "ada" && ada.claims.has("roles", "admin"));
        assert!(named(r#"{"claims":{"tenant":"acme"}}"#).unwrap().claims.has("tenant", "acme"));
        for none in ["", "ok", "{}", "[]"] {
            assert_eq!(named(none).unwrap(), Principal::new("eve"));
        }
        for bad in
            [r#"{"user":1}"#, r#"{"user":""}"#, r#"{"user":"a\nb"}"#, r#"{"claims":1}"#, r#"{"claims":{"a":{}}}"#]
        {
            assert!(named(bad).is_err(), "{bad}");
        }
    }
}
