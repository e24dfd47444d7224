//! The attacher's loop.
//!
//! Order matters in one place: what the ring holds is read before anything else is done, so that a process that has
//! ended, forked or executed another program meanwhile is known to have.
//!
//! Invariant: bounded: known files and pending processes are forgotten, oldest first.

use super::{
    Bell, Fallback, Request, Results, Start,
    ahead::{Ahead, Ticket},
    findings::{Findings, Known},
    kept::Kept,
    look,
    point::{Attached as Now, Attachments, Refused, Target},
    record::{Code, Part, Record},
};
use crate::{
    flow::Nanos,
    kernel::{
        decode::now,
        keeper::{Lost, Why},
        keylog::{
            Class, Found, Job, Library, LookError, Searched, Searches, discover, searches::Reason,
        },
        owner::Owner,
        points::{Attached, Mapped, Points, SearchCounts, State, Unattached},
        record::{PointId, ProcessKey},
        scope::start_ticks,
    },
};
use agent_common::abi::{self, TICK, file};
use lru::LruCache;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::File,
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
/// How often processes are looked for that have ended without a word.
const SWEEP: Duration = Duration::from_secs(5);
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

    fn address_of(&self, known: &Known, findings: &Findings) -> Option<u64> {
        match self {
            Self::Program { code, .. } => {
                let bias = code.start.wrapping_sub(findings.code_start?);
                let address = known.point.virtual_address.wrapping_add(bias);
                (code.start..code.end).contains(&address).then_some(address)
            }
            Self::Parts(parts) => parts
                .iter()
                .find_map(|part| part.address_of(known.point.file_offset)),
        }
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
        loop {
            self.wait(PAUSE);
            self.drain();
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
                file,
                code,
                name,
            } => {
                self.attachments.leave(process);
                self.pending.remove(&process.pid);
                if self.own.contains(&process.pid) {
                    return;
                }
                self.points.executed(process);
                let asked = name.clone();
                self.met(process, file, Place::Program { code, name }, None);
                self.points.looked_at(process);
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
            Record::Exited { process } => {
                self.attachments.leave(process);
                self.pending.remove(&process.pid);
            }
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
        let waiting = self.pending.entry(process.pid).or_insert(Waiting {
            start: process.start,
            places: Vec::new(),
        });
        if waiting.start != process.start {
            // The former process's end was missed.
            *waiting = Waiting {
                start: process.start,
                places: Vec::new(),
            };
        }
        if waiting.places.len() >= PENDING_FILES {
            debug!(pid = process.pid, "too many unknown files of one process");
            return;
        }
        waiting.places.push((of, place.clone()));
        if place.is_program() {
            self.attach_likely(process, of, &place);
        }
        self.points.asked(process);
        let already = self.searching.contains_key(&of);
        self.searching.entry(of).or_default().insert(process.pid);
        if !already {
            self.ask_for(process, of, &place);
        }
    }

    fn ask_for(&mut self, process: ProcessKey, of: abi::File, place: &Place) {
        let pid = process.pid;
        let owner = Owner::of(pid);
        match place {
            Place::Program { name, .. } => {
                let asked = Asked {
                    file: Some(of),
                    named: false,
                    name: name.is_absolute().then(|| (name.clone(), owner.clone())),
                };
                self.ask(asked, owner, Class::Prompt, move || {
                    discover::open_program(pid)
                });
            }
            Place::Parts(parts) => {
                let address = parts.first().map_or(0, |part| part.address);
                self.ask(Asked::of(of), owner, Class::Prompt, move || {
                    discover::open_at(pid, address)
                });
            }
        }
    }

    fn ask(
        &mut self,
        asked: Asked,
        owner: Owner,
        class: Class,
        open: impl FnOnce() -> Result<File, LookError> + Send + 'static,
    ) {
        let token = self.next_token;
        self.next_token += 1;
        self.asked.insert(token, asked);
        self.searches.ask(Job {
            token,
            owner,
            class,
            open: Box::new(open),
        });
    }

    /// Asks for searches of what is not met yet.
    fn ask_ahead(&mut self) {
        while let Some(wanted) = self.ahead.as_ref().and_then(Ahead::next) {
            let known = self.known.contains(&wanted.state);
            if known || self.searching.contains_key(&wanted.state) || self.is_resting() {
                continue;
            }
            let token = self.next_token;
            self.next_token += 1;
            self.asked_ahead.insert(token, wanted.ticket);
            let open = wanted.open;
            self.searches.ask(Job {
                token,
                owner: wanted.owner,
                class: Class::Ahead,
                open: Box::new(move || Ok(open()?)),
            });
        }
    }

    /// A file that no process was met with was searched.
    fn searched_ahead(&mut self, ticket: &Ticket, searched: &Searched) {
        self.done_ahead += 1;
        let found = match (&searched.outcome, searched.state) {
            (Ok(found), Some(state)) => Some((found, ticket.state(state))),
            (Err(error), _) => {
                debug!(%error, "not searched ahead");
                None
            }
            (Ok(_), None) => None,
        };
        // A process may have been met with it meanwhile.
        let Some((found, of)) = found.filter(|(_, of)| !self.known.contains(of)) else {
            return;
        };
        let findings = self.findings(found);
        debug!(
            device = of.device,
            inode = of.inode,
            size = of.size,
            points = findings.points.len(),
            lasting = searched.cacheable,
            "searched ahead"
        );
        self.likely.put(likeness(of), Arc::clone(&findings));
        if searched.cacheable {
            self.want_fallback(&findings);
            self.learn(of, &findings);
            self.serve(of, Some(&findings), None);
            return;
        }
        let waiting = self.searching.get(&of).into_iter().flatten();
        for pid in waiting.copied().collect::<Vec<_>>() {
            let Some(waiting) = self.pending.get(&pid) else {
                continue;
            };
            let start = waiting.start;
            let mut places = waiting.places.iter();
            let place = places.find(|(file, place)| *file == of && place.is_program());
            if let Some(place) = place.map(|(_, place)| place.clone()) {
                self.attach_likely(ProcessKey { pid, start }, of, &place);
            }
        }
    }

    /// A program that was searched in a state which may come again with another content, or in another state which may
    /// have had the same (a file that was renamed, linked or made executable): it is searched again, and what it is likely
    /// to hold is attached meanwhile, since it does not wait.
    fn attach_likely(&mut self, process: ProcessKey, of: abi::File, place: &Place) {
        let Some(findings) = self.likely.get(&likeness(of)).map(Arc::clone) else {
            return;
        };
        for known in &findings.points {
            let Some(address) = place.address_of(known, &findings) else {
                continue;
            };
            let target = Target {
                process,
                file: of,
                address,
            };
            if !known.is_dropped()
                && let Ok(attached) = self.attachments.attach_unproven(target, known)
            {
                let path = look::program(process.pid).unwrap_or_default();
                self.report(process, known, path, Ok(attached));
            }
        }
    }

    /// What a search has found in a file: with the ids that its points have, if they were known.
    fn found(&mut self, of: Option<abi::File>, found: &Found) -> Arc<Findings> {
        // It may have been searched ahead since it was asked for.
        if let Some(known) = of.and_then(|of| self.known.get(&of).map(Arc::clone)) {
            return known;
        }
        let findings = self.findings(found);
        let Some(of) = of else {
            return findings;
        };
        let likely = self.likely.get(&likeness(of)).map(Arc::clone);
        match likely {
            Some(likely) if likely.is_same(&findings) => likely,
            Some(likely) => {
                debug!("a file does not hold what was likely");
                let waiting = self.searching.get(&of).into_iter().flatten();
                for pid in waiting.copied().collect::<Vec<_>>() {
                    self.attachments
                        .take_back(pid, |point| likely.all().any(|known| known.id == point));
                }
                findings
            }
            None => findings,
        }
    }

    fn findings(&mut self, found: &Found) -> Arc<Findings> {
        let only = self.fallback == Fallback::Only;
        let next = &mut self.next_point;
        Arc::new(Findings::new(found, only, || {
            *next += 1;
            PointId(*next - 1)
        }))
    }

    fn take_results(&mut self) {
        while let Ok(searched) = self.results.receiver.try_recv() {
            self.drain();
            self.searched(searched);
        }
    }

    fn searched(&mut self, searched: Searched) {
        if let Some(ticket) = self.asked_ahead.remove(&searched.token) {
            return self.searched_ahead(&ticket, &searched);
        }
        let Some(asked) = self.asked.remove(&searched.token) else {
            return;
        };
        self.done += 1;
        let state = searched.state.map(|state| state.as_kernel());
        let findings = match &searched.outcome {
            // What a process has mapped is the file as it was then.
            Ok(_)
                if asked.file.zip(state).is_some_and(|(met, now)| {
                    !now.has_content_of(&met) || asked.named && met != now
                }) =>
            {
                debug!("a file has changed since it was mapped");
                None
            }
            Ok(found) => Some(self.found(asked.file, found)),
            Err(error) => {
                debug!(%error, "not searched");
                None
            }
        };
        if let Some(findings) = &findings {
            self.want_fallback(findings);
            if searched.cacheable
                && let Some(of) = asked.file.or(state)
                && of.inode != 0
            {
                self.learn(of, findings);
            }
            if let Some(of) = asked.file {
                self.likely.put(likeness(of), Arc::clone(findings));
            }
        }
        let why = searched.outcome.as_ref().err().and_then(unsearched);
        if let Some(of) = asked.file {
            self.serve(of, findings.as_ref(), why);
        }
        if let (None, Some((name, owner))) = (searched.file, asked.name) {
            self.ask_by_name(asked.file, name, owner);
        }
    }

    /// A program has ended before it could be opened. It is searched for its next use, by its name: the findings count if
    /// the name leads to the very file that was executed, and nothing is attached by them now.
    fn ask_by_name(&mut self, file: Option<abi::File>, name: PathBuf, owner: Owner) {
        let asked = Asked {
            file,
            named: true,
            name: None,
        };
        self.ask(asked, owner, Class::Ahead, move || {
            discover::open_regular(&name)
        });
    }

    /// Keeps what was found, and tells the probes which mappings of it they need not tell.
    fn learn(&mut self, of: abi::File, findings: &Arc<Findings>) {
        let what = if findings.matters(self.fallback_wanted) {
            file::WITH_POINTS
        } else {
            file::WITHOUT_POINTS
        };
        if let Err(error) = self.attachments.maps.set_file(of, what) {
            debug!(%error, "the probes cannot be told of a file");
        }
        self.known.put(of, Arc::clone(findings));
    }

    /// Gives those that wait for a file what it holds, or `why` nobody knows.
    fn serve(&mut self, of: abi::File, findings: Option<&Arc<Findings>>, why: Option<Unattached>) {
        for pid in self.searching.remove(&of).into_iter().flatten() {
            let Some(waiting) = self.pending.get_mut(&pid) else {
                continue;
            };
            let process = ProcessKey {
                pid,
                start: waiting.start,
            };
            let mut places = Vec::new();
            waiting.places.retain(|(file, place)| {
                let fits = *file == of;
                if fits {
                    places.push(place.clone());
                }
                !fits
            });
            if waiting.places.is_empty() {
                self.pending.remove(&pid);
            }
            for place in places {
                if let Some(findings) = findings {
                    self.attach_all(process, of, findings, &place, None);
                }
                if let Some(why) = why {
                    self.unsearched(process, why);
                }
                self.points.looked_at(process);
            }
        }
    }

    /// Nobody knows what a process has mapped, which is told as a library of its own.
    fn unsearched(&self, process: ProcessKey, why: Unattached) {
        self.points.map(
            process,
            Mapped {
                library: Library::Unknown,
                path: PathBuf::new(),
                attached: None,
                point: None,
                why: Some(why),
            },
        );
    }

    fn want_fallback(&mut self, findings: &Findings) {
        if !findings.wants_fallback || self.fallback_wanted {
            return;
        }
        info!("an OpenSSL without a key-log point: the fallback is used where it is mapped");
        self.fallback_wanted = true;
        let with: Vec<abi::File> = self
            .known
            .iter()
            .filter(|(_, known)| known.fallback.is_some())
            .map(|(file, _)| *file)
            .collect();
        for of in with {
            if let Err(error) = self.attachments.maps.set_file(of, file::WITH_POINTS) {
                debug!(%error, "the probes cannot be told of a file");
            }
        }
    }

    fn attach_all(
        &mut self,
        process: ProcessKey,
        of: abi::File,
        findings: &Arc<Findings>,
        place: &Place,
        path: Option<PathBuf>,
    ) {
        if !findings.matters(self.fallback_wanted) {
            return;
        }
        let mut results = Vec::new();
        let wanted = self.fallback_wanted;
        let fallback = findings.fallback.iter().filter(|_| wanted);
        for known in findings.points.iter().chain(fallback) {
            let Some(address) = place.address_of(known, findings) else {
                continue;
            };
            let target = Target {
                process,
                file: of,
                address,
            };
            results.push((Arc::clone(known), self.try_attach(target, known)));
        }
        let path = path
            .or_else(|| match place {
                Place::Program { .. } => look::program(process.pid),
                Place::Parts(parts) => {
                    look::path_at(process.pid, parts.first().map_or(0, |part| part.address))
                }
            })
            .unwrap_or_default();
        for library in &findings.unread {
            self.points.map(
                process,
                Mapped {
                    library: *library,
                    path: path.clone(),
                    attached: None,
                    point: None,
                    why: None,
                },
            );
        }
        for (known, result) in results {
            self.report(process, &known, path.clone(), result);
        }
        if findings.wants_fallback {
            self.look_for_fallback(process);
        }
    }

    fn attach(&mut self, target: Target, known: &Known, path: Option<PathBuf>) {
        let result = self.try_attach(target, known);
        let path = path
            .or_else(|| look::path_at(target.process.pid, target.address))
            .unwrap_or_default();
        self.report(target.process, known, path, result);
    }

    fn try_attach(&mut self, target: Target, known: &Known) -> Result<Now, Refused> {
        if known.is_dropped() {
            return Err(Refused::For(Unattached::Dropped));
        }
        self.attachments.attach(target, known)
    }

    /// What the keeper has answered, and what it has lost.
    fn take_kept(&mut self) {
        while let Some((process, point, address, result)) = self.attachments.kept() {
            if let Some((_, known)) = self.point(point) {
                let path = look::path_at(process.pid, address).unwrap_or_default();
                self.report(process, &known, path, result.map(Now::Since));
            }
            self.points.looked_at(process);
        }
        let lost: Vec<Lost> = match &self.lost_uprobes {
            Some(lost) => lost.try_iter().collect(),
            None => return,
        };
        for Lost { ids, why } in lost {
            let again = matches!(why, Why::Restarted(_));
            for (process, point) in self.attachments.lost(&ids) {
                info!(pid = process.pid, %why, "uprobes are gone");
                for mut mapped in self.points.of_process(process) {
                    if mapped.point == Some(point) {
                        mapped.attached = None;
                        mapped.why = Some(Unattached::Written);
                        self.points.map(process, mapped);
                    }
                }
                if again {
                    self.look(process);
                }
            }
        }
    }

    /// Tells the worker what came of a point in a process.
    fn report(
        &mut self,
        process: ProcessKey,
        known: &Known,
        path: PathBuf,
        result: Result<Now, Refused>,
    ) {
        let (attached, why) = match result {
            Ok(Now::Since(since)) => (Some(since), None),
            Ok(Now::Asked) => return self.points.asked(process),
            Err(Refused::For(why)) => (None, Some(why)),
            // Nobody is there to be told of.
            Err(Refused::Gone) => return,
        };
        let point = &known.point;
        if known.tell() {
            self.points.add(
                known.id,
                Attached {
                    path: path.clone(),
                    library: point.library,
                    version: point.version.clone(),
                    kind: point.kind,
                    file_offset: point.file_offset,
                    state: State::Candidate,
                    since: attached.unwrap_or_else(now),
                },
            );
        }
        info!(
            pid = process.pid,
            path = %path.display(),
            library = point.library.name(),
            version = point.version.as_deref().unwrap_or("unknown"),
            offset = format_args!("{:#x}", point.file_offset),
            fallback = Findings::is_fallback(known),
            attached = attached.unwrap_or(0),
            refused = ?why,
            "key-log point"
        );
        if attached.is_some() {
            self.fresh.push(process);
        }
        self.points.map(
            process,
            Mapped {
                library: point.library,
                path,
                attached,
                point: Some(known.id),
                why,
            },
        );
    }

    /// The process has an OpenSSL without a key-log point: its libcrypto may be mapped already, without a word.
    fn look_for_fallback(&mut self, process: ProcessKey) {
        for code in look::code(process).unwrap_or_default() {
            let known = self.known.get(&code.file).map(Arc::clone);
            if let Some(findings) = known.filter(|findings| findings.fallback.is_some()) {
                let place = Place::Parts(code.parts);
                if let Some(known) = &findings.fallback
                    && let Some(address) = place.address_of(known, &findings)
                {
                    let target = Target {
                        process,
                        file: code.file,
                        address,
                    };
                    self.attach(target, known, Some(code.mapping.path));
                }
            }
        }
    }

    /// Looks at everything that a process has mapped.
    fn look(&mut self, process: ProcessKey) {
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
        self.points.looked_at(process);
    }

    fn take_drops(&mut self) {
        let drops = std::mem::take(&mut *self.drops.lock().unwrap_or_else(PoisonError::into_inner));
        for point in drops {
            self.attachments
                .detach_all(|attachment| attachment.point == point);
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
                Request::Look(process) if self.is_resting() => self.points.looked_at(process),
                Request::Look(process) => {
                    self.drain();
                    self.look(process);
                }
                // Done already.
                Request::Drops => {}
                Request::Rest(done) => {
                    self.attachments.detach_all(|_| true);
                    self.pending.clear();
                    self.searching.clear();
                    if let Some(ahead) = &self.ahead {
                        ahead.rest();
                    }
                    done();
                }
                Request::Return { processes, done } => {
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
        self.pending.retain(|pid, waiting| {
            runs(&ProcessKey {
                pid: *pid,
                start: waiting.start,
            })
        });
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

    /// Programs that copy their code to other memory, and such as run translated, have no hits.
    fn check_code(&mut self, process: ProcessKey) {
        let addresses: Vec<u64> = self
            .attachments
            .processes
            .of(process)
            .map(|attachment| attachment.address)
            .collect();
        if addresses.is_empty() {
            return;
        }
        let moved = look::is_mapped_at(process.pid, &addresses) == Some(false);
        let translated = look::program(process.pid).is_some_and(|path| is_translator(&path));
        if moved || translated {
            for mut mapped in self.points.of_process(process) {
                if mapped.attached.is_some() {
                    mapped.why = Some(Unattached::TextCopied);
                    self.points.map(process, mapped);
                }
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

/// What two states of a file have in common that most likely have the same content.
fn likeness(of: abi::File) -> abi::File {
    abi::File { changed: 0, ..of }
}

/// Bounds are reasons of their own: nobody is to take a file that was not searched for one without a library.
fn unsearched(reason: &Reason) -> Option<Unattached> {
    match reason {
        Reason::OwnerFull | Reason::Full => Some(Unattached::Limit),
        Reason::NoDescriptor => Some(Unattached::Descriptors),
        Reason::Open(_) | Reason::Changed | Reason::Search(_) => None,
    }
}

/// Programs that run others by translating their code, so that no instruction of a mapped file is ever executed.
fn is_translator(program: &std::path::Path) -> bool {
    let text = program.to_string_lossy();
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    text.contains("/valgrind/") || name.starts_with("qemu-") || name == "drrun"
}
