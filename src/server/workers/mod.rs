//! The threads that serve clients.
//!
//! Each worker has a runtime of its own and listens on the port by itself (`SO_REUSEPORT`: the kernel spreads those who
//! connect), so that a client stays on the thread that accepted it. Its task is never handed from one thread to another,
//! and whatever wakes it there takes no lock. Who is woken from another thread is so through the worker's [`bell`].

mod bell;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::{task, time};
use tracing::error;

use bell::Bell;
pub(super) use bell::spawn_client;

/// Time that a worker has to drop what is left on it. One that needs more hangs.
const ENDING: Duration = Duration::from_secs(2);

/// Threads that serve clients, until they are dropped or [`Workers::end`]ed.
pub struct Workers {
    threads: Vec<Thread>,
    runtimes: Runtimes,
}

/// Where clients are served: a handle to each worker, or to the one runtime that there is without workers.
#[derive(Clone)]
pub(super) struct Runtimes(Arc<[Handle]>);

struct Thread {
    /// The thread ends when this is dropped.
    #[expect(dead_code, reason = "held for its Drop")]
    ends: oneshot::Sender<Infallible>,
    /// It has ended when this says that its sender was dropped.
    ended: oneshot::Receiver<Infallible>,
}

impl Workers {
    /// Starts as many as `count` says, or as there are processors. With 0 of them clients are served by the runtime that
    /// this is called in.
    ///
    /// # Errors
    /// The system refuses a thread, or what a runtime needs.
    pub fn start(count: Option<usize>) -> io::Result<Workers> {
        let count = count.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZeroUsize::get));
        if count == 0 {
            return Ok(Workers { threads: Vec::new(), runtimes: Runtimes([Handle::current()].into()) });
        }
        let start = |number| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let ((ends, until), (has_ended, ended)) = (oneshot::channel(), oneshot::channel());
            let thread = thread::Builder::new().name(format!("worker-{number}"));
            thread.spawn(move || {
                let worked = panic::catch_unwind(AssertUnwindSafe(|| work(runtime, until)));
                if worked.is_err() {
                    error!(number, "a thread that served clients has panicked; those it had are gone");
                }
                drop(has_ended);
            })?;
            Ok((Thread { ends, ended }, handle))
        };
        let started = (0..count).map(start).collect::<io::Result<Vec<_>>>().map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("server.workers: cannot start {count} threads: {error}"))
        })?;
        let (threads, runtimes): (_, Vec<_>) = started.into_iter().unzip();
        Ok(Workers { threads, runtimes: Runtimes(runtimes.into()) })
    }

    pub(super) fn runtimes(&self) -> Runtimes {
        self.runtimes.clone()
    }

    /// Ends them, with whatever runs there, and waits for that, but not for one that hangs. Returns how many do.
    pub async fn end(self) -> usize {
        let mut ending = self.threads.into_iter().map(|Thread { ended, .. }| ended).collect::<Vec<_>>();
        let all_ended = async {
            for ended in &mut ending {
                let _ = ended.await;
            }
        };
        let _ = time::timeout(ENDING, all_ended).await;
        ending.iter_mut().filter_map(|ended| ended.try_recv().err()).filter(|why| *why == TryRecvError::Empty).count()
    }
}

impl Runtimes {
    /// All of them.
    pub(super) fn all(&self) -> &[Handle] {
        &self.0
    }

    /// Whether there is none that has ended. The answer comes once each of them has had time for something else than what it
    /// is at, and so never while one hangs.
    pub(super) async fn are_alive(&self) -> bool {
        for runtime in self.all() {
            if runtime.spawn(task::yield_now()).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// A worker, from its beginning to its end.
fn work(runtime: Runtime, until: oneshot::Receiver<Infallible>) {
    runtime.block_on(async {
        Bell::install();
        let _ = until.await;
    });
    runtime.shutdown_background(); // what blocks a thread of its own is not waited for
}
