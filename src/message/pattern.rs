//! Hierarchical names and the patterns that match them, in one canonical form.
//!
//! Canonical text is segments joined by `/`. In a segment, `%XX` stands for a character that would
//! otherwise mean something here: `%`, `/`, `.`, `*`, `+` and `#`. A segment `+` is exactly one segment,
//! `#` is any number of them, none included, and `*` inside a segment is any run of characters. Two spellings of one
//! name have one canonical text, so equality, hashing and logs need nothing else.

mod relations;

use std::borrow::Cow;
use std::fmt::{self, Write};

use super::Text;
use super::headers::detached;

/// A name or a pattern of names, in canonical form.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    text: Text,
    literal: bool,
}

/// One segment of a [`Pattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Exactly this, still percent-encoded.
    Literal(&'a str),
    /// One segment in which each `*` is any run of characters.
    Glob(&'a str),
    /// Any one segment.
    One,
    /// Any number of segments, none included.
    Many,
}

impl Pattern {
    /// Reads canonical text. Whoever has another spelling goes through [`super::Destination::parse`].
    pub fn canonical(text: impl Into<Text>) -> Self {
        let text = text.into();
        let literal = memchr::memchr3(b'*', b'+', b'#', text.as_bytes()).is_none();
        Pattern { text, literal }
    }

    /// The name with these segments, which are plain text.
    pub fn name<'a>(segments: impl Iterator<Item = &'a str>) -> Self {
        let mut text = String::new();
        for (index, segment) in segments.enumerate() {
            if index > 0 {
                text.push('/');
            }
            text.push_str(&encode(segment, SEGMENT_SPECIAL));
        }
        Pattern { text: text.into(), literal: true }
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The canonical text, shared.
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// Whether it names one thing rather than many.
    pub fn is_literal(&self) -> bool {
        self.literal
    }

    /// Its segments, in order; at least one.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        self.text.split('/').map(|segment| match segment {
            "+" => Segment::One,
            "#" => Segment::Many,
            glob if glob.contains('*') => Segment::Glob(glob),
            literal => Segment::Literal(literal),
        })
    }

    /// Whether `name`, which is literal, is one of those this pattern stands for.
    ///
    /// A leading wildcard matches neither `$`-names (MQTT 5 §4.7.2) nor the gateway's own.
    pub fn matches(&self, name: &Pattern) -> bool {
        if self.literal {
            return self.text == name.text;
        }
        if !is_open_to_wildcards(name.first()) && !matches!(self.segments().next(), Some(Segment::Literal(_))) {
            return false;
        }
        let pattern: Vec<_> = self.segments().collect();
        let name: Vec<_> = name.text.split('/').collect();
        matches_from(&pattern, &name)
    }

    /// The first segment, still percent-encoded.
    pub fn first(&self) -> &str {
        self.text.split('/').next().unwrap_or_default()
    }

    /// A copy of its own memory.
    pub(super) fn detach(&mut self) {
        self.text = detached(&self.text);
    }
}

/// Whether a wildcard in the first place may stand for this first segment.
pub(crate) fn is_open_to_wildcards(first: &str) -> bool {
    !first.starts_with('$') && first != "stompgate"
}

fn matches_from(pattern: &[Segment<'_>], name: &[&str]) -> bool {
    // The classic wildcard match: remember the last MANY, and on a mismatch let it take one more.
    let (mut at, mut position) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while position < name.len() {
        match pattern.get(at) {
            Some(Segment::Many) => {
                retry = Some((at, position));
                at += 1;
                continue;
            }
            Some(segment) if segment.matches(name[position]) => {
                at += 1;
                position += 1;
                continue;
            }
            _ => {}
        }
        let Some((many, taken)) = retry else { return false };
        retry = Some((many, taken + 1));
        (at, position) = (many + 1, taken + 1);
    }
    pattern[at..].iter().all(|segment| *segment == Segment::Many)
}

impl Segment<'_> {
    /// Whether this segment stands for the literal segment `name`. `Many` stands for any one, too.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Segment::Literal(literal) => *literal == name,
            // What is encoded in the one may be plain in the other's run of characters, so both are compared decoded.
            Segment::Glob(glob) => glob_matches(glob, &decode(name).unwrap_or_default()),
            Segment::One | Segment::Many => true,
        }
    }
}

fn glob_matches(glob: &str, name: &str) -> bool {
    let mut parts: Vec<_> = glob.split('*').map(|part| decode(part).unwrap_or_default()).collect();
    let suffix = parts.pop().unwrap_or_default();
    let mut parts = parts.into_iter();
    let Some(mut rest) = parts.next().and_then(|prefix| name.strip_prefix(&*prefix)) else { return false };
    for part in parts {
        match rest.find(&*part) {
            Some(found) => rest = &rest[found + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(&*suffix)
}

/// What a canonical segment spells as `%XX`.
pub(super) const SEGMENT_SPECIAL: &[char] = &['%', '/', '.', '*', '+', '#'];

/// The characters that a canonical segment, or a name in a destination, spells as `%XX`.
pub(super) fn encode<'a>(segment: &'a str, special: &[char]) -> Cow<'a, str> {
    if !segment.contains(special) {
        return Cow::Borrowed(segment);
    }
    let mut encoded = String::with_capacity(segment.len() + 8);
    for character in segment.chars() {
        if special.contains(&character) {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{:02X}", character as u32);
        } else {
            encoded.push(character);
        }
    }
    Cow::Owned(encoded)
}

/// Replaces each `%XX` by its byte.
///
/// `None` where a `%` is not followed by two hexadecimal digits, or where the result has a NUL or is not UTF-8.
pub fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return (!text.contains('\0')).then_some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let digit = |digit: Option<u8>| (digit? as char).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        });
    }
    if decoded.contains(&0) {
        return None;
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::canonical(pattern).matches(&Pattern::canonical(name))
    }

    #[test]
    fn one_stands_for_exactly_one_segment() {
        assert!(matches("a/+/c", "a/b/c"));
        assert!(!matches("a/+/c", "a/c"));
        assert!(!matches("a/+", "a/b/c"));
    }

    #[test]
    fn many_stands_for_any_number_of_segments() {
        for name in ["a", "a/b", "a/b/c"] {
            assert!(matches("a/#", name), "{name}");
        }
        assert!(matches("#/c", "c"));
        assert!(matches("a/#/c/#/e", "a/b/c/d/c/e"));
        assert!(!matches("a/#/c", "a/b/d"));
    }

    #[test]
    fn a_star_inside_a_segment_stays_inside_it() {
        assert!(matches("foo*/x", "foobar/x"));
        assert!(matches("*a*b", "xxaxxb"));
        assert!(!matches("foo*", "foo/bar"));
        assert!(!matches("a*a", "a"));
        assert!(matches("a*%2B", "a%2Ex%2B"));
        assert!(!matches("*E", "a%2E") && !matches("a*2*", "a%2Eb"));
    }

    #[test]
    fn a_leading_wildcard_does_not_match_system_names() {
        assert!(!matches("#", "$SYS/uptime"));
        assert!(!matches("+/x", "stompgate/x"));
        assert!(matches("$SYS/#", "$SYS/uptime"));
    }

    #[test]
    fn decoding_refuses_what_is_not_text() {
        assert_eq!(decode("a%2Fb").as_deref(), Some("a/b"));
        for bad in ["%", "%2", "%zz", "%00", "%ff", "%+1"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    /// The definition, written as the recursion it is.
    fn naive(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => naive(rest, name) || (!name.is_empty() && naive(pattern, &name[1..])),
            (Some((&"+", rest)), Some((_, names))) => naive(rest, names),
            (Some((segment, rest)), Some((first, names))) => segment == first && naive(rest, names),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_is_what_its_definition_says(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "+", "#"]), 1..7),
            name in prop::collection::vec(prop::sample::select(vec!["a", "b"]), 1..9),
        ) {
            prop_assert_eq!(matches(&pattern.join("/"), &name.join("/")), naive(&pattern, &name));
        }
    }
}
