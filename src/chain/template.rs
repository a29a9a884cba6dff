//! Patterns with `{variables}`, and texts that are filled in with their values.
//!
//! A value never leaves its place: it is percent-encoded, so that it stays one segment of a destination, of a URL's path,
//! or one value of a query, whatever it holds.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::handler::Variables;
use super::{Context, Failure};
use crate::message::{Claims, Destination, Pattern, Separators, Text, Usage, decode};

/// A pattern of destinations under `/app`: `/app/orders/{id}`, `/app/*/x`, `/app/files/#`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RoutePattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// In canonical form.
    Literal(Text),
    Variable(Text),
    /// `*`: any one segment.
    One,
    /// `#` at the end: any number of segments.
    Rest,
}

impl RoutePattern {
    /// Reads a pattern; the error says what is wrong with it.
    pub(super) fn parse(text: &str, separators: Separators) -> Result<Self, String> {
        let rest = text.strip_prefix("/app/").filter(|rest| !rest.is_empty());
        let rest = rest.ok_or_else(|| format!("is {text:?}; a route begins with /app/ and goes on"))?;
        let parts: Vec<Part> = rest.split(|character| separators.has(character)).map(part).collect::<Result<_, _>>()?;
        if parts.iter().rev().skip(1).any(|part| *part == Part::Rest) {
            return Err("has a # that is not at its end".to_owned());
        }
        for (index, part) in parts.iter().enumerate() {
            if let Part::Variable(name) = part
                && (parts[..index].contains(part) || RESERVED.contains(&&**name))
            {
                return Err(format!("names {{{name}}} twice, or it is one of {{{}}}", RESERVED.join("}, {")));
            }
        }
        Ok(RoutePattern(parts))
    }

    /// The values of the variables, if `name` is one of those this pattern stands for.
    pub(super) fn matches(&self, name: &Pattern) -> Option<Variables> {
        let mut variables = Vec::new();
        let mut segments = name.as_str().split('/');
        for part in &self.0 {
            if *part == Part::Rest {
                return Some(Variables(variables));
            }
            let segment = segments.next()?;
            match part {
                Part::Literal(literal) if **literal == *segment => {}
                Part::Literal(_) => return None,
                Part::Variable(name) => variables.push((name.clone(), decode(segment)?.into_owned())),
                Part::One | Part::Rest => {}
            }
        }
        segments.next().is_none().then_some(Variables(variables))
    }

    /// Whether `name` matches, without looking at values.
    pub(super) fn is_for(&self, name: &Pattern) -> bool {
        let mut segments = name.as_str().split('/');
        for part in &self.0 {
            let matches = match part {
                Part::Rest => return true,
                Part::Literal(literal) => segments.next().is_some_and(|segment| **literal == *segment),
                Part::Variable(_) | Part::One => segments.next().is_some(),
            };
            if !matches {
                return false;
            }
        }
        segments.next().is_none()
    }

    /// Whether it matches all that `other` does, so that `other`, coming later, has nothing left.
    pub(super) fn covers(&self, other: &RoutePattern) -> bool {
        let mut others = other.0.iter();
        for part in &self.0 {
            if *part == Part::Rest {
                return true;
            }
            let covered = match (part, others.next()) {
                (_, None | Some(Part::Rest)) => false,
                (Part::Literal(literal), Some(other)) => *other == Part::Literal(literal.clone()),
                (_, Some(_)) => true,
            };
            if !covered {
                return false;
            }
        }
        others.next().is_none()
    }

    /// The names that it stands for.
    pub(super) fn names(&self) -> Pattern {
        let part = |part: &Part| match part {
            Part::Literal(literal) => literal.to_string(),
            Part::Variable(_) | Part::One => "+".to_owned(),
            Part::Rest => "#".to_owned(),
        };
        Pattern::canonical(self.0.iter().map(part).collect::<Vec<_>>().join("/"))
    }

    /// The names of its variables.
    pub(super) fn variables(&self) -> impl Iterator<Item = &Text> {
        self.0.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name),
            _ => None,
        })
    }
}

/// Names that stand for something else than a part of the destination.
const RESERVED: [&str; 2] = ["user", "session"];
/// What a claim is named with: `{claim.tenant}`.
const CLAIM: &str = "claim.";

fn part(segment: &str) -> Result<Part, String> {
    if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let variable = is_name.then(|| Part::Variable(Text::from(name)));
        return variable.ok_or_else(|| format!("has {segment:?}; the name of a variable is letters, digits and _"));
    }
    if segment.contains(['{', '}']) {
        return Err(format!("has {segment:?}; a variable is a whole segment"));
    }
    match Destination::parse(&format!("/app/{segment}"), Usage::Subscribe, Separators::Slash) {
        Ok(Destination::Application(pattern)) => match pattern.as_str() {
            "+" => Ok(Part::One),
            "#" => Ok(Part::Rest),
            glob if glob.contains('*') => Err(format!("has {segment:?}; * stands for a whole segment")),
            _ => Ok(Part::Literal(pattern.text().clone())),
        },
        Ok(_) => Err(format!("has the segment {segment:?}")),
        Err(refusal) => Err(format!("has the segment {segment:?}: {}", refusal.detail)),
    }
}

/// A text with `{variables}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Variable(String),
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(|| format!("is {text:?}; a {{ is not closed"))?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Variable(name.to_owned()));
            rest = after;
        }
        if rest.contains('}') {
            return Err(format!("is {text:?}; a }} has no {{"));
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Template(pieces))
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// Refuses variables that nobody fills in.
    pub(super) fn check(&self, pattern: &RoutePattern) -> Result<(), String> {
        for piece in &self.0 {
            if let Piece::Variable(name) = piece
                && !RESERVED.contains(&name.as_str())
                && name.strip_prefix(CLAIM).is_none_or(str::is_empty)
                && !pattern.variables().any(|known| **known == **name)
            {
                return Err(format!("has {{{name}}}, which the pattern of the route does not"));
            }
        }
        Ok(())
    }

    /// The text with each value in its place, as `encode` writes it.
    ///
    /// # Errors
    /// What `encode` says, and 403 where the user has not the claim that is asked for.
    pub(super) fn fill(
        &self,
        values: &Values<'_>,
        encode: impl Fn(&str) -> Result<String, Failure>,
    ) -> Result<String, Failure> {
        let mut filled = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Variable(name) => match values.get(name) {
                    Some(value) => filled.push_str(&encode(&value)?),
                    None => return Err(Failure::new(403, format!("this needs {name}, which this user has not"))),
                },
            }
        }
        Ok(filled)
    }

    /// The text with the same in the place of each variable.
    pub(super) fn example(&self, value: &str) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Variable(_) => value.to_owned(),
        };
        self.0.iter().map(piece).collect()
    }

    /// Reads it as a destination for a SEND.
    pub(super) fn destination(&self, values: &Values<'_>, separators: Separators) -> Result<Destination, Failure> {
        let text = self.fill(values, |value| Ok(encoded(value)))?;
        Destination::parse(&text, Usage::Send, separators).map_err(|refusal| Failure::new(400, refusal.detail))
    }
}

/// What templates are filled with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    pub(super) variables: &'a Variables,
    pub(super) user: &'a str,
    pub(super) session: &'a str,
    pub(super) claims: &'a Claims,
}

impl<'a> Values<'a> {
    pub(super) fn new(variables: &'a Variables, context: &'a Context) -> Self {
        let principal = &context.principal;
        Values { variables, user: &principal.name, session: &context.session, claims: &principal.claims }
    }

    /// Several values of a claim have commas between them. Nothing where there is no such claim.
    pub(super) fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        match name {
            "user" => Some(self.user.into()),
            "session" => Some(self.session.into()),
            name => match name.strip_prefix(CLAIM).map(|name| self.claims.get(name)) {
                None => Some(self.variables.get(name).unwrap_or_default().into()),
                Some([]) => None,
                Some([value]) => Some((&**value).into()),
                Some(values) => Some(values.iter().map(|value| &**value).collect::<Vec<_>>().join(",").into()),
            },
        }
    }
}

/// Everything but letters, digits, `-`, `_` and `~` as `%XX`: a dot, too, which separates segments of a topic.
pub(super) fn encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}"); // a String takes everything
        }
    }
    encoded
}

/// Percent-encoded, but for what is plain and readable: a value of a header that means the same to every service.
pub(super) fn readable(value: &str) -> String {
    plain(&value.replace('%', "%25"))
}

/// Everything that is not visible ASCII as `%XX`.
pub(super) fn plain(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    for character in value.chars() {
        if character.is_ascii_graphic() {
            plain.push(character);
        } else {
            plain.push_str(&encoded(character.encode_utf8(&mut [0; 4])));
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> RoutePattern {
        RoutePattern::parse(text, Separators::Both).unwrap()
    }

    fn name(spelling: &str) -> Pattern {
        match Destination::parse(spelling, Usage::Send, Separators::Both).unwrap() {
            Destination::Application(name) => name,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_variable_is_one_segment_however_it_is_spelled() {
        let orders = pattern("/app/orders/{id}");
        assert_eq!(orders.matches(&name("/app/orders/7")).unwrap().get("id"), Some("7"));
        assert_eq!(orders.matches(&name("/app/orders.7")).unwrap().get("id"), Some("7"));
        assert_eq!(orders.matches(&name("/app/orders/a%2Fb")).unwrap().get("id"), Some("a/b"));
        for other in ["/app/orders", "/app/orders/7/8", "/app/order/7"] {
            assert_eq!(orders.matches(&name(other)), None, "{other}");
            assert!(!orders.is_for(&name(other)), "{other}");
        }
    }

    #[test]
    fn wildcards_stand_for_one_segment_or_for_the_rest() {
        assert!(pattern("/app/*/x").is_for(&name("/app/a/x")));
        assert!(pattern("/app/files/#").is_for(&name("/app/files/a/b")));
        assert!(pattern("/app/files/**").is_for(&name("/app/files")));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in [
            "/app/",
            "/topic/a",
            "/app/a{b}",
            "/app/{}",
            "/app/{a}/{a}",
            "/app/#/a",
            "/app/a*",
            "/app/{user}",
            "/app/%zz",
        ] {
            assert!(RoutePattern::parse(bad, Separators::Both).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_route_that_can_match_nothing_more_is_known() {
        for (first, second) in [("/app/{a}", "/app/x"), ("/app/x/#", "/app/x/{b}/c"), ("/app/#", "/app/y/#")] {
            assert!(pattern(first).covers(&pattern(second)), "{first} {second}");
            assert!(!pattern(second).covers(&pattern(first)), "{second} {first}");
        }
        assert!(!pattern("/app/{a}").covers(&pattern("/app/{a}/b")));
        assert!(!pattern("/app/{a}").covers(&pattern("/app/#")));
    }

    #[test]
    fn a_template_names_only_what_the_pattern_has() {
        let check = |text: &str| Template::parse(text).and_then(|template| template.check(&pattern("/app/{id}")));
        assert_eq!(check("/topic/{id}/{user}/{session}/{claim.tenant}"), Ok(()));
        for bad in ["/topic/{other}", "/topic/{claim.}", "/topic/{id", "/topic/id}"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_claim_fills_its_place_or_there_is_none() {
        let claims = [("tenant".into(), vec!["a/b".into()]), ("roles".into(), vec!["x".into(), "y".into()])];
        let (claims, variables) = (claims.into_iter().collect(), Variables::default());
        let values = Values { variables: &variables, user: "ada", session: "s-1", claims: &claims };
        let fill = |text: &str| Template::parse(text).unwrap().fill(&values, |value| Ok(encoded(value)));
        assert_eq!(fill("/topic/{claim.tenant}/x").unwrap(), "/topic/a%2Fb/x");
        assert_eq!(fill("{claim.roles}").unwrap(), "x%2Cy");
        assert_eq!(fill("/topic/{claim.none}").unwrap_err().status, 403);
    }

    proptest! {
        #[test]
        fn a_value_never_leaves_its_segment(value in "[^\0]{1,20}") {
            let variables = Variables(vec![("id".into(), value.clone())]);
            let values = Values { variables: &variables, user: "ada", session: "s-1", claims: &Claims::default() };
            let template = Template::parse("/topic/a/{id}/b").unwrap();
            match template.destination(&values, Separators::Both).unwrap() {
                Destination::Topic(topic) => {
                    let segments: Vec<_> = topic.as_str().split('/').collect();
                    prop_assert_eq!(segments.len(), 3);
                    prop_assert_eq!((segments[0], segments[2]), ("a", "b"));
                    prop_assert_eq!(decode(segments[1]).unwrap(), value);
                    prop_assert!(topic.is_literal());
                }
                other => prop_assert!(false, "{}", other),
            }
        }

        #[test]
        fn what_a_route_reads_is_what_it_writes(value in "[^\0]{1,20}") {
            let spelling = format!("/app/orders/{}", encoded(&value));
            let variables = pattern("/app/orders/{id}").matches(&name(&spelling)).unwrap();
            prop_assert_eq!(variables.get("id"), Some(value.as_str()));
        }

        #[test]
        fn covering_is_what_matching_says(
            first in prop::collection::vec(prop::sample::select(vec!["a", "{v}", "*"]), 1..4),
            second in prop::collection::vec(prop::sample::select(vec!["a", "b", "*"]), 1..4),
            tails in (any::<bool>(), any::<bool>()),
            names in prop::collection::vec(prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..5), 20),
        ) {
            let written = |parts: &[&str], tail: bool| {
                let mut seen = false;
                let once = |part: &&str| if *part == "{v}" && std::mem::replace(&mut seen, true) { "*" } else { *part }.to_owned();
                let parts: Vec<_> = parts.iter().map(once).collect();
                format!("/app/{}{}", parts.join("/"), if tail { "/#" } else { "" })
            };
            let (first, second) = (pattern(&written(&first, tails.0)), pattern(&written(&second, tails.1)));
            if first.covers(&second) {
                for segments in names {
                    let name = name(&format!("/app/{}", segments.join("/")));
                    prop_assert!(!second.is_for(&name) || first.is_for(&name));
                }
            }
        }
    }
}
