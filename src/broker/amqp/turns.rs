//! Whose message goes next on a publishing channel.
//!
//! Each owner's messages go in their order. Later ones of an owner wait while what it needs at the broker is made, or while
//! it has its share on the way; nobody else waits for that.

use std::collections::{HashMap, VecDeque};
use std::task::Poll;

use super::job::Job;

/// What waits for its turn.
pub(super) struct Turns {
    /// So many of one owner's are on their way at a time.
    share: usize,
    /// To be published before all others, by sequence.
    again: VecDeque<Job>,
    owners: HashMap<u64, Owner>,
    /// Owners of whom the first that waits may go.
    released: VecDeque<u64>,
    sequence: u64,
}

/// Whose messages are on their way or wait for that.
#[derive(Default)]
struct Owner {
    flying: usize,
    preparing: usize,
    /// By sequence.
    waiting: VecDeque<Job>,
    is_released: bool,
}

impl Owner {
    fn is_idle(&self) -> bool {
        self.flying == 0 && self.preparing == 0 && self.waiting.is_empty() && !self.is_released
    }
}

impl Turns {
    /// Nothing waits.
    pub(super) fn new(share: usize) -> Self {
        Turns { share, again: VecDeque::new(), owners: HashMap::new(), released: VecDeque::new(), sequence: 0 }
    }

    /// All that waits.
    pub(super) fn into_jobs(self) -> impl Iterator<Item = Job> {
        self.again.into_iter().chain(self.owners.into_values().flat_map(|owner| owner.waiting))
    }

    /// The next of those that wait: none if nothing may go, pending if it is one that goes alone and others are on their way.
    pub(super) fn next(&mut self, idle: bool) -> Poll<Option<Job>> {
        let may_go = |job: &Job| idle || !job.alone;
        if let Some(first) = self.again.front() {
            return if may_go(first) { Poll::Ready(self.again.pop_front()) } else { Poll::Pending };
        }
        while let Some(&key) = self.released.front() {
            let owner = self.owners.entry(key).or_default();
            match owner.waiting.front() {
                Some(first) if owner.preparing == 0 && owner.flying < self.share => {
                    return if may_go(first) { Poll::Ready(owner.waiting.pop_front()) } else { Poll::Pending };
                }
                _ => {
                    owner.is_released = false;
                    self.released.pop_front();
                    self.release(key);
                }
            }
        }
        Poll::Ready(None)
    }

    /// Gives the message back if it is its turn among its owner's; it waits otherwise.
    pub(super) fn admit(&mut self, mut job: Job) -> Option<Job> {
        if job.sequence == 0 {
            self.sequence += 1;
            job.sequence = self.sequence;
        }
        let Some(owner) = self.owners.get_mut(&job.owner) else { return Some(job) };
        let is_first = owner.waiting.front().is_none_or(|first| job.sequence < first.sequence);
        if is_first && owner.preparing == 0 && owner.flying < self.share {
            return Some(job);
        }
        insert(&mut owner.waiting, job);
        None
    }

    /// It goes before all that have not been on their way yet.
    pub(super) fn again(&mut self, job: Job) {
        insert(&mut self.again, job);
    }

    /// A message of the owner is on its way now.
    pub(super) fn flies(&mut self, key: u64) {
        self.owners.entry(key).or_default().flying += 1;
    }

    /// It is no more.
    pub(super) fn landed(&mut self, key: u64) {
        if let Some(owner) = self.owners.get_mut(&key) {
            owner.flying -= 1;
        }
        self.release(key);
    }

    /// What a message of the owner needs is looked for.
    pub(super) fn prepares(&mut self, key: u64) {
        self.owners.entry(key).or_default().preparing += 1;
    }

    /// It has been.
    pub(super) fn is_prepared(&mut self, key: u64) {
        if let Some(owner) = self.owners.get_mut(&key) {
            owner.preparing -= 1;
        }
        self.release(key);
    }

    /// Lets the owner's next message go if there is one and nothing keeps it.
    pub(super) fn release(&mut self, key: u64) {
        let Some(owner) = self.owners.get_mut(&key) else { return };
        if owner.is_idle() {
            self.owners.remove(&key);
        } else if !owner.waiting.is_empty() && !owner.is_released && owner.preparing == 0 && owner.flying < self.share {
            owner.is_released = true;
            self.released.push_back(key);
        }
    }
}

fn insert(jobs: &mut VecDeque<Job>, job: Job) {
    let at = jobs.partition_point(|other| other.sequence < job.sequence);
    jobs.insert(at, job);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lapin::types::{FieldTable, ShortString};
    use tokio::sync::oneshot;

    use super::super::publisher::Envelope;
    use super::super::settings::Settings;
    use super::super::window::Window;
    use super::*;
    use crate::broker::Permit;
    use crate::message::{Destination, Headers, Message, PublishOptions};

    const SHARE: usize = 2;

    fn job(owner: u64) -> Job {
        let envelope = Envelope {
            exchange: ShortString::default(),
            key: ShortString::default(),
            place: None,
            arguments: FieldTable::default(),
            properties: None,
            message: Message {
                destination: Destination::Queue("a".into()),
                headers: Headers::default(),
                body: Bytes::new(),
                options: PublishOptions::default(),
            },
        };
        let (answer, _) = oneshot::channel();
        Job::new(owner, envelope, answer, Permit::UNBOUNDED, Window::new(&Settings::default()).hold(0))
    }

    /// It comes, and is on its way if it may.
    fn come(turns: &mut Turns, owner: u64) -> Option<Job> {
        let job = turns.admit(job(owner))?;
        turns.flies(owner);
        Some(job)
    }

    /// All that may go now, as the worker takes it.
    fn go(turns: &mut Turns) -> Vec<u64> {
        let mut gone = Vec::new();
        while let Poll::Ready(Some(job)) = turns.next(true) {
            if let Some(job) = turns.admit(job) {
                turns.flies(job.owner);
                gone.push(job.sequence);
            }
        }
        gone
    }

    #[test]
    fn one_owner_has_no_more_than_its_share_on_the_way() {
        let mut turns = Turns::new(SHARE);
        assert!(come(&mut turns, 1).is_some() && come(&mut turns, 1).is_some());
        assert!(come(&mut turns, 1).is_none() && come(&mut turns, 1).is_none(), "its share is on its way");
        assert!(come(&mut turns, 2).is_some(), "another owner waits for nobody");
        assert!(go(&mut turns).is_empty());
        turns.landed(1);
        assert_eq!(go(&mut turns), [3]);
        turns.landed(1);
        turns.landed(1);
        assert_eq!(go(&mut turns), [4]);
        turns.landed(1);
        turns.landed(2);
        assert!(turns.owners.is_empty(), "who has nothing under way is forgotten");
    }

    #[test]
    fn what_an_owner_sends_later_waits_for_what_is_prepared() {
        let mut turns = Turns::new(SHARE);
        let first = turns.admit(job(1)).expect("nothing is before it");
        turns.prepares(1);
        assert!(come(&mut turns, 1).is_none() && come(&mut turns, 1).is_none());
        assert!(come(&mut turns, 2).is_some());
        turns.again(first);
        turns.is_prepared(1);
        assert_eq!(go(&mut turns), [1, 2], "in its order, and no more than the share");
        turns.landed(1);
        assert_eq!(go(&mut turns), [3]);
    }

    #[test]
    fn what_goes_again_goes_in_the_order_in_which_it_came() {
        let mut turns = Turns::new(SHARE);
        let flights: Vec<Job> = [1, 1, 2].into_iter().filter_map(|owner| come(&mut turns, owner)).collect();
        assert!(come(&mut turns, 1).is_none());
        for job in flights.into_iter().rev() {
            turns.landed(job.owner);
            turns.again(job);
        }
        assert_eq!(go(&mut turns), [1, 2, 3], "the fourth has no room");
        turns.landed(1);
        assert_eq!(go(&mut turns), [4]);
    }

    #[test]
    fn what_goes_alone_waits_until_nothing_else_is_on_its_way() {
        let mut turns = Turns::new(SHARE);
        let mut suspect = come(&mut turns, 1).expect("nothing is before it");
        turns.landed(1);
        suspect.alone = true;
        turns.again(suspect);
        assert!(turns.next(false).is_pending());
        assert!(matches!(turns.next(true), Poll::Ready(Some(job)) if job.sequence == 1));
    }

    #[test]
    fn all_that_waits_is_given_back() {
        let mut turns = Turns::new(SHARE);
        let flights: Vec<Job> = (0..5).filter_map(|_| come(&mut turns, 1)).collect();
        for job in flights {
            turns.landed(1);
            turns.again(job);
        }
        let mut sequences: Vec<u64> = turns.into_jobs().map(|job| job.sequence).collect();
        sequences.sort_unstable();
        assert_eq!(sequences, [1, 2, 3, 4, 5]);
    }
}
