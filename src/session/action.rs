//! What goes into a session and what comes out of it.

use std::sync::Arc;

use super::in_flight::Ticket;
use crate::access::Rules;
use crate::message::{
    Capabilities, CloseCode, Credentials, Delivery, DeliveryId, DurableName, Handled, Headers, Message, Outcome,
    Pattern, Principal, Refusal, Settlement, SharedSource, Subscribe, Text, Transaction,
};
use crate::stomp::{Frame, Reader};

/// What happens to a session.
#[derive(Debug)]
pub enum Input {
    /// The client sent a frame.
    Frame(Frame),
    /// A dedicated subscription has a message.
    Delivery(SubscriptionKey, Delivery),
    /// The link of a dedicated subscription broke: what was delivered and not settled is void.
    Interrupted(SubscriptionKey),
    /// This delivery of a dedicated subscription, and those before it, went back to the queue.
    Returned(SubscriptionKey, DeliveryId),
    /// A subscription ended by itself.
    SubscriptionEnded(Refusal),
    /// An action with this ticket came to its end.
    Done(Ticket, Result<Done, Refusal>),
    /// The driver met something for which the session must end: bytes that are no frame, a client that does not read.
    Refused(Refusal),
    /// [`Session::deadline`](super::Session::deadline) has come.
    Deadline,
    /// Other rules hold from now on, for what is open, too.
    Rules(Arc<Rules>),
    /// The gateway stops: finish what is in flight, take nothing new.
    Shutdown,
    /// The client is gone.
    Gone,
}

/// How an action ended well.
#[derive(Debug)]
pub enum Done {
    /// [`Action::Authenticate`]: this is who it is, and what the broker can do.
    Authenticated(Principal, Capabilities),
    /// Anything else.
    Outcome(Outcome),
    /// The chain answered.
    Handled(Handled),
    /// [`Action::Subscribe`] to a reply address: what others write after `/reply-queue/`.
    ReplyAddress(Text),
}

/// What the driver is to do, in order.
#[derive(Debug)]
pub enum Action {
    /// Send a frame of the session's own.
    Send(Frame),
    /// Send a message.
    Deliver(Deliver),
    /// Send one LF.
    Heartbeat,
    /// Close the connection once everything before this has been sent.
    Close(CloseCode, String),
    /// Find out who this is, and get a link for it.
    Authenticate(Ticket, Credentials),
    /// Publish, and answer with the confirmation.
    Publish(Ticket, Message),
    /// Publish the will; nobody waits for the answer.
    PublishWill(Message),
    /// Open a subscription.
    Subscribe(Ticket, SubscriptionKey, Request),
    /// Stop a subscription's deliveries; `delete` its durable queue, too.
    Unsubscribe(Ticket, SubscriptionKey, bool),
    /// Nothing of this subscription waits to be settled any more: drop it.
    Forget(SubscriptionKey),
    /// Delete a durable subscription that is not open here.
    DeleteDurable(Ticket, DurableName),
    /// Settle deliveries, given in their order.
    Settle(Ticket, Vec<DeliveryId>, Settlement),
    /// Publish and settle as one.
    Commit(Ticket, Transaction),
}

/// Names a subscription within its session, for as long as the session lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionKey(pub u32);

/// What kind of subscription to open.
#[derive(Debug)]
pub enum Request {
    /// Pushed to every local reader of the same source; needs no settling.
    Shared(SharedSource, Reader),
    /// This session's own.
    Dedicated(Subscribe),
    /// `/app/…`: a handler of the chain answers once, and that is all. The answer is [`Done::Handled`].
    Application(Application),
    /// A subscription to a topic that begins with the answer of a handler: nothing of the topic comes before it, and
    /// nothing is missed.
    Snapshot(Box<Request>, Application),
}

/// A question to a handler of the chain.
#[derive(Debug)]
pub struct Application {
    /// What stands after `/app/`.
    pub name: Pattern,
    /// The headers of the SUBSCRIBE that are not the gateway's business.
    pub headers: Headers,
}

/// A MESSAGE frame to be, except for the message's own headers and body.
#[derive(Debug)]
pub struct Deliver {
    /// The header `subscription`.
    pub subscription: Option<Text>,
    /// The header `message-id`.
    pub message_id: Text,
    /// The header `ack`; only in STOMP 1.2 and where an acknowledgement is wanted.
    pub ack: Option<Text>,
    /// The header `destination`.
    pub destination: Text,
    /// The message, and whether it is redelivered or follows a gap.
    pub delivery: Delivery,
    /// Settle this as soon as the frame has been written (`ack:auto` on a queue).
    pub settle_when_written: Option<DeliveryId>,
}
