//! `[app]`: what answers `/app/…`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::http;
use super::lifecycle::{self, Lifecycle};
use super::step::{RateLimit, steps};
use super::template::RoutePattern;
use super::{Interceptor, Route, Routes};
use crate::message::{Pattern, Separators};
use crate::metrics::Metrics;
use crate::settings::Faults;

/// `[app]`: the interceptor chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Time that the whole chain, handlers included, has for one frame. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Calls of concurrent routes that one session may have under way. Default 16.
    pub max_concurrent: usize,
    /// `[app.lifecycle]`: a service that is told who comes and goes. Default none.
    pub lifecycle: Option<lifecycle::Settings>,
    /// `[[app.route]]`: what is done with frames to `/app`; the first that matches counts. Default none.
    pub route: Vec<RouteSettings>,
}

/// One `[[app.route]]`. Its steps come in this order: `users`, `rate_limit`, `validate`, `set_headers`, `http`, and then
/// the result goes where the rest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteSettings {
    /// Destinations such as `/app/orders/{id}`.
    pub pattern: String,
    /// Whether later frames of a session wait. Default `ordered`.
    pub order: Order,
    /// What a failure is to the sender. Default `message`.
    pub on_error: OnError,
    /// Who may use it: names, or a `{variable}` that must be the user's own name. Default everybody.
    pub users: Vec<String>,
    /// How often one user may use it. Default as often as it likes.
    pub rate_limit: Option<RateLimit>,
    /// File with the JSON Schema of the bodies. Default none.
    pub validate: Option<PathBuf>,
    /// Headers to set, with `{variables}`: in the call of the service, or without one in the message. Default none.
    pub set_headers: BTreeMap<String, String>,
    /// The service that answers. Default none: the message itself is the result.
    pub http: Option<http::Settings>,
    /// Where the result goes. Default `/topic/` and what stands after `/app/`, if nothing of the next ones is set either.
    pub send_to: Option<String>,
    /// `queue/X` or `topic/X`: the result goes to the sender's `/user/queue/X`. Default none.
    pub send_to_user: Option<String>,
    /// For `send_to_user`: to every session of the user. Default true.
    pub broadcast: bool,
    /// The result goes to the sender's `reply-to`, else to its `/user/queue/replies`. Default false.
    pub reply: bool,
}

/// Whether the later frames of a session wait for a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// They wait.
    #[default]
    Ordered,
    /// They do not.
    Concurrent,
}

/// What a failure is to the sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// A MESSAGE and a `status` in the RECEIPT.
    #[default]
    Message,
    /// An ERROR, which ends the session.
    Error,
}

/// Where the result of a route goes. Nothing of it means `/topic/` and what stands after `/app/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSettings {
    /// A destination with `{variables}`.
    pub send_to: Option<String>,
    /// `queue/X` or `topic/X`, with `{variables}`: what the sender reads as `/user/queue/X`.
    pub send_to_user: Option<String>,
    /// For `send_to_user`: every session of the user; else the sender's own.
    pub broadcast: bool,
    /// The sender's `reply-to`, else its `/user/queue/replies`.
    pub reply: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { timeout: Duration::from_secs(10), max_concurrent: 16, lifecycle: None, route: Vec::new() }
    }
}

impl Default for RouteSettings {
    fn default() -> Self {
        RouteSettings {
            pattern: String::new(),
            order: Order::Ordered,
            on_error: OnError::Message,
            users: Vec::new(),
            rate_limit: None,
            validate: None,
            set_headers: BTreeMap::new(),
            http: None,
            send_to: None,
            send_to_user: None,
            broadcast: true,
            reply: false,
        }
    }
}

impl Default for TargetSettings {
    fn default() -> Self {
        TargetSettings { send_to: None, send_to_user: None, broadcast: true, reply: false }
    }
}

impl Settings {
    /// Whether the configuration has any part of the chain.
    pub fn is_used(&self) -> bool {
        self.lifecycle.is_some() || !self.route.is_empty()
    }

    /// What types alone cannot say.
    pub fn check(&self, separators: Separators) -> Result<(), Faults> {
        let mut faults = Faults::default();
        faults.demand_time("app.timeout", self.timeout);
        faults.demand(self.timeout >= Duration::from_millis(1), "app.timeout", "must be at least 1ms");
        faults.join(self.observers(None).map(|_| ()));
        faults.join(self.routes(separators).map(|_| ()));
        let of_routes = self.route.iter().enumerate();
        let of_routes =
            of_routes.filter_map(|(index, route)| Some((format!("app.route.{index}"), route.http.as_ref()?)));
        let of_lifecycle = self.lifecycle.iter().map(|settings| ("app.lifecycle".to_owned(), &settings.http));
        for (place, http) in of_routes.chain(of_lifecycle) {
            // A call that is cut off from outside says nothing of its service: the breaker would never open.
            let why = format!("must be at most app.timeout ({:?}), which ends the call as a whole", self.timeout);
            faults.demand(http.timeout <= self.timeout, &format!("{place}.http.timeout"), why);
        }
        faults.into_result()
    }

    /// What each route that can be read is for, with its place in the settings.
    pub fn patterns(&self, separators: Separators) -> impl Iterator<Item = (usize, Pattern)> {
        let routes = self.route.iter().enumerate();
        let read = move |text: &str| RoutePattern::parse(text, separators).ok();
        routes.filter_map(move |(index, route)| read(&route.pattern).map(|pattern| (index, pattern.names())))
    }

    /// What the settings ask for, but for routes; counted there, if anywhere.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn observers(&self, metrics: Option<&Metrics>) -> Result<Vec<Arc<dyn Interceptor>>, Faults> {
        let mut faults = Faults::default();
        let mut observers: Vec<Arc<dyn Interceptor>> = Vec::new();
        if let Some(settings) = &self.lifecycle {
            match Lifecycle::new(settings) {
                Ok(lifecycle) => observers.push(Arc::new(match metrics {
                    Some(metrics) => lifecycle.counted_by(metrics),
                    None => lifecycle,
                })),
                Err((key, why)) => faults.add(&format!("app.lifecycle.http.{key}"), why),
            }
        }
        faults.into_result().map(|()| observers)
    }

    /// The routes, in their order.
    ///
    /// # Errors
    /// Everything that is wrong with any of them; routes that never come to be, because an earlier one takes it all.
    pub fn routes(&self, separators: Separators) -> Result<Vec<Route>, Faults> {
        let mut faults = Faults::default();
        let mut routes = Vec::new();
        for (index, settings) in self.route.iter().enumerate() {
            match settings.route(separators) {
                Ok(route) => routes.push((index, route)),
                Err((key, why)) => faults.add(&format!("app.route.{index}.{key}"), why),
            }
        }
        let (places, routes): (Vec<_>, Vec<_>) = routes.into_iter().unzip();
        for (place, index) in places.iter().enumerate() {
            if let Some(earlier) = Routes::covering(&routes, place) {
                let pattern = &self.route[places[earlier]].pattern;
                let why =
                    format!("never matches: {pattern:?}, which comes before it, takes all of it; put this one first");
                faults.add(&format!("app.route.{index}.pattern"), why);
            }
        }
        faults.into_result().map(|()| routes)
    }
}

impl RouteSettings {
    /// The error names the setting and says what is wrong with it.
    fn route(&self, separators: Separators) -> Result<Route, (&'static str, String)> {
        let mut route = Route::new(&self.pattern, separators).map_err(|why| ("pattern", why))?;
        if !self.broadcast && self.send_to_user.is_none() {
            return Err(("broadcast", "is about send_to_user, which is not set".to_owned()));
        }
        let target = TargetSettings {
            send_to: self.send_to.clone(),
            send_to_user: self.send_to_user.clone(),
            broadcast: self.broadcast,
            reply: self.reply,
        };
        route = route.answering(&target, separators)?;
        route.steps = steps(self, &route.pattern)?.into();
        if let Some(settings) = &self.http {
            let service = http::Service::new(settings, &route.pattern);
            let service = service.map_err(|(key, why)| (http_key(key), why))?;
            route = route.handled_by(Arc::new(service.passing(self.set_headers.keys())));
        }
        if self.order == Order::Concurrent {
            route = route.concurrent();
        }
        if self.on_error == OnError::Error {
            route = route.failing_hard();
        }
        Ok(route)
    }
}

/// The key of a setting of `[app.route.http]` within its route.
fn http_key(key: &str) -> &'static str {
    match key {
        "url" => "http.url",
        "method" => "http.method",
        "timeout" => "http.timeout",
        "max_concurrent" => "http.max_concurrent",
        "secret" => "http.secret",
        "ca" => "http.ca",
        _ => "http",
    }
}
