//! The threads that serve clients.
//!
//! Each worker has a runtime of its own and listens on the port by itself (`SO_REUSEPORT`: the kernel spreads those who
//! connect), so that a client stays on the thread that accepted it. Its task is never handed from one thread to another,
//! and whatever wakes it there takes no lock. Who is woken from another thread is so through the worker's [`bell`].

mod bell;
#[cfg(test)]
mod tests;

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task;

use bell::Bell;
pub(super) use bell::spawn_client;

/// Threads that serve clients, until they are dropped or [`Workers::end`]ed.
pub struct Workers {
    threads: Vec<Thread>,
    runtimes: Runtimes,
}

/// Where clients are served: a handle to each worker, or to the one runtime that there is without workers.
#[derive(Clone)]
pub(super) struct Runtimes(Arc<[Handle]>);

struct Thread {
    thread: JoinHandle<()>,
    /// The thread ends when this is dropped.
    #[expect(dead_code, reason = "held for its Drop")]
    ends: oneshot::Sender<()>,
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
            let (ends, ended) = oneshot::channel();
            let thread = thread::Builder::new().name(format!("worker-{number}"));
            let thread = thread.spawn(move || work(runtime, ended))?;
            Ok((Thread { thread, ends }, handle))
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

    /// Ends them, with whatever runs there, and waits for that.
    pub async fn end(self) {
        let ending = self.threads.into_iter().map(|Thread { thread, .. }| thread).collect::<Vec<_>>();
        let joined = task::spawn_blocking(|| ending.into_iter().for_each(|thread| drop(thread.join())));
        drop(joined.await); // they have nothing to say
    }
}

impl Runtimes {
    /// All of them.
    pub(super) fn all(&self) -> &[Handle] {
        &self.0
    }

    /// Returns once each of them has had time for something else than what it is at.
    pub(super) async fn turn(&self) {
        for runtime in &*self.0 {
            let _ = runtime.spawn(task::yield_now()).await;
        }
    }
}

/// A worker, from its beginning to its end.
fn work(runtime: Runtime, ended: oneshot::Receiver<()>) {
    runtime.block_on(async {
        Bell::install();
        let _ = ended.await;
    });
    runtime.shutdown_background(); // what blocks a thread of its own is not waited for
}
