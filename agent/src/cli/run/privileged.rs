//! The privileged process: probes, files, and the worker that it starts.
//!
//! Threads besides this one and those that hash: the attacher's (looks for key-log points), the one that answers the
//! worker, one that waits for the worker's end, and one that waits for cgroups of the scope.
//!
//! Invariant: when this process ends, however, the probes are detached: their descriptors are here alone.

use super::{
    Log, RunArguments,
    guard::{self, Guard},
    live::{Helpers, Shared, attach, cgroup_made, detach, lock, sweep, watch},
    reload, start, tell_ready,
};
use crate::cli::{receivers, watchdog::Watchdog};
use agent_common::event::{HashAbsent, Sha256, Time};
use anyhow::Context as _;
use rustix::process::setpriority_process;
use std::{
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::ExitStatusExt as _,
    },
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokentrail_agent::{
    config::{Config, Points},
    identity::{
        executable::{self, Found, Landing},
        eyes::{Direct, Eyes as _},
        host,
    },
    kernel::{
        attach::{Way, breakpoint},
        bare,
        bridge::Request,
        keeper::Started,
        keylog::Client,
        probes::{self, Counters},
        scope::Scope,
    },
    privilege::{
        capabilities, lockdown,
        message::{Answer, Ask, Begin, Tell},
        pipe::{Error, Pipe},
    },
    sink::remote::file::Source,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::MissedTickBehavior,
};
use tracing::{info, warn};

/// How long a worker may take to begin, and to give out what it has.
const BEGIN: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(120);
/// How long a worker that was ended may take to be gone.
const REAPED: Duration = Duration::from_secs(5);
/// How long what the worker has said before its end may wait to be heard.
const HEARD: Duration = Duration::from_secs(5);
/// How often the probes' own log is handed on, where they have one.
const HAND_ON: Duration = Duration::from_millis(250);
/// Niceness of the threads that attach.
const EAGER: i32 = -10;
/// Complaints about the worker that are written down.
const COMPLAINTS: u32 = 10;

/// What other threads have to say to the main one.
pub(super) enum Event {
    // Of the worker.
    Ready {
        weaker: Vec<String>,
    },
    Alive,
    Stop,
    /// It has ended.
    Gone,
    /// It leaves the ring alone, so that the probes can be attached again.
    Waits,
    // Of the attacher, after a rest.
    PointsDetached,
    PointsAttached,
}

pub async fn observe(
    arguments: RunArguments,
    mut config: Config,
    scopes: Vec<Scope>,
    log: &Log,
) -> anyhow::Result<ExitCode> {
    let settings = start::settings(&config)?;
    let account = start::account(&config)?;
    // The worker makes them. What is wrong with them is said before anything starts.
    receivers::remote(&config, &Source::disk())?;
    let host = host::read(Path::new("/"))?;
    let (mut interrupt, mut terminate, mut hangup) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    let (mut worker, pipe) = Worker::start()?;

    let options = start::probe_options(&config, arguments.rung, worker.id());
    let (mut loaded, rung, refused) = probes::start(&scopes, &options)?;
    if let Some(refused) = refused {
        info!(%refused, "fentry is refused here: raw tracepoints are used, which do not see io_uring");
    }
    if let Err(error) = loaded.load_points() {
        warn!(%error, "no key-log point can be read: TLS is listed as unread");
    }
    if let Err(error) = loaded.load_bridge() {
        warn!(%error, "TLS connections that were open before are listed as unread");
    }
    let (way, keeper) = start_keeper(&config, &mut loaded);
    let finder = Client::start(Path::new("/proc/self/exe"), account)
        .context("the process that searches files cannot be started")?;
    finder
        .weaker()
        .iter()
        .for_each(|what| warn!("weaker here: {what}"));
    let counters = loaded.counters()?;
    let mut diagnostics = loaded.diagnostics();
    let begin = Begin {
        settings,
        account,
        scope: scopes.iter().map(ToString::to_string).collect(),
        hook: start::hook(rung),
        host: host.into(),
        epoch: u64::try_from(Time::now().unix_nanos() / 1_000_000).unwrap_or(0),
    };
    let scope = begin.scope.join(" ");
    let descriptor: OwnedFd = loaded.ring_descriptor()?;
    pipe.send_with(&Tell::Begin(Box::new(begin)), descriptor.as_fd())
        .context("the worker cannot be told what to do")?;
    drop(descriptor);

    // The threads that attach are in a race with what they attach to: they inherit this. Refused in some containers.
    let _ = setpriority_process(None, EAGER);
    // Before the first thread is made: each has rights of its own.
    let (kept, weaker) = lockdown::privileged(account.is_some(), || loaded.can_attach_points())
        .context("this process cannot give up its rights")?;
    info!(capabilities = %capabilities::names(kept).join(" "), "rights are reduced");
    weaker.iter().for_each(|what| info!("weaker here: {what}"));

    let (events, mut said) = unbounded_channel();
    let live = Shared::default();
    let held = guard::Held {
        live: Arc::clone(&live),
        pipe: Arc::clone(&pipe),
        events: events.clone(),
        scopes: scopes.clone(),
        rung,
    };
    let ended = events.clone();
    let answering = Answering {
        pipe: Arc::clone(&pipe),
        live: Arc::clone(&live),
        counters,
        eyes: {
            let identity = start::identity(&config);
            Direct::new(&identity.proc, &identity.passwd, identity.hash)?
        },
        events,
    };
    let (heard, hears) = std::sync::mpsc::channel::<()>();
    std::thread::Builder::new()
        .name("answers".into())
        .spawn(move || {
            answering.run();
            drop(heard);
        })?;
    // That thread may wait for somebody's file. This one notices the worker's end all the same; what it has said before
    // is heard first.
    std::thread::Builder::new()
        .name("worker-end".into())
        .spawn({
            let pipe = Arc::clone(&pipe);
            move || {
                pipe.wait_for_end();
                let _ = hears.recv_timeout(HEARD);
                let _ = ended.send(Event::Gone);
            }
        })?;
    let capture = config.capture.clone();
    let mut own = vec![std::process::id(), worker.id()];
    own.extend(keeper.iter().flat_map(Started::pids));
    own.extend(finder.pids());
    let helpers = Helpers {
        finder,
        keeper,
        way,
        own,
    };
    let points = attach(&arguments, &capture, &scopes, loaded, helpers, &pipe, &live)?;
    let _ = setpriority_process(None, 0);
    watch(&scopes, &pipe, &live)?;

    let ready = tokio::select! {
        ready = tokio::time::timeout(BEGIN, said.recv()) => ready,
        _ = interrupt.recv() => return Ok(stopped_before_ready(&live)),
        _ = terminate.recv() => return Ok(stopped_before_ready(&live)),
    };
    let Ok(Some(Event::Ready { weaker })) = ready else {
        detach(&live);
        return worker.failed("the worker did not begin");
    };
    weaker.iter().for_each(|what| warn!("weaker here: {what}"));
    pipe.send(&Tell::Start)
        .context("the worker cannot be told to start")?;
    let attached = points.all().len();
    eprintln!(
        "tokentrail-agent ready: scope {scope}, sockets by {rung}, {attached} key-log points"
    );
    tell_ready(arguments.ready_fd)?;

    let mut guard = Guard::new(held, &[std::process::id(), worker.id()], &config);
    let mut guarding = tokio::time::interval(guard::STEP);
    guarding.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watchdog = Watchdog::from_environment();
    let mut sweeping = interval(&config);
    let mut handing_on = tokio::time::interval(HAND_ON);
    let why = loop {
        tokio::select! {
            _ = interrupt.recv() => break Some("SIGINT"),
            _ = terminate.recv() => break Some("SIGTERM"),
            event = said.recv() => match event {
                Some(Event::Stop) => break Some("standard output was closed"),
                // This process has nothing to do but to hear the other: that is what must not hang.
                Some(Event::Alive) => watchdog.beat(Instant::now()),
                Some(Event::Ready { .. }) => {}
                Some(Event::Waits) => guard.worker_waits(Instant::now()),
                Some(Event::PointsDetached) => guard.points_detached(Instant::now()),
                Some(Event::PointsAttached) => guard.points_attached(),
                Some(Event::Gone) | None => break None,
            },
            _ = hangup.recv() => {
                if reload::reload(&arguments, &mut config, &pipe) {
                    log.change(&config);
                    sweeping = interval(&config);
                    guard.configure(&config);
                }
            }
            _ = sweeping.tick() => sweep(&live),
            _ = guarding.tick() => guard.step(Instant::now()),
            _ = handing_on.tick(), if diagnostics.is_some() => {
                if let Some(diagnostics) = &mut diagnostics {
                    diagnostics.hand_on();
                }
            }
        }
    };
    // Not there under systemd-less parents: then nobody is told.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    let Some(why) = why else {
        detach(&live);
        eprintln!("tokentrail-agent: the probes are detached");
        return worker.failed("the worker ended by itself");
    };
    info!("stopping: {why}");
    detach(&live);
    if let Err(error) = pipe.send(&Tell::Stop) {
        warn!(%error, "the worker cannot be told to stop");
    }
    tokio::select! {
        () = until_gone(&mut said) => {}
        _ = interrupt.recv() => return worker.failed("stopped again before the worker had ended"),
        _ = terminate.recv() => return worker.failed("stopped again before the worker had ended"),
        () = tokio::time::sleep(END) => return worker.failed("the worker did not end in time"),
    }
    let Some(status) = worker.ends_within(END) else {
        return worker.failed("the worker does not end");
    };
    match status.code() {
        Some(0) => Ok(ExitCode::SUCCESS),
        Some(_) => Ok(ExitCode::FAILURE),
        None => worker.failed("the worker did not end in good order"),
    }
}

/// The worker has seen nothing yet, and ends with its handle.
fn stopped_before_ready(live: &Shared) -> ExitCode {
    info!("stopping before everything is ready");
    detach(live);
    ExitCode::SUCCESS
}

/// How key-log points are attached, and the process that holds uprobes where some may be needed.
fn start_keeper(config: &Config, loaded: &mut probes::Probes) -> (Way, Option<Started>) {
    let breakpoints = breakpoint::self_test();
    if let Err(error) = &breakpoints {
        warn!(%error, "hardware breakpoints do not work here");
    }
    let way = match config.capture.points {
        Points::Auto => Way::Auto {
            breakpoints: breakpoints.is_ok(),
        },
        Points::Breakpoint => Way::Breakpoints,
        Points::Off => {
            warn!("capture.points is off: TLS is listed as unread");
            Way::Off
        }
        Points::Uprobe => Way::Uprobes,
        Points::UprobeHost => {
            warn!(
                "capture.points is uprobe-host: breakpoints are put into every process that maps a TLS library, in the \
                 scope or not"
            );
            Way::HostUprobes
        }
    };
    if matches!(way, Way::Breakpoints | Way::Off) && !config.capture.bridge {
        return (way, None);
    }
    let started = loaded
        .keeper_programs()
        .map_err(anyhow::Error::from)
        .and_then(|programs| {
            Started::start(Path::new("/proc/self/exe"), &programs).map_err(anyhow::Error::from)
        });
    match started {
        Ok(started) => {
            info!(way = %started.facts().way, "uprobes are held by a process of their own");
            (way, Some(started))
        }
        Err(error) => {
            warn!("no uprobe can be attached: {error:#}");
            (way, None)
        }
    }
}

fn interval(config: &Config) -> tokio::time::Interval {
    let every = Duration::from_secs(config.agent.report_seconds.get());
    tokio::time::interval_at(tokio::time::Instant::now() + every, every)
}

async fn until_gone(said: &mut UnboundedReceiver<Event>) {
    while !matches!(said.recv().await, None | Some(Event::Gone)) {}
}

/// The worker as a process. Dropping it ends it.
struct Worker {
    child: Child,
    ended: bool,
}

impl Worker {
    fn start() -> anyhow::Result<(Self, Arc<Pipe>)> {
        bare::notice_ends_of_children()?;
        if let Err(error) = bare::close_descriptors_on_exec() {
            warn!(%error, "descriptors that this process was started with are open in the worker, too");
        }
        let (pipe, theirs) = Pipe::pair()?;
        // Nothing is handed down but the pipe, as standard input; the ring's descriptor comes through it.
        let child = Command::new("/proc/self/exe")
            .arg("worker")
            .stdin(Stdio::from(theirs))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_PID")
            .env_remove("WATCHDOG_USEC")
            .spawn()
            .context("the worker cannot be started")?;
        let ended = false;
        Ok((Self { child, ended }, Arc::new(pipe)))
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    /// `None` if it has not: what it does in the kernel may hang.
    fn ends_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let begin = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(None) if begin.elapsed() < limit => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(status) => {
                    self.ended = status.is_some();
                    return status;
                }
                Err(_) => return None,
            }
        }
    }

    /// It has ended, or is ended now; says how.
    fn failed(mut self, what: &str) -> anyhow::Result<ExitCode> {
        let status = self.end();
        let how = match status.map(|status| (status.code(), status.signal())) {
            Some((Some(code), _)) => format!("exit status {code}"),
            Some((_, Some(libc::SIGSYS))) => {
                "it made a system call that its filter answers by death (SIGSYS); the kernel's log has its number, \
                 audit as type 1326"
                    .to_owned()
            }
            Some((_, Some(signal))) => format!("signal {signal}"),
            _ => "it cannot be ended".to_owned(),
        };
        anyhow::bail!("{what}: {how}")
    }

    fn end(&mut self) -> Option<ExitStatus> {
        // It may be ending already.
        self.ends_within(Duration::from_secs(2)).or_else(|| {
            let _ = self.child.kill();
            self.ends_within(REAPED)
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A start that failed: the worker has not begun.
        if !self.ended && self.child.kill().is_ok() {
            self.ends_within(REAPED);
        }
    }
}

/// The thread that answers the worker.
struct Answering {
    pipe: Arc<Pipe>,
    live: Shared,
    counters: Counters,
    eyes: Direct,
    events: UnboundedSender<Event>,
}

impl Answering {
    fn run(mut self) {
        let pipe = Arc::clone(&self.pipe);
        let mut receiver = pipe.receiver();
        let mut complaints = 0;
        loop {
            let done = match receiver.receive::<Ask>() {
                Ok(ask) => self.answer(ask),
                Err(Error::Message(error)) => {
                    complaints += 1;
                    if complaints <= COMPLAINTS {
                        warn!(%error, "what the worker says is not understood");
                    }
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                if !matches!(error, Error::Gone) {
                    warn!(%error, "the worker cannot be talked to any more");
                }
                let _ = self.events.send(Event::Gone);
                return;
            }
        }
    }

    fn answer(&mut self, ask: Ask) -> Result<(), Error> {
        let (number, answer) = match ask {
            Ask::Ready { weaker } => {
                let _ = self.events.send(Event::Ready { weaker });
                return Ok(());
            }
            Ask::Alive => {
                let _ = self.events.send(Event::Alive);
                return Ok(());
            }
            Ask::Stop => {
                let _ = self.events.send(Event::Stop);
                return Ok(());
            }
            Ask::Waits => {
                let _ = self.events.send(Event::Waits);
                return Ok(());
            }
            Ask::Look(process) => {
                if let Some(live) = &*lock(&self.live) {
                    live.attacher.look(process);
                }
                return Ok(());
            }
            Ask::DropPoint(point) => {
                if let Some(live) = &*lock(&self.live) {
                    live.attacher.drop_point(point);
                }
                return Ok(());
            }
            Ask::Bridge { process, socket } => {
                self.bridge(Request::Want { process, socket });
                return Ok(());
            }
            Ask::BridgeOver { process, socket } => {
                self.bridge(Request::Over { process, socket });
                return Ok(());
            }
            Ask::Multiplexed(connection) => {
                if let Some(live) = &*lock(&self.live)
                    && let Err(error) = lock(&live.probes).multiplexed(connection)
                {
                    warn!(%error, "no more of a multiplexed connection can be copied");
                }
                return Ok(());
            }
            Ask::CgroupMade { path } => return cgroup_made(&self.live, &self.pipe, path),
            Ask::Find { number, request } => return self.find(number, request),
            Ask::Counters { number } => {
                let totals = self.counters.read();
                let values = totals.map(|totals| totals.values());
                let answer = Answer::Counters(values.map_err(|error| error.to_string()));
                (number, answer)
            }
            Ask::Running { number, pid } => (number, Answer::Running(self.eyes.running(pid))),
            Ask::StillRuns { number, pid, file } => {
                (number, Answer::StillRuns(self.eyes.still_runs(pid, file)))
            }
            Ask::UserName { number, uid } => {
                let name = self.eyes.user_name(uid);
                (number, Answer::UserName(name.as_deref().map(str::to_owned)))
            }
        };
        self.pipe.send(&Tell::Answer { number, answer })
    }

    /// Where the bridge is too busy the connection stays unread, or its probes until the next look.
    fn bridge(&self, request: Request) {
        if let Some(live) = &*lock(&self.live) {
            live.bridge.ask(request);
        }
    }

    fn find(&self, number: u64, request: executable::Request) -> Result<(), Error> {
        let landing = Arc::new(Told {
            pipe: Arc::clone(&self.pipe),
            number,
            known: Mutex::default(),
        });
        if !self.eyes.find_for(request, landing) {
            let found = Found {
                digest: Some(Err(HashAbsent::Busy)),
                ..Found::default()
            };
            return self.pipe.send(&Tell::Found { number, found });
        }
        Ok(())
    }
}

/// What a hashing thread finds goes to the worker: the path as soon as it is known, and at the end all of it.
struct Told {
    pipe: Arc<Pipe>,
    number: u64,
    known: Mutex<Found>,
}

impl Told {
    fn tell(&self, change: impl FnOnce(&mut Found)) {
        let mut known = lock(&self.known);
        change(&mut known);
        // Its end is noticed where it is heard.
        let _ = self.pipe.send(&Tell::Found {
            number: self.number,
            found: known.clone(),
        });
    }
}

impl Landing for Told {
    fn user_namespace(&self, inode: Option<u32>) {
        lock(&self.known).user_namespace = inode;
    }

    fn path(&self, path: String, deleted: bool) {
        self.tell(|known| {
            known.path = Some(path);
            known.deleted = deleted;
        });
    }

    fn settle(&self, digest: Result<Sha256, HashAbsent>) {
        self.tell(|known| known.digest = Some(digest));
    }
}
