//! Putting one point into one process: breakpoints for all its threads, or a uprobe that the keeper holds, and what the
//! probes must know of them.
//!
//! Invariant: the probes know a breakpoint before it is switched on, and nothing of one that is not attached.
//! Invariant: the process is the one that was meant when its breakpoints are switched on: its start is looked at after
//! they were made, and made ones belong to threads, not to numbers.

use super::{
    breakpoint::{At, Breakpoint},
    findings::Known,
    kept::{Done, Job, Kept},
    maps::AttachMaps,
    places::{Passed, PlacesTable, Taken},
    processes::{Attachment, Processes, Spot},
};
use crate::{
    flow::Nanos,
    kernel::{
        decode::now,
        keeper::{self, AttachmentId, Keeper, Program},
        keylog::PointKind,
        owner::Owner,
        points::Unattached,
        record::{PointId, ProcessKey},
        scope::start_ticks,
    },
};
use agent_common::abi::{self, TICK};
use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};
use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs, io,
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Sender, channel},
    },
};
use tracing::{debug, warn};

/// Descriptors that are left for everything else.
const OTHERS: usize = 256;
/// The part of all descriptors, and of all uprobes, that one owner's processes may take.
const SHARE: usize = 4;
/// How often threads are listed again, to find those that were made meanwhile.
const ROUNDS: usize = 16;

/// Why a point was not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The process has ended, or is another.
    Gone,
    For(Unattached),
}

/// How key-log points are attached: `capture.points` in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Breakpoints where they work, and uprobes where they are refused.
    Auto {
        breakpoints: bool,
    },
    Breakpoints,
    Uprobes,
    /// Uprobes for every process of the host that has the file mapped.
    HostUprobes,
    /// Nothing is attached.
    Off,
}

impl Way {
    fn breakpoints(self) -> bool {
        matches!(self, Self::Breakpoints | Self::Auto { breakpoints: true })
    }

    /// Whether a uprobe may be tried where a breakpoint was refused for this.
    fn falls_back(self, why: Unattached) -> bool {
        matches!(self, Self::Auto { .. })
            && matches!(
                why,
                Unattached::NoBreakpoint | Unattached::Limit | Unattached::Refused
            )
    }
}

/// What keeps a point attached.
#[derive(Debug)]
pub enum Held {
    Breakpoint {
        /// Dropped where that takes nobody's time.
        _breakpoint: Breakpoint,
    },
    /// The keeper has it. `host`: for every process.
    Uprobe { id: AttachmentId, host: bool },
}

/// What came of a request.
pub enum Attached {
    Since(Nanos),
    /// The keeper was asked: [`Attachments::kept`] has the answer later.
    Asked {
        /// Not while an earlier answer is awaited.
        first: bool,
        /// Why there is no breakpoint.
        refused: Unattached,
    },
}

/// A request to the keeper that has no answer yet.
struct Asked {
    owner: Owner,
    /// The job's.
    number: u64,
}

/// Descriptors for the thread that closes them.
struct Closing {
    owner: Owner,
    uprobes: usize,
    held: Vec<Held>,
}

/// A point in a process.
#[derive(Clone, Copy)]
pub struct Target {
    pub process: ProcessKey,
    pub file: abi::File,
    pub address: u64,
}

/// What is attached, and what it takes to attach more.
pub struct Attachments {
    pub processes: Processes<Held>,
    pub maps: AttachMaps,
    way: Way,
    places: PlacesTable,
    kept: Option<Kept>,
    /// What the keeper was asked for and has not answered.
    asked: HashMap<(ProcessKey, PointId, u64), Asked>,
    /// Number of the last job.
    jobs: u64,
    /// Closing a breakpoint takes up to half a millisecond, detaching a uprobe tens of them: not for the thread that
    /// attaches.
    closing: Sender<Closing>,
    /// Uprobes that are being detached, by owner.
    leaving: Arc<Mutex<HashMap<Owner, usize>>>,
}

impl Attachments {
    /// # Errors
    /// If there can be no thread.
    pub fn new(maps: AttachMaps, way: Way, kept: Option<Kept>) -> io::Result<Self> {
        let (closing, closed) = channel::<Closing>();
        let leaving: Arc<Mutex<HashMap<Owner, usize>>> = Arc::default();
        let gone = Arc::clone(&leaving);
        let keeper = kept.as_ref().map(|kept| Arc::clone(kept.keeper()));
        std::thread::Builder::new()
            .name("detacher".into())
            .spawn(move || {
                for Closing {
                    owner,
                    uprobes,
                    held,
                } in closed
                {
                    detach(held, keeper.as_deref());
                    let mut leaving = gone.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Entry::Occupied(mut count) = leaving.entry(owner) {
                        *count.get_mut() -= uprobes.min(*count.get());
                        if *count.get() == 0 {
                            count.remove();
                        }
                    }
                }
            })?;
        Ok(Self {
            processes: Processes::default(),
            maps,
            way,
            places: PlacesTable::default(),
            kept,
            asked: HashMap::new(),
            jobs: 0,
            leaving,
            closing,
        })
    }

    /// Attaches a point to a process.
    ///
    /// # Errors
    /// Why it was not: nothing is left behind then.
    pub fn attach(&mut self, target: Target, known: &Known) -> Result<Attached, Refused> {
        let same = |attachment: &&Attachment<Held>| {
            attachment.spot.point == known.id && attachment.spot.address == target.address
        };
        if let Some(attached) = self.processes.of(target.process).find(same) {
            return Ok(Attached::Since(attached.since));
        }
        let refused = if self.way.breakpoints() {
            match self.breakpoint(target, known) {
                Ok(since) => return Ok(Attached::Since(since)),
                Err(Refused::For(why)) if self.way.falls_back(why) && !known.is_watched() => why,
                Err(refused) => return Err(refused),
            }
        } else {
            Unattached::Refused
        };
        self.uprobe(target, known, refused)
    }

    /// Whether only uprobes are attached.
    pub fn is_uprobes_alone(&self) -> bool {
        matches!(self.way, Way::Uprobes | Way::HostUprobes)
    }

    /// Attaches by a uprobe what stands in for a point that takes none, where that was `refused`.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_instead(
        &mut self,
        target: Target,
        known: &Known,
        refused: Unattached,
    ) -> Result<Attached, Refused> {
        if self.way.falls_back(refused) {
            self.uprobe(target, known, refused)
        } else {
            Err(Refused::For(refused))
        }
    }

    /// Attaches a point that a search may prove wrong: by a breakpoint or not at all, since that changes nobody's text.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_unproven(&mut self, target: Target, known: &Known) -> Result<Attached, Refused> {
        if !self.way.breakpoints() {
            return Err(Refused::For(Unattached::Refused));
        }
        self.breakpoint(target, known).map(Attached::Since)
    }

    fn breakpoint(&mut self, target: Target, known: &Known) -> Result<Nanos, Refused> {
        let process = target.process;
        if !self.processes.has_room(process) {
            return Err(Refused::For(Unattached::NoBreakpoint));
        }
        let owner = Owner::of(process.pid);
        let room = self.room(&owner);
        if room == 0 {
            return Err(Refused::For(Unattached::Limit));
        }
        let spot = self.spot(target, known)?;
        let made = self.make(process, known, spot, room);
        let breakpoints = match made {
            Ok(breakpoints) => breakpoints,
            Err(refused) => {
                let before = self.processes.breakpoints(process, None);
                self.tell(process, before);
                self.give_back(spot.places);
                return Err(refused);
            }
        };
        let held = breakpoints
            .into_iter()
            .map(|_breakpoint| Held::Breakpoint { _breakpoint });
        let since = now();
        self.processes
            .add(process, spot, true, held.collect(), owner, since);
        Ok(since)
    }

    /// `refused`: why there is no breakpoint.
    fn uprobe(
        &mut self,
        target: Target,
        known: &Known,
        refused: Unattached,
    ) -> Result<Attached, Refused> {
        let program = match known.point.kind {
            PointKind::KeyLog => Program::KeylogPoint,
            PointKind::Placed(_) => Program::KeylogPlaced,
            PointKind::KdfDerive => Program::KdfDerive,
        };
        if self.kept.is_none() || self.way == Way::Off || known.is_watched() {
            return Err(Refused::For(refused));
        }
        let host = self.way == Way::HostUprobes;
        if host {
            let same = |attachment: &Attachment<Held>| attachment.spot.point == known.id;
            if let Some(since) = self.processes.join(target.process, same) {
                return Ok(Attached::Since(since));
            }
        }
        let name = (target.process, known.id, target.address);
        if self.asked.contains_key(&name) {
            let first = false;
            return Ok(Attached::Asked { first, refused });
        }
        let owner = Owner::of(target.process.pid);
        if !self.has_uprobes_left(&owner, known.id) {
            return Err(Refused::For(Unattached::Limit));
        }
        let spot = self.spot(target, known)?;
        self.jobs += 1;
        let number = self.jobs;
        let job = Job {
            number,
            process: target.process,
            owner: owner.clone(),
            spot,
            program,
            file: target.file,
            file_offset: known.point.file_offset,
            host,
            refused,
        };
        if !self.kept.as_ref().is_some_and(|kept| kept.ask(job)) {
            self.give_back(spot.places);
            return Err(Refused::For(Unattached::Limit));
        }
        self.asked.insert(name, Asked { owner, number });
        let first = true;
        Ok(Attached::Asked { first, refused })
    }

    /// Whether this owner's share of what the keeper can hold has room for one more: of uprobes, and of files.
    fn has_uprobes_left(&self, owner: &Owner, point: PointId) -> bool {
        let way = self.kept.as_ref().map(|kept| kept.keeper().facts().way);
        let most = match way {
            Some(keeper::Way::Multi) => keeper::ATTACHMENTS,
            _ => keeper::EVENTS,
        };
        let asked = self.asked.iter().filter(|(_, asked)| asked.owner == *owner);
        let asked = asked.map(|((_, point, _), _)| *point);
        let mut points: HashSet<PointId> = HashSet::from([point]);
        let mut count = self.leaving().get(owner).copied().unwrap_or(0);
        for point in asked.chain(self.processes.uprobes_of(owner)) {
            points.insert(point);
            count += 1;
        }
        count < most / SHARE && points.len() <= keeper::FILES / SHARE
    }

    fn leaving(&self) -> MutexGuard<'_, HashMap<Owner, usize>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the keeper's next answer: process, point, its address, and what came of it. Answers to processes that have
    /// left are taken back here.
    pub fn kept(&mut self) -> Option<(ProcessKey, PointId, u64, Result<Nanos, Refused>)> {
        loop {
            let done = self.kept.as_ref()?.next()?;
            let name = (done.job.process, done.job.spot.point, done.job.spot.address);
            let number = self.asked.get(&name).map(|asked| asked.number);
            if number == Some(done.job.number) {
                self.asked.remove(&name);
                return Some((name.0, name.1, name.2, self.take(done)));
            }
            // The process has left meanwhile.
            self.give_back(done.job.spot.places);
            if let Ok(attachment) = done.result {
                let held = Held::Uprobe {
                    id: attachment.id,
                    host: done.job.host,
                };
                self.close(done.job.owner, vec![held]);
            }
        }
    }

    fn take(&mut self, done: Done) -> Result<Nanos, Refused> {
        let Done { job, result } = done;
        let process = job.process;
        match result {
            Ok(attachment) => {
                let id = attachment.id;
                let held = vec![Held::Uprobe { id, host: job.host }];
                let since = now();
                if start_ticks(process.pid) == Some(process.start / TICK) {
                    self.processes
                        .add(process, job.spot, false, held, job.owner, since);
                    Ok(since)
                } else {
                    self.give_back(job.spot.places);
                    self.close(job.owner, held);
                    Err(Refused::Gone)
                }
            }
            // That a file takes no uprobe is no news where that was to be the second choice.
            Err(Refused::For(Unattached::Executable | Unattached::NoLease))
                if self.way.breakpoints() =>
            {
                self.give_back(job.spot.places);
                Err(Refused::For(job.refused))
            }
            Err(refused) => {
                self.give_back(job.spot.places);
                Err(refused)
            }
        }
    }

    /// Another thread closes it, and only then it is its owner's no more.
    fn close(&self, owner: Owner, held: Vec<Held>) {
        let is_uprobe = |held: &&Held| matches!(held, Held::Uprobe { .. });
        let uprobes = held.iter().filter(is_uprobe).count();
        if uprobes > 0 {
            *self.leaving().entry(owner.clone()).or_default() += uprobes;
        }
        // The other thread takes from it to the end.
        let _ = self.closing.send(Closing {
            owner,
            uprobes,
            held,
        });
    }

    /// The keeper has lost these: gives the processes and points that are without them now.
    pub fn lost(&mut self, ids: &[AttachmentId]) -> Vec<(ProcessKey, PointId)> {
        let is_lost = |attachment: &Attachment<Held>| {
            attachment
                .descriptors
                .iter()
                .any(|held| matches!(held, Held::Uprobe { id, .. } if ids.contains(id)))
        };
        let mut without = Vec::new();
        for process in self.processes.keys() {
            let of = self.processes.of(process);
            let lost = of.filter(|attachment| is_lost(attachment));
            without.extend(lost.map(|attachment| (process, attachment.spot.point)));
        }
        let (over, _) = self.processes.remove(is_lost);
        for attachment in over {
            self.give_back(attachment.spot.places);
        }
        without
    }

    /// Closes what belonged to these.
    fn detach(&mut self, over: Vec<Attachment<Held>>) {
        for attachment in over {
            self.give_back(attachment.spot.places);
            self.close(attachment.owner, attachment.descriptors);
        }
    }

    /// Detaches these points from one process, and from those that have inherited them.
    pub fn take_back(&mut self, pid: u32, fits: impl Fn(PointId) -> bool) {
        let of = self.processes.keys();
        let process = of.into_iter().find(|process| process.pid == pid);
        let wrong: HashSet<PointId> = process
            .into_iter()
            .flat_map(|process| self.processes.of(process))
            .map(|attachment| attachment.spot.point)
            .filter(|point| fits(*point))
            .collect();
        let Some(process) = process.filter(|_| !wrong.is_empty()) else {
            return;
        };
        self.detach_all(|attachment| {
            wrong.contains(&attachment.spot.point) && attachment.is_of(process)
        });
    }

    /// Detaches what fits from every process.
    pub fn detach_all(&mut self, fits: impl Fn(&Attachment<Held>) -> bool) {
        let (over, of) = self.processes.remove(fits);
        for process in of {
            let left = self.processes.breakpoints(process, None);
            self.tell(process, left);
        }
        self.detach(over);
    }

    /// Nothing is attached any more, nor what the keeper was asked for and has not answered.
    pub fn rest(&mut self) {
        self.asked.clear();
        if let Some(kept) = &self.kept {
            kept.drop_up_to(self.jobs);
        }
        self.detach_all(|_| true);
    }

    /// The process has ended or executes another program. Gives how many answers it has waited for.
    pub fn leave(&mut self, process: ProcessKey) -> usize {
        let before = self.asked.len();
        self.asked.retain(|(asked, ..), _| *asked != process);
        let over = self.processes.leave(process);
        self.detach(over);
        before - self.asked.len()
    }

    /// The process is no longer in scope. What it shares with others that are stays attached, and nothing of it is read.
    /// Gives how many answers it has waited for.
    pub fn leave_scope(&mut self, process: ProcessKey) -> usize {
        let waited = self.leave(process);
        // The probe has removed them; they may have been told since.
        self.tell(process, self.processes.breakpoints(process, None));
        waited
    }

    /// A child was forked at `time`. Gives what it has not: point and address.
    pub fn fork(
        &mut self,
        parent: ProcessKey,
        child: ProcessKey,
        time: Nanos,
    ) -> Vec<(PointId, u64)> {
        let missed = self.processes.fork(parent, child, time, |held| match held {
            Held::Breakpoint { .. } => true,
            Held::Uprobe { host, .. } => *host,
        });
        let asked = self.asked.keys().filter(|(asked, ..)| *asked == parent);
        let asked = asked.map(|(_, point, address)| (*point, *address));
        missed.into_iter().chain(asked).collect()
    }

    /// Descriptors that this owner's processes may still take.
    fn room(&self, owner: &Owner) -> usize {
        // Asked for each time: somebody may lower it while the agent runs.
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let most = limit.saturating_sub(OTHERS.min(limit / 2));
        let share = (most / SHARE).saturating_sub(self.processes.descriptors_of(owner));
        most.saturating_sub(self.processes.descriptors()).min(share)
    }

    /// Where a point is in a process; the probes are told of what it passes.
    fn spot(&mut self, target: Target, known: &Known) -> Result<Spot, Refused> {
        let places = match Passed::of(&known.point) {
            None => NO_PLACES,
            Some(passed) => match self.places.take(passed) {
                None => return Err(Refused::For(Unattached::Limit)),
                Some(Taken::Known(key)) => key,
                Some(Taken::New(key)) => {
                    if let Err(error) = self.maps.set_places(key, &passed) {
                        warn!(%error, "the probes cannot be told what a point passes");
                        self.places.give_back(key);
                        return Err(Refused::For(Unattached::Refused));
                    }
                    key
                }
            },
        };
        Ok(Spot {
            point: known.id,
            address: target.address,
            code: known.code_at(target.address),
            places,
        })
    }

    fn give_back(&mut self, places: u32) {
        if places != NO_PLACES
            && let Some(key) = self.places.give_back(places)
        {
            self.maps.remove_places(key);
        }
    }

    fn make(
        &mut self,
        process: ProcessKey,
        known: &Known,
        spot: Spot,
        room: usize,
    ) -> Result<Vec<Breakpoint>, Refused> {
        let value = self.processes.breakpoints(process, Some(spot.as_kernel()));
        if let Err(error) = self.maps.set_breakpoints(process.pid, value) {
            debug!(%error, "the probes cannot be told of more processes");
            return Err(Refused::For(Unattached::Limit));
        }
        let Some(programs) = self.maps.programs() else {
            return Err(Refused::For(Unattached::Refused));
        };
        let program = programs.of(known.point.kind);
        let at = if known.is_watched() {
            At::Word(spot.address)
        } else {
            At::Instruction(spot.address)
        };
        let breakpoints = of_threads(process.pid, at, program, room)?;
        if start_ticks(process.pid) != Some(process.start / TICK) {
            return Err(Refused::Gone);
        }
        for breakpoint in &breakpoints {
            if let Err(error) = breakpoint.enable() {
                warn!(%error, "a breakpoint cannot be switched on");
                return Err(Refused::For(Unattached::Refused));
            }
        }
        Ok(breakpoints)
    }

    fn tell(&mut self, process: ProcessKey, value: abi::Breakpoints) {
        if let Err(error) = self.maps.set_breakpoints(process.pid, value) {
            // Hits that the probes know nothing of are counted, and nothing is read.
            warn!(%error, "the probes cannot be told of a process's breakpoints");
        }
    }
}

fn detach(held: Vec<Held>, keeper: Option<&Keeper>) {
    let ids: Vec<AttachmentId> = held
        .iter()
        .filter_map(|held| match held {
            Held::Uprobe { id, .. } => Some(*id),
            Held::Breakpoint { .. } => None,
        })
        .collect();
    if let Some(keeper) = keeper
        && !ids.is_empty()
        && let Err(error) = keeper.detach(&ids)
    {
        warn!(%error, "uprobes are not detached");
    }
}

/// What stands in the place of a key of a point that needs none.
const NO_PLACES: u32 = u32::MAX;

/// A breakpoint for each thread that there is: those that are made later inherit theirs.
fn of_threads(
    pid: u32,
    at: At,
    program: BorrowedFd<'_>,
    room: usize,
) -> Result<Vec<Breakpoint>, Refused> {
    let mut seen = HashSet::new();
    let mut made = Vec::new();
    let mut refused = None;
    for _ in 0..ROUNDS {
        let threads = threads(pid);
        let before = seen.len();
        for thread in threads {
            if !seen.insert(thread) {
                continue;
            }
            if made.len() >= room {
                return Err(Refused::For(Unattached::Limit));
            }
            match Breakpoint::new(thread, at, program) {
                Ok(breakpoint) => made.push(breakpoint),
                // It has ended.
                Err(Errno::SRCH) => {}
                Err(errno) => refused = Some(errno),
            }
        }
        // A thread that was made between the list and its maker's breakpoint has inherited none. One that was made right
        // after it has two now: its hits are told twice, which is one secret more of the same.
        if seen.len() == before {
            break;
        }
    }
    match refused {
        // No thread may be left out for want of a descriptor: it would be one of many, and nobody would know.
        Some(Errno::MFILE | Errno::NFILE) => Err(Refused::For(Unattached::Descriptors)),
        // A debugger may hold the slots of single threads.
        _ if !made.is_empty() => Ok(made),
        Some(Errno::NOSPC) => Err(Refused::For(Unattached::NoBreakpoint)),
        Some(errno) => {
            debug!(%errno, pid, "a breakpoint is refused");
            Err(Refused::For(Unattached::Refused))
        }
        None => Err(Refused::Gone),
    }
}

fn threads(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"));
    let names = entries.into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}
