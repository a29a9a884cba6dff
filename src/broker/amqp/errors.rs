//! From lapin's errors to those that a session understands.

use lapin::types::ShortString;
use lapin::{Error, ErrorKind};

use crate::broker::BrokerError;

/// Reply codes of AMQP 0-9-1 that mean something to a client.
const CONNECTION_FORCED: u16 = 320;
const INTERNAL_ERROR: u16 = 541;
pub(super) const ACCESS_REFUSED: u16 = 403;
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

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
    /// to read a quorum queue that no node leads.
    Broker,
}

/// What ended the connection; `None` for a connection that is lost, or closed in an orderly way.
pub(super) fn culprit(error: &Error) -> Option<Culprit> {
    match error.kind() {
        ErrorKind::ParsingError(_) => Some(Culprit::Message),
        ErrorKind::ProtocolError(reply) if error.is_amqp_hard_error() => match reply.get_id() {
            CONNECTION_FORCED => None,
            INTERNAL_ERROR => Some(Culprit::Broker),
            _ => Some(Culprit::Message),
        },
        _ => None,
    }
}

/// What to tell about something that was asked of `what`.
pub(super) fn told(error: &Error, what: &str) -> BrokerError {
    match (channel_error(error), error.kind()) {
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
        NOT_ALLOWED if text.as_str().contains("limit") => {
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
