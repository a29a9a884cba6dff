//! How clients of a worker are woken from other threads.
//!
//! One message for a thousand clients wakes hundreds of tasks of each other worker. To the runtime each of them is a task
//! from outside, and for each the worker is shaken awake by a system call. A worker's bell takes them all, and rings once: the
//! worker wakes them on its own thread, where that costs next to nothing, and looks again until nobody came meanwhile.
//!
//! Whom a client's turn wakes elsewhere is collected until the turn is over, like those whom it wakes here and who have to
//! wait for that anyway: several messages in one turn are one write for each of their readers. So code of the program's that
//! blocks a turn holds up them, too.

use std::cell::{OnceCell, RefCell};
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use pin_project_lite::pin_project;

thread_local! {
    /// The bell of the worker whose thread this is.
    static HERE: OnceCell<Arc<Bell>> = const { OnceCell::new() };
    /// While a client has its turn on this thread: clients of other workers that it has woken, by their bell.
    static WOKEN: RefCell<Option<Vec<Woken>>> = const { RefCell::new(None) };
}

type Woken = (Arc<Bell>, Vec<Arc<Client>>);

/// Those of one worker's clients that have been woken from other threads.
#[derive(Default)]
pub(super) struct Bell(Mutex<Rung>);

#[derive(Default)]
struct Rung {
    /// In the order in which they were woken, each once.
    clients: Vec<Arc<Client>>,
    /// The task that wakes them, while it waits for the bell.
    listening: Option<Waker>,
}

/// A client's task, as others wake it.
struct Client {
    bell: Arc<Bell>,
    task: Waker,
    /// It is among those that the bell has been rung for.
    is_rung: AtomicBool,
}

pin_project! {
    /// A client's task, polled with a waker that goes through the bell. Not an `async` block, which would have room for the
    /// task twice: as it was given, and as it is polled.
    struct Attended<Task> {
        #[pin]
        client: Task,
        bell: Arc<Bell>,
        known: Option<(Arc<Client>, Waker)>,
    }
}

/// Serves a client on the worker whose thread this is; without workers, on the runtime that this is called in.
pub(in crate::server) fn spawn_client(client: impl Future<Output = ()> + Send + 'static) {
    match HERE.with(|here| here.get().map(Arc::clone)) {
        Some(bell) => drop(tokio::spawn(Attended { client, bell, known: None })),
        None => drop(tokio::spawn(client)),
    }
}

impl Bell {
    /// Makes this thread a worker's. To be called inside its runtime, once.
    pub(super) fn install() {
        let bell = HERE.with(|here| Arc::clone(here.get_or_init(Arc::default)));
        tokio::spawn(bell.listen());
    }

    fn is_here(self: &Arc<Self>) -> bool {
        // A thread that ends may wake somebody when it has no variables of its own any more.
        HERE.try_with(|here| here.get().is_some_and(|here| Arc::ptr_eq(here, self))).unwrap_or_default()
    }

    /// Wakes clients whenever the bell has rung.
    async fn listen(self: Arc<Self>) {
        let mut clients = Vec::new();
        poll_fn(|context| {
            {
                let mut rung = self.lock();
                if rung.clients.is_empty() {
                    rung.listening = Some(context.waker().clone());
                    return Poll::<()>::Pending;
                }
                mem::swap(&mut rung.clients, &mut clients);
            }
            for client in clients.drain(..) {
                client.is_rung.swap(false, Ordering::AcqRel); // before it runs: what comes while it does is to wake it again
                client.task.wake_by_ref();
            }
            // Again after their turn: whoever is woken while this worker is awake anyway needs no bell.
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn ring(&self, clients: &mut Vec<Arc<Client>>) {
        let mut rung = self.lock();
        rung.clients.append(clients);
        let listening = rung.listening.take();
        drop(rung);
        if let Some(listening) = listening {
            listening.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's turn on a worker's thread. When it is over, the bells of the other workers are rung.
struct Turn;

impl Turn {
    fn begin() -> Turn {
        WOKEN.set(Some(Vec::new()));
        Turn
    }

    /// Takes a client that is to be woken when the turn is over, if this thread is in one.
    fn collect(client: Arc<Client>) -> Option<Arc<Client>> {
        let mut client = Some(client);
        // A thread that ends may have no variables any more, and is in no turn then.
        let _ = WOKEN.try_with(|woken| {
            if let Some(woken) = &mut *woken.borrow_mut()
                && let Some(client) = client.take()
            {
                match woken.iter_mut().find(|(bell, _)| Arc::ptr_eq(bell, &client.bell)) {
                    Some((_, clients)) => clients.push(client),
                    None => woken.push((Arc::clone(&client.bell), vec![client])),
                }
            }
        });
        client
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        for (bell, mut clients) in WOKEN.take().unwrap_or_default() {
            bell.ring(&mut clients);
        }
    }
}

impl<Task: Future<Output = ()>> Future for Attended<Task> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let (_, waker) = match this.known.take() {
            Some(known) if known.0.task.will_wake(context.waker()) => this.known.insert(known),
            _ => {
                let (bell, task) = (Arc::clone(this.bell), context.waker().clone());
                let client = Arc::new(Client { bell, task, is_rung: AtomicBool::new(false) });
                this.known.insert((Arc::clone(&client), Waker::from(client)))
            }
        };
        let _turn = Turn::begin();
        this.client.poll(&mut Context::from_waker(waker))
    }
}

impl Wake for Client {
    fn wake(self: Arc<Self>) {
        if self.bell.is_here() {
            self.task.wake_by_ref();
        } else if !self.is_rung.swap(true, Ordering::AcqRel)
            && let Some(client) = Turn::collect(self)
        {
            Arc::clone(&client.bell).ring(&mut vec![client]);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.bell.is_here() {
            self.task.wake_by_ref(); // by far the most are, and no count of references changes for them
        } else {
            Arc::clone(self).wake();
        }
    }
}
