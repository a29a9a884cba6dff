//! Opening a dedicated subscription: until it works, or the broker says why not; and closing it.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::warn;

use super::connection::{Live, Seat};
use super::dedicated::Common;
use super::errors::Culprit;
use super::source::{NotOpen, Reading, Recipe};
use crate::broker::BrokerError;

/// A subscription that breaks its connection so often when it is opened ends, even if its queue seems well.
const DEADLY: u32 = 8;

/// How a subscription is to be opened.
#[derive(Default)]
pub(super) struct Attempt {
    /// It has been open before.
    pub(super) again: bool,
    /// Where to go on in a stream.
    pub(super) offset: Option<i64>,
    /// This broke the connection then, and it may have been for this queue.
    pub(super) suspect: Option<(Culprit, Instant)>,
}

/// Opens until it works, or the broker says why not.
pub(super) async fn open(
    recipe: Arc<Recipe>,
    seat: Arc<Seat>,
    common: Arc<Common>,
    Attempt { again, offset, mut suspect }: Attempt,
) -> Result<Reading, BrokerError> {
    let begun = Instant::now();
    let (mut attempt, mut deaths) = (0, 0);
    loop {
        if suspect.is_none() {
            // Once there is a connection: what others learnt of the queue by losing the one before.
            seat.line().up().await?;
            suspect = common.isolation.suspicion(&recipe);
        }
        if let Some((culprit, since)) = suspect.take() {
            common.isolation.clear(&recipe, offset, culprit, since).await?;
        }
        let live = seat.line().up().await?;
        let NotOpen { why, culprit } = match open_once(&recipe, &seat, &common, live, offset).await {
            Ok(reading) => return Ok(reading),
            Err(not_open) => not_open,
        };
        suspect = culprit.map(|culprit| (culprit, Instant::now()));
        if culprit == Some(Culprit::Broker) {
            common.isolation.suspect(&recipe);
        }
        match why {
            BrokerError::Unavailable => {}
            BrokerError::Poison(_) if deaths < DEADLY => deaths += 1,
            // The broker has not noticed yet that the old connection, which held the queue, is gone.
            BrokerError::InUse(_) | BrokerError::Rejected(_) if again && begun.elapsed() < common.notice => {
                if attempt == 0 {
                    warn!("{}: cannot be opened again yet: {why}", recipe.what());
                }
            }
            refused => return Err(refused),
        }
        attempt += 1;
        seat.line().connector().pause(attempt).await;
    }
}

/// What is begun is also ended: a subscription that was opened for somebody who is gone is closed.
async fn open_once(
    recipe: &Arc<Recipe>,
    seat: &Arc<Seat>,
    common: &Arc<Common>,
    live: Arc<Live>,
    offset: Option<i64>,
) -> Result<Reading, NotOpen> {
    let (recipe, seat, common) = (Arc::clone(recipe), Arc::clone(seat), Arc::clone(common));
    let (sender, opened) = oneshot::channel();
    tokio::spawn(async move {
        let opened = recipe.open(live, offset, recipe.prefetch).await;
        if let Err(Ok(reading)) = sender.send(opened) {
            close(reading, seat, &common);
        }
    });
    opened.await.unwrap_or_else(|_| Err(BrokerError::Unavailable.into()))
}

/// Closes a channel; whoever opens its queue next waits for that.
pub(super) fn close(reading: Reading, seat: Arc<Seat>, common: &Arc<Common>) {
    // Without a runtime lapin closes the channel when its last handle goes; only nobody waits for it.
    let Ok(runtime) = Handle::try_current() else { return };
    let queue = reading.queue.to_string();
    let closing = common.closings.add(&queue);
    let common = Arc::clone(common);
    runtime.spawn(async move {
        let _ = reading.channel.close(200, "done".into()).await; // it may be gone already
        common.closings.done(&queue, closing);
        drop((reading, seat));
    });
}
