//! The settings in force, as text.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use figment::value::Value;

use super::extract::known_keys;
use super::{Config, Loaded};

const MASK: &str = "***";

impl Loaded {
    /// All settings, one a line, in TOML that could be read again, with their origin as a comment. Secrets are masked.
    #[expect(clippy::missing_panics_doc, reason = "it was read from such data")]
    pub fn effective(&self) -> String {
        let tree = Value::serialize(&self.config).expect("settings are plain data with string keys");
        let mut text = String::new();
        let defaults = Value::serialize(Config::default()).expect("settings are plain data with string keys");
        for key in known_keys(&defaults) {
            let origin = self.origins.get(&key).map_or("default", String::as_str);
            // A value that is not there has no spelling in TOML.
            let line = match tree.find_ref(&key).and_then(|value| toml::Value::try_from(value).ok()) {
                Some(value) => format!("{key} = {}", masked(&key, value)),
                None => format!("# {key} is not set"),
            };
            let _ = writeln!(text, "{line}  # {origin}");
        }
        text
    }
}

/// The keys of all settings that differ.
pub(super) fn differences(one: &Config, other: &Config) -> Vec<String> {
    let tree = |config| Value::serialize(config).expect("settings are plain data with string keys");
    let (one, other) = (tree(one), tree(other));
    let keys: BTreeSet<_> = known_keys(&one).into_iter().chain(known_keys(&other)).collect();
    // A value carries a tag with it; only the data counts.
    let differs = |key: &String| match (one.find_ref(key), other.find_ref(key)) {
        (Some(one), Some(other)) => toml::Value::try_from(one).ok() != toml::Value::try_from(other).ok(),
        (None, None) => false,
        _ => true,
    };
    keys.into_iter().filter(differs).collect()
}

/// Whether the value of this key must not be shown.
pub(super) fn is_secret(key: &str) -> bool {
    const SECRET: [&str; 7] = ["passcode", "password", "passwd", "secret", "token", "api_key", "private_key"];
    let name = key.rsplit('.').next().unwrap_or(key);
    SECRET.iter().any(|secret| name == *secret || name.strip_suffix(secret).is_some_and(|rest| rest.ends_with('_')))
}

fn masked(key: &str, value: toml::Value) -> toml::Value {
    match value {
        toml::Value::Table(table) => {
            table.into_iter().map(|(name, value)| (name.clone(), masked(&name, value))).collect::<toml::Table>().into()
        }
        toml::Value::Array(items) => items.into_iter().map(|item| masked(key, item)).collect::<Vec<_>>().into(),
        _ if is_secret(key) => MASK.into(),
        toml::Value::String(text) => masked_url(&text).unwrap_or(text).into(),
        other => other,
    }
}

/// `amqp://user:passcode@host` without its passcode, if it has one.
pub(super) fn masked_url(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (login, _) = authority.rsplit_once('@')?;
    let (user, _) = login.split_once(':')?;
    Some(format!("{scheme}://{user}:{MASK}{}", &rest[login.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        let shown = |key: &str, value: &str| masked(key, value.parse().unwrap()).to_string();
        assert_eq!(shown("broker.amqp.passcode", "\"hunter2\""), "\"***\"");
        assert_eq!(shown("auth.jwt.client_secret", "[\"hunter2\"]"), "[\"***\"]");
        assert_eq!(shown("broker.amqp.api_key", "12345"), "\"***\"");
        assert_eq!(shown("auth.users", "[{ name = \"a\", password = \"hunter2\" }]").find("hunter2"), None);
        assert_eq!(shown("broker.amqp.url", "\"amqp://u:hunter2@host/v\""), "\"amqp://u:***@host/v\"");
        assert_eq!(shown("broker.amqp.url", "\"amqp://u:a@b@host\""), "\"amqp://u:***@host\"");
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        for (key, value) in [
            ("server.tls.key", "\"/etc/key.pem\""),
            ("server.max_body", "1"),
            ("broker.amqp.url", "\"amqp://host\""),
            ("outbox.policy.0.key", "\"symbol\""),
        ] {
            assert_eq!(masked(key, value.parse().unwrap()).to_string(), value, "{key}");
        }
    }
}
