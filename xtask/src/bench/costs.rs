//! What the agent costs a server, and itself.
//!
//! nginx and the other servers run in a cgroup of its own, wrk and h2load outside of it, on loopback. A round measures
//! each kind of traffic with each [`Variant`] in turn, beginning with another one each time, so that what else the machine
//! does hits all of them; a ratio is the median over the rounds of the ratios to nothing within the same round. Then,
//! apart from the timed rounds, since they cost something themselves: the kernel's own run time per hit, the agent's
//! memory at many open connections, the replay, delivery through spool and OTLP, and the time from a request to the
//! receiver of its event.

use super::load::{self, Done, Targets, Traffic};
use super::report::{Measured, Report};
use super::servers::Servers;
use super::variant::{Running, Variant};
use super::{Options, Pace, Part, delivery, idle, latency};
use crate::demo::cgroup::{Below, Cgroup};
use crate::process;
use crate::server::{Server, Shape, Site};
use crate::workspace::Workspace;
use crate::{interrupt, say};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Measured with nginx and the other servers there.
pub const PARTS: [Part; 6] = [
    Part::Traffic,
    Part::RunTimes,
    Part::Memory,
    Part::Replay,
    Part::Delivery,
    Part::Latency,
];

/// nginx's.
pub const SHAPE: Shape = Shape {
    main: "user root;\nworker_rlimit_nofile 32768;",
    connections: 30_000,
    // A new connection is a full handshake.
    http: "keepalive_timeout 3600s; keepalive_requests 1000000000; ssl_protocols TLSv1.3; ssl_session_cache off; \
           ssl_session_tickets off;",
    listen: "backlog=16384",
    locations: "",
};

/// Seconds of steady requests for each second of load: a percentile wants many.
const LATENCY: u64 = 5;

/// What the agent costs a server, and itself.
pub fn measure(
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
