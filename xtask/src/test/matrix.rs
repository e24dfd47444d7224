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
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

const HOST_LIMIT: Duration = Duration::from_secs(40 * 60);
/// With everything that takes hours.
const ALL_LIMIT: Duration = Duration::from_secs(12 * 3_600);
/// For all virtual machines together: each run gets an equal part of what is left. An emulated machine is 10 to 20
/// times slower than its host, so what does not fit is stopped and listed as skipped.
pub const MACHINES_LIMIT: Duration = Duration::from_secs(48 * 60);
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
    let machines = setup::kernel_images(workspace);
    let start = Instant::now();
    let mut runs = (machines.len() * IN_MACHINES.len()) as u32;
    for variant in IN_MACHINES {
        for machine in &machines {
            let name = variant.on(machine);
            if quick {
                tally.skip(name, "--quick leaves the virtual machines out");
                continue;
            }
            let left = limit.saturating_sub(start.elapsed()) / runs;
            runs -= 1;
            if left < BOOT {
                tally.skip(name, "no time is left for it");
                continue;
            }
            let result = in_machine(workspace, program, words, machine, variant, left)?;
            tally.add(&name, result);
            interrupt::check()?;
        }
    }
    if machines.is_empty() && quick {
        tally.skip(
            "the kernel matrix",
            "--quick leaves the virtual machines out",
        );
    }
    Ok(())
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
    let mut each = |line: &str| {
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
    tally
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
