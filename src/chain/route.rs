//! One route: which frames to `/app` it is for, and what is done with them.

use std::sync::Arc;

use bytes::Bytes;

use super::handler::Variables;
use super::step::Step;
use super::target::Target;
use super::template::{RoutePattern, Values};
use super::{
    Answer, Cause, Context, Failure, Handler, Interest, Rejection, Reply, Request, Subscription, TargetSettings,
};
use crate::message::{Destination, Message, Pattern, PublishOptions, Refusal, Separators};
use crate::metrics::{Meter, Metrics};

/// Which frames to `/app` a handler is for, and where its results go.
#[derive(Clone)]
pub struct Route {
    pub(super) pattern: RoutePattern,
    pub(super) steps: Arc<[Box<dyn Step>]>,
    handler: Option<Arc<dyn Handler>>,
    target: Target,
    is_concurrent: bool,
    /// A failure ends the session with an ERROR.
    fails_hard: bool,
    /// The pattern as it was written.
    name: Arc<str>,
    meter: Meter,
}

impl Route {
    /// A route for a destination such as `/app/orders/{id}`, whose result goes to `/topic/` and what stands after
    /// `/app/`, in this example `/topic/orders/{id}`. Without a handler the message itself is the result.
    ///
    /// # Errors
    /// A pattern that is none; the text says why.
    pub fn new(pattern: &str, separators: Separators) -> Result<Self, String> {
        let name = Arc::from(pattern);
        let pattern = RoutePattern::parse(pattern, separators)?;
        let (steps, target) = (Arc::default(), Target::default());
        Ok(Route {
            pattern,
            steps,
            handler: None,
            target,
            is_concurrent: false,
            fails_hard: false,
            name,
            meter: Meter::default(),
        })
    }

    /// Lets this handler answer.
    #[must_use]
    pub fn handled_by(self, handler: Arc<dyn Handler>) -> Self {
        Route { handler: Some(handler), ..self }
    }

    /// Sends results elsewhere.
    ///
    /// # Errors
    /// The setting that is wrong, and why.
    pub fn answering(self, target: &TargetSettings, separators: Separators) -> Result<Self, (&'static str, String)> {
        let target = Target::new(target, &self.pattern, separators)?;
        Ok(Route { target, ..self })
    }

    /// The frames that follow in a session do not wait for this route.
    #[must_use]
    pub fn concurrent(self) -> Self {
        Route { is_concurrent: true, ..self }
    }

    /// A failure ends the session with an ERROR, rather than be told in a MESSAGE.
    #[must_use]
    pub fn failing_hard(self) -> Self {
        Route { fails_hard: true, ..self }
    }

    /// Counts its calls here, by the pattern as it was written.
    #[must_use]
    pub(super) fn counted_by(self, metrics: &Metrics) -> Self {
        Route { meter: metrics.meter(&self.name), ..self }
    }

    pub(super) fn interest(&self) -> Interest {
        if self.is_concurrent { Interest::Concurrent } else { Interest::Ordered }
    }

    /// What comes of a SEND.
    pub(super) async fn send(
        &self,
        message: Message,
        variables: Variables,
        context: &Context,
    ) -> Result<Vec<Reply>, Rejection> {
        let call = self.meter.begin();
        let answered = self.answer_send(message, variables, context).await;
        call.end(answered.as_ref().err().map(|failure| failure.status));
        answered.map_err(|failure| self.rejection(failure))
    }

    async fn answer_send(
        &self,
        message: Message,
        variables: Variables,
        context: &Context,
    ) -> Result<Vec<Reply>, Failure> {
        let cause = Cause::new(&message.destination, &message.headers);
        let Message { destination, headers, body, options } = message;
        let user = headers.get("stompgate-user").cloned();
        let mut request = Request { is_send: true, destination, variables, headers, body };
        self.prepare(&mut request, context)?;
        let variables = request.variables.clone();
        let result = match &self.handler {
            None => Message { destination: request.destination, headers: request.headers, body: request.body, options },
            Some(handler) => {
                let Some(Answer { mut headers, body }) = handler.handle(request, context).await? else {
                    return Ok(Vec::new());
                };
                cause.tie(&mut headers);
                headers.set("stompgate-user", user.unwrap_or_else(|| context.principal.name.clone()));
                let options = PublishOptions { persistent: options.persistent, ..PublishOptions::default() };
                Message { destination: cause.destination().clone(), headers, body, options }
            }
        };
        self.target.replies(&result, &cause, &Values::new(&variables, context))
    }

    /// What answers a SUBSCRIBE. Wherever the results of a SEND go: this one is for the subscriber alone.
    pub(super) async fn subscribe(
        &self,
        subscription: &Subscription,
        variables: Variables,
        context: &Context,
    ) -> Result<Answer, Rejection> {
        let call = self.meter.begin();
        let answered = self.answer_subscribe(subscription, variables, context).await;
        call.end(answered.as_ref().err().map(|failure| failure.status));
        answered.map_err(|failure| self.rejection(failure))
    }

    async fn answer_subscribe(
        &self,
        subscription: &Subscription,
        variables: Variables,
        context: &Context,
    ) -> Result<Answer, Failure> {
        let Some(handler) = &self.handler else {
            return Err(Failure::new(405, "the route has no handler that could answer a SUBSCRIBE"));
        };
        let (destination, headers) = (subscription.destination.clone(), subscription.headers.clone());
        let mut request = Request { is_send: false, destination, variables, headers, body: Bytes::new() };
        self.prepare(&mut request, context)?;
        let answer = handler.handle(request, context).await?;
        answer.ok_or_else(|| Failure::new(404, "there is nothing to answer with"))
    }

    fn prepare(&self, request: &mut Request, context: &Context) -> Result<(), Failure> {
        let variables = request.variables.clone();
        self.steps.iter().try_for_each(|step| step.run(request, &Values::new(&variables, context)))
    }

    fn rejection(&self, failure: Failure) -> Rejection {
        if self.fails_hard { Refusal::handler_failed(failure.status, &failure.reason).into() } else { failure.into() }
    }
}

/// The name after `/app/`, if it is one.
pub(super) fn application(destination: &Destination) -> Option<&Pattern> {
    match destination {
        Destination::Application(name) => Some(name),
        _ => None,
    }
}
