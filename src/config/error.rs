//! What is wrong with a configuration.

use std::fmt;

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The full key, such as `server.listen`.
    pub key: String,
    /// Where its value was set: a file with its line, a variable or a flag. `None` if it was not set.
    pub origin: Option<String>,
    /// What is wrong, and what would be right.
    pub why: String,
}

impl Problem {
    pub(super) fn new(key: String, origin: Option<String>, why: impl Into<String>) -> Self {
        Problem { key, origin, why: why.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{} ({origin}): {}", self.key, self.why),
            None => write!(f, "{}: {}", self.key, self.why),
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("the configuration has a problem:")?,
            count => write!(f, "the configuration has {count} problems:")?,
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigError {}

/// The keys that were probably meant: the nearest of the siblings and of all; none if nothing is near, and several if
/// they are equally near.
pub(super) fn nearest<'a>(key: &str, known: &'a [String], siblings: &'a [String]) -> Vec<&'a str> {
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned).unwrap_or_default();
    let section = |key: &str| key.rsplit_once('.').map(|(section, _)| section.to_owned());
    let distance = |candidate: &str| {
        let whole = strsim::damerau_levenshtein(key, candidate);
        // `listen` at the top, or in another section, means `server.listen`.
        let name = strsim::damerau_levenshtein(&last(key), &last(candidate)) + 1;
        let sections = section(key).zip(section(candidate));
        let apart = sections.map_or(0, |(one, other)| strsim::damerau_levenshtein(&one, &other));
        (whole.min(name), apart)
    };
    let tolerance = (last(key).len() / 3).clamp(1, 3);
    let candidates = siblings.iter().filter(|candidate| candidate.contains('.')).chain(known);
    let mut near: Vec<_> = candidates
        .map(|candidate| (distance(candidate), candidate.as_str()))
        .filter(|((distance, _), _)| *distance <= tolerance)
        .collect();
    near.sort_unstable();
    near.dedup();
    let best = near.first().map(|(distance, _)| *distance);
    near.into_iter().filter(|(distance, _)| Some(*distance) == best).map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found() {
        let known =
            ["admin.listen", "server.listen", "server.path", "server.tls.key", "outbox.max_bytes"].map(str::to_owned);
        let siblings = ["outbox.policy.0.destination", "outbox.policy.0.key"].map(str::to_owned);
        for (key, meant) in [
            ("server.lisen", vec!["server.listen"]),
            ("sever.listen", vec!["server.listen"]),
            ("listen", vec!["admin.listen", "server.listen"]),
            ("server.tls.kye", vec!["server.tls.key"]),
            ("outbox.policy.0.destinaton", vec!["outbox.policy.0.destination"]),
            ("server.colour", vec![]),
        ] {
            assert_eq!(nearest(key, &known, &siblings), meant, "{key}");
        }
    }
}
