//! `cargo xtask dist`: what is given to others, in the target folder's `dist`.
//!
//! For the agent and for the collector: the program, stripped (the agent's with its probes inside); a Debian package
//! and an archive of the same files; man pages and completions, made from the program's own definition (the agent's by
//! `agent/examples/documents.rs`, the collector's by its hidden command `documents`); the example configuration; the
//! sums of all of it. `--try` installs the packages where nothing of this machine is: see [`trial`].
//!
//! They are built against this machine's glibc, and a binary that needs a newer one than its table allows is refused.
//! For the agent that is 2.34, which Debian 12 gives by itself and which every distribution with a kernel for it has
//! (6.1 or later: Debian 12, Ubuntu 22.04 with its newer kernel, Amazon Linux 2023; the RHEL 9 family too); for the
//! collector 2.35, which is not the case with the last two. So neither a second C library nor another linker is needed;
//! names are resolved by the system's own resolver, which a static binary would not do.
//!
//! Invariant: `dist` holds what this run made, and nothing else.

mod binary;
mod package;
mod packages;
mod root;
mod trial;

use crate::build::{self, Profile};
use crate::process;
use crate::say;
use crate::setup::{self, Needs};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::Args;
use package::Squeeze;
use packages::{AGENT, COLLECTOR, Package};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

#[derive(Args, Default)]
pub struct Options {
    /// From the debug profile, hardly compressed: soon done, for trying the packages
    #[arg(long)]
    pub debug: bool,
    /// Without the collector, whose query engine takes long to compile
    #[arg(long)]
    pub agent_only: bool,
    /// Install the packages in a clean Debian in a virtual machine, and see them work there
    ///
    /// The root is made once, with packages from this machine's Debian mirror, and kept in the cache.
    #[arg(long = "try")]
    pub trial: bool,
}

pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let start = Instant::now();
    let needs = Needs::BUILD.with_dist().with_vm(options.trial);
    setup::require(workspace, needs)?;
    let made = make(workspace, options.debug, options.agent_only)?;
    if options.trial {
        trial::run(workspace, &made.agent, made.collector.as_deref())?;
    }
    say::line(&format!(
        "   {} ({})",
        folder(workspace).display(),
        say::elapsed(start.elapsed())
    ));
    Ok(())
}

/// The packages' files.
pub struct Made {
    agent: PathBuf,
    collector: Option<PathBuf>,
}

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("dist")
}

/// Makes everything but the trial.
pub fn make(workspace: &Workspace, debug: bool, agent_only: bool) -> Result<Made> {
    let profile = Profile {
        release: !debug,
        ..Profile::DEV
    };
    let agent = build::run(workspace, profile)?;
    let collector = (!agent_only)
        .then(|| build::collector(workspace, profile))
        .transpose()?;
    say::heading("dist");
    let dist = folder(workspace);
    empty(&dist)?;
    binary::carries(&agent, &workspace.probes())?;
    let example = Command::new(build::example(workspace, "documents")?);
    let squeeze = if debug { Squeeze::Soon } else { Squeeze::Hard };
    let pack = |package: &Package, program: &Path, documents: Command| {
        pack(workspace, package, program, documents, squeeze)
    };
    let made = Made {
        agent: pack(&AGENT, &agent, example)?,
        collector: collector
            .map(|program| {
                let mut documents = Command::new(&program);
                documents.arg("documents");
                pack(&COLLECTOR, &program, documents)
            })
            .transpose()?,
    };
    package::sums(&dist)?;
    Ok(made)
}

/// The trial as a part of `cargo xtask test`, with the debug profile, which is built already.
pub fn try_debug(workspace: &Workspace) -> Result<()> {
    let made = make(workspace, true, false)?;
    trial::run(workspace, &made.agent, made.collector.as_deref())
}

/// One program and its package. `documents` is a command that makes `man` and `completions` in a folder, its last
/// argument.
fn pack(
    workspace: &Workspace,
    package: &Package,
    program: &Path,
    mut documents: Command,
    squeeze: Squeeze,
) -> Result<PathBuf> {
    let dist = folder(workspace);
    let place = dist.join(package.name);
    let needs = binary::take(program, package.glibc, &place)?;
    say::line(&format!(
        " + {} ({} KiB, {needs})",
        place.display(),
        fs::metadata(&place)?.len() / 1024
    ));
    let said = workspace.target.join("dist-documents");
    empty(&said)?;
    process::logged(
        &format!("{}: man pages and completions", package.name),
        documents.arg(&said),
        &workspace.logs().join("documents.log"),
    )?;
    for folder in ["man", "completions"] {
        copy_all(&said.join(folder), &dist.join(folder))?;
    }
    let example = package.example;
    fs::copy(
        workspace.root.join("packaging").join(example),
        dist.join(example),
    )
    .with_context(|| format!("cannot copy {example}"))?;
    package::make(workspace, package, &dist, &said, squeeze)
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for file in package::files(from)? {
        fs::copy(&file, to.join(file.file_name().unwrap_or_default()))
            .with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}
