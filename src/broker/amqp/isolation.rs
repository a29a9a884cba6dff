//! Whose message breaks the connection: found out on a connection that nobody else reads from (contract, §11).
//!
//! lapin ends a connection on which something comes that it cannot read, such as a routing key that is not UTF-8, and
//! cannot say who was to have it. A queue that breaks a connection of its own, too, is parked: its subscriptions end,
//! and whoever subscribes to it later is first put to the same test, so that nobody else suffers for it. A queue that
//! the broker itself cannot serve for now, and ends connections for, waits here until it can.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use super::connection::{Connector, Live};
use super::errors::Culprit;
use super::source::{NotOpen, Recipe};
use crate::broker::BrokerError;

/// So many queues are examined at a time, each on a connection of its own.
const AT_A_TIME: usize = 4;
/// A queue from which nothing comes for so long has shown all that it has. The broker needs a moment to take back what
/// was on its way when the connection broke.
const SILENCE: Duration = Duration::from_millis(500);
/// The longest time that one examination takes.
const LONGEST: Duration = Duration::from_secs(10);
/// A queue that another has to itself is asked for so often; that takes the broker's time to notice a dead connection.
const PATIENCE: u32 = 14;
/// As many messages as AMQP can ask for: the one that is looked for may have been on its way to any reader of the queue.
const WINDOW: u16 = u16::MAX;
/// So many verdicts are remembered; then all are forgotten, which costs an examination each.
const MAX_VERDICTS: usize = 10_000;

/// What is known of queues that were read when a connection broke.
pub(super) struct Isolation {
    connector: Arc<Connector>,
    turns: Semaphore,
    verdicts: Mutex<HashMap<String, Verdict>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// No message of it broke a connection then.
    Clean(Instant),
    /// One did.
    Poisoned(Instant),
    /// The broker ended the connection of somebody who began to read it, which may have been for another queue.
    Suspected,
    /// The broker ends the connection of whoever begins to read it.
    Unserved,
}

impl Isolation {
    /// Nothing known yet.
    pub(super) fn new(connector: &Arc<Connector>) -> Self {
        Isolation { connector: Arc::clone(connector), turns: Semaphore::new(AT_A_TIME), verdicts: Mutex::default() }
    }

    /// Whether the queue broke connections when it was last looked at, and how.
    pub(super) fn suspicion(&self, recipe: &Recipe) -> Option<(Culprit, Instant)> {
        let culprit = match self.verdicts().get(recipe.lasting_queue()?)? {
            Verdict::Clean(_) => return None,
            Verdict::Poisoned(_) => Culprit::Message,
            Verdict::Suspected | Verdict::Unserved => Culprit::Broker,
        };
        Some((culprit, Instant::now()))
    }

    /// The broker has ended a connection on which it was asked for this queue, among others: whoever is about to ask for it on
    /// the next one finds out alone whether it was for this.
    pub(super) fn suspect(&self, recipe: &Recipe) {
        if let Some(queue) = recipe.lasting_queue()
            && matches!(self.verdict(queue), None | Some(Verdict::Clean(_)))
        {
            self.remember(queue, Verdict::Suspected);
        }
    }

    /// Comes back when the queue can be read without breaking a connection.
    ///
    /// # Errors
    /// [`BrokerError::Poison`] if a message in it does that, or what the broker says against reading it.
    pub(super) async fn clear(
        &self,
        recipe: &Arc<Recipe>,
        offset: Option<i64>,
        culprit: Culprit,
        since: Instant,
    ) -> Result<(), BrokerError> {
        let Some(queue) = recipe.lasting_queue() else { return Ok(()) };
        let mut attempt = 0;
        while !self.connector.is_closed() {
            let decided = match culprit {
                Culprit::Message => self.examine(queue, recipe, offset, since, attempt).await,
                Culprit::Broker => self.knock(queue, recipe, offset, attempt).await,
            };
            if let Some(decided) = decided {
                return decided;
            }
            attempt += 1;
            self.connector.pause(attempt).await;
        }
        Err(self.connector.reason())
    }

    /// Reads the queue alone, unless that has been done `since`, and gives everything back. `None` if that could not be
    /// done now.
    async fn examine(
        &self,
        queue: &str,
        recipe: &Arc<Recipe>,
        offset: Option<i64>,
        since: Instant,
        attempt: u32,
    ) -> Option<Result<(), BrokerError>> {
        let _turn = self.turns.acquire().await;
        match self.verdict(queue) {
            Some(Verdict::Clean(at)) if at >= since => return Some(Ok(())),
            Some(Verdict::Poisoned(at)) if at >= since => return Some(Err(BrokerError::Poison(recipe.what()))),
            _ => {}
        }
        let live = match self.connector.alone("examining", attempt).await {
            Ok(live) => live?,
            // There is no connection for this: then it is found out without.
            Err(_) => return Some(Ok(())),
        };
        let reading = tokio::spawn(read(Arc::clone(recipe), live, offset)); // to its end, whoever waits for it
        match reading.await.unwrap_or(Err(BrokerError::Unavailable.into())).map_err(|not_open| not_open.why) {
            Err(BrokerError::Unavailable) => None,
            // The broken connection still has it, or another reader by now.
            Err(BrokerError::InUse(_)) if attempt < PATIENCE => None,
            Ok(()) => {
                info!(queue, "a connection broke on a message, but not on one of this queue");
                self.remember(queue, Verdict::Clean(Instant::now()));
                Some(Ok(()))
            }
            Err(poison @ BrokerError::Poison(_)) => {
                error!(queue, "a message in this queue breaks each connection that it comes on; it must be removed");
                self.remember(queue, Verdict::Poisoned(Instant::now()));
                Some(Err(poison))
            }
            Err(refused) => Some(Err(refused)),
        }
    }

    /// Begins to read the queue alone, and gives back what comes. `None` if the broker still has trouble with it.
    async fn knock(
        &self,
        queue: &str,
        recipe: &Arc<Recipe>,
        offset: Option<i64>,
        attempt: u32,
    ) -> Option<Result<(), BrokerError>> {
        let _turn = self.turns.acquire().await;
        let live = match self.connector.alone("examining", attempt).await {
            Ok(live) => live?,
            Err(_) => return Some(Ok(())),
        };
        let knocking = tokio::spawn(knock(Arc::clone(recipe), live, offset));
        match knocking.await.unwrap_or(Err(BrokerError::Unavailable.into())).map_err(|not_open| not_open.why) {
            Err(BrokerError::Unavailable) => {
                if self.verdict(queue) != Some(Verdict::Unserved) {
                    warn!(queue, "the broker ends each connection that begins to read this queue; trying on");
                    self.remember(queue, Verdict::Unserved);
                }
                None
            }
            Err(poison @ BrokerError::Poison(_)) => Some(Err(poison)),
            // It is served. Whoever opens it next hears the rest.
            Ok(()) | Err(_) => {
                self.verdicts().remove(queue);
                Some(Ok(()))
            }
        }
    }

    fn verdict(&self, queue: &str) -> Option<Verdict> {
        self.verdicts().get(queue).copied()
    }

    fn remember(&self, queue: &str, verdict: Verdict) {
        let mut verdicts = self.verdicts();
        if verdicts.len() >= MAX_VERDICTS {
            verdicts.clear();
        }
        verdicts.insert(queue.to_owned(), verdict);
    }

    fn verdicts(&self) -> MutexGuard<'_, HashMap<String, Verdict>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what the queue has until it is silent; closing the connection gives it back.
async fn read(recipe: Arc<Recipe>, live: Arc<Live>, offset: Option<i64>) -> Result<(), NotOpen> {
    let mut reading = recipe.open(Arc::clone(&live), offset, WINDOW).await?;
    let arrivals = async {
        loop {
            match timeout(SILENCE, reading.consumer.next()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(recipe.refused(&error)),
                Ok(None) => return Err(BrokerError::Unavailable.into()),
                Err(_) => return Ok(()),
            }
        }
    };
    let read = timeout(LONGEST, arrivals).await.unwrap_or(Ok(()));
    live.close().await;
    read
}

/// Begins to read the queue; closing the connection gives back what came.
async fn knock(recipe: Arc<Recipe>, live: Arc<Live>, offset: Option<i64>) -> Result<(), NotOpen> {
    let opened = recipe.open(Arc::clone(&live), offset, 1).await.map(drop);
    live.close().await;
    opened
}
