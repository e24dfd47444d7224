//! Cells to one table.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A line of the file that the tests write (`agent/tests/matrix/support/report.rs`).
#[derive(Deserialize)]
struct Cell {
    test: String,
    cell: String,
    outcome: Outcome,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    tried: Vec<Tried>,
}

/// In the order of what weighs more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Skipped,
    Passed,
    Failed,
}

#[derive(Deserialize)]
struct Tried {
    program: String,
    version: String,
    library: String,
    side: Side,
    /// 1 or 2.
    http: u8,
    /// `1.2`, `1.3` or empty.
    tls: String,
    trial: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    Client,
    Server,
}

/// Protocols, by version of HTTP and of TLS.
const COLUMNS: [(u8, &str); 6] = [
    (1, ""),
    (1, "1.2"),
    (1, "1.3"),
    (2, ""),
    (2, "1.2"),
    (2, "1.3"),
];

/// Of one program on one side: by protocol, by trial.
type Row = [BTreeMap<Trial, Outcome>; 6];

/// One alone, many at once, many in a row, and the rest by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Trial(u8, String);

impl Trial {
    fn of(name: String) -> Self {
        let of_count = name.starts_with(|c: char| c.is_ascii_digit());
        let rank = match name.chars().last() {
            Some('c') if of_count => 1,
            Some('s') if of_count => 2,
            _ if of_count => 0,
            _ => 3,
        };
        Self(rank, name)
    }
}

pub struct Table {
    /// By side, program with its version, and the TLS that it carries.
    rows: BTreeMap<(Side, String, String), Row>,
    /// Cells that failed or were skipped, with the reason.
    reasons: Vec<String>,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Table {
    /// Of the lines in which a program is named.
    pub fn of(text: &str) -> Result<Self> {
        let mut table = Self {
            rows: BTreeMap::new(),
            reasons: Vec::new(),
            passed: 0,
            failed: 0,
            skipped: 0,
        };
        for line in text.lines() {
            let cell: Cell =
                serde_json::from_str(line).with_context(|| format!("not a cell: {line}"))?;
            table.add(cell)?;
        }
        anyhow::ensure!(!table.rows.is_empty(), "no cell names a program");
        Ok(table)
    }

    fn add(&mut self, cell: Cell) -> Result<()> {
        let word = match cell.outcome {
            Outcome::Passed => {
                self.passed += 1;
                None
            }
            Outcome::Failed => {
                self.failed += 1;
                Some("FAILED")
            }
            Outcome::Skipped => {
                self.skipped += 1;
                Some("skipped")
            }
        };
        if let Some(word) = word {
            let reason = cell.reason.lines().next().unwrap_or_default();
            self.reasons
                .push(format!("{word} {}/{}: {reason}", cell.test, cell.cell));
        }
        for tried in cell.tried {
            let column = COLUMNS
                .iter()
                .position(|(http, tls)| (*http, *tls) == (tried.http, tried.tls.as_str()))
                .with_context(|| format!("HTTP/{} over TLS {}", tried.http, tried.tls))?;
            let program = format!("{} {}", tried.program, tried.version);
            let row = self
                .rows
                .entry((tried.side, program, tried.library))
                .or_default();
            let outcome = row[column]
                .entry(Trial::of(tried.trial))
                .or_insert(cell.outcome);
            *outcome = (*outcome).max(cell.outcome);
        }
        Ok(())
    }

    pub fn failed(&self) -> usize {
        self.failed
    }

    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    pub fn counts(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }

    pub fn markdown(&self) -> String {
        let mut out = String::new();
        for (side, lines) in self.sides() {
            let _ = writeln!(out, "| {} |", header(side).join(" | "));
            let _ = writeln!(out, "|{}", "---|".repeat(8));
            for line in lines {
                let _ = writeln!(out, "| {} |", line.join(" | "));
            }
            let _ = writeln!(out);
        }
        out
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        for (side, mut lines) in self.sides() {
            lines.insert(0, header(side).map(str::to_owned));
            let width = |column: usize| {
                let widths = lines.iter().map(|line| line[column].chars().count());
                widths.max().unwrap_or(0)
            };
            let widths: [usize; 8] = std::array::from_fn(width);
            for line in &lines {
                let padded = line.iter().zip(widths);
                let text: Vec<_> = padded
                    .map(|(text, width)| format!("{text:<width$}"))
                    .collect();
                let _ = writeln!(out, "{}", text.join("  ").trim_end());
            }
            let _ = writeln!(out);
        }
        out
    }

    fn sides(&self) -> [(Side, Vec<[String; 8]>); 2] {
        [Side::Client, Side::Server].map(|side| {
            let mut of_side: Vec<_> = self
                .rows
                .iter()
                .filter(|((of, ..), _)| *of == side)
                .collect();
            of_side.sort_by_key(|((_, program, _), _)| program.to_lowercase());
            let lines = of_side.into_iter().map(|((_, program, library), row)| {
                let [a, b, c, d, e, f] = row.each_ref().map(trials);
                [program.clone(), library.clone(), a, b, c, d, e, f]
            });
            (side, lines.collect())
        })
    }
}

fn header(side: Side) -> [&'static str; 8] {
    let side = match side {
        Side::Client => "as client",
        Side::Server => "as server",
    };
    [
        side, "its TLS", "HTTP/1", "TLS 1.2", "TLS 1.3", "HTTP/2", "TLS 1.2", "TLS 1.3",
    ]
}

/// What passed, what did not, and in brackets what was skipped.
fn trials(of: &BTreeMap<Trial, Outcome>) -> String {
    let words = of.iter().map(|(Trial(_, name), outcome)| match outcome {
        Outcome::Passed => name.clone(),
        Outcome::Failed => format!("**{name} FAILED**"),
        Outcome::Skipped => format!("({name})"),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(name: &str, outcome: &str, tls: &str, trial: &str) -> String {
        format!(
            r#"{{"test":"t","cell":"{name}","outcome":"{outcome}","reason":"why","tried":[{{"program":"curl","version":"8","library":"OpenSSL","side":"client","http":1,"tls":"{tls}","trial":"{trial}"}}]}}"#
        )
    }

    #[test]
    fn cells_of_one_program_share_a_row() {
        let cells = [
            cell("a", "passed", "1.3", "200s"),
            cell("b", "passed", "1.3", "1"),
            cell("c", "passed", "1.3", "20c"),
            cell("d", "failed", "1.3", "20c"),
            cell("e", "skipped", "", "1"),
            r#"{"test":"t","cell":"of-no-program","outcome":"passed"}"#.to_owned(),
        ];
        let table = Table::of(&cells.join("\n")).unwrap();
        let row = "| curl 8 | OpenSSL | (1) |  | 1, **20c FAILED**, 200s |  |  |  |";
        assert!(table.markdown().contains(row), "{}", table.markdown());
        assert_eq!(table.counts(), "4 passed, 1 failed, 1 skipped");
        assert_eq!(table.reasons(), ["FAILED t/d: why", "skipped t/e: why"]);
        assert!(
            table.text().contains("curl 8     OpenSSL  (1)"),
            "{}",
            table.text()
        );
    }

    #[test]
    fn a_table_of_nothing_is_none() {
        assert!(Table::of("").is_err());
        assert!(Table::of("garbage").is_err());
    }
}
