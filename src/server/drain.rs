//! The end of a gateway that others take over from: wave after wave, so that the clients do not all come to them at once.

use std::time::Duration;

use tokio::time::timeout;

use super::Services;
use crate::hub::outbox::Signal;

/// Between two waves there is at least so much time.
const WAVE: Duration = Duration::from_millis(100);

impl Services {
    /// From now on the gateway is not ready; clients notice nothing.
    pub fn begin_draining(&self) {
        self.registry.begin_draining();
    }

    /// Takes no new clients, tells those that are there over `server.drain_window` to go, and waits for the last ones,
    /// `server.shutdown_timeout` at most. Returns how many were still there then.
    pub async fn shut_down(&self) -> usize {
        let clients = self.registry.close();
        let server = &self.live().server;
        let window = server.drain_window;
        let most = usize::try_from(window.as_millis() / WAVE.as_millis()).unwrap_or(usize::MAX);
        let size = clients.len().div_ceil(most.max(1)).max(1);
        let waves = clients.len().div_ceil(size).max(1);
        let pause = window / u32::try_from(waves).unwrap_or(u32::MAX);
        for (index, wave) in clients.chunks(size).enumerate() {
            // Nobody waits for a wave when all have left.
            if index > 0 && timeout(pause, self.registry.emptied()).await.is_ok() {
                break;
            }
            for outbox in wave {
                outbox.signal(Signal::Shutdown);
            }
        }
        let _ = timeout(server.shutdown_timeout, self.registry.emptied()).await;
        self.registry.len()
    }
}
