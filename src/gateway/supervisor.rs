//! What systemd is told of the program (`sd_notify`): that it is ready, that it stops, and that it is alive.
//!
//! Without systemd, that is without `NOTIFY_SOCKET` in the environment, nothing is told.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::server::Services;

/// Keeps systemd's watchdog content, if there is one, until this is dropped.
pub(super) struct Watchdog(Option<JoinHandle<()>>);

/// The program is ready.
pub(super) fn ready(status: &str, services: Arc<Services>) -> Watchdog {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    Watchdog(sd_notify::watchdog_enabled().map(|within| tokio::spawn(keep_content(within / 2, services))))
}

/// The program reads its settings again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "systemd could not be told"),
    }
}

/// It has read them, and goes on.
pub(super) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// The program stops, which may take up to `within`.
pub(super) fn stopping(within: Duration) {
    let microseconds = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(microseconds)]);
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// If a thread that serves clients hangs or has ended, or this one's runtime does, systemd hears nothing and starts the program anew.
async fn keep_content(every: Duration, services: Arc<Services>) {
    let mut ticks = interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if services.is_alive().await {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "systemd could not be told");
    }
}
