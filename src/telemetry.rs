//! `[log]`: where events of the program go.
//!
//! Only events of `tracing` are shown, and there is no bridge from the `log` crate: tungstenite and rustls speak through
//! that one, and would write every WebSocket frame.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::settings::Faults;

/// `[log]`: what is logged, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`, `off`), or directives such as
    /// `info,stompgate::server=debug`. Default `info`.
    pub level: String,
    /// How lines are written. Default `auto`.
    pub format: Format,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// As text on a terminal, else as JSON.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { level: "info".to_owned(), format: Format::Auto }
    }
}

impl Settings {
    /// What types alone cannot say: whether the directives can be understood.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        if let Err(why) = self.filter() {
            faults.add("log.level", why);
        }
        faults.into_result()
    }

    fn filter(&self) -> Result<EnvFilter, String> {
        self.filter_with(&BTreeSet::new())
    }

    /// The directives, and one for each session that is watched.
    fn filter_with(&self, watched: &BTreeSet<String>) -> Result<EnvFilter, String> {
        // A lone word that is no level would be a target: `inof` would show nothing, and say nothing about it.
        for directive in self.level.split(',').map(str::trim) {
            let is_level = !directive.is_empty() && directive.parse::<LevelFilter>().is_ok();
            if !is_level && !directive.contains(['=', '[']) {
                return Err(format!(
                    "{directive:?} is no level; expected error, warn, info, debug, trace, off or module=level"
                ));
            }
        }
        let mut directives = format!("{SILENT},{}", self.level.replace(' ', ""));
        for session in watched {
            let _ = write!(directives, ",[{SPAN}{{id={session}}}]=trace"); // a String takes everything
        }
        // A name is a name: no pattern.
        let builder = EnvFilter::builder().with_regex(false);
        builder.parse(directives).map_err(|error| format!("{:?}: {error}", self.level))
    }
}

/// The client of RabbitMQ writes down every message that comes back unrouted, body and all. Whoever sent it is told.
const SILENT: &str = "lapin::returned_messages=off";
/// The name of the span that each session has, with its name as the field `id`.
const SPAN: &str = "session";
/// Sessions that may be watched at a time: each costs something with every event.
const MOST_WATCHED: usize = 16;

/// What is logged, and what changes that while the program runs. A clone is another handle to the same.
#[derive(Clone, Default)]
pub struct Log(Option<Arc<Inner>>);

struct Inner {
    filter: reload::Handle<EnvFilter, Registry>,
    state: Mutex<State>,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// `[log] level`, or what took its place.
    pub level: String,
    /// Names of sessions of which everything is logged.
    pub sessions: BTreeSet<String>,
}

/// What is to be logged from now on; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// As `[log] level`.
    pub level: Option<String>,
    /// Names of sessions of which everything is to be logged, each frame with its length, but no bodies and passcodes.
    pub sessions: Option<BTreeSet<String>>,
}

impl Log {
    /// What is logged; nothing where the program that embeds the gateway keeps a log of its own.
    pub fn state(&self) -> Option<State> {
        self.0.as_ref().map(|inner| inner.lock().clone())
    }

    /// Changes what is logged.
    ///
    /// # Errors
    /// What is wrong with it; then all stays as it was.
    pub fn change(&self, change: Change) -> Result<State, String> {
        let Some(inner) = &self.0 else { return Err("the log is not the gateway's own".to_owned()) };
        let mut state = inner.lock();
        let level = change.level.unwrap_or_else(|| state.level.clone());
        let sessions = change.sessions.unwrap_or_else(|| state.sessions.clone());
        if sessions.len() > MOST_WATCHED {
            return Err(format!("{} sessions are more than can be watched at a time: {MOST_WATCHED}", sessions.len()));
        }
        let is_name = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if let Some(bad) = sessions.iter().find(|name| name.is_empty() || !is_name(name)) {
            return Err(format!("{bad:?} is not the name of a session"));
        }
        let settings = Settings { level, ..Settings::default() };
        inner.filter.reload(settings.filter_with(&sessions)?).map_err(|error| error.to_string())?;
        *state = State { level: settings.level, sessions };
        Ok(state.clone())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts logging, to standard error. Once per process; a second call changes nothing, and its log cannot be changed.
pub fn start(settings: &Settings) -> Log {
    let filter = settings.filter().unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let terminal = io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(terminal);
    let json = match settings.format {
        Format::Auto => !terminal,
        Format::Text => false,
        Format::Json => true,
    };
    let lines = if json { lines.json().with_span_list(false).boxed() } else { lines.boxed() };
    let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
    let state = State { level: settings.level.clone(), sessions: BTreeSet::new() };
    Log(started.is_ok().then(|| Arc::new(Inner { filter: handle, state: Mutex::new(state) })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_means_nothing_is_refused() {
        let check = |level: &str| Settings { level: level.to_owned(), ..Settings::default() }.check();
        for good in ["info", "DEBUG", "off", "warn,stompgate=debug", "info, stompgate::server=trace"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["inof", "", "info,", "stompgate=loud", "stompgate"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bodies_that_the_broker_gives_back_are_not_written_down() {
        let filter = Settings { level: "trace".to_owned(), ..Settings::default() }.filter().unwrap();
        tracing::subscriber::with_default(Registry::default().with(filter), || {
            assert!(tracing::enabled!(target: "lapin::channels", tracing::Level::WARN));
            assert!(!tracing::enabled!(target: "lapin::returned_messages", tracing::Level::ERROR));
        });
    }
}
