//! Arguments of SEND and SUBSCRIBE as AMQP has them, by what they are for.

use lapin::types::{AMQPValue, FieldTable};

use super::errors::short;
use crate::broker::BrokerError;
use crate::message::{Argument, Form, Headers, Offset, Role};

const STREAM_OFFSET: &str = "x-stream-offset";

/// Arguments by what they are for.
#[derive(Default)]
pub(super) struct Arguments {
    pub(super) queue: FieldTable,
    consumer: FieldTable,
}

impl Arguments {
    /// Gives each its type: a number is a number to the broker, not text.
    pub(super) fn parse(headers: &Headers, allowed: bool) -> Result<Self, BrokerError> {
        let mut arguments = Arguments::default();
        for (name, value) in headers.iter() {
            if !allowed {
                let why = "an operator may allow it with broker.amqp.queue_arguments".to_owned();
                return Err(BrokerError::Unsupported { what: name.to_string(), why });
            }
            let Some(argument) = Argument::of(name) else { continue };
            argument.check(name, value).map_err(|refusal| BrokerError::Rejected(refusal.detail))?;
            let table = match argument.role {
                Role::Queue => &mut arguments.queue,
                Role::Consumer => &mut arguments.consumer,
                Role::QueueName => continue,
            };
            table.insert(short(name, "the name of an argument")?, typed(argument.form, value));
        }
        Ok(arguments)
    }

    /// Whether a stream is to be read, as far as they say.
    pub(super) fn is_of_stream(&self) -> bool {
        let kind = self.queue.inner().get("x-queue-type");
        kind == Some(&AMQPValue::LongString("stream".into())) || self.consumer.inner().contains_key(STREAM_OFFSET)
    }

    /// Those of the consumer. One that has read a stream before goes on at `offset`.
    pub(super) fn of_consumer(&self, offset: Option<i64>) -> FieldTable {
        let mut arguments = self.consumer.clone();
        if let Some(offset) = offset {
            arguments.insert(STREAM_OFFSET.into(), AMQPValue::LongLongInt(offset));
        }
        arguments
    }
}

fn typed(form: Form, value: &str) -> AMQPValue {
    let text = || AMQPValue::LongString(value.into());
    match form {
        Form::Number => value.parse().map_or_else(|_| text(), AMQPValue::LongLongInt),
        Form::Flag => AMQPValue::Boolean(value == "true"),
        Form::Text | Form::Name => text(),
        Form::Offset => match Offset::parse(value) {
            Some(Offset::Number(number)) => AMQPValue::LongLongInt(number),
            Some(Offset::Timestamp(seconds)) => AMQPValue::Timestamp(seconds),
            None => text(),
        },
    }
}

/// Where in its stream a message stands, if it comes from one.
pub(super) fn stream_offset(headers: Option<&FieldTable>) -> Option<i64> {
    match headers?.inner().get(STREAM_OFFSET) {
        Some(AMQPValue::LongLongInt(offset)) => Some(*offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_have_the_types_that_the_broker_expects() {
        let headers = Headers::from([
            ("x-queue-name", "alarms"),
            ("x-max-length", "10"),
            ("x-dead-letter-routing-key", "7"),
            ("x-single-active-consumer", "true"),
            ("x-stream-offset", "timestamp=5"),
        ]);
        let arguments = Arguments::parse(&headers, true).unwrap();
        let queue = arguments.queue.inner();
        assert_eq!(queue["x-max-length"], AMQPValue::LongLongInt(10));
        assert_eq!(queue["x-dead-letter-routing-key"], AMQPValue::LongString("7".into()));
        assert_eq!(queue["x-single-active-consumer"], AMQPValue::Boolean(true));
        assert_eq!(queue.len(), 3);
        assert_eq!(arguments.of_consumer(None).inner()["x-stream-offset"], AMQPValue::Timestamp(5));
        assert_eq!(arguments.of_consumer(Some(9)).inner()["x-stream-offset"], AMQPValue::LongLongInt(9));
    }
}
