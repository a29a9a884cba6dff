//! Binding the queue of many subscriptions: what the broker refuses of one costs the others nothing.
//!
//! A refusal closes the channel that it was asked on, and fails all that is on its way there. So bindings have a channel
//! apart from the one that is read, and what fails on it is tried once more, alone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Error};

use super::connection::Live;
use super::errors::channel_error;
use super::ledger::begin;

/// Binds one queue.
pub(super) struct Binder {
    live: Arc<Live>,
    queue: ShortString,
    /// Where bindings are asked for. It may be closed.
    channel: Mutex<Channel>,
    /// Held by whoever asks on a channel of its own.
    alone: tokio::sync::Mutex<()>,
}

impl Binder {
    /// For a queue that is exclusive to this connection.
    pub(super) async fn new(live: Arc<Live>, queue: ShortString) -> Result<Self, Error> {
        let channel = Mutex::new(live.channel().await?);
        Ok(Binder { live, queue, channel, alone: tokio::sync::Mutex::default() })
    }

    /// Comes back when it is bound. (Twice costs the broker next to nothing.)
    pub(super) async fn bind(&self, exchange: &ShortString, key: &ShortString) -> Result<(), Error> {
        let shared = self.channel().clone();
        if self.bind_on(&shared, exchange, key, false).await.is_ok() {
            return Ok(());
        }
        let _alone = self.alone.lock().await;
        let own = self.live.channel().await?;
        self.bind_on(&own, exchange, key, false).await?;
        if !self.replace(&own) {
            let _ = own.close(200, "done".into()).await; // it may be gone already
        }
        Ok(())
    }

    /// Binds to all of them; returns those that the broker refuses, with the reason.
    pub(super) async fn bind_all<'a>(
        &self,
        bindings: impl Iterator<Item = (&'a ShortString, &'a ShortString)> + Clone,
    ) -> Result<Vec<(usize, Error)>, Error> {
        let channel = self.channel().clone();
        let at_once = async {
            for (exchange, key) in bindings.clone() {
                self.bind_on(&channel, exchange, key, true).await?;
            }
            // Answered when all that was sent before is done.
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(self.queue.clone(), passive, FieldTable::default()).await
        };
        if at_once.await.is_ok() {
            return Ok(Vec::new());
        }
        let mut refused = Vec::new();
        for (at, (exchange, key)) in bindings.enumerate() {
            match self.bind(exchange, key).await {
                Ok(()) => {}
                Err(error) if channel_error(&error).is_some() => refused.push((at, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    /// Hands it over to lapin: whoever binds afterwards comes after this on the channel. Whether it was taken.
    pub(super) fn unbind(&self, exchange: ShortString, key: ShortString) -> bool {
        begin(self.channel().queue_unbind(self.queue.clone(), exchange, key, FieldTable::default()))
    }

    /// Sees to it that there is a channel to unbind on.
    pub(super) async fn mend(&self) {
        if !self.channel().status().connected()
            && let Ok(channel) = self.live.channel().await
        {
            self.replace(&channel);
        }
    }

    /// Uses this channel from now on, if the other one is closed.
    fn replace(&self, by: &Channel) -> bool {
        let mut channel = self.channel();
        let closed = !channel.status().connected();
        if closed {
            *channel = by.clone();
        }
        closed
    }

    async fn bind_on(
        &self,
        channel: &Channel,
        exchange: &ShortString,
        key: &ShortString,
        nowait: bool,
    ) -> Result<(), Error> {
        let (options, none) = (QueueBindOptions { nowait }, FieldTable::default());
        channel.queue_bind(self.queue.clone(), exchange.clone(), key.clone(), options, none).await
    }

    fn channel(&self) -> MutexGuard<'_, Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
