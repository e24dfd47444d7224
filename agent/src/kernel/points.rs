//! The key-log points that are attached, and which TLS libraries each process has.
//!
//! Written by the attacher's thread, read by the pipeline's. A point is a candidate until a secret from it opens a
//! record; one that keeps giving secrets which open nothing is dropped and reported.
//!
//! Where attacher and pipeline are two processes each has its own: what the attacher changes here goes to a follower
//! as [`Change`]s, in the order in which they were made, and [`Points::apply`] makes them there.
//!
//! Invariant: a follower that is given every change has the same points, and the same libraries of each process.
//! Invariant: bounded: processes are forgotten least recently used first.

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
    path::{Path, PathBuf},
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

/// One attached point.
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

/// A TLS library that a process has mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    pub library: Library,
    #[serde(with = "path")]
    pub path: PathBuf,
    /// When its point was attached; `None`: it has none that can be read.
    pub attached: Option<Nanos>,
}

impl Mapped {
    /// Its point has been dropped, if it is this library.
    pub(super) fn is_unreadable(&mut self, path: &Path, library: Library) {
        if self.path == path && self.library == library {
            self.attached = None;
        }
    }
}

/// One thing that the attacher found or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The next point, by the order of ids.
    Added(Attached),
    /// A process has this library mapped.
    Mapped {
        process: ProcessKey,
        mapped: Mapped,
    },
    /// A look that was asked for is done.
    LookedAt(ProcessKey),
    State {
        point: PointId,
        state: State,
    },
    /// This library's point has been dropped.
    Unreadable {
        #[serde(with = "path")]
        path: PathBuf,
        library: Library,
    },
    /// Every point is detached, and ids begin anew.
    Cleared,
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
    points: Vec<Attached>,
    processes: LruCache<(u32, u64), OfProcess>,
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

/// Most points: there is one for each library file of the host. A follower's memory is bounded by it.
const POINTS: usize = 65_536;

/// What is known of a process's files.
#[derive(Default)]
struct OfProcess {
    libraries: Vec<Mapped>,
    /// Looks that were asked for and are not done.
    awaited: u32,
    /// At least one look is done.
    looked: bool,
}

/// Shared between the attacher and the pipeline.
#[derive(Clone)]
pub struct Points(Arc<Mutex<Inner>>);

impl Default for Points {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            points: Vec::new(),
            processes: LruCache::new(PROCESSES),
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
            Change::Added(attached) => self.add(attached),
            Change::Mapped { process, mapped } => self.map(process, mapped),
            Change::LookedAt(process) => self.looked_at(process),
            Change::State { point, state } => self.set_state(point, state),
            Change::Unreadable { path, library } => self.unreadable(&path, library),
            Change::Cleared => self.clear(),
        }
    }

    /// Ids are given out in order, as the probes' cookies are.
    pub(crate) fn add(&self, attached: Attached) {
        let mut inner = self.lock();
        if inner.points.len() < POINTS {
            inner.follow(&Change::Added(attached.clone()));
            inner.points.push(attached);
        }
    }

    /// Every point is detached, and what processes have mapped is looked at anew.
    pub(crate) fn clear(&self) {
        let mut inner = self.lock();
        inner.follow(&Change::Cleared);
        inner.points.clear();
        for (_, of_process) in inner.processes.iter_mut() {
            of_process.libraries.clear();
            of_process.looked = false;
        }
    }

    pub(crate) fn map(&self, process: ProcessKey, mapped: Mapped) {
        let mut inner = self.lock();
        if inner.follower.is_some() {
            let mapped = mapped.clone();
            inner.follow(&Change::Mapped { process, mapped });
        }
        let of_process = &mut inner
            .processes
            .get_or_insert_mut(coarse(process), OfProcess::default)
            .libraries;
        if let Some(known) = of_process
            .iter_mut()
            .find(|known| known.path == mapped.path)
        {
            *known = mapped;
        } else if of_process.len() < LIBRARIES {
            of_process.push(mapped);
        }
    }

    /// The files of this process will be looked at.
    pub fn asked(&self, process: ProcessKey) {
        let mut inner = self.lock();
        let known = inner
            .processes
            .get_or_insert_mut(coarse(process), OfProcess::default);
        known.awaited = known.awaited.saturating_add(1);
    }

    /// A look that was asked for is done, whatever was found.
    pub fn looked_at(&self, process: ProcessKey) {
        let mut inner = self.lock();
        inner.follow(&Change::LookedAt(process));
        let known = inner
            .processes
            .get_or_insert_mut(coarse(process), OfProcess::default);
        known.awaited = known.awaited.saturating_sub(1);
        known.looked = true;
    }

    /// Whether what [`of_process`](Self::of_process) says of it is final for now.
    pub fn knows(&self, process: ProcessKey) -> bool {
        self.lock()
            .processes
            .peek(&coarse(process))
            .is_some_and(|known| known.looked && known.awaited == 0)
    }

    pub fn get(&self, id: PointId) -> Option<Attached> {
        self.lock().points.get(id.0 as usize).cloned()
    }

    pub fn all(&self) -> Vec<Attached> {
        self.lock().points.clone()
    }

    pub fn set_state(&self, point: PointId, state: State) {
        let mut inner = self.lock();
        inner.follow(&Change::State { point, state });
        if let Some(point) = inner.points.get_mut(point.0 as usize) {
            point.state = state;
        }
    }

    /// This library's point has been dropped: no process's connections are read by it any more.
    pub(super) fn unreadable(&self, path: &Path, library: Library) {
        let mut inner = self.lock();
        let dropped = Change::Unreadable {
            path: path.to_owned(),
            library,
        };
        inner.follow(&dropped);
        for (_, of_process) in inner.processes.iter_mut() {
            for mapped in &mut of_process.libraries {
                mapped.is_unreadable(path, library);
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
        }
    }

    #[test]
    fn a_dropped_point_reads_no_process_any_more() {
        let points = Points::default();
        let process = ProcessKey { pid: 7, start: 0 };
        points.map(process, mapped("/a", Some(1)));
        points.map(process, mapped("/b", Some(2)));
        points.unreadable(Path::new("/a"), Library::Openssl);
        let expected = [mapped("/b", Some(2)), mapped("/a", None)];
        assert_eq!(points.of_process(process), expected);
    }

    #[test]
    fn a_follower_has_the_same() {
        let there = Points::default();
        let here = Points::followed_by({
            let there = there.clone();
            move |change| there.apply(change.clone())
        });
        let process = ProcessKey { pid: 7, start: 0 };
        let attached = Attached {
            path: std::ffi::OsString::from_vec(b"/not \xff text".to_vec()).into(),
            library: Library::Openssl,
            version: None,
            kind: PointKind::KeyLog,
            file_offset: 5,
            state: State::Candidate,
            since: 1,
        };
        here.add(attached.clone());
        for path in ["/a", "/b"] {
            here.map(process, mapped(path, Some(1)));
        }
        here.looked_at(process);
        here.unreadable(Path::new("/a"), Library::Openssl);
        here.set_state(PointId(0), State::Dropped);
        here.set_state(PointId(9), State::Dropped);
        assert_eq!(here.all(), there.all());
        assert_eq!(there.all()[0].path, attached.path);
        assert_eq!(here.of_process(process), there.of_process(process));
        assert!(there.knows(process));
        here.clear();
        assert!(there.all().is_empty() && there.of_process(process).is_empty());
        assert!(!there.knows(process));
        here.add(attached.clone());
        assert_eq!(there.get(PointId(0)), Some(attached));
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
        points.map(process, mapped("/a", Some(3)));
        points.map(process, mapped("/b", None));
        assert_eq!(
            points.of_process(process),
            [mapped("/a", Some(3)), mapped("/b", None)]
        );
    }

    #[test]
    fn a_process_is_known_when_every_look_is_done() {
        let (points, process) = (Points::default(), ProcessKey { pid: 7, start: 0 });
        assert!(!points.knows(process));
        points.asked(process);
        points.asked(process);
        points.looked_at(process);
        assert!(!points.knows(process));
        points.looked_at(process);
        assert!(points.knows(process));
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
