//! Rust's test programs: found by cargo's messages, run one by one, their output read.
//!
//! The counts are those of each program's closing line; a program that ends without one has failed, whatever it said
//! before.

use super::tally::Tally;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::PathBuf;
use std::process::ExitStatus;

/// A test program that cargo built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Package, target and kind: `agent (lib)`.
    pub name: String,
    pub package: String,
    pub target: String,
    pub path: PathBuf,
    /// The package's folder, which is a test's working directory.
    pub folder: PathBuf,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// The test programs among the messages of `cargo test --no-run --message-format=json`.
pub fn programs(messages: &str) -> Result<Vec<Program>> {
    messages
        .lines()
        .filter(|line| line.starts_with('{'))
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter(|message| message.profile.as_ref().is_some_and(|profile| profile.test))
        .filter_map(|message| {
            let path = message.executable?;
            Some((path, message.manifest_path?, message.target?))
        })
        .map(|(path, manifest, target)| {
            let folder = manifest.parent().context("a manifest lies in a folder")?;
            let package = folder
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            Ok(Program {
                name: format!("{package} ({} {})", target.kind.join(" "), target.name),
                package,
                target: target.name,
                path,
                folder: folder.to_path_buf(),
            })
        })
        .collect()
}

/// One program's output, line by line.
#[derive(Debug, Default)]
pub struct Reader {
    passed: usize,
    failed: usize,
    ignored: Vec<(String, String)>,
    /// A closing line came; there are several in a run of doc tests.
    closed: bool,
    /// Everything but the passing tests, for the case that something failed.
    kept: Vec<String>,
}

/// A failing run may print without end; the end of it is what tells most.
const KEPT_LINES: usize = 2000;
const SHOWN_LINES: usize = 200;

impl Reader {
    pub fn line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.closed = true;
            self.passed += count(counts, " passed");
            self.failed += count(counts, " failed");
        }
        let verdict = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "));
        if let Some((name, verdict)) = verdict {
            if verdict == "ok" {
                return;
            }
            if let Some(reason) = verdict.strip_prefix("ignored") {
                let reason = reason.trim_start_matches([',', ' ']);
                let reason = if reason.is_empty() {
                    "marked as ignored"
                } else {
                    reason
                };
                self.ignored.push((name.to_owned(), reason.to_owned()));
                return;
            }
        }
        if self.kept.len() == KEPT_LINES {
            self.kept.drain(..KEPT_LINES / 2);
        }
        self.kept.push(line.to_owned());
    }

    /// The program has said how many of its tests failed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// What the program showed; `name` is for a failure that no test has.
    pub fn finish(self, name: &str, status: &Result<ExitStatus>) -> Tally {
        let mut tally = Tally::default();
        tally.pass(self.passed);
        for (test, reason) in &self.ignored {
            tally.skip(test.clone(), reason.clone());
        }
        let names = self.failed_names();
        let output = self.end_of_output();
        for (index, test) in names.iter().enumerate() {
            // Once is enough: libtest prints all outputs together.
            let what = if index == 0 { output.as_str() } else { "" };
            tally.fail(test.clone(), what);
        }
        for _ in names.len()..self.failed {
            tally.fail(name, output.clone());
        }
        let problem = match status {
            Err(error) => Some(format!("{error:#}")),
            Ok(status) if !self.closed => Some(format!("it ended before its tests did ({status})")),
            Ok(status) if !status.success() && self.failed == 0 => {
                Some(format!("it ended with {status}"))
            }
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            tally.fail(name, format!("{problem}\n{output}"));
        }
        tally
    }

    /// The names below the last `failures:`.
    fn failed_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for line in &self.kept {
            if line == "failures:" {
                names.clear();
            } else if let Some(name) = line.strip_prefix("    ")
                && !name.starts_with(' ')
                && !name.is_empty()
            {
                names.push(name.to_owned());
            }
        }
        // What a test printed may look like a name: only as many as failed are believed.
        if names.len() == self.failed {
            names
        } else {
            Vec::new()
        }
    }

    fn end_of_output(&self) -> String {
        let skipped = self.kept.len().saturating_sub(SHOWN_LINES);
        self.kept[skipped..].join("\n")
    }
}

fn count(text: &str, what: &str) -> usize {
    text.split(['.', ';'])
        .filter_map(|part| part.trim().strip_suffix(what.trim_start()))
        .find_map(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn read(text: &str, code: i32) -> Tally {
        let mut reader = Reader::default();
        text.lines().for_each(|line| reader.line(line));
        reader.finish("program", &Ok(ExitStatus::from_raw(code << 8)))
    }

    #[test]
    fn passes_and_ignored_tests_are_counted() {
        let tally = read(
            "running 3 tests\n\
             test a::b ... ok\n\
             test a::c ... ignored, needs a network\n\
             test a::d - should panic ... ok\n\
             \n\
             test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
            0,
        );
        assert_eq!(tally.counts(), "2 passed, 0 failed, 1 skipped");
        assert_eq!(tally.lines()[0], "skipped, needs a network:");
    }

    #[test]
    fn failures_have_their_names_and_output() {
        let tally = read(
            "running 2 tests\n\
             test a ... ok\n\
             test b ... FAILED\n\
             \n\
             failures:\n\
             \n\
             ---- b stdout ----\n\
             thread 'b' panicked at src/lib.rs:1:1:\n\
             \x20   an indented line\n\
             \n\
             failures:\n\
             \x20   b\n\
             \n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
            101,
        );
        assert_eq!(tally.counts(), "1 passed, 1 failed, 0 skipped");
        let lines = tally.lines();
        assert_eq!(lines[0], "FAILED b");
        assert!(lines.iter().any(|line| line.contains("panicked")));
    }

    #[test]
    fn a_program_without_a_closing_line_has_failed() {
        for (text, code) in [("running 1 test\n", 0), ("", 134), ("test a ... ok\n", 0)] {
            assert_eq!(
                read(text, code).counts(),
                "0 passed, 1 failed, 0 skipped",
                "{text}"
            );
        }
        let closed = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(read(closed, 1).counts(), "1 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn several_closing_lines_add_up() {
        let one = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(
            read(&one.repeat(2), 0).counts(),
            "4 passed, 0 failed, 0 skipped"
        );
    }

    #[test]
    fn test_programs_are_told_from_others() {
        let text = r#"{"reason":"compiler-artifact","manifest_path":"/w/agent/Cargo.toml","target":{"kind":["lib"],"name":"tokentrail_agent"},"profile":{"test":true},"executable":"/t/agent-1"}
{"reason":"compiler-artifact","manifest_path":"/w/agent/Cargo.toml","target":{"kind":["bin"],"name":"tokentrail-agent"},"profile":{"test":false},"executable":"/t/tokentrail-agent"}
{"reason":"build-finished","success":true}
"#;
        let programs = programs(text).unwrap();
        assert_eq!(programs.len(), 1);
        assert_eq!(programs[0].name, "agent (lib tokentrail_agent)");
        assert_eq!(programs[0].folder, PathBuf::from("/w/agent"));
    }
}
