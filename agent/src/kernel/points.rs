//! The key-log points that were attached, and which TLS libraries each process has.
//!
//! Written by the attacher's thread, read by the pipeline's. A point is a candidate until a secret from it opens a
//! record; one that keeps giving secrets which open nothing is dropped and reported.
//!
//! Where attacher and pipeline are two processes each has its own: what the attacher changes here goes to a follower
//! as [`Change`]s, in the order in which they were made, and [`Points::apply`] makes them there.
//!
//! Invariant: a follower that is given every change has the same points, and the same libraries of each process.
//! Invariant: bounded: points and processes are forgotten least recently used first.

use super::{
    keylog::{Library, PointKind},
    record::{PointId, ProcessKey},
};
use crate::flow::Nanos;
use agent_common::abi::TICK;
use lru::LruCache;
use serde::{Deserialize, Serialize};
use std::{
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Processes whose libraries are remembered.
const PROCESSES: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// TLS libraries that are remembered of one process.
const LIBRARIES: usize = 64;

/// What became of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Candidate,
    Proven,
    Dropped,
}

/// One point of a file in one state, whichever processes have it attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    #[serde(with = "path")]
    pub path: PathBuf,
    pub library: Library,
    pub version: Option<String>,
    pub kind: PointKind,
    pub file_offset: u64,
    pub state: State,
    pub since: Nanos,
}

/// Why a point that was found is not attached to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Unattached {
    /// Its hardware breakpoints are taken: two by the agent, or all by a debugger.
    NoBreakpoint,
    /// The bound on what is attached for one owner, or for all.
    Limit,
    /// The agent has no file descriptor left.
    Descriptors,
    /// It had ended before that.
    Ended,
    /// A file of it was not searched to the end.
    Unsearched,
    /// Nothing that this kernel allows can be attached there.
    Refused,
    /// A uprobe would have to be used, and somebody writes to the file, or has written to it.
    Written,
    /// A uprobe would have to be used, and there is no lease on the file: its file system has none, or it is in memory.
    NoLease,
    /// A uprobe would have to be used, and it is the process's own program, which may copy its text.
    Executable,
    /// The program's code was copied elsewhere, or is translated before it runs.
    TextCopied,
    /// Its secrets opened no record.
    Dropped,
}

impl Unattached {
    pub fn text(self) -> &'static str {
        match self {
            Self::NoBreakpoint => "the process's breakpoints are taken",
            Self::Limit => "the bound on attached points is reached",
            Self::Descriptors => "no file descriptor is left",
            Self::Ended => "the process has ended before",
            Self::Unsearched => "a file that it has mapped as code was not searched to the end",
            Self::Refused => "the kernel allows nothing that could be attached",
            Self::Written => "the library's file is open for writing, or was written to",
            Self::NoLease => "the library's file can be written past a lease",
            Self::Executable => "uprobes are attached to libraries alone",
            Self::TextCopied => "the process runs a copy or a translation of its code",
            Self::Dropped => "the point's secrets opened no record",
        }
    }
}

/// A TLS library that a process has mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    pub library: Library,
    /// As the process itself sees it.
    #[serde(with = "path")]
    pub path: PathBuf,
    /// When its point was attached to this process; `None`: it has none that can be read.
    pub attached: Option<Nanos>,
    /// The point, if one was found.
    pub point: Option<PointId>,
    /// Why it is not attached, though it was found; or why no hit comes of it, though it is.
    pub why: Option<Unattached>,
}

impl Mapped {
    /// Its point has been dropped, if it is this one.
    fn drop_point(&mut self, point: PointId) {
        if self.point == Some(point) {
            self.attached = None;
            self.why = Some(Unattached::Dropped);
        }
    }
}

/// One thing that the attacher found or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Added {
        point: PointId,
        attached: Attached,
    },
    /// A process has this library mapped.
    Mapped {
        process: ProcessKey,
        mapped: Mapped,
    },
    /// A process has executed another program: it has none of the former one's libraries.
    Executed(ProcessKey),
    /// A child has what its parent has.
    Forked {
        parent: ProcessKey,
        child: ProcessKey,
    },
    /// Files of this process will be searched.
    Asked(ProcessKey),
    /// One search or question of this process is done, whatever was found.
    Answered(ProcessKey),
    /// The attacher has looked at what the process had executed and mapped by this time.
    LookedAt {
        process: ProcessKey,
        time: Nanos,
    },
    State {
        point: PointId,
        state: State,
    },
    /// Every point is detached.
    Cleared,
    Searches(SearchCounts),
}

/// Searches that are done, and that are waiting or under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchCounts {
    /// Of files that processes have executed or mapped.
    pub done: u64,
    pub waiting: u64,
    /// Of files that they may; what must be looked at to know whether they are searched is waiting, too.
    pub ahead_done: u64,
    pub ahead_waiting: u64,
}

/// Paths are bytes, not text.
pub(crate) mod path {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::{
        ffi::OsString,
        os::unix::ffi::{OsStrExt as _, OsStringExt as _},
        path::{Path, PathBuf},
    };

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(path.as_os_str().as_bytes())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Vec::<u8>::deserialize(from).map(|bytes| OsString::from_vec(bytes).into())
    }
}

type Follower = Box<dyn Fn(&Change) + Send>;

struct Inner {
    points: LruCache<PointId, Attached>,
    processes: LruCache<(u32, u64), OfProcess>,
    /// When processes last executed another program, as the worker was told: the attacher may not have come to it yet.
    executed: LruCache<(u32, u64), Nanos>,
    searches: SearchCounts,
    /// Called with the lock held, so that changes arrive in their order.
    follower: Option<Follower>,
}

impl Inner {
    fn follow(&self, change: &Change) {
        if let Some(follower) = &self.follower {
            follower(change);
        }
    }
}

/// Points that are remembered, also when they are attached to no process any more: their secrets may still come.
const POINTS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// What is known of a process's files.
#[derive(Clone, Default)]
struct OfProcess {
    libraries: Vec<Mapped>,
    /// Searches that are not done.
    awaited: u32,
    /// When it was last looked at.
    looked: Option<Nanos>,
}

/// Shared between the attacher and the pipeline.
#[derive(Clone)]
pub struct Points(Arc<Mutex<Inner>>);

impl Default for Points {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            points: LruCache::new(POINTS),
            processes: LruCache::new(PROCESSES),
            executed: LruCache::new(PROCESSES),
            searches: SearchCounts::default(),
            follower: None,
        })))
    }
}

impl Points {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves plain values behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every change from now on is given to `follower`, which must not ask this table anything.
    #[must_use]
    pub fn followed_by(follower: impl Fn(&Change) + Send + 'static) -> Self {
        let points = Self::default();
        points.lock().follower = Some(Box::new(follower));
        points
    }

    /// What [`followed_by`](Self::followed_by) gave elsewhere.
    pub fn apply(&self, change: Change) {
        match change {
            Change::Added { point, attached } => self.add(point, attached),
            Change::Mapped { process, mapped } => self.map(process, mapped),
            Change::Executed(process) => self.executed(process),
            Change::Forked { parent, child } => self.forked(parent, child),
            Change::Asked(process) => self.asked(process),
            Change::Answered(process) => self.answered(process),
            Change::LookedAt { process, time } => self.looked_at(process, time),
            Change::State { point, state } => self.set_state(point, state),
            Change::Cleared => self.clear(),
            Change::Searches(counts) => self.set_searches(counts),
        }
    }

    pub(crate) fn add(&self, point: PointId, attached: Attached) {
        let mut inner = self.lock();
        if inner.follower.is_some() {
            let attached = attached.clone();
            inner.follow(&Change::Added { point, attached });
        }
        inner.points.put(point, attached);
    }

    /// Every point is detached, and what processes have mapped is looked at anew.
    pub(crate) fn clear(&self) {
        let mut inner = self.lock();
        inner.follow(&Change::Cleared);
        for (_, of_process) in inner.processes.iter_mut() {
            *of_process = OfProcess::default();
        }
    }

    pub(crate) fn map(&self, process: ProcessKey, mapped: Mapped) {
        let mut inner = self.lock();
        if inner.follower.is_some() {
            let mapped = mapped.clone();
            inner.follow(&Change::Mapped { process, mapped });
        }
        let libraries = &mut inner
            .processes
            .get_or_insert_mut(coarse(process), OfProcess::default)
            .libraries;
        let same = |known: &&mut Mapped| {
            known.path == mapped.path
                && known.library == mapped.library
                && known.point == mapped.point
        };
        if let Some(known) = libraries.iter_mut().find(same) {
            *known = mapped;
        } else if libraries.len() < LIBRARIES {
            libraries.push(mapped);
        }
    }

    pub(crate) fn executed(&self, process: ProcessKey) {
        let mut inner = self.lock();
        inner.follow(&Change::Executed(process));
        inner.processes.put(coarse(process), OfProcess::default());
    }

    pub(crate) fn forked(&self, parent: ProcessKey, child: ProcessKey) {
        let mut inner = self.lock();
        inner.follow(&Change::Forked { parent, child });
        if let Some(of_parent) = inner.processes.get(&coarse(parent)).cloned() {
            // What is awaited for the child is told as the child's.
            let of_child = OfProcess {
                awaited: 0,
                ..of_parent
            };
            inner.processes.put(coarse(child), of_child);
        }
    }

    /// The files of this process will be looked at.
    pub fn asked(&self, process: ProcessKey) {
        let mut inner = self.lock();
        inner.follow(&Change::Asked(process));
        let known = inner
            .processes
            .get_or_insert_mut(coarse(process), OfProcess::default);
        known.awaited = known.awaited.saturating_add(1);
    }

    /// One of the things that were asked for is done, whatever was found.
    pub fn answered(&self, process: ProcessKey) {
        let mut inner = self.lock();
        inner.follow(&Change::Answered(process));
        if let Some(known) = inner.processes.get_mut(&coarse(process)) {
            known.awaited = known.awaited.saturating_sub(1);
        }
    }

    /// The attacher has looked at what the process had executed and mapped by this time: it knows the files, or has asked
    /// for them.
    pub fn looked_at(&self, process: ProcessKey, time: Nanos) {
        let mut inner = self.lock();
        inner.follow(&Change::LookedAt { process, time });
        let known = inner
            .processes
            .get_or_insert_mut(coarse(process), OfProcess::default);
        known.looked = known.looked.max(Some(time));
    }

    /// Whether what [`of_process`](Self::of_process) says of it is final for now.
    pub fn knows(&self, process: ProcessKey) -> bool {
        let inner = self.lock();
        let key = coarse(process);
        let executed = inner.executed.peek(&key).copied().unwrap_or(0);
        inner
            .processes
            .peek(&key)
            .is_some_and(|known| known.looked >= Some(executed) && known.awaited == 0)
    }

    /// The process has executed another program: what is known of it is of the former one, until it is looked at again.
    pub fn is_another_since(&self, process: ProcessKey, time: Nanos) {
        self.lock().executed.put(coarse(process), time);
    }

    pub fn get(&self, id: PointId) -> Option<Attached> {
        self.lock().points.get(&id).cloned()
    }

    pub fn all(&self) -> Vec<Attached> {
        let inner = self.lock();
        inner
            .points
            .iter()
            .map(|(_, point)| point.clone())
            .collect()
    }

    pub fn set_state(&self, point: PointId, state: State) {
        let mut inner = self.lock();
        inner.follow(&Change::State { point, state });
        if let Some(point) = inner.points.get_mut(&point) {
            point.state = state;
        }
        if state == State::Dropped {
            for (_, of_process) in inner.processes.iter_mut() {
                for mapped in &mut of_process.libraries {
                    mapped.drop_point(point);
                }
            }
        }
    }

    /// TLS libraries of a process, readable ones first.
    pub fn of_process(&self, process: ProcessKey) -> Vec<Mapped> {
        let mut inner = self.lock();
        let mut mapped = inner
            .processes
            .get(&coarse(process))
            .map(|known| known.libraries.clone())
            .unwrap_or_default();
        mapped.sort_by_key(|mapped| mapped.attached.is_none());
        mapped
    }

    /// The file of a point as this process sees it, or as whoever had it first.
    pub fn path_of(&self, process: ProcessKey, point: PointId) -> Option<PathBuf> {
        let mut inner = self.lock();
        let of_process = inner.processes.get(&coarse(process));
        let own = of_process
            .and_then(|known| {
                let mut libraries = known.libraries.iter();
                libraries.find(|mapped| mapped.point == Some(point))
            })
            .map(|mapped| mapped.path.clone());
        own.or_else(|| inner.points.get(&point).map(|point| point.path.clone()))
    }

    pub(crate) fn set_searches(&self, counts: SearchCounts) {
        let mut inner = self.lock();
        inner.follow(&Change::Searches(counts));
        inner.searches = counts;
    }

    /// Files that were searched, and that are waiting to be or are being.
    pub fn searches(&self) -> SearchCounts {
        self.lock().searches
    }
}

/// Start times that `/proc` gives are in ticks, those of the kernel in nanoseconds.
fn coarse(process: ProcessKey) -> (u32, u64) {
    (process.pid, process.start / TICK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt as _;

    fn mapped(path: &str, attached: Option<Nanos>) -> Mapped {
        Mapped {
            library: Library::Openssl,
            path: path.into(),
            attached,
            point: attached.map(|number| PointId(number as u32)),
            why: None,
        }
    }

    #[test]
    fn a_dropped_point_reads_no_process_any_more() {
        let points = Points::default();
        let process = ProcessKey { pid: 7, start: 0 };
        points.map(process, mapped("/a", Some(1)));
        points.map(process, mapped("/b", Some(2)));
        points.set_state(PointId(1), State::Dropped);
        let known = points.of_process(process);
        assert_eq!(known[0], mapped("/b", Some(2)));
        assert_eq!(
            (known[1].attached, known[1].why),
            (None, Some(Unattached::Dropped))
        );
    }

    #[test]
    fn a_follower_has_the_same() {
        let there = Points::default();
        let here = Points::followed_by({
            let there = there.clone();
            move |change| there.apply(change.clone())
        });
        let (process, child) = (
            ProcessKey { pid: 7, start: 0 },
            ProcessKey { pid: 8, start: 5 },
        );
        let attached = Attached {
            path: std::ffi::OsString::from_vec(b"/not \xff text".to_vec()).into(),
            library: Library::Openssl,
            version: None,
            kind: PointKind::KeyLog,
            file_offset: 5,
            state: State::Candidate,
            since: 1,
        };
        here.add(PointId(3), attached.clone());
        for path in ["/a", "/b"] {
            here.map(process, mapped(path, Some(1)));
        }
        here.asked(process);
        here.looked_at(process, 1);
        assert!(!there.knows(process));
        here.answered(process);
        here.forked(process, child);
        here.set_state(PointId(3), State::Dropped);
        here.set_state(PointId(9), State::Dropped);
        let counts = SearchCounts {
            done: 4,
            waiting: 2,
            ahead_done: 7,
            ahead_waiting: 1,
        };
        here.set_searches(counts);
        assert_eq!(here.all(), there.all());
        assert_eq!(there.all()[0].path, attached.path);
        assert_eq!(here.of_process(process), there.of_process(process));
        assert_eq!(there.of_process(child).len(), 2);
        assert!(there.knows(process) && there.knows(child));
        assert_eq!(there.searches(), counts);
        here.executed(child);
        assert!(there.of_process(child).is_empty() && !there.knows(child));
        here.clear();
        assert!(there.of_process(process).is_empty());
        assert!(!there.knows(process));
        here.add(PointId(4), attached.clone());
        assert_eq!(there.get(PointId(4)), Some(attached));
    }

    #[test]
    fn a_library_is_named_as_its_own_process_sees_it() {
        let points = Points::default();
        let (one, other) = (
            ProcessKey { pid: 7, start: 0 },
            ProcessKey { pid: 8, start: 5 },
        );
        points.map(one, mapped("/a", Some(1)));
        points.map(other, mapped("/in/container", Some(1)));
        let path = |process| points.path_of(process, PointId(1));
        assert_eq!(path(one), Some("/a".into()));
        assert_eq!(path(other), Some("/in/container".into()));
        assert_eq!(path(ProcessKey { pid: 9, start: 0 }), None);
    }

    #[test]
    fn a_process_is_known_by_its_start_in_ticks_and_in_nanoseconds() {
        let points = Points::default();
        let exact = ProcessKey {
            pid: 7,
            start: 5 * TICK + 123,
        };
        let rounded = ProcessKey {
            pid: 7,
            start: 5 * TICK,
        };
        points.map(rounded, mapped("/a", Some(1)));
        assert_eq!(points.of_process(exact), [mapped("/a", Some(1))]);
        let reused = ProcessKey {
            pid: 7,
            start: 6 * TICK,
        };
        assert!(points.of_process(reused).is_empty());
    }

    #[test]
    fn readable_libraries_come_first_and_the_newest_word_counts() {
        let (points, process) = (Points::default(), ProcessKey { pid: 7, start: 0 });
        points.map(process, mapped("/a", None));
        points.map(process, mapped("/b", Some(2)));
        assert_eq!(points.of_process(process)[0].path, PathBuf::from("/b"));
        let newer = Mapped {
            attached: Some(3),
            ..mapped("/a", None)
        };
        points.map(process, newer.clone());
        assert_eq!(points.of_process(process), [newer, mapped("/b", Some(2))]);
    }

    #[test]
    fn a_process_is_known_when_everything_is_answered() {
        let (points, process) = (Points::default(), ProcessKey { pid: 7, start: 0 });
        assert!(!points.knows(process));
        points.asked(process);
        points.asked(process);
        points.looked_at(process, 1);
        points.answered(process);
        assert!(!points.knows(process));
        points.answered(process);
        assert!(points.knows(process));
    }

    #[test]
    fn a_process_is_not_known_between_exec_and_the_next_look() {
        let (points, process) = (Points::default(), ProcessKey { pid: 7, start: 0 });
        points.looked_at(process, 1);
        assert!(points.knows(process));
        points.is_another_since(process, 2);
        assert!(!points.knows(process));
        points.executed(process);
        points.looked_at(process, 2);
        assert!(points.knows(process));
    }

    #[test]
    fn a_child_waits_for_its_own_searches_alone() {
        let points = Points::default();
        let (parent, child) = (
            ProcessKey { pid: 7, start: 0 },
            ProcessKey { pid: 8, start: 5 },
        );
        points.looked_at(parent, 1);
        points.asked(parent);
        points.forked(parent, child);
        assert!(points.knows(child) && !points.knows(parent));
    }

    #[test]
    fn libraries_of_a_process_are_bounded() {
        let (points, process) = (Points::default(), ProcessKey { pid: 7, start: 0 });
        for number in 0..2 * LIBRARIES {
            points.map(process, mapped(&format!("/{number}"), None));
        }
        assert_eq!(points.of_process(process).len(), LIBRARIES);
    }
}
