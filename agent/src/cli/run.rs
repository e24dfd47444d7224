//! `run`: probes, threads, signals, and the end.
//!
//! Three threads besides this one: the pipeline's (drains the ring), the attacher's (looks for key-log points), the
//! outputs'. The end is orderly: probes are detached, what is in the ring is read, what waits is given out.

use super::{RunArguments, outputs::Outputs, start};
use agent_common::{
    abi::{probe, reason},
    event::{
        Action, Audit, AuditDetail, Body, Hook, Loss, LossDetail, LossReason, LossUnit, Stage,
    },
};
use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    io::Write as _,
    os::fd::{FromRawFd as _, OwnedFd},
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokentrail_agent::{
    config::Config,
    credential::Observer,
    flow::Nanos,
    identity::{Clock, ProcessTable, host},
    kernel::{
        attacher::{Attacher, Fallback, Request},
        decode::{Decoded, Decoder, now},
        features::Rung,
        keylog::{Cache, Finder},
        points::Points,
        probes::{self, Counters, Diagnostics, Probes, Ring, Totals},
        scope::{Hierarchy, Scope},
    },
    pipeline::{Demand, Numbering, Pipeline},
};
use tracing::{info, warn};

/// How long the ring is left alone while nothing asks to be read at once.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};
/// Time passes in the pipeline this often.
const TICK: Duration = Duration::from_millis(250);
/// Unix sockets that were idle for so long leave the probes' table.
const IDLE: Nanos = 600_000_000_000;
/// Where findings about files are kept between runs.
const CACHE: &str = "/var/cache/tokentrail";
/// Records read in one go before time passes.
const BATCH: usize = 8_192;

pub fn run(arguments: RunArguments) -> anyhow::Result<ExitCode> {
    log();
    leave_no_core();
    let config = start::configuration(&arguments)?;
    let scopes = start::scopes(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(observe(arguments, config, scopes))
}

/// Other people's secrets are in this memory: no core is written, and what a debugger writes has no heap in it
/// (core(5), `coredump_filter`).
fn leave_no_core() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warn!(%error, "cores of the agent cannot be turned off");
    }
    if let Err(error) = std::fs::write("/proc/self/coredump_filter", "0") {
        warn!(%error, "memory cannot be left out of cores");
    }
}

fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TOKENTRAIL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
}

async fn observe(
    arguments: RunArguments,
    config: Config,
    scopes: Vec<Scope>,
) -> anyhow::Result<ExitCode> {
    let keyring = start::keyring(&config)?;
    let hierarchy = Hierarchy::find().ok();
    let mut processes = ProcessTable::new(start::identity(&config))?;
    let stopping = Arc::new(AtomicBool::new(false));
    let (wake, woken) = tokio::sync::mpsc::channel(1);
    let epoch =
        u64::try_from(agent_common::event::Time::now().unix_nanos() / 1_000_000).unwrap_or(0);
    let host = host::read(std::path::Path::new("/"))?;
    let id = host.id.clone().unwrap_or_else(|| host.name.clone());
    let outputs = Outputs::start(&config, &id, epoch, {
        let wake = wake.clone();
        move || {
            // Full: the end was asked for already.
            let _ = wake.try_send("standard output was closed");
        }
    })?;

    let (mut loaded, rung, refused) =
        probes::start(&scopes, &start::probe_options(&config, arguments.rung))?;
    if let Some(refused) = refused {
        info!(%refused, "fentry is refused here: raw tracepoints are used, which do not see io_uring");
    }
    let ring = loaded.ring()?;
    let counters = loaded.counters()?;
    let diagnostics = loaded.diagnostics();
    processes.scan().context("cannot list /proc")?;
    let points = Points::default();
    let (cache, problem) = Cache::open(std::path::Path::new(CACHE));
    if let Some(problem) = problem {
        info!(%problem, "findings of earlier runs are not used");
    }
    let probes = Arc::new(Mutex::new(loaded));
    let running: Vec<_> = scopes
        .iter()
        .flat_map(|scope| scope.processes(hierarchy.as_ref()))
        .collect();
    let attacher = Attacher::start(
        Arc::clone(&probes),
        Finder::new(cache),
        points.clone(),
        if arguments.only_fallback {
            Fallback::Only
        } else {
            Fallback::WhenNeeded
        },
        &running,
    )?;

    let clock = Clock::start();
    let hook = match rung {
        Rung::Tracing => Hook::Fentry,
        Rung::Tracepoints => Hook::RawTracepoint,
    };
    let key_ids: Vec<String> = keyring
        .keys()
        .map(|(kid, _)| kid.as_str().to_owned())
        .collect();
    let pipeline = Pipeline::new(
        start::limits(&config),
        Observer::new(start::credential(&config), keyring),
        processes,
        points.clone(),
        clock,
        hook,
        Numbering::new(id, outputs.epoch(), host),
    );
    let attached = points.all().len();
    let worker = Worker {
        ring,
        decoder: Decoder::default(),
        counters,
        diagnostics,
        pipeline,
        probes: Some(probes),
        attacher: Some(attacher),
        outputs,
        records: 0,
        reported: Totals::default(),
        reported_at: now(),
        report_every: Duration::from_secs(config.agent.report_seconds.get()),
        scope: scopes.iter().map(ToString::to_string).collect(),
        hook,
        key_ids,
    };
    let thread = std::thread::Builder::new().name("pipeline".into()).spawn({
        let stopping = Arc::clone(&stopping);
        let wake = wake.clone();
        move || {
            let result = worker.work(&stopping);
            let _ = wake.try_send("the pipeline ended");
            result
        }
    })?;

    let scope = scopes
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ");
    eprintln!(
        "tokentrail-agent ready: scope {scope}, sockets by {rung}, {attached} key-log points"
    );
    tell_ready(arguments.ready_fd)?;
    let why = wait(woken).await?;
    info!("stopping: {why}");
    stopping.store(true, Ordering::Relaxed);
    // Not there under systemd-less parents: then nobody is told.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    match thread.join() {
        Ok(result) => result,
        Err(_) => anyhow::bail!("the pipeline's thread panicked; see above"),
    }
}

pub fn tell_ready(fd: Option<i32>) -> anyhow::Result<()> {
    if let Some(fd) = fd {
        anyhow::ensure!(fd > 2, "--ready-fd {fd}: standard descriptors are taken");
        rustix::io::fcntl_getfd(borrowed(fd)).with_context(|| format!("--ready-fd {fd}"))?;
        let mut file = std::fs::File::from(owned(fd));
        file.write_all(b"ready\n")
            .with_context(|| format!("--ready-fd {fd}"))?;
    }
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    Ok(())
}

#[expect(
    unsafe_code,
    reason = "a descriptor that the parent process passed by its number"
)]
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: `tell_ready` has checked that it is open; by the contract of --ready-fd it is ours.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[expect(
    unsafe_code,
    reason = "a descriptor that the parent process passed by its number"
)]
fn borrowed(fd: i32) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: only asked whether it is open.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

async fn wait(
    mut woken: tokio::sync::mpsc::Receiver<&'static str>,
) -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        why = woken.recv() => why.unwrap_or("the pipeline ended"),
    })
}

/// The pipeline's thread.
struct Worker {
    ring: Ring,
    decoder: Decoder,
    counters: Counters,
    diagnostics: Option<Diagnostics>,
    pipeline: Pipeline,
    /// `None` once they are detached.
    probes: Option<Arc<Mutex<Probes>>>,
    attacher: Option<Attacher>,
    outputs: Outputs,
    /// Read from the ring.
    records: u64,
    reported: Totals,
    reported_at: Nanos,
    report_every: Duration,
    scope: Vec<String>,
    hook: Hook,
    key_ids: Vec<String>,
}

impl Worker {
    fn work(mut self, stopping: &AtomicBool) -> anyhow::Result<ExitCode> {
        self.audit(Action::AgentStarted, None);
        self.outputs_lost();
        let (mut ticked, mut reported) = (Instant::now(), Instant::now());
        while !stopping.load(Ordering::Relaxed) {
            let read = self.drain(BATCH);
            if ticked.elapsed() >= TICK {
                self.pipeline.tick(now());
                if let Some(diagnostics) = &mut self.diagnostics {
                    diagnostics.hand_on();
                }
                ticked = Instant::now();
            }
            if reported.elapsed() >= self.report_every {
                self.report();
                reported = Instant::now();
            }
            self.pass_on();
            if read < BATCH {
                let mut fds = [PollFd::new(&self.ring, PollFlags::IN)];
                match poll(&mut fds, Some(&PAUSE)) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error).context("cannot wait for the ring"),
                }
            }
        }
        self.stop()
    }

    fn drain(&mut self, most: usize) -> usize {
        let mut read = 0;
        while read < most {
            let Some(item) = self.ring.next() else { break };
            let decoded = self.decoder.decode(&item);
            drop(item);
            read += 1;
            self.records += 1;
            match decoded {
                Decoded::Record(record) => self.pipeline.record(record),
                Decoded::Mapped { process, file } => self.look(Request::Process {
                    process,
                    file: Some(file),
                    executable: None,
                }),
                Decoded::Cgroup { path, .. } => self.cgroup(&path),
                Decoded::Nothing => {}
            }
        }
        read
    }

    fn look(&self, request: Request) {
        let file = match &request {
            Request::Process { file, .. } => *file,
            _ => None,
        };
        if !self
            .attacher
            .as_ref()
            .is_none_or(|attacher| attacher.ask(request))
            && let Some(file) = file
        {
            self.with_probes(|probes| probes.forget_file(file));
        }
    }

    /// Nothing once the probes are detached.
    fn with_probes<R>(&self, f: impl FnOnce(&mut Probes) -> R) -> Option<R> {
        self.probes
            .as_ref()
            .map(|probes| f(&mut probes.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn cgroup(&mut self, path: &str) {
        match self.with_probes(|probes| probes.cgroup_made(path)) {
            Some(Ok(Some(_))) => {
                info!(path, "a cgroup of the scope is back");
                self.audit(Action::ScopeChanged, Some(path.to_owned()));
            }
            None | Some(Ok(None)) => {}
            Some(Err(error)) => warn!(%error, path, "a cgroup of the scope could not be added"),
        }
    }

    /// Events to the outputs, demands to the attacher.
    fn pass_on(&mut self) {
        for demand in self.pipeline.take_demands() {
            match demand {
                Demand::LookAt {
                    process,
                    executable,
                    filename,
                } => self.look(Request::Process {
                    process,
                    file: None,
                    executable: Some((executable, filename.into())),
                }),
                Demand::LookAgain(process) => self.look(Request::Process {
                    process,
                    file: None,
                    executable: None,
                }),
                Demand::DropPoint(point) => self.look(Request::Drop(point)),
            }
        }
        for event in self.pipeline.take_events() {
            self.outputs.send(event);
        }
    }

    /// Losses since the last report become events; so do the counters.
    fn report(&mut self) {
        self.losses();
        self.pipeline.summarise(now(), false);
        self.audit(Action::AgentReport, None);
        self.with_probes(|probes| probes.sweep(now().saturating_sub(IDLE)));
    }

    fn losses(&mut self) {
        let totals = match self.counters.read() {
            Ok(totals) => totals,
            Err(error) => return warn!(%error, "the probes' counters could not be read"),
        };
        let (from, to) = (self.reported_at, now());
        for row in 0..probe::COUNT {
            for (what, why, unit) in LOSSES {
                let count = totals.of(row, *what) - self.reported.of(row, *what);
                if count > 0 {
                    self.lost(
                        Stage::Kernel,
                        Some(probe::NAMES[row as usize]),
                        *why,
                        *unit,
                        count,
                        (from, to),
                    );
                }
            }
        }
        self.outputs_lost();
        self.reported = totals;
        self.reported_at = to;
    }

    fn outputs_lost(&mut self) {
        for loss in self.outputs.take_lost() {
            self.pipeline.emit(now(), Body::Loss(Loss { loss }));
        }
    }

    fn lost(
        &mut self,
        stage: Stage,
        probe: Option<&str>,
        reason: LossReason,
        unit: LossUnit,
        count: u64,
        (from, to): (Nanos, Nanos),
    ) {
        let detail = LossDetail {
            stage,
            probe: probe.map(str::to_owned),
            reason,
            count: Some(count),
            unit,
            from: self.pipeline.wall(from),
            to: self.pipeline.wall(to),
            intentional: false,
            events: None,
        };
        self.pipeline.emit(to, Body::Loss(Loss { loss: detail }));
    }

    fn audit(&mut self, action: Action, detail: Option<String>) {
        let audit = AuditDetail {
            action,
            scope: self.scope.clone(),
            kernel: Some(
                rustix::system::uname()
                    .release()
                    .to_string_lossy()
                    .into_owned(),
            ),
            hook: Some(self.hook),
            key_ids: self.key_ids.clone(),
            counters: self.named(),
            detail,
        };
        self.pipeline.emit(now(), Body::Audit(Audit { audit }));
    }

    fn named(&self) -> std::collections::BTreeMap<String, u64> {
        let mut named = self.pipeline.counters().named();
        if let Ok(totals) = self.counters.read() {
            for row in 0..probe::COUNT {
                for what in 0..reason::COUNT {
                    let count = totals.of(row, what);
                    if count > 0 {
                        let (row, what) =
                            (probe::NAMES[row as usize], reason::NAMES[what as usize]);
                        named.insert(format!("probe.{row}.{what}"), count);
                    }
                }
            }
        }
        named.insert("ring.undecoded".into(), self.decoder.undecoded);
        named
    }

    /// Detaches, reads what is left, gives out what waits, checks the sums.
    fn stop(mut self) -> anyhow::Result<ExitCode> {
        // The attacher's reference to the probes goes with its thread, so that ours is the last: they are detached.
        self.attacher = None;
        self.probes = None;
        while self.drain(BATCH) > 0 {}
        self.pipeline.finish(now());
        self.losses();
        self.pipeline.summarise(now(), true);
        let checks = self.checks();
        let verdict = match checks.iter().find_map(|check| check.as_ref().err()) {
            Some(broken) => format!("sums do not hold: {broken}"),
            None => "sums hold".to_owned(),
        };
        self.audit(Action::AgentStopped, Some(verdict));
        self.pass_on();
        let named = self.named();
        let Self { outputs, .. } = self;
        let lost = outputs.close();
        for (name, count) in &named {
            eprintln!("{name:<32} {count}");
        }
        for loss in &lost {
            let output = loss.probe.as_deref().unwrap_or("spool");
            match loss.count {
                Some(count) => eprintln!("output {output} lost {count} events"),
                None => eprintln!("output {output} lost events"),
            }
        }
        let mut held = lost.is_empty();
        for check in checks {
            match check {
                Ok(sum) => eprintln!("holds: {sum}"),
                Err(sum) => {
                    held = false;
                    eprintln!("DOES NOT HOLD: {sum}");
                }
            }
        }
        Ok(if held {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// The sums that must hold when nothing is under way any more.
    fn checks(&self) -> Vec<Result<String, String>> {
        let mut checks = Vec::new();
        match self.counters.read() {
            Err(error) => checks.push(Err(format!(
                "the probes' counters could not be read: {error}"
            ))),
            Ok(totals) => {
                let sum = |what| {
                    (0..probe::COUNT)
                        .map(|row| totals.of(row, what))
                        .sum::<u64>()
                };
                let (seen, reported) = (sum(reason::SEEN), sum(reason::REPORTED));
                let (counted, lost) = (sum(reason::COUNTED_ONLY), sum(reason::LOST));
                let text = format!(
                    "calls seen {seen} = reported {reported} + left out by the copy policy {counted} + lost {lost}"
                );
                checks.push(if seen == reported + counted + lost {
                    Ok(text)
                } else {
                    Err(text)
                });
                let records = sum(reason::RECORDS);
                let text = format!(
                    "records submitted {records} = records read {}",
                    self.records
                );
                checks.push(if records == self.records {
                    Ok(text)
                } else {
                    Err(text)
                });
            }
        }
        let counters = self.pipeline.counters();
        let text = format!(
            "credentials parsed {} = events {} + lost {}",
            counters.credentials, counters.usage_events, counters.credentials_lost
        );
        checks.push(if counters.sums().is_ok() {
            Ok(text)
        } else {
            Err(text)
        });
        checks
    }
}

/// The probes' counters that tell of a loss, and how the event calls it.
const LOSSES: &[(u32, LossReason, LossUnit)] = &[
    (reason::RING_FULL, LossReason::RingFull, LossUnit::Records),
    (reason::FAULT, LossReason::CopyRefused, LossUnit::Calls),
    (reason::OVERSIZE, LossReason::Oversize, LossUnit::Calls),
    (reason::TABLE_FULL, LossReason::MapFull, LossUnit::Calls),
    (reason::COMPAT, LossReason::Unseen, LossUnit::Calls),
    (reason::IO_URING, LossReason::Unseen, LossUnit::Calls),
    (reason::KERNEL, LossReason::CopyRefused, LossUnit::Calls),
];
