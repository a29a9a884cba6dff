//! What a client's task waits for before it goes on with the next action: one thing at a time.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Instant;

use super::Services;
use super::chained::{Chained, Sent};
use super::tap::Tap;
use crate::broker::{BrokerError, Confirmation, Identity, Link, SharedSource, Subscribe, Subscription, Transaction};
use crate::chain::Context;
use crate::hub::outbox::Outbox;
use crate::hub::{Hub, Membership};
use crate::message::{Credentials, DurableName, Handled, Message, Outcome, Principal, Refusal, Text};
use crate::metrics::Metrics;
use crate::session::{Done, SubscriptionKey, Ticket};
use crate::stomp::Reader;
use crate::traces::{Span, Stage};

/// Something under way.
pub(super) type Operation = Pin<Box<dyn Future<Output = Completed> + Send>>;

/// Who has been let in, with a link, and with the chain if there is one.
pub(super) type Admitted = (Principal, Arc<dyn Link>, Option<Chained>);

/// How an operation ended.
pub(super) enum Completed {
    Authenticated(Ticket, Result<Admitted, Refusal>),
    Joined(Ticket, SubscriptionKey, Result<Membership, BrokerError>),
    Opened(Ticket, SubscriptionKey, Result<Box<dyn Subscription>, BrokerError>),
    /// The subscription, and how its deliveries are named.
    Cancelled(Ticket, SubscriptionKey, Box<dyn Subscription>, Option<u64>, Result<(), BrokerError>),
    Published(Ticket, Published, Result<Confirmation, BrokerError>),
    Deleted(Ticket, Result<(), BrokerError>),
    /// A SEND went through the chain, and what came of it has been published.
    Sent(Ticket, Result<Sent, Refusal>),
    /// A subscription was opened, and this is what it begins with.
    Snapshot(Box<Completed>, Result<Handled, Refusal>),
    /// It is all done.
    Done(Ticket, Option<Published>, Result<Done, Refusal>),
    /// There is nothing more to do about it.
    Nothing,
}

impl Completed {
    /// How the opening of a subscription ended.
    ///
    /// # Errors
    /// What the broker says.
    pub(super) fn opened(&self) -> Result<Outcome, Refusal> {
        match self {
            Completed::Joined(_, _, Err(error)) | Completed::Opened(_, _, Err(error)) => Err(error.clone().into()),
            Completed::Opened(_, _, Ok(subscription)) => {
                Ok(Outcome { warning: subscription.warning().map(str::to_owned), ..Outcome::DONE })
            }
            _ => Ok(Outcome::DONE),
        }
    }
}

pub(super) fn authenticate(
    services: Arc<Services>,
    session: Text,
    peer: SocketAddr,
    ticket: Ticket,
    credentials: Credentials,
) -> Operation {
    Box::pin(async move {
        let result = async {
            let live = services.live();
            let principal = live.authenticator.authenticate(&credentials, &session).await?;
            let Credentials { host: tenant, passcode, .. } = credentials;
            let identity = Identity { principal: principal.clone(), tenant: tenant.clone(), passcode };
            // The broker first: it may be the one that knows the passcode.
            let link = services.broker.link(&identity).await?;
            let chained = Chained::connect(&live.chain, Context { session, principal, peer, tenant }).await?;
            Ok((chained.context.principal.clone(), link, chained.into_used()))
        };
        Completed::Authenticated(ticket, result.await)
    })
}

pub(super) fn join(
    hub: Hub,
    link: Arc<dyn Link>,
    outbox: Arc<Outbox>,
    (ticket, key): (Ticket, SubscriptionKey),
    source: SharedSource,
    reader: Reader,
    is_held: bool,
) -> Operation {
    Box::pin(async move {
        let joined = if is_held {
            hub.subscribe_held(&link, source, reader, outbox).await
        } else {
            hub.subscribe(&link, source, reader, outbox).await
        };
        Completed::Joined(ticket, key, joined)
    })
}

pub(super) fn tap(
    link: Arc<dyn Link>,
    ticket: Ticket,
    key: SubscriptionKey,
    source: SharedSource,
    capacity: usize,
    metrics: Arc<Metrics>,
) -> Operation {
    Box::pin(async move { Completed::Opened(ticket, key, Tap::open(&link, source, capacity, metrics).await) })
}

pub(super) fn subscribe(link: Arc<dyn Link>, ticket: Ticket, key: SubscriptionKey, request: Subscribe) -> Operation {
    Box::pin(async move { Completed::Opened(ticket, key, link.subscribe(request).await) })
}

pub(super) fn cancel(
    mut subscription: Box<dyn Subscription>,
    deliveries: Option<u64>,
    ticket: Ticket,
    key: SubscriptionKey,
    delete: bool,
) -> Operation {
    Box::pin(async move {
        let result = subscription.cancel(delete).await;
        Completed::Cancelled(ticket, key, subscription, deliveries, result)
    })
}

pub(super) fn publish(
    link: Arc<dyn Link>,
    ticket: Ticket,
    mut published: Published,
    handing_over: Span,
    message: Message,
) -> Operation {
    Box::pin(async move {
        let confirmation = link.reserve().await.map(|permit| link.publish(permit, message));
        published.trace.join(handing_over.then(Stage::Confirm));
        Completed::Published(ticket, published, confirmation)
    })
}

pub(super) fn commit(link: Arc<dyn Link>, ticket: Ticket, published: Published, transaction: Transaction) -> Operation {
    Box::pin(async move { Completed::Published(ticket, published, link.commit(transaction).await) })
}

pub(super) fn delete_durable(link: Arc<dyn Link>, ticket: Ticket, name: DurableName) -> Operation {
    Box::pin(async move { Completed::Deleted(ticket, link.delete_durable(&name).await) })
}

/// Messages that wait for the broker's answer, and since when.
pub(super) struct Published {
    pub(super) since: Instant,
    pub(super) messages: usize,
    pub(super) trace: Span,
}

/// A confirmation that is on its way, and whose it is.
pub(super) struct Pending {
    pub(super) ticket: Ticket,
    /// Absent where nothing is published, but settled.
    pub(super) published: Option<Published>,
    pub(super) confirmation: Confirmation,
}

impl Future for Pending {
    type Output = (Ticket, Option<Published>, Result<Outcome, Refusal>);

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.confirmation).poll(context);
        polled.map(|result| (self.ticket, self.published.take(), result.map_err(Refusal::from)))
    }
}
