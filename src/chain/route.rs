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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{TargetSettings, handler};
    use crate::message::{Headers, Principal, Text};

    fn route() -> Route {
        Route::new("/app/x/{id}", Separators::Both).unwrap()
    }

    fn answering(answer: Result<Option<Answer>, Failure>) -> Route {
        route().handled_by(handler(move |_| std::future::ready(answer.clone())))
    }

    fn context() -> Context {
        let (session, principal) = (Text::from_static("s-1"), Principal::new("ada"));
        Context { session, principal, peer: ([127, 0, 0, 1], 1).into(), tenant: None }
    }

    fn destination() -> Destination {
        Destination::Application(Pattern::canonical("x/7"))
    }

    async fn send(route: &Route, headers: &[(&'static str, &'static str)]) -> Result<Vec<Message>, Rejection> {
        let variables = Variables(vec![("id".into(), "7".to_owned())]);
        let options = PublishOptions { persistent: true, ..PublishOptions::default() };
        let headers: Headers = headers.iter().copied().collect();
        let message = Message { destination: destination(), headers, body: Bytes::from_static(b"asked"), options };
        let replies = route.send(message, variables, &context()).await?;
        Ok(replies.into_iter().map(|(Reply::Publish(message) | Reply::Direct(message))| message).collect())
    }

    async fn subscribe(route: &Route) -> Result<Answer, Rejection> {
        let subscription = Subscription { number: 0, destination: destination(), headers: Headers::new() };
        route.subscribe(&subscription, Variables::default(), &context()).await
    }

    #[tokio::test]
    async fn a_result_has_its_own_headers_and_says_what_it_answers_and_for_whom() {
        let route = answering(Ok(Some(Answer::text("done"))));
        let [message] = &send(&route, &[("correlation-id", "8"), ("x", "y")]).await.unwrap()[..] else { panic!("one") };
        assert_eq!((message.destination.to_string().as_str(), &*message.body), ("/topic/x/7", &b"done"[..]));
        let mut headers: Vec<_> = message.headers.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        headers.sort();
        assert_eq!(headers, ["content-type:text/plain", "correlation-id:8", "stompgate-user:ada"]);
        assert!(message.options.persistent, "as the question was");
    }

    #[tokio::test]
    async fn without_a_handler_the_message_goes_on_as_it_was() {
        let [message] = &send(&route(), &[("x", "y")]).await.unwrap()[..] else { panic!("one") };
        assert_eq!((message.destination.to_string().as_str(), &*message.body), ("/topic/x/7", &b"asked"[..]));
        assert_eq!(message.headers.get("x").map(|value| &**value), Some("y"));
        assert_eq!(subscribe(&route()).await.err(), Some(status(405)));
    }

    #[tokio::test]
    async fn without_a_result_nothing_is_published_and_nobody_can_be_answered() {
        let route = answering(Ok(None));
        assert!(send(&route, &[]).await.unwrap().is_empty());
        assert_eq!(subscribe(&route).await.err(), Some(status(404)));
    }

    #[tokio::test]
    async fn a_failure_is_told_or_ends_the_session_as_the_route_says() {
        let failing = answering(Err(Failure::new(422, "no")));
        assert_eq!(send(&failing, &[]).await.err(), Some(Failure::new(422, "no").into()));
        for rejection in
            [send(&failing.clone().failing_hard(), &[]).await.err(), subscribe(&failing.failing_hard()).await.err()]
        {
            assert!(
                matches!(&rejection, Some(Rejection::Refused(refusal)) if refusal.code == "handler-failed"),
                "{rejection:?}"
            );
        }
    }

    #[tokio::test]
    async fn an_answer_to_a_subscriber_goes_nowhere_else() {
        let settings = TargetSettings { send_to: Some("/queue/{id}".to_owned()), ..TargetSettings::default() };
        let route = answering(Ok(Some(Answer::text("done")))).answering(&settings, Separators::Both).unwrap();
        assert_eq!(subscribe(&route).await, Ok(Answer::text("done")));
    }

    fn status(status: u16) -> Rejection {
        let reason = match status {
            404 => "there is nothing to answer with",
            _ => "the route has no handler that could answer a SUBSCRIBE",
        };
        Failure::new(status, reason).into()
    }
}
