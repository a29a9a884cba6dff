//! Arguments of queues and consumers on AMQP: the headers `x-…` of SUBSCRIBE and SEND that do not travel (contract, §2).

use super::Refusal;
use super::destination::check_reserved;

/// What a header that is an argument is for, and how its value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Who is told.
    pub role: Role,
    /// What its value is.
    pub form: Form,
}

/// Who is told of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The queue, when it is made.
    Queue,
    /// The consumer of a SUBSCRIBE.
    Consumer,
    /// Nobody: it names the queue of a SUBSCRIBE to a topic or an exchange.
    QueueName,
}

/// What the value of an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A whole number.
    Number,
    /// `true` or `false`.
    Flag,
    /// Any text.
    Text,
    /// The name of a queue or an exchange.
    Name,
    /// Where to begin in a stream: a word or an age as they are, or see [`Offset`].
    Offset,
}

/// A place in a stream that is more than a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    /// The number of a message: `17`, or in RabbitMQ's spelling `offset=17`.
    Number(i64),
    /// Seconds since 1970: `timestamp=1700000000`.
    Timestamp(u64),
}

impl Argument {
    /// The argument of that name, if it is one.
    pub fn of(header: &str) -> Option<Argument> {
        let (role, form) = match header.strip_prefix("x-")? {
            "message-ttl"
            | "expires"
            | "max-length"
            | "max-length-bytes"
            | "max-priority"
            | "delivery-limit"
            | "stream-max-segment-size-bytes"
            | "stream-filter-size-bytes" => (Role::Queue, Form::Number),
            "queue-type" | "overflow" | "max-age" => (Role::Queue, Form::Text),
            "dead-letter-exchange" | "dead-letter-routing-key" => (Role::Queue, Form::Name),
            "single-active-consumer" => (Role::Queue, Form::Flag),
            "priority" => (Role::Consumer, Form::Number),
            "stream-filter" => (Role::Consumer, Form::Text),
            "stream-match-unfiltered" => (Role::Consumer, Form::Flag),
            "stream-offset" => (Role::Consumer, Form::Offset),
            "queue-name" => (Role::QueueName, Form::Name),
            _ => return None,
        };
        Some(Argument { role, form })
    }

    /// Refuses a value that this argument cannot have.
    ///
    /// # Errors
    /// `invalid-header`, with what was expected.
    pub fn check(self, header: &str, value: &str) -> Result<(), Refusal> {
        let expected = match self.form {
            Form::Number if value.parse::<i64>().is_err() => "a whole number",
            Form::Flag if !matches!(value, "true" | "false") => "true or false",
            Form::Name if check_reserved(value).is_err() => "a name that does not begin with stompgate., which is ours",
            Form::Offset if Offset::parse(value).is_none() && !is_word_of_a_stream(value) => {
                "first, last, next, a number, timestamp= with seconds since 1970, or an age such as 1h"
            }
            Form::Name if self.role == Role::QueueName && value.is_empty() => "the name of a queue",
            _ => return Ok(()),
        };
        Err(Refusal::invalid_header(header, value, expected))
    }
}

/// What RabbitMQ understands beside numbers and times. (It ends the connection over anything else.)
fn is_word_of_a_stream(value: &str) -> bool {
    let is_age = |age: &str| age.len() < 10 && age.bytes().all(|byte| byte.is_ascii_digit()) && !age.is_empty();
    matches!(value, "first" | "last" | "next") || value.strip_suffix(['Y', 'M', 'D', 'h', 'm', 's']).is_some_and(is_age)
}

impl Offset {
    /// The place that `value` names, unless it is a word that the broker understands.
    pub fn parse(value: &str) -> Option<Offset> {
        let after = |word: &str| value.strip_prefix(word)?.strip_prefix(['=', ':']);
        match after("timestamp") {
            Some(seconds) => seconds.parse().ok().map(Offset::Timestamp),
            None => after("offset").unwrap_or(value).parse().ok().map(Offset::Number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_stream_is_a_number_or_a_time() {
        for (value, place) in [
            ("17", Some(Offset::Number(17))),
            ("offset=17", Some(Offset::Number(17))),
            ("timestamp=1700000000", Some(Offset::Timestamp(1_700_000_000))),
            ("first", None),
            ("1h", None),
        ] {
            assert_eq!(Offset::parse(value), place, "{value}");
        }
    }

    #[test]
    fn a_value_is_held_against_its_form() {
        for (header, good, bad) in [
            ("x-max-length", "10", "ten"),
            ("x-single-active-consumer", "true", "yes"),
            ("x-queue-name", "alarms", "stompgate.shared.x"),
            ("x-queue-name", "stompgate-alarms", ""),
            ("x-dead-letter-exchange", "", "stompgate.user"),
            ("x-stream-offset", "7D", "someday"),
        ] {
            let argument = Argument::of(header).unwrap();
            assert_eq!(argument.check(header, good), Ok(()), "{header}");
            assert_eq!(argument.check(header, bad).unwrap_err().code, "invalid-header", "{header}:{bad}");
        }
        assert_eq!(Argument::of("x-colour"), None);
    }
}
