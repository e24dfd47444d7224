//! `cargo xtask build`: the probes, the agent that carries them, and the collector.
//!
//! The probes are always optimised (the kernel's verifier refuses much of what an unoptimised build makes). The
//! agent's build script embeds what lies at [`Workspace::probes`].
//!
//! Without optimisation both programs are built with the features that the whole workspace gives their dependencies,
//! so that tests and demo share what was compiled: the collector's query engine alone takes many minutes. With
//! optimisation each has its own features and nothing of the other's.
//!
//! Invariant: what is embedded is what was built from these sources, by the compiler that is printed.

use crate::process::{self, Group};
use crate::say;
use crate::toolchain::{self, Linker, Toolchain};
use crate::workspace::{Workspace, forget_own_package, write_if_changed};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

/// The target of the probes on a little-endian machine.
const TARGET: &str = "bpfel-unknown-none";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    pub release: bool,
    /// Probes that tell what they do (aya-log).
    pub probe_log: bool,
}

impl Profile {
    pub const DEV: Self = Self {
        release: false,
        probe_log: false,
    };
}

/// Builds probes and agent, and returns the agent's program.
pub fn run(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    say::heading("build");
    probes(workspace, profile)?;
    agent(workspace, profile)
}

pub fn probes(workspace: &Workspace, profile: Profile) -> Result<()> {
    let start = Instant::now();
    let (toolchain, linker) =
        toolchain::pair(workspace).context("no toolchain for the probes: cargo xtask setup")?;
    let mut command = probe_cargo(workspace, &toolchain, &linker, "build");
    command.args(["--release", "--message-format=json-render-diagnostics"]);
    if profile.probe_log {
        command.args(["--features", "log"]);
    }
    let object = artifact(&mut command)?.context("cargo built no probes")?;
    let bytes = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let changed = write_if_changed(&workspace.probes(), &bytes)?;
    say::line(&format!(
        " + probes: {} ({} KiB{}, rustc {}, {})",
        workspace.probes().display(),
        bytes.len() / 1024,
        if changed { "" } else { ", unchanged" },
        toolchain.release,
        say::elapsed(start.elapsed())
    ));
    Ok(())
}

/// cargo for the probes' folder; `subcommand` is `build` or `clippy`.
pub fn probe_cargo(
    workspace: &Workspace,
    toolchain: &Toolchain,
    linker: &Linker,
    subcommand: &str,
) -> Command {
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.path.display()),
    ];
    let mut command = match &toolchain.cargo {
        // The compiler's own cargo knows how its sources are laid out.
        Some(cargo) => Command::new(cargo),
        None => workspace.cargo(),
    };
    forget_own_package(&mut command);
    if let Some(bin) = toolchain.rustc.parent() {
        // cargo looks for its subcommands in the search path, and another toolchain's clippy would not do.
        command.env("PATH", process::in_front(bin));
    }
    command
        .current_dir(workspace.root.join("agent-ebpf"))
        .arg(subcommand)
        .args(["--target", TARGET, "-Zbuild-std=core"])
        .arg("--target-dir")
        .arg(workspace.target.join("bpf-build"))
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CARGO_TARGET_DIR");
    command
}

pub fn agent(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    program(workspace, profile, "agent", "tokentrail-agent")
}

/// Returns the collector's program. With its query engine it is many times as large as the agent.
pub fn collector(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    const NAME: &str = "tokentrail";
    let (folder, first) = if profile.release {
        ("release", "25 minutes or more")
    } else {
        ("debug", "10 minutes or more")
    };
    if !workspace.target.join(folder).join(NAME).exists() {
        say::line(&format!(
            "   the collector comes with the query engine DataFusion: compiling it takes {first}, this first time \
             (--agent-only leaves the collector out)"
        ));
    }
    program(workspace, profile, "collector", NAME)
}

/// This program, in another profile than it runs in.
pub fn itself(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    program(workspace, profile, "xtask", "xtask")
}

fn program(
    workspace: &Workspace,
    profile: Profile,
    package: &str,
    binary: &str,
) -> Result<PathBuf> {
    let start = Instant::now();
    let mut command = workspace.cargo();
    command.arg("build");
    if profile.release {
        command.args(["--release", "--package", package]);
        if package == "agent" {
            command.env("CARGO_PROFILE_RELEASE_LTO", "thin");
        }
    } else {
        command.arg("--workspace");
    }
    command
        .args(["--bin", binary])
        .arg("--message-format=json-render-diagnostics");
    let program = artifact(&mut command)?.with_context(|| format!("cargo built no {package}"))?;
    say::line(&format!(
        " + {package}: {} ({})",
        program.display(),
        say::elapsed(start.elapsed())
    ));
    Ok(program)
}

/// An example, as the tests have it.
pub fn example(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let mut command = workspace.cargo();
    command
        .args(["build", "--workspace", "--example", name])
        .arg("--message-format=json-render-diagnostics");
    artifact(&mut command)?.with_context(|| format!("cargo built no example {name}"))
}

/// The parts of cargo's messages that are read here (<https://doc.rust-lang.org/cargo/reference/external-tools.html>).
#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
}

/// Runs cargo, whose own progress goes to the terminal, and returns the last program that it made.
fn artifact(command: &mut Command) -> Result<Option<PathBuf>> {
    let (text, built) = messages(command)?;
    if !built {
        bail!("{} failed", process::display(command));
    }
    Ok(executables(&text).pop())
}

/// Runs cargo with its own progress going to the terminal; returns its messages, and whether all was built.
pub fn messages(command: &mut Command) -> Result<(String, bool)> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut group = Group::spawn(command.stdout(Stdio::from(writer)))?;
    // The parent's end would keep the pipe open for ever.
    command.stdout(Stdio::null());
    let text = std::thread::spawn(move || std::io::read_to_string(reader));
    let status = group.wait(None)?;
    let text = text
        .join()
        .map_err(|_| anyhow::anyhow!("the reader of cargo's messages panicked"))??;
    Ok((text, status.success()))
}

/// The programs that cargo made or found fresh.
fn executables(messages: &str) -> Vec<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter_map(|message| message.executable)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_taken_from_cargos_messages() {
        let text = concat!(
            "{\"reason\":\"compiler-artifact\",\"executable\":null}\n",
            "{\"reason\":\"compiler-artifact\",\"executable\":\"/t/debug/tokentrail-agent\"}\n",
            "not json\n",
            "{\"reason\":\"build-finished\",\"success\":true}\n",
        );
        assert_eq!(
            executables(text),
            [PathBuf::from("/t/debug/tokentrail-agent")]
        );
    }
}
