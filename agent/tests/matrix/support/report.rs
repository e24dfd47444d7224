//! The cells of one test: each reported by name as it is decided, all failures listed together at the end.

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
    failures: Vec<String>,
    passed: usize,
    skipped: usize,
}

impl Cells {
    pub fn new(test: &'static str) -> Self {
        Self {
            test,
            failures: Vec::new(),
            passed: 0,
            skipped: 0,
        }
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
        let line = serde_json::json!({
            "test": self.test, "cell": cell, "outcome": word.to_lowercase(), "reason": reason,
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
