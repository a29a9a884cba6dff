//! The rows of a run, as Markdown and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

/// All rows, in order.
#[derive(Debug, Default)]
pub struct Report(Vec<Row>);

#[derive(Debug)]
struct Row {
    scenario: String,
    measure: &'static str,
    /// One value for each round.
    gateway: Vec<f64>,
    /// What stands beside the gateway, and its values.
    beside: &'static str,
    reference: Vec<f64>,
}

impl Report {
    /// No rows.
    pub fn new() -> Self {
        Report::default()
    }

    /// Adds a row; `floor` may be empty.
    pub fn add(&mut self, scenario: &str, measure: &'static str, gateway: Vec<f64>, floor: &[f64]) {
        self.add_beside("floor", scenario, measure, gateway, floor);
    }

    /// Adds a row with something else than the floor beside the gateway.
    pub fn add_beside(
        &mut self,
        beside: &'static str,
        scenario: &str,
        measure: &'static str,
        gateway: Vec<f64>,
        reference: &[f64],
    ) {
        self.0.push(Row { scenario: scenario.to_owned(), measure, gateway, beside, reference: reference.to_vec() });
    }

    /// A table for each thing beside the gateway: medians, and in brackets the lowest and the highest.
    pub fn markdown(&self) -> String {
        let mut table = String::new();
        let mut beside = "";
        for row in &self.0 {
            // Writing to a String cannot fail.
            if row.beside != beside {
                let gap = if beside.is_empty() { "" } else { "\n" };
                beside = row.beside;
                let _ = writeln!(table, "{gap}| scenario | measure | gateway | {beside} | gateway / {beside} |");
                let _ = writeln!(table, "|---|---|--:|--:|--:|");
            }
            let cells = [&row.gateway, &row.reference, &row.ratios()].map(|values| cell(values));
            let _ = writeln!(table, "| {} | {} | {} |", row.scenario, row.measure, cells.join(" | "));
        }
        table
    }

    /// Every value of every round.
    pub fn json(&self) -> Value {
        let rows = self.0.iter().map(|row| {
            json!({
                "scenario": row.scenario, "measure": row.measure,
                "gateway": row.gateway, row.beside: row.reference, "ratio": row.ratios(),
            })
        });
        rows.collect()
    }
}

impl Row {
    /// Each round by itself: what disturbs a round disturbs both of its halves.
    fn ratios(&self) -> Vec<f64> {
        self.gateway.iter().zip(&self.reference).map(|(gateway, reference)| gateway / reference).collect()
    }
}

fn cell(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => String::new(),
        [only] => number(*only),
        [lowest, .., highest] => {
            let median = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
            format!("{} ({}–{})", number(median), number(*lowest), number(*highest))
        }
    }
}

/// Three digits that mean something, no more.
fn number(value: f64) -> String {
    let decimals = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}")
}
