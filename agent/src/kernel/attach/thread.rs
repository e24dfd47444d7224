//! The attacher's loop.
//!
//! Order matters in one place: what the ring holds is read before anything else is done, so that a process that has
//! ended, forked or executed another program meanwhile is known to have.
//!
//! [`searching`] asks what files hold, [`attaching`] attaches by it.
//!
//! Invariant: bounded: known files and pending processes are forgotten, oldest first.

mod attaching;
mod searching;

use super::{
    Bell, Fallback, Request, Results, Start,
    ahead::{Ahead, Ticket},
    breakpoint::Breakpoint,
    findings::{Findings, Known},
    kept::Kept,
    look,
    point::{Attachments, Target},
    record::{Code, Part, Record},
};
use crate::{
    flow::Nanos,
    kernel::{
        decode::now,
        keeper::Lost,
        keylog::{Class, Searches, discover},
        owner::Owner,
        points::{Points, SearchCounts, State, Unattached},
        record::{PointId, ProcessKey},
        scope::start_ticks,
    },
};
use agent_common::abi::{self, TICK};
use lru::LruCache;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    io,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    time::{Duration, Instant},
};
use tracing::{debug, info, warn};

/// Files whose findings are kept.
const FILES: NonZeroUsize = NonZeroUsize::new(32_768).unwrap();
/// Processes that wait for a search.
const PENDING: usize = 16_384;
/// Files of one process that it waits for.
const PENDING_FILES: usize = 512;
/// How often the ring is looked at where no record asks for it.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};
/// The same where a process was moved into the scope.
const SHORT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 150_000,
};
/// How often processes are looked for that have ended without a word.
const SWEEP: Duration = Duration::from_secs(5);
/// How long a process that was moved into the scope has to execute another program, which it does where it was moved to
/// begin one there.
const MOVED: Duration = Duration::from_micros(300);
/// Processes that were moved and are not looked at yet.
const MOVES: usize = 4_096;
/// Longest that the start waits for searches.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where in a process a file's code is.
#[derive(Clone, Debug)]
enum Place {
    Program {
        code: Code,
        /// What exec was asked for.
        name: PathBuf,
    },
    Parts(Vec<Part>),
}

impl Place {
    fn is_program(&self) -> bool {
        matches!(self, Self::Program { .. })
    }

    /// The file's path, as the process sees it.
    fn path(&self, pid: u32) -> Option<PathBuf> {
        match self {
            Self::Program { .. } => look::program(pid),
            Self::Parts(parts) => look::path_at(pid, parts.first().map_or(0, |part| part.address)),
        }
    }

    fn address_of(&self, known: &Known, findings: &Findings) -> Option<u64> {
        let code = match self {
            Self::Program { code, .. } => {
                let bias = code.start.wrapping_sub(findings.code_start?);
                let address = known.point.virtual_address.wrapping_add(bias);
                (code.start..code.end).contains(&address).then_some(address)
            }
            Self::Parts(parts) => parts
                .iter()
                .find_map(|part| part.address_of(known.point.file_offset)),
        };
        code.map(|code| known.watched_at(code))
    }
}

/// A search that was asked for.
#[derive(Default)]
struct Asked {
    /// `None`: a file that no process was met with.
    file: Option<abi::File>,
    /// The file was opened by this name, for its next use: its process has ended.
    named: bool,
    /// Where a program may be found when its process has ended before it was opened.
    name: Option<(PathBuf, Owner)>,
}

impl Asked {
    fn of(file: abi::File) -> Self {
        Self {
            file: Some(file),
            ..Self::default()
        }
    }
}

struct Waiting {
    start: Nanos,
    places: Vec<(abi::File, Place)>,
}

pub(super) struct Thread {
    attachments: Attachments,
    /// Spares all others a wait; not there where there are no breakpoints, nor in a rest.
    first: Option<Breakpoint>,
    points: Points,
    fallback: Fallback,
    fallback_wanted: bool,
    own: Vec<u32>,
    searches: Arc<Searches>,
    ahead: Option<Ahead>,
    asked_ahead: HashMap<u64, Ticket>,
    done_ahead: u64,
    lost_ahead: u64,
    results: Results,
    requests: Receiver<Request>,
    lost_uprobes: Option<Receiver<Lost>>,
    drops: Arc<Mutex<BTreeSet<PointId>>>,
    resting: Arc<AtomicBool>,
    known: LruCache<abi::File, Arc<Findings>>,
    /// What a file is likely to hold, by [`likeness`]: what was found last.
    likely: LruCache<abi::File, Arc<Findings>>,
    asked: HashMap<u64, Asked>,
    searching: HashMap<abi::File, HashSet<u32>>,
    pending: HashMap<u32, Waiting>,
    /// Processes that were moved into the scope, to be looked at when nothing else is to be done.
    moved: VecDeque<(Instant, ProcessKey)>,
    next_token: u64,
    next_point: u32,
    done: u64,
    told: SearchCounts,
    lost: u64,
    swept: Instant,
    /// Attached since the last sweep: whether their code is still where it was is looked at once.
    fresh: Vec<ProcessKey>,
}

impl Thread {
    pub fn new(
        start: Start,
        searches: Arc<Searches>,
        results: Results,
        requests: Receiver<Request>,
        drops: Arc<Mutex<BTreeSet<PointId>>>,
        resting: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let kept = match start.keeper {
            Some(keeper) => Some(Kept::start(keeper, results.bell.clone())?),
            None => None,
        };
        Ok(Self {
            attachments: Attachments::new(start.maps, start.way, kept)?,
            first: None,
            lost_uprobes: start.lost,
            points: start.points,
            fallback: start.fallback,
            fallback_wanted: start.fallback == Fallback::Only,
            own: start.own,
            searches,
            ahead: start.search_ahead.then(|| Ahead::new(results.bell.clone())),
            asked_ahead: HashMap::new(),
            done_ahead: 0,
            lost_ahead: 0,
            results,
            requests,
            drops,
            resting,
            known: LruCache::new(FILES),
            likely: LruCache::new(FILES),
            asked: HashMap::new(),
            searching: HashMap::new(),
            pending: HashMap::new(),
            moved: VecDeque::new(),
            next_token: 0,
            next_point: 0,
            done: 0,
            told: SearchCounts::default(),
            lost: 0,
            swept: Instant::now(),
            fresh: Vec::new(),
        })
    }

    /// Looks at these processes and the usual libraries, and waits a while for what is found.
    pub fn begin(&mut self, processes: &[ProcessKey]) {
        for process in processes {
            self.look(*process);
        }
        for path in discover::usual_libraries() {
            let owner = Owner::named("");
            self.ask(Asked::default(), owner, Class::Prompt, move || {
                discover::open_regular(&path)
            });
        }
        let until = Instant::now() + PATIENCE;
        while !self.asked.is_empty() && !self.is_resting() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                info!(
                    searches = self.asked.len(),
                    "some files are still being searched"
                );
                break;
            }
            self.wait(Timespec {
                tv_sec: 0,
                tv_nsec: 50_000_000,
            });
            self.drain();
            self.take_results();
            self.take_kept();
            self.ask_ahead();
        }
        self.tell_searches();
    }

    pub fn run(mut self) {
        self.first = Breakpoint::never_hit().ok();
        loop {
            self.wait(if self.moved.is_empty() { PAUSE } else { SHORT });
            self.drain();
            self.look_at_moved();
            self.take_results();
            self.take_kept();
            self.ask_ahead();
            self.take_drops();
            if !self.take_requests() {
                return;
            }
            self.sweep();
            self.tell_searches();
        }
    }

    fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
    }

    fn wait(&self, longest: Timespec) {
        let bell: &Bell = &self.results.bell;
        let mut ready = [
            PollFd::new(&self.attachments.maps, PollFlags::IN),
            PollFd::new(&*bell.0, PollFlags::IN),
        ];
        if let Err(error) = poll(&mut ready, Some(&longest))
            && error != rustix::io::Errno::INTR
        {
            warn!(%error, "the attacher cannot wait");
            std::thread::sleep(Duration::from_millis(100));
        }
        bell.hush();
    }

    fn drain(&mut self) {
        while let Some(record) = self.attachments.maps.next(Record::decode) {
            match record {
                Some(record) if !self.is_resting() => self.record(record),
                Some(_) => {}
                None => debug!("a record of the probes is not understood"),
            }
        }
    }

    fn record(&mut self, record: Record) {
        match record {
            Record::Executed {
                process,
                time,
                file,
                code,
                name,
            } => {
                self.attachments.leave(process);
                self.pending.remove(&process.pid);
                self.forget_move(process);
                if self.own.contains(&process.pid) {
                    return;
                }
                self.points.executed(process);
                let asked = name.clone();
                self.met(process, file, Place::Program { code, name }, None);
                self.points.looked_at(process, time);
                if let Some(ahead) = &mut self.ahead {
                    ahead.met(process, Some(asked));
                }
            }
            Record::Mapped {
                process,
                file,
                part,
            } => {
                if self.own.contains(&process.pid) {
                    return;
                }
                if let Some(ahead) = &mut self.ahead
                    && !self.known.contains(&file)
                {
                    ahead.mapped(process, part);
                }
                self.met(process, file, Place::Parts(vec![part]), None);
            }
            Record::Made(made) => {
                if let Some(ahead) = &mut self.ahead {
                    ahead.made(made);
                }
            }
            Record::Forked {
                parent,
                child,
                time,
            } => self.forked(parent, child, time),
            Record::Moved {
                process,
                inside: true,
            } => {
                if self.moved.len() < MOVES && !self.own.contains(&process.pid) {
                    self.moved.push_back((Instant::now(), process));
                }
            }
            Record::Moved {
                process,
                inside: false,
            } => {
                let waited = self.attachments.leave_scope(process);
                self.forget_move(process);
                self.ended_before(process, waited);
            }
            Record::Exited { process } => {
                let waited = self.attachments.leave(process);
                self.forget_move(process);
                self.ended_before(process, waited);
            }
        }
    }

    /// Takes the process out of those that wait for a look after a move.
    fn forget_move(&mut self, process: ProcessKey) {
        self.moved.retain(|(_, moved)| *moved != process);
    }

    /// Looks at one process that was moved into the scope and runs what it ran before. Whoever begins a program comes first.
    fn look_at_moved(&mut self) {
        let is_due = |(since, _): &(Instant, ProcessKey)| since.elapsed() >= MOVED;
        if let Some((_, process)) = self.moved.pop_front_if(|moved| is_due(moved))
            && !self.is_resting()
            && self.attachments.processes.of(process).next().is_none()
        {
            self.look(process);
        }
    }

    /// The process has ended, or left the scope, before all its files were searched: nobody is to take it for one without
    /// a library. `waited`: for so many answers of the keeper.
    fn ended_before(&mut self, process: ProcessKey, waited: usize) {
        let pending = self.pending.remove(&process.pid);
        let places = pending
            .filter(|waiting| waiting.start == process.start)
            .map_or(0, |waiting| waiting.places.len());
        if places > 0 {
            self.unsearched(process, Unattached::Unsearched);
        }
        for _ in 0..places + waited {
            self.points.answered(process);
        }
    }

    fn forked(&mut self, parent: ProcessKey, child: ProcessKey, time: Nanos) {
        self.points.forked(parent, child);
        if let Some(ahead) = &mut self.ahead {
            ahead.forked(parent, child);
        }
        if let Some(waiting) = self.pending.get(&parent.pid)
            && waiting.start == parent.start
            && self.pending.len() < PENDING
        {
            let places = waiting.places.clone();
            for (file, _) in &places {
                if let Some(pids) = self.searching.get_mut(file) {
                    pids.insert(child.pid);
                }
                self.points.asked(child);
            }
            let start = child.start;
            self.pending.insert(child.pid, Waiting { start, places });
        }
        for (point, address) in self.attachments.fork(parent, child, time) {
            if let Some((file, known)) = self.point(point) {
                let target = Target {
                    process: child,
                    file,
                    address,
                };
                self.attach(target, &known, None);
            }
        }
    }

    /// A point that was found, by its id, and its file.
    fn point(&self, id: PointId) -> Option<(abi::File, Arc<Known>)> {
        let mut files = self.known.iter().chain(self.likely.iter());
        files.find_map(|(file, findings)| {
            let known = findings.all().find(|known| known.id == id)?;
            Some((*file, Arc::clone(known)))
        })
    }

    /// A process has this file as code at this place. `path`: as it sees it, if that is known.
    fn met(&mut self, process: ProcessKey, of: abi::File, place: Place, path: Option<PathBuf>) {
        if let Some(findings) = self.known.get(&of).map(Arc::clone) {
            self.attach_all(process, of, &findings, &place, path);
            return;
        }
        if of.inode == 0 || self.pending.len() >= PENDING {
            debug!(pid = process.pid, "a file is not searched");
            return;
        }
        let nothing = || Waiting {
            start: process.start,
            places: Vec::new(),
        };
        let waiting = self.pending.entry(process.pid).or_insert_with(nothing);
        if waiting.start != process.start {
            // The former process's end was missed.
            *waiting = nothing();
        }
        if waiting.places.len() >= PENDING_FILES {
            debug!(pid = process.pid, "too many unknown files of one process");
            return;
        }
        waiting.places.push((of, place.clone()));
        self.attach_likely(process, of, &place);
        self.points.asked(process);
        let already = self.searching.contains_key(&of);
        self.searching.entry(of).or_default().insert(process.pid);
        if !already {
            self.ask_for(process, of, &place);
        }
    }

    /// Looks at everything that a process has mapped.
    fn look(&mut self, process: ProcessKey) {
        let time = now();
        if !self.own.contains(&process.pid) {
            match look::code(process) {
                Ok(all) => {
                    for code in all {
                        let place = Place::Parts(code.parts);
                        self.met(process, code.file, place, Some(code.mapping.path));
                    }
                }
                Err(look::NoDescriptor) => self.unsearched(process, Unattached::Descriptors),
            }
            if let Some(ahead) = &mut self.ahead {
                ahead.met(process, None);
            }
        }
        self.points.looked_at(process, time);
    }

    fn take_drops(&mut self) {
        let drops = std::mem::take(&mut *self.drops.lock().unwrap_or_else(PoisonError::into_inner));
        for point in drops {
            self.attachments
                .detach_all(|attachment| attachment.spot.point == point);
            if let Some((_, known)) = self.point(point) {
                known.drop_it();
            }
            self.points.set_state(point, State::Dropped);
            if let Some(point) = self.points.get(point) {
                warn!(
                    path = %point.path.display(),
                    library = point.library.name(),
                    "key-log point dropped: its secrets opened no record"
                );
            }
        }
    }

    /// False: to the end.
    fn take_requests(&mut self) -> bool {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Look(process) => {
                    if !self.is_resting() {
                        self.drain();
                        self.look(process);
                    }
                    self.points.answered(process);
                }
                // Done already.
                Request::Drops => {}
                Request::Rest(done) => {
                    self.attachments.rest();
                    self.first = None;
                    self.pending.clear();
                    self.searching.clear();
                    if let Some(ahead) = &self.ahead {
                        ahead.rest();
                    }
                    done();
                }
                Request::Return { processes, done } => {
                    self.first = Breakpoint::never_hit().ok();
                    self.points.clear();
                    self.known.clear();
                    self.likely.clear();
                    self.attachments.maps.forget_files();
                    if let Some(ahead) = &self.ahead {
                        ahead.come_back();
                    }
                    self.begin(&processes);
                    done();
                }
                Request::Stop => return false,
            }
        }
        true
    }

    /// Finds processes that have ended, or whose code has moved, without a word.
    fn sweep(&mut self) {
        if self.swept.elapsed() < SWEEP {
            return;
        }
        self.swept = Instant::now();
        let runs = |process: &ProcessKey| start_ticks(process.pid) == Some(process.start / TICK);
        for process in self.attachments.processes.keys() {
            if !runs(&process) {
                self.attachments.leave(process);
            }
        }
        let pending = self.pending.iter().map(|(pid, waiting)| ProcessKey {
            pid: *pid,
            start: waiting.start,
        });
        let ended: Vec<ProcessKey> = pending.filter(|process| !runs(process)).collect();
        for process in ended {
            self.ended_before(process, 0);
        }
        let fresh: HashSet<ProcessKey> = std::mem::take(&mut self.fresh).into_iter().collect();
        for process in fresh {
            self.check_code(process);
        }
        let lost = self.ahead.as_ref().map_or(0, Ahead::lost);
        if lost != self.lost_ahead {
            info!(
                files = lost - self.lost_ahead,
                "too many files and folders at once: some are searched when they are executed"
            );
            self.lost_ahead = lost;
        }
        let lost = self.attachments.maps.lost();
        if lost != self.lost {
            warn!(
                records = lost.wrapping_sub(self.lost),
                "records of what was executed and mapped were lost: the processes that are known are looked at again"
            );
            self.lost = lost;
            for process in self.attachments.processes.keys() {
                self.look(process);
            }
        }
    }

    fn tell_searches(&mut self) {
        let ahead = self.ahead.as_ref().map_or(0, Ahead::waiting);
        let now = SearchCounts {
            done: self.done,
            waiting: self.asked.len() as u64,
            ahead_done: self.done_ahead,
            ahead_waiting: ahead + self.asked_ahead.len() as u64,
        };
        if now != self.told {
            self.told = now;
            self.points.set_searches(now);
        }
    }
}
