//! Whether it was the client, or the clock, that woke the task. After a turn that only writes there is no need to look for
//! either, and to look would cost a good part of a delivery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// What the client and the clock wake the task by.
#[derive(Default)]
pub(super) struct Arrivals(Option<Arc<Marked>>);

/// Wakes the task, and leaves a mark.
struct Marked {
    task: Waker,
    has_woken: AtomicBool,
}

impl Arrivals {
    /// Whether nothing has come since [`Self::await_by`], which `task` would have been woken for.
    pub(super) fn are_none(&self, task: &Waker) -> bool {
        self.0.as_ref().is_some_and(|marked| !marked.has_woken.load(Ordering::Acquire) && marked.task.will_wake(task))
    }

    /// What is asked for with this waker counts as an arrival when it wakes `task`.
    pub(super) fn await_by(&mut self, task: &Waker) -> Waker {
        let marked = match self.0.take() {
            Some(marked) if marked.task.will_wake(task) => marked,
            _ => Arc::new(Marked { task: task.clone(), has_woken: AtomicBool::new(false) }),
        };
        // Before anybody asks: what comes from now on leaves its mark again. Swapped, so that whose mark is taken away here has
        // done before what will be asked for.
        marked.has_woken.swap(false, Ordering::AcqRel);
        self.0 = Some(Arc::clone(&marked));
        Waker::from(marked)
    }

    /// There may be more, for which nobody would wake the task.
    pub(super) fn expect_more(&mut self) {
        if let Some(marked) = &self.0 {
            marked.has_woken.store(true, Ordering::Release);
        }
    }
}

impl Wake for Marked {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_woken.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clone, as tasks keep it: whether two wakers are the same is asked by their functions' addresses, and those of the
    /// first one may be others.
    fn task() -> Waker {
        Waker::from(Arc::new(Marked { task: Waker::noop().clone(), has_woken: AtomicBool::new(false) })).clone()
    }

    #[test]
    fn only_what_was_awaited_is_an_arrival() {
        let (mut arrivals, task) = (Arrivals::default(), task());
        assert!(!arrivals.are_none(&task), "nobody has looked yet");
        let waker = arrivals.await_by(&task);
        assert!(arrivals.are_none(&task));
        task.wake_by_ref();
        assert!(arrivals.are_none(&task), "something else woke the task");
        waker.wake_by_ref();
        assert!(!arrivals.are_none(&task));
        assert!(!arrivals.are_none(&task), "until somebody has looked");
        waker.wake();
        let waker = arrivals.await_by(&task);
        assert!(arrivals.are_none(&task));
        drop(waker);
        arrivals.expect_more();
        assert!(!arrivals.are_none(&task));
    }

    #[test]
    fn another_waker_of_the_task_has_to_be_told() {
        let (mut arrivals, one, other) = (Arrivals::default(), task(), task());
        drop(arrivals.await_by(&one));
        assert!(arrivals.are_none(&one));
        assert!(!arrivals.are_none(&other));
        drop(arrivals.await_by(&other));
        assert!(arrivals.are_none(&other));
        assert!(!arrivals.are_none(&one));
    }
}
