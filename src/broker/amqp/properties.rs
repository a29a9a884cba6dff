//! Headers of STOMP and properties of AMQP: the table of the contract, §2, both ways.

use std::fmt::Write as _;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::errors::short;
use super::names::REPLIES;
use crate::broker::BrokerError;
use crate::message::{Headers, Message, Text};

/// Marks what may have been published before (contract, §4).
pub(super) const REPUBLISHED: &str = "stompgate-republished";
/// What a reply address looks like to a STOMP client.
const REPLY_QUEUE: &str = "/reply-queue/";
/// RabbitMQ closes the channel on which this is published, with all that is on its way there.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to";
/// Bytes of a header frame that are not headers, and of each header that are not text; more than there are.
const FRAME_COST: usize = 128;
const HEADER_COST: usize = 8;

/// RabbitMQ closes the channel on which a longer `expiration` comes.
const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);

const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// Refuses a message whose headers do not fit into a frame of so many bytes.
pub(super) fn check_size(message: &Message, frame_max: u32) -> Result<(), BrokerError> {
    let size = FRAME_COST + message.headers.size() + message.headers.len() * HEADER_COST;
    if size > frame_max as usize {
        return Err(BrokerError::LimitExceeded {
            what: "bytes of all headers of a message, as AMQP has them".to_owned(),
            limit: frame_max as usize,
            setting: "broker.amqp.frame_max, user_frame_max, or frame_max at the broker",
        });
    }
    Ok(())
}

/// The properties of a message on its way to the broker.
pub(super) fn of_message(message: &Message, frame_max: u32) -> Result<BasicProperties, BrokerError> {
    check_size(message, frame_max)?;
    let options = &message.options;
    let mut properties = BasicProperties::default();
    let mut table = FieldTable::default();
    for (name, value) in message.headers.iter() {
        properties = match &**name {
            "content-type" => properties.with_content_type(short_value(name, value)?),
            "content-encoding" => properties.with_content_encoding(short_value(name, value)?),
            "correlation-id" => properties.with_correlation_id(short_value(name, value)?),
            "reply-to" if **value == *DIRECT_REPLY => {
                let why = "RabbitMQ takes it only from a channel that reads its replies; write reply-to:/temp-queue/…";
                return Err(BrokerError::Unsupported { what: format!("reply-to:{DIRECT_REPLY}"), why: why.to_owned() });
            }
            "reply-to" => properties.with_reply_to(short_value(name, reply_address(value))?),
            "type" => properties.with_type(short_value(name, value)?),
            "app-id" => properties.with_app_id(short_value(name, value)?),
            "user-id" => properties.with_user_id(short_value(name, value)?),
            "amqp-message-id" => properties.with_message_id(short_value(name, value)?),
            "timestamp" => {
                let seconds = value.parse().map_err(|_| bad_number(name, value))?;
                properties.with_timestamp(seconds)
            }
            "persistent" | "priority" | "expiration" | "retain" => properties, // parsed, in the options
            _ => {
                let name = short(name, &format!("the name of the header {name:.40}"))?;
                table.insert(name, AMQPValue::LongString(LongString::from(&**value)));
                properties
            }
        };
    }
    if let Some(priority) = options.priority {
        properties = properties.with_priority(priority);
    }
    if let Some(expiration) = options.expiration {
        if expiration > LONGEST {
            let why = "the header expiration: RabbitMQ takes ten years (315360000000 milliseconds) at most";
            return Err(BrokerError::Rejected(why.to_owned()));
        }
        properties = properties.with_expiration(short(&expiration.as_millis().to_string(), "expiration")?);
    }
    let mode = if options.persistent { PERSISTENT } else { TRANSIENT };
    Ok(properties.with_delivery_mode(mode).with_headers(table))
}

/// The same, of a message that may be there already.
pub(super) fn republished(properties: &BasicProperties) -> BasicProperties {
    let mut table = properties.headers().clone().unwrap_or_default();
    if let Ok(name) = ShortString::try_new(REPUBLISHED) {
        table.insert(name, AMQPValue::LongString("true".into()));
    }
    properties.clone().with_headers(table)
}

/// The headers of a message that the broker delivered.
pub(super) fn headers(properties: &BasicProperties) -> Headers {
    let table = properties.headers().as_ref();
    let mut headers = Headers::with_capacity(8 + table.map_or(0, |table| table.inner().len()));
    for (name, value) in [
        ("content-type", properties.content_type()),
        ("content-encoding", properties.content_encoding()),
        ("correlation-id", properties.correlation_id()),
        ("type", properties.kind()),
        ("app-id", properties.app_id()),
        ("amqp-message-id", properties.message_id()),
        ("user-id", properties.user_id()),
        ("expiration", properties.expiration()),
    ] {
        if let Some(value) = value {
            headers.push(name, value.as_str());
        }
    }
    if let Some(reply_to) = properties.reply_to() {
        let is_reply_queue = REPLIES.iter().any(|prefix| reply_to.as_str().starts_with(prefix));
        let prefix = if is_reply_queue { REPLY_QUEUE } else { "" };
        headers.push("reply-to", format!("{prefix}{reply_to}"));
    }
    if *properties.delivery_mode() == Some(PERSISTENT) {
        headers.push("persistent", "true");
    }
    if let Some(priority) = properties.priority() {
        headers.push("priority", priority.to_string());
    }
    if let Some(timestamp) = properties.timestamp() {
        headers.push("timestamp", timestamp.to_string());
    }
    for (name, value) in table.into_iter().flat_map(FieldTable::inner) {
        if !is_ours(name.as_str()) && headers.get(name.as_str()).is_none() {
            headers.push(name.as_str(), text(value));
        }
    }
    headers
}

/// What only the gateway may say in a MESSAGE.
fn is_ours(name: &str) -> bool {
    matches!(name, "subscription" | "message-id" | "ack" | "redelivered" | "gap" | "destination" | "content-length")
}

/// The queue behind a reply address that was handed out; anything else as it is.
fn reply_address(value: &Text) -> &str {
    match value.strip_prefix(REPLY_QUEUE) {
        Some(queue) if REPLIES.iter().any(|prefix| queue.starts_with(prefix)) => queue,
        _ => value,
    }
}

fn short_value(name: &str, value: &str) -> Result<ShortString, BrokerError> {
    short(value, &format!("the header {name}"))
}

fn bad_number(name: &str, value: &str) -> BrokerError {
    BrokerError::Rejected(format!("the header {name} is {value:?}, which is no whole number"))
}

/// A value of the headers table: a scalar as text, a table or an array as JSON.
fn text(value: &AMQPValue) -> String {
    match value {
        AMQPValue::ShortString(text) => text.to_string(),
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        AMQPValue::ByteArray(bytes) => String::from_utf8_lossy(bytes.as_slice()).into_owned(),
        AMQPValue::Void => String::new(),
        other => {
            let mut json = String::new();
            write_json(other, &mut json);
            json
        }
    }
}

fn write_json(value: &AMQPValue, json: &mut String) {
    // Writing to a String cannot fail.
    let _ = match value {
        AMQPValue::Boolean(value) => write!(json, "{value}"),
        AMQPValue::ShortShortInt(value) => write!(json, "{value}"),
        AMQPValue::ShortShortUInt(value) => write!(json, "{value}"),
        AMQPValue::ShortInt(value) => write!(json, "{value}"),
        AMQPValue::ShortUInt(value) => write!(json, "{value}"),
        AMQPValue::LongInt(value) => write!(json, "{value}"),
        AMQPValue::LongUInt(value) => write!(json, "{value}"),
        AMQPValue::LongLongInt(value) => write!(json, "{value}"),
        AMQPValue::Timestamp(value) => write!(json, "{value}"),
        AMQPValue::Float(value) if value.is_finite() => write!(json, "{value}"),
        AMQPValue::Double(value) if value.is_finite() => write!(json, "{value}"),
        AMQPValue::DecimalValue(decimal) => write!(json, "{}e-{}", decimal.value, decimal.scale),
        AMQPValue::Float(_) | AMQPValue::Double(_) | AMQPValue::Void => write!(json, "null"),
        AMQPValue::ShortString(_) | AMQPValue::LongString(_) | AMQPValue::ByteArray(_) => {
            write_json_string(&text(value), json);
            Ok(())
        }
        AMQPValue::FieldArray(items) => {
            write_json_list(json, ['[', ']'], items.as_slice(), write_json);
            Ok(())
        }
        AMQPValue::FieldTable(table) => {
            write_json_list(json, ['{', '}'], table.inner(), |(name, value), json| {
                write_json_string(name.as_str(), json);
                json.push(':');
                write_json(value, json);
            });
            Ok(())
        }
    };
}

fn write_json_list<I: IntoIterator>(
    json: &mut String,
    [open, close]: [char; 2],
    items: I,
    write: impl Fn(I::Item, &mut String),
) {
    json.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        write(item, json);
    }
    json.push(close);
}

fn write_json_string(text: &str, json: &mut String) {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            control if control < ' ' => _ = write!(json, "\\u{:04x}", control as u32),
            other => json.push(other),
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Destination, PublishOptions};

    const FRAME_MAX: u32 = 4_096;

    fn message<const COUNT: usize>(headers: [(&str, &str); COUNT]) -> Message {
        Message {
            destination: Destination::Queue("q".into()),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            body: "x".into(),
            options: PublishOptions::default(),
        }
    }

    #[test]
    fn each_header_has_its_property() {
        let mut message = message([
            ("content-type", "text/plain"),
            ("correlation-id", "7"),
            ("reply-to", "/reply-queue/stompgate.reply.x"),
            ("timestamp", "123"),
            ("type", "order"),
            ("app-id", "shop"),
            ("amqp-message-id", "m-1"),
            ("priority", "5"),
            ("expiration", "1500"),
            ("x-colour", "grün"),
        ]);
        message.options = PublishOptions {
            persistent: true,
            priority: Some(5),
            expiration: Some(Duration::from_millis(1500)),
            ..PublishOptions::default()
        };
        let properties = of_message(&message, FRAME_MAX).unwrap();
        assert_eq!(properties.reply_to().as_ref().unwrap().as_str(), "stompgate.reply.x");
        assert_eq!(properties.expiration().as_ref().unwrap().as_str(), "1500");
        assert_eq!(
            (*properties.delivery_mode(), *properties.priority(), *properties.timestamp()),
            (Some(2), Some(5), Some(123))
        );
        assert_eq!(properties.headers().as_ref().unwrap().inner().len(), 1);
        let back = headers(&properties);
        for (name, value) in message.headers.iter() {
            assert_eq!(back.get(name), Some(value), "{name}");
        }
    }

    #[test]
    fn what_amqp_cannot_carry_is_refused() {
        let long = "x".repeat(256);
        for (name, value) in [("type", &*long), (&*long, "1"), ("timestamp", "yesterday")] {
            assert!(matches!(of_message(&message([(name, value)]), FRAME_MAX), Err(BrokerError::Rejected(_))));
        }
        let direct = of_message(&message([("reply-to", DIRECT_REPLY)]), FRAME_MAX);
        assert!(matches!(direct, Err(BrokerError::Unsupported { .. })));
        let wide = "x".repeat(4_000);
        assert!(matches!(of_message(&message([("a", &*wide)]), FRAME_MAX), Err(BrokerError::LimitExceeded { .. })));
    }

    #[test]
    fn tables_are_json_and_our_own_headers_nobody_elses() {
        let mut death = FieldTable::default();
        death.insert("count".into(), AMQPValue::LongLongInt(2));
        death.insert("queue".into(), AMQPValue::LongString("a\"b".into()));
        let mut table = FieldTable::default();
        table.insert("x-death".into(), AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()));
        table.insert("subscription".into(), AMQPValue::LongString("forged".into()));
        table.insert("flag".into(), AMQPValue::Boolean(true));
        let headers = headers(&BasicProperties::default().with_headers(table));
        assert_eq!(headers.get("x-death").unwrap(), r#"[{"count":2,"queue":"a\"b"}]"#);
        assert_eq!((headers.get("flag").unwrap(), headers.get("subscription")), (&Text::from("true"), None));
    }

    #[test]
    fn a_mark_is_added_to_what_is_there() {
        let properties = of_message(&message([("a", "1")]), FRAME_MAX).unwrap();
        let headers = headers(&republished(&properties));
        assert_eq!(
            (headers.get("a").unwrap(), headers.get(REPUBLISHED).unwrap()),
            (&Text::from("1"), &Text::from("true"))
        );
    }
}
