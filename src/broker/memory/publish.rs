//! Publishing: one message at once, or a transaction as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use super::depth::cost;
use super::effects::Effects;
use super::exchange::Exchange;
use super::listeners::Listener;
use super::queue::Admission;
use super::retained::Retained;
use super::subscription::no_arguments;
use super::{lock, write};
use crate::broker::{BrokerError, Transaction};
use crate::message::{Destination, Message, Outcome, Text};

impl Exchange {
    /// Publishes one message.
    pub(super) fn publish(&self, message: Message) -> Result<Outcome, BrokerError> {
        let mut effects = Effects::default();
        let outcome = self.publish_with(message, &mut effects);
        self.apply(effects);
        outcome
    }

    fn publish_with(&self, message: Message, effects: &mut Effects) -> Result<Outcome, BrokerError> {
        self.check_destination(&message)?;
        self.check_open()?;
        match &message.destination {
            Destination::Queue(_) => {
                let _gate = self.enter()?;
                self.enqueue(message, Admission::Check, effects)
            }
            Destination::Topic(_) if message.options.retain => {
                let _gate = self.enter()?;
                let mut retained = lock(&self.retained);
                retained.admit([&message].into_iter())?;
                Ok(self.retain(message, &mut retained, effects))
            }
            // Nothing here can be refused, so that a commit need not be waited for.
            _ => Ok(self.fan_out(message, effects)),
        }
    }

    /// Publishes all messages or none, then settles.
    pub(super) fn commit(&self, transaction: Transaction) -> Result<Outcome, BrokerError> {
        let mut effects = Effects::default();
        let outcome = self.commit_with(transaction, &mut effects);
        self.apply(effects);
        outcome
    }

    fn commit_with(&self, transaction: Transaction, effects: &mut Effects) -> Result<Outcome, BrokerError> {
        let _gate = write(&self.gate);
        self.check_open()?;
        self.check_transaction(&transaction, effects)?;
        let mut outcome = Outcome::DONE;
        for message in transaction.messages {
            outcome.routed &= match &message.destination {
                Destination::Queue(_) => self.enqueue(message, Admission::Checked, effects)?,
                Destination::Topic(_) if message.options.retain => {
                    self.retain(message, &mut lock(&self.retained), effects)
                }
                _ => self.fan_out(message, effects),
            }
            .routed;
        }
        for (deliveries, settlement) in &transaction.settlements {
            outcome.settled &= self.settle_with(deliveries, *settlement, effects);
        }
        Ok(outcome)
    }

    fn check_transaction(&self, transaction: &Transaction, effects: &mut Effects) -> Result<(), BrokerError> {
        let mut settled = transaction.settlements.iter().flat_map(|(deliveries, _)| deliveries);
        if !settled.all(|id| self.queue_of(*id).is_some_and(|queue| queue.holds(*id))) {
            return Err(BrokerError::DeliveryLost);
        }
        transaction.messages.iter().try_for_each(|message| self.check_destination(message))?;
        lock(&self.retained).admit(transaction.messages.iter())?;
        let mut costs: HashMap<&Text, Vec<usize>> = HashMap::new();
        for message in &transaction.messages {
            if let Destination::Queue(name) = &message.destination {
                costs.entry(name).or_default().push(cost(message));
            }
        }
        self.queues.admit(&costs, effects)
    }

    fn enqueue(
        &self,
        mut message: Message,
        admission: Admission,
        effects: &mut Effects,
    ) -> Result<Outcome, BrokerError> {
        message.detach();
        let message = Arc::new(message);
        let Destination::Queue(name) = &message.destination else { return Ok(Outcome::UNROUTED) };
        self.queues.with(name, |queue| queue.push(&message, admission, effects))?;
        self.busy.notify_one();
        Ok(Outcome::DONE)
    }

    fn retain(&self, mut message: Message, retained: &mut Retained, effects: &mut Effects) -> Outcome {
        message.detach();
        let message = Arc::new(message);
        retained.keep(&message);
        self.busy.notify_one();
        deliver(&message, &self.listeners_to(&message.destination), effects);
        Outcome::DONE
    }

    /// Whether a message goes where an in-memory broker can bring it.
    fn check_destination(&self, message: &Message) -> Result<(), BrokerError> {
        check_kind(message)?;
        if let Some((name, _)) = message.options.arguments.iter().flat_map(|arguments| arguments.iter()).next() {
            return Err(no_arguments(name));
        }
        match &message.destination {
            Destination::Topic(name) => self.settings.check_levels(name),
            Destination::User { name, .. } => self.settings.check_user_levels(name),
            _ => Ok(()),
        }
    }

    /// Gives everybody who listens a copy.
    fn fan_out(&self, mut message: Message, effects: &mut Effects) -> Outcome {
        let listeners = self.listeners_to(&message.destination);
        if listeners.is_empty() {
            return Outcome::UNROUTED;
        }
        if listeners.iter().any(|listener| matches!(listener, Listener::Queue(_))) {
            message.detach();
        }
        deliver(&Arc::new(message), &listeners, effects);
        Outcome::DONE
    }

    fn listeners_to(&self, destination: &Destination) -> Vec<Listener> {
        match destination {
            Destination::Topic(name) => self.listeners.of_topic(name),
            Destination::User { user: Some(user), name } => self.listeners.of_user(user, name),
            Destination::ReplyQueue(token) => self.reply_queue(token).map(Listener::Queue).into_iter().collect(),
            _ => Vec::new(),
        }
    }
}

fn deliver(message: &Arc<Message>, listeners: &[Listener], effects: &mut Effects) {
    for listener in listeners {
        match listener {
            Listener::Subscriber(subscriber) => subscriber.deliver(message),
            // Queues of copies refuse nothing; one that ended meanwhile has nobody to miss the message.
            Listener::Queue(queue) => _ = queue.push(message, Admission::Check, effects),
        }
    }
}

/// Whether a message is for something that an in-memory broker has.
fn check_kind(message: &Message) -> Result<(), BrokerError> {
    let unsupported = |what: String, why: &str| Err(BrokerError::Unsupported { what, why: why.to_owned() });
    match &message.destination {
        Destination::Topic(name) | Destination::User { user: Some(_), name } if !name.is_literal() => {
            unsupported(format!("sending to the pattern {name}"), "a SEND names one destination")
        }
        Destination::Topic(_)
        | Destination::Queue(_)
        | Destination::ReplyQueue(_)
        | Destination::User { user: Some(_), .. } => Ok(()),
        Destination::User { user: None, .. } => {
            unsupported(message.destination.to_string(), "a SEND names the user: /user/{name}/queue/…")
        }
        Destination::Exchange { .. } => unsupported("/exchange".to_owned(), super::USE_TOPIC),
        Destination::ExistingQueue(_) => unsupported("/amq/queue".to_owned(), super::USE_QUEUE),
        Destination::TemporaryQueue(_) => {
            unsupported("sending to /temp-queue".to_owned(), "send to the reply-to that came with the request")
        }
        Destination::Application(_) => {
            unsupported(message.destination.to_string(), "it belongs to the interceptor chain, not to the broker")
        }
    }
}
