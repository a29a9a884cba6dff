//! How each kind of dedicated subscription is opened on a channel.

use std::sync::Arc;

use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer, Error};

use super::connection::Live;
use super::errors::{ACCESS_REFUSED, channel_error, short, told};
use super::names;
use super::topology::{Place, Topology};
use crate::broker::{BrokerError, Source};
use crate::message::{Destination, Headers, Pattern, Segment, Text, is_open_to_wildcards};

/// Everything that it takes to open a subscription, and to open it again.
pub(super) struct Recipe {
    pub(super) source: Source,
    pub(super) prefetch: u16,
    pub(super) arguments: Arguments,
    /// The queue, where its name stays the same.
    pub(super) queue: Option<String>,
    pub(super) exchange: ShortString,
    pub(super) topology: Arc<Topology>,
}

/// Arguments of SUBSCRIBE, by what they are for.
#[derive(Default)]
pub(super) struct Arguments {
    queue: FieldTable,
    consumer: FieldTable,
}

/// An open subscription.
pub(super) struct Reading {
    pub(super) channel: Channel,
    pub(super) consumer: Consumer,
    pub(super) queue: ShortString,
    pub(super) live: Arc<Live>,
}

impl Recipe {
    /// The queue's name where it stays the same: all but those of plain topics and exchanges.
    pub(super) fn fixed_queue(source: &Source) -> Result<Option<String>, BrokerError> {
        Ok(match source {
            Source::Queue(name) | Source::ExistingQueue(name) => Some(name.to_string()),
            Source::Durable(name, _) => Some(names::durable(name)),
            Source::Reply => Some(names::random(names::REPLY)?),
            Source::Topic(_) | Source::Exchange { .. } => None,
        })
    }

    /// Whether its queue goes with the connection.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.source, Source::Topic(_) | Source::Exchange { .. } | Source::Reply)
    }

    /// What it reads, for readers of errors.
    pub(super) fn what(&self) -> String {
        match &self.source {
            Source::Queue(name) | Source::ExistingQueue(name) => format!("the queue {name}"),
            Source::Exchange { exchange, .. } => format!("the exchange {exchange}"),
            Source::Topic(pattern) => format!("the topic {pattern}"),
            Source::Durable(name, _) => format!("the durable subscription {}", name.name),
            Source::Reply => "the reply queue".to_owned(),
        }
    }

    /// Whether a topic is meant by it: a binding can be wider than its pattern.
    pub(super) fn wants(&self, destination: &Destination) -> bool {
        let Destination::Topic(name) = destination else { return true };
        match &self.source {
            Source::Topic(pattern) => pattern.matches(name),
            // What waits may have come by an earlier pattern, so only what no binding says is held against it.
            Source::Durable(_, pattern) if pattern.segments().any(|segment| matches!(segment, Segment::Glob(_))) => {
                pattern.matches(name)
            }
            Source::Durable(_, pattern) => begins_plainly(pattern) || is_open_to_wildcards(name.first()),
            _ => true,
        }
    }

    /// Where a message was sent that came from here.
    pub(super) fn destination(&self, routing_key: &str, queue: &ShortString) -> Destination {
        match &self.source {
            Source::Queue(name) => Destination::Queue(name.clone()),
            Source::ExistingQueue(name) => Destination::ExistingQueue(name.clone()),
            Source::Exchange { exchange, .. } => {
                Destination::Exchange { exchange: exchange.clone(), key: Text::from(routing_key) }
            }
            Source::Topic(_) | Source::Durable(..) => Destination::Topic(names::topic(routing_key)),
            Source::Reply => Destination::ReplyQueue(queue.as_str().into()),
        }
    }

    /// Sees to its queue and begins to read it.
    pub(super) async fn open(&self, live: Arc<Live>) -> Result<Reading, BrokerError> {
        let bind_to = self.prepare().await?;
        let name = match &self.queue {
            Some(name) => name.clone(),
            None => names::random("stompgate.sub.")?,
        };
        let queue = short(&name, "the name of the queue")?;
        let opened = async {
            let channel = live.channel().await?;
            channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
            if self.is_transient() {
                declare(&channel, &queue, &self.arguments.queue).await?;
            }
            if let Some((exchange, key)) = bind_to {
                let (options, none) = (QueueBindOptions::default(), FieldTable::default());
                channel.queue_bind(queue.clone(), exchange, key, options, none).await?;
            }
            let exclusive = matches!(self.source, Source::Durable(..));
            let options = BasicConsumeOptions { exclusive, ..BasicConsumeOptions::default() };
            let arguments = self.arguments.consumer.clone();
            let consumer = channel.basic_consume(queue.clone(), ShortString::default(), options, arguments).await?;
            Ok((channel, consumer))
        };
        match opened.await {
            Ok((channel, consumer)) => Ok(Reading { channel, consumer, queue, live }),
            Err(error) => Err(self.refused(&error)),
        }
    }

    /// Checks what must be there; returns what a transient queue is bound to.
    async fn prepare(&self) -> Result<Option<(ShortString, ShortString)>, BrokerError> {
        let none = FieldTable::default();
        match &self.source {
            Source::Queue(name) => {
                self.topology.ensure(&Place::Queue(name.clone()), &self.arguments.queue).await?;
            }
            Source::ExistingQueue(name) => {
                self.topology.ensure(&Place::ExistingQueue(name.clone()), &none).await?;
            }
            Source::Exchange { exchange, key } => {
                self.topology.ensure(&Place::Exchange(exchange.clone()), &none).await?;
                let exchange = short(exchange, "the name of the exchange")?;
                return Ok(Some((exchange, short(key, "the binding key")?)));
            }
            Source::Topic(pattern) => {
                self.topology.ensure(&Place::Exchange(self.exchange.as_str().into()), &none).await?;
                let key = short(&names::binding_key(pattern)?, "the topic")?;
                return Ok(Some((self.exchange.clone(), key)));
            }
            Source::Durable(_, pattern) => {
                let name = self.queue.as_deref().unwrap_or_default();
                self.topology.ensure_durable(name, self.exchange.as_str(), &names::binding_key(pattern)?).await?;
            }
            Source::Reply => {}
        }
        Ok(None)
    }

    fn refused(&self, error: &Error) -> BrokerError {
        match (&self.source, channel_error(error)) {
            (Source::Durable(name, _), Some(ACCESS_REFUSED)) => match told(error, &self.what()) {
                refused @ BrokerError::AccessRefused { .. } => refused,
                _ => BrokerError::InUse(name.name.to_string()), // its only reader is another
            },
            (Source::Queue(name), Some(code)) => {
                if code == super::errors::NOT_FOUND {
                    self.topology.forget(&Place::Queue(name.clone()));
                    return BrokerError::Unavailable; // it was deleted just now: once more
                }
                told(error, &self.what())
            }
            (Source::ExistingQueue(name), _) => {
                self.topology.forget(&Place::ExistingQueue(name.clone()));
                told(error, &self.what())
            }
            _ => told(error, &self.what()),
        }
    }
}

impl Arguments {
    /// Reads those of a SUBSCRIBE. A number is a number to the broker, not text.
    pub(super) fn parse(headers: &Headers, allowed: bool) -> Result<Self, BrokerError> {
        let mut arguments = Arguments::default();
        for (name, value) in headers.iter() {
            if !allowed {
                let why = "an operator may allow it with broker.amqp.queue_arguments".to_owned();
                return Err(BrokerError::Unsupported { what: name.to_string(), why });
            }
            let value = match &**name {
                "x-queue-name" => {
                    let why = "subscribe to /queue/… or /amq/queue/…, or use a durable subscription".to_owned();
                    return Err(BrokerError::Unsupported { what: name.to_string(), why });
                }
                "x-single-active-consumer" | "x-stream-match-unfiltered" => AMQPValue::Boolean(**value == *"true"),
                "x-dead-letter-exchange" | "x-dead-letter-routing-key" if value.starts_with("stompgate.") => {
                    return Err(BrokerError::Rejected(format!(
                        "{name}: names beginning with stompgate. are the gateway's"
                    )));
                }
                _ => value.parse().map_or_else(|_| AMQPValue::LongString((**value).into()), AMQPValue::LongLongInt),
            };
            let consumer = name.starts_with("x-stream-offset")
                || matches!(&**name, "x-stream-filter" | "x-stream-match-unfiltered" | "x-priority");
            let table = if consumer { &mut arguments.consumer } else { &mut arguments.queue };
            table.insert(short(name, "the name of an argument")?, value);
        }
        Ok(arguments)
    }
}

async fn declare(channel: &Channel, queue: &ShortString, arguments: &FieldTable) -> Result<(), Error> {
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.clone(), options, arguments.clone()).await.map(drop)
}

fn begins_plainly(pattern: &Pattern) -> bool {
    matches!(pattern.segments().next(), Some(Segment::Literal(_)))
}
