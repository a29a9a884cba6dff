//! From lapin's errors to those that a session understands.

use lapin::types::ShortString;
use lapin::{Error, ErrorKind};

use crate::broker::BrokerError;

/// Reply codes of AMQP 0-9-1 that mean something to a client.
pub(super) const ACCESS_REFUSED: u16 = 403;
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const PRECONDITION_FAILED: u16 = 406;

/// The reply code with which the broker closed the channel, if it was that.
pub(super) fn channel_error(error: &Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(reply) if error.is_amqp_soft_error() => Some(reply.get_id()),
        _ => None,
    }
}

/// What to tell about something that was asked of `what`.
pub(super) fn told(error: &Error, what: &str) -> BrokerError {
    match (channel_error(error), error.kind()) {
        (Some(NOT_FOUND), _) => BrokerError::NotFound(what.to_owned()),
        (Some(ACCESS_REFUSED), _) => BrokerError::AccessRefused(what.to_owned()),
        (Some(_), ErrorKind::ProtocolError(reply)) => BrokerError::Rejected(format!("{what}: {}", reply.get_message())),
        _ => BrokerError::Unavailable,
    }
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
