//! Destinations: from what a client writes to what it means, and back.

use std::fmt;

use super::headers::detached;
use super::pattern::{SEGMENT_SPECIAL, decode, encode};
use super::{Pattern, Refusal, Text};

/// The resource that a destination header resolves to. Everything after the parser sees this, never the spelling.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// `/topic/K`: every subscriber gets a copy.
    Topic(Pattern),
    /// `/queue/N`: one subscriber gets it.
    Queue(Text),
    /// `/exchange/E/K`: an AMQP exchange that exists, and a routing key or binding pattern in AMQP's own spelling.
    Exchange {
        /// Name of the exchange.
        exchange: Text,
        /// Routing key or pattern; may be empty.
        key: Text,
    },
    /// `/amq/queue/N`: a queue that exists and is never declared.
    ExistingQueue(Text),
    /// `/temp-queue/X`: the session's own reply address of that name.
    TemporaryQueue(Text),
    /// `/reply-queue/Q`: somebody's reply address.
    ReplyQueue(Text),
    /// `/user/queue/X` and `/user/topic/X`: what is sent to one user.
    User {
        /// Whose. `None` in a SUBSCRIBE, where it is always the principal itself.
        user: Option<Text>,
        /// `queue/X` or `topic/X`, in canonical form.
        name: Pattern,
    },
    /// `/app/…`: a handler of the interceptor chain.
    Application(Pattern),
}

/// What a client wants with a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To send to it: no wildcards.
    Send,
    /// To read from it.
    Subscribe,
}

/// Which characters separate segments in `/topic`, `/user/topic` and `/app`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Separators {
    /// `/` and `.` alike: `/topic/a/b` and `/topic/a.b` are one resource.
    #[default]
    #[serde(rename = "/.")]
    Both,
    /// Only `/`; a dot is part of a name.
    #[serde(rename = "/")]
    Slash,
    /// Only `.`; a slash is part of a name.
    #[serde(rename = ".")]
    Dot,
    /// `.` and `/`, but a `/` in a `/topic` is refused, as RabbitMQ's plugin does (`broker.amqp.topic_slash`).
    #[serde(skip)]
    NoSlashInTopics,
}

impl Separators {
    /// Whether this character separates segments.
    pub(crate) fn has(self, character: char) -> bool {
        match self {
            Separators::Both | Separators::NoSlashInTopics => character == '/' || character == '.',
            Separators::Slash => character == '/',
            Separators::Dot => character == '.',
        }
    }
}

/// How to write a resource for a reader: with the separator which that reader used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spelling {
    /// `a/b`, dots in names encoded.
    Slash,
    /// `a.b`, slashes in names encoded.
    Dot,
    /// `a/b`, and dots in names are plain ([`Separators::Slash`]).
    SlashOnly,
    /// `a.b`, and slashes in names are plain ([`Separators::Dot`]).
    DotOnly,
}

const KINDS: &str = "/topic/, /queue/, /exchange/, /amq/queue/, /temp-queue/, /reply-queue/, /user/ or /app/";
const NAME_SPECIAL: &[char] = &['%', '*', '+', '#'];

impl Destination {
    /// Resolves the value of a `destination` header.
    ///
    /// # Errors
    /// `unknown-destination` for a kind that does not exist, `invalid-destination` for anything that is not a name
    /// of its kind: nothing after the prefix, a bad `%XX`, a wildcard where none may be, a reserved name.
    pub fn parse(spelling: &str, usage: Usage, separators: Separators) -> Result<Self, Refusal> {
        let invalid = |why: &str| Refusal::invalid_destination(spelling, why);
        let name = |rest: &str| queue_name(rest).map_err(invalid);
        let pattern = |rest: &str| parse_pattern(rest, usage, separators).map_err(invalid);

        let Some((kind, rest)) = spelling.strip_prefix('/').and_then(|path| path.split_once('/')) else {
            return Err(Refusal::unknown_destination(spelling, KINDS));
        };
        match kind {
            "topic" if separators == Separators::NoSlashInTopics && rest.contains('/') => {
                Err(invalid("a slash in a topic's name is refused here (broker.amqp.topic_slash); write a dot"))
            }
            "topic" => pattern(rest).map(Destination::Topic),
            "queue" => name(rest).map(Destination::Queue),
            "exchange" => parse_exchange(rest, usage).map_err(invalid),
            "amq" => match rest.strip_prefix("queue/") {
                Some(rest) => name(rest).map(Destination::ExistingQueue),
                None => Err(Refusal::unknown_destination(spelling, KINDS)),
            },
            "temp-queue" if usage == Usage::Send => Err(invalid(
                "a temporary queue is named in reply-to, or subscribed to; nothing is sent to it by that name",
            )),
            "temp-queue" => name(rest).map(Destination::TemporaryQueue),
            "reply-queue" if usage == Usage::Subscribe => {
                Err(invalid("a reply queue belongs to the session that asked; subscribe to /temp-queue/ instead"))
            }
            // Handed out by a broker and opaque: no decoding, no wildcards, no rules.
            "reply-queue" if rest.is_empty() => Err(invalid("a name is missing after the last slash")),
            "reply-queue" if !is_reply_address(rest) => {
                check_reserved(rest).map(|()| Destination::ReplyQueue(Text::from(rest))).map_err(invalid)
            }
            "reply-queue" => Ok(Destination::ReplyQueue(Text::from(rest))),
            "user" => parse_user(rest, usage, separators).map_err(invalid),
            "app" => pattern(rest).map(Destination::Application),
            _ => Err(Refusal::unknown_destination(spelling, KINDS)),
        }
    }

    /// Whether this one, which may be a pattern, is about that concrete one.
    pub fn is_about(&self, other: &Destination) -> bool {
        match (self, other) {
            (Destination::Topic(pattern), Destination::Topic(name))
            | (Destination::Application(pattern), Destination::Application(name))
            | (Destination::User { name: pattern, .. }, Destination::User { name, .. }) => pattern.matches(name),
            // What a key matches is known to the broker alone: it is about all of an exchange, or one routing key.
            (Destination::Exchange { exchange, key: any }, Destination::Exchange { exchange: of, .. }) => {
                self == other || (any.is_empty() && exchange == of)
            }
            _ => self == other,
        }
    }

    /// Writes it as a client would.
    pub fn spelled(&self, spelling: Spelling) -> Text {
        match self {
            Destination::Topic(pattern) => format!("/topic/{}", respell(pattern.as_str(), spelling)),
            Destination::Queue(name) => format!("/queue/{}", encode(name, NAME_SPECIAL)),
            Destination::Exchange { exchange, key } if key.is_empty() => {
                format!("/exchange/{}", encode(exchange, SEGMENT_SPECIAL))
            }
            Destination::Exchange { exchange, key } => {
                format!("/exchange/{}/{}", encode(exchange, &['%', '/', '*', '+', '#']), encode(key, &['%']))
            }
            Destination::ExistingQueue(name) => format!("/amq/queue/{}", encode(name, NAME_SPECIAL)),
            Destination::TemporaryQueue(name) => format!("/temp-queue/{}", encode(name, NAME_SPECIAL)),
            Destination::ReplyQueue(name) => format!("/reply-queue/{name}"),
            // Readers see their own messages without their own name (contract, §9).
            Destination::User { name, .. } => match name.as_str().split_once('/') {
                Some(("topic", rest)) => format!("/user/topic/{}", respell(rest, spelling)),
                Some((kind, rest)) => format!("/user/{kind}/{}", rest.replace("%2F", "/").replace("%2E", ".")),
                None => format!("/user/{name}"),
            },
            Destination::Application(pattern) => format!("/app/{}", respell(pattern.as_str(), spelling)),
        }
        .into()
    }

    /// How the reader who wrote `spelling` wants to read destinations.
    pub fn spelling_of(spelling: &str, separators: Separators) -> Spelling {
        let rest = spelling.trim_start_matches("/user").trim_start_matches("/topic/").trim_start_matches("/app/");
        match separators {
            Separators::Slash => Spelling::SlashOnly,
            Separators::Dot => Spelling::DotOnly,
            Separators::Both | Separators::NoSlashInTopics if rest.contains('.') && !rest.contains('/') => {
                Spelling::Dot
            }
            Separators::NoSlashInTopics if spelling.starts_with("/topic/") => Spelling::Dot,
            Separators::Both | Separators::NoSlashInTopics => Spelling::Slash,
        }
    }

    /// Bytes of its names.
    pub(super) fn size(&self) -> usize {
        match self {
            Destination::Topic(pattern) | Destination::Application(pattern) => pattern.as_str().len(),
            Destination::Queue(name)
            | Destination::ExistingQueue(name)
            | Destination::TemporaryQueue(name)
            | Destination::ReplyQueue(name) => name.len(),
            Destination::Exchange { exchange, key } => exchange.len() + key.len(),
            Destination::User { user, name } => user.as_ref().map_or(0, |user| user.len()) + name.as_str().len(),
        }
    }

    /// Copies its names into memory of their own.
    pub(super) fn detach(&mut self) {
        match self {
            Destination::Topic(pattern) | Destination::Application(pattern) => pattern.detach(),
            Destination::Queue(name)
            | Destination::ExistingQueue(name)
            | Destination::TemporaryQueue(name)
            | Destination::ReplyQueue(name) => *name = detached(name),
            Destination::Exchange { exchange, key } => (*exchange, *key) = (detached(exchange), detached(key)),
            Destination::User { user, name } => {
                *user = user.as_ref().map(detached);
                name.detach();
            }
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelled(Spelling::Slash))
    }
}

fn respell(canonical: &str, spelling: Spelling) -> String {
    match spelling {
        Spelling::Slash => canonical.to_owned(),
        Spelling::Dot => canonical.replace('/', "."),
        Spelling::SlashOnly => canonical.replace("%2E", "."),
        Spelling::DotOnly => canonical.replace('/', ".").replace("%2F", "/"),
    }
}

fn queue_name(rest: &str) -> Result<Text, &'static str> {
    if rest.contains(['*', '+', '#']) {
        return Err("a queue's name takes no wildcard; write %2A for *, %2B for + and %23 for #");
    }
    let name = decoded(rest)?;
    if name.is_empty() {
        return Err("a name is missing after the last slash");
    }
    check_reserved(&name)?;
    Ok(name)
}

fn parse_exchange(rest: &str, usage: Usage) -> Result<Destination, &'static str> {
    let (exchange, key) = rest.split_once('/').unwrap_or((rest, ""));
    if usage == Usage::Send && key.contains(['*', '#']) {
        return Err("a SEND takes no wildcard; write %2A for * and %23 for #");
    }
    let exchange = queue_name(exchange)?;
    let key = decoded(key)?;
    check_reserved(&key)?;
    Ok(Destination::Exchange { exchange, key })
}

fn parse_user(rest: &str, usage: Usage, separators: Separators) -> Result<Destination, &'static str> {
    let (user, rest) = match usage {
        Usage::Subscribe => (None, rest),
        Usage::Send => {
            let (user, rest) =
                rest.split_once('/').ok_or("a SEND goes to /user/{name}/queue/… or /user/{name}/topic/…")?;
            let user = decoded(user)?;
            if user.is_empty() {
                return Err("the user's name is empty");
            }
            (Some(user), rest)
        }
    };
    let name = match rest.split_once('/') {
        Some(("queue", name)) => format!("queue/{}", encode(&queue_name(name)?, SEGMENT_SPECIAL)),
        Some(("topic", name)) => format!("topic/{}", parse_pattern(name, usage, separators)?),
        _ if usage == Usage::Send => return Err("a SEND goes to /user/{name}/queue/… or /user/{name}/topic/…"),
        _ => return Err("a SUBSCRIBE reads /user/queue/… or /user/topic/…, always the session's own"),
    };
    Ok(Destination::User { user, name: Pattern::canonical(name) })
}

fn parse_pattern(rest: &str, usage: Usage, separators: Separators) -> Result<Pattern, &'static str> {
    if rest.is_empty() {
        return Err("a name is missing after the last slash");
    }
    let mut canonical = String::with_capacity(rest.len());
    for (index, segment) in rest.split(|character| separators.has(character)).enumerate() {
        if index > 0 {
            canonical.push('/');
        }
        push_segment(&mut canonical, segment, usage)?;
    }
    check_reserved(&canonical)?;
    // In canonical text # is a segment and nothing else.
    let canonical = if canonical.contains("#/#") || canonical.contains("#/+") { merged(&canonical) } else { canonical };
    Ok(Pattern::canonical(canonical))
}

/// Puts wildcards that stand side by side in one order, each + first, and then one # at most: `#/+/#` is `+/#`.
fn merged(canonical: &str) -> String {
    let mut segments = Vec::new();
    let mut many = false;
    for segment in canonical.split('/') {
        match segment {
            "#" => many = true,
            "+" => segments.push("+"),
            _ => {
                segments.extend(std::mem::take(&mut many).then_some("#"));
                segments.push(segment);
            }
        }
    }
    segments.extend(many.then_some("#"));
    segments.join("/")
}

fn push_segment(canonical: &mut String, segment: &str, usage: Usage) -> Result<(), &'static str> {
    if usage == Usage::Send && segment.contains(['*', '+', '#']) {
        return Err("a SEND takes no wildcard; write %2A for *, %2B for + and %23 for #");
    }
    match segment {
        "*" | "+" => canonical.push('+'),
        "#" | "**" => canonical.push('#'),
        _ if segment.contains(['+', '#']) || segment.contains("**") => {
            return Err("+, # and ** stand for whole segments; inside a segment write %2B for + and %23 for #");
        }
        _ => {
            for (index, part) in segment.split('*').enumerate() {
                if index > 0 {
                    canonical.push('*');
                }
                canonical.push_str(&encode(&decoded(part)?, SEGMENT_SPECIAL));
            }
        }
    }
    Ok(())
}

fn decoded(text: &str) -> Result<Text, &'static str> {
    match decode(text) {
        Some(text) => Ok(Text::from(&*text)),
        None => Err("% must be followed by two hexadecimal digits, and the result be UTF-8 text without NUL"),
    }
}

/// Whether a gateway in front of a broker has handed out this reply address. (Those of the embedded one begin with
/// nothing that is reserved.) It has 128 random bits: whoever knows it was given it.
pub(crate) fn is_reply_address(name: &str) -> bool {
    ["stompgate.reply.", "stompgate/reply/"].iter().any(|prefix| name.starts_with(prefix))
}

/// Names that begin so are the gateway's own, on every broker.
pub(super) fn check_reserved(name: &str) -> Result<(), &'static str> {
    if name.strip_prefix("stompgate").is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/', '%'])) {
        return Err("the name stompgate, and those that begin with stompgate. or stompgate/, belong to the gateway");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(spelling: &str, usage: Usage) -> Result<Destination, Refusal> {
        Destination::parse(spelling, usage, Separators::Both)
    }

    fn topic(canonical: &'static str) -> Destination {
        Destination::Topic(Pattern::canonical(canonical))
    }

    #[test]
    fn slash_and_dot_spell_one_topic() {
        assert_eq!(parse("/topic/a/b", Usage::Send).unwrap(), topic("a/b"));
        assert_eq!(parse("/topic/a.b", Usage::Send).unwrap(), topic("a/b"));
        assert_eq!(parse("/topic/a%2Eb", Usage::Send).unwrap(), topic("a%2Eb"));
    }

    #[test]
    fn one_separator_only_leaves_the_other_in_names() {
        let slash = Destination::parse("/topic/a.b/c", Usage::Send, Separators::Slash).unwrap();
        assert_eq!(slash, topic("a%2Eb/c"));
        assert_eq!(slash.spelled(Spelling::SlashOnly), "/topic/a.b/c");
        let dot = Destination::parse("/topic/a/b.c", Usage::Send, Separators::Dot).unwrap();
        assert_eq!(dot, topic("a%2Fb/c"));
        assert_eq!(dot.spelled(Spelling::DotOnly), "/topic/a/b.c");
    }

    #[test]
    fn the_three_spellings_of_wildcards_are_one_pattern() {
        for spelling in ["/topic/a.*.#", "/topic/a/*/**", "/topic/a/+/#"] {
            assert_eq!(parse(spelling, Usage::Subscribe).unwrap(), topic("a/+/#"), "{spelling}");
        }
        assert_eq!(parse("/topic/foo*/x", Usage::Subscribe).unwrap(), topic("foo*/x"));
    }

    #[test]
    fn wildcards_side_by_side_have_one_order() {
        for (spelling, canonical) in [
            ("/topic/#/#", "#"),
            ("/topic/#/+", "+/#"),
            ("/topic/a.#.*.#.b", "a/+/#/b"),
            ("/topic/**/+/x/#/+/**/+", "+/#/x/+/+/#"),
            ("/topic/#/a*/+", "#/a*/+"),
            ("/topic//#/#/", "/#/"),
        ] {
            assert_eq!(parse(spelling, Usage::Subscribe).unwrap(), topic(canonical), "{spelling}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_pattern_matches_what_the_spelled_one_does(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b*", "", "+", "#", "#"]), 1..7),
            name in prop::collection::vec(prop::sample::select(vec!["a", "b", "", "$x"]), 1..9),
        ) {
            let (pattern, name) = (pattern.join("/"), Pattern::canonical(name.join("/")));
            prop_assume!(!pattern.is_empty());
            let Destination::Topic(canonical) = parse(&format!("/topic/{pattern}"), Usage::Subscribe).unwrap() else {
                panic!("it is a topic")
            };
            prop_assert_eq!(canonical.matches(&name), Pattern::canonical(pattern).matches(&name), "{}", canonical);
            prop_assert!(!canonical.as_str().contains("#/#") && !canonical.as_str().contains("#/+"), "{}", canonical);
        }
    }

    #[test]
    fn an_encoded_wildcard_is_a_plain_character() {
        let literal = parse("/topic/%2A/c%23", Usage::Send).unwrap();
        assert_eq!(literal, topic("%2A/c%23"));
        assert!(matches!(literal, Destination::Topic(pattern) if pattern.is_literal()));
    }

    #[test]
    fn wildcards_are_refused_where_none_may_be() {
        for spelling in ["/topic/a.*", "/topic/#", "/topic/a+b", "/queue/*", "/exchange/e/#"] {
            assert_eq!(parse(spelling, Usage::Send).unwrap_err().code, "invalid-destination", "{spelling}");
        }
        for spelling in ["/queue/a.*", "/amq/queue/#", "/topic/a#", "/topic/a**b"] {
            assert_eq!(parse(spelling, Usage::Subscribe).unwrap_err().code, "invalid-destination", "{spelling}");
        }
    }

    #[test]
    fn a_queue_keeps_its_slashes_and_dots() {
        assert_eq!(parse("/queue/a/b.c", Usage::Send).unwrap(), Destination::Queue("a/b.c".into()));
        assert_eq!(parse("/queue/50%25", Usage::Send).unwrap().to_string(), "/queue/50%25");
    }

    #[test]
    fn what_is_no_destination_says_so() {
        for spelling in ["", "topic/a", "/topic", "/nowhere/x", "/amq/x", "/amq/topic/a"] {
            assert_eq!(parse(spelling, Usage::Send).unwrap_err().code, "unknown-destination", "{spelling}");
        }
        for spelling in
            ["/topic/", "/queue/", "/queue/%", "/queue/%00", "/topic/a/%ff", "/temp-queue/x", "/reply-queue/"]
        {
            assert_eq!(parse(spelling, Usage::Send).unwrap_err().code, "invalid-destination", "{spelling}");
        }
    }

    #[test]
    fn the_gateways_own_names_are_closed() {
        for spelling in [
            "/topic/stompgate",
            "/topic/stompgate.x",
            "/topic/stompgate/x",
            "/queue/stompgate.x",
            "/topic/stompgate%2Ex",
            "/exchange/stompgate.user",
        ] {
            assert_eq!(parse(spelling, Usage::Subscribe).unwrap_err().code, "invalid-destination", "{spelling}");
        }
        assert!(parse("/topic/stompgates", Usage::Subscribe).is_ok());
        assert!(parse("/reply-queue/stompgate.durable.x", Usage::Send).is_err(), "only addresses are handed out");
        assert!(parse("/reply-queue/stompgate.reply.x", Usage::Send).is_ok());
    }

    #[test]
    fn user_destinations_name_a_user_only_in_send() {
        let own = parse("/user/queue/orders", Usage::Subscribe).unwrap();
        assert_eq!(own, Destination::User { user: None, name: Pattern::canonical("queue/orders") });
        let other = parse("/user/a%2Fb+c/queue/orders", Usage::Send).unwrap();
        assert_eq!(other, Destination::User { user: Some("a/b+c".into()), name: Pattern::canonical("queue/orders") });
        assert_eq!(other.to_string(), "/user/queue/orders");
        assert!(parse("/user/queue/orders", Usage::Send).is_err());
        assert!(parse("/user/bob/queue/orders", Usage::Subscribe).is_err());
    }

    #[test]
    fn a_reader_sees_the_separator_it_used() {
        let resource = topic("a/b%2Ec");
        assert_eq!(resource.spelled(Destination::spelling_of("/topic/a.#", Separators::Both)), "/topic/a.b%2Ec");
        assert_eq!(resource.spelled(Destination::spelling_of("/topic/a/#", Separators::Both)), "/topic/a/b%2Ec");
        assert_eq!(Destination::spelling_of("/user/topic/a.b", Separators::Both), Spelling::Dot);
    }
}
