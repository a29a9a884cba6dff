//! What the gateway is to reach, and whether it does.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::fan_out::{self, CPU, FEW};
use crate::latency::{self, FEWS_RATE, HALF, MANYS_RATE, RATE, TAIL};
use crate::plan::Plan;
use crate::report::{
    BARE_MQTT, BINDING, FLOOR, NOBODY_STALLED, ONE_WORKER, OPENSSL, PLAIN, PLAIN_SOCKETS, PLUGIN, Report, cell, median,
    number,
};
use crate::{bridge, bridged, connecting, deflate, heartbeats, idle, mqtt, restart, returning, stalled, tls, workers};

/// A bound for a row of the report.
struct Goal {
    name: &'static str,
    scenario: String,
    measure: &'static str,
    beside: &'static str,
    quantity: Quantity,
    bound: Bound,
}

/// What of a row is bounded, in each round.
#[derive(Clone, Copy)]
enum Quantity {
    /// The gateway's value.
    Own,
    /// Divided by that of what stands beside it.
    Ratio,
    /// How much it is above that.
    Difference,
    /// How much it is above so many times that.
    Beyond(f64),
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

use Bound::{AtLeast, AtMost};
use Quantity::{Beyond, Difference, Own, Ratio};

fn goals(plan: &Plan) -> Vec<Goal> {
    let clients = plan.clients;
    let goal = |name, scenario: &str, measure, beside, quantity, bound| Goal {
        name,
        scenario: scenario.to_owned(),
        measure,
        beside,
        quantity,
        bound,
    };
    let mut goals = Vec::new();
    for subscribers in [FEW, clients] {
        let [alone, saturated] = [1, 16].map(|window| fan_out::name(subscribers, window));
        let before = bridged::name(&alone);
        goals.extend([
            goal("G1", &alone, CPU, FLOOR, Ratio, AtMost(1.6)),
            goal("G1", &alone, CPU, PLUGIN, Ratio, AtMost(1.0 / 7.0)),
            goal("G2", &before, bridged::CPU, FLOOR, Ratio, AtMost(1.8)),
            goal("G2", &before, bridged::CPU, PLUGIN, Ratio, AtMost(1.0 / 6.0)),
            goal("G2", &mqtt::name(&alone), mqtt::CPU, FLOOR, Ratio, AtMost(1.8)),
            goal("G3", &saturated, fan_out::RATE, FLOOR, Ratio, AtLeast(0.8)),
            goal("G3", &saturated, fan_out::RATE, PLUGIN, Ratio, AtLeast(8.0)),
            goal("G16", &workers::name(subscribers), CPU, ONE_WORKER, Ratio, AtMost(1.15)),
        ]);
    }
    let memory = idle::name(clients);
    let [one, few, many] = [(1, RATE), (FEW, FEWS_RATE), (clients, MANYS_RATE)].map(|(n, rate)| latency::name(n, rate));
    let connect = connecting::name();
    goals.extend([
        goal("G4", &memory, idle::RSS, FLOOR, Own, AtMost(6.0 * 1024.0)),
        goal("G4", &memory, idle::RSS, PLUGIN, Ratio, AtMost(1.0 / 20.0)),
        goal("G5", &one, HALF, PLUGIN, Ratio, AtMost(1.0 / 3.0)),
        goal("G5", &one, TAIL, PLUGIN, Ratio, AtMost(1.0 / 6.0)),
        goal("G5, stretch", &one, HALF, FLOOR, Ratio, AtMost(2.0)),
        goal("G6", &few, TAIL, PLUGIN, Ratio, AtMost(1.0 / 4.0)),
        goal("G6", &many, TAIL, PLUGIN, Ratio, AtMost(1.0 / 8.0)),
        goal("G6, stretch", &few, TAIL, FLOOR, Ratio, AtMost(1.5)),
        goal("G6, stretch", &many, TAIL, FLOOR, Ratio, AtMost(1.5)),
        goal("G7", &bridged::name(&one), HALF, PLUGIN, Difference, AtMost(300.0)),
        goal("G7", &bridged::name(&few), TAIL, PLUGIN, Ratio, AtMost(1.0 / 2.0)),
        goal("G8", &connect, connecting::RATE, PLUGIN, Ratio, AtLeast(10.0)),
        goal("G8", &connect, connecting::CPU, PLUGIN, Ratio, AtMost(1.0 / 20.0)),
        goal("G4t", &tls::name(clients), tls::MEMORY, PLAIN_SOCKETS, Difference, AtMost(24.0 * 1024.0)),
        goal("G9", tls::HANDSHAKES, tls::RATE, OPENSSL, Ratio, AtLeast(0.4)),
        // A second, and the longest pause between two attempts to connect.
        goal("G10", &restart::name(clients), restart::TIME, BINDING, Beyond(1.2), AtMost(1.0 + 5.0)),
        goal("G11", &returning::name(clients), connecting::RATE, PLUGIN, Ratio, AtLeast(10.0)),
        goal("G11", &returning::name(clients), returning::FAILED, PLUGIN, Own, AtMost(0.0)),
        goal("G15", &stalled::name(), TAIL, NOBODY_STALLED, Ratio, AtMost(1.2)),
        goal("G15", &stalled::name(), stalled::MEMORY, NOBODY_STALLED, Own, AtMost(1024.0 * 1024.0)),
        goal("G12", bridge::SENDING, bridge::CPU, FLOOR, Ratio, AtMost(2.0)),
        goal("G12", bridge::READING, bridge::CPU, FLOOR, Ratio, AtMost(2.0)),
        goal("G13", &deflate::name(FEW), CPU, PLAIN, Ratio, AtMost(1.15)),
        goal("G13", &deflate::name(clients), idle::RSS, PLAIN, Difference, AtMost(1024.0)),
    ]);
    for idlers in plan.idlers() {
        goals.push(goal("G14", &heartbeats::name(idlers), heartbeats::CPU, FLOOR, Own, AtMost(3.0)));
    }
    // The goal is for messages that are confirmed.
    for scenario in [mqtt::sending(1), mqtt::reading(1)] {
        goals.push(goal("G12", &scenario, mqtt::BRIDGE_CPU, BARE_MQTT, Ratio, AtMost(2.0)));
    }
    goals.sort_by_key(|goal| {
        let number = goal.name[1..].split(|character: char| !character.is_ascii_digit()).next();
        number.and_then(|number| number.parse::<u32>().ok())
    });
    goals
}

impl Goal {
    /// The quantity of each round, if it was measured.
    fn values(&self, report: &Report) -> Option<Vec<f64>> {
        let [own, reference, ratios] = report.find(self.beside, &self.scenario, self.measure)?;
        Some(match self.quantity {
            Own => own,
            Ratio => ratios,
            Difference => own.iter().zip(reference).map(|(own, reference)| own - reference).collect(),
            Beyond(times) => own.iter().zip(reference).map(|(own, reference)| own - times * reference).collect(),
        })
    }

    /// What the floor has in the gateway's place, by the medians of the run: a bound that it does not keep, either, asks for
    /// less than the kernel takes.
    fn of_floor(&self, report: &Report) -> Option<f64> {
        let of = |beside| report.find(beside, &self.scenario, self.measure).map(|[_, other, _]| median(&other));
        let value = match self.quantity {
            Own => of(FLOOR)?,
            Ratio if self.beside != FLOOR => of(FLOOR)? / of(self.beside)?,
            _ => return None,
        };
        value.is_finite().then_some(value)
    }

    fn about(&self) -> String {
        let quantity = match self.quantity {
            Own => String::new(),
            Ratio => format!(" / {}", self.beside),
            Difference => format!(" − {}", self.beside),
            Beyond(times) => format!(" − {times} × {}", self.beside),
        };
        format!("{}: {}{quantity}", self.scenario, self.measure)
    }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            AtMost(most) => value <= most,
            AtLeast(least) => value >= least,
        }
    }

    fn text(self) -> String {
        match self {
            AtMost(most) => format!("≤ {}", number(most)),
            AtLeast(least) => format!("≥ {}", number(least)),
        }
    }
}

/// Each goal with what was measured. The median of the rounds counts.
pub fn markdown(report: &Report, plan: &Plan) -> String {
    let mut table = String::from("| goal | | bound | measured | the floor | |\n|---|---|--:|--:|--:|---|\n");
    for goal in goals(plan) {
        let (measured, verdict) = match goal.values(report) {
            Some(values) => (cell(&values), if goal.bound.holds(median(&values)) { "met" } else { "**missed**" }),
            None => (String::new(), "not measured"),
        };
        let (about, bound) = (goal.about(), goal.bound.text());
        let floor = goal.of_floor(report).map(number).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| {} | {about} | {bound} | {measured} | {floor} | {verdict} |", goal.name);
    }
    table
}

/// The same.
pub fn json(report: &Report, plan: &Plan) -> Value {
    let rows = goals(plan).into_iter().map(|goal| {
        let values = goal.values(report);
        let holds = values.as_ref().map(|values| goal.bound.holds(median(values)));
        json!({
            "goal": goal.name, "about": goal.about(), "bound": goal.bound.text(), "values": values,
            "floor": goal.of_floor(report), "met": holds,
        })
    });
    rows.collect()
}
