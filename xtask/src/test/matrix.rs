//! The end-to-end tests, `agent/tests/matrix`, on this kernel and on those of the virtual machines.
//!
//! The same test program runs everywhere; what differs is said by its environment. Each of its cells is written to a
//! file as a JSON line as soon as it is decided, so that a machine that dies takes no results with it.

use super::libtest::{Program, Reader};
use super::tally::Tally;
use crate::process::TimedOut;
use crate::say::{self, Step};
use crate::setup::{self, Machine};
use crate::vm::Guest;
use crate::workspace::Workspace;
use crate::{interrupt, process};
use anyhow::{Context, Result};
use rustix::process::geteuid;
use serde::Deserialize;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

const HOST_LIMIT: Duration = Duration::from_secs(40 * 60);
/// With everything that takes hours.
const ALL_LIMIT: Duration = Duration::from_secs(12 * 3_600);
/// What one run in a virtual machine needs: an emulated one is 10 to 20 times slower than its host.
const TURN: Duration = Duration::from_secs(10 * 60);
/// For all virtual machines together, where no end was set.
pub const MACHINES_LIMIT: Duration = Duration::from_secs(100 * 60);
/// What a machine needs before the first cell.
const BOOT: Duration = Duration::from_secs(60);
/// By how much an emulated machine may be slower.
const MACHINE_SCALE: &str = "8";

/// One way to run the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    name: &'static str,
    environment: &'static [(&'static str, &'static str)],
    /// Which tests, by the begin of their names; all if none is named.
    tests: &'static [&'static str],
}

impl Variant {
    fn on(self, machine: &Machine) -> String {
        format!("Linux {}, {}", machine.release, self.name)
    }
}

const FENTRY: Variant = Variant {
    name: "fentry",
    environment: &[("TOKENTRAIL_RUNG", "fentry")],
    tests: &["kernel_tls::", "clients::", "late::late_attach"],
};
const PROTOCOLS: Variant = Variant {
    name: "fentry, protocols",
    environment: &[("TOKENTRAIL_RUNG", "fentry")],
    tests: &["http2::", "grpc::", "quic::", "bridge::"],
};
const HARMLESS: Variant = Variant {
    name: "fentry, nothing is hurt",
    environment: &[("TOKENTRAIL_RUNG", "fentry")],
    tests: &[
        "harmless::outside::",
        "harmless::lives::lives",
        "harmless::debugged::",
        "harmless::overwritten::",
    ],
};
const TRACEPOINTS: Variant = Variant {
    name: "raw tracepoints",
    environment: &[("TOKENTRAIL_RUNG", "tracepoints")],
    tests: &[
        "scope::cgroup_scope",
        "scope::unit_scope",
        "scope::pid_scope",
    ],
};
const HOST_SCOPE: Variant = Variant {
    name: "scope host",
    environment: &[("TOKENTRAIL_SCOPE", "host")],
    tests: &["processes::", "container::"],
};
const BEST: Variant = Variant {
    name: "best rung",
    environment: &[],
    tests: &[],
};

/// In each virtual machine. What is soon done comes first: its time goes to the others.
const IN_MACHINES: [Variant; 5] = [TRACEPOINTS, HOST_SCOPE, HARMLESS, FENTRY, PROTOCOLS];

/// On this machine's kernel, with the scope that the tests make. Gives the file of its cells.
pub fn on_this_kernel(
    workspace: &Workspace,
    program: &Program,
    words: &[String],
    all: bool,
    tally: &mut Tally,
) -> Result<PathBuf> {
    let cells = cells_file(workspace, "host")?;
    let mut command = Command::new(&program.path);
    command
        .arg("--test-threads=1")
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .env("TOKENTRAIL_E2E", "1")
        .env("TOKENTRAIL_FIXTURES", workspace.fixtures())
        .env("TOKENTRAIL_CELLS", &cells);
    let refusal = refusal(workspace);
    if let Some(reason) = &refusal {
        tally.skip(
            "probes on this kernel",
            format!("{reason} (the virtual machines run the same tests)"),
        );
        // What needs no probes also compiles what the machines need.
        command.arg("fixtures::");
    } else {
        command.args(words);
    }
    let limit = if all {
        command.env("TOKENTRAIL_ALL", "1");
        ALL_LIMIT
    } else {
        HOST_LIMIT
    };
    let name = format!("this kernel, {}", BEST.name);
    let result = watch(&name, &cells, |each| {
        process::lines(&mut command, limit, each)
    });
    tally.add(&name, result);
    interrupt::check()?;
    Ok(cells)
}

/// Why probes cannot be loaded here, if they cannot.
fn refusal(workspace: &Workspace) -> Option<String> {
    if !geteuid().is_root() {
        return Some("only root may load probes".to_owned());
    }
    // Built with the tests, which start the same one.
    let agent = workspace.target.join("debug/tokentrail-agent");
    let doctor = process::output(Command::new(agent).arg("doctor"));
    doctor
        .err()
        .map(|error| format!("this kernel refuses them: {error:#}"))
}

pub fn in_machines(
    workspace: &Workspace,
    program: &Program,
    words: &[String],
    quick: bool,
    limit: Duration,
    tally: &mut Tally,
) -> Result<()> {
    const QUICK: &str = "--quick leaves the virtual machines out";
    let machines = setup::kernel_images(workspace);
    let on_all = |variant| machines.iter().map(move |machine| (variant, machine));
    let runs: Vec<(Variant, &Machine)> = IN_MACHINES.into_iter().flat_map(on_all).collect();
    if quick {
        let names = runs.iter().map(|(variant, machine)| variant.on(machine));
        names.for_each(|name| tally.skip(name, QUICK));
        if runs.is_empty() {
            tally.skip("the kernel matrix", QUICK);
        }
        return Ok(());
    }
    let start = Instant::now();
    let fitting = (limit.as_secs() / TURN.as_secs()) as usize;
    let chosen = turns(runs.len(), fitting, commit(workspace));
    let mut waiting = chosen.len() as u32;
    for (number, (variant, machine)) in runs.into_iter().enumerate() {
        let name = variant.on(machine);
        if !chosen.contains(&number) {
            tally.skip(name, "not all fit into the time: other commits run it");
            continue;
        }
        let left = limit.saturating_sub(start.elapsed()) / waiting;
        waiting -= 1;
        if left < BOOT {
            tally.skip(name, "no time is left for it");
            continue;
        }
        let result = in_machine(workspace, program, words, machine, variant, left)?;
        tally.add(&name, result);
        interrupt::check()?;
    }
    Ok(())
}

/// Which of so many runs are made, if not more than `fitting` can be, but one at least: neighbours, from a place that
/// depends on the commit, so that each is made for some.
fn turns(runs: usize, fitting: usize, commit: u64) -> BTreeSet<usize> {
    let first = commit.checked_rem(runs as u64).unwrap_or(0) as usize;
    let count = fitting.max(1).min(runs);
    (first..first + count).map(|number| number % runs).collect()
}

/// A number that differs between commits; 0 where there is no repository.
fn commit(workspace: &Workspace) -> u64 {
    let mut git = Command::new("git");
    git.args(["rev-parse", "--short=8", "HEAD"])
        .current_dir(&workspace.root);
    let hash = process::output(&mut git).unwrap_or_default();
    u64::from_str_radix(hash.trim(), 16).unwrap_or(0)
}

fn in_machine(
    workspace: &Workspace,
    program: &Program,
    words: &[String],
    machine: &Machine,
    variant: Variant,
    limit: Duration,
) -> Result<Tally> {
    let name = variant.on(machine);
    let cells = cells_file(workspace, &name.replace([' ', ','], "-"))?;
    let mut environment = workspace.environment();
    let mut set = |name: &str, value: &str| environment.push((name.to_owned(), value.to_owned()));
    set("CARGO_MANIFEST_DIR", &program.folder.display().to_string());
    set("TOKENTRAIL_E2E", "1");
    set("TOKENTRAIL_IN_VM", "1");
    set("TOKENTRAIL_BRIEF", "1");
    set("TOKENTRAIL_TIME_SCALE", MACHINE_SCALE);
    set("TOKENTRAIL_CELLS", &cells.display().to_string());
    set("TMPDIR", "/tmp");
    for (name, value) in variant.environment {
        set(name, value);
    }
    let mut readable = workspace.folders();
    readable.push(program.folder.clone());
    let chosen: Vec<String> = match words {
        [] => variant
            .tests
            .iter()
            .map(|test| (*test).to_owned())
            .collect(),
        words => words.to_vec(),
    };
    let mut guest = Guest {
        machine,
        command: [
            program.path.display().to_string(),
            "--test-threads=1".to_owned(),
        ]
        .into_iter()
        .chain(chosen)
        .collect(),
        environment,
        writable: cells.parent().map(Path::to_path_buf).into_iter().collect(),
        readable,
        limit,
    };
    let start = Instant::now();
    let tally = watch(&name, &cells, |each| guest.run(workspace, each));
    guest.limit = limit.saturating_sub(start.elapsed());
    if guest.limit < BOOT || !guest.died_of_its_emulator(workspace) {
        return Ok(tally);
    }
    say::line("   that was the emulator's fault: once more");
    fs::write(&cells, "")?;
    Ok(watch(&name, &cells, |each| guest.run(workspace, each)))
}

/// An empty file for cells.
fn cells_file(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let folder = workspace.target.join("matrix");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join(format!("{name}.ndjson"));
    fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Shows how far it is, and what does not pass at once; returns what came of it.
fn watch(
    name: &str,
    cells: &Path,
    run: impl FnOnce(&mut dyn FnMut(&str)) -> Result<ExitStatus>,
) -> Tally {
    let mut step = Step::start(name);
    let mut reader = Reader::default();
    let mut times = Times::start();
    let mut each = |line: &str| {
        times.line(line);
        if let Some(cell) = line.strip_prefix("cell ") {
            step.tick(cell);
            if !cell.starts_with("passed ") {
                step.note(&format!("{name}: {cell}"));
            }
        } else {
            reader.line(line);
            step.tick(line);
        }
    };
    let status = run(&mut each);
    let text = fs::read_to_string(cells).unwrap_or_default();
    let tally = add_up(name, &text, reader, &status);
    tally.end(step);
    if let Some(longest) = times.longest() {
        say::line(&format!("   {longest}"));
    }
    tally
}

/// How long each test took: from the last test's closing line to its own.
struct Times {
    last: Instant,
    tests: Vec<(String, Duration)>,
}

impl Times {
    /// What takes less is not told.
    const LONG: Duration = Duration::from_secs(5);

    fn start() -> Self {
        Self {
            last: Instant::now(),
            tests: Vec::new(),
        }
    }

    /// A test's closing line: `cells of NAME: ...`.
    fn line(&mut self, line: &str) {
        let closing = line.strip_prefix("cells of ");
        if let Some((test, _)) = closing.and_then(|rest| rest.split_once(':')) {
            let now = Instant::now();
            let took = now.duration_since(self.last);
            self.last = now;
            self.tests.push((test.to_owned(), took));
        }
    }

    /// The tests that took long, the longest first.
    fn longest(mut self) -> Option<String> {
        self.tests.retain(|(_, took)| *took >= Self::LONG);
        self.tests.sort_by_key(|(_, took)| Reverse(*took));
        let texts = self
            .tests
            .iter()
            .map(|(test, took)| format!("{test} {}", say::elapsed(*took)));
        let texts: Vec<String> = texts.collect();
        (!texts.is_empty()).then(|| format!("of these: {}", texts.join(", ")))
    }
}

#[derive(Deserialize)]
struct Cell {
    test: String,
    cell: String,
    outcome: String,
    #[serde(default)]
    reason: String,
}

/// Cells count one by one; a test counts as a failure only when no cell says why it failed. A program that ended before
/// its tests did is one more.
fn add_up(name: &str, cells: &str, reader: Reader, status: &Result<ExitStatus>) -> Tally {
    let mut tally = Tally::default();
    for line in cells.lines() {
        let Ok(cell) = serde_json::from_str::<Cell>(line) else {
            tally.fail(name, format!("not a cell: {line}"));
            continue;
        };
        let title = format!("{}/{}", cell.test, cell.cell);
        match cell.outcome.as_str() {
            "passed" => tally.pass(1),
            "skipped" => tally.skip(title, cell.reason),
            _ => tally.fail(title, cell.reason),
        }
    }
    if let Err(error) = status
        && error.downcast_ref::<TimedOut>().is_some()
    {
        let done = cells.lines().count();
        tally.skip(
            name,
            format!("its time was over when {done} cells were checked ({error:#})"),
        );
        return tally;
    }
    let came_to_its_end = reader.is_closed();
    let tests = reader.finish(name, status);
    if tests.failed() == 0 || tally.failed() == 0 || !came_to_its_end {
        tally.merge(tests);
    } else {
        tally.merge(tests.without_failures());
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn each_run_has_its_turn_for_some_commit() {
        assert_eq!(turns(10, 3, 8), BTreeSet::from([8, 9, 0]));
        assert_eq!(turns(10, 0, 3), BTreeSet::from([3]));
        for fitting in 1..12 {
            let made = (0..10).flat_map(|commit| turns(10, fitting, commit));
            assert_eq!(made.collect::<BTreeSet<_>>().len(), 10);
        }
        assert_eq!(turns(0, 3, 8), BTreeSet::new());
    }

    #[test]
    fn the_longest_tests_are_told_first() {
        let mut times = Times::start();
        times.line("cells of clients: 3 passed, 0 failed, 0 skipped");
        times.line("cell passed clients/curl");
        assert_eq!(times.tests.len(), 1);
        assert_eq!(times.tests[0].0, "clients");
        let took = |name: &str, seconds| (name.to_owned(), Duration::from_secs(seconds));
        times.tests = vec![took("a", 6), took("b", 1), took("c", 70)];
        let told = times.longest().unwrap();
        assert!(told.starts_with("of these: c ") && told.contains(", a "));
        assert!(!told.contains('b'));
        assert_eq!(Times::start().longest(), None);
    }

    const FAILED: &str =
        "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";

    fn read(cells: &str, output: &str, code: i32) -> String {
        let mut reader = Reader::default();
        output.lines().for_each(|line| reader.line(line));
        add_up("m", cells, reader, &Ok(ExitStatus::from_raw(code << 8))).counts()
    }

    #[test]
    fn a_failing_cell_is_one_failure() {
        let cells = concat!(
            r#"{"test":"clients","cell":"curl","outcome":"passed","reason":""}"#,
            "\n",
            r#"{"test":"clients","cell":"wget","outcome":"failed","reason":"no event"}"#,
            "\n",
            r#"{"test":"clients","cell":"bun","outcome":"skipped","reason":"no bun"}"#,
            "\n"
        );
        assert_eq!(read(cells, FAILED, 101), "2 passed, 1 failed, 1 skipped");
        // Killed, after a cell had failed.
        assert_eq!(read(cells, "", 137), "1 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_failing_test_without_a_failing_cell_counts() {
        let cells = "{\"test\":\"clients\",\"cell\":\"curl\",\"outcome\":\"passed\"}\n";
        assert_eq!(read(cells, FAILED, 101), "2 passed, 1 failed, 0 skipped");
        assert_eq!(read(cells, "", 255), "1 passed, 1 failed, 0 skipped");
        assert_eq!(
            read("garbage\n", FAILED, 101),
            "1 passed, 1 failed, 0 skipped"
        );
    }
}
