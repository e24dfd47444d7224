//! `cargo xtask bench`: what the agent costs, measured against nothing in the same run.
//!
//! nginx and the other servers run in a cgroup of its own, wrk and h2load outside of it, on loopback. A round measures each kind of traffic with each
//! [`Variant`] in turn, beginning with another one each time, so that what else the machine does hits all of them; a
//! ratio is the median over the rounds of the ratios to nothing within the same round. Then, apart from the timed
//! rounds, since they cost something themselves: the kernel's own run time per hit, the agent's memory at many open
//! connections, the replay, delivery through spool and OTLP, and the time from a request to the receiver of its event.
//!
//! [`first`] asks something else, and only by its name: how soon a program is watched, and whether its first handshake is
//! read.
//!
//! What the collector costs is apart from all that: [`collector`].
//!
//! Invariant: a timing never fails the command: goals stand beside what was measured.
//! Invariant: the agent's scope is the bench's own cgroup, and its events go nowhere but to receivers of the bench.

mod collector;
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
use crate::demo::cgroup::{Below, Cgroup};
use crate::process;
use crate::server::{Server, Shape, Site};
use crate::setup::{self, Needs};
use crate::vm::Guest;
use crate::workspace::Workspace;
use crate::{interrupt, say};
use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use load::{Done, Targets, Traffic};
use report::{Measured, Report};
use rustix::process::geteuid;
use serde_json::Value;
use servers::Servers;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use variant::{Running, Variant};

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

/// Measured with nginx and the other servers there.
const COSTS: [Part; 6] = [
    Part::Traffic,
    Part::RunTimes,
    Part::Memory,
    Part::Replay,
    Part::Delivery,
    Part::Latency,
];

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
        COSTS.into_iter().any(|part| self.wants(part))
    }
}

const SHAPE: Shape = Shape {
    main: "user root;\nworker_rlimit_nofile 32768;",
    connections: 30_000,
    // A new connection is a full handshake.
    http: "keepalive_timeout 3600s; keepalive_requests 1000000000; ssl_protocols TLSv1.3; ssl_session_cache off; \
           ssl_session_tickets off;",
    listen: "backlog=16384",
    locations: "",
};

/// How long things may take: a machine without hardware virtualisation is ten to twenty times slower.
#[derive(Clone, Copy)]
struct Pace(u32);

impl Pace {
    fn seconds(self, count: u64) -> Duration {
        Duration::from_secs(count) * self.0
    }
}

/// Seconds of steady requests for each second of load: a percentile wants many.
const LATENCY: u64 = 5;
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

/// Everything, on this kernel.
fn measure(
    workspace: &Workspace,
    agent: &Path,
    folder: &Path,
    options: &Options,
    pace: Pace,
) -> Result<()> {
    say::heading("bench");
    let cgroup = Cgroup::make(&folder.join("cgroup"))?;
    let mut report = Report::default();
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
        costs(
            workspace,
            agent,
            folder,
            options,
            pace,
            &cgroup,
            &mut report,
        )?;
    }
    println!("{}", report.table());
    let file = folder.join("bench.json");
    let text = serde_json::to_string_pretty(&report.json())?;
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("\nall numbers: {}", file.display());
    Ok(())
}

/// What the agent costs a server, and itself.
fn costs(
    workspace: &Workspace,
    agent: &Path,
    folder: &Path,
    options: &Options,
    pace: Pace,
    cgroup: &Cgroup,
    report: &mut Report,
) -> Result<()> {
    let bystander = Below::make(cgroup.folder(), "aside")?;
    let server = Server::start(
        cgroup.folder(),
        &folder.join("nginx"),
        &SHAPE,
        pace.seconds(10),
    )?;
    let certificate = &server.site.certificate;
    let others = Servers::start(workspace, cgroup, folder, certificate, pace.seconds(20));
    let bench = Bench {
        agent,
        folder,
        pace,
        site: &server.site,
        servers: &others,
        kinds: options.kinds(),
        cgroup,
        aside: bystander.folder(),
        seconds: options.seconds,
    };
    if options.wants(Part::Traffic) {
        bench.traffic(report, options.rounds)?;
    }
    if options.wants(Part::RunTimes) {
        bench.run_times(report)?;
    }
    if options.wants(Part::Memory) {
        bench.memory(report, &options.connections)?;
    }
    if options.wants(Part::Replay) {
        bench.replay(report)?;
    }
    if options.wants(Part::Delivery) {
        bench.delivery(report, delivery::collector(workspace))?;
    }
    if options.wants(Part::Latency) {
        bench.latency(report, options.rate)?;
    }
    Ok(())
}

struct Bench<'a> {
    agent: &'a Path,
    folder: &'a Path,
    pace: Pace,
    site: &'a Site,
    servers: &'a Servers,
    kinds: Vec<Traffic>,
    cgroup: &'a Cgroup,
    aside: &'a Path,
    seconds: u64,
}

impl Bench<'_> {
    fn start(&self, variant: Variant) -> Result<Running> {
        let scope = if variant == Variant::Bystander {
            self.aside
        } else {
            self.cgroup.folder()
        };
        Running::start(
            variant,
            self.agent,
            scope,
            self.folder,
            self.pace.seconds(20),
        )
    }

    fn load(&self, traffic: Traffic) -> Result<Option<Done>> {
        let targets = Targets {
            site: self.site,
            servers: self.servers,
        };
        load::run(self.folder, &targets, traffic, self.seconds, self.pace)
    }

    fn traffic(&self, report: &mut Report, rounds: u32) -> Result<()> {
        for round in 0..rounds {
            let title = format!("round {} of {rounds}", round + 1);
            let mut step = say::Step::start(&title);
            let variants = Variant::ALL;
            for turn in 0..variants.len() {
                let variant = variants[(turn + round as usize) % variants.len()];
                step.tick(variant.name());
                report.add(round, variant, self.round(variant)?);
            }
            step.done(say::Mark::Done);
        }
        Ok(())
    }

    /// All kinds of traffic with one variant.
    fn round(&self, variant: Variant) -> Result<Measured> {
        let mut running = self.start(variant)?;
        let mut measured = Measured::default();
        for traffic in &self.kinds {
            interrupt::check()?;
            let before = running.copied(self.agent)?;
            let Some(done) = self.load(*traffic)? else {
                continue;
            };
            measured.rates.push((*traffic, done.per_second));
            if let (Some(before), Some(after)) = (before, running.copied(self.agent)?) {
                let bytes = after.saturating_sub(before) as f64 / done.requests.max(1) as f64;
                measured.copied.push((*traffic, bytes));
            }
        }
        measured.agent = running.stop(self.pace.seconds(20))?;
        Ok(measured)
    }

    /// The kernel's statistics cost something, so they are on only here.
    fn run_times(&self, report: &mut Report) -> Result<()> {
        for variant in [Variant::Agent, Variant::Bystander] {
            let mut step = say::Step::start(format!("run times, {}", variant.name()));
            let mut running = self.start(variant)?;
            for traffic in self.kinds.iter().copied() {
                step.tick(traffic.name());
                let pid = running.id().context("an agent has a process")?;
                let mut stats = Command::new(self.agent);
                stats.args(["bench", "stats", "--pid", &pid.to_string()]);
                stats.args(["--seconds", &(self.seconds.max(2) - 1).to_string()]);
                let told = std::thread::scope(|scope| {
                    let told = scope.spawn(|| process::output(&mut stats));
                    self.load(traffic)?;
                    told.join()
                        .map_err(|_| anyhow::anyhow!("the reader of run times panicked"))?
                })?;
                report
                    .run_times
                    .push((variant, traffic, serde_json::from_str(&told)?));
            }
            running.stop(self.pace.seconds(20))?;
            step.done(say::Mark::Done);
        }
        Ok(())
    }

    fn memory(&self, report: &mut Report, connections: &[u32]) -> Result<()> {
        for https in [true, false] {
            let mut running = self.start(Variant::Agent)?;
            let pid = running.id().context("an agent has a process")?;
            report.memory.push((https, 0, idle::memory(pid)?));
            for count in connections {
                let title = format!(
                    "memory at {count} {} connections",
                    if https { "HTTPS" } else { "HTTP" }
                );
                let step = say::Step::start(&title);
                let client = idle::Client::start(
                    self.folder,
                    self.site,
                    https,
                    *count,
                    self.pace.seconds(120),
                )?;
                std::thread::sleep(Duration::from_secs(1));
                report.memory.push((https, *count, idle::memory(pid)?));
                drop(client);
                step.done(say::Mark::Done);
            }
            running.stop(self.pace.seconds(30))?;
        }
        Ok(())
    }

    fn replay(&self, report: &mut Report) -> Result<()> {
        let step = say::Step::start("replay");
        for decode in [false, true] {
            let mut command = Command::new(self.agent);
            command.args(["bench", "replay", "--seconds", &self.seconds.to_string()]);
            if decode {
                command.arg("--decode");
            }
            let told: Value = serde_json::from_str(&process::output(&mut command)?)?;
            report.replay.push(told);
        }
        step.done(say::Mark::Done);
        Ok(())
    }
}

impl Bench<'_> {
    fn delivery(&self, report: &mut Report, collector: Option<PathBuf>) -> Result<()> {
        let mut step = say::Step::start("delivery");
        if collector.is_none() {
            step.note("no OpenTelemetry Collector: cargo xtask setup --test builds one");
        }
        let way = delivery::Way {
            agent: self.agent,
            folder: self.folder,
            collector,
            seconds: self.seconds,
            pace: self.pace,
        };
        report.sync_milliseconds = delivery::sync_time(self.folder)?;
        way.measure(|delivered| {
            step.tick(delivered.receiver);
            report.delivered.push(delivered);
        })?;
        step.done(say::Mark::Done);
        Ok(())
    }

    fn latency(&self, report: &mut Report, rate: u64) -> Result<()> {
        let step = say::Step::start("from request to receiver");
        let steady = latency::Steady {
            agent: self.agent,
            scope: self.cgroup.folder(),
            folder: self.folder,
            port: self.site.http,
            rate,
            time: Duration::from_secs(LATENCY * self.seconds),
            pace: self.pace,
        };
        steady.measure(report)?;
        step.done(say::Mark::Done);
        Ok(())
    }
}
