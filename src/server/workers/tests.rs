//! Clients of a worker are woken from everywhere, and no wake is lost.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use tokio::time;

use super::{Workers, spawn_client};

/// A count that tasks wait for. Like an outbox it wakes whoever waits once, and then again after that one has looked.
#[derive(Default)]
struct Count {
    reached: AtomicU64,
    waiting: Mutex<Option<Waker>>,
    looked: AtomicUsize,
}

impl Count {
    fn add(&self) {
        self.reached.fetch_add(1, Ordering::Release);
        let waiting = self.waiting.lock().unwrap().take();
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    async fn reaches(&self, expected: u64) {
        poll_fn(|context| {
            self.looked.fetch_add(1, Ordering::Relaxed);
            *self.waiting.lock().unwrap() = Some(context.waker().clone());
            if self.reached.load(Ordering::Acquire) >= expected { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Runs a client on the worker of this number, and says when it has ended.
fn client_of(
    workers: &Workers,
    number: usize,
    client: impl Future<Output = ()> + Send + 'static,
) -> mpsc::Receiver<()> {
    let (ends, ended) = mpsc::channel();
    workers.runtimes.of_clients()[number].spawn(async move {
        spawn_client(async move {
            client.await;
            ends.send(()).unwrap();
        });
    });
    ended
}

#[test]
fn no_wake_from_another_thread_is_lost() {
    const THREADS: u64 = 3;
    const EACH: u64 = 20_000;
    let workers = Workers::start(Some(2)).unwrap();
    let counts = (0..8).map(|_| Arc::new(Count::default())).collect::<Vec<_>>();
    let clients = counts.iter().enumerate().map(|(index, count)| {
        let count = Arc::clone(count);
        client_of(&workers, index % 2, async move { count.reaches(THREADS * EACH).await })
    });
    let clients = clients.collect::<Vec<_>>();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..EACH).for_each(|_| counts.iter().for_each(|count| count.add())));
        }
    });
    for client in clients {
        client.recv().unwrap(); // a wake that is lost has this wait for ever
    }
}

#[test]
fn whom_a_client_wakes_on_another_worker_is_woken_once_and_after_its_turn() {
    let workers = Workers::start(Some(2)).unwrap();
    let count = Arc::new(Count::default());
    let (waits, adds) = (Arc::clone(&count), Arc::clone(&count));
    let waiting = client_of(&workers, 0, async move { waits.reaches(100).await });
    while count.waiting.lock().unwrap().is_none() {
        thread::yield_now();
    }
    let adding = client_of(&workers, 1, async move {
        for _ in 0..100 {
            adds.add();
        }
        assert_eq!(adds.looked.load(Ordering::Relaxed), 1, "the other one was woken within this turn");
    });
    adding.recv().unwrap();
    waiting.recv().unwrap();
    assert_eq!(count.looked.load(Ordering::Relaxed), 2);
}

#[test]
fn a_client_stays_on_its_worker() {
    let workers = Workers::start(Some(2)).unwrap();
    let count = Arc::new(Count::default());
    let names = Arc::new(Mutex::new(HashSet::new()));
    let (waits, seen) = (Arc::clone(&count), Arc::clone(&names));
    let client = client_of(&workers, 1, async move {
        for number in 1..=100 {
            waits.reaches(number).await;
            seen.lock().unwrap().insert(thread::current().name().map(str::to_owned));
        }
    });
    for _ in 0..100 {
        while count.waiting.lock().unwrap().is_none() {
            thread::yield_now();
        }
        count.add();
    }
    client.recv().unwrap();
    assert_eq!(*names.lock().unwrap(), HashSet::from([Some("worker-1".to_owned())]));
}

#[tokio::test]
async fn what_runs_on_workers_ends_with_them() {
    let workers = Workers::start(Some(1)).unwrap();
    let client = client_of(&workers, 0, std::future::pending());
    assert!(workers.runtimes().are_alive().await);
    assert_eq!(workers.end().await, 0, "none hangs");
    assert_eq!(client.recv(), Err(mpsc::RecvError), "it was dropped, and had not ended");
}

#[tokio::test]
async fn the_broker_has_a_thread_of_its_own_unless_there_are_no_workers() {
    let name = || thread::current().name().map(str::to_owned);
    let workers = Workers::start(Some(2)).unwrap();
    let there = workers.of_broker().spawn(async move { name() }).await.unwrap();
    assert_eq!(there.as_deref(), Some("broker"));
    let (none, here) = (Workers::start(Some(0)).unwrap(), thread::current().id());
    assert_eq!(none.of_broker().spawn(async { thread::current().id() }).await.unwrap(), here);
}

#[tokio::test]
async fn a_brokers_thread_that_hangs_keeps_the_answer_and_one_that_is_gone_is_not_alive() {
    let workers = Workers::start(Some(1)).unwrap();
    let runtimes = workers.runtimes();
    assert!(runtimes.are_alive().await);
    let (goes_on, waits) = mpsc::channel::<()>();
    let hanging = workers.of_broker().spawn(async move { waits.recv().is_err() });
    let mut asked = Box::pin(runtimes.are_alive());
    // The workers have answered by then, and the broker's thread cannot.
    assert!(time::timeout(Duration::from_millis(50), &mut asked).await.is_err());
    drop(goes_on);
    assert!(asked.await);
    assert!(hanging.await.unwrap());
    assert_eq!(workers.end().await, 0);
    assert!(!runtimes.are_alive().await);
}
