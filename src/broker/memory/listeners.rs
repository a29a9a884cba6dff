//! Who listens to topics and to what is sent to users.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use super::queue::Queue;
use super::{own, read, write};
use crate::broker::topics::TopicIndex;
use crate::broker::{SharedSource, Subscriber};
use crate::message::{Pattern, Text};

/// Somebody who gets copies.
#[derive(Clone)]
pub(super) enum Listener {
    /// Called at once.
    Subscriber(Arc<dyn Subscriber>),
    /// Stored for its reader.
    Queue(Arc<Queue>),
}

/// All listeners. Its lock is held for a lookup only; what is found is cloned out.
#[derive(Default)]
pub(super) struct Listeners(RwLock<Index>);

#[derive(Default)]
struct Index {
    topics: TopicIndex<Listener>,
    users: HashMap<Text, TopicIndex<Listener>>,
}

impl Listeners {
    /// Lets somebody listen. Everything published after this reaches them.
    pub(super) fn insert(&self, source: &SharedSource, key: u64, listener: Listener) {
        let mut index = write(&self.0);
        match source {
            SharedSource::Topic(pattern) => index.topics.insert(pattern, key, listener),
            SharedSource::User { user, name } => {
                index.users.entry(own(user)).or_default().insert(name, key, listener);
            }
            SharedSource::Exchange { .. } => {} // refused before it comes here
        }
    }

    /// Ends what [`Listeners::insert`] began.
    pub(super) fn remove(&self, source: &SharedSource, key: u64) {
        let mut index = write(&self.0);
        let gone = match source {
            SharedSource::Topic(pattern) => index.topics.remove(pattern, key),
            SharedSource::User { user, name } => index.remove_from_user(user, name, key),
            SharedSource::Exchange { .. } => None,
        };
        drop(index);
        drop(gone); // it may be the last one to hold the subscriber, whose end is no business of our lock
    }

    /// Moves a listener from one pattern to another; no message finds it at both or at none.
    pub(super) fn rebind(&self, from: &Pattern, to: &Pattern, key: u64) {
        let mut index = write(&self.0);
        if let Some(listener) = index.topics.remove(from, key) {
            index.topics.insert(to, key, listener);
        }
    }

    /// Who listens to this topic.
    pub(super) fn of_topic(&self, name: &Pattern) -> Vec<Listener> {
        let mut found = Vec::new();
        read(&self.0).topics.find(name, &mut found);
        found
    }

    /// Who listens to what is sent to this user under this name.
    pub(super) fn of_user(&self, user: &Text, name: &Pattern) -> Vec<Listener> {
        let mut found = Vec::new();
        if let Some(index) = read(&self.0).users.get(user) {
            index.find(name, &mut found);
        }
        found
    }

    /// Takes everybody out.
    pub(super) fn take_all(&self) -> Vec<Listener> {
        let index = std::mem::take(&mut *write(&self.0));
        index.topics.all().chain(index.users.values().flat_map(TopicIndex::all)).cloned().collect()
    }
}

impl Index {
    fn remove_from_user(&mut self, user: &Text, name: &Pattern, key: u64) -> Option<Listener> {
        let index = self.users.get_mut(user)?;
        let gone = index.remove(name, key);
        if index.is_empty() {
            self.users.remove(user);
        }
        gone
    }
}
