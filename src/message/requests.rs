//! What a session asks of a broker.

use super::{DeliveryId, Destination, DurableName, Headers, Message, Outcome, Pattern, Settlement, Text};

/// Who a client says it is, in CONNECT.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The header `login`.
    pub login: Option<Text>,
    /// The header `passcode`. Never logged.
    pub passcode: Option<Text>,
    /// The header `host`: the virtual host.
    pub host: Option<Text>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("login", &self.login).field("host", &self.host).finish_non_exhaustive()
    }
}

/// What a broker can do beyond queues and topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// `/exchange` and `/amq/queue` exist.
    pub exchanges: bool,
    /// Queue and consumer arguments (`x-…` on SUBSCRIBE and SEND) mean something.
    pub arguments: bool,
    /// `retain:true` is kept.
    pub retain: bool,
    /// Durable subscriptions exist.
    pub durable: bool,
    /// A transaction is published as a whole or not at all.
    pub atomic_transactions: bool,
    /// The broker knows the session's user, and vouches for a `user-id` that says so.
    pub user_id: bool,
    /// [`Outcome::routed`](super::Outcome::routed) is known; without this it is always true.
    pub reports_unrouted: bool,
    /// A queue keeps what is sent to it while nobody reads it.
    pub keeps_queues: bool,
}

/// What a shared subscription reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SharedSource {
    /// `/topic/…`, a name or a pattern.
    Topic(Pattern),
    /// What is sent to one user under a name such as `queue/orders`.
    User {
        /// The user's name.
        user: Text,
        /// `queue/X` or `topic/X`; may be a pattern.
        name: Pattern,
    },
    /// `/exchange/E/K`: whatever its binding brings.
    Exchange {
        /// Name of the exchange.
        exchange: Text,
        /// Binding key.
        key: Text,
    },
}

/// A request for a dedicated subscription.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// What to read.
    pub source: Source,
    /// At most this many deliveries are unsettled at a time; at least 1.
    pub prefetch: u16,
    /// Queue and consumer arguments: headers of the SUBSCRIBE, see [`Argument`](super::Argument).
    pub arguments: Headers,
}

/// What a dedicated subscription reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `/queue/N`, made on first use.
    Queue(Text),
    /// `/amq/queue/N`.
    ExistingQueue(Text),
    /// `/exchange/E/K`.
    Exchange {
        /// Name of the exchange.
        exchange: Text,
        /// Binding key.
        key: Text,
    },
    /// `/topic/…` with acknowledgements: a queue of its own for as long as the subscription lasts.
    Topic(Pattern),
    /// A topic or an exchange by way of a queue that has a name (`x-queue-name`) and that all who name it share.
    Named {
        /// Name of the queue, which outlives its readers.
        queue: Text,
        /// Unless it goes with the last of them.
        auto_delete: bool,
        /// [`Source::Topic`] or [`Source::Exchange`]: what the queue is bound to.
        of: Box<Source>,
    },
    /// `/topic/…` whose queue outlives the session.
    Durable(DurableName, Pattern),
    /// A new private reply address, see the subscription's `reply_address`.
    Reply,
}

/// What COMMIT hands over.
#[derive(Debug, Default)]
pub struct Transaction {
    /// To publish, in order.
    pub messages: Vec<Message>,
    /// To settle after that, in order.
    pub settlements: Vec<(Vec<DeliveryId>, Settlement)>,
}

/// What is beside the broker to take frames: the interceptor chain.
pub trait Handlers: std::fmt::Debug + Send + Sync {
    /// Whether a SEND there comes to somebody, as far as can be said before it is tried.
    fn can_send(&self, destination: &Destination) -> bool;

    /// Whether a SUBSCRIBE there comes to somebody, as far as can be said before it is tried.
    fn can_subscribe(&self, destination: &Destination) -> bool;
}

/// What came of a frame that the chain answered.
#[derive(Debug)]
pub struct Handled {
    /// How the broker took what was published.
    pub outcome: Outcome,
    /// For the session itself, in order.
    pub replies: Vec<Message>,
    /// The handler failed: the header `status` of the RECEIPT.
    pub status: Option<u16>,
}
