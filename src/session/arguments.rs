//! Queue and consumer arguments of SEND and SUBSCRIBE. One that could have no effect is refused by name, never ignored.

use super::headers::flag;
use crate::message::{Argument, Capabilities, Destination, Headers, Refusal, Role, Source};
use crate::stomp::Frame;

/// The argument that names the queue of a subscription.
pub(super) const QUEUE_NAME: &str = "x-queue-name";
const NO_ARGUMENTS: &str = "this gateway takes no arguments of queues and consumers from clients; \
                            with RabbitMQ behind it, broker.amqp.queue_arguments lets it";

/// The arguments in a frame, each once.
pub(super) fn read(frame: &Frame, capabilities: Capabilities) -> Result<Headers, Refusal> {
    let mut arguments = Headers::new();
    for (name, value) in frame.headers.iter() {
        let Some(argument) = Argument::of(name) else { continue };
        if !capabilities.arguments {
            return Err(Refusal::unsupported(name, NO_ARGUMENTS));
        }
        argument.check(name, value)?;
        if arguments.get(name).is_none() {
            arguments.push(name.clone(), value.clone());
        }
    }
    Ok(arguments)
}

/// Refuses what a SEND to this destination cannot use.
pub(super) fn check_of_send(arguments: &Headers, destination: &Destination) -> Result<(), Refusal> {
    check(arguments, |role| match (role, destination) {
        (Role::Queue, Destination::Queue(_)) => Ok(()),
        (Role::Queue, _) => Err("it is for a queue that is made when it is not there; only /queue/… is"),
        (Role::Consumer | Role::QueueName, _) => Err("it is for a SUBSCRIBE"),
    })
}

/// Refuses what a SUBSCRIBE to this destination cannot use.
pub(super) fn check_of_subscribe(arguments: &Headers, destination: &Destination) -> Result<(), Refusal> {
    check(arguments, |role| match (role, destination) {
        (_, Destination::User { .. } | Destination::TemporaryQueue(_)) => {
            Err("the queue behind this destination is the gateway's own")
        }
        (_, Destination::Application(_)) => Err("a handler has no queue"),
        (Role::Queue, Destination::ExistingQueue(_)) => {
            Err("a queue under /amq/queue/ is there already; to have it made, write /queue/…")
        }
        (Role::QueueName, Destination::Queue(_) | Destination::ExistingQueue(_)) => {
            Err("it names the queue of a /topic/ or an /exchange/; a /queue/ has its name")
        }
        _ => Ok(()),
    })
}

fn check(arguments: &Headers, usable: impl Fn(Role) -> Result<(), &'static str>) -> Result<(), Refusal> {
    for (name, _) in arguments.iter() {
        let role = Argument::of(name).map_or(Ok(()), |argument| usable(argument.role));
        role.map_err(|why| Refusal::unsupported(name, why))?;
    }
    Ok(())
}

/// The source for `x-queue-name`: a durable queue for all who name it, or one that goes with its last reader
/// (`auto-delete:true`, `durable:false`).
pub(super) fn named(frame: &Frame, arguments: &Headers, of: Source) -> Result<Source, Refusal> {
    let refused = |header: &str, why: &str| Err(Refusal::unsupported(&format!("{header} with {QUEUE_NAME}"), why));
    if frame.headers.get("durable-subscription-name").is_some() {
        return refused("durable-subscription-name", "a queue has one name; leave one of the two headers away");
    }
    if flag(frame, "exclusive")? == Some(true) {
        return refused("exclusive", "a queue with a name is shared; without a name each subscription has its own");
    }
    let auto_delete = flag(frame, "auto-delete")?.unwrap_or(flag(frame, "durable")? == Some(false));
    let queue = arguments.get(QUEUE_NAME).cloned().unwrap_or_default();
    Ok(Source::Named { queue, auto_delete, of: Box::new(of) })
}
