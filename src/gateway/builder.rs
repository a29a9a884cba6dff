//! A gateway with parts of the program's own: handlers, interceptors, an authenticator.

use std::io;
use std::sync::Arc;

use super::Gateway;
use super::reload::Read;
use crate::access::Decisions;
use crate::auth::{Authenticator, authenticator};
use crate::chain::{Answer, Chain, Failure, Interceptor, Request, Route, Routes, handler};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::server::Live;
use crate::settings::Faults;
use crate::telemetry::Log;

/// A gateway that has not been started yet: its settings, and what a program adds to them.
///
/// ```no_run
/// use stompgate::chain::Answer;
/// use stompgate::config::Config;
/// use stompgate::gateway::Gateway;
///
/// # async fn start() -> std::io::Result<()> {
/// let gateway = Gateway::builder(Config::default())
///     .handler("/app/marco", |_| async { Ok(Some(Answer::text("Polo!"))) })
///     .start()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a gateway runs once it is started"]
pub struct Builder {
    config: Config,
    authenticator: Option<Arc<dyn Authenticator>>,
    interceptors: Vec<Arc<dyn Interceptor>>,
    routes: Vec<Result<Route, String>>,
    log: Log,
    read: Option<Read>,
}

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        Builder {
            config,
            authenticator: None,
            interceptors: Vec::new(),
            routes: Vec::new(),
            log: Log::default(),
            read: None,
        }
    }

    /// Answers a destination such as `/app/orders/{id}` with this function. What it returns goes to `/topic/` and what
    /// stands after `/app/`, here `/topic/orders/{id}`; [`Builder::route`] can say otherwise.
    ///
    /// It runs on the thread that serves the client, each of which is a tokio runtime of one thread, and must not block it:
    /// other clients wait for the same one. What blocks belongs into `tokio::task::spawn_blocking`; `block_in_place` panics
    /// there. `server.workers = 0` has everything run in the program's own runtime.
    pub fn handler<F, R>(mut self, pattern: &str, function: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Option<Answer>, Failure>> + Send + 'static,
    {
        let route = Route::new(pattern, self.config.separators());
        self.routes.push(match route {
            Ok(route) => Ok(route.handled_by(handler(function))),
            Err(why) => Err(format!("the pattern of a handler {why}")),
        });
        self
    }

    /// Adds a route. Those that are added come before those of the settings, in their order.
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(Ok(route));
        self
    }

    /// Adds an interceptor. They come before all routes, in their order.
    pub fn interceptor(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    /// Finds out with this who a client is, whatever `auth.kind` says.
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticator = Some(Arc::new(authenticator));
        self
    }

    /// Lets operators change what this log shows. Without it the log is the program's own.
    pub fn log(mut self, log: Log) -> Self {
        self.log = log;
        self
    }

    /// Reads the settings again with this when an operator asks for it (`POST /reload`, SIGHUP). Without it they stay.
    pub fn reloading(mut self, read: impl Fn() -> Result<Config, String> + Send + Sync + 'static) -> Self {
        self.read = Some(Arc::new(read));
        self
    }

    /// Starts it, inside a tokio runtime. When this returns, it accepts clients.
    ///
    /// # Errors
    /// Settings that cannot be carried out: an address in use, a certificate that is none, a pattern that is none. The
    /// text names the setting.
    pub fn start(self) -> io::Result<Gateway> {
        let Builder { config, authenticator, interceptors, routes, log, read } = self;
        let routes = routes.into_iter().collect::<Result<Vec<_>, _>>();
        let routes = routes.map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        let program = Program { authenticator, interceptors, routes, decisions: Decisions::default() };
        Gateway::build(config, program, log, read)
    }
}

/// What a program adds to the settings.
pub(super) struct Program {
    authenticator: Option<Arc<dyn Authenticator>>,
    interceptors: Vec<Arc<dyn Interceptor>>,
    routes: Vec<Route>,
    /// Counts on from reload to reload.
    decisions: Decisions,
}

impl Program {
    /// What these settings, and the program, make of all that a reload can change.
    pub(super) fn live(&self, config: &Config, metrics: &Metrics) -> io::Result<Live> {
        let authenticator = self.authenticator.clone().unwrap_or_else(|| authenticator(&config.auth));
        let rules = config.rules().map_err(|faults| io::Error::new(io::ErrorKind::InvalidInput, faults))?;
        let (server, session, outbox) = (config.server.clone(), config.session.clone(), config.outbox.clone());
        Live::new(
            server,
            session,
            outbox,
            config.auth.max_sessions_per_user,
            rules.counting(self.decisions.clone()),
            authenticator,
            self.chain(config, metrics)?,
        )
    }

    fn chain(&self, config: &Config, metrics: &Metrics) -> io::Result<Chain> {
        let invalid = |faults: Faults| io::Error::new(io::ErrorKind::InvalidInput, faults);
        let mut routes = self.routes.clone();
        routes.extend(config.app.routes(config.separators()).map_err(invalid)?);
        let mut interceptors = self.interceptors.clone();
        interceptors.extend(config.app.observers(Some(metrics)).map_err(invalid)?);
        if !routes.is_empty() {
            interceptors.push(Arc::new(Routes::new(routes).counted_by(metrics)));
        }
        Ok(Chain::new(interceptors, &config.app))
    }
}
