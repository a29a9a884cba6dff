//! From destinations to MQTT's topics and filters and back, and the names of our own.

use ring::digest::{Context, SHA256};

use crate::broker::BrokerError;
use crate::broker::base64::base64url;
use crate::message::{Destination, Pattern, Segment, Text, decode, is_open_to_wildcards};

/// Topics of these names are somebody's private reply address.
const REPLY: &str = "stompgate/reply/";
/// Below it are messages of the gateway to itself.
pub(super) const FENCES: &str = "stompgate/fence/";
/// Below it gateways say which sessions they go on with.
pub(super) const SESSIONS: &str = "stompgate/session/";
/// Nobody subscribes to it: the broker's answer when that is given up is a sign of life, and asks for no rights.
pub(super) const NOBODY: &str = "stompgate/fence/nobody";
const USER: &str = "stompgate/user/";
const QUEUE: &str = "queue/";
/// The first segment of the topics behind `/queue`.
const QUEUE_SEGMENT: &str = "queue";
const SYSTEM: &str = "$SYS";
/// The levels of `$share/<group>/queue`.
const SHARED_LEVELS: usize = 3;
/// The longest topic (MQTT 5, §1.5.4).
const LONGEST: usize = 65_535;

/// Which topics are open to clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// `$SYS/…` may be read.
    pub(super) system_topics: bool,
    /// Levels of a topic or filter. Brokers close the connection for more, and it is everybody's.
    pub(super) max_levels: usize,
}

/// A filter, and whether it stands for more than the pattern it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) filter: String,
    pub(super) is_wider: bool,
}

impl Names {
    /// The topic behind the destination of a SEND.
    pub(super) fn topic(self, destination: &Destination) -> Result<String, BrokerError> {
        match destination {
            Destination::Topic(name) => {
                check_first(name)?;
                if name.first().starts_with('$') {
                    return Err(unsupported(format!("SEND to /topic/{name}"), "these topics are the broker's own"));
                }
                self.plain(name)
            }
            Destination::Queue(name) => self.queue(name),
            Destination::User { user: Some(user), name } => self.expressible(of_user(user, name).as_str().to_owned()),
            Destination::ReplyQueue(name) => self.reply(name),
            Destination::User { user: None, .. } => Err(unsupported("/user without a name".to_owned(), INSTEAD)),
            Destination::TemporaryQueue(_) => Err(unsupported("SEND to /temp-queue".to_owned(), INSTEAD)),
            Destination::Application(_) => Err(unsupported("SEND to /app".to_owned(), INSTEAD)),
            Destination::Exchange { .. } => Err(no_exchanges()),
            Destination::ExistingQueue(_) => Err(unsupported("/amq/queue".to_owned(), NOT_AMQP)),
        }
    }

    /// The filter that stands for a topic or a pattern of `/topic`. What comes is matched again.
    pub(super) fn filter(self, pattern: &Pattern) -> Result<Wanted, BrokerError> {
        check_first(pattern)?;
        if pattern.first().starts_with('$') && !(self.system_topics && pattern.first() == SYSTEM) {
            let why = "topics that begin with a dollar sign are the broker's own; the setting \
                       broker.mqtt.system_topics opens $SYS";
            return Err(unsupported(format!("/topic/{pattern}"), why));
        }
        self.widened(pattern, plain_segment)
    }

    /// The filter for what is sent to one user. The names below are ours, so they stay as they are written in there.
    pub(super) fn user_filter(self, user: &str, name: &Pattern) -> Result<Wanted, BrokerError> {
        self.widened(&of_user(user, name), |segment| Ok(Text::from(segment)))
    }

    /// The topic behind a queue.
    pub(super) fn queue(self, name: &Text) -> Result<String, BrokerError> {
        if name.contains(['+', '#']) {
            return Err(unsupported(format!("the queue {name:?}"), "on MQTT + and # are wildcards"));
        }
        self.check_levels(name, SHARED_LEVELS)?;
        self.expressible(format!("{QUEUE}{name}"))
    }

    /// A reply address: one of ours, or the response topic of a program that speaks MQTT itself.
    fn reply(self, name: &Text) -> Result<String, BrokerError> {
        if name.starts_with(REPLY) && !name.contains(['+', '#']) {
            return self.expressible(name.to_string());
        }
        if name.contains(['+', '#']) {
            return Err(unsupported(format!("/reply-queue/{name}"), "a topic to publish to has no wildcards"));
        }
        let topic = Pattern::name(name.split('/'));
        if !is_open_to_wildcards(topic.first()) {
            return Err(unsupported(format!("/reply-queue/{name}"), "it is no reply address"));
        }
        self.topic(&Destination::Topic(topic))
    }

    fn widened(
        self,
        pattern: &Pattern,
        literal: impl Fn(&str) -> Result<Text, BrokerError>,
    ) -> Result<Wanted, BrokerError> {
        let mut filter = String::with_capacity(pattern.as_str().len());
        let mut is_wider = false;
        let mut is_everything = true;
        let mut segments = pattern.segments().peekable();
        while let Some(segment) = segments.next() {
            if !filter.is_empty() {
                filter.push('/');
            }
            match segment {
                Segment::Literal(text) => {
                    is_everything = false;
                    filter.push_str(&literal(text)?);
                }
                Segment::One => filter.push('+'),
                Segment::Glob(_) => {
                    is_wider = true;
                    filter.push('+');
                }
                Segment::Many => {
                    filter.push('#');
                    is_wider |= segments.peek().is_some();
                    if is_wider && is_everything {
                        let why =
                            "MQTT has # at the end only, so this would read everything there is; begin with a name";
                        return Err(unsupported(format!("the pattern {pattern}"), why));
                    }
                    break;
                }
            }
        }
        Ok(Wanted { filter: self.expressible(filter)?, is_wider })
    }

    fn plain(self, name: &Pattern) -> Result<String, BrokerError> {
        let mut topic = String::with_capacity(name.as_str().len());
        for (index, segment) in name.as_str().split('/').enumerate() {
            if index > 0 {
                topic.push('/');
            }
            topic.push_str(&plain_segment(segment)?);
        }
        self.expressible(topic)
    }

    fn expressible(self, topic: String) -> Result<String, BrokerError> {
        if topic.is_empty() || topic.len() > LONGEST {
            return Err(BrokerError::Rejected(format!(
                "the topic has {} bytes; MQTT allows 1 to {LONGEST}",
                topic.len()
            )));
        }
        if !is_text(&topic) {
            return Err(BrokerError::Rejected(
                "the topic has a control character, which MQTT does not allow".to_owned(),
            ));
        }
        self.check_levels(&topic, 0)?;
        Ok(topic)
    }

    /// Whether a topic has few enough levels, with so many before it.
    fn check_levels(self, topic: &str, before: usize) -> Result<(), BrokerError> {
        if before + topic.split('/').count() <= self.max_levels {
            return Ok(());
        }
        let what = "levels of a topic".to_owned();
        Err(BrokerError::LimitExceeded { what, limit: self.max_levels, setting: "broker.mqtt.max_topic_levels" })
    }
}

const INSTEAD: &str = "it never reaches a broker by itself; use /queue/… or /topic/…";
const NOT_AMQP: &str = "it is a thing of AMQP; on MQTT use /queue/… or /topic/…";

/// The name, among all topics, of `name` for this user.
pub(super) fn of_user(user: &str, name: &Pattern) -> Pattern {
    Pattern::canonical(format!("{USER}{}/{name}", base64url(user.as_bytes())))
}

/// What a topic means that a message came from: how it is matched, and where it was sent.
pub(super) fn read(topic: &str) -> Option<(Pattern, Destination)> {
    if let Some(rest) = topic.strip_prefix(USER) {
        // Below it is text as we wrote it.
        let (_, name) = rest.split_once('/')?;
        let name = Pattern::canonical(name.to_owned());
        return Some((Pattern::canonical(topic.to_owned()), Destination::User { user: None, name }));
    }
    if is_reply(topic) {
        return Some((Pattern::name(topic.split('/')), Destination::ReplyQueue(Text::from(topic))));
    }
    if topic.starts_with(QUEUE) {
        return None; // read as /queue only, even by a wildcard
    }
    let name = Pattern::name(topic.split('/'));
    Some((name.clone(), Destination::Topic(name)))
}

/// Whether this is a reply address that was handed out, here or elsewhere.
pub(super) fn is_reply(topic: &str) -> bool {
    topic.starts_with(REPLY)
}

/// Characters that MQTT advises against (5, §1.5.4) and brokers close the connection for.
pub(super) fn is_text(text: &str) -> bool {
    let is_noncharacter = |code: u32| (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe;
    !text.chars().any(|character| character.is_control() || is_noncharacter(character as u32))
}

fn check_first(pattern: &Pattern) -> Result<(), BrokerError> {
    if pattern.first() == QUEUE_SEGMENT {
        let why = "on MQTT, topics below queue/ are those of the queues; use /queue/…";
        return Err(unsupported(format!("/topic/{pattern}"), why));
    }
    Ok(())
}

/// `%XX` decoded; what means something in a filter cannot be a plain character.
fn plain_segment(segment: &str) -> Result<Text, BrokerError> {
    let text = decode(segment).unwrap_or_default();
    if text.contains(['/', '+', '#']) {
        let why = "on MQTT a slash separates segments, and + and # are wildcards";
        return Err(unsupported(format!("the segment {text:?} of a topic"), why));
    }
    Ok(Text::from(&*text))
}

/// A reply address that nobody else has or guesses: 128 random bits.
pub(super) fn new_reply(node: &str) -> Result<String, BrokerError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| BrokerError::Unavailable)?;
    Ok(format!("{REPLY}{node}/{}", base64url(&bytes)))
}

/// The name of a session, the same wherever it is asked for: these parts and no others make it.
pub(super) fn session(prefix: &str, kind: &str, parts: &[&str]) -> String {
    let mut all = Context::new(&SHA256);
    for part in parts {
        all.update(&part.len().to_be_bytes());
        all.update(part.as_bytes());
    }
    format!("{prefix}-{kind}-{}", base64url(&all.finish().as_ref()[..16]))
}

/// MQTT has no exchanges.
pub(super) fn no_exchanges() -> BrokerError {
    unsupported("/exchange".to_owned(), NOT_AMQP)
}

fn unsupported(what: String, why: &str) -> BrokerError {
    BrokerError::Unsupported { what, why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names { system_topics: false, max_levels: 10 };

    fn filter(pattern: &str) -> Result<Wanted, BrokerError> {
        NAMES.filter(&Pattern::canonical(pattern.to_owned()))
    }

    fn topic(name: &str) -> Result<String, BrokerError> {
        NAMES.topic(&Destination::Topic(Pattern::canonical(name.to_owned())))
    }

    #[test]
    fn a_topic_comes_back_as_it_went() {
        for name in ["a", "a/b", "a%2Eb/c", "50%25", "a//b", "%2A"] {
            let (matched, destination) = read(&topic(name).unwrap()).unwrap();
            assert_eq!(destination, Destination::Topic(Pattern::canonical(name)));
            assert_eq!(matched, Pattern::canonical(name));
        }
        assert_eq!(topic("a%2Eb/c").unwrap(), "a.b/c");
    }

    #[test]
    fn a_filter_is_never_narrower_than_its_pattern() {
        for (pattern, expected, is_wider) in [
            ("a/+/#", "a/+/#", false),
            ("#", "#", false),
            ("+/#", "+/#", false),
            ("a/#/c", "a/#", true),
            ("a/b*/c", "a/+/c", true),
            ("b*/c", "+/c", true),
        ] {
            assert_eq!(filter(pattern).unwrap(), Wanted { filter: expected.to_owned(), is_wider });
        }
        for everything in ["#/c", "+/#/c", "b*/#"] {
            assert!(matches!(filter(everything), Err(BrokerError::Unsupported { .. })), "{everything}");
        }
    }

    #[test]
    fn what_is_not_for_clients_is_closed() {
        for closed in ["$SYS/#", "$share/g/a", "queue/a", "queue/#"] {
            assert!(filter(closed).is_err(), "{closed}");
        }
        let open = Names { system_topics: true, ..NAMES };
        assert!(open.filter(&Pattern::canonical("$SYS/#")).is_ok());
        assert!(open.filter(&Pattern::canonical("$share/g/a")).is_err());
        for closed in ["$SYS/a", "queue/a", "a%2Fb", "a%2B", "a\nb"] {
            assert!(topic(closed).is_err(), "{closed:?}");
        }
        assert_eq!(read("queue/a"), None);
    }

    #[test]
    fn a_reply_goes_to_an_address_and_nowhere_else() {
        let to = |name: &str| NAMES.topic(&Destination::ReplyQueue(name.to_owned().into()));
        assert_eq!(to("stompgate/reply/n/t").unwrap(), "stompgate/reply/n/t");
        assert_eq!(to("device/7/answers").unwrap(), "device/7/answers");
        for closed in ["stompgate/user/x/queue/a", "stompgate/reply/#", "queue/a", "$SYS/a", "a/+"] {
            assert!(to(closed).is_err(), "{closed}");
        }
    }

    #[test]
    fn a_topic_has_no_more_levels_than_the_broker_takes() {
        let levels = |count: usize| vec!["a"; count].join("/");
        let queue = |count| NAMES.topic(&Destination::Queue(levels(count).into()));
        let user = |count| NAMES.user_filter("u", &Pattern::canonical(levels(count)));
        assert!(topic(&levels(10)).is_ok() && filter(&levels(10)).is_ok() && user(7).is_ok());
        // Whoever reads it writes $share/<group>/ before it.
        assert!(queue(7).is_ok());
        let refused = [topic(&levels(11)), queue(8), filter(&levels(11)).map(|wanted| wanted.filter)];
        for refused in refused.into_iter().chain([user(8).map(|wanted| wanted.filter)]) {
            assert!(matches!(refused, Err(BrokerError::LimitExceeded { limit: 10, .. })), "{refused:?}");
        }
    }

    #[test]
    fn sessions_have_names_that_do_not_run_together() {
        let name = session("g", "durable", &["a", "bc"]);
        assert_eq!(name, session("g", "durable", &["a", "bc"]));
        assert_ne!(name, session("g", "durable", &["ab", "c"]));
        assert!(name.starts_with("g-durable-") && name.len() == 32, "{name}");
    }

    #[test]
    fn users_have_topics_below_their_names() {
        let name = Pattern::canonical("queue/a%2Fb");
        let wanted = NAMES.user_filter("a/b", &name).unwrap();
        assert_eq!(wanted, Wanted { filter: "stompgate/user/YS9i/queue/a%2Fb".to_owned(), is_wider: false });
        let (matched, destination) = read(&wanted.filter).unwrap();
        assert_eq!(destination, Destination::User { user: None, name: name.clone() });
        assert_eq!(matched, of_user("a/b", &name));
    }
}
