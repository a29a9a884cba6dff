//! The destinations of a rule: patterns with `{variables}`.

use super::resource::{Kind, ROOT, Resource, rooted};
use super::{Naming, Subject};
use crate::message::{Destination, Pattern, Separators, Usage};

/// One destination of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: Kind,
    segments: Vec<Part>,
    /// Where there is no variable.
    fixed: Option<Pattern>,
    /// Its first segment is a name, such as `$SYS`.
    is_named: bool,
}

/// How much of a resource a rule must be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    All,
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// In canonical form.
    Fixed(String),
    /// A variable between two texts in canonical form.
    Filled { before: String, variable: Variable, after: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    User,
    Session,
    Claim(String),
}

/// Patterns that one place may become, by the values that its claims have.
const MAX_PATTERNS: usize = 256;
const KINDS: &str = "/topic/, /queue/, /exchange/, /amq/queue/, /user/ or /app/, or is /# for all of these";

impl Place {
    /// Reads a destination of a rule, which is one place, or for `/#` one of each kind.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str, naming: &Naming) -> Result<Vec<Place>, String> {
        if text == "/#" {
            return Ok(Kind::ALL.map(|kind| Place::new(kind, vec![Part::Fixed("#".to_owned())])).to_vec());
        }
        let split = text.strip_prefix('/').and_then(|path| path.split_once('/'));
        let (kind, rest) = split.ok_or_else(|| format!("has {text:?}; a destination begins with {KINDS}"))?;
        let place = match (kind, rest) {
            (_, "") => return Err(format!("has {text:?}, where a name is missing after the last slash")),
            ("topic", rest) => Place::new(Kind::Topic, hierarchy(rest, naming.separators)?),
            ("app", rest) => Place::new(Kind::Application, hierarchy(rest, naming.separators)?),
            ("queue", rest) => Place::new(Kind::Queue, vec![name(rest)?]),
            ("amq", rest) => match rest.strip_prefix("queue/") {
                Some(rest) if !rest.is_empty() => Place::new(Kind::Queue, vec![name(rest)?]),
                _ => return Err(format!("has {text:?}; a destination begins with {KINDS}")),
            },
            ("exchange", rest) => exchange(rest, naming)?,
            ("user", rest) => user(rest, naming.separators)?,
            ("temp-queue" | "reply-queue", _) => {
                return Err(format!("has {text:?}: reply addresses need no rule; who was given one may use it"));
            }
            _ => return Err(format!("has {text:?}; a destination begins with {KINDS}")),
        };
        Ok(vec![place])
    }

    fn new(kind: Kind, segments: Vec<Part>) -> Self {
        let canonical: Option<Vec<_>> = segments.iter().map(Part::fixed).collect();
        let fixed = canonical.map(|segments| rooted(&segments.join("/")));
        let is_named = match segments.first() {
            Some(Part::Fixed(text)) => !text.contains(['+', '#', '*']),
            _ => true,
        };
        Place { kind, segments, fixed, is_named }
    }

    /// Whether this place is about all, or about any, of a resource.
    pub(super) fn takes(&self, resource: &Resource, reach: Reach, subject: Subject<'_>) -> bool {
        if self.kind != resource.kind {
            return false;
        }
        let takes = |pattern: &Pattern| match reach {
            Reach::All => (self.is_named || !resource.is_system) && pattern.covers(&resource.pattern),
            Reach::Any => pattern.overlaps(&resource.pattern),
        };
        match &self.fixed {
            Some(pattern) => takes(pattern),
            None => match self.filled(subject) {
                Some(patterns) => patterns.iter().any(|text| takes(&rooted(text))),
                None => reach == Reach::Any, // too many to look at: no leave
            },
        }
    }

    /// Every pattern that this place stands for, with the values of this subject in it. `None` is too many.
    fn filled(&self, subject: Subject<'_>) -> Option<Vec<String>> {
        let mut filled = vec![String::new()];
        for (index, part) in self.segments.iter().enumerate() {
            let choices = part.choices(subject);
            if filled.len() * choices.len() > MAX_PATTERNS {
                return None;
            }
            let separator = if index == 0 { "" } else { "/" };
            let mut longer = Vec::with_capacity(filled.len() * choices.len());
            for begun in &filled {
                longer.extend(choices.iter().map(|choice| format!("{begun}{separator}{choice}")));
            }
            filled = longer;
        }
        Some(filled)
    }

    /// With a name that nobody has for each variable: what can be said of it before anybody is there.
    pub(super) fn blank(&self) -> Pattern {
        self.fixed.clone().unwrap_or_else(|| {
            let segments: Vec<_> = self.segments.iter().map(Part::blank).collect();
            rooted(&segments.join("/"))
        })
    }

    /// Whether it has variables.
    pub(super) fn is_open(&self) -> bool {
        self.fixed.is_none()
    }

    /// Whether every resource of `later` is one of this place, if both are about the same subject.
    pub(super) fn covers(&self, later: &Place, reach: Reach) -> bool {
        let is_system = later.kind == Kind::Topic && later.blank().as_str().starts_with(&format!("{ROOT}/$"));
        self.kind == later.kind
            && (reach == Reach::Any || self.is_named || !is_system)
            && self.blank().covers(&later.blank())
    }
}

impl Part {
    fn fixed(&self) -> Option<&str> {
        match self {
            Part::Fixed(text) => Some(text),
            Part::Filled { .. } => None,
        }
    }

    /// What it can be, in canonical form. An empty value fills nothing.
    fn choices(&self, subject: Subject<'_>) -> Vec<String> {
        match self {
            Part::Fixed(text) => vec![text.clone()],
            Part::Filled { before, variable, after } => {
                let fill = |value: &str| format!("{before}{}{after}", Pattern::name([value].into_iter()));
                match variable {
                    Variable::User => vec![fill(&subject.principal.name)],
                    Variable::Session => vec![fill(subject.session)],
                    Variable::Claim(name) => {
                        let values = subject.principal.claims.get(name).iter();
                        values.filter(|value| !value.is_empty()).map(|value| fill(value)).collect()
                    }
                }
            }
        }
    }

    fn blank(&self) -> String {
        match self {
            Part::Fixed(text) => text.clone(),
            Part::Filled { before, variable, after } => match variable {
                Variable::User => format!("{before}\0{{user}}{after}"),
                Variable::Session => format!("{before}\0{{session}}{after}"),
                Variable::Claim(name) => format!("{before}\0{{claim.{name}}}{after}"),
            },
        }
    }
}

/// `/topic` and `/app`: segments, of which each may be a wildcard or have a variable.
fn hierarchy(rest: &str, separators: Separators) -> Result<Vec<Part>, String> {
    let spelled = split_outside_braces(rest, |character| separators.has(character));
    let parts = spelled.into_iter().map(segment).collect::<Result<Vec<_>, _>>()?;
    Ok(parts)
}

/// Texts between separators; one inside of braces is none, so that `{claim.tenant}` stays whole.
fn split_outside_braces(text: &str, is_separator: impl Fn(char) -> bool) -> Vec<&str> {
    let mut is_inside = false;
    text.split(|character: char| {
        match character {
            '{' => is_inside = true,
            '}' => is_inside = false,
            _ => {}
        }
        !is_inside && is_separator(character)
    })
    .collect()
}

/// One segment of a hierarchy.
fn segment(text: &str) -> Result<Part, String> {
    part(text, |text| match Destination::parse(&format!("/app/{text}"), Usage::Subscribe, Separators::Slash) {
        Ok(Destination::Application(pattern)) => Ok(pattern.to_string()),
        Ok(_) => Err(format!("has the segment {text:?}")),
        Err(refusal) => Err(format!("has the segment {text:?}: {}", refusal.detail)),
    })
}

/// A name that is not split: a queue, a user, an exchange. `*` in it is any run of characters, and `#` alone is all.
fn name(text: &str) -> Result<Part, String> {
    if matches!(text, "#" | "**" | "*" | "+") {
        return Ok(Part::Fixed("+".to_owned()));
    }
    part(text, |text| {
        let pieces: Vec<_> = text
            .split('*')
            .map(|piece| match Destination::parse(&format!("/queue/{piece}"), Usage::Send, Separators::Slash) {
                Ok(Destination::Queue(name)) => Ok(Pattern::name([&*name].into_iter()).to_string()),
                Err(_) if piece.is_empty() => Ok(String::new()),
                Ok(_) => Err(format!("has the name {text:?}")),
                Err(refusal) => Err(format!("has the name {text:?}: {}", refusal.detail)),
            })
            .collect::<Result<_, _>>()?;
        Ok(pieces.join("*"))
    })
}

/// A text that may have one variable in it; `canonical` reads what is around that.
fn part(text: &str, canonical: impl Fn(&str) -> Result<String, String>) -> Result<Part, String> {
    let Some((before, rest)) = text.split_once('{') else {
        if text.contains('}') {
            return Err(format!("has {text:?}, where a }} has no {{"));
        }
        return canonical(text).map(Part::Fixed);
    };
    let (name, after) = rest.split_once('}').ok_or_else(|| format!("has {text:?}, where a {{ is not closed"))?;
    let variable = match name {
        "user" => Variable::User,
        "session" => Variable::Session,
        _ => match name.strip_prefix("claim.").filter(|name| is_word(name)) {
            Some(name) => Variable::Claim(name.to_owned()),
            None => return Err(format!("has {{{name}}}; expected {{user}}, {{session}} or {{claim.NAME}}")),
        },
    };
    if [before, after].iter().any(|text| text.contains(['{', '}', '*', '+', '#'])) {
        let why = "a variable has no other and no wildcard beside it: one user's names would be those of others, too";
        return Err(format!("has {text:?}; {why}"));
    }
    let around = |text: &str| if text.is_empty() { Ok(String::new()) } else { canonical(text) };
    Ok(Part::Filled { before: around(before)?, variable, after: around(after)? })
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte))
}

/// `/exchange/E` is all of E; `/exchange/E/K` what has the key K.
fn exchange(rest: &str, naming: &Naming) -> Result<Place, String> {
    if rest == "#" {
        return Ok(Place::new(Kind::Exchange, vec![Part::Fixed("#".to_owned())]));
    }
    let (exchange, key) = rest.split_once('/').unwrap_or((rest, "#"));
    let words = split_outside_braces(key, |character| character == '.').into_iter().map(|word| match word {
        "*" => Ok(Part::Fixed("+".to_owned())),
        "#" => Ok(Part::Fixed("#".to_owned())),
        word if word.contains(['*', '#', '+']) => Err(format!("has the key {key:?}; * and # stand for whole words")),
        "" => Ok(Part::Fixed(String::new())),
        word => name(word),
    });
    let words = words.collect::<Result<Vec<_>, _>>()?;
    if naming.topic_exchange.as_ref().is_some_and(|known| **known == *exchange) {
        return Ok(Place::new(Kind::Topic, words));
    }
    Ok(Place::new(Kind::Exchange, std::iter::once(name(exchange)?).chain(words).collect()))
}

/// `/user/{user}/queue/X`, `/user/*/topic/a/#`, `/user/{user}/#`.
fn user(rest: &str, separators: Separators) -> Result<Place, String> {
    let all = || Part::Fixed("#".to_owned());
    if matches!(rest, "#" | "**") {
        return Ok(Place::new(Kind::User, vec![all()]));
    }
    let mut segments = Vec::new();
    let expected = || format!("has \"/user/{rest}\"; expected /user/{{user}}/queue/… or /user/{{user}}/topic/…");
    let (who, what) = rest.split_once('/').ok_or_else(expected)?;
    segments.push(name(who)?);
    match what.split_once('/') {
        None if matches!(what, "#" | "**") => segments.push(all()),
        Some(("queue", rest)) if !rest.is_empty() => segments.extend([Part::Fixed("queue".to_owned()), name(rest)?]),
        Some(("topic", rest)) if !rest.is_empty() => {
            segments.push(Part::Fixed("topic".to_owned()));
            segments.extend(hierarchy(rest, separators)?);
        }
        _ => return Err(expected()),
    }
    Ok(Place::new(Kind::User, segments))
}
