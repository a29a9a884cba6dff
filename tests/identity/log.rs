//! What the gateway, and the libraries under it, write to the log while these tests run.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Capture;

/// Begins to capture everything, however detailed.
pub(crate) fn capture() {
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    // Another test of this program may have begun it.
    let _ = subscriber.with_writer(|| Capture).try_init();
}

/// The lines that were written up to now and have this in them.
pub(crate) fn lines(part: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(&log()).into_owned();
    text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

fn log() -> MutexGuard<'static, Vec<u8>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        log().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
