//! What a rule is about, in one form for all kinds of destinations.

use super::{Action, ForeignReply, Naming, Subject};
use crate::message::{Destination, Pattern, Usage, is_reply_address};

/// Kinds of resources that rules tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Topic,
    /// However it is reached. Its name is one segment.
    Queue,
    /// Its first segment is the exchange, the others are the words of the routing key.
    Exchange,
    /// Its first segment is the user, the second `queue` or `topic`.
    User,
    Application,
}

impl Kind {
    pub(super) const ALL: [Kind; 5] = [Kind::Topic, Kind::Queue, Kind::Exchange, Kind::User, Kind::Application];
}

/// One resource, or as many as a pattern stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) kind: Kind,
    /// Begins with [`ROOT`].
    pub(super) pattern: Pattern,
    /// A topic of the broker's own (`$SYS/…`), which a wildcard that allows does not stand for.
    pub(super) is_system: bool,
}

/// A first segment that all have, so that no wildcard of a rule is a leading one, which would not match `$`-names.
pub(super) const ROOT: &str = "-";

impl Resource {
    /// What a destination of this session means; nothing for what is the session's own, or was handed to it.
    pub(super) fn of(
        destination: &Destination,
        action: Action,
        subject: Subject<'_>,
        naming: &Naming,
    ) -> Option<Resource> {
        Some(match destination {
            Destination::Topic(pattern) => Self::topic(pattern),
            Destination::Queue(name) | Destination::ExistingQueue(name) => Self::queue(name),
            Destination::Exchange { exchange, key } => {
                // Without a key a fanout exchange gives everything.
                let key = if key.is_empty() && action == Action::Subscribe { "#" } else { key };
                Self::exchange(exchange, key, action, naming)
            }
            Destination::User { user, name } => {
                let user = user.as_ref().unwrap_or(&subject.principal.name);
                Self::below(Kind::User, &format!("{}/{name}", Pattern::name([&**user].into_iter())))
            }
            Destination::Application(pattern) => Self::below(Kind::Application, pattern.as_str()),
            Destination::TemporaryQueue(_) => return None,
            Destination::ReplyQueue(name) => return Self::reply(name, naming),
        })
    }

    /// What a `reply-to` other than a temporary queue means: a destination, or a name at the broker.
    pub(super) fn of_reply_to(reply_to: &str, subject: Subject<'_>, naming: &Naming) -> Option<Resource> {
        match Destination::parse(reply_to, Usage::Send, naming.separators) {
            Ok(destination) => Self::of(&destination, Action::Send, subject, naming),
            Err(_) => Self::reply(reply_to, naming),
        }
    }

    /// Where messages go that a queue gives up. Without a key they keep their own, which may be any.
    pub(super) fn of_dead_letters(exchange: &str, key: Option<&str>, naming: &Naming) -> Resource {
        match (exchange, key) {
            ("", Some(queue)) => Self::queue(queue),
            ("", None) => Self::below(Kind::Queue, "+"),
            (exchange, Some(key)) => Self::exchange(exchange, key, Action::Send, naming),
            (exchange, None) => Self::exchange(exchange, "#", Action::Subscribe, naming),
        }
    }

    /// Somebody's reply address. Those of gateways are as good as a permission: 128 random bits.
    fn reply(name: &str, naming: &Naming) -> Option<Resource> {
        if is_reply_address(name) {
            return None;
        }
        match naming.foreign_reply {
            ForeignReply::Nothing => None,
            ForeignReply::Queue => Some(Self::queue(name)),
            ForeignReply::Topic => Some(Self::topic(&Pattern::name(name.split('/')))),
        }
    }

    fn topic(pattern: &Pattern) -> Resource {
        let is_system = pattern.first().starts_with('$');
        Resource { is_system, ..Self::below(Kind::Topic, pattern.as_str()) }
    }

    fn queue(name: &str) -> Resource {
        Self::below(Kind::Queue, Pattern::name([name].into_iter()).as_str())
    }

    fn exchange(exchange: &str, key: &str, action: Action, naming: &Naming) -> Resource {
        let key = routing_key(key, action);
        if naming.topic_exchange.as_ref().is_some_and(|known| **known == *exchange) {
            return Self::topic(&key);
        }
        Self::below(Kind::Exchange, &format!("{}/{key}", Pattern::name([exchange].into_iter())))
    }

    fn below(kind: Kind, canonical: &str) -> Resource {
        Resource { kind, pattern: rooted(canonical), is_system: false }
    }
}

/// A routing key as a topic; of one that binds, the words `*` and `#` are wildcards.
fn routing_key(key: &str, action: Action) -> Pattern {
    let words: Vec<_> = key
        .split('.')
        .map(|word| match word {
            "*" if action == Action::Subscribe => "+".to_owned(),
            "#" if action == Action::Subscribe => "#".to_owned(),
            word => Pattern::name([word].into_iter()).to_string(),
        })
        .collect();
    Pattern::canonical(words.join("/"))
}

/// Below the root. A `#` alone is one segment at least: nothing has no name.
pub(super) fn rooted(canonical: &str) -> Pattern {
    let canonical = if canonical == "#" { "+/#" } else { canonical };
    Pattern::canonical(format!("{ROOT}/{canonical}"))
}
