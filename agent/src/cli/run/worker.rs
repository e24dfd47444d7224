//! The worker: drains the ring, runs the pipeline, delivers.
//!
//! Three threads: this one (ring and pipeline), the outputs', and the one that listens to the privileged process.
//!
//! Before it locks itself down it does what it may not do later: it binds the doors and reads the outputs' certificates.
//!
//! Invariant: nothing of the ring and no fingerprint key is read before [`lockdown::worker`] has returned.

use super::{Log, affordable::Rest, doors::Doors, leave_no_core, start};
use crate::cli::{outputs::Outputs, receivers};
use agent_common::{
    event::{Action, Hook},
    fingerprint::Keyring,
};
use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, getppid};
use std::{
    fs::File,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError, channel},
    },
    time::{Duration, Instant},
};
use tokentrail_agent::{
    config::{self, Config},
    coverage::door,
    credential::Observer,
    flow::Nanos,
    identity::{Clock, ProcessTable},
    kernel::{
        bare,
        decode::{Decoded, Decoder, now},
        points::Points,
        probes::{self, Ring, Totals},
        record::ProcessKey,
    },
    pipeline::{Demand, Numbering, Pipeline},
    privilege::{
        lockdown,
        message::{Ask, Settings, Tell},
        pipe::{Error, Pipe},
        remote::{Link, Order, Remote},
    },
    sink::remote::file::Source,
};
use tracing::{info, warn};

/// How long the ring is left alone while nothing asks to be read at once.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};
/// Time passes in the pipeline this often.
const TICK: Duration = Duration::from_millis(250);
/// The other process hears this often that the loop goes round, for the service manager's watchdog.
const ALIVE: Duration = Duration::from_secs(1);
/// How often orders are looked for while the ring is left alone.
const WAIT: Duration = Duration::from_millis(20);
/// How long what was seen may be delivered after the other process has gone.
const END: Duration = Duration::from_secs(120);
/// Records read in one go before time passes.
const BATCH: usize = 8_192;

/// The ring and everything behind it.
pub(super) struct Worker {
    asked: door::Asked,
    _doors: Doors,
    ring: Ring,
    pub(super) decoder: Decoder,
    pub(super) link: Arc<Link>,
    orders: Receiver<Order>,
    points: Points,
    pub(super) pipeline: Pipeline,
    pub(super) outputs: Outputs,
    /// Read from the ring.
    pub(super) records: u64,
    pub(super) reported: Totals,
    pub(super) reported_at: Nanos,
    report_every: Duration,
    pub(super) scope: Vec<String>,
    pub(super) hook: Hook,
    pub(super) key_ids: Vec<String>,
    pub(super) rest: Rest,
    /// Times that the probes were detached for a while.
    pub(super) rests: u64,
    /// The privileged process.
    agent: Option<Pid>,
    config: Config,
    keyring: Arc<Keyring>,
    log: Log,
}

/// The hidden command `worker`: its standard input is the pipe.
pub fn worker() -> anyhow::Result<ExitCode> {
    let agent = getppid();
    // A service manager tells every process of the unit to stop, a terminal all in the foreground; this one is told by
    // its parent, when the probes are detached.
    bare::ignore_stop_signals()?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    let pipe = Pipe::new(socket)
        .context("this command is for `run` alone: standard input is not its pipe")?;
    let (begin, descriptor) = match pipe.receiver().receive_with_descriptor::<Tell>() {
        Ok((Tell::Begin(begin), descriptor)) => (begin, descriptor),
        Ok(_) => anyhow::bail!("the first message is not the begin"),
        // The start failed, which it has said.
        Err(Error::Gone) => return Ok(ExitCode::FAILURE),
        Err(error) => return Err(error.into()),
    };
    let ring = probes::ring_of(descriptor)?;
    let config = config::parse(Path::new("configuration"), &begin.settings.config)?;
    let log = Log::start(&config);
    leave_no_core();
    let mut doors = Doors::open(&config.coverage)?;
    let remote = receivers::remote(&config, &Source::disk())?;
    let destinations: Vec<_> = remote
        .iter()
        .filter_map(|receiver| receiver.destination())
        .collect();
    let weaker = lockdown::worker(&start::lockdown(&config, &destinations, begin.account))
        .context("the worker cannot be locked down")?;

    let keyring = start::keyring(begin.settings.keys.as_ref())?;
    let link = Arc::new(Link::new(pipe));
    let points = Points::default();
    let (orders, ordered) = channel();
    std::thread::Builder::new().name("pipe".into()).spawn({
        let (link, points) = (Arc::clone(&link), points.clone());
        move || {
            // The other end is there as long as the pipeline is.
            link.listen(&points, |order| drop(orders.send(order)));
            // The other process is gone. An output that nobody reads does not hold this one for ever.
            std::thread::sleep(END);
            std::process::exit(1);
        }
    })?;
    let host = agent_common::event::Host::from(begin.host);
    let id = host.id.clone().unwrap_or_else(|| host.name.clone());
    let outputs = Outputs::start(&config, remote, &id, begin.epoch, {
        let link = Arc::clone(&link);
        move || {
            // Where nobody is there any more, the end is under way.
            let _ = link.send(&Ask::Stop);
        }
    })?;
    let eyes = Box::new(Remote::new(Arc::clone(&link)));
    let mut processes = ProcessTable::with(start::identity(&config), eyes)?;
    processes.scan().context("cannot list /proc")?;

    let pipeline = Pipeline::new(
        start::limits(&config),
        Observer::new(start::credential(&config), Arc::clone(&keyring)),
        processes,
        points.clone(),
        Clock::start(),
        begin.hook,
        Numbering::new(id, outputs.epoch(), host),
    );
    let asked = doors.serve()?;
    let worker = Worker {
        asked,
        _doors: doors,
        ring,
        decoder: Decoder::default(),
        link,
        orders: ordered,
        points,
        pipeline,
        outputs,
        records: 0,
        reported: Totals::default(),
        reported_at: now(),
        report_every: Duration::from_secs(config.agent.report_seconds.get()),
        scope: begin.scope,
        hook: begin.hook,
        key_ids: key_ids(&keyring),
        rest: Rest::default(),
        rests: 0,
        agent,
        config,
        keyring,
        log,
    };
    worker.link.send(&Ask::Ready { weaker })?;
    worker.work()
}

fn key_ids(keyring: &Keyring) -> Vec<String> {
    keyring
        .keys()
        .map(|(kid, _)| kid.as_str().to_owned())
        .collect()
}

impl Worker {
    fn work(mut self) -> anyhow::Result<ExitCode> {
        // Records wait in the ring until somebody looks at the files that they speak of.
        match self.orders.recv() {
            Ok(Order::Start) => {}
            _ => return Ok(ExitCode::FAILURE),
        }
        self.audit(Action::AgentStarted, None);
        self.outputs_lost();
        let (mut ticked, mut reported, mut alive) =
            (Instant::now(), Instant::now(), Instant::now());
        while self.goes_on() {
            let read = if self.rest.waits {
                0
            } else {
                self.drain(BATCH)
            };
            if ticked.elapsed() >= TICK {
                self.pipeline.tick(now());
                ticked = Instant::now();
            }
            if alive.elapsed() >= ALIVE {
                // The pipe says so, too, but not while a thread of the other process hangs in the kernel.
                if self.agent.is_some_and(bare::has_ended) {
                    break;
                }
                self.ask(&Ask::Alive);
                alive = Instant::now();
            }
            if reported.elapsed() >= self.report_every {
                self.report();
                reported = Instant::now();
            }
            self.pass_on();
            self.answer();
            if self.rest.waits {
                std::thread::sleep(WAIT);
            } else if read < BATCH {
                let mut fds = [PollFd::new(&self.ring, PollFlags::IN)];
                match poll(&mut fds, Some(&PAUSE)) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error).context("cannot wait for the ring"),
                }
            }
        }
        while self.drain(BATCH) > 0 {}
        self.stop()
    }

    /// Whoever asks for the ledger now.
    fn answer(&mut self) {
        if let Some(waiting) = self.asked.waiting() {
            let counters = self.named();
            let mut snapshot = self.pipeline.snapshot(now(), self.scope.clone(), counters);
            snapshot.sinks = self.outputs.sinks();
            waiting.answer(&snapshot);
        }
    }

    /// Does what it was told. False: to the end.
    fn goes_on(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Order::ScopeChanged(path)) => self.audit(Action::ScopeChanged, Some(path)),
                Ok(Order::Reload(settings, files)) => self.reload(&settings, files),
                Ok(Order::Budget { kept, shed }) => self.afford(kept, shed),
                Ok(Order::Detached { at, why }) => self.detached(at, &why),
                Ok(Order::Attaching) => self.attaching(),
                Ok(Order::Attached { at }) => self.attached(at),
                Ok(Order::Start) => {}
                Ok(Order::Stop) => return false,
                Ok(Order::Gone) | Err(TryRecvError::Disconnected) => {
                    warn!("the privileged process is gone: what is left is given out");
                    return false;
                }
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    pub(super) fn drain(&mut self, most: usize) -> usize {
        let mut read = 0;
        while read < most {
            let Some(item) = self.ring.next() else { break };
            let decoded = self.decoder.decode(&item);
            drop(item);
            read += 1;
            self.records += 1;
            match decoded {
                Decoded::Record(record) => {
                    self.pipeline.record(record);
                    // What it demands should be there before the next bytes pass, not after the next thousand records.
                    self.demand();
                }
                Decoded::Cgroup { path, .. } => {
                    self.ask(&Ask::CgroupMade { path });
                }
                Decoded::Nothing => {}
            }
        }
        read
    }

    pub(super) fn ask(&self, ask: &Ask) -> bool {
        match self.link.send(ask) {
            Ok(()) => true,
            // Said where it was heard.
            Err(Error::Gone) => false,
            Err(error) => {
                warn!(%error, "the privileged process could not be asked");
                false
            }
        }
    }

    fn look(&self, process: ProcessKey) {
        // Here first, so that the answer cannot come before the question.
        self.points.asked(process);
        if !self.ask(&Ask::Look(process)) {
            self.points.answered(process);
        }
    }

    /// Events to the outputs, demands to the other process.
    pub(super) fn pass_on(&mut self) {
        self.demand();
        for event in self.pipeline.take_events() {
            self.outputs.send(event);
        }
    }

    fn demand(&mut self) {
        for demand in self.pipeline.take_demands() {
            match demand {
                Demand::Look(process) => self.look(process),
                Demand::Bridge { process, socket } => {
                    self.ask(&Ask::Bridge { process, socket });
                }
                Demand::BridgeOver { process, socket } => {
                    self.ask(&Ask::BridgeOver { process, socket });
                }
                Demand::Multiplexed(connection) => {
                    self.ask(&Ask::Multiplexed(connection));
                }
                Demand::DropPoint(point) => {
                    self.ask(&Ask::DropPoint(point));
                }
            }
        }
    }

    /// What may change does; what was refused before stays.
    fn reload(&mut self, settings: &Settings, files: Vec<(PathBuf, File)>) {
        let read = config::parse(Path::new("configuration"), &settings.config)
            .map_err(anyhow::Error::from)
            .and_then(|config| {
                let keyring = match &settings.keys {
                    Some(_) => start::keyring(settings.keys.as_ref())?,
                    // Another key of this run would join with nothing of it.
                    None => Arc::clone(&self.keyring),
                };
                let remote = receivers::remote(&config, &Source::passed(files))?;
                Ok((config, keyring, remote))
            });
        let (config, keyring, remote) = match read {
            Ok(read) => read,
            Err(error) => return warn!("the configuration stays as it was: {error:#}"),
        };
        let changed = self.config.changes(&config).join(" ");
        self.pipeline.reconfigure(
            start::limits(&config),
            Observer::new(start::credential(&config), Arc::clone(&keyring)),
        );
        self.outputs.replace(remote);
        self.report_every = Duration::from_secs(config.agent.report_seconds.get());
        self.log.change(&config);
        self.key_ids = key_ids(&keyring);
        (self.config, self.keyring) = (config, keyring);
        info!(changed, "the worker goes on with the new configuration");
        self.audit(Action::ConfigChanged, Some(changed));
    }
}
