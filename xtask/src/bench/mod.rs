//! `cargo xtask bench`: what the agent costs, measured against nothing in the same run.
//!
//! What it costs servers, and itself: [`costs`]. What the key-log points cost by themselves: [`points`]. Something else,
//! and only by its name: how soon a program is watched, and whether its first handshake is read, [`first`].
//!
//! What the collector costs is apart from all that: [`collector`].
//!
//! Invariant: a timing never fails the command: goals stand beside what was measured.
//! Invariant: the agent's scope is the bench's own cgroup, and its events go nowhere but to receivers of the bench.

mod collector;
mod costs;
mod delivery;
mod first;
mod idle;
mod latency;
mod load;
mod points;
mod receiver;
mod report;
mod servers;
mod variant;

use crate::build::{self, Profile};
use crate::demo::cgroup::Cgroup;
use crate::say;
use crate::setup::{self, Needs};
use crate::vm::Guest;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use load::Traffic;
use report::Report;
use rustix::process::geteuid;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Args, Clone)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    subject: Option<Subject>,
    /// Measure in a virtual machine, under Debian's newest kernel, where fentry works
    #[arg(long)]
    vm: bool,
    /// Seconds of load for each kind of traffic, variant and round
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Open connections at which the agent's memory is looked at
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    connections: Vec<u32>,
    /// Only these parts; without it all but first-handshake, which takes two hours
    #[arg(long, value_name = "PART", value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Only these kinds of traffic
    #[arg(long, value_name = "KIND", value_enum, value_delimiter = ',')]
    traffic: Vec<Traffic>,
    /// Requests per second while the time to the receiver is measured
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rate: u64,
    #[command(flatten)]
    first: first::Options,
    /// Use this agent (built with optimisation) instead of building one
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// This is the virtual machine: measure with what was built outside
    #[arg(long, hide = true, requires = "agent")]
    inside: bool,
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
}

/// What else than the agent.
#[derive(Clone, Subcommand)]
enum Subject {
    /// The collector: what it takes in, keeps and answers, beside DuckDB and chDB
    ///
    /// A generated load over OTLP on loopback, then questions over HTTP. Goals that are missed are said; answers that
    /// differ from the other engines' fail it.
    Collector(collector::Options),
}

/// What is measured, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Throughput with each variant
    Traffic,
    /// The kernel's run time per hit
    RunTimes,
    /// The agent's memory at many open connections
    Memory,
    /// Requests from chunk to event on one core
    Replay,
    /// Events through spool and OTLP
    Delivery,
    /// From a request to its event at the receiver
    Latency,
    /// What the key-log points cost by themselves, in the scope and out of it
    Points,
    /// How soon a program is watched, and whether its first handshake is read
    FirstHandshake,
}

impl Options {
    fn kinds(&self) -> Vec<Traffic> {
        match self.traffic.as_slice() {
            [] => Traffic::ALL.to_vec(),
            chosen => chosen.to_vec(),
        }
    }

    fn wants(&self, part: Part) -> bool {
        let unasked = self.only.is_empty() && part != Part::FirstHandshake;
        unasked || self.only.contains(&part)
    }

    fn wants_costs(&self) -> bool {
        costs::PARTS.into_iter().any(|part| self.wants(part))
    }
}

/// How long things may take: a machine without hardware virtualisation is ten to twenty times slower.
#[derive(Clone, Copy)]
struct Pace(u32);

impl Pace {
    fn seconds(self, count: u64) -> Duration {
        Duration::from_secs(count) * self.0
    }
}

/// Longer rounds in a machine that may have no hardware virtualisation.
const EMULATED_LOAD: u64 = 5;
const MACHINE_LIMIT: Duration = Duration::from_secs(3 * 3600);

pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if let Some(Subject::Collector(options)) = &options.subject {
        return collector::run(workspace, options);
    }
    if let (true, Some(agent), Some(folder)) = (options.inside, &options.agent, &options.folder) {
        return measure(workspace, agent, folder, options, Pace(15));
    }
    let vm = options.vm || !geteuid().is_root();
    say::heading("setup");
    setup::require(
        workspace,
        Needs {
            bench: true,
            programs: options.wants(Part::FirstHandshake),
            ..Needs::DEMO
        }
        .with_vm(vm),
    )?;
    let agent = match &options.agent {
        Some(agent) => fs::canonicalize(agent).with_context(|| format!("{}", agent.display()))?,
        None => build::run(
            workspace,
            Profile {
                release: true,
                ..Profile::DEV
            },
        )?,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let folder = workspace.target.join("bench").join(now.to_string());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    servers::prepare(&folder);
    if options.wants(Part::Points) {
        points::prepare(&folder).context("cannot build the programs of the points")?;
    }
    if options.wants(Part::FirstHandshake) {
        first::prepare(&folder).context("cannot build the programs of the first handshake")?;
    }
    if vm {
        in_machine(workspace, &agent, &folder, options)
    } else {
        measure(workspace, &agent, &folder, options, Pace(1))
    }
}

fn in_machine(workspace: &Workspace, agent: &Path, folder: &Path, options: &Options) -> Result<()> {
    let machines = setup::kernel_images(workspace);
    let machine = machines
        .last()
        .context("no kernel for a virtual machine: cargo xtask setup --vm")?;
    say::heading(&format!(
        "bench in a virtual machine with Linux {}",
        machine.release
    ));
    let connections: Vec<String> = options.connections.iter().map(u32::to_string).collect();
    let mut words = vec![
        std::env::current_exe()?.display().to_string(),
        "bench".to_owned(),
        "--inside".to_owned(),
        format!("--folder={}", folder.display()),
        format!("--agent={}", agent.display()),
        // Each request takes that much longer, and a round must hold enough of them.
        format!("--seconds={}", options.seconds * EMULATED_LOAD),
        format!("--rounds={}", options.rounds),
        format!("--connections={}", connections.join(",")),
        format!("--rate={}", options.rate),
    ];
    words.extend(options.first.words());
    for kind in options
        .traffic
        .iter()
        .filter_map(Traffic::to_possible_value)
    {
        words.push(format!("--traffic={}", kind.get_name()));
    }
    for part in options.only.iter().filter_map(Part::to_possible_value) {
        words.push(format!("--only={}", part.get_name()));
    }
    let mut readable = workspace.folders();
    readable.extend(agent.parent().map(Path::to_path_buf));
    let status = Guest {
        machine,
        command: words,
        environment: workspace.environment(),
        writable: vec![folder.to_path_buf()],
        readable,
        limit: MACHINE_LIMIT,
    }
    .run(workspace, |line| println!("{line}"))?;
    anyhow::ensure!(
        status.success(),
        "the bench in the machine ended with {status}"
    );
    Ok(())
}

/// Everything, on this kernel. What was measured is told, whatever ends it.
fn measure(
    workspace: &Workspace,
    agent: &Path,
    folder: &Path,
    options: &Options,
    pace: Pace,
) -> Result<()> {
    say::heading("bench");
    let mut report = Report::default();
    let outcome = parts(workspace, agent, folder, options, pace, &mut report);
    println!("{}", report.table());
    let file = folder.join("bench.json");
    let text = serde_json::to_string_pretty(&report.json())?;
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("\nall numbers: {}", file.display());
    outcome
}

fn parts(
    workspace: &Workspace,
    agent: &Path,
    folder: &Path,
    options: &Options,
    pace: Pace,
    report: &mut Report,
) -> Result<()> {
    let cgroup = Cgroup::make(&folder.join("cgroup"))?;
    if options.wants(Part::Points) {
        let setting = points::Setting {
            agent,
            folder,
            cgroup: &cgroup,
            pace,
            seconds: options.seconds,
            rounds: options.rounds,
        };
        points::measure(&setting, &mut report.points)?;
    }
    if options.wants(Part::FirstHandshake) {
        let setting = first::Setting {
            workspace,
            agent,
            folder,
            cgroup: &cgroup,
            pace,
            options: &options.first,
        };
        first::measure(&setting, &mut report.first)?;
    }
    if options.wants_costs() {
        costs::measure(workspace, agent, folder, options, pace, &cgroup, report)?;
    }
    Ok(())
}
