//! Formatting and clippy, of the workspace and of the probes.

use super::tally::Tally;
use crate::build;
use crate::process;
use crate::setup;
use crate::toolchain;
use crate::workspace::Workspace;
use anyhow::Result;

pub fn run(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let mut absent = Vec::new();
    for missing in setup::add_rust_components(workspace)? {
        let cause = missing.cause.unwrap_or_default();
        tally.fail(
            &missing.what,
            format!("not there: {}\n{cause}", missing.command),
        );
        absent.push(missing.what);
    }
    let there = |what: &str| !absent.iter().any(|absent| absent == what);
    if there("cargo fmt") {
        for (name, manifest) in [
            ("formatting", "Cargo.toml"),
            ("formatting of the probes", "agent-ebpf/Cargo.toml"),
        ] {
            let mut command = workspace.cargo();
            command
                .args(["fmt", "--all", "--check", "--manifest-path"])
                .arg(workspace.root.join(manifest))
                // The files' names: `cargo fmt` shows the rest.
                .args(["--", "--files-with-diff"]);
            let log = workspace
                .logs()
                .join(format!("{}.log", name.replace(' ', "-")));
            tally.check(name, process::logged(name, &mut command, &log));
        }
    }
    if there("cargo clippy") {
        let mut command = workspace.cargo();
        command.args(["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"]);
        let log = workspace.logs().join("clippy.log");
        tally.check("clippy", process::logged("clippy", &mut command, &log));
    }
    clippy_of_the_probes(workspace, tally);
    Ok(())
}

fn clippy_of_the_probes(workspace: &Workspace, tally: &mut Tally) {
    const NAME: &str = "clippy of the probes";
    let Some((toolchain, linker)) = toolchain::pair(workspace) else {
        tally.fail(NAME, "no toolchain for the probes: cargo xtask setup");
        return;
    };
    // The sources of `core` are this compiler's own: another compiler's clippy does not understand them.
    if let Some(command) = setup::add_probe_clippy(workspace, &toolchain) {
        tally.skip(
            NAME,
            format!("the probes' compiler has no clippy here ({command})"),
        );
        return;
    }
    let mut command = build::probe_cargo(workspace, &toolchain, &linker, "clippy");
    command.args(["--release", "--", "-Dwarnings"]);
    let log = workspace.logs().join("clippy-probes.log");
    tally.check(NAME, process::logged(NAME, &mut command, &log));
}
