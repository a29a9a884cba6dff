//! How two patterns stand to each other: whether one stands for all that the other does, or for any of it.
//!
//! Both questions are about infinitely many names, and both are answered by looking at few of them. A name that has, in
//! the place of each wildcard, something that no pattern mentions is the hardest to match: only wildcards match it, and
//! a wildcard that does matches everything else, too.

use std::collections::HashSet;

use super::{Pattern, Segment, decode, glob_matches, is_open_to_wildcards};

/// Segments of the longest pattern that is looked at; of a longer one nothing is known.
const MAX_SEGMENTS: usize = 127;
/// Places that are looked at before nothing is known.
const MAX_PLACES: usize = 20_000;

/// Places in a pattern, each a bit: so many segments lie before it.
type Places = u128;

impl Pattern {
    /// Whether every name that `other` stands for is one that this pattern stands for.
    ///
    /// False where that is too hard to say: patterns of more than 127 segments, or with a great many `#`.
    pub fn covers(&self, other: &Pattern) -> bool {
        if other.is_literal() {
            return self.matches(other);
        }
        let (Some(ours), Some(others)) = (read(self), read(other)) else { return false };
        let is_wild = !matches!(others.first(), Some(Segment::Literal(_)));
        let closed = |segment: &Segment<'_>| !can_be_open(segment);
        if others.first().is_some_and(closed) && (is_wild || !matches!(ours.first(), Some(Segment::Literal(_)))) {
            return is_wild; // a wildcard that stands for nothing, or a name that no wildcard stands for
        }
        Inclusion { ours: &ours, others: &others, is_wild }.holds()
    }

    /// Whether there is a name that both patterns stand for.
    ///
    /// True where that is too hard to say: patterns of more than 127 segments.
    pub fn overlaps(&self, other: &Pattern) -> bool {
        match (self.is_literal(), other.is_literal()) {
            (_, true) => self.matches(other),
            (true, false) => other.matches(self),
            (false, false) => match (read(self), read(other)) {
                (Some(ours), Some(others)) => intersects(&ours, &others),
                _ => true,
            },
        }
    }
}

fn read(pattern: &Pattern) -> Option<Vec<Segment<'_>>> {
    let segments: Vec<_> = pattern.segments().take(MAX_SEGMENTS + 1).collect();
    (segments.len() <= MAX_SEGMENTS).then_some(segments)
}

/// Whether a segment that a wildcard of another pattern stands for can be this one.
fn can_be_open(segment: &Segment<'_>) -> bool {
    match segment {
        Segment::Literal(text) => is_open_to_wildcards(text),
        Segment::Glob(glob) => !glob.starts_with('$'),
        Segment::One | Segment::Many => true,
    }
}

/// Whether `ours` stands for all that `others` does.
struct Inclusion<'a> {
    ours: &'a [Segment<'a>],
    others: &'a [Segment<'a>],
    /// The first of `others` is a wildcard, so that no closed name is among its names.
    is_wild: bool,
}

impl Inclusion<'_> {
    /// Follows every name of `others`, with something unheard-of for each wildcard, through `ours`.
    ///
    /// A `#` stands for nothing, or for one such segment and then for what a `#` stands for. The places that `ours` can be
    /// at stop changing after as many of them as it has segments, so this comes to an end.
    fn holds(&self) -> bool {
        let mut seen = HashSet::new();
        let mut open = vec![(0, self.settled(1), true)];
        while let Some((at, places, is_start)) = open.pop() {
            if !seen.insert((at, places, is_start)) {
                continue;
            }
            if seen.len() > MAX_PLACES {
                return false;
            }
            match self.others.get(at) {
                None if is_start => {} // no name has no segment
                None if places & (1 << self.ours.len()) == 0 => return false,
                None => {}
                Some(Segment::Many) => {
                    open.push((at + 1, places, is_start));
                    open.push((at, self.step(places, &Segment::One), false));
                }
                // Such names are not among those of a pattern that begins with a wildcard.
                Some(segment) if is_start && self.is_wild && !can_be_open(segment) => {}
                Some(segment) => open.push((at + 1, self.step(places, segment), false)),
            }
        }
        true
    }

    /// The places after one more segment.
    fn step(&self, places: Places, segment: &Segment<'_>) -> Places {
        let mut next = 0;
        for (place, ours) in self.ours.iter().enumerate().filter(|(place, _)| places & (1 << place) != 0) {
            match ours {
                Segment::Many => next |= 1 << place,
                ours if covers_segment(ours, segment) => next |= 1 << (place + 1),
                _ => {}
            }
        }
        self.settled(next)
    }

    /// With the places that are reached through a `#` that stands for nothing.
    fn settled(&self, mut places: Places) -> Places {
        for (place, ours) in self.ours.iter().enumerate() {
            if *ours == Segment::Many && places & (1 << place) != 0 {
                places |= 1 << (place + 1);
            }
        }
        places
    }
}

/// Whether a segment stands for all that another one does; neither is `#`.
fn covers_segment(ours: &Segment<'_>, other: &Segment<'_>) -> bool {
    /// A character that no name has: the parser refuses it.
    const UNHEARD_OF: &str = "\0";
    match (ours, other) {
        (Segment::One | Segment::Many, _) => true,
        (ours, Segment::Literal(name)) => ours.matches(name),
        (Segment::Glob(ours), Segment::Glob(other)) => {
            let parts: Vec<_> = other.split('*').map(|part| decode(part).unwrap_or_default()).collect();
            glob_matches(ours, &parts.join(UNHEARD_OF))
        }
        _ => false,
    }
}

/// Whether a name can be put together that both stand for.
fn intersects(ours: &[Segment<'_>], others: &[Segment<'_>]) -> bool {
    let is_wild = |segments: &[Segment<'_>]| !matches!(segments.first(), Some(Segment::Literal(_)));
    let must_be_open = is_wild(ours) || is_wild(others);
    let mut seen = HashSet::new();
    let mut open = vec![(0, 0, true)];
    while let Some(place) = open.pop() {
        if !seen.insert(place) {
            continue;
        }
        let (our, their, is_start) = place;
        let fits = |segment: &Segment<'_>| !(is_start && must_be_open) || can_be_open(segment);
        match (ours.get(our), others.get(their)) {
            (None, None) if !is_start => return true,
            (Some(Segment::Many), other) => {
                open.push((our + 1, their, is_start));
                match other {
                    Some(Segment::Many) => {
                        open.push((our, their + 1, is_start));
                        open.push((our, their, false)); // both stand for the same segment
                    }
                    Some(other) if fits(other) => open.push((our, their + 1, false)),
                    _ => {}
                }
            }
            (other, Some(Segment::Many)) => {
                open.push((our, their + 1, is_start));
                if other.is_some_and(fits) {
                    open.push((our + 1, their, false));
                }
            }
            (Some(one), Some(other)) if fits(one) && fits(other) && segments_meet(one, other) => {
                open.push((our + 1, their + 1, false));
            }
            _ => {}
        }
    }
    false
}

/// Whether two segments, neither of which is `#`, stand for a common name.
fn segments_meet(one: &Segment<'_>, other: &Segment<'_>) -> bool {
    match (one, other) {
        (Segment::Literal(name), other) | (other, Segment::Literal(name)) => other.matches(name),
        (Segment::Glob(one), Segment::Glob(other)) => globs_meet(one, other),
        _ => true,
    }
}

/// Whatever stands in their middles can stand one after the other, so only their ends must agree.
fn globs_meet(one: &str, other: &str) -> bool {
    let ends = |glob: &str| {
        let (prefix, rest) = glob.split_once('*').unwrap_or((glob, ""));
        let suffix = rest.rsplit_once('*').map_or(rest, |(_, suffix)| suffix);
        [prefix, suffix].map(|part| decode(part).unwrap_or_default().into_owned())
    };
    let ([prefix, suffix], [other_prefix, other_suffix]) = (ends(one), ends(other));
    (prefix.starts_with(&other_prefix) || other_prefix.starts_with(&prefix))
        && (suffix.ends_with(&other_suffix) || other_suffix.ends_with(&suffix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::canonical(text.to_owned())
    }

    /// Names of up to four segments of all kinds; `z` stands for all that no pattern mentions.
    fn names() -> Vec<Pattern> {
        let segments = ["a", "ab", "z", "az", "za", "aza", "ba", "bz", "$s", "stompgate"];
        let mut longer = segments.map(str::to_owned).to_vec();
        let mut names = longer.clone();
        for _ in 0..3 {
            longer = longer.iter().flat_map(|name| segments.map(|segment| format!("{name}/{segment}"))).collect();
            names.extend(longer.iter().cloned());
        }
        names.iter().map(|name| pattern(name)).collect()
    }

    fn patterns() -> impl Strategy<Value = Pattern> {
        let segment =
            prop::sample::select(vec!["a", "ab", "a*", "*a", "a*a", "b*", "$s", "stompgate", "+", "+", "#", "#"]);
        prop::collection::vec(segment, 1..4).prop_map(|segments| pattern(&segments.join("/")))
    }

    #[test]
    fn what_covers_what() {
        for (wide, narrow) in [
            ("#", "a/+"),
            ("#", "#"),
            ("+/#", "#"),
            ("a/#", "a/+/b*"),
            ("a/#", "a"),
            ("a*", "ab*c"),
            ("+", "a*"),
            ("#/a", "#/b/a"),
            ("a/#/b", "a/+/+/b"),
            ("$s/#", "$s/+"),
            ("#", "#/$s"),
        ] {
            assert!(pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
            assert!(pattern(wide).overlaps(&pattern(narrow)), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("a/+", "a/#"),
            ("a", "+"),
            ("ab*", "a*"),
            ("#/b", "#"),
            ("#", "$s/#"),
            ("+/+/#", "#"),
            ("a/#", "#"),
            ("#", "stompgate/+"),
        ] {
            assert!(!pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
        }
    }

    #[test]
    fn what_meets_what() {
        for (one, other) in [("a/#", "#/b"), ("a*", "*b"), ("+/b", "a/+"), ("#", "+"), ("a*c", "ab*")] {
            assert!(pattern(one).overlaps(&pattern(other)), "{one} {other}");
            assert!(pattern(other).overlaps(&pattern(one)), "{other} {one}");
        }
        for (one, other) in [("a/#", "b/#"), ("a*", "b*"), ("*a", "*b"), ("+", "+/+"), ("#", "$s/+"), ("$*", "#")] {
            assert!(!pattern(one).overlaps(&pattern(other)), "{one} {other}");
            assert!(!pattern(other).overlaps(&pattern(one)), "{other} {one}");
        }
    }

    #[test]
    fn what_is_too_hard_to_say_is_no_leave() {
        let long = pattern(&vec!["+"; 200].join("/"));
        assert!(!pattern("#").covers(&long) && pattern("a").overlaps(&pattern("+")) && pattern("a/#").overlaps(&long));
        let many = pattern(&vec!["#/a"; 60].join("/"));
        assert!(!pattern(&vec!["#/a/+"; 40].join("/")).covers(&many));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn both_are_what_all_short_names_say(one in patterns(), other in patterns()) {
            thread_local!(static NAMES: Vec<Pattern> = names());
            let (mut covers, mut overlaps) = (true, false);
            NAMES.with(|names| for name in names.iter().filter(|name| other.matches(name)) {
                covers &= one.matches(name);
                overlaps |= one.matches(name);
            });
            // Four segments are enough to tell any two patterns of three apart.
            prop_assert_eq!(one.covers(&other), covers, "{} covers {}", one, other);
            prop_assert_eq!(one.overlaps(&other), overlaps, "{} overlaps {}", one, other);
        }
    }
}
