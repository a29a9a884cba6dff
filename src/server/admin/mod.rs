//! The port for operators: metrics and health, and the API of back ends, in plain HTTP.
//!
//! One request for each connection, so that whoever does not read or write holds a place for a while at most. Every error
//! is a problem document (RFC 9457). Everything but metrics and health wants the key of `admin.api_key`.

#![expect(clippy::result_large_err, reason = "an answer is made once per request, far from any hot path")]

mod access;
mod answer;
mod call;
mod health;
mod log;
mod publish;
mod reload;
mod routes;
mod sessions;
mod settings;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::port::listen;
use super::{ACCEPT_PAUSE, Services};
use crate::metrics::CONTENT_TYPE;
use access::Access;
use answer::{Answer, problem, text};
use call::Call;
pub use reload::{Reload, Reloaded, UNREADABLE};
use routes::{Api, Endpoint, Found};
pub use settings::{Readiness, Settings};

/// What can be asked for (OpenAPI 3.1).
const DOCUMENT: &str = include_str!("openapi.json");

/// The port for operators.
pub struct Admin {
    listener: TcpListener,
    desk: Arc<Desk>,
}

/// What answers.
struct Desk {
    settings: Settings,
    access: Access,
    /// Calls of the API that may be under way.
    calls: Semaphore,
    services: Arc<Services>,
    reload: Option<Arc<dyn Reload>>,
}

impl Admin {
    /// Listens, without answering yet.
    ///
    /// # Errors
    /// An address that cannot be had, a key that cannot be one; the text names the setting.
    pub fn bind(settings: Settings, services: Arc<Services>, reload: Option<Arc<dyn Reload>>) -> io::Result<Admin> {
        let listener = listen(settings.listen, "admin.listen").map_err(|error| {
            let hint = "set another port, or admin.enabled = false";
            io::Error::new(error.kind(), format!("{error}; {hint}"))
        })?;
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let key = settings.key().map_err(|(key, why)| invalid(format!("{key}: {why}")))?;
        let access = Access::new(key.as_ref());
        let access =
            access.map_err(|_| invalid("admin.api_key: needs random numbers, and the system has none".into()))?;
        let calls = Semaphore::new(settings.max_calls);
        Ok(Admin { listener, desk: Arc::new(Desk { settings, access, calls, services, reload }) })
    }

    /// Where it listens; with port 0 in the settings, the port that the system chose.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until this future is dropped.
    pub async fn serve(self) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = open.join_next() => {}
                accepted = self.listener.accept(), if open.len() < self.desk.settings.max_connections => match accepted {
                    Ok((stream, peer)) => {
                        open.spawn(answer_one(Arc::clone(&self.desk), stream, peer));
                    }
                    Err(error) => {
                        warn!(%error, "an operator's connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
}

async fn answer_one(desk: Arc<Desk>, stream: TcpStream, peer: SocketAddr) {
    let within = desk.settings.timeout;
    let service = service_fn(|request: Request<Incoming>| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer_in_time(request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(within)
        .max_buf_size(16 * 1024)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Once the time for the answer, and once more for who does not write or read.
    match tokio::time::timeout(within * 2, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%peer, %error, "an operator's request failed"),
        Err(_) => debug!(%peer, "an operator's request took longer than twice admin.timeout"),
    }
}

impl Desk {
    async fn answer_in_time(&self, request: Request<Incoming>) -> Answer {
        tokio::time::timeout(self.settings.timeout, self.answer(request)).await.unwrap_or_else(|_| {
            let detail = "It took longer than the setting admin.timeout allows; whether it has been done is unknown.";
            problem(StatusCode::GATEWAY_TIMEOUT, detail)
        })
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let (endpoint, variable) = match routes::find(&parts.method, path) {
            Found::Endpoint(endpoint, variable) => (endpoint, variable),
            Found::OtherMethods(methods) => {
                let refusal = problem(StatusCode::METHOD_NOT_ALLOWED, &format!("{path} is for {methods}."));
                return answer::with(refusal, ALLOW, &methods);
            }
            Found::Nothing => {
                let detail = format!(
                    "There is nothing at {path:?}; there are /metrics, /healthz and /readyz, and what /openapi.json has."
                );
                return problem(StatusCode::NOT_FOUND, &detail);
            }
        };
        let api = match endpoint {
            Endpoint::Metrics => return text(CONTENT_TYPE, self.services.render_metrics()),
            Endpoint::Alive => return health::alive(&self.services).await,
            Endpoint::Ready => return health::ready(&self.settings, &self.services),
            Endpoint::Api(api) => api,
        };
        if let Err(refused) = self.access.check(&parts.headers) {
            return refused;
        }
        let Ok(_permit) = self.calls.try_acquire() else {
            let most = self.settings.max_calls;
            let detail = format!("{most} calls are under way, as the setting admin.max_calls allows; try again.");
            return answer::with(problem(StatusCode::SERVICE_UNAVAILABLE, &detail), RETRY_AFTER, "1");
        };
        let call = Call::read(&parts, body, self.settings.max_body).await;
        match call {
            Ok(call) => self.carry_out(api, call, &variable).await.unwrap_or_else(|refused| refused),
            Err(refused) => refused,
        }
    }

    async fn carry_out(&self, api: Api, call: Call, variable: &str) -> Result<Answer, Answer> {
        let services = &*self.services;
        match api {
            Api::Document => Ok(text("application/json", DOCUMENT.to_owned())),
            Api::Publish => publish::one(services, &call.expect(&["host"])?).await,
            Api::PublishMany => publish::many(services, &call.expect(&["host"])?, self.settings.max_messages).await,
            Api::PublishToUser => publish::to_user(services, &call.expect(&["host"])?, variable).await,
            Api::Sessions => sessions::list(services, &call.expect(&["after", "limit", "user"])?),
            Api::Subscriptions => sessions::subscriptions(services, &call.expect(&["after", "limit"])?, variable).await,
            Api::Log => log::show(services, &call.expect(&[])?),
            Api::ChangeLog => log::change(services, &call.expect(&[])?),
            Api::Reload => call.expect(&[]).and_then(|_| reload::carry_out(self.reload.as_deref())),
            Api::EndSession => sessions::end(services, &call.expect(&["reason"])?, variable),
            Api::EndSessions => sessions::end_all(services, &call.expect(&["reason"])?, variable),
        }
    }
}
