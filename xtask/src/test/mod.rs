//! `cargo xtask test`: everything that is checked, from formatting to the kernels in virtual machines.
//!
//! Invariant: what was not run is listed with its reason; the exit status is 1 if anything failed.

mod checks;
mod libtest;
mod matrix;
mod tally;

use crate::build::{self, Profile};
use crate::dist;
use crate::say::{self, Step};
use crate::setup::{self, Needs};
use crate::workspace::Workspace;
use crate::{interrupt, process};
use anyhow::{Context, Result};
use clap::Args;
use libtest::{Program, Reader};
use rustix::process::geteuid;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tally::Tally;

/// The target of the end-to-end tests, which are run on their own.
const MATRIX: &str = "matrix";
/// The package's trial, with a Debian that must be made first.
const TRIAL: Duration = Duration::from_secs(30 * 60);
const UNIT_LIMIT: Duration = Duration::from_secs(45 * 60);
/// With 1,000 overwrites by each writer.
const UNIT_LIMIT_OF_ALL: Duration = Duration::from_secs(3 * 3_600);

#[derive(Args, Default)]
pub struct Options {
    /// Leave the virtual machines out
    #[arg(long, conflicts_with = "vm")]
    quick: bool,
    /// Load probes in virtual machines only, not on this kernel
    #[arg(long)]
    vm: bool,
    /// Only the end-to-end tests, or those of them whose names hold one of these words
    #[arg(long, value_name = "WORD", num_args = 0..)]
    end_to_end: Option<Vec<String>>,
    /// Also what takes hours: everything that is promised for a thousand times, as often as that
    #[arg(long, conflicts_with_all = ["quick", "minutes"])]
    all: bool,
    /// End after about so many minutes: virtual machines that do not fit are left out, and listed
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,
}

impl Options {
    /// What is left for virtual machines; `most` where no end was set.
    fn left(&self, elapsed: Duration, most: Duration) -> Duration {
        self.minutes.map_or(most, |minutes| {
            let left = Duration::from_secs(minutes * 60).saturating_sub(elapsed);
            left.min(most)
        })
    }

    /// Why the package is not tried, if it is not.
    fn no_trial(&self, elapsed: Duration) -> Option<String> {
        if self.quick {
            return Some("--quick leaves the virtual machines out".to_owned());
        }
        let minutes = self.minutes?;
        (self.left(elapsed, TRIAL) < TRIAL)
            .then(|| format!("it does not fit into the {minutes} minutes any more"))
    }
}

/// Returns whether nothing failed.
pub fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let start = Instant::now();
    let mut tally = Tally::default();
    say::heading("setup");
    let needs = Needs::TEST.with_vm(!options.quick);
    for missing in setup::ensure(workspace, needs)? {
        setup::tell(std::slice::from_ref(&missing));
        // A test that cannot do without it fails or says that it was skipped.
        tally.skip(
            missing.what,
            format!("it could not be set up ({})", missing.command),
        );
    }
    if options.end_to_end.is_none() {
        say::heading("formatting and clippy");
        checks::run(workspace, &mut tally)?;
    }
    say::heading("build");
    let probes = build::probes(workspace, Profile::DEV);
    tally.check("build of the probes", probes);
    let programs = build_tests(workspace, &mut tally)?;
    if options.end_to_end.is_none() {
        say::heading("unit and integration tests");
        for program in programs.iter().filter(|program| program.target != MATRIX) {
            unit(workspace, program, options.all, &mut tally)?;
        }
        doc_tests(workspace, &mut tally)?;
    } else {
        tally.skip("everything else", "--end-to-end leaves it out");
    }
    end_to_end(workspace, options, start, &programs, &mut tally)?;
    if options.end_to_end.is_none() {
        package(workspace, options, start, &mut tally)?;
    }
    say::line(&format!("\n   took {}", say::elapsed(start.elapsed())));
    println!();
    for line in tally.lines() {
        println!("{line}");
    }
    Ok(tally.failed() == 0)
}

/// Builds the end-to-end tests alone and runs those on this kernel whose names hold one of these words; the file of
/// their cells.
pub fn some_end_to_end(workspace: &Workspace, words: &[&str]) -> Result<PathBuf> {
    say::heading("setup");
    // A test that cannot do without what is missing says that it was skipped.
    setup::tell(&setup::ensure(workspace, Needs::TEST)?);
    say::heading("build");
    build::probes(workspace, Profile::DEV)?;
    let mut command = workspace.cargo();
    command
        .args(["test", "--workspace", "--test", MATRIX, "--no-run"])
        .arg("--message-format=json-render-diagnostics");
    let (messages, built) = build::messages(&mut command)?;
    anyhow::ensure!(built, "the tests do not compile");
    let programs = libtest::programs(&messages)?;
    let program = programs
        .iter()
        .find(|program| program.target == MATRIX)
        .context("cargo built no end-to-end tests")?;
    say::heading("end to end on this kernel");
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let mut tally = Tally::default();
    matrix::on_this_kernel(workspace, program, &words, false, &mut tally)
}

/// Builds every test program that compiles, and the agent, which the end-to-end tests start.
fn build_tests(workspace: &Workspace, tally: &mut Tally) -> Result<Vec<Program>> {
    let start = Instant::now();
    let mut command = workspace.cargo();
    command
        .args(["test", "--workspace", "--no-run", "--no-fail-fast"])
        .arg("--message-format=json-render-diagnostics");
    let (messages, built) = build::messages(&mut command)?;
    let programs = libtest::programs(&messages)?;
    if built {
        tally.pass(1);
    } else {
        tally.fail("build of the tests", "not all of them compile: see above");
    }
    say::line(&format!(
        " {} {} test programs ({})",
        if built { '+' } else { '!' },
        programs.len(),
        say::elapsed(start.elapsed())
    ));
    Ok(programs)
}

fn unit(workspace: &Workspace, program: &Program, all: bool, tally: &mut Tally) -> Result<()> {
    let mut command = Command::new(&program.path);
    command
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .env("CARGO_TARGET_DIR", &workspace.target)
        .env("TOKENTRAIL_FIXTURES", workspace.fixtures())
        .env("TOKENTRAIL_TOOLS", workspace.tools())
        // Has what the collector's oracles are: DuckDB and Spark.
        .env("TOKENTRAIL_PYTHON", setup::python(workspace))
        // Setup brought the programs that `agent/tests/receivers` starts.
        .env("TOKENTRAIL_RECEIVERS", "1");
    let limit = if all {
        command.env("TOKENTRAIL_OVERWRITES", "1000");
        UNIT_LIMIT_OF_ALL
    } else {
        UNIT_LIMIT
    };
    listen(&program.name, &mut command, limit, tally)
}

fn doc_tests(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["test", "--workspace", "--doc", "--no-fail-fast"]);
    listen(
        "examples in the documentation",
        &mut command,
        UNIT_LIMIT,
        tally,
    )
}

fn listen(name: &str, command: &mut Command, limit: Duration, tally: &mut Tally) -> Result<()> {
    let mut step = Step::start(name);
    let mut reader = Reader::default();
    let status = process::lines(command, limit, |line| {
        step.tick(line);
        reader.line(line);
    });
    let result = reader.finish(name, &status);
    result.end(step);
    tally.add(name, result);
    Ok(interrupt::check()?)
}

/// The package, installed where nothing of this machine is.
fn package(
    workspace: &Workspace,
    options: &Options,
    start: Instant,
    tally: &mut Tally,
) -> Result<()> {
    const NAME: &str = "the packages in a clean Debian";
    say::heading("package");
    if let Some(reason) = options.no_trial(start.elapsed()) {
        tally.skip(NAME, reason);
        tally.check(
            "making the packages",
            dist::make(workspace, true, false).map(drop),
        );
    } else if geteuid().is_root() {
        tally.check(NAME, dist::try_debug(workspace));
    } else {
        tally.skip(NAME, "only root can make a Debian root");
        tally.check(
            "making the packages",
            dist::make(workspace, true, false).map(drop),
        );
    }
    Ok(interrupt::check()?)
}

fn end_to_end(
    workspace: &Workspace,
    options: &Options,
    start: Instant,
    programs: &[Program],
    tally: &mut Tally,
) -> Result<()> {
    let Some(program) = programs.iter().find(|program| program.target == MATRIX) else {
        tally.fail("end to end", "its test program was not built");
        return Ok(());
    };
    let words = options.end_to_end.as_deref().unwrap_or_default();
    say::heading("end to end on this kernel");
    if options.vm {
        tally.skip(
            "end to end on this kernel",
            "--vm leaves it to the virtual machines",
        );
    } else {
        matrix::on_this_kernel(workspace, program, words, options.all, tally)?;
    }
    say::heading("end to end in virtual machines");
    let limit = options.left(start.elapsed(), matrix::MACHINES_LIMIT);
    matrix::in_machines(workspace, program, words, options.quick, limit, tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_without_a_trial_is_the_right_one() {
        let reason = |quick, minutes, elapsed: u64| {
            let options = Options {
                quick,
                minutes,
                ..Options::default()
            };
            options.no_trial(Duration::from_secs(60 * elapsed))
        };
        assert_eq!(reason(false, None, 500), None);
        assert_eq!(reason(false, Some(70), 40), None);
        assert!(reason(false, Some(70), 41).unwrap().contains("70 minutes"));
        for minutes in [None, Some(70), Some(1)] {
            assert!(reason(true, minutes, 50).unwrap().contains("--quick"));
        }
    }
}
