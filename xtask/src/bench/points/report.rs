//! Rates to ratios within the same round, goals beside them, and a mark where one is missed.

use super::{Subject, Variant};
use crate::bench::report::median;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Least ratio of the agent with its points to its hooks alone: out of the scope, and in it.
const OUTSIDE: f64 = 0.98;
const INSIDE: f64 = 0.97;

/// A row: out of the scope or in it, and its name.
type Row = (bool, &'static str);

#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    rates: BTreeMap<(Row, Variant, u32), f64>,
    /// Why there is no agent with its hooks alone.
    pub without_hooks: Option<String>,
}

impl Report {
    pub fn add(&mut self, round: u32, variant: Variant, subject: &Subject, rate: f64) {
        self.put((subject.outside, subject.name), variant, round, rate);
    }

    fn put(&mut self, row: Row, variant: Variant, round: u32, rate: f64) {
        if !self.rows.contains(&row) {
            self.rows.push(row);
        }
        self.rates.insert((row, variant, round), rate);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn rates(&self, row: Row, variant: Variant) -> impl Iterator<Item = (u32, f64)> + '_ {
        let of_row = (row, variant, 0)..=(row, variant, u32::MAX);
        let rates = self.rates.range(of_row);
        rates.map(|((_, _, round), rate)| (*round, *rate))
    }

    /// Median of the ratios of the rounds, least, and greatest.
    fn ratio(&self, row: Row, of: Variant, to: Variant) -> Option<(f64, f64, f64)> {
        let mut ratios: Vec<f64> = self
            .rates(row, of)
            .filter_map(|(round, rate)| Some(rate / self.rates.get(&(row, to, round))?))
            .collect();
        let middle = median(&mut ratios)?;
        Some((middle, *ratios.first()?, *ratios.last()?))
    }

    /// Rates of forks, threads and execs have none: they are measured to be known.
    fn goal((outside, name): Row) -> Option<f64> {
        match (outside, name) {
            (true, _) => Some(OUTSIDE),
            (false, "fork" | "pthread_create, join" | "exec") => None,
            (false, _) => Some(INSIDE),
        }
    }

    pub fn table(&self) -> String {
        let mut out = String::from(
            "\nkey-log points by themselves: a second without an agent; then ratios, median (least to greatest of the \
             rounds), `!` below its goal\n\n",
        );
        let mut line = |first: &str, rest: &[String]| {
            let mut text = format!("{first:<38}");
            for word in rest {
                let _ = write!(text, " {word:>20}");
            }
            let _ = writeln!(out, "{}", text.trim_end());
        };
        let header = [
            "nothing",
            "hooks to nothing",
            "agent to nothing",
            "agent to hooks",
            "goal",
        ];
        line("", &header.map(str::to_owned));
        for row in &self.rows {
            let place = if row.0 { "out of scope" } else { "in scope" };
            line(&format!("{place}: {}", row.1), &self.cells(*row));
        }
        if let Some(reason) = &self.without_hooks {
            let _ = writeln!(
                out,
                "no agent with its hooks alone (capture.points = \"off\"): {reason}"
            );
        }
        out
    }

    fn cells(&self, row: Row) -> Vec<String> {
        let mut rates: Vec<f64> = self
            .rates(row, Variant::Nothing)
            .map(|(_, rate)| rate)
            .collect();
        let rate = median(&mut rates);
        let mut cells = vec![rate.map_or("-".to_owned(), |rate| format!("{rate:.0}/s"))];
        let goal = Self::goal(row);
        for (of, to) in [
            (Variant::Hooks, Variant::Nothing),
            (Variant::Points, Variant::Nothing),
            (Variant::Points, Variant::Hooks),
        ] {
            let ratio = self.ratio(row, of, to);
            let to_hooks = to == Variant::Hooks;
            cells.push(ratio.map_or("-".to_owned(), |(middle, least, most)| {
                let missed = to_hooks && goal.is_some_and(|goal| middle < goal);
                let mark = if missed { " !" } else { "" };
                format!("{middle:.2} ({least:.2}-{most:.2}){mark}")
            }));
        }
        cells.push(goal.map_or("-".to_owned(), |goal| format!(">= {goal:.2}")));
        cells
    }

    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let ratio = |of, to| {
                    let ratio = self.ratio(*row, of, to);
                    ratio.map(|(median, least, greatest)| {
                        json!({"median": median, "least": least, "greatest": greatest})
                    })
                };
                let goal = Self::goal(*row);
                let to_hooks = self.ratio(*row, Variant::Points, Variant::Hooks);
                let rates = |variant| self.rates(*row, variant).map(|(_, rate)| rate).collect::<Vec<_>>();
                json!({
                    "name": row.1, "in_scope": !row.0,
                    "per_second": {
                        "nothing": rates(Variant::Nothing), "hooks": rates(Variant::Hooks), "agent": rates(Variant::Points),
                    },
                    "hooks_to_nothing": ratio(Variant::Hooks, Variant::Nothing),
                    "agent_to_nothing": ratio(Variant::Points, Variant::Nothing),
                    "agent_to_hooks": ratio(Variant::Points, Variant::Hooks),
                    "goal": goal,
                    "missed": goal.zip(to_hooks).is_some_and(|(goal, (middle, _, _))| middle < goal),
                })
            })
            .collect();
        json!({"rows": rows, "without_hooks": self.without_hooks})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round_and_a_missed_goal_is_marked() {
        let mut report = Report::default();
        for (round, nothing, hooks, agent) in [(0, 400.0, 300.0, 291.0), (1, 100.0, 75.0, 72.0)] {
            report.put((false, "nginx"), Variant::Nothing, round, nothing);
            report.put((false, "nginx"), Variant::Hooks, round, hooks);
            report.put((false, "nginx"), Variant::Points, round, agent);
        }
        let expected = [
            "100/s",
            "0.75 (0.75-0.75)",
            "0.72 (0.72-0.73)",
            "0.96 (0.96-0.97) !",
            ">= 0.97",
        ];
        assert_eq!(report.cells((false, "nginx")), expected);
        let json = report.json();
        assert_eq!(json["rows"][0]["missed"], true);
    }

    #[test]
    fn without_hooks_there_is_no_ratio_to_them() {
        let mut report = Report::default();
        report.put((true, "fork"), Variant::Nothing, 0, 100.0);
        report.put((true, "fork"), Variant::Points, 0, 50.0);
        let expected = ["100/s", "-", "0.50 (0.50-0.50)", "-", ">= 0.98"];
        assert_eq!(report.cells((true, "fork")), expected);
        assert_eq!(report.json()["rows"][0]["missed"], false);
    }
}
