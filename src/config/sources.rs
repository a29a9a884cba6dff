//! Where values come from, and how they are laid over one another.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use toml::de::{DeTable, DeValue};

use super::Config;
use super::error::Problem;
use super::extract::{Gathered, known_keys};

const PREFIX: &str = "STOMPGATE_";

/// Where a configuration is read from, the weakest first: defaults, `file`, `environment`, `flags`.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A TOML file. One that cannot be read is an error.
    pub file: Option<PathBuf>,
    /// Environment variables, all of them. Those named `STOMPGATE_SECTION__KEY` are settings; others are not looked at,
    /// `STOMPGATE_PORT` neither, which Kubernetes sets for a service named stompgate.
    pub environment: Vec<(OsString, OsString)>,
    /// Command line flags; later ones win.
    pub flags: Vec<Flag>,
}

/// A setting given on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// How the flag is written: `--listen`.
    pub name: String,
    /// The key that it sets.
    pub key: String,
    /// The value as it was written.
    pub text: String,
}

impl Sources {
    /// Lays everything over the defaults. What cannot be read at all is noted as a problem and left out.
    pub(super) fn gather(&self) -> Gathered {
        let defaults = Value::serialize(Config::default()).expect("the defaults are plain data with string keys");
        let known = known_keys(&defaults);
        let values = defaults.into_dict().expect("a struct is a dictionary");
        let mut layers = Layers::default();
        layers.add("default".to_owned(), values);
        if let Some(file) = &self.file {
            layers.add_file(file);
        }
        for (name, value) in settings_among(&self.environment) {
            match value.to_str() {
                Some(text) => layers.add_text(name, &key_of(name), text),
                None => layers.problems.push(Problem::new(key_of(name), Some(name.to_owned()), "is not UTF-8")),
            }
        }
        for flag in &self.flags {
            layers.add_text(&flag.name, &flag.key, &flag.text);
        }
        let tree = layers.figment.data().ok().and_then(|mut profiles| profiles.remove(&Profile::Default));
        Gathered {
            tree: Value::from(tree.unwrap_or_default()),
            known,
            figment: layers.figment,
            texts: layers.texts,
            lines: layers.lines,
            problems: layers.problems,
        }
    }
}

fn settings_among(environment: &[(OsString, OsString)]) -> impl Iterator<Item = (&str, &OsString)> {
    environment.iter().filter_map(|(name, value)| {
        let name = name.to_str()?;
        name.strip_prefix(PREFIX)?.contains("__").then_some((name, value))
    })
}

/// `STOMPGATE_SERVER__TLS__KEY` → `server.tls.key`.
fn key_of(variable: &str) -> String {
    variable.trim_start_matches(PREFIX).to_ascii_lowercase().replace("__", ".")
}

#[derive(Default)]
struct Layers {
    figment: Figment,
    texts: BTreeMap<String, String>,
    lines: BTreeMap<String, usize>,
    problems: Vec<Problem>,
}

impl Layers {
    fn add(&mut self, origin: String, values: Dict) {
        self.figment = std::mem::take(&mut self.figment).merge(Layer { origin, values });
    }

    /// A value written as text is TOML where it can be, such as a list or a number, and a string where not.
    fn add_text(&mut self, origin: &str, key: &str, text: &str) {
        let value = text.parse().unwrap_or_else(|_| toml::Value::String(text.to_owned()));
        let value = Value::serialize(value).unwrap_or_else(|_| Value::from(text));
        match figment::util::nest(key, value).into_dict() {
            Some(values) if !key.split('.').any(str::is_empty) => {
                self.texts.insert(key.to_owned(), text.to_owned());
                self.add(origin.to_owned(), values);
            }
            _ => self.problems.push(Problem::new(key.to_owned(), Some(origin.to_owned()), "is not a key")),
        }
    }

    fn add_file(&mut self, file: &Path) {
        let origin = format!("file {}", file.display());
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                let why = format!("cannot read {}: {error}", file.display());
                self.problems.push(Problem::new("--config".to_owned(), None, why));
                return;
            }
        };
        match DeTable::parse(&text) {
            Ok(table) => {
                let mut keys = Vec::new();
                spans("", table.get_ref(), &mut keys);
                self.lines = keys.into_iter().map(|(key, span)| (key, line(&text, span.start))).collect();
            }
            Err(error) => {
                // Not the error's own display: it quotes the line, which may hold a secret.
                let line = error.span().map_or(1, |span| line(&text, span.start));
                self.problems.push(Problem::new(format!("{origin}, line {line}"), None, error.message()));
                return;
            }
        }
        let table: toml::Table = toml::from_str(&text).unwrap_or_default();
        let values = Value::serialize(table).ok().and_then(Value::into_dict).unwrap_or_default();
        self.add(origin, values);
    }
}

fn spans(prefix: &str, table: &DeTable<'_>, keys: &mut Vec<(String, Range<usize>)>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
        match value.get_ref() {
            DeValue::Table(table) => spans(&key, table, keys),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let DeValue::Table(table) = item.get_ref() {
                        spans(&format!("{key}.{index}"), table, keys);
                    }
                    keys.push((format!("{key}.{index}"), item.span()));
                }
            }
            _ => {}
        }
        keys.push((key, name.span()));
    }
}

fn line(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

/// One layer of values; figment remembers for each value which layer it is from.
struct Layer {
    origin: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}
