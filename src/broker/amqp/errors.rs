//! From lapin's errors to those that a session understands.

use lapin::types::ShortString;
use lapin::{Error, ErrorKind};

use crate::broker::BrokerError;

/// Reply codes of AMQP 0-9-1 that mean something to a client.
const CONNECTION_FORCED: u16 = 320;
const FRAME_ERROR: u16 = 501;
const SYNTAX_ERROR: u16 = 502;
const COMMAND_INVALID: u16 = 503;
const UNEXPECTED_FRAME: u16 = 505;
const NOT_IMPLEMENTED: u16 = 540;
pub(super) const ACCESS_REFUSED: u16 = 403;
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;
const NODE_IS_DOWN: &str = "is down or inaccessible";

/// The reply code with which the broker closed the channel, if it was that.
pub(super) fn channel_error(error: &Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(reply) if error.is_amqp_soft_error() => Some(reply.get_id()),
        _ => None,
    }
}

/// What ended a connection, where it may end the next one as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Culprit {
    /// Something that cannot be read, or that the broker ends connections for.
    Message,
    /// The broker's own trouble with what was asked of it, which passes: RabbitMQ ends the connection of whoever begins
    /// to read a quorum queue that no node leads (541), or opens more channels than the user may have (530).
    Broker,
}

/// What ended the connection; `None` for a connection that is lost, or closed in an orderly way.
pub(super) fn culprit(error: &Error) -> Option<Culprit> {
    match error.kind() {
        ErrorKind::ParsingError(_) => Some(Culprit::Message),
        ErrorKind::ProtocolError(reply) if error.is_amqp_hard_error() => match reply.get_id() {
            CONNECTION_FORCED => None,
            FRAME_ERROR | SYNTAX_ERROR | COMMAND_INVALID | UNEXPECTED_FRAME | NOT_IMPLEMENTED => Some(Culprit::Message),
            _ => Some(Culprit::Broker),
        },
        _ => None,
    }
}

/// What to tell about something that was asked of `what`.
pub(super) fn told(error: &Error, what: &str) -> BrokerError {
    match (channel_error(error), error.kind()) {
        // RabbitMQ's word for a queue whose node is gone for now.
        (Some(NOT_FOUND), ErrorKind::ProtocolError(reply)) if reply.get_message().as_str().contains(NODE_IS_DOWN) => {
            BrokerError::Unavailable
        }
        (Some(NOT_FOUND), _) => BrokerError::NotFound(what.to_owned()),
        (Some(code), ErrorKind::ProtocolError(reply)) => match refused_user(reply.get_message()) {
            Some(user) if code == ACCESS_REFUSED => BrokerError::AccessRefused { user, what: what.to_owned() },
            _ => BrokerError::Rejected(format!("{what}: {}", reply.get_message())),
        },
        _ => BrokerError::Unavailable,
    }
}

/// What it means that the broker refused a connection of this user to this virtual host; `None` if it did not, but
/// could not be reached or broke.
pub(super) fn refused_connection(error: &Error, user: &str, virtual_host: &str) -> Option<BrokerError> {
    let ErrorKind::ProtocolError(reply) = error.kind() else { return None };
    let text = reply.get_message();
    match reply.get_id() {
        ACCESS_REFUSED => Some(BrokerError::NotAuthenticated(user.to_owned())),
        // "vhost v not found" and "access to vhost 'v' refused for user 'u'", which goes on with a reason if there is a
        // limit to the connections of the user or of the virtual host.
        NOT_ALLOWED if text.as_str().contains("limit (") => {
            let what = format!("one more connection to the virtual host {virtual_host}, or of this user");
            Some(BrokerError::AccessRefused { user: user.to_owned(), what })
        }
        NOT_ALLOWED => Some(BrokerError::UnknownTenant(virtual_host.to_owned())),
        _ => None,
    }
}

/// Whom the broker means when it refuses access: other things have the same reply code.
fn refused_user(text: &ShortString) -> Option<String> {
    let (_, rest) = text.as_str().rsplit_once("refused for user '")?;
    rest.strip_suffix('\'').map(str::to_owned)
}

/// A name as AMQP has them; longer than 255 bytes there is none.
pub(super) fn short(text: &str, what: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(text).map_err(|_| {
        BrokerError::Rejected(format!(
            "{what} has {} bytes; AMQP allows 255, and counts encoded characters",
            text.len()
        ))
    })
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};

    use super::*;

    fn error(kind: impl Into<AMQPErrorKind>, text: &str) -> Error {
        ErrorKind::ProtocolError(AMQPError::new(kind.into(), text.into())).into()
    }

    #[test]
    fn only_what_a_message_can_do_is_blamed_on_one() {
        for (hard, expected) in [
            (AMQPHardError::CONNECTIONFORCED, None),
            (AMQPHardError::INTERNALERROR, Some(Culprit::Broker)),
            (AMQPHardError::NOTALLOWED, Some(Culprit::Broker)),
            (AMQPHardError::CHANNELERROR, Some(Culprit::Broker)),
            (AMQPHardError::FRAMEERROR, Some(Culprit::Message)),
            (AMQPHardError::NOTIMPLEMENTED, Some(Culprit::Message)),
        ] {
            assert_eq!(culprit(&error(hard, "why")), expected);
        }
        assert_eq!(culprit(&error(AMQPSoftError::PRECONDITIONFAILED, "why")), None);
        assert_eq!(culprit(&ErrorKind::MissingHeartbeatError.into()), None);
    }

    /// The words are those of RabbitMQ 3.10.
    #[test]
    fn a_queue_whose_node_is_gone_is_not_one_that_does_not_exist() {
        let down = "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible";
        assert_eq!(told(&error(AMQPSoftError::NOTFOUND, down), "the queue q"), BrokerError::Unavailable);
        let absent = told(&error(AMQPSoftError::NOTFOUND, "NOT_FOUND - no queue 'q' in vhost '/'"), "the queue q");
        assert_eq!(absent, BrokerError::NotFound("the queue q".to_owned()));
    }
}
