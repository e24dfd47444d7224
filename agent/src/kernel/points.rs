//! The key-log points that are attached, and which TLS libraries each process has.
//!
//! Written by the attacher's thread, read by the pipeline's. A point is a candidate until a secret from it opens a
//! record; one that keeps giving secrets which open nothing is dropped and reported.
//!
//! Invariant: bounded: processes are forgotten least recently used first.

use super::{
    keylog::{Library, PointKind},
    record::{PointId, ProcessKey},
};
use crate::flow::Nanos;
use agent_common::abi::TICK;
use lru::LruCache;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Candidate,
    Proven,
    Dropped,
}

/// One attached point.
#[derive(Clone, Debug)]
pub struct Attached {
    pub path: PathBuf,
    pub library: Library,
    pub version: Option<String>,
    pub kind: PointKind,
    pub file_offset: u64,
    pub state: State,
    pub since: Nanos,
}

/// A TLS library that a process has mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    pub library: Library,
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

struct Inner {
    points: Vec<Attached>,
    processes: LruCache<(u32, u64), OfProcess>,
}

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
        })))
    }
}

impl Points {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves plain values behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ids are given out in order, as the probes' cookies are.
    pub(crate) fn add(&self, attached: Attached) {
        self.lock().points.push(attached);
    }

    pub(crate) fn map(&self, process: ProcessKey, mapped: Mapped) {
        let mut inner = self.lock();
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
    pub(super) fn asked(&self, process: ProcessKey) {
        let mut inner = self.lock();
        let known = inner
            .processes
            .get_or_insert_mut(coarse(process), OfProcess::default);
        known.awaited = known.awaited.saturating_add(1);
    }

    /// A look that was asked for is done, whatever was found.
    pub(super) fn looked_at(&self, process: ProcessKey) {
        let mut inner = self.lock();
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

    pub fn set_state(&self, id: PointId, state: State) {
        if let Some(point) = self.lock().points.get_mut(id.0 as usize) {
            point.state = state;
        }
    }

    /// This library's point has been dropped: no process's connections are read by it any more.
    pub(super) fn unreadable(&self, path: &Path, library: Library) {
        for (_, of_process) in self.lock().processes.iter_mut() {
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
