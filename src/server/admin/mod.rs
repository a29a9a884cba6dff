//! The port for operators: metrics and health, in plain HTTP.
//!
//! One request for each connection, so that whoever does not read or write holds a place for `admin.timeout` at most.
//! Every error is a problem document (RFC 9457).

mod answer;
mod health;
mod settings;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::ALLOW;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::{ACCEPT_PAUSE, Services, listen};
use crate::metrics::CONTENT_TYPE;
use answer::{Answer, problem, text};
pub use settings::{Readiness, Settings};

/// The port for operators.
pub struct Admin {
    settings: Arc<Settings>,
    listener: TcpListener,
    services: Arc<Services>,
}

impl Admin {
    /// Listens, without answering yet.
    ///
    /// # Errors
    /// An address that cannot be had; the text names the setting.
    pub fn bind(settings: Settings, services: Arc<Services>) -> io::Result<Admin> {
        let listener = listen(settings.listen, "admin.listen").map_err(|error| {
            let hint = "set another port, or admin.enabled = false";
            io::Error::new(error.kind(), format!("{error}; {hint}"))
        })?;
        Ok(Admin { settings: Arc::new(settings), listener, services })
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
                accepted = self.listener.accept(), if open.len() < self.settings.max_connections => match accepted {
                    Ok((stream, peer)) => {
                        open.spawn(answer_one(Arc::clone(&self.settings), Arc::clone(&self.services), stream, peer));
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

async fn answer_one(settings: Arc<Settings>, services: Arc<Services>, stream: TcpStream, peer: SocketAddr) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(&request, &settings, &services);
        async move { Ok::<_, Infallible>(answer) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.timeout)
        .max_buf_size(16 * 1024)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(settings.timeout, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%peer, %error, "an operator's request failed"),
        Err(_) => debug!(%peer, "an operator's request took longer than admin.timeout"),
    }
}

fn answer(request: &Request<Incoming>, settings: &Settings, services: &Services) -> Answer {
    let path = request.uri().path();
    let answer: fn(&Settings, &Services) -> Answer = match path {
        "/metrics" => |_, services| text(CONTENT_TYPE, services.render_metrics()),
        "/healthz" => |_, _| health::alive(),
        "/readyz" => health::ready,
        _ => {
            let detail = format!("There is nothing at {path:?}; there are /metrics, /healthz and /readyz.");
            return problem(StatusCode::NOT_FOUND, &detail);
        }
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let refusal = problem(StatusCode::METHOD_NOT_ALLOWED, &format!("{path} is read with GET."));
        return answer::with(refusal, ALLOW, "GET, HEAD");
    }
    answer(settings, services)
}
