//! `cargo xtask dist`: what is given to others, in the target folder's `dist`.
//!
//! The agent, stripped, with its probes inside; a Debian package and an archive of the same files; man pages and
//! completions (made by `agent/examples/documents.rs` from the program's own definition); the example configuration;
//! the sums of all of it. `--try` installs the package where nothing of this machine is: see [`trial`].
//!
//! The agent is built against this machine's glibc, and a binary that needs a newer one than [`binary::GLIBC`] is
//! refused. That is what Debian 12 gives by itself and what every distribution with a kernel for the agent has (6.1
//! or later: Debian 12, Ubuntu 22.04 with its newer kernel, Amazon Linux 2023; the RHEL 9 family too), so neither a
//! second C library nor another linker is needed; names are resolved by the system's own resolver, which a static
//! binary would not do.
//!
//! Invariant: `dist` holds what this run made, and nothing else.

mod binary;
mod package;
mod root;
mod trial;

use crate::build::{self, Profile};
use crate::process;
use crate::say;
use crate::setup::{self, Needs};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Args, Default)]
pub struct Options {
    /// From the debug profile: soon done, for trying the package
    #[arg(long)]
    pub debug: bool,
    /// Install the package in a clean Debian in a virtual machine, and see it observe there
    ///
    /// The root is made once, with packages from this machine's Debian mirror, and kept in the cache.
    #[arg(long = "try")]
    pub trial: bool,
}

pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let start = Instant::now();
    let needs = Needs::BUILD.with_dist().with_vm(options.trial);
    setup::require(workspace, needs)?;
    let package = make(workspace, options.debug)?;
    if options.trial {
        trial::run(workspace, &package)?;
    }
    say::line(&format!(
        "   {} ({})",
        folder(workspace).display(),
        say::elapsed(start.elapsed())
    ));
    Ok(())
}

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("dist")
}

/// Makes everything but the trial; returns the package's file.
pub fn make(workspace: &Workspace, debug: bool) -> Result<PathBuf> {
    let profile = Profile {
        release: !debug,
        ..Profile::DEV
    };
    let program = build::run(workspace, profile)?;
    say::heading("dist");
    let dist = folder(workspace);
    empty(&dist)?;
    let agent = dist.join("tokentrail-agent");
    let needs = binary::take(&program, &workspace.probes(), &agent)?;
    say::line(&format!(
        " + {} ({} KiB, {needs})",
        agent.display(),
        fs::metadata(&agent)?.len() / 1024
    ));
    documents(workspace, &dist)?;
    let package = package::make(workspace, &dist)?;
    package::sums(&dist)?;
    Ok(package)
}

/// The trial as a part of `cargo xtask test`, with the debug profile, which is built already.
pub fn try_debug(workspace: &Workspace) -> Result<()> {
    let package = make(workspace, true)?;
    trial::run(workspace, &package)
}

fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Man pages, completions, and the example configuration.
fn documents(workspace: &Workspace, dist: &Path) -> Result<()> {
    let mut command = workspace.cargo();
    command
        .args(["run", "--package", "agent", "--example", "documents", "--"])
        .arg(dist);
    process::logged(
        "man pages and completions",
        &mut command,
        &workspace.logs().join("documents.log"),
    )?;
    let example = workspace.root.join("packaging/agent.example.toml");
    fs::copy(&example, dist.join("agent.example.toml"))
        .with_context(|| format!("cannot copy {}", example.display()))?;
    Ok(())
}
