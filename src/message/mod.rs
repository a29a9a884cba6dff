//! The words every layer shares: messages, destinations, deliveries, principals and refusals.
//!
//! Nothing here knows a wire format, a socket or a clock.

mod arguments;
mod destination;
mod headers;
mod pattern;
mod principal;
mod refusal;
mod requests;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use arguments::{Argument, Form, Offset, Role};
pub(crate) use destination::is_reply_address;
pub use destination::{Destination, Separators, Spelling, Usage};
pub use headers::{Headers, Text, detached};
pub(crate) use pattern::is_open_to_wildcards;
pub use pattern::{Pattern, Segment, decode};
pub use principal::{Claims, Principal};
pub use refusal::{CloseCode, Refusal};
pub use requests::{Capabilities, Credentials, Handled, Handlers, SharedSource, Source, Subscribe, Transaction};
pub use trace::{TraceParent, trace_context};

/// One message on its way from a sender to its readers.
#[derive(Clone, Debug)]
pub struct Message {
    /// The concrete place it was sent to; never a pattern.
    pub destination: Destination,
    /// The headers that travel with it, each name once, in the order the sender wrote them.
    pub headers: Headers,
    /// The payload, as it came.
    pub body: Bytes,
    /// What the sender asked of the broker.
    pub options: PublishOptions,
}

/// What a SEND asks of the broker, parsed from its headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// Survive a restart of the broker, where the broker can.
    pub persistent: bool,
    /// Keep as the last value of its topic; with an empty body, forget that value.
    pub retain: bool,
    /// Higher values leave a queue first. `None` is the lowest.
    pub priority: Option<u8>,
    /// How long it may wait in a queue.
    pub expiration: Option<Duration>,
    /// An explicit MQTT quality of service, 0 to 2.
    pub qos: Option<u8>,
    /// Arguments with which its queue is declared on first use, where the broker has such; rare.
    pub arguments: Option<Box<Headers>>,
}

impl Message {
    /// Copies everything that is a slice of a larger buffer into memory of its own, so that keeping
    /// this message does not keep the read buffer that it came in.
    pub fn detach(&mut self) {
        self.body = Bytes::copy_from_slice(&self.body);
        self.headers.detach();
        self.destination.detach();
        if let Some(arguments) = &mut self.options.arguments {
            arguments.detach();
        }
    }

    /// Bytes that this message takes once it is detached, but for a fixed part: what it counts against a limit in bytes.
    ///
    /// That is its body and destination, names and values of its headers, and the two [`Text`]s of each, which are more
    /// than the text itself where headers are many and short.
    pub fn size(&self) -> usize {
        let entries = self.headers.len() * 2 * size_of::<Text>();
        self.body.len() + self.destination.size() + self.headers.size() + entries
    }
}

/// One message on its way to one subscription, as a broker hands it over.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message; shared by all who read it.
    pub message: Arc<Message>,
    /// What settles it. `None` when there is nothing to settle.
    pub id: Option<DeliveryId>,
    /// It was handed out before, to this or another reader.
    pub redelivered: bool,
    /// Messages before this one may have been missed.
    pub gap: bool,
}

/// Names one unsettled delivery of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId {
    /// The consumer that it was delivered to, unique within the broker.
    pub consumer: u64,
    /// Its place in that consumer's order; later deliveries have larger tags.
    pub tag: u64,
}

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// Done with it.
    Accept,
    /// Back to its queue, marked as redelivered.
    Requeue,
    /// Not to be delivered again: to the dead-letter destination, if there is one.
    Reject,
}

/// What the broker answered to a message, a settlement or a transaction that it accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// At least one queue or subscriber was there for it.
    pub routed: bool,
    /// The deliveries named were still there to settle.
    pub settled: bool,
    /// Something the client should know, though nothing failed.
    pub warning: Option<String>,
}

impl Outcome {
    /// All as asked.
    pub const DONE: Outcome = Outcome { routed: true, settled: true, warning: None };
    /// Taken, but nobody was there for it.
    pub const UNROUTED: Outcome = Outcome { routed: false, settled: true, warning: None };
}

/// The identity of a durable subscription: nobody else's subscription has the same three parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DurableName {
    /// The principal's name.
    pub user: Text,
    /// The header `client-id`, or empty.
    pub client: Text,
    /// The header `durable-subscription-name`, or the subscription's `id`.
    pub name: Text,
}
