//! Messages to ourselves: when one is back, all that was on its way before it is here.
//!
//! MQTT marks neither the last retained message of a subscription nor the last message after an UNSUBSCRIBE. But it keeps
//! the order of a connection.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::connection::Live;
use super::names::FENCES;
use super::wire::{Filter, Packet, Published, Subscribed};
use crate::broker::base64::base64url;

/// A message to ourselves is not waited for when nothing has come for so long: a broker may not let us publish it.
const SILENCE: Duration = Duration::from_secs(2);

/// Those that are not back, by their topics.
#[derive(Default)]
pub(super) struct Fences(Mutex<HashMap<String, oneshot::Sender<()>>>);

/// One on its way. Whatever becomes of it, it leaves nothing at the broker.
struct OnItsWay<'a> {
    fences: &'a Fences,
    live: &'a Live,
    topic: &'a str,
}

impl Fences {
    /// Whether what came to this topic was a message to ourselves.
    pub(super) fn passed(&self, topic: &str) -> bool {
        if !topic.starts_with(FENCES) {
            return false;
        }
        if let Some(fence) = self.lock().remove(topic) {
            let _ = fence.send(()); // whoever waited may have given up
        }
        true
    }

    /// Sends one, at the same quality of service as what it follows; whether it came back. There is no bound for the time
    /// that takes: see [`while_moving`].
    pub(super) async fn pass(&self, live: &Live, qos: u8) -> bool {
        let mut random = [0; 16];
        if getrandom::fill(&mut random).is_err() {
            return false;
        }
        let topic = format!("{FENCES}{}", base64url(&random));
        let (sender, mut back) = oneshot::channel();
        self.lock().insert(topic.clone(), sender);
        let _on_its_way = OnItsWay { fences: self, live, topic: &topic };
        let filter = Filter { path: topic.clone(), qos, retained: false, identifier: None };
        let Subscribed::Granted(_) = live.client.subscribe(&filter).await else { return false };
        let published = live.client.publish(Packet { topic: topic.clone(), qos, ..Packet::default() });
        let failed = async {
            match published.await {
                Published::Taken(_) => live.client.gone().await,
                Published::Refused(_) | Published::Lost => {}
            }
        };
        tokio::select! {
            biased;
            back = &mut back => back.is_ok(),
            () = failed => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.fences.lock().remove(self.topic);
        drop(self.live.client.unsubscribe(self.topic.to_owned())); // nobody waits for that
    }
}

/// Works for as long as things come, as `arrivals` counts them. `None` after a silence.
pub(super) async fn while_moving<T>(arrivals: impl Fn() -> u64, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut known = arrivals();
    loop {
        if let Ok(done) = tokio::time::timeout(SILENCE, &mut work).await {
            return Some(done);
        }
        let now = arrivals();
        if std::mem::replace(&mut known, now) == now {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_goes_on_while_something_comes() {
        let arrivals = AtomicU64::new(0);
        let slow = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                arrivals.fetch_add(1, Ordering::Relaxed);
            }
        };
        let count = || arrivals.load(Ordering::Relaxed);
        assert_eq!(while_moving(count, slow).await, Some(()));
        assert_eq!(while_moving(count, pending::<()>()).await, None);
    }
}
