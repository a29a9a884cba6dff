//! Frames that the chain has an interest in.

use std::sync::Arc;
use std::task::{self, Poll};

use futures_util::stream::{FuturesUnordered, Stream};

use super::Connection;
use super::count::outcome_of;
use crate::broker::{Link, Transaction};
use crate::chain::{Context, Event, Interest, Subscription};
use crate::message::{Destination, Handled, Message, Outcome, Refusal, SharedSource};
use crate::server::chained::{Call, Chained, Sent};
use crate::server::operation::{self, Completed, Operation, Published};
use crate::session::{Application, Done, Input, Request, SubscriptionKey, Ticket};
use crate::traces::Span;

/// Calls under way that later frames do not wait for. Nothing in most clients, and so without memory of its own.
#[derive(Default)]
pub(super) struct Calls(Option<Box<FuturesUnordered<Call>>>);

impl Calls {
    fn push(&mut self, call: Call) {
        self.0.get_or_insert_default().push(call);
    }

    fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |calls| calls.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The next one that has ended.
    pub(super) fn poll_next(
        &mut self,
        context: &mut task::Context<'_>,
    ) -> Poll<(Ticket, Option<Published>, Result<Done, Refusal>)> {
        let Some(calls) = &mut self.0 else { return Poll::Pending };
        match std::pin::Pin::new(&mut **calls).poll_next(context) {
            Poll::Ready(Some(ended)) => Poll::Ready(ended),
            Poll::Ready(None) => {
                self.0 = None;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Carries all of them through.
    pub(super) async fn finish(mut self) {
        while self.0.is_some() {
            let next = std::future::poll_fn(|context| match self.poll_next(context) {
                Poll::Pending if self.0.is_none() => Poll::Ready(()),
                polled => polled.map(|_| ()),
            });
            next.await;
        }
    }
}

impl Connection {
    /// Takes what a reload has changed for all: the chain, and the rules that all it holds is put to. What is under way
    /// goes on with the chain that it began with.
    pub(super) fn adopt(&mut self) {
        let live = self.services.live();
        if !Arc::ptr_eq(&live, &self.adopted) {
            let before = std::mem::replace(&mut self.adopted, Arc::clone(&live));
            if before.rules != live.rules {
                self.input(Input::Rules(Arc::clone(&live.rules)));
            }
        }
        self.session.set_handlers(Arc::clone(&live.handlers));
        match (&mut self.chained, self.session.principal()) {
            (Some(chained), _) => chained.chain = live.chain.clone(),
            (None, Some(principal)) if !live.chain.is_empty() => {
                let (session, peer) = (self.client.id.clone(), self.client.peer);
                let context = Context { session, principal: principal.clone(), peer, tenant: self.tenant.clone() };
                self.chained = Some(Chained::late(live.chain.clone(), context));
            }
            (None, _) => {}
        }
    }

    /// The chain, if it has an interest in such an event.
    pub(super) fn chained(&self, event: Event<'_>) -> Option<(&Chained, Interest)> {
        let chained = self.chained.as_ref()?;
        let interest = chained.interest(event);
        (interest != Interest::None).then_some((chained, interest))
    }

    /// Begins the call of the chain for a SEND. Gives the message back if the chain has no interest in it.
    pub(super) fn call(
        &mut self,
        link: &Arc<dyn Link>,
        ticket: Ticket,
        message: Message,
        trace: Span,
    ) -> Option<(Message, Span)> {
        let Some((chained, interest)) = self.chained(Event::Send(&message.destination)) else {
            return Some((message, trace));
        };
        let (chained, link) = (chained.clone(), Arc::clone(link));
        if interest == Interest::Concurrent && self.calls.len() < chained.chain.max_concurrent() {
            let since = self.handled;
            self.calls.push(Box::pin(async move {
                match chained.send(&link, message, trace).await {
                    Ok(mut sent) => {
                        let published = sent.published(since);
                        (ticket, Some(published), sent.settle().await)
                    }
                    Err(refusal) => (ticket, None, Err(refusal)),
                }
            }));
        } else {
            self.operation =
                Some(Box::pin(async move { Completed::Sent(ticket, chained.send(&link, message, trace).await) }));
        }
        None
    }

    /// What came of a SEND has been published: later frames need not wait for its confirmation.
    pub(super) fn on_sent(&mut self, ticket: Ticket, sent: Result<Sent, Refusal>) {
        match sent {
            Ok(mut sent) => {
                let published = sent.published(self.handled);
                self.calls.push(Box::pin(async move { (ticket, Some(published), sent.settle().await) }));
            }
            Err(refusal) => self.input(Input::Done(ticket, Err(refusal))),
        }
    }

    /// All that came of a frame has come to its end.
    pub(super) fn on_answered(&mut self, ticket: Ticket, published: Option<Published>, result: Result<Done, Refusal>) {
        let outcome = match &result {
            Ok(Done::Handled(handled)) => outcome_of(&Ok(handled.outcome.clone())),
            Ok(_) => outcome_of(&Ok(Outcome::DONE)),
            Err(refusal) => outcome_of(&Err(refusal.clone())),
        };
        self.input(Input::Done(ticket, result));
        self.count_published(published, outcome);
    }

    /// The commit of a transaction that the chain has an interest in.
    pub(super) fn chained_commit(
        &self,
        link: &Arc<dyn Link>,
        ticket: Ticket,
        published: Published,
        transaction: Transaction,
    ) -> Result<Operation, (Published, Transaction)> {
        let Some(chained) = &self.chained else { return Err((published, transaction)) };
        let observers = self.observers(&transaction);
        let is_wanted = observers.iter().any(Option::is_some) || chained.is_interested(&transaction);
        match is_wanted.then(|| chained.clone()) {
            Some(chained) => {
                let link = Arc::clone(link);
                Ok(Box::pin(async move {
                    Completed::Done(ticket, Some(published), chained.commit(&link, transaction, observers).await)
                }))
            }
            None => Err((published, transaction)),
        }
    }

    /// Opens a subscription: once the chain has let it pass, and with the answer of a handler before all else, if it
    /// begins with one.
    pub(super) fn subscribe(&mut self, link: Arc<dyn Link>, ticket: Ticket, key: SubscriptionKey, request: Request) {
        let (request, snapshot) = match request {
            Request::Application(asked) => return self.ask(ticket, key, asked),
            Request::Snapshot(request, asked) => (*request, Some(question(key, asked))),
            request => (request, None),
        };
        let admission = self.chained.as_ref().and_then(|chained| chained.admission(key, &request));
        let reply = self.session.temporary_queue(key);
        self.observed.extend(self.chained.as_ref().and_then(|chained| chained.observed(key, &request, reply)));
        let request = self.apart(key, request);
        let opening = self.open(link, ticket, key, request, snapshot.is_some());
        let snapshot = snapshot.and_then(|question| Some((self.chained.clone()?, question)));
        self.operation = match (&admission, &snapshot) {
            (None, None) => opening,
            _ => opening.map(|opening| begin(ticket, admission, opening, snapshot)),
        };
    }

    fn open(
        &self,
        link: Arc<dyn Link>,
        ticket: Ticket,
        key: SubscriptionKey,
        request: Request,
        is_held: bool,
    ) -> Option<Operation> {
        match request {
            Request::Shared(source @ SharedSource::User { .. }, _) if self.is_shown(key) => {
                let (capacity, metrics) = (self.live.outbox.max_bytes, Arc::clone(&self.services.metrics));
                Some(operation::tap(link, ticket, key, source, capacity, metrics))
            }
            Request::Shared(source, reader) => {
                let (hub, outbox) = (self.services.hub.clone(), Arc::clone(&self.outbox));
                Some(operation::join(hub, link, outbox, (ticket, key), source, reader, is_held))
            }
            Request::Dedicated(request) => Some(operation::subscribe(link, ticket, key, request)),
            Request::Application(_) | Request::Snapshot(..) => None, // neither stands within a snapshot
        }
    }

    /// Has a handler answer a SUBSCRIBE to `/app`.
    fn ask(&mut self, ticket: Ticket, key: SubscriptionKey, asked: Application) {
        let Some(chained) = self.chained.clone() else { return };
        let subscription = question(key, asked);
        self.operation = Some(Box::pin(async move {
            Completed::Done(ticket, None, chained.answer(&subscription).await.map(Done::Handled))
        }));
    }

    /// A subscription that begins with the answer of a handler has been opened, and has been answered.
    pub(super) fn on_snapshot(&mut self, opened: Completed, handled: Result<Handled, Refusal>) {
        match opened {
            Completed::Joined(ticket, key, Ok(membership)) => {
                self.input(Input::Done(ticket, handled.map(Done::Handled)));
                if !self.session.is_ended() {
                    membership.release(); // no MESSAGE follows an ERROR
                    self.keep_membership(key, membership);
                }
            }
            Completed::Opened(ticket, key, Ok(subscription)) => {
                let warning = subscription.warning().map(str::to_owned);
                let warned = handled.map(|mut handled| {
                    handled.outcome.warning = warning;
                    Done::Handled(handled)
                });
                self.input(Input::Done(ticket, warned));
                self.consumers.add(key, subscription);
            }
            other => self.on_completed(other),
        }
    }
}

/// Opens a subscription after its admission and before its snapshot.
fn begin(
    ticket: Ticket,
    admission: Option<(Chained, Subscription)>,
    opening: Operation,
    snapshot: Option<(Chained, Subscription)>,
) -> Operation {
    Box::pin(async move {
        let ending = match admission {
            None => None,
            Some((chained, subscription)) => match chained.admit(&subscription).await {
                Ok(ending) => Some(ending),
                Err(refusal) => return Completed::Done(ticket, None, Err(refusal)),
            },
        };
        let opened = opening.await;
        if let Some(ending) = ending {
            ending.tell(opened.opened().as_ref());
        }
        match (opened, snapshot) {
            (opened @ (Completed::Joined(_, _, Ok(_)) | Completed::Opened(_, _, Ok(_))), Some((chained, question))) => {
                Completed::Snapshot(Box::new(opened), chained.answer(&question).await)
            }
            (completed, _) => completed,
        }
    })
}

/// A SUBSCRIBE to `/app` as the chain sees it.
fn question(key: SubscriptionKey, asked: Application) -> Subscription {
    let destination = Destination::Application(asked.name);
    Subscription { number: key.0, destination, headers: asked.headers }
}
