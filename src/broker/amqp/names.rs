//! From topics to routing keys and back, and the names of our own queues and exchanges.

use std::fmt::Write as _;

use crate::broker::BrokerError;
use crate::broker::base64::{base64url, decoded};
use crate::message::{DurableName, Pattern, Segment, Text, decode};

/// The exchange of what is sent to users.
pub(super) const USER_EXCHANGE: &str = "stompgate.user";
/// Names of reply queues begin so.
pub(super) const REPLY: &str = "stompgate.reply.";

/// Queues of these names are somebody's private reply address: ours, RabbitMQ's direct reply-to, server-named ones.
pub(super) const REPLIES: [&str; 3] = [REPLY, DIRECT_REPLIES, "amq.gen-"];
const DIRECT_REPLIES: &str = "amq.rabbitmq.reply-to.";
/// No queues, though some may be read or sent to: a bad one makes RabbitMQ 3.10 end the connection.
const PSEUDO_QUEUES: &str = "amq.rabbitmq.";

/// Refuses names of queues that are none.
pub(super) fn check_queue(name: &str) -> Result<(), BrokerError> {
    if name.starts_with(PSEUDO_QUEUES) {
        let why = format!("the queue {name}: names that begin with {PSEUDO_QUEUES} are RabbitMQ's own");
        return Err(BrokerError::Rejected(why));
    }
    Ok(())
}

/// Refuses what cannot be somebody's reply address.
pub(super) fn check_reply(name: &str) -> Result<(), BrokerError> {
    let is_one = match name.strip_prefix(DIRECT_REPLIES) {
        Some(address) => address.split_once('.').is_some_and(|(reader, key)| is_base64(reader) && is_base64(key)),
        None => REPLIES.iter().any(|prefix| name.starts_with(prefix)),
    };
    let why = "is no reply address; answer to what reply-to says, and send to queues by /queue/ or /amq/queue/";
    if is_one { Ok(()) } else { Err(BrokerError::Rejected(format!("/reply-queue/{name} {why}"))) }
}

/// Whether an answer goes by RabbitMQ's direct reply-to.
pub(super) fn is_direct_reply(name: &str) -> bool {
    name.starts_with(DIRECT_REPLIES)
}

fn is_base64(text: &str) -> bool {
    decoded(text).is_some_and(|bytes| !bytes.is_empty())
}

/// The routing key of a concrete topic.
pub(super) fn routing_key(name: &Pattern) -> Result<String, BrokerError> {
    let mut key = String::with_capacity(name.as_str().len());
    for (index, segment) in name.as_str().split('/').enumerate() {
        push(&mut key, index, &plain(segment)?);
    }
    Ok(key)
}

/// The binding key of a topic or a pattern. It may stand for more than the pattern: what comes is matched again.
pub(super) fn binding_key(pattern: &Pattern) -> Result<String, BrokerError> {
    let mut key = String::with_capacity(pattern.as_str().len());
    for (index, segment) in pattern.segments().enumerate() {
        match segment {
            Segment::One | Segment::Glob(_) => push(&mut key, index, "*"),
            Segment::Many => push(&mut key, index, "#"),
            Segment::Literal(literal) => {
                let text = plain(literal)?;
                if matches!(&*text, "*" | "#") {
                    return Err(inexpressible(&text));
                }
                push(&mut key, index, &text);
            }
        }
    }
    Ok(key)
}

/// The topic of a routing key.
pub(super) fn topic(routing_key: &str) -> Pattern {
    Pattern::name(routing_key.split('.'))
}

/// What stands for a user in keys and in the index: a segment that no name of a user leaves.
pub(super) fn user_segment(user: &str) -> String {
    base64url(user.as_bytes())
}

/// The name, in the index of what is sent to users, of `name` for this user.
pub(super) fn of_user(user: &str, name: &Pattern) -> Pattern {
    Pattern::canonical(format!("{}/{name}", user_segment(user)))
}

/// The queue of a durable subscription; its exchange has the same name.
pub(super) fn durable(name: &DurableName) -> String {
    let parts = [&name.user, &name.client, &name.name].map(|part| base64url(part.as_bytes()));
    format!("stompgate.durable.{}", parts.join("."))
}

/// A name that nobody else has or guesses: 128 random bits.
pub(super) fn random(prefix: &str) -> Result<String, BrokerError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| BrokerError::Unavailable)?;
    Ok(format!("{prefix}{}", base64url(&bytes)))
}

/// `%XX` decoded; a dot would be a separator.
fn plain(segment: &str) -> Result<Text, BrokerError> {
    let text = decode(segment).unwrap_or_default();
    if text.contains('.') { Err(inexpressible(&text)) } else { Ok(Text::from(&*text)) }
}

fn inexpressible(segment: &str) -> BrokerError {
    let what = format!("the segment {segment:?} of a topic");
    BrokerError::Unsupported { what, why: "on AMQP a dot separates segments, and * and # are wildcards".to_owned() }
}

fn push(key: &mut String, index: usize, segment: &str) {
    let separator = if index == 0 { "" } else { "." };
    let _ = write!(key, "{separator}{segment}"); // writing to a String cannot fail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_comes_back_from_its_key() {
        for name in ["a", "a/b", "a%2Fb/c", "%2A/%23", "a//b", "50%25"] {
            let name = Pattern::canonical(name);
            assert_eq!(topic(&routing_key(&name).unwrap()), name);
        }
        assert_eq!(routing_key(&Pattern::canonical("a/b")).unwrap(), "a.b");
    }

    #[test]
    fn a_binding_is_never_narrower_than_its_pattern() {
        assert_eq!(binding_key(&Pattern::canonical("a/+/#/b*")).unwrap(), "a.*.#.*");
    }

    #[test]
    fn what_amqp_cannot_express_is_refused() {
        assert!(routing_key(&Pattern::canonical("a%2Eb")).is_err());
        assert!(binding_key(&Pattern::canonical("a/%2A")).is_err());
    }

    #[test]
    fn durable_names_do_not_run_together() {
        let name =
            |user: &str, client: &str| DurableName { user: user.into(), client: client.into(), name: "sub-0".into() };
        assert_ne!(durable(&name("a", "b.c")), durable(&name("a.b", "c")));
    }
}
