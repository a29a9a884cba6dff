//! `[log]`: where events of the program go.
//!
//! Only events of `tracing` are shown, and there is no bridge from the `log` crate: tungstenite and rustls speak through
//! that one, and would write every WebSocket frame.

use std::io::{self, IsTerminal};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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
        // A lone word that is no level would be a target: `inof` would show nothing, and say nothing about it.
        for directive in self.level.split(',').map(str::trim) {
            let is_level = !directive.is_empty() && directive.parse::<LevelFilter>().is_ok();
            if !is_level && !directive.contains(['=', '[']) {
                return Err(format!(
                    "{directive:?} is no level; expected error, warn, info, debug, trace, off or module=level"
                ));
            }
        }
        EnvFilter::builder().parse(self.level.replace(' ', "")).map_err(|error| format!("{:?}: {error}", self.level))
    }
}

/// Starts logging, to standard error. Once per process; a second call changes nothing.
pub fn start(settings: &Settings) {
    let filter = settings.filter().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(terminal);
    let json = match settings.format {
        Format::Auto => !terminal,
        Format::Text => false,
        Format::Json => true,
    };
    let _already_started = if json { lines.json().try_init() } else { lines.try_init() };
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
}
