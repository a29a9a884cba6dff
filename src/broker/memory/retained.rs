//! Retained messages: the last value of each topic that has one.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use tokio::time::Instant;

use super::settings::Settings;
use crate::broker::BrokerError;
use crate::message::{Destination, Message, Pattern, Segment, Text};

/// The last values, by topic.
#[derive(Debug)]
pub(super) struct Retained {
    kept: BTreeMap<Text, Kept>,
    bytes: usize,
    max: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Kept {
    message: Arc<Message>,
    expires: Option<Instant>,
}

impl Retained {
    /// Nothing yet, and room for as much as the settings say.
    pub(super) fn new(settings: &Settings) -> Self {
        let (max, max_bytes) = (settings.max_retained, settings.max_retained_bytes);
        Retained { kept: BTreeMap::new(), bytes: 0, max, max_bytes }
    }

    /// How many there are, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.kept.len(), self.bytes)
    }

    /// Whether those of `messages` that are to be retained fit, one after the other.
    pub(super) fn admit<'a>(&self, messages: impl Iterator<Item = &'a Message>) -> Result<(), BrokerError> {
        let mut changes: HashMap<&str, Option<usize>> = HashMap::new();
        let (mut count, mut bytes) = (self.kept.len(), self.bytes);
        for message in messages.filter(|message| message.options.retain) {
            let Destination::Topic(name) = &message.destination else { continue };
            let known = self.kept.get(name.as_str()).map(|kept| kept.message.size());
            let before = changes.get(name.as_str()).copied().unwrap_or(known);
            let after = (!message.body.is_empty()).then(|| message.size());
            count = count + usize::from(after.is_some()) - usize::from(before.is_some());
            bytes = bytes + after.unwrap_or(0) - before.unwrap_or(0);
            if after.is_some() && (count > self.max || bytes > self.max_bytes) {
                return Err(self.full(count > self.max));
            }
            changes.insert(name.as_str(), after);
        }
        Ok(())
    }

    /// Keeps a message as the last value of its topic, or forgets that value if the body is empty.
    pub(super) fn keep(&mut self, message: &Arc<Message>) {
        let Destination::Topic(name) = &message.destination else { return };
        self.forget(name.as_str());
        if message.body.is_empty() {
            return;
        }
        let expires = message.options.expiration.and_then(|after| Instant::now().checked_add(after));
        self.bytes += message.size();
        // The message was detached, and its name with it: a clone keeps no read buffer.
        self.kept.insert(name.text().clone(), Kept { message: Arc::clone(message), expires });
    }

    /// The last values of all topics that match.
    pub(super) fn matching(&self, pattern: &Pattern) -> Vec<Arc<Message>> {
        let now = Instant::now();
        let prefix = literal_prefix(pattern);
        let from = self.kept.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        from.take_while(|(name, _)| name.starts_with(&prefix))
            .filter(|(name, kept)| kept.is_alive(now) && pattern.matches(&Pattern::canonical((*name).clone())))
            .map(|(_, kept)| Arc::clone(&kept.message))
            .collect()
    }

    /// Whether no topic has one.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Forgets what is expired.
    pub(super) fn sweep(&mut self) {
        let now = Instant::now();
        let bytes = &mut self.bytes;
        self.kept.retain(|_, kept| {
            let alive = kept.is_alive(now);
            *bytes -= if alive { 0 } else { kept.message.size() };
            alive
        });
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }

    fn forget(&mut self, name: &str) {
        if let Some(kept) = self.kept.remove(name) {
            self.bytes -= kept.message.size();
        }
    }

    fn full(&self, in_number: bool) -> BrokerError {
        let (max, unit, setting) = if in_number {
            (self.max, "topics", "broker.memory.max_retained")
        } else {
            (self.max_bytes, "bytes", "broker.memory.max_retained_bytes")
        };
        BrokerError::Rejected(format!("retained messages are full: {max} {unit} at most (setting {setting})"))
    }
}

impl Kept {
    fn is_alive(&self, now: Instant) -> bool {
        self.expires.is_none_or(|at| at > now)
    }
}

/// What every name begins with that `pattern` matches.
fn literal_prefix(pattern: &Pattern) -> String {
    let literal = |segment| match segment {
        Segment::Literal(name) => Some(name),
        _ => None,
    };
    pattern.segments().map_while(literal).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Headers, PublishOptions};
    use bytes::Bytes;

    fn message(topic: &'static str, body: &'static str) -> Arc<Message> {
        Arc::new(Message {
            destination: Destination::Topic(Pattern::canonical(topic)),
            headers: Headers::new(),
            body: Bytes::from_static(body.as_bytes()),
            options: PublishOptions { retain: true, ..PublishOptions::default() },
        })
    }

    fn retained(max: usize, max_bytes: usize) -> Retained {
        Retained::new(&Settings { max_retained: max, max_retained_bytes: max_bytes, ..Settings::default() })
    }

    fn keep(retained: &mut Retained, topic: &'static str, body: &'static str) {
        retained.keep(&message(topic, body));
    }

    fn bodies(retained: &Retained, pattern: &'static str) -> Vec<Bytes> {
        retained.matching(&Pattern::canonical(pattern)).iter().map(|message| message.body.clone()).collect()
    }

    #[test]
    fn the_last_value_of_each_topic_that_matches() {
        let mut retained = retained(9, 99);
        for (topic, body) in [("a/b", "old"), ("a/b", "1"), ("a", "2"), ("ab", "3"), ("b/a/c", "4"), ("$SYS/a", "5")] {
            keep(&mut retained, topic, body);
        }
        assert_eq!(bodies(&retained, "a/#"), ["2", "1"]);
        assert_eq!(bodies(&retained, "a/b"), ["1"]);
        assert_eq!(bodies(&retained, "#"), ["2", "1", "3", "4"]);
        keep(&mut retained, "a/b", "");
        assert_eq!(bodies(&retained, "a/#"), ["2"]);
    }

    #[test]
    fn a_replacement_takes_no_second_place() {
        let mut retained = retained(2, 8); // names count, too
        keep(&mut retained, "a", "xxx");
        keep(&mut retained, "b", "xxx");
        assert_eq!(retained.admit([&*message("a", "yyy")].into_iter()), Ok(()));
        let error = retained.admit([&*message("c", "z")].into_iter()).unwrap_err().to_string();
        assert!(error.contains("broker.memory.max_retained)"), "{error}");
        let error = retained.admit([&*message("a", "yyyy")].into_iter()).unwrap_err().to_string();
        assert!(error.contains("broker.memory.max_retained_bytes"), "{error}");
        let swap = [message("a", ""), message("c", "zzz")];
        assert_eq!(retained.admit(swap.iter().map(|message| &**message)), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_expires() {
        let mut retained = retained(9, 99);
        let mut brief = Message::clone(&message("a", "x"));
        brief.options.expiration = Some(std::time::Duration::from_secs(1));
        retained.keep(&Arc::new(brief));
        assert_eq!(bodies(&retained, "#"), ["x"]);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert!(bodies(&retained, "#").is_empty());
        retained.sweep();
        assert_eq!(retained.bytes, 0);
    }
}
