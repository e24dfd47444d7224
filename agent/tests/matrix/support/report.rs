//! The cells of one test: each reported by name as it is decided, all failures listed together at the end.

use super::programs::Tried;
use super::say;
use std::io::Write;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// Collects outcomes; [`Cells::finish`] panics if one failed, dropping it unfinished (a panic) says nothing more.
pub struct Cells {
    test: &'static str,
    /// What cells are about, by their names, or what those begin with before a number.
    about: Vec<(String, Vec<Tried>)>,
    failures: Vec<String>,
    passed: usize,
    skipped: usize,
}

impl Cells {
    pub fn new(test: &'static str) -> Self {
        Self {
            test,
            about: Vec::new(),
            failures: Vec::new(),
            passed: 0,
            skipped: 0,
        }
    }

    /// Says what the cell of this name tries, or what all cells do that are called so with a number behind (`NAME-07`).
    pub fn about(&mut self, cell: &str, tried: impl IntoIterator<Item = Tried>) {
        self.about
            .push((cell.to_owned(), tried.into_iter().collect()));
    }

    pub fn check(&mut self, cell: &str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => {
                self.passed += 1;
                self.record(cell, Outcome::Passed, "");
            }
            Err(error) => {
                let reason = format!("{error:#}");
                self.record(cell, Outcome::Failed, &reason);
                self.failures.push(format!("{cell}: {reason}"));
            }
        }
    }

    pub fn skip(&mut self, cell: &str, reason: &str) {
        self.skipped += 1;
        self.record(cell, Outcome::Skipped, reason);
    }

    pub fn finish(self) {
        say(&format!(
            "cells of {}: {} passed, {} failed, {} skipped",
            self.test,
            self.passed,
            self.failures.len(),
            self.skipped
        ));
        assert!(
            self.failures.is_empty(),
            "{} failed:\n  {}",
            self.test,
            self.failures.join("\n  ")
        );
        assert!(
            self.passed + self.skipped > 0,
            "{} checked nothing",
            self.test
        );
    }

    fn record(&self, cell: &str, outcome: Outcome, reason: &str) {
        let word = match outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        let tail = if reason.is_empty() {
            String::new()
        } else {
            format!(": {reason}")
        };
        say(&format!("cell {word} {}/{cell}{tail}", self.test));
        let Some(path) = std::env::var_os("TOKENTRAIL_CELLS") else {
            return;
        };
        let tried: Vec<_> = self
            .about
            .iter()
            .filter(|(name, _)| is_of(cell, name))
            .flat_map(|(_, tried)| tried.iter().map(Tried::json))
            .collect();
        let line = serde_json::json!({
            "test": self.test, "cell": cell, "outcome": word.to_lowercase(), "reason": reason,
            "tried": tried,
        });
        let opened = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path);
        opened
            .and_then(|mut file| writeln!(file, "{line}"))
            .unwrap_or_else(|error| panic!("TOKENTRAIL_CELLS {}: {error}", path.display()));
    }
}

/// `cell` is called `name`, or so with a number behind.
fn is_of(cell: &str, name: &str) -> bool {
    cell.strip_prefix(name).is_some_and(|rest| {
        let number = rest.strip_prefix('-').unwrap_or("x");
        rest.is_empty() || number.bytes().all(|byte| byte.is_ascii_digit())
    })
}
