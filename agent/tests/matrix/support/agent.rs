//! A real agent: started with a scope, ready by its ready descriptor, stopped by SIGTERM.

use super::counters::Counters;
use super::event::Event;
use super::lab::Lab;
use super::process::{Place, Program, Spec, run};
use super::{host_scope, seconds, wait_for};
use agent_common::fingerprint::{Fingerprint, Keyring, Secret};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// The agent's program.
pub fn program() -> PathBuf {
    std::env::var_os("TOKENTRAIL_AGENT").map_or_else(
        || env!("CARGO_BIN_EXE_tokentrail-agent").into(),
        PathBuf::from,
    )
}

/// In a lab's folder.
const KEY: &str = "fingerprint.key";

/// How to start an agent.
pub struct Options {
    pub scope: String,
    pub args: Vec<String>,
    /// The configuration's text; empty is none.
    pub config: String,
    /// Log filter, as the variable TOKENTRAIL_LOG has it.
    pub log: Option<&'static str>,
    /// Where standard output goes instead of to the test.
    pub stdout: Option<PathBuf>,
}

pub struct Agent {
    program: Program,
    /// Says once whether it is ready.
    ready: Receiver<bool>,
    key: PathBuf,
    folder: PathBuf,
    /// Every line of standard output as it came.
    pub lines: Vec<String>,
    pub events: Vec<Event>,
    known: RefCell<HashMap<String, String>>,
}

/// What is left of an agent.
pub struct Stopped {
    pub events: Vec<Event>,
    pub lines: Vec<String>,
    pub stderr: String,
    /// The agent's own folder: working directory and temporary files.
    pub folder: PathBuf,
}

impl Options {
    /// The lab's cgroup, or the whole machine where the environment says so.
    pub fn scope_of(lab: &Lab) -> Result<Self> {
        let scope = match host_scope() {
            true => "host".to_owned(),
            false => format!("cgroup:{}", lab.scope()?.path().display()),
        };
        Ok(Self::with_scope(scope))
    }

    pub fn with_scope(scope: String) -> Self {
        let mut args = Vec::new();
        if let Ok(rung) = std::env::var("TOKENTRAIL_RUNG") {
            args.extend(["--rung".to_owned(), rung]);
        }
        Self {
            scope,
            args,
            config: String::new(),
            log: None,
            stdout: None,
        }
    }
}

impl Agent {
    /// An agent that watches the lab's cgroup.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_with(lab, &Options::scope_of(lab)?)
    }

    pub fn start_with(lab: &Lab, options: &Options) -> Result<Self> {
        let mut agent = Self::launch(lab, options)?;
        if !agent.wait_until_ready()? {
            let ended = !agent.program.is_running();
            let said = if ended {
                agent.program.remains().1
            } else {
                agent.program.stderr()
            };
            bail!("the agent is not ready: {said}");
        }
        Ok(agent)
    }

    /// Starts it, and does not wait until it is ready.
    pub fn launch(lab: &Lab, options: &Options) -> Result<Self> {
        let key = lab.path(KEY);
        if !key.exists() {
            run(
                &Spec::new(program()).arg("keygen").arg(&key),
                &Place::default(),
            )
            .context("keygen")?;
        }
        let folder = lab.path("agent");
        std::fs::create_dir_all(&folder)?;
        let (mut ready, signal) = std::io::pipe()?;
        // Only this end is handed down; it closes here as soon as the agent has it.
        rustix::io::fcntl_setfd(&signal, rustix::io::FdFlags::empty())?;
        let mut spec = match &options.stdout {
            Some(path) => Spec::new("/bin/sh")
                .args(["-c", r#"exec "$@" >"$0""#])
                .arg(path)
                .arg(program()),
            None => Spec::new(program()),
        };
        spec = spec
            .args([
                "run",
                "--scope",
                &options.scope,
                "--output",
                "ndjson",
                "--ready-fd",
            ])
            .arg(signal.as_raw_fd().to_string())
            .arg("--fingerprint-key")
            .arg(&key)
            .args(&options.args)
            .env("TMPDIR", &folder)
            .folder(&folder);
        if !options.config.is_empty() {
            let config = lab.path("agent.toml");
            std::fs::write(&config, &options.config)?;
            spec = spec.arg("--config").arg(config);
        }
        if let Some(filter) = options.log {
            spec = spec.env("TOKENTRAIL_LOG", filter);
        }
        let program = Program::start(&spec, &Place::default())?;
        drop(signal);
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let _ = sender.send(ready.read(&mut [0; 64]).is_ok_and(|count| count > 0));
        });
        Ok(Self {
            program,
            ready: receiver,
            key,
            folder,
            lines: Vec::new(),
            events: Vec::new(),
            known: RefCell::default(),
        })
    }

    /// Whether it said that it is ready, rather than that it ended.
    pub fn wait_until_ready(&mut self) -> Result<bool> {
        let said = wait_for(seconds(60), || match self.ready.try_recv() {
            Ok(said) => Some(said),
            Err(_) => (!self.program.is_running()).then_some(false),
        });
        Ok(said == Some(true))
    }

    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// The process that parses and delivers.
    pub fn worker_pid(&self) -> Result<u32> {
        let is_worker = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(b"worker".as_slice())
        };
        let found = self.processes().into_iter().find(is_worker);
        found.context("the agent has no worker")
    }

    /// Every process of the agent: the one that was started first, then those that it started, and so on.
    pub fn processes(&self) -> Vec<u32> {
        let mut family = vec![self.pid()];
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            family.extend(children(parent));
            next += 1;
        }
        family
    }

    /// Open descriptors of all its processes.
    pub fn descriptors(&self) -> usize {
        let count = |pid| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        self.processes().into_iter().map(count).sum()
    }

    /// What `tokentrail-agent coverage --json` says: asked of the usual socket, at which each agent answers.
    pub fn coverage(&self) -> Result<Value> {
        let own = |pid: &u32| PathBuf::from(format!("/run/tokentrail/agent-{pid}.sock"));
        let socket = self.processes().iter().map(own).find(|path| path.exists());
        let mut door = UnixStream::connect(socket.context("the agent has no socket")?)?;
        door.set_read_timeout(Some(seconds(30)))?;
        let mut told = String::new();
        door.read_to_string(&mut told)?;
        serde_json::from_str(&told).context("a snapshot")
    }

    /// How often a key-log point was met, by a process of the scope or by another one.
    pub fn hits(&self) -> Result<u64> {
        // Counters that are 0 are left out, and those of the probes where the process that reads them is busy.
        let asked = || {
            let told = self.coverage().ok()?;
            let counters = told["counters"].as_object()?.clone();
            let of_probes = counters.keys().any(|name| name.starts_with("probe."));
            of_probes.then_some(counters)
        };
        let counters = match wait_for(seconds(10), asked) {
            Some(counters) => counters,
            // All of them may be 0: then at least the answer must come.
            None => {
                let told = self.coverage()?;
                told["counters"].as_object().context("no counters")?.clone()
            }
        };
        let count = |name: &str| counters.get(name).and_then(Value::as_u64).unwrap_or(0);
        Ok(count("probe.keylog.seen") + count("probe.keylog.stray"))
    }

    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        self.program.signal(signal)
    }

    /// Waits until neither of its processes is there any more.
    pub fn both_ended(&mut self) -> Result<()> {
        self.program.wait(seconds(300))?;
        ensure!(
            self.program.outputs_closed(seconds(300)),
            "a process of the agent goes on after the other's end: {}",
            self.program.stderr()
        );
        Ok(())
    }

    /// Waits for its end, which something else has caused: exit status, all lines of standard output, standard error.
    pub fn ended(mut self) -> Result<(ExitStatus, Vec<String>, String)> {
        let status = self.program.wait(seconds(60))?;
        let (lines, stderr) = self.program.remains();
        self.lines.extend(lines);
        Ok((status, self.lines, stderr))
    }

    pub fn is_running(&mut self) -> bool {
        self.program.is_running()
    }

    /// `fentry` or `raw_tracepoint`, as its first event says.
    pub fn hook(&mut self) -> Result<String> {
        self.wait_until(seconds(20), |events| !events.is_empty())?;
        let hook = self.events.iter().find_map(|event| event.started_with());
        Ok(hook
            .context("no audit event `agent_started` with its hook")?
            .to_owned())
    }

    pub fn stderr(&self) -> String {
        self.program.stderr()
    }

    /// What `tokentrail-agent fingerprint` says of a credential.
    pub fn fingerprint(&self, credential: &str) -> Result<String> {
        if let Some(known) = self.known.borrow().get(credential) {
            return Ok(known.clone());
        }
        let by_keys = Keyring::load(&self.key)?
            .fingerprints_ever(&Secret::copy_from(credential.as_bytes()))
            .iter()
            .map(Fingerprint::text)
            .collect::<Vec<_>>();
        // The program is asked for the first of them, and where one of several keys must be chosen.
        let found = match by_keys.as_slice() {
            [only] if !self.known.borrow().is_empty() => only.clone(),
            _ => fingerprint(&self.key, credential)?,
        };
        self.known
            .borrow_mut()
            .insert(credential.to_owned(), found.clone());
        Ok(found)
    }

    /// The same, by the key of all agents of this lab.
    pub fn fingerprint_in(lab: &Lab, credential: &str) -> Result<String> {
        fingerprint(&lab.path(KEY), credential)
    }

    /// Reads what has come on standard output since.
    pub fn look(&mut self) -> Result<&[Event]> {
        for line in self.program.waiting_lines() {
            self.events.push(Event::parse(&line)?);
            self.lines.push(line);
        }
        Ok(&self.events)
    }

    /// Waits for events until `done` is content, or the time is over; says whether it was.
    pub fn wait_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&[Event]) -> bool,
    ) -> Result<bool> {
        let mut failure = None;
        let found = wait_for(limit, || match self.look() {
            Ok(events) => done(events).then_some(true),
            Err(error) => {
                failure = Some(error);
                Some(false)
            }
        });
        match failure {
            Some(error) => Err(error),
            None => Ok(found == Some(true)),
        }
    }

    /// SIGTERM, then everything that must hold after any clean stop: exit status, numbers of events, sums.
    pub fn stop(self) -> Result<Stopped> {
        self.stop_by(rustix::process::Signal::TERM)
    }

    pub fn stop_by(mut self, signal: rustix::process::Signal) -> Result<Stopped> {
        let (status, lines, stderr) = self.end_by(signal)?;
        for line in lines {
            self.events.push(Event::parse(&line)?);
            self.lines.push(line);
        }
        keep(&self.lines, &stderr)?;
        ensure!(status.success(), "the agent ended with {status}: {stderr}");
        contiguous(&self.events)?;
        let usage = self.events.iter().filter(|event| event.is_usage()).count();
        Counters::of(&self.events)?.check(usage as u64, &stderr)?;
        Ok(Stopped {
            events: self.events,
            lines: self.lines,
            stderr,
            folder: self.folder,
        })
    }

    /// SIGTERM and the end, whatever it is; gives the exit status and standard error.
    pub fn end(mut self) -> Result<(ExitStatus, String)> {
        let (status, _, stderr) = self.end_by(rustix::process::Signal::TERM)?;
        Ok((status, stderr))
    }

    fn end_by(
        &mut self,
        signal: rustix::process::Signal,
    ) -> Result<(ExitStatus, Vec<String>, String)> {
        ensure!(
            self.program.is_running(),
            "the agent ended by itself: {}",
            self.program.stderr()
        );
        self.program.signal(signal)?;
        let status = self.program.wait(seconds(60))?;
        self.look()?;
        let (lines, stderr) = self.program.remains();
        Ok((status, lines, stderr))
    }
}

/// Processes whose parent is this one.
fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(") ").unwrap_or_default().1;
        after.split(' ').nth(1) == Some(parent.to_string().as_str())
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}

fn fingerprint(key: &Path, credential: &str) -> Result<String> {
    let spec = Spec::new(program())
        .args(["fingerprint", "--fingerprint-key"])
        .arg(key);
    let (_, lines) = run(&spec.stdin(credential), &Place::default()).context("fingerprint")?;
    let word = lines
        .iter()
        .flat_map(|line| line.split_whitespace())
        .find(|word| word.starts_with("tkf1:"));
    Ok(word
        .with_context(|| format!("no fingerprint in {lines:?}"))?
        .to_owned())
}

/// For people who look into a failure: what the agent said, in the folder that TOKENTRAIL_KEEP names.
fn keep(lines: &[String], stderr: &str) -> Result<()> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let Some(folder) = std::env::var_os("TOKENTRAIL_KEEP").map(PathBuf::from) else {
        return Ok(());
    };
    let test = std::thread::current()
        .name()
        .unwrap_or("test")
        .replace("::", "-");
    let name = format!("{test}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(format!("{name}.ndjson")), lines.join("\n"))?;
    std::fs::write(folder.join(format!("{name}.stderr")), stderr)?;
    Ok(())
}

/// The producer's sequence has no hole within its epoch.
fn contiguous(events: &[Event]) -> Result<()> {
    for (place, event) in events.iter().enumerate() {
        let wanted = u64::try_from(place)? + 1;
        ensure!(
            event.sequence() == Some(wanted),
            "event {wanted} has the sequence {:?}",
            event.sequence()
        );
        ensure!(event.epoch() == events[0].epoch(), "two epochs in one run");
    }
    Ok(())
}
