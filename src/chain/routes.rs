//! The interceptor that answers `/app`: routes, of which the first that matches counts.

use async_trait::async_trait;

use super::handler::Variables;
use super::route::application;
use super::{Answer, Context, Event, Interceptor, Interest, Rejection, Route, Subscription, Verdict};
use crate::message::{Destination, Message};
use crate::metrics::Metrics;

/// Routes, of which the first that matches counts.
pub struct Routes(Vec<Route>);

impl Routes {
    /// These routes, in this order.
    pub fn new(routes: Vec<Route>) -> Self {
        Routes(routes)
    }

    /// The same, whose calls are counted.
    #[must_use]
    pub fn counted_by(self, metrics: &Metrics) -> Self {
        Routes(self.0.into_iter().map(|route| route.counted_by(metrics)).collect())
    }

    /// The first route that leaves nothing to a later one, which is given by its place.
    pub(super) fn covering(routes: &[Route], place: usize) -> Option<usize> {
        let later = &routes.get(place)?.pattern;
        routes[..place].iter().position(|earlier| earlier.pattern.covers(later))
    }

    fn find(&self, destination: &Destination) -> Option<(&Route, Variables)> {
        let name = application(destination)?;
        self.0.iter().find_map(|route| Some((route, route.pattern.matches(name)?)))
    }
}

#[async_trait]
impl Interceptor for Routes {
    fn name(&self) -> &'static str {
        "routes"
    }

    fn interest(&self, event: Event<'_>) -> Interest {
        let (Event::Send(destination) | Event::Subscribe(destination)) = event else { return Interest::None };
        let route = application(destination).and_then(|name| self.0.iter().find(|route| route.pattern.is_for(name)));
        route.map_or(Interest::None, Route::interest)
    }

    async fn send(&self, message: Message, context: &Context) -> Result<Verdict, Rejection> {
        match self.find(&message.destination) {
            Some((route, variables)) => route.send(message, variables, context).await.map(Verdict::Answer),
            None => Ok(Verdict::Continue(message)),
        }
    }

    async fn subscribe(&self, subscription: &Subscription, context: &Context) -> Result<Option<Answer>, Rejection> {
        match self.find(&subscription.destination) {
            Some((route, variables)) => route.subscribe(subscription, variables, context).await.map(Some),
            None => Ok(None),
        }
    }
}
