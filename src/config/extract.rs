//! From the merged values to a [`Config`], noting everything that does not fit.

use std::collections::BTreeMap;

use figment::Figment;
use figment::error::{Actual, Error, Kind};
use figment::value::Value;
use serde::Deserialize;

use super::Config;
use super::effective::{is_secret, masked_url};
use super::error::{Problem, nearest};

/// All sources laid over one another.
pub(super) struct Gathered {
    /// The merged values.
    pub(super) tree: Value,
    /// Every key there is.
    pub(super) known: Vec<String>,
    /// Knows which layer a value is from.
    pub(super) figment: Figment,
    /// What was written in variables and flags, by key.
    pub(super) texts: BTreeMap<String, String>,
    /// Lines of the file, by key.
    pub(super) lines: BTreeMap<String, usize>,
    /// What could not be read at all.
    pub(super) problems: Vec<Problem>,
}

impl Gathered {
    /// Reads the settings. Whatever does not fit is noted, taken out, and so falls back to its default, until all fits.
    pub(super) fn extract(&mut self) -> (Config, Vec<Problem>) {
        let mut problems = std::mem::take(&mut self.problems);
        let mut retried: BTreeMap<String, Error> = BTreeMap::new();
        let mut tree = self.tree.clone();
        loop {
            let error = match Config::deserialize(&tree) {
                Ok(config) => {
                    self.tree = tree;
                    return (config, problems);
                }
                Err(error) => error,
            };
            let key = error.path.join(".");
            if let Some(text) = self.text_instead(&error, &key)
                && let Some(value) = find_mut(&mut tree, &error.path)
                && value.as_str().is_none()
            {
                *value = Value::String(value.tag(), text);
                retried.insert(key, error);
                continue;
            }
            match retried.remove(&key) {
                Some(first) if matches!(error.kind, Kind::InvalidType(..)) => problems.extend(self.explain(&first)),
                _ => problems.extend(self.explain(&error)),
            }
            if !remove(&mut tree, &error.path) {
                return (Config::default(), problems);
            }
        }
    }

    /// The text to read in place of a value that has the wrong type.
    fn text_instead(&self, error: &Error, key: &str) -> Option<String> {
        match &error.kind {
            // STOMPGATE_NODE__NAME=12345 looks like a number, and the setting wants a string.
            Kind::InvalidType(..) if self.texts.contains_key(key) => self.texts.get(key).cloned(),
            // Only as a string can it be told which names there are.
            Kind::InvalidType(found, expected) if expected.starts_with("enum ") => Some(description(found)),
            _ => None,
        }
    }

    /// A problem with a key, and where its value was set.
    pub(super) fn problem(&self, key: String, why: impl Into<String>) -> Problem {
        let origin = self.origin(&key).filter(|origin| origin != "default").map(|origin| match self.line(&key) {
            Some(line) if origin.starts_with("file ") => format!("{origin}, line {line}"),
            _ => origin,
        });
        Problem::new(key, origin, why)
    }

    /// Where the value of each known key comes from.
    pub(super) fn origins(&self) -> BTreeMap<String, String> {
        self.known.iter().filter_map(|key| Some((key.clone(), self.origin(key)?))).collect()
    }

    fn origin(&self, key: &str) -> Option<String> {
        let path: Vec<_> = key.split('.').collect();
        (1..=path.len()).rev().find_map(|length| {
            let tag = find(&self.tree, &path[..length])?.tag();
            self.figment.get_metadata(tag).map(|metadata| metadata.name.to_string())
        })
    }

    fn line(&self, key: &str) -> Option<usize> {
        let dots = key.match_indices('.').rev().map(|(index, _)| &key[..index]);
        std::iter::once(key).chain(dots).find_map(|key| self.lines.get(key)).copied()
    }

    fn explain(&self, error: &Error) -> Vec<Problem> {
        let key = error.path.join(".");
        let why = match &error.kind {
            Kind::UnknownField(_, siblings) => return self.explain_unknown(&error.path, siblings),
            Kind::UnknownVariant(name, variants) => {
                let list: Vec<_> = variants.iter().map(|variant| format!("{variant:?}")).collect();
                format!("{name:?} is none of {}", list.join(", "))
            }
            Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) if is_secret(&key) => {
                format!("expected {}", expectation(expected))
            }
            Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
                format!("expected {}, found {}", expectation(expected), description(found))
            }
            _ if is_secret(&key) => "the value does not fit".to_owned(),
            other => {
                let found = find(&self.tree, &error.path).map(|value| description(&value.to_actual()));
                let expected = match other.to_string() {
                    text if text == "invalid socket address syntax" => {
                        format!("expected {}", expectation("socket address"))
                    }
                    text => text,
                };
                format!("{expected}, found {}", found.unwrap_or_default())
            }
        };
        vec![self.problem(key, why)]
    }

    /// One problem for each value beneath an unknown key.
    fn explain_unknown(&self, path: &[String], siblings: &[&str]) -> Vec<Problem> {
        let mut keys = Vec::new();
        let path: Vec<_> = path.iter().map(String::as_str).collect();
        if let Some(value) = find(&self.tree, &path) {
            leaves(&path.join("."), value, &mut keys);
        }
        if keys.is_empty() {
            keys.push(path.join("."));
        }
        let parent = &path[..path.len().saturating_sub(1)];
        let siblings: Vec<_> = siblings.iter().map(|name| [parent, &[*name]].concat().join(".")).collect();
        let explain = |key: String| {
            let why = match &nearest(&key, &self.known, &siblings)[..] {
                [] if parent.is_empty() => format!("unknown key; the sections are {}", siblings.join(", ")),
                [] => format!("unknown key; there are {}", siblings.join(", ")),
                near => format!("unknown key; did you mean {}?", near.join(" or ")),
            };
            self.problem(key, why)
        };
        keys.into_iter().map(explain).collect()
    }
}

/// Every key that has a default or can be left out, in order.
pub(super) fn known_keys(defaults: &Value) -> Vec<String> {
    let mut keys = Vec::new();
    leaves("", defaults, &mut keys);
    keys
}

fn leaves(prefix: &str, value: &Value, keys: &mut Vec<String>) {
    match value.as_dict() {
        // A table whose keys are the user's, such as host names, has none by default: it is one setting.
        Some(dict) if !dict.is_empty() || prefix.is_empty() => {
            for (name, value) in dict {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                leaves(&key, value, keys);
            }
        }
        _ => keys.push(prefix.to_owned()),
    }
}

fn find<'a>(tree: &'a Value, path: &[impl AsRef<str>]) -> Option<&'a Value> {
    path.iter().try_fold(tree, |value, name| match value {
        Value::Dict(_, dict) => dict.get(name.as_ref()),
        Value::Array(_, items) => items.get(name.as_ref().parse::<usize>().ok()?),
        _ => None,
    })
}

fn find_mut<'a>(tree: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(tree, |value, name| match value {
        Value::Dict(_, dict) => dict.get_mut(name),
        Value::Array(_, items) => items.get_mut(name.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Takes the key at the end of the path out, or the list that it is an item of.
fn remove(tree: &mut Value, path: &[String]) -> bool {
    let Some((name, parent)) = path.split_last() else { return false };
    match find_mut(tree, parent) {
        Some(Value::Dict(_, dict)) => dict.remove(name).is_some(),
        _ => remove(tree, parent),
    }
}

fn expectation(expected: &str) -> String {
    match expected {
        "a duration" => "a time with its unit, such as \"10s\", \"5m\" or \"250ms\"".to_owned(),
        "socket address" => "an address and port, such as \"127.0.0.1:8080\"".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list, such as [\"a\", \"b\"]".to_owned(),
        _ if expected.starts_with("struct ") => "a table".to_owned(),
        _ => expected.to_owned(),
    }
}

fn description(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Str(value) => format!("{:?}", masked_url(value).as_ref().unwrap_or(value)),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}
