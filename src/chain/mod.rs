//! What stands between a client's frames and the broker: interceptors, in order (contract, §10).
//!
//! ```text
//!           ┌─ interceptor ─┐ ┌─ interceptor ─┐ ┌──── routes of /app ────┐
//! SEND ────►│ pass, change, │►│               │►│ call a handler; answer │──► results ──► broker
//!           │ refuse        │ │               │ │ with what comes of it  │──► replies ──► this session
//!           └───────────────┘ └───────────────┘ └────────────────────────┘
//! ```
//!
//! Every interceptor sees the resolved resource, never the client's spelling. The chain runs as a future that a client's
//! task polls beside reading and writing, so a slow interceptor holds up that client's later frames at most, never
//! heart-beats or deliveries. Frames that no interceptor has an interest in cost one look at each interceptor and nothing
//! more.
//!
//! An interceptor is one file in here: its settings, `impl Interceptor`, tests that need no server.

mod answer;
mod claims;
mod handler;
mod http;
mod lifecycle;
mod route;
mod routes;
mod settings;
mod step;
mod target;
mod template;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::warn;

pub use answer::{Cause, Failure, Rejection, Reply, Verdict};
pub use handler::{Answer, Handler, Request, Variables, handler};
pub use http::Settings as HttpSettings;
pub use lifecycle::{Moment, Settings as LifecycleSettings};
pub use route::Route;
pub use routes::Routes;
pub use settings::{OnError, Order, RouteSettings, Settings, TargetSettings};
pub use step::RateLimit;

use crate::message::{Destination, Handlers, Headers, Message, Outcome, Principal, Refusal, Settlement, Text};

/// What a chain is made of. All methods but [`Interceptor::name`] do nothing unless they are written.
///
/// One interceptor serves all sessions at once. A method that is dropped midway has met its client's end, or
/// `app.timeout`.
#[async_trait]
pub trait Interceptor: Send + Sync + 'static {
    /// For the log.
    fn name(&self) -> &str;

    /// Whether it wants to see such an event. Asked for every frame, so it must be quick. Unless it is written, acknowledgements
    /// and messages to subscribers are not wanted.
    fn interest(&self, event: Event<'_>) -> Interest {
        match event {
            Event::Acknowledge(_) | Event::Message(_) => Interest::None,
            _ => Interest::Ordered,
        }
    }

    /// A client has been authenticated. It may be refused, or be given another name.
    async fn connect(&self, principal: Principal, context: &Context) -> Result<Principal, Rejection> {
        let _ = context;
        Ok(principal)
    }

    /// A SEND; in a transaction, at its COMMIT.
    async fn send(&self, message: Message, context: &Context) -> Result<Verdict, Rejection> {
        let _ = context;
        Ok(Verdict::Continue(message))
    }

    /// A SUBSCRIBE, before it is carried out. `Some` answers it at once and for good: only a destination under `/app`,
    /// which no broker knows, is answered so.
    async fn subscribe(&self, subscription: &Subscription, context: &Context) -> Result<Option<Answer>, Rejection> {
        let _ = (subscription, context);
        Ok(None)
    }

    /// A subscription has ended by UNSUBSCRIBE. (The end of a session ends the others without a word.)
    async fn unsubscribe(&self, subscription: &Subscription, context: &Context) {
        let _ = (subscription, context);
    }

    /// An ACK or NACK of so many deliveries, before it is carried out; in a transaction, at its COMMIT. What comes out is
    /// what becomes of them. A failure ends the session, as a refusal does.
    async fn acknowledge(
        &self,
        settlement: Settlement,
        deliveries: usize,
        subscription: &Subscription,
        context: &Context,
    ) -> Result<Settlement, Rejection> {
        let _ = (deliveries, subscription, context);
        Ok(settlement)
    }

    /// A MESSAGE on its way to a subscription. `None` is not delivered, and counts as accepted; a failure rejects it without
    /// requeue.
    ///
    /// Interest is asked for once, at the SUBSCRIBE and for what that reads, wildcards and all; for a reply address that is
    /// [`Destination::TemporaryQueue`]. A topic, an exchange, or what is sent to a user, is then read for this subscriber
    /// alone. What the chain itself answers a session with, without the broker, is not shown.
    async fn message(
        &self,
        message: Message,
        subscription: &Subscription,
        context: &Context,
    ) -> Result<Option<Message>, Rejection> {
        let _ = (subscription, context);
        Ok(Some(message))
    }

    /// A session has ended, for this reason; once for each session that [`Interceptor::connect`] let in.
    async fn disconnect(&self, cause: &str, context: &Context) {
        let _ = (cause, context);
    }

    /// How a SEND, a SUBSCRIBE, or an ACK or NACK, ended, once for each: everything that came of it is confirmed, the
    /// subscription is open or answered, or it was refused. With the code `cut-off`, the session, or `server.close_timeout`
    /// after it, ended first.
    fn completed(&self, event: Event<'_>, result: Result<&Outcome, &Refusal>, context: &Context) {
        let _ = (event, result, context);
    }
}

/// What an interceptor may have an interest in.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A client that has been authenticated.
    Connect,
    /// A SEND to this destination.
    Send(&'a Destination),
    /// A SUBSCRIBE to this destination.
    Subscribe(&'a Destination),
    /// An UNSUBSCRIBE from this destination.
    Unsubscribe(&'a Destination),
    /// An ACK or NACK of what came from this destination.
    Acknowledge(&'a Destination),
    /// MESSAGEs of a subscription to this destination.
    Message(&'a Destination),
    /// The end of a session.
    Disconnect,
}

/// Whether an interceptor wants to see an event, and what waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interest {
    /// It is not called.
    None,
    /// It is called, and the frames that follow in the session need not wait for it.
    Concurrent,
    /// It is called, and the frames that follow in the session wait.
    Ordered,
}

/// Whose frame it is.
#[derive(Clone, Debug)]
pub struct Context {
    /// The name of the session.
    pub session: Text,
    /// Who it is.
    pub principal: Principal,
    /// From where.
    pub peer: SocketAddr,
    /// The header `host` of CONNECT.
    pub tenant: Option<Text>,
}

/// A subscription as interceptors see it.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its number in the session.
    pub number: u32,
    /// What it reads.
    pub destination: Destination,
    /// Headers of the SUBSCRIBE, where it is one to `/app`; otherwise none.
    pub headers: Headers,
}

/// All interceptors, in order. A clone is another handle to the same chain.
#[derive(Clone)]
pub struct Chain(Arc<Inner>);

struct Inner {
    interceptors: Vec<Arc<dyn Interceptor>>,
    timeout: Duration,
    max_concurrent: usize,
}

impl Chain {
    /// These interceptors, in this order, within the bounds that the settings give.
    pub fn new(interceptors: Vec<Arc<dyn Interceptor>>, settings: &Settings) -> Self {
        let (timeout, max_concurrent) = (settings.timeout, settings.max_concurrent);
        Chain(Arc::new(Inner { interceptors, timeout, max_concurrent }))
    }

    /// Whether there is no interceptor.
    pub fn is_empty(&self) -> bool {
        self.0.interceptors.is_empty()
    }

    /// How many calls of concurrent routes one session may have under way.
    pub fn max_concurrent(&self) -> usize {
        self.0.max_concurrent
    }

    /// The strongest interest of any interceptor.
    pub fn interest(&self, event: Event<'_>) -> Interest {
        self.0.interceptors.iter().map(|one| one.interest(event)).max().unwrap_or(Interest::None)
    }

    /// Lets a client in, under the name that comes out.
    ///
    /// # Errors
    /// When an interceptor refuses it. Those before it that let it in have been told that it is gone.
    pub async fn connect(&self, context: &Context) -> Result<Principal, Refusal> {
        let mut context = context.clone();
        for (index, interceptor) in self.interested(Event::Connect) {
            let connected = interceptor.connect(context.principal.clone(), &context);
            let refusal = match self.in_time(connected).await {
                Ok(principal) => {
                    context.principal = principal;
                    continue;
                }
                Err(Rejection::Refused(refusal)) => refusal,
                Err(Rejection::Failed(failure)) => Refusal::handler_failed(failure.status, &failure.reason),
            };
            self.disconnect_first(index, "refused", &context).await;
            return Err(refusal);
        }
        Ok(context.principal)
    }

    /// Runs a SEND through the chain.
    ///
    /// # Errors
    /// When an interceptor rejects it, or when nobody has answered what is for `/app`.
    pub async fn send(&self, mut message: Message, context: &Context) -> Result<Verdict, Rejection> {
        for interceptor in &self.0.interceptors {
            if interceptor.interest(Event::Send(&message.destination)) == Interest::None {
                continue;
            }
            match self.in_time(interceptor.send(message, context)).await? {
                Verdict::Continue(changed) => message = changed,
                answer @ Verdict::Answer(_) => return Ok(answer),
            }
        }
        match &message.destination {
            Destination::Application(_) => Err(Refusal::no_handler(&message.destination.to_string()).into()),
            _ => Ok(Verdict::Continue(message)),
        }
    }

    /// Runs a SUBSCRIBE through the chain.
    ///
    /// # Errors
    /// As for [`Chain::send`].
    pub async fn subscribe(&self, subscription: &Subscription, context: &Context) -> Result<Option<Answer>, Rejection> {
        for (_, interceptor) in self.interested(Event::Subscribe(&subscription.destination)) {
            if let Some(answer) = self.in_time(interceptor.subscribe(subscription, context)).await? {
                return Ok(Some(answer));
            }
        }
        match &subscription.destination {
            Destination::Application(_) => Err(Refusal::no_handler(&subscription.destination.to_string()).into()),
            _ => Ok(None),
        }
    }

    /// Tells all that a subscription has ended.
    pub async fn unsubscribe(&self, subscription: &Subscription, context: &Context) {
        for (_, interceptor) in self.interested(Event::Unsubscribe(&subscription.destination)) {
            self.tell(interceptor.name(), "unsubscribe", interceptor.unsubscribe(subscription, context), context).await;
        }
    }

    /// Tells all that a session has ended. `cause` is a word such as `disconnect`, `lost`, `shutdown` or an error's code.
    pub async fn disconnect(&self, cause: &str, context: &Context) {
        self.disconnect_first(self.0.interceptors.len(), cause, context).await;
    }

    /// Runs an ACK or NACK of so many deliveries through the chain.
    ///
    /// # Errors
    /// When an interceptor does not let it pass.
    pub async fn acknowledge(
        &self,
        mut settlement: Settlement,
        deliveries: usize,
        subscription: &Subscription,
        context: &Context,
    ) -> Result<Settlement, Rejection> {
        for (_, interceptor) in self.interested(Event::Acknowledge(&subscription.destination)) {
            let asked = interceptor.acknowledge(settlement, deliveries, subscription, context);
            settlement = self.in_time(asked).await?;
        }
        Ok(settlement)
    }

    /// Runs a MESSAGE through the chain, on its way to a subscription.
    ///
    /// # Errors
    /// When an interceptor does not let it pass.
    pub async fn message(
        &self,
        mut message: Message,
        subscription: &Subscription,
        context: &Context,
    ) -> Result<Option<Message>, Rejection> {
        for (_, interceptor) in self.interested(Event::Message(&subscription.destination)) {
            match self.in_time(interceptor.message(message, subscription, context)).await? {
                Some(changed) => message = changed,
                None => return Ok(None),
            }
        }
        Ok(Some(message))
    }

    /// Tells all how a SEND, a SUBSCRIBE, an ACK or a NACK ended.
    pub fn completed(&self, event: Event<'_>, result: Result<&Outcome, &Refusal>, context: &Context) {
        for (_, interceptor) in self.interested(event) {
            interceptor.completed(event, result, context);
        }
    }

    async fn disconnect_first(&self, count: usize, cause: &str, context: &Context) {
        for (_, interceptor) in self.interested(Event::Disconnect).take_while(|(index, _)| *index < count) {
            self.tell(interceptor.name(), "disconnect", interceptor.disconnect(cause, context), context).await;
        }
    }

    /// Nobody waits for this longer than for anything else, but nothing is lost without a word.
    async fn tell(&self, interceptor: &str, event: &str, telling: impl Future<Output = ()>, context: &Context) {
        if tokio::time::timeout(self.0.timeout, telling).await.is_err() {
            let session = &*context.session;
            warn!(session, interceptor, event, "an interceptor was not told within app.timeout");
        }
    }

    fn interested<'a>(&'a self, event: Event<'a>) -> impl Iterator<Item = (usize, &'a Arc<dyn Interceptor>)> {
        let all = self.0.interceptors.iter().enumerate();
        all.filter(move |(_, interceptor)| interceptor.interest(event) != Interest::None)
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Rejection>>) -> Result<T, Rejection> {
        tokio::time::timeout(self.0.timeout, work).await.unwrap_or_else(|_| {
            Err(Failure::timed_out(&format!("no answer within {} ms (app.timeout)", self.0.timeout.as_millis())).into())
        })
    }
}

impl Handlers for Chain {
    fn can_send(&self, destination: &Destination) -> bool {
        self.interest(Event::Send(destination)) != Interest::None
    }

    fn can_subscribe(&self, destination: &Destination) -> bool {
        self.interest(Event::Subscribe(destination)) != Interest::None
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.interceptors.iter().map(|one| one.name())).finish()
    }
}
