//! What is attached while traffic is measured.
//!
//! Invariant: at most one variant runs, and it has ended when its value is gone.

use crate::interrupt;
use crate::process::{self, Group};
use anyhow::{Context, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    Nothing,
    /// Empty probes at the agent's own points.
    Empty,
    Agent,
    /// The agent, with a scope that none of this is in.
    Bystander,
    /// Empty probes at entry and return of SSL_read and SSL_write.
    Classic,
}

impl Variant {
    pub const ALL: [Self; 5] = [
        Self::Nothing,
        Self::Empty,
        Self::Agent,
        Self::Bystander,
        Self::Classic,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Empty => "empty probes",
            Self::Agent => "agent",
            Self::Bystander => "bystander",
            Self::Classic => "classic SSL probes, empty",
        }
    }
}

/// What an agent used and made from its start to its end.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// User and system time between ready and stop, microseconds.
    pub cpu: f64,
    pub events: u64,
    /// Losses that the probes counted.
    pub lost: u64,
    pub rung_is_fentry: bool,
}

pub struct Running {
    group: Option<Group>,
    log: PathBuf,
    is_agent: bool,
    cpu_at_start: f64,
}

impl Running {
    pub fn start(
        variant: Variant,
        program: &Path,
        scope: &Path,
        folder: &Path,
        limit: Duration,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        match variant {
            Variant::Nothing => {
                return Ok(Self {
                    group: None,
                    log: log(folder),
                    is_agent: false,
                    cpu_at_start: 0.0,
                });
            }
            Variant::Empty => command.args(["bench", "probes", "--set", "same-points"]),
            Variant::Classic => command.args(["bench", "probes", "--set", "classic"]),
            Variant::Agent | Variant::Bystander => command
                .args(["run", "--output", "ndjson"])
                .arg("--scope")
                .arg(format!("cgroup:{}", scope.display())),
        };
        let is_agent = matches!(variant, Variant::Agent | Variant::Bystander);
        Self::launch(command, variant.name(), is_agent, folder, limit)
    }

    /// An agent with a configuration of its own.
    pub fn agent(
        program: &Path,
        scope: &Path,
        configuration: &Path,
        folder: &Path,
        limit: Duration,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .args(["run", "--scope"])
            .arg(format!("cgroup:{}", scope.display()))
            .arg("--config")
            .arg(configuration);
        Self::launch(command, Variant::Agent.name(), true, folder, limit)
    }

    fn launch(
        mut command: Command,
        name: &str,
        is_agent: bool,
        folder: &Path,
        limit: Duration,
    ) -> Result<Self> {
        let log = log(folder);
        let group = until_ready(command.stdout(Stdio::null()), name, &log, limit)?;
        let cpu_at_start = cpu(group.id())?;
        Ok(Self {
            group: Some(group),
            log,
            is_agent,
            cpu_at_start,
        })
    }

    /// Bytes that an agent's probes have copied so far.
    pub fn copied(&self, program: &Path) -> Result<Option<u64>> {
        let Some(pid) = self.id().filter(|_| self.is_agent) else {
            return Ok(None);
        };
        // The socket is the worker's, a child of the agent's.
        let family = super::idle::family(pid)?.into_iter();
        let socket = family
            .map(|pid| PathBuf::from(format!("/run/tokentrail/agent-{pid}.sock")))
            .find(|socket| socket.exists())
            .context("the agent has no socket")?;
        let mut ask = Command::new(program);
        ask.args(["coverage", "--json", "--socket"]).arg(socket);
        let said: Value = serde_json::from_str(&process::output(&mut ask)?)?;
        let counters = said["counters"].as_object().context("no counters")?;
        let copied = counters
            .iter()
            .filter(|(name, _)| name.starts_with("probe.") && name.ends_with(".bytes_copied"));
        Ok(Some(copied.filter_map(|(_, count)| count.as_u64()).sum()))
    }

    pub fn id(&self) -> Option<u32> {
        self.group.as_ref().map(Group::id)
    }

    /// Ends it; of an agent, what it spent.
    pub fn stop(&mut self, limit: Duration) -> Result<Option<Spent>> {
        let Some(mut group) = self.group.take() else {
            return Ok(None);
        };
        let cpu = cpu(group.id())? - self.cpu_at_start;
        group.stop(limit);
        if !self.is_agent {
            return Ok(None);
        }
        // The agent prints its counters at the end: `name count`.
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let counted = |fits: &dyn Fn(&str) -> bool| -> u64 {
            said.lines()
                .filter_map(|line| line.split_once(' '))
                .filter(|(name, _)| fits(name))
                .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
                .sum()
        };
        Ok(Some(Spent {
            cpu,
            events: counted(&|name| name == "events.usage"),
            lost: counted(&|name| name.starts_with("probe.") && name.ends_with(".lost")),
            rung_is_fentry: said.contains("sockets by fentry"),
        }))
    }
}

/// Starts what is told by `--ready-fd` when it is ready, and waits for that. What it says goes to `log`.
pub fn until_ready(
    command: &mut Command,
    name: &str,
    log: &Path,
    limit: Duration,
) -> Result<Group> {
    let (mut ready, signal) = std::io::pipe().context("cannot make a pipe")?;
    // Only this child gets the end: it is closed here before another one is started.
    fcntl_setfd(&signal, FdFlags::empty()).context("cannot hand down a pipe")?;
    command
        .arg("--ready-fd")
        .arg(signal.as_raw_fd().to_string())
        .stderr(File::create(log)?);
    let mut group = Group::spawn(command)?;
    drop(signal);
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(ready.read(&mut [0; 16]).is_ok_and(|read| read > 0)));
    let start = Instant::now();
    loop {
        interrupt::check()?;
        match receiver.try_recv() {
            Ok(true) => return Ok(group),
            Err(TryRecvError::Empty) if start.elapsed() < limit => {
                thread::sleep(Duration::from_millis(10));
            }
            _ => {
                group.stop(Duration::from_secs(2));
                let said = fs::read_to_string(log).unwrap_or_default();
                bail!("{name} did not start:\n{}", said.trim_end());
            }
        }
    }
}

fn log(folder: &Path) -> PathBuf {
    folder.join("variant.log")
}

/// User and system time of a process and all its descendants so far in microseconds, also of those that have ended.
pub fn cpu(pid: u32) -> Result<f64> {
    let family = super::idle::family(pid)?;
    // One that ends meanwhile is counted by its parent.
    let (of_parent, rest) = (cpu_of(pid)?, family.into_iter().skip(1));
    Ok(of_parent + rest.filter_map(|pid| cpu_of(pid).ok()).sum::<f64>())
}

/// Fields 14 to 17 of proc_pid_stat(5), its own time and that of children that it has waited for, in ticks of 10 ms.
fn cpu_of(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = fields
        .split_ascii_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(ticks as f64 * 10_000.0)
}
