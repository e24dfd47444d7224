//! `cargo xtask demo`: the main job, on real programs, in front of one's eyes.
//!
//! A cgroup is made and an agent watches it; nginx serves in it over cleartext and TLS, and programs that people use
//! call it, each with a credential that was generated for this run. The agent's table is shown as it is written, then
//! what was expected is held against the agent's events. A collector, to which the agent delivers, is asked for the
//! trail of one of the credentials, and for all that it has, which is held against the same. Where this kernel or this
//! user may not load probes the same is done in a virtual machine.
//!
//! Invariant: the agent's scope is the demo's own cgroup, so nothing else on the machine is looked at.
//! Invariant: when it ends, in whatever way, its processes, its cgroup and its mounts are gone; its folder stays.

mod agent;
mod cast;
pub mod cgroup;
mod collector;
mod held;
mod play;
pub mod secret;
mod verdict;

use crate::build::{self, Profile};
use crate::process;
use crate::say;
use crate::setup::{self, Needs};
use crate::vm::Guest;
use crate::workspace::Workspace;
use agent::Refused;
use anyhow::{Context, Result};
use clap::Args;
use play::{Pace, Programs, Stage, play};
use rustix::process::geteuid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Args)]
pub struct Options {
    /// Run it in a virtual machine, under Debian's newest kernel
    #[arg(long)]
    vm: bool,
    /// Build with optimisation
    #[arg(long)]
    release: bool,
    /// Without the collector, whose query engine takes long to compile the first time
    #[arg(long)]
    agent_only: bool,
    /// This is the virtual machine: play with what was built outside
    #[arg(long, hide = true, requires = "folder", requires = "agent")]
    inside: bool,
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
    #[arg(long, hide = true)]
    agent: Option<PathBuf>,
    #[arg(long, hide = true)]
    collector: Option<PathBuf>,
}

/// For the machine's boot and the play together.
const MACHINE_LIMIT: Duration = Duration::from_secs(900);

/// Returns whether everything that was expected was seen.
pub fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    if let (true, Some(folder), Some(agent)) = (options.inside, &options.folder, &options.agent) {
        let programs = Programs {
            agent: agent.clone(),
            collector: options.collector.clone(),
        };
        return play_inside(workspace, &programs, folder);
    }
    let is_root = geteuid().is_root();
    let vm = options.vm || !is_root;
    say::heading("setup");
    setup::require(workspace, Needs::DEMO.with_vm(vm))?;
    let profile = Profile {
        release: options.release,
        ..Profile::DEV
    };
    let programs = Programs {
        agent: build::run(workspace, profile)?,
        collector: (!options.agent_only)
            .then(|| build::collector(workspace, profile))
            .transpose()?,
    };
    let folder = make_folder(workspace)?;
    if !is_root {
        say::line("   only root may load probes, so the demo runs in a virtual machine");
    }
    if vm {
        return play_in_machine(workspace, &programs, &folder);
    }
    let stage = Stage {
        folder: &folder,
        state: folder.clone(),
        pace: Pace::HERE,
    };
    match play(workspace, &programs, &stage) {
        Err(error) if error.is::<Refused>() => {
            say::line(&format!(" ! {error}"));
            say::line("   so the demo runs in a virtual machine, which takes a few minutes");
            setup::require(workspace, Needs::DEMO.with_vm(true))?;
            // The machine's collector begins with nothing.
            fs::remove_dir_all(&folder)?;
            play_in_machine(workspace, &programs, &make_folder(workspace)?)
        }
        outcome => outcome,
    }
}

/// `demo/<seconds since 1970>` in the target folder.
fn make_folder(workspace: &Workspace) -> Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let folder = workspace.target.join("demo").join(now.to_string());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn play_in_machine(workspace: &Workspace, programs: &Programs, folder: &Path) -> Result<bool> {
    let machines = setup::kernel_images(workspace);
    let machine = machines
        .last()
        .context("no kernel for a virtual machine: cargo xtask setup --vm")?;
    say::heading(&format!(
        "demo in a virtual machine with Linux {}",
        machine.release
    ));
    say::line("   booting, which takes a minute where there is no hardware virtualisation ...");
    let mut command = vec![
        std::env::current_exe()?.display().to_string(),
        "demo".to_owned(),
        "--inside".to_owned(),
        "--folder".to_owned(),
        folder.display().to_string(),
        "--agent".to_owned(),
        programs.agent.display().to_string(),
    ];
    if let Some(collector) = &programs.collector {
        command.push("--collector".to_owned());
        command.push(collector.display().to_string());
    }
    let status = Guest {
        machine,
        command,
        environment: workspace.environment(),
        writable: vec![folder.to_path_buf()],
        readable: workspace.folders(),
        limit: MACHINE_LIMIT,
    }
    .run(workspace, |line| println!("{line}"))?;
    Ok(status.success())
}

/// In the virtual machine. SQLite cannot work in a folder that is shared with the host: it maps its files into memory.
fn play_inside(workspace: &Workspace, programs: &Programs, folder: &Path) -> Result<bool> {
    let stage = Stage {
        folder,
        state: std::env::temp_dir().join("tokentrail-demo"),
        pace: Pace::EMULATED,
    };
    fs::create_dir_all(&stage.state)?;
    let outcome = play(workspace, programs, &stage);
    let mut copy = Command::new("cp");
    copy.args(["--recursive", "--preserve=mode,timestamps"])
        .args([&stage.state.join("."), folder]);
    process::output(&mut copy)?;
    outcome
}
