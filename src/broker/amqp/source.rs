//! How each kind of dedicated subscription is opened on a channel.

use std::sync::Arc;

use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer, Error};

use super::arguments::Arguments;
use super::connection::Live;
use super::errors::{ACCESS_REFUSED, Culprit, NOT_FOUND, channel_error, culprit, short, told};
use super::names;
use super::topology::{Place, Topology, Warning};
use crate::broker::{BrokerError, Source};
use crate::message::{Destination, Pattern, Segment, Text, is_open_to_wildcards};

/// Everything that it takes to open a subscription, and to open it again.
pub(super) struct Recipe {
    /// Never [`Source::Named`]: that is in `named`, and this is what its queue is bound to.
    pub(super) source: Source,
    pub(super) named: Option<Named>,
    pub(super) prefetch: u16,
    pub(super) arguments: Arguments,
    /// The queue, where its name stays the same.
    pub(super) queue: Option<String>,
    pub(super) exchange: ShortString,
    pub(super) topology: Arc<Topology>,
}

/// The queue of a subscription whose client has named it.
pub(super) struct Named {
    /// It goes with its last reader.
    auto_delete: bool,
}

/// An open subscription.
pub(super) struct Reading {
    pub(super) channel: Channel,
    pub(super) consumer: Consumer,
    pub(super) queue: ShortString,
    pub(super) live: Arc<Live>,
    pub(super) warning: Option<Warning>,
}

/// Why a subscription was not opened.
pub(super) struct NotOpen {
    pub(super) why: BrokerError,
    /// What it did to its connection.
    pub(super) culprit: Option<Culprit>,
}

/// What is there before a subscription is opened.
struct Prepared {
    /// An exchange and a key, for a queue that is to be bound.
    bind_to: Option<(ShortString, ShortString)>,
    warning: Option<Warning>,
}

impl From<BrokerError> for NotOpen {
    fn from(why: BrokerError) -> Self {
        NotOpen { why, culprit: None }
    }
}

impl Recipe {
    /// How to read `source`.
    pub(super) fn new(
        source: Source,
        prefetch: u16,
        arguments: Arguments,
        exchange: ShortString,
        topology: Arc<Topology>,
    ) -> Result<Self, BrokerError> {
        if let Source::Queue(name) | Source::ExistingQueue(name) | Source::Named { queue: name, .. } = &source {
            names::check_queue(name)?;
        }
        let queue = match &source {
            Source::Queue(name) | Source::ExistingQueue(name) | Source::Named { queue: name, .. } => {
                Some(name.to_string())
            }
            Source::Durable(name, _) => Some(names::durable(name)),
            Source::Reply => Some(names::random(names::REPLY)?),
            Source::Topic(_) | Source::Exchange { .. } => None,
        };
        let (source, named) = match source {
            Source::Named { auto_delete, of, .. } => (*of, Some(Named { auto_delete })),
            source => (source, None),
        };
        Ok(Recipe { source, named, prefetch, arguments, queue, exchange, topology })
    }

    /// Whether its queue goes with the connection.
    pub(super) fn is_transient(&self) -> bool {
        self.named.is_none() && matches!(self.source, Source::Topic(_) | Source::Exchange { .. } | Source::Reply)
    }

    /// Its queue, if that outlasts the connection.
    pub(super) fn lasting_queue(&self) -> Option<&str> {
        self.queue.as_deref().filter(|_| !self.is_transient())
    }

    /// Whether messages can be missed while the connection is gone.
    pub(super) fn is_forgetful(&self) -> bool {
        self.is_transient() || self.named.as_ref().is_some_and(|named| named.auto_delete)
    }

    /// What it reads, for readers of errors.
    pub(super) fn what(&self) -> String {
        if let (Some(_), Some(queue)) = (&self.named, &self.queue) {
            return format!("the queue {queue}");
        }
        match &self.source {
            Source::Queue(name) | Source::ExistingQueue(name) => format!("the queue {name}"),
            Source::Exchange { exchange, .. } => format!("the exchange {exchange}"),
            Source::Topic(pattern) => format!("the topic {pattern}"),
            Source::Durable(name, _) => format!("the durable subscription {}", name.name),
            Source::Reply | Source::Named { .. } => "the reply queue".to_owned(),
        }
    }

    /// Whether a topic is meant by it: a binding can be wider than its pattern.
    pub(super) fn wants(&self, destination: &Destination) -> bool {
        let Destination::Topic(name) = destination else { return true };
        match &self.source {
            Source::Topic(pattern) if self.named.is_none() => pattern.matches(name),
            // What waits may have come by an earlier pattern, so only what no binding says is held against it.
            Source::Topic(pattern) | Source::Durable(_, pattern)
                if pattern.segments().any(|segment| matches!(segment, Segment::Glob(_))) =>
            {
                pattern.matches(name)
            }
            Source::Topic(pattern) | Source::Durable(_, pattern) => {
                begins_plainly(pattern) || is_open_to_wildcards(name.first())
            }
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
            Source::Reply | Source::Named { .. } => Destination::ReplyQueue(queue.as_str().into()),
        }
    }

    /// Sees to its queue and begins to read it; a stream at `offset`, if it has been read before.
    pub(super) async fn open(&self, live: Arc<Live>, offset: Option<i64>, prefetch: u16) -> Result<Reading, NotOpen> {
        let Prepared { bind_to, warning } = self.prepare().await?;
        let name = match &self.queue {
            Some(name) => name.clone(),
            None => names::random("stompgate.sub.")?,
        };
        let queue = short(&name, "the name of the queue")?;
        let opened = async {
            let channel = live.channel().await?;
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            if self.is_transient() {
                declare(&channel, &queue, &self.arguments.queue).await?;
            }
            // Before it is bound: a queue without a reader would stay if it cannot be, and collect.
            let exclusive = matches!(self.source, Source::Durable(..));
            let options = BasicConsumeOptions { exclusive, ..BasicConsumeOptions::default() };
            let arguments = self.arguments.of_consumer(offset);
            let consumer = channel.basic_consume(queue.clone(), ShortString::default(), options, arguments).await?;
            if let Some((exchange, key)) = bind_to {
                let (options, none) = (QueueBindOptions::default(), FieldTable::default());
                channel.queue_bind(queue.clone(), exchange, key, options, none).await?;
            }
            Ok((channel, consumer))
        };
        match opened.await {
            Ok((channel, consumer)) => Ok(Reading { channel, consumer, queue, live, warning }),
            Err(error) => Err(self.refused(&error)),
        }
    }

    /// Checks or makes what must be there, except for a transient queue.
    async fn prepare(&self) -> Result<Prepared, BrokerError> {
        let none = FieldTable::default();
        let name = self.queue.as_deref().unwrap_or_default();
        let mut warning = None;
        if let Some(named) = &self.named {
            warning = self.topology.declare_queue(name, &self.arguments.queue, named.auto_delete).await?;
        }
        let bind_to = match &self.source {
            Source::Queue(name) => {
                warning = self.topology.ensure(&Place::Queue(name.clone()), &self.arguments.queue).await?;
                None
            }
            Source::ExistingQueue(name) => {
                self.topology.ensure(&Place::ExistingQueue(name.clone()), &none).await?;
                None
            }
            Source::Exchange { exchange, key } => {
                self.topology.ensure(&Place::Exchange(exchange.clone()), &none).await?;
                Some((short(exchange, "the name of the exchange")?, short(key, "the binding key")?))
            }
            Source::Topic(pattern) => {
                self.topology.ensure(&Place::Exchange(self.exchange.as_str().into()), &none).await?;
                Some((self.exchange.clone(), short(&names::binding_key(pattern)?, "the topic")?))
            }
            Source::Durable(_, pattern) => {
                let (topics, key) = (self.exchange.as_str(), names::binding_key(pattern)?);
                warning = self.topology.ensure_durable(name, topics, &key, &self.arguments.queue).await?;
                None
            }
            Source::Reply | Source::Named { .. } => None,
        };
        Ok(Prepared { bind_to, warning })
    }

    /// What to tell of an error that opening or reading it has met.
    pub(super) fn refused(&self, error: &Error) -> NotOpen {
        let culprit = culprit(error);
        let why = match culprit {
            Some(Culprit::Message) => BrokerError::Poison(self.what()),
            Some(Culprit::Broker) | None => self.told(error),
        };
        NotOpen { why, culprit }
    }

    fn told(&self, error: &Error) -> BrokerError {
        match (&self.source, channel_error(error)) {
            (Source::Durable(name, _), Some(ACCESS_REFUSED)) => match told(error, &self.what()) {
                refused @ BrokerError::AccessRefused { .. } => refused,
                _ => BrokerError::InUse(name.name.to_string()), // its only reader is another
            },
            (Source::Queue(name), Some(NOT_FOUND)) => {
                self.topology.forget(&Place::Queue(name.clone()));
                BrokerError::Unavailable // it was deleted just now: once more
            }
            (Source::Topic(_), Some(NOT_FOUND)) if self.named.is_some() => BrokerError::Unavailable, // the same
            (Source::ExistingQueue(name), _) => {
                self.topology.forget(&Place::ExistingQueue(name.clone()));
                told(error, &self.what())
            }
            (Source::Exchange { exchange, .. }, _) => {
                self.topology.forget(&Place::Exchange(exchange.clone()));
                told(error, &self.what())
            }
            _ => told(error, &self.what()),
        }
    }
}

async fn declare(channel: &Channel, queue: &ShortString, arguments: &FieldTable) -> Result<(), Error> {
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.clone(), options, arguments.clone()).await.map(drop)
}

fn begins_plainly(pattern: &Pattern) -> bool {
    matches!(pattern.segments().next(), Some(Segment::Literal(_)))
}
