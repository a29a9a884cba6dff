//! What is read when somebody asks, rather than counted when it happens.

use std::fmt::{Display, Write as _};

/// Figures, gathered in Prometheus's text format.
///
/// Whoever owns something tells it here; no list of owners or figures is kept anywhere else. A name is told once, with
/// all values of its label.
#[derive(Debug, Default)]
pub struct Figures(String);

impl Figures {
    /// What goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// What only grows while the gateway runs. Its name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, help, "counter");
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// A gauge for each value of a label.
    pub fn gauges<V: Display>(&mut self, name: &str, help: &str, label: &str, values: &[(&str, V)]) {
        self.head(name, help, "gauge");
        self.labelled(name, label, values);
    }

    /// A counter for each value of a label.
    pub fn counters<V: Display>(&mut self, name: &str, help: &str, label: &str, values: &[(&str, V)]) {
        self.head(name, help, "counter");
        self.labelled(name, label, values);
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn labelled<V: Display>(&mut self, name: &str, label: &str, values: &[(&str, V)]) {
        for (text, value) in values {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = writeln!(self.0, "{name}{{{label}=\"{text}\"}} {value}");
        }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}
