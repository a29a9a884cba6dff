//! The rows of a run, as Markdown and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

/// What stands beside the gateway, in tables.
pub const FLOOR: &str = "floor";
/// The gateway without compression.
pub const PLAIN: &str = "uncompressed";
/// The gateway with a runtime of one thread.
pub const ONE_WORKER: &str = "one worker";
/// The gateway whose clients all read.
pub const NOBODY_STALLED: &str = "nobody stalled";
/// The gateway without TLS.
pub const PLAIN_SOCKETS: &str = "ws";
/// What cryptography alone would allow.
pub const OPENSSL: &str = "openssl speed";
/// A program that only binds.
pub const BINDING: &str = "bare binding";
/// A program with the same library and nothing else.
pub const BARE_MQTT: &str = "bare rumqttc";
/// The broker with as many clients of its own.
pub const MOSQUITTO: &str = "Mosquitto alone";
/// RabbitMQ's own.
pub const PLUGIN: &str = "Web STOMP plugin";

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
        self.add_beside(FLOOR, scenario, measure, gateway, floor);
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

    /// The values of a row: the gateway's, those of what stands beside it, and the ratios.
    pub fn find(&self, beside: &str, scenario: &str, measure: &str) -> Option<[Vec<f64>; 3]> {
        let row = self
            .0
            .iter()
            .find(|row| (row.beside, row.scenario.as_str(), row.measure) == (beside, scenario, measure))?;
        Some([row.gateway.clone(), row.reference.clone(), row.ratios()])
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
        let ratios = self.gateway.iter().zip(&self.reference).map(|(gateway, reference)| gateway / reference);
        ratios.filter(|ratio| ratio.is_finite()).collect()
    }
}

/// The median, and in brackets the lowest and the highest.
pub fn cell(values: &[f64]) -> String {
    match sorted(values).as_slice() {
        [] => String::new(),
        [only] => number(*only),
        [lowest, .., highest] => format!("{} ({}–{})", number(median(values)), number(*lowest), number(*highest)),
    }
}

/// The value in the middle.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => f64::NAN,
        length => f64::midpoint(sorted[(length - 1) / 2], sorted[length / 2]),
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Three digits that mean something, no more.
pub fn number(value: f64) -> String {
    let decimals = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}")
}
