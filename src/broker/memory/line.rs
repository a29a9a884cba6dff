//! The line in which the readers of one queue stand: who is called when a message comes, and whose turn it is.
//!
//! ```text
//!            poll, nothing there                     a message comes
//!   away ───────────────────────────► waiting ─────────────────────────► called
//!    ▲ │                                 ▲                                 │
//!    │ └── poll, no credit ──► aside ────┘ settled                         │
//!    └────────────────────────────── poll, takes a message ────────────────┘
//! ```
//!
//! Messages are handed out to whoever polls, never pushed at a reader that does not. Two rules make that fair and live:
//!
//! - As long as somebody waits, as many readers are called as messages are ready. A reader that leaves the line hands
//!   its call on; one that was called and does not come is passed over ([`Line::pass_over`], on a slow tick).
//! - Whoever polls while another is called before him steps back *once*, so that the other can run first. If it has not
//!   run when he polls again, the message is his: a reader that sleeps costs the others one poll, not their messages.

use std::collections::{BTreeMap, HashMap};
use std::task::Waker;

/// A place in the order of the line; smaller is earlier.
type Turn = u64;

/// The readers of one queue, in line.
#[derive(Debug, Default)]
pub(super) struct Line {
    members: HashMap<u64, Member>,
    waiting: BTreeMap<Turn, u64>,
    called: BTreeMap<Turn, u64>,
    next_turn: Turn,
}

#[derive(Debug)]
struct Member {
    place: Place,
    waker: Option<Waker>,
    stepped_back: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Busy elsewhere. Who was passed over keeps the turn it had.
    Away(Option<Turn>),
    Waiting(Turn),
    Called(Turn),
    /// Without credit.
    Aside,
}

/// What a reader that polls may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Take the next message.
    Take,
    /// Wait to be called.
    Wait,
    /// Poll again at once, after the others had a chance to.
    Back,
}

impl Line {
    /// Lets a reader join.
    pub(super) fn join(&mut self, reader: u64) {
        self.members.insert(reader, Member { place: Place::Away(None), waker: None, stepped_back: false });
    }

    /// Takes a reader out. If it was called, the caller calls another: see [`Line::call`].
    pub(super) fn leave(&mut self, reader: u64) {
        self.vacate(reader);
        self.members.remove(&reader);
    }

    /// A reader polls while `ready` messages are there.
    pub(super) fn poll(&mut self, reader: u64, ready: usize, has_credit: bool, waker: &Waker) -> Step {
        let turn = self.vacate(reader);
        if !has_credit {
            self.put(reader, Place::Aside, Some(waker));
            return Step::Wait;
        }
        let turn = turn.unwrap_or_else(|| self.new_turn());
        if ready == 0 {
            self.put(reader, Place::Waiting(turn), Some(waker));
            return Step::Wait;
        }
        if self.called.first_key_value().is_some_and(|(first, _)| *first < turn) {
            if self.mark_stepped_back(reader) {
                self.put(reader, Place::Called(turn), None);
                return Step::Back;
            }
            self.pass_over_before(turn);
        }
        self.put(reader, Place::Away(None), None);
        Step::Take
    }

    /// A reader has credit again.
    pub(super) fn readmit(&mut self, reader: u64) {
        if self.members.get(&reader).is_some_and(|member| member.place == Place::Aside) {
            let turn = self.new_turn();
            self.place(reader, Place::Waiting(turn));
        }
    }

    /// Calls readers until as many are called as messages are ready, or nobody waits.
    pub(super) fn call(&mut self, ready: usize, wakers: &mut Vec<Waker>) {
        while self.called.len() < ready
            && let Some((turn, reader)) = self.waiting.pop_first()
        {
            self.place(reader, Place::Called(turn));
            wakers.extend(self.members.get_mut(&reader).and_then(|member| member.waker.take()));
        }
    }

    /// Stops counting on the readers that are called and have not come, so that others are called in their place.
    pub(super) fn pass_over(&mut self) {
        self.pass_over_before(Turn::MAX);
    }

    /// Whether somebody waits who is not called.
    pub(super) fn is_anybody_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Wakes everybody, for the end.
    pub(super) fn dismiss(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.members.values_mut().filter_map(|member| member.waker.take()));
    }

    fn new_turn(&mut self) -> Turn {
        self.next_turn += 1;
        self.next_turn
    }

    /// Takes a reader from its place, and says which turn it had there.
    fn vacate(&mut self, reader: u64) -> Option<Turn> {
        match self.members.get(&reader)?.place {
            Place::Away(turn) => turn,
            Place::Aside => None,
            Place::Waiting(turn) => {
                self.waiting.remove(&turn);
                Some(turn)
            }
            Place::Called(turn) => {
                self.called.remove(&turn);
                Some(turn)
            }
        }
    }

    fn put(&mut self, reader: u64, place: Place, waker: Option<&Waker>) {
        self.place(reader, place);
        let Some(member) = self.members.get_mut(&reader) else { return };
        match waker {
            Some(waker) => match &mut member.waker {
                Some(known) => known.clone_from(waker), // which is free when it is the same task
                none => *none = Some(waker.clone()),
            },
            None if place == Place::Away(None) => member.stepped_back = false,
            None => {}
        }
    }

    fn place(&mut self, reader: u64, place: Place) {
        match place {
            Place::Waiting(turn) => _ = self.waiting.insert(turn, reader),
            Place::Called(turn) => _ = self.called.insert(turn, reader),
            Place::Away(_) | Place::Aside => {}
        }
        if let Some(member) = self.members.get_mut(&reader) {
            member.place = place;
        }
    }

    /// Whether this reader steps back now; it does so once for each message.
    fn mark_stepped_back(&mut self, reader: u64) -> bool {
        self.members.get_mut(&reader).is_some_and(|member| !std::mem::replace(&mut member.stepped_back, true))
    }

    fn pass_over_before(&mut self, turn: Turn) {
        while let Some(first) = self.called.first_entry()
            && *first.key() < turn
        {
            let (turn, reader) = first.remove_entry();
            self.place(reader, Place::Away(Some(turn)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 1;
    const B: u64 = 2;

    fn line() -> Line {
        let mut line = Line::default();
        line.join(A);
        line.join(B);
        line
    }

    fn poll(line: &mut Line, reader: u64, ready: usize) -> Step {
        line.poll(reader, ready, true, Waker::noop())
    }

    /// How many are called anew when so many messages are ready.
    fn call(line: &mut Line, ready: usize) -> usize {
        let mut wakers = Vec::new();
        line.call(ready, &mut wakers);
        wakers.len()
    }

    #[test]
    fn who_waits_first_is_called_first() {
        let mut line = line();
        assert_eq!([poll(&mut line, B, 0), poll(&mut line, A, 0)], [Step::Wait, Step::Wait]);
        assert_eq!(call(&mut line, 1), 1);
        assert_eq!(poll(&mut line, A, 1), Step::Back);
        assert_eq!(poll(&mut line, B, 1), Step::Take);
        assert_eq!(poll(&mut line, A, 0), Step::Wait);
    }

    #[test]
    fn one_message_calls_one_reader() {
        let mut line = line();
        poll(&mut line, A, 0);
        poll(&mut line, B, 0);
        assert_eq!([call(&mut line, 1), call(&mut line, 1), call(&mut line, 2)], [1, 0, 1]);
    }

    #[test]
    fn two_eager_readers_take_turns() {
        let mut line = line();
        assert_eq!(poll(&mut line, A, 9), Step::Take);
        assert_eq!(poll(&mut line, B, 0), Step::Wait);
        call(&mut line, 9);
        for _ in 0..3 {
            assert_eq!(poll(&mut line, A, 9), Step::Back);
            assert_eq!(poll(&mut line, B, 9), Step::Take);
            assert_eq!(poll(&mut line, B, 9), Step::Back);
            assert_eq!(poll(&mut line, A, 9), Step::Take);
        }
    }

    #[test]
    fn a_reader_that_sleeps_keeps_nothing_from_the_others() {
        let mut line = line();
        poll(&mut line, A, 0);
        poll(&mut line, B, 0);
        call(&mut line, 1);
        line.pass_over();
        assert_eq!(call(&mut line, 1), 1);
        assert_eq!(poll(&mut line, B, 1), Step::Take);
        assert_eq!(poll(&mut line, A, 0), Step::Wait);
    }

    #[test]
    fn a_call_is_handed_on_when_its_reader_leaves() {
        let mut line = line();
        poll(&mut line, A, 0);
        poll(&mut line, B, 0);
        call(&mut line, 1);
        line.leave(A);
        assert_eq!(call(&mut line, 1), 1);
    }

    #[test]
    fn without_credit_there_is_no_turn() {
        let mut line = line();
        assert_eq!(line.poll(A, 1, false, Waker::noop()), Step::Wait);
        assert_eq!(call(&mut line, 1), 0);
        line.readmit(A);
        assert_eq!(call(&mut line, 1), 1);
        assert_eq!(poll(&mut line, A, 1), Step::Take);
    }
}
