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

/// The key that was probably meant: the nearest sibling, else the nearest of all; `None` if nothing is near.
pub(super) fn nearest<'a>(key: &str, known: &'a [String], siblings: &'a [String]) -> Option<&'a str> {
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned).unwrap_or_default();
    let distance = |candidate: &str| {
        let whole = strsim::damerau_levenshtein(key, candidate);
        // `listen` at the top, or in another section, means `server.listen`.
        let name = strsim::damerau_levenshtein(&last(key), &last(candidate)) + 1;
        whole.min(name)
    };
    let tolerance = (last(key).len() / 3).clamp(1, 3);
    siblings
        .iter()
        .filter(|candidate| candidate.contains('.'))
        .chain(known)
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found() {
        let known = ["server.listen", "server.path", "server.tls.key", "outbox.max_bytes"].map(str::to_owned);
        let siblings = ["outbox.policy.0.destination", "outbox.policy.0.key"].map(str::to_owned);
        for (key, meant) in [
            ("server.lisen", Some("server.listen")),
            ("sever.listen", Some("server.listen")),
            ("listen", Some("server.listen")),
            ("server.tls.kye", Some("server.tls.key")),
            ("outbox.policy.0.destinaton", Some("outbox.policy.0.destination")),
            ("server.colour", None),
        ] {
            assert_eq!(nearest(key, &known, &siblings), meant, "{key}");
        }
    }
}
