//! The threads that serve clients, and the one of the broker.
//!
//! Each worker has a runtime of its own and listens on the port by itself (`SO_REUSEPORT`: the kernel spreads those who
//! connect), so that a client stays on the thread that accepted it. Its task is never handed from one thread to another,
//! and whatever wakes it there takes no lock. Who is woken from another thread is so through the worker's [`bell`].
//!
//! What the broker's connections have to do is done on one thread: a message passes through several of their tasks, and when
//! these are on several threads, each wakes another one. It is a thread of its own, so that clients' turns and operators'
//! questions do not come in between.

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
/// The name of the broker's thread.
const BROKER: &str = "broker";

/// Threads that serve clients, and one for the broker, until they are dropped or [`Workers::end`]ed.
pub struct Workers {
    threads: Vec<Thread>,
    runtimes: Runtimes,
}

/// Where clients are served, and the broker is talked to: without workers, in the one runtime that there is.
#[derive(Clone)]
pub(super) struct Runtimes {
    clients: Arc<[Handle]>,
    broker: Handle,
}

struct Thread {
    /// The thread ends when this is dropped.
    #[expect(dead_code, reason = "held for its Drop")]
    ends: oneshot::Sender<Infallible>,
    /// It has ended when this says that its sender was dropped.
    ended: oneshot::Receiver<Infallible>,
}

impl Workers {
    /// Starts as many as `count` says, or as there are processors, and that of the broker. With 0 of them everything is
    /// in the runtime that this is called in.
    ///
    /// # Errors
    /// The system refuses a thread, or what a runtime needs.
    pub fn start(count: Option<usize>) -> io::Result<Workers> {
        let count = count.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZeroUsize::get));
        if count == 0 {
            let here = Handle::current();
            let runtimes = Runtimes { clients: [here.clone()].into(), broker: here };
            return Ok(Workers { threads: Vec::new(), runtimes });
        }
        let names = (0..count).map(|number| format!("worker-{number}")).chain([BROKER.to_owned()]);
        let started = names.map(Thread::start).collect::<io::Result<Vec<_>>>().map_err(|error| {
            io::Error::new(error.kind(), format!("server.workers: cannot start {count} threads: {error}"))
        })?;
        let (threads, mut runtimes): (_, Vec<_>) = started.into_iter().unzip();
        let broker = runtimes.split_off(count).remove(0);
        Ok(Workers { threads, runtimes: Runtimes { clients: runtimes.into(), broker } })
    }

    /// Where the broker's connections are to be.
    pub fn of_broker(&self) -> &Handle {
        &self.runtimes.broker
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

impl Thread {
    /// A thread with a runtime of its own.
    fn start(name: String) -> io::Result<(Thread, Handle)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let ((ends, until), (has_ended, ended)) = (oneshot::channel(), oneshot::channel());
        thread::Builder::new().name(name.clone()).spawn(move || {
            let worked = panic::catch_unwind(AssertUnwindSafe(|| work(runtime, until)));
            if worked.is_err() {
                error!(name, "a thread has panicked; what it served, clients or the broker, is gone");
            }
            drop(has_ended);
        })?;
        Ok((Thread { ends, ended }, handle))
    }
}

impl Runtimes {
    /// Those of the clients.
    pub(super) fn of_clients(&self) -> &[Handle] {
        &self.clients
    }

    /// Whether there is none that has ended. The answer comes once each of them has had time for something else than what it
    /// is at, and so never while one hangs.
    pub(super) async fn are_alive(&self) -> bool {
        for runtime in self.clients.iter().chain([&self.broker]) {
            if runtime.spawn(task::yield_now()).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// A thread, from its beginning to its end.
fn work(runtime: Runtime, until: oneshot::Receiver<Infallible>) {
    runtime.block_on(async {
        Bell::install();
        let _ = until.await;
    });
    runtime.shutdown_background(); // what blocks a thread of its own is not waited for
}
