//! Whose message breaks the connection: found out on a connection that nobody else reads from (contract, §11).
//!
//! lapin ends a connection on which something comes that it cannot read, such as a routing key that is not UTF-8, and
//! cannot say who was to have it. A queue that breaks a connection of its own, too, is parked: its subscriptions end,
//! and whoever subscribes to it later is first put to the same test, so that nobody else suffers for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::{error, info};

use super::connection::{Connector, Live};
use super::source::Recipe;
use crate::broker::BrokerError;

/// So many queues are examined at a time, each on a connection of its own.
const AT_A_TIME: usize = 4;
/// A queue from which nothing comes for so long has shown all that it has. The broker needs a moment to take back what
/// was on its way when the connection broke.
const SILENCE: Duration = Duration::from_millis(500);
/// The longest time that one examination takes.
const LONGEST: Duration = Duration::from_secs(10);
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

struct Verdict {
    at: Instant,
    is_clean: bool,
}

impl Isolation {
    /// Nothing known yet.
    pub(super) fn new(connector: &Arc<Connector>) -> Self {
        Isolation { connector: Arc::clone(connector), turns: Semaphore::new(AT_A_TIME), verdicts: Mutex::default() }
    }

    /// Whether the queue broke connections when it was last looked at.
    pub(super) fn is_parked(&self, queue: &str) -> bool {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.get(queue).is_some_and(|verdict| !verdict.is_clean)
    }

    /// Reads the queue alone, unless that has been done `since`, and gives everything back.
    ///
    /// # Errors
    /// [`BrokerError::Poison`] if that breaks the connection, or what the broker says against reading it.
    pub(super) async fn examine(
        &self,
        recipe: &Recipe,
        offset: Option<i64>,
        since: Instant,
    ) -> Result<(), BrokerError> {
        let Some(queue) = recipe.queue.as_deref().filter(|_| !recipe.is_transient()) else { return Ok(()) };
        let _turn = self.turns.acquire().await.map_err(|_| BrokerError::Unavailable)?;
        if let Some(is_clean) = self.verdict(queue, since) {
            return if is_clean { Ok(()) } else { Err(BrokerError::Poison(recipe.what())) };
        }
        let mut attempt = 0;
        let examined = loop {
            if self.connector.is_closed() {
                return Err(BrokerError::Unavailable);
            }
            if let Some(live) = self.connector.alone("examining", attempt).await {
                match read(recipe, live, offset).await {
                    // Another session, or the broken connection, still has it.
                    Err(BrokerError::Unavailable | BrokerError::InUse(_)) => {}
                    examined => break examined,
                }
            }
            attempt += 1;
            self.connector.pause(attempt).await;
        };
        match &examined {
            Ok(()) => info!(queue, "a connection broke on a message, but not on one of this queue"),
            Err(BrokerError::Poison(_)) => {
                error!(queue, "a message in this queue breaks each connection that it comes on; it must be removed");
            }
            Err(_) => return examined,
        }
        self.remember(queue, examined.is_ok());
        examined
    }

    fn verdict(&self, queue: &str, since: Instant) -> Option<bool> {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.get(queue).filter(|verdict| verdict.at >= since).map(|verdict| verdict.is_clean)
    }

    fn remember(&self, queue: &str, is_clean: bool) {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() >= MAX_VERDICTS {
            verdicts.clear();
        }
        verdicts.insert(queue.to_owned(), Verdict { at: Instant::now(), is_clean });
    }
}

/// Reads what the queue has until it is silent; closing the connection gives it back.
async fn read(recipe: &Recipe, live: Arc<Live>, offset: Option<i64>) -> Result<(), BrokerError> {
    let mut reading = recipe.open(Arc::clone(&live), offset, WINDOW).await?;
    let arrivals = async {
        loop {
            match timeout(SILENCE, reading.consumer.next()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(recipe.refused(&error)),
                Ok(None) => return Err(BrokerError::Unavailable),
                Err(_) => return Ok(()),
            }
        }
    };
    let read = timeout(LONGEST, arrivals).await.unwrap_or(Ok(()));
    live.close().await;
    read
}
