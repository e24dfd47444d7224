//! Everything a person types: `cargo xtask <command>`.
//!
//! [`setup`] brings what is missing, [`build`] makes probes and agent, [`vm`] runs a command under another kernel;
//! the other commands stand on these three.

mod bench;
mod build;
mod demo;
mod dist;
mod interrupt;
mod load;
mod matrix;
mod process;
mod say;
mod server;
mod setup;
mod test;
mod toolchain;
mod vm;
mod workspace;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use workspace::Workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Everything a person types in this repository",
    after_help = "Start with `cargo xtask demo`."
)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing; a second run takes a moment
    ///
    /// By default what `build` and `demo` need. System packages come from apt-get (as root); everything else goes
    /// into the cache folder ($XDG_CACHE_HOME/tokentrail). Nothing is upgraded, no service is started.
    Setup(Setup),
    /// Build the probes, the agent that carries them, and the collector
    Build(Build),
    /// See it work: real programs, a real agent, one credential each
    ///
    /// Sets up what is missing, builds, makes a cgroup with nginx, curl, wget, Python and node in it, watches it,
    /// and holds what the agent said, and what the collector answers, against what happened. Ends by itself; exit
    /// status 1 if something was not seen or not found.
    Demo(demo::Options),
    /// Check everything, from formatting to the kernels in virtual machines
    ///
    /// Formatting, clippy, unit and integration tests, the probes on this kernel in a scope of their own, and the
    /// same programs on Debian's kernels in virtual machines. The last line reads `N passed, N failed, N skipped`.
    Test(test::Options),
    /// Real programs by version of TLS and of HTTP, as clients and as servers, and what was read of each
    ///
    /// Runs the end-to-end tests whose cells name a program, on this kernel, and prints their cells as a table.
    Matrix(matrix::Options),
    /// What it costs: throughput, CPU, memory, against nothing and with the goals beside
    ///
    /// nginx, Go, node and gRPC servers on loopback with nothing, with empty probes, with the agent, with the agent
    /// looking elsewhere, and with the classic probes; the kernel's run time per hit; the agent's memory; the replay;
    /// events through spool and OTLP, and the time from a request to its receiver; what key-log points cost by
    /// themselves. With `--only first-handshake` how soon programs are watched, and how many first handshakes are read.
    /// All numbers as JSON in the target folder's `bench`. A timing never fails it.
    Bench(bench::Options),
    /// Usage events as a fleet of agents would send them, from a seed
    ///
    /// As NDJSON, as OTLP bodies, or sent to a collector. The same seed and sizes give the same bytes.
    Load(load::Options),
    /// What is given to others: of agent and collector the binary, a Debian package, man pages, completions; sums
    ///
    /// In the target folder's `dist`. The agent needs glibc 2.34 or later, the collector 2.35, and nothing else; what
    /// needs more is refused.
    Dist(dist::Options),
    /// Run one command under another kernel, in a virtual machine on this file system
    Vm(VmArguments),
}

#[derive(Args)]
struct Setup {
    /// Also what the tests need: client programs and their packages
    #[arg(long)]
    test: bool,
    /// Also what virtual machines need: kernels, QEMU, virtme-ng
    #[arg(long)]
    vm: bool,
}

#[derive(Args)]
struct Build {
    /// With optimisation; the probes always have it
    #[arg(long)]
    release: bool,
    /// Probes that log what they do
    #[arg(long)]
    probe_log: bool,
    /// Without the collector, whose query engine takes long to compile
    #[arg(long)]
    agent_only: bool,
}

#[derive(Args)]
struct VmArguments {
    /// The kernel's version, or the beginning of it
    #[arg(long, default_value = "6.12.")]
    kernel: String,
    /// A folder in which the command may write
    #[arg(long, value_name = "FOLDER")]
    writable: Vec<PathBuf>,
    /// The machine is ended after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            say::line(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    interrupt::install()?;
    let workspace = Workspace::locate()?;
    match task {
        Task::Setup(Setup { test, vm }) => {
            let needs = if test {
                setup::Needs::TEST
            } else {
                setup::Needs::DEMO
            };
            setup::run(&workspace, needs.with_vm(vm))?;
        }
        Task::Build(Build {
            release,
            probe_log,
            agent_only,
        }) => {
            setup::require(&workspace, setup::Needs::BUILD)?;
            let profile = build::Profile { release, probe_log };
            build::run(&workspace, profile)?;
            if !agent_only {
                build::collector(&workspace, profile)?;
            }
        }
        Task::Demo(options) => {
            if !demo::run(&workspace, &options)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Task::Test(options) => {
            if !test::run(&workspace, &options)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Task::Matrix(options) => {
            if !matrix::run(&workspace, &options)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Task::Bench(options) => bench::run(&workspace, &options)?,
        Task::Load(options) => load::run(&options)?,
        Task::Dist(options) => dist::run(&workspace, &options)?,
        Task::Vm(arguments) => return vm(&workspace, arguments),
    }
    Ok(ExitCode::SUCCESS)
}

fn vm(workspace: &Workspace, arguments: VmArguments) -> Result<ExitCode> {
    setup::require(workspace, setup::Needs::default().with_vm(true))?;
    let machines = setup::kernel_images(workspace);
    let machine = machines
        .iter()
        .find(|machine| machine.release.starts_with(&arguments.kernel))
        .with_context(|| {
            let there: Vec<&str> = machines.iter().map(|m| m.release.as_str()).collect();
            format!(
                "no kernel {}; there are: {}",
                arguments.kernel,
                there.join(", ")
            )
        })?;
    let status = vm::Guest {
        machine,
        command: arguments.command,
        environment: workspace.environment(),
        writable: arguments.writable,
        readable: vec![
            workspace.root.clone(),
            workspace.target.clone(),
            workspace.cache.clone(),
        ],
        limit: Duration::from_secs(arguments.limit),
    }
    .run(workspace, |line| println!("{line}"))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}
