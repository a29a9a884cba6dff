//! The handler that calls an HTTP service.
//!
//! What the service reads, a client cannot forge: the gateway's own headers are set from the session, and the client's are
//! not passed on, but for `content-type`, `correlation-id` and the trace that it belongs to. Those that the route sets are,
//! whatever the client had of that name. The URL is the setting's, into which a destination puts single segments and values;
//! redirects are not followed.

mod breaker;
mod settings;
mod sign;
mod url;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use tokio::sync::Semaphore;
use tracing::debug;

use super::template::{RoutePattern, Values, plain, readable};
use super::{Answer, Context, Failure, Handler, Request, Variables, claims};
use crate::message::{Headers, TraceParent, trace_context};
use crate::outbound::{self, HttpClient, Options};
use breaker::Breaker;
pub use settings::Settings;
use sign::Signer;
use url::Url;

/// Characters of a service's text that a client is told.
const MAX_REASON: usize = 1024;
/// Doublings of the time between two attempts.
const MAX_DOUBLINGS: u32 = 6;
/// Headers of a client that a service is told, under their own names.
const PASSED_ON: [&str; 2] = ["content-type", "correlation-id"];

/// What a service is asked, or told.
struct Question<'a> {
    event: &'static str,
    /// May be empty.
    destination: &'a str,
    variables: &'a Variables,
    headers: &'a Headers,
    body: Bytes,
}

/// A service behind a route.
pub(super) struct Service {
    settings: Settings,
    client: HttpClient,
    method: Method,
    url: Url,
    /// Headers that the route sets: what the frame calls them, and what the service does.
    set: Vec<(String, HeaderName)>,
    signer: Option<Signer>,
    permits: Semaphore,
    breaker: Breaker,
}

impl Service {
    /// A service as the settings describe it. The error names the setting and says what is wrong with it.
    pub(super) fn new(settings: &Settings, pattern: &RoutePattern) -> Result<Self, (&'static str, String)> {
        let method = settings.method.to_ascii_uppercase();
        let method = match method.as_str() {
            "GET" | "POST" | "PUT" | "PATCH" | "DELETE" => {
                method.parse::<Method>().map_err(|_| ("method", String::new()))
            }
            _ => Err(("method", format!("is {:?}; expected GET, POST, PUT, PATCH or DELETE", settings.method))),
        }?;
        for (key, is_good) in [
            ("timeout", settings.timeout >= Duration::from_millis(1)),
            ("max_concurrent", settings.max_concurrent >= 1 && settings.max_concurrent <= Semaphore::MAX_PERMITS),
        ] {
            if !is_good {
                return Err((key, "is out of bounds; it must be at least 1, and 1ms for a time".to_owned()));
            }
        }
        if settings.secret.as_ref().is_some_and(|secret| secret.len() < 16) {
            return Err(("secret", "is too short; expected 16 characters or more".to_owned()));
        }
        let url = Url::parse(&settings.url, pattern).map_err(|why| ("url", why))?;
        Ok(Service {
            client: client(settings).map_err(|why| ("ca", why))?,
            method,
            url,
            set: Vec::new(),
            signer: settings.secret.as_deref().map(Signer::new),
            permits: Semaphore::new(settings.max_concurrent),
            breaker: Breaker::new(settings.breaker_failures, settings.breaker_pause),
            settings: settings.clone(),
        })
    }

    /// Passes on headers of these names, which the route sets before it asks. Those that are none are left out.
    pub(super) fn passing<'a>(self, names: impl Iterator<Item = &'a String>) -> Self {
        let read = |name: &String| Some((name.clone(), HeaderName::from_bytes(name.as_bytes()).ok()?));
        Service { set: names.filter_map(read).collect(), ..self }
    }

    /// The call, as often as the settings say.
    async fn call(&self, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Result<Option<Answer>, Failure> {
        let mut attempts = 0;
        loop {
            let Some(attempt) = self.breaker.admit() else {
                return Err(Failure::new(503, "the service has failed too often, and is left alone for a while"));
            };
            let called = tokio::time::timeout(self.settings.timeout, self.attempt(uri, headers, body)).await;
            let failure = match called {
                Ok(Ok(answer)) => {
                    attempt.succeeded();
                    return Ok(answer);
                }
                Ok(Err(failure)) if failure.status < 500 => {
                    attempt.succeeded();
                    return Err(failure);
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::timed_out("the service did not answer in time"),
            };
            attempt.failed();
            debug!(host = uri.host(), status = failure.status, reason = failure.reason, attempts, "a service failed");
            if attempts >= self.settings.retries {
                return Err(failure);
            }
            tokio::time::sleep(self.pause(attempts)).await;
            attempts += 1;
        }
    }

    /// The time before the next attempt: doubled with each, and a random half of it, so that not all come at once.
    fn pause(&self, attempts: u32) -> Duration {
        let longest = self.settings.backoff * 2_u32.pow(attempts.min(MAX_DOUBLINGS));
        let random = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
        longest.mul_f64(0.5 + random / 2.0)
    }

    async fn attempt(&self, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Result<Option<Answer>, Failure> {
        let mut request = hyper::Request::new(Full::new(body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri.clone();
        request.headers_mut().clone_from(headers);
        let response = self.client.request(request).await.map_err(|error| {
            debug!(host = uri.host(), %error, "a service cannot be reached");
            Failure::new(502, "the service cannot be reached")
        })?;
        let (parts, body) = response.into_parts();
        match parts.status {
            StatusCode::NO_CONTENT => Ok(None),
            status if status.is_success() => {
                let header = |name: &'static str| Some((name, parts.headers.get(name)?.to_str().ok()?));
                let trace: Headers = ["traceparent", "tracestate"].into_iter().filter_map(header).collect();
                let content_type = header("content-type").map_or("application/octet-stream", |(_, value)| value);
                let mut answer = Answer::new(content_type, self.body(body).await?);
                answer.headers.extend(trace_context(&trace));
                Ok(Some(answer))
            }
            status if status.is_redirection() => {
                Err(Failure::new(502, "the service answered with a redirect, and none is followed"))
            }
            status => Err(Failure::new(told(status), self.reason(status, body).await)),
        }
    }

    async fn body(&self, body: Incoming) -> Result<Bytes, Failure> {
        let limit = self.settings.max_response;
        match Limited::new(body, limit).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(Failure::new(502, format!("the service's answer is larger than {limit} bytes")))
            }
            Err(_) => Err(Failure::new(502, "the service's answer broke off")),
        }
    }

    /// What the service says of its failure, if that is text.
    async fn reason(&self, status: StatusCode, body: Incoming) -> String {
        let text = self.body(body).await.ok().and_then(|body| String::from_utf8(body.to_vec()).ok());
        match text.map(|text| text.trim().chars().take(MAX_REASON).collect::<String>()) {
            Some(text) if !text.is_empty() => text,
            _ => format!("the service answered {status}"),
        }
    }

    /// Tells the service of something that has no destination of its own. The body is JSON.
    pub(super) async fn notify(
        &self,
        event: &'static str,
        body: Bytes,
        context: &Context,
    ) -> Result<Option<Answer>, Failure> {
        let headers = Headers::from([("content-type", "application/json")]);
        self.ask(
            Question { event, destination: "", variables: &Variables::default(), headers: &headers, body },
            context,
        )
        .await
    }

    async fn ask(&self, question: Question<'_>, context: &Context) -> Result<Option<Answer>, Failure> {
        let uri = self.url.fill(&Values::new(question.variables, context))?;
        let Ok(_permit) = self.permits.acquire().await else {
            return Err(Failure::new(503, "the gateway is about to stop"));
        };
        let headers = self.headers(&uri, &question, context);
        self.call(&uri, &headers, &question.body).await
    }

    fn headers(&self, uri: &Uri, question: &Question<'_>, context: &Context) -> HeaderMap {
        let Question { event, destination, body, .. } = question;
        let (user, session) = (readable(&context.principal.name), readable(&context.session));
        let claims = claims::written(&context.principal.claims).unwrap_or_default();
        let destination = plain(destination); // which is encoded where it has to be
        let key = random_key();
        let mut headers = HeaderMap::new();
        let value = |name: &str| HeaderValue::from_bytes(question.headers.get(name)?.as_bytes()).ok();
        for name in PASSED_ON {
            headers.extend(value(name).map(|value| (HeaderName::from_static(name), value)));
        }
        for (name, set) in &self.set {
            if let Some(value) = value(name) {
                headers.insert(set.clone(), value);
            }
        }
        let mut set = |name, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        set("stompgate-event", event);
        set("stompgate-user", &user);
        set("stompgate-session", &session);
        if !claims.is_empty() {
            set("stompgate-claims", &claims);
        }
        if !destination.is_empty() {
            set("stompgate-destination", &destination);
        }
        set("idempotency-key", &key);
        let trace = trace_context(question.headers);
        match trace.get("traceparent") {
            Some(parent) => set("traceparent", parent),
            None => set("traceparent", &begun().to_string()),
        }
        if let Some(state) = trace.get("tracestate") {
            set("tracestate", state);
        }
        if let Some(signer) = &self.signer {
            let path = uri.path_and_query().map_or("/", |path| path.as_str());
            let lines = [self.method.as_str(), path, event, &user, &session, &claims, &destination, &key];
            set("stompgate-signature", &signer.sign(&lines, body));
        }
        headers
    }
}

#[async_trait]
impl Handler for Service {
    async fn handle(&self, request: Request, context: &Context) -> Result<Option<Answer>, Failure> {
        let Request { is_send, destination, variables, headers, body } = request;
        let event = if is_send { "send" } else { "subscribe" };
        let destination = destination.to_string();
        self.ask(Question { event, destination: &destination, variables: &variables, headers: &headers, body }, context)
            .await
    }
}

/// The status that a client is told: a service's 4xx is about the request, its 5xx about what stands behind the gateway.
fn told(status: StatusCode) -> u16 {
    match status.as_u16() {
        status @ (400..=499 | 503 | 504) => status,
        _ => 502,
    }
}

/// The same for every attempt at one frame, and for no other.
fn random_key() -> String {
    let half = || getrandom::u64().unwrap_or_default();
    format!("{:016x}{:016x}", half(), half())
}

/// The beginning of a trace, for services to record if they do.
fn begun() -> TraceParent {
    let part = || getrandom::u64().unwrap_or_default() | 1; // zero is no trace and no span
    TraceParent { trace: u128::from(part()) << 64 | u128::from(part()), span: part(), is_sampled: true }
}

fn client(settings: &Settings) -> Result<HttpClient, String> {
    let Settings { timeout, max_idle, idle_timeout, .. } = *settings;
    outbound::client(&Options { ca: settings.ca.as_deref(), connect_timeout: timeout, max_idle, idle_timeout })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Principal, Text};

    fn service(change: impl FnOnce(&mut Settings)) -> Service {
        let mut settings = Settings { url: "http://host:1/a/{id}?q=1".to_owned(), ..Settings::default() };
        change(&mut settings);
        let pattern = RoutePattern::parse("/app/x/{id}", crate::message::Separators::Both).unwrap();
        Service::new(&settings, &pattern).unwrap_or_else(|why| panic!("{why:?}"))
    }

    /// The headers of a call for ada, whose frame had these.
    fn called(service: &Service, headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let context = Context {
            session: Text::from_static("s-1"),
            principal: Principal::new("ada"),
            peer: ([127, 0, 0, 1], 1).into(),
            tenant: None,
        };
        let headers: Headers = headers.iter().copied().collect();
        let variables = Variables(vec![("id".into(), "7".to_owned())]);
        let question = Question {
            event: "send",
            destination: "/app/x/7",
            variables: &variables,
            headers: &headers,
            body: Bytes::new(),
        };
        let uri = service.url.fill(&Values::new(&variables, &context)).unwrap();
        service.headers(&uri, &question, &context)
    }

    fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_the_gateway_says_of_a_frame_cannot_come_from_it() {
        let own = [
            "stompgate-event",
            "stompgate-user",
            "stompgate-session",
            "stompgate-claims",
            "stompgate-destination",
            "stompgate-signature",
            "idempotency-key",
            "host",
            "authorization",
            "content-length",
        ];
        let service = service(|settings| settings.secret = Some("0123456789abcdef".to_owned()));
        let forged: Vec<_> = own.iter().map(|&name| (name, "forged")).collect();
        for headers in [called(&service, &forged), called(&service, &[])] {
            for (name, expected) in [
                ("stompgate-event", "send"),
                ("stompgate-user", "ada"),
                ("stompgate-session", "s-1"),
                ("stompgate-destination", "/app/x/7"),
            ] {
                assert_eq!(values(&headers, name), [expected], "{name}");
            }
            for name in ["stompgate-signature", "idempotency-key"] {
                assert!(matches!(&values(&headers, name)[..], [one] if one != "forged"), "{name}");
            }
            for name in ["stompgate-claims", "host", "authorization", "content-length"] {
                assert_eq!(values(&headers, name), [""; 0], "{name}");
            }
        }
    }

    #[test]
    fn a_frame_tells_its_type_its_question_and_its_trace_and_what_the_route_sets() {
        const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let frame = [
            ("content-type", "text/x"),
            ("correlation-id", "7"),
            ("traceparent", PARENT),
            ("tracestate", "a=1"),
            ("x", "y"),
        ];
        let headers = called(&service(|_| {}), &frame);
        for (name, value) in &frame[..4] {
            assert_eq!(values(&headers, name), [*value], "{name}");
        }
        assert_eq!(values(&headers, "x"), [""; 0]);
        let passing = service(|_| {}).passing([&"x".to_owned(), &"no name".to_owned()].into_iter());
        assert_eq!(values(&called(&passing, &frame), "x"), ["y"]);
        let begun = called(&service(|_| {}), &[("traceparent", "no trace"), ("tracestate", "a=1")]);
        assert!(TraceParent::parse(&values(&begun, "traceparent").concat()).is_some());
        assert_eq!(values(&begun, "tracestate"), [""; 0], "of no trace");
    }

    #[test]
    fn every_frame_has_a_key_of_its_own() {
        let key = || values(&called(&service(|_| {}), &[]), "idempotency-key").concat();
        assert_ne!(key(), key());
    }

    #[test]
    fn pauses_double_by_half_at_random_and_end_growing() {
        let service = service(|settings| settings.backoff = Duration::from_millis(100));
        for (attempts, longest) in [(0, 100), (1, 200), (2, 400), (6, 6400), (7, 6400), (u32::MAX, 6400)] {
            for _ in 0..20 {
                let pause = service.pause(attempts);
                let longest = Duration::from_millis(longest);
                assert!(longest / 2 <= pause && pause <= longest, "{attempts}: {pause:?}");
            }
        }
    }

    #[test]
    fn what_a_client_is_told_of_a_status() {
        for (status, expected) in
            [(400, 400), (422, 422), (499, 499), (500, 502), (501, 502), (503, 503), (504, 504), (599, 502), (600, 502)]
        {
            assert_eq!(told(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let named = |change: &dyn Fn(&mut Settings)| {
            let mut settings = Settings { url: "http://host/".to_owned(), ..Settings::default() };
            change(&mut settings);
            Service::new(&settings, &RoutePattern::default()).err().map(|(key, _)| key)
        };
        assert_eq!(named(&|_| {}), None);
        assert_eq!(named(&|settings| settings.method = "BREW".to_owned()), Some("method"));
        assert_eq!(named(&|settings| settings.timeout = Duration::ZERO), Some("timeout"));
        assert_eq!(named(&|settings| settings.max_concurrent = 0), Some("max_concurrent"));
        assert_eq!(named(&|settings| settings.secret = Some("short".to_owned())), Some("secret"));
        assert_eq!(named(&|settings| settings.url = "http://{id}/".to_owned()), Some("url"));
        assert_eq!(named(&|settings| settings.ca = Some("/nowhere.pem".into())), Some("ca"));
    }
}
