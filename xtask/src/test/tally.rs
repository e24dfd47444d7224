//! Everything that was checked, added up: what passed, what failed, what was left out and why.
//!
//! Invariant: the last line is `N passed, N failed, N skipped`, and each skip's reason stands above it.

use crate::say::{self, Mark, Step};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Tally {
    passed: usize,
    /// (name, what went wrong)
    failures: Vec<(String, String)>,
    /// (name, reason)
    skips: Vec<(String, String)>,
}

impl Tally {
    pub fn pass(&mut self, count: usize) {
        self.passed += count;
    }

    pub fn fail(&mut self, name: impl Into<String>, what: impl Into<String>) {
        self.failures.push((name.into(), what.into()));
    }

    pub fn skip(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        self.skips.push((name.into(), reason.into()));
    }

    /// One check: an error is a failure.
    pub fn check(&mut self, name: &str, outcome: anyhow::Result<()>) -> bool {
        match outcome {
            Ok(()) => {
                self.pass(1);
                true
            }
            Err(error) => {
                self.fail(name, format!("{error:#}"));
                false
            }
        }
    }

    /// Adds all of `other`, whose names begin with `prefix` here.
    pub fn add(&mut self, prefix: &str, other: Self) {
        self.passed += other.passed;
        let named = |(name, why): (String, String)| (format!("{prefix}: {name}"), why);
        self.failures.extend(other.failures.into_iter().map(named));
        self.skips.extend(other.skips.into_iter().map(named));
    }

    /// Adds all of `other` under its own names.
    pub fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
        self.skips.extend(other.skips);
    }

    pub fn without_failures(self) -> Self {
        Self {
            failures: Vec::new(),
            ..self
        }
    }

    /// Ends a step with what came of it, failures at once: what follows may take long, or be interrupted.
    pub fn end(&self, step: Step) {
        step.done(if self.failures.is_empty() {
            Mark::Done
        } else {
            Mark::Failed
        });
        for line in self.failures() {
            say::line(&format!("   {line}"));
        }
        say::line(&format!("   {}", self.counts()));
    }

    pub fn failed(&self) -> usize {
        self.failures.len()
    }

    pub fn counts(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failures.len(),
            self.skips.len()
        )
    }

    /// The report; skips of one reason stand together.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, reason) in &self.skips {
            reasons.entry(reason).or_default().push(name);
        }
        for (reason, names) in reasons {
            lines.push(format!("skipped, {reason}:"));
            lines.extend(names.iter().map(|name| format!("    {name}")));
        }
        lines.extend(self.failures());
        lines.push(self.counts());
        lines
    }

    /// Each failure with what came of it.
    pub fn failures(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, what) in &self.failures {
            lines.push(format!("FAILED {name}"));
            lines.extend(what.lines().map(|line| format!("    {line}")));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_and_skips_are_explained_above() {
        let mut tally = Tally::default();
        tally.pass(3);
        tally.skip("a", "no podman");
        tally.skip("b", "no podman");
        let mut inner = Tally::default();
        inner.fail("cell", "no event\nat all");
        inner.pass(2);
        tally.add("Linux 6.1", inner);
        assert_eq!(
            tally.lines(),
            [
                "skipped, no podman:",
                "    a",
                "    b",
                "FAILED Linux 6.1: cell",
                "    no event",
                "    at all",
                "5 passed, 1 failed, 2 skipped",
            ]
        );
    }

    #[test]
    fn a_check_counts_once() {
        let mut tally = Tally::default();
        assert!(tally.check("fmt", Ok(())));
        assert!(!tally.check("clippy", Err(anyhow::anyhow!("warnings"))));
        assert_eq!(tally.counts(), "1 passed, 1 failed, 0 skipped");
    }
}
