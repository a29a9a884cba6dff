//! What every backend does: links to a broker, publishing, subscribing, settling.
//!
//! A **broker** hands out **links**; a link is shared by all sessions that may share one. Subscribing comes in two
//! kinds. A **shared** subscription is pushed to a [`Subscriber`] as it arrives, wants no acknowledgement, and stands
//! for any number of local readers. A **dedicated** one belongs to one session, is pulled with
//! [`Subscription::poll_next`] only while there is room for more, and its deliveries are settled one way or another.
//!
//! A backend is one file (or folder) in here: its settings, `connect`, these traits, and `tests/brokers.rs` as the judge.
//! It can be written step by step, each of which has cases there that pass then:
//!
//! | step | cases |
//! |---|---|
//! | `connect`, [`Broker`], [`Link::capabilities`] with everything false, [`BrokerError::Unsupported`] from all else | `capabilities` |
//! | [`Link::try_reserve`], [`Link::reserve`], [`Link::publish`], [`Link::share`] | `topics` |
//! | [`Link::subscribe`] to a queue, [`Link::settle`] | `queues`, `competition` |
//! | [`Link::commit`] | `transactions` |
//! | the other kinds of [`Source`], and what [`Capabilities`] can name | `replies`, `retained`, `durable` |
//!
//! `connect` is called in the runtime of the gateway, all else on the threads that serve clients (`server.workers`), each of
//! which is a runtime of its own. Nothing may block them. A task that is spawned there, or a socket that is opened, stays
//! there for good: what serves everybody is better begun in `connect`.

pub mod amqp;
#[cfg(any(feature = "amqp", feature = "mqtt"))]
mod backoff;
pub(crate) mod base64;
pub mod memory;
pub mod mqtt;
mod settings;
mod tenant;
mod topics;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

pub use settings::{Kind, Settings};

pub use crate::message::{Capabilities, SharedSource, Source, Subscribe, Transaction};
use crate::message::{Delivery, DeliveryId, DurableName, Message, Outcome, Principal, Refusal, Settlement, Text};
use crate::metrics::Figures;

/// The broker that the settings ask for. A login that it has checked itself need not be checked again for the time of
/// `verified_for` (`auth.cache`).
///
/// # Errors
/// Settings that it cannot work with, or a broker that this version does not have; the text names the setting.
pub fn connect(
    settings: &Settings,
    verified_for: Duration,
) -> Result<Arc<dyn Broker>, Box<dyn std::error::Error + Send + Sync>> {
    settings.check()?;
    #[cfg(not(feature = "amqp"))]
    let _ = verified_for; // nobody checks logins
    match settings.kind {
        Kind::Memory => Ok(memory::connect(&settings.memory)?),
        #[cfg(feature = "amqp")]
        Kind::Amqp => Ok(amqp::connect(&amqp::Settings { verified_for, ..settings.amqp.clone() })?),
        #[cfg(feature = "mqtt")]
        Kind::Mqtt => Ok(mqtt::connect(&settings.mqtt)?),
        #[cfg(not(all(feature = "amqp", feature = "mqtt")))]
        _ => Err(BrokerError::Unavailable.into()), // the check has said so with more words
    }
}

/// A backend: where links come from.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// The link for this identity; the same one for all who may share it.
    async fn link(&self, identity: &Identity) -> Result<Arc<dyn Link>, BrokerError>;

    /// The gateway's own link, on nobody's behalf, to the virtual host that such a `host` in CONNECT would mean.
    async fn own_link(&self, tenant: Option<Text>) -> Result<Arc<dyn Link>, BrokerError> {
        let principal = Principal::new(Text::from_static("stompgate"));
        self.link(&Identity { principal, tenant, passcode: None }).await
    }

    /// Whether the broker can be used, and every change of that.
    fn state(&self) -> watch::Receiver<LinkState>;

    /// How often a connection to the broker was made again.
    fn reconnects(&self) -> u64 {
        0
    }

    /// Tells what this kind of broker alone can tell, under names that begin with `stompgate_` and its own.
    fn report(&self, _figures: &mut Figures) {}

    /// Ends all links. Nothing is delivered afterwards, and what is published fails.
    async fn close(&self);
}

/// On whose behalf a link is opened.
#[derive(Clone)]
pub struct Identity {
    /// Who connects.
    pub principal: Principal,
    /// The virtual host that CONNECT asked for, if any.
    pub tenant: Option<Text>,
    /// The passcode in CONNECT. Only a broker that checks logins itself looks at it; it is never logged.
    pub passcode: Option<Text>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Identity");
        shown.field("principal", &self.principal).field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// Whether a broker can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Connected.
    Up,
    /// Not connected, and trying to be.
    Recovering,
    /// Connected, but the broker takes no messages at the moment.
    Blocked,
}

impl LinkState {
    /// Every state.
    pub const ALL: [LinkState; 3] = [LinkState::Up, LinkState::Recovering, LinkState::Blocked];

    /// Its name in metrics and answers to operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            LinkState::Up => "up",
            LinkState::Recovering => "recovering",
            LinkState::Blocked => "blocked",
        }
    }
}

/// An authenticated way to a broker. All methods may be called by many sessions at once.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    /// What the broker behind it can do. What is missing is refused by name; see [`Capabilities`].
    fn capabilities(&self) -> Capabilities;

    /// A place for one more unconfirmed message if there is one now.
    fn try_reserve(&self) -> Option<Permit>;

    /// A place for one more unconfirmed message, when there is one: the back-pressure of publishing.
    async fn reserve(&self) -> Result<Permit, BrokerError>;

    /// Publishes. Messages published one after the other keep their order; hundreds may wait for their confirmation.
    fn publish(&self, permit: Permit, message: Message) -> Confirmation;

    /// Opens a shared subscription; it lasts until the guard is dropped.
    ///
    /// When this returns, nothing that is published from now on is missed while the link holds.
    /// Retained messages are not part of it, see [`Shared::replay`].
    async fn share(
        &self,
        source: SharedSource,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Box<dyn Shared>, BrokerError>;

    /// Opens a dedicated subscription. When this returns, nothing that is published from now on is missed.
    async fn subscribe(&self, request: Subscribe) -> Result<Box<dyn Subscription>, BrokerError>;

    /// Settles deliveries of this link's dedicated subscriptions, given in the order in which they came.
    /// It counts as of the call: a subscription that is dropped before the confirmation comes returns none of them.
    /// Those that are settled already or went with a lost link are skipped, and [`Outcome::settled`] is false then.
    fn settle(&self, deliveries: &[DeliveryId], settlement: Settlement) -> Confirmation;

    /// Publishes all messages and, once they are confirmed, settles: the COMMIT of a transaction.
    /// Whether that is atomic depends on the broker.
    async fn commit(&self, transaction: Transaction) -> Result<Confirmation, BrokerError>;

    /// Deletes a durable subscription that nobody reads. `Err(NotFound)` if there is none of that name.
    async fn delete_durable(&self, name: &DurableName) -> Result<(), BrokerError>;
}

/// A place in the number of unconfirmed messages that a link allows; freed when it is dropped.
#[derive(Debug, Default)]
pub struct Permit(#[expect(dead_code, reason = "held for its Drop")] Option<OwnedSemaphorePermit>);

impl Permit {
    /// For a broker that confirms at once and so needs no bound.
    pub const UNBOUNDED: Permit = Permit(None);
}

impl From<OwnedSemaphorePermit> for Permit {
    fn from(permit: OwnedSemaphorePermit) -> Self {
        Permit(Some(permit))
    }
}

/// Whoever reads a shared subscription. Called from the broker's task, or from that of a publisher: must not block, and
/// may drop the guards of shared subscriptions, but call nothing else of the broker's.
pub trait Subscriber: Send + Sync {
    /// A message arrived.
    fn deliver(&self, message: &Arc<Message>);

    /// A retained message, for the one reader that asked with [`Shared::replay`].
    fn replay(&self, reader: u64, message: &Arc<Message>);

    /// All retained messages have been given to that reader; from now on live ones count for it.
    fn replayed(&self, reader: u64);

    /// The link broke and holds again: messages in between may be missing.
    fn restored(&self);

    /// Nothing will come any more.
    fn ended(&self, reason: &BrokerError);
}

/// Keeps a shared subscription open; dropping it closes it.
#[async_trait]
pub trait Shared: Send + Sync {
    /// Calls [`Subscriber::replay`] with each retained message that the subscription matches, then, even if there is
    /// none, [`Subscriber::replayed`]. No retained message changes in between: what replaces one is delivered after it.
    async fn replay(&self, reader: u64) -> Result<(), BrokerError>;
}

/// A dedicated subscription. Dropping it returns every unsettled delivery to where it came from.
///
/// What [`Link::settle`] was called for before the drop is settled, even if its confirmation is still to come or nobody
/// waits for it: sessions settle, and forget a cancelled subscription in the same breath.
#[async_trait]
pub trait Subscription: Send {
    /// The next event; the waker is called when there may be one.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Event>;

    /// Stops deliveries. What was delivered can still be settled until this is dropped.
    /// `delete` also removes the durable queue behind it.
    async fn cancel(&mut self, delete: bool) -> Result<(), BrokerError>;

    /// For [`Source::Reply`]: what others write after `/reply-queue/`.
    fn reply_address(&self) -> Option<&Text> {
        None
    }

    /// What the client should know, though the subscription is open.
    fn warning(&self) -> Option<&str> {
        None
    }
}

/// What happens on a dedicated subscription.
#[derive(Debug)]
pub enum Event {
    /// A message.
    Delivery(Delivery),
    /// The link broke: deliveries that are not settled are void and come again.
    Interrupted,
    /// This delivery and those before it waited too long for their acknowledgement: they are settled no more, and come
    /// again.
    Returned(DeliveryId),
    /// The link holds again.
    Restored,
    /// Nothing will come any more.
    Ended(BrokerError),
}

/// The broker's answer, there or on its way.
#[derive(Debug)]
pub enum Confirmation {
    /// It is there.
    Ready(Result<Outcome, BrokerError>),
    /// It will come; a sender that is dropped means [`BrokerError::Unavailable`].
    Waiting(oneshot::Receiver<Result<Outcome, BrokerError>>),
}

impl Future for Confirmation {
    type Output = Result<Outcome, BrokerError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Confirmation::Ready(answer) => Poll::Ready(answer.clone()),
            Confirmation::Waiting(receiver) => {
                Poll::Ready(ready!(Pin::new(receiver).poll(context)).unwrap_or(Err(BrokerError::Unavailable)))
            }
        }
    }
}

/// Why a broker did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// This broker has no such thing. `why` says what there is instead.
    #[error("{what} not supported: {why}")]
    Unsupported {
        /// What was asked for, a noun: texts go on with "not supported" or a colon.
        what: String,
        /// What to do instead.
        why: String,
    },
    /// Something that must exist does not.
    #[error("{0} does not exist")]
    NotFound(String),
    /// Somebody else holds a durable subscription, or reads it.
    #[error("the durable subscription {0} is in use")]
    InUse(String),
    /// A message was refused; the text is for the sender.
    #[error("rejected: {0}")]
    Rejected(String),
    /// A setting bounds this, and it is full.
    #[error("{what}: the limit is {limit} (setting {setting})")]
    LimitExceeded {
        /// What there is too much of.
        what: String,
        /// How much there may be.
        limit: usize,
        /// The full key of the setting.
        setting: &'static str,
    },
    /// The broker does not know this login, or not with this passcode.
    #[error("the login {0} is not accepted")]
    NotAuthenticated(String),
    /// The broker does not let this user do it.
    #[error("{what}: access refused for {user}")]
    AccessRefused {
        /// The broker's user.
        user: String,
        /// What was asked for, a noun.
        what: String,
    },
    /// No virtual host of that name, or none for this user.
    #[error("no virtual host {0}")]
    UnknownTenant(String),
    /// A message that cannot be read breaks each connection that it comes on. The text names where it is.
    #[error("{0} has a message that cannot be read")]
    Poison(String),
    /// A delivery of the transaction was lost with its link.
    #[error("a delivery was lost with its link")]
    DeliveryLost,
    /// No connection to the broker.
    #[error("the broker cannot be reached")]
    Unavailable,
}

impl From<BrokerError> for Refusal {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Unsupported { what, why } => Refusal::unsupported(&what, &why),
            BrokerError::NotFound(what) => Refusal::not_found(&what),
            BrokerError::InUse(name) => Refusal::durable_in_use(&name),
            BrokerError::Rejected(why) => Refusal::rejected(&why),
            BrokerError::LimitExceeded { what, limit, setting } => Refusal::limit_exceeded(&what, limit, setting),
            BrokerError::NotAuthenticated(user) => Refusal::not_authenticated(&user),
            BrokerError::AccessRefused { user, what } => Refusal::access_refused(&user, &what),
            BrokerError::UnknownTenant(host) => Refusal::unknown_host(&host),
            BrokerError::Poison(what) => Refusal::poison(&what),
            BrokerError::DeliveryLost => Refusal::delivery_lost(),
            BrokerError::Unavailable => Refusal::broker_unavailable(),
        }
    }
}
