//! Which files are searched before they are executed, so that a program's first handshake is read.
//!
//! The attacher's thread says whom it has met and what was made ([`Ahead`]), which costs it no input or output; threads of
//! this module list folders ([`visits`], [`folders`], [`usual`]) and open what was made ([`made`]); what they find comes
//! back as [`Wanted`], for the search queue, at low priority. What a search finds belongs to the state of the file that
//! was opened, so that it does not matter what a path names later.
//!
//! Invariant: a thread that a file system holds is one of a single owner ([`desk`]).
//! Invariant: bounded: searches at a time and in a second, of one owner and in all ([`gate`]); tasks; folders; files of a
//! folder; how long a descriptor is kept.

mod bucket;
mod desk;
mod folders;
mod gate;
mod made;
mod usual;
mod view;
mod visits;

use super::{
    Bell,
    record::{Made, Part},
};
use crate::kernel::{keylog::FileState, owner::Owner, record::ProcessKey, scope::start_ticks};
use agent_common::abi::{self, TICK};
use bucket::Bucket;
use desk::Desk;
use gate::{Gate, Permit};
use lru::LruCache;
use rustix::io::Errno;
use std::{
    fs::File,
    io,
    num::NonZeroUsize,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::Instant,
};

/// States of files that were asked for, and are not asked for again.
const TRIED: NonZeroUsize = NonZeroUsize::new(32_768).unwrap();
/// Processes in a second whose folders are looked for, and as many at once after a pause.
const MET: f64 = 200.0;

/// Processes of which it is remembered who has forked them.
const PARENTS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// Processes of a [`Line`].
const LINE: usize = 5;

/// What a thread of this module looks after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    Folders,
    Made,
}

type Key = (Owner, Lane);

enum Task {
    /// A process has executed a program, by this name if that is known.
    Met(Line, Option<PathBuf>),
    /// It has mapped this part of an unknown file.
    Mapped(Line, Part),
    Made(Line, Made),
}

/// A process and those that it was forked from, as far as they are of the scope: what it was started for may be done
/// before anybody looks, and whoever has started it is there for longer, and sees the same.
#[derive(Clone, Debug)]
struct Line(Vec<ProcessKey>);

impl Line {
    /// Those that run, from the process itself on.
    fn running(&self) -> impl Iterator<Item = u32> {
        let runs = |process: &&ProcessKey| start_ticks(process.pid) == Some(process.start / TICK);
        self.0.iter().filter(runs).map(|process| process.pid)
    }

    fn process(&self) -> u32 {
        self.0.first().map_or(0, |process| process.pid)
    }
}

/// A file to be searched.
pub struct Wanted {
    pub owner: Owner,
    /// Before it is opened. By then it may be another.
    pub state: abi::File,
    pub open: Box<dyn FnOnce() -> io::Result<File> + Send>,
    pub ticket: Ticket,
}

/// Kept until the search is done.
pub struct Ticket {
    /// Device and inode number of the opened file, as the kernel has them.
    numbers: Arc<OnceLock<(u64, u64)>>,
    _permit: Permit,
}

impl Ticket {
    /// The state that was searched, as the probes name it.
    pub fn state(&self, searched: FileState) -> abi::File {
        let state = searched.as_kernel();
        match self.numbers.get() {
            Some(&(device, inode)) => abi::File {
                device,
                inode,
                ..state
            },
            None => state,
        }
    }
}

struct Shared {
    desk: Desk,
    gate: Arc<Gate>,
    visits: visits::Visits,
    tried: Mutex<LruCache<abi::File, ()>>,
    wanted: Sender<Wanted>,
    bell: Bell,
    resting: AtomicBool,
    /// Tasks under way and files that were found and not asked for.
    busy: AtomicU64,
}

/// Counts so many things as under way until it is dropped.
struct Busy(Arc<Shared>, u64);

impl Busy {
    fn new(shared: &Arc<Shared>, count: u64) -> Self {
        shared.busy.fetch_add(count, Ordering::Relaxed);
        Self(Arc::clone(shared), count)
    }

    fn less_one(&mut self) {
        if self.1 > 0 {
            self.1 -= 1;
            self.0.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Whether a file in this state was never asked for.
    fn is_new(&self, state: &abi::File) -> bool {
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        !tried.contains(state)
    }

    /// Asks for a search as soon as there is room for one. `open` gives the file with the kernel's numbers of device and
    /// inode. False at the end.
    fn want<F>(&self, key: &Key, state: abi::File, open: F) -> bool
    where
        F: FnOnce() -> io::Result<(File, (u64, u64))> + Send + 'static,
    {
        let Some(permit) = self.gate.enter(key) else {
            return false;
        };
        self.tried
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(state, ());
        let numbers = Arc::new(OnceLock::new());
        let told = Arc::clone(&numbers);
        let open = move || {
            let (file, numbers) = open()?;
            // Opened once: it was not set before.
            let _ = told.set(numbers);
            Ok(file)
        };
        let wanted = Wanted {
            owner: key.0.clone(),
            state,
            open: Box::new(open),
            ticket: Ticket {
                numbers,
                _permit: permit,
            },
        };
        let sent = self.wanted.send(wanted).is_ok();
        self.bell.ring();
        sent
    }

    fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
    }
}

/// The attacher's end.
pub struct Ahead {
    shared: Arc<Shared>,
    wanted: Receiver<Wanted>,
    met: Bucket,
    /// Who was forked from whom, by process id.
    parents: LruCache<u32, (ProcessKey, ProcessKey)>,
}

impl Ahead {
    pub fn new(bell: Bell) -> Self {
        let (sender, wanted) = channel();
        let shared = Shared {
            desk: Desk::default(),
            gate: Arc::new(Gate::new()),
            visits: visits::Visits::default(),
            tried: Mutex::new(LruCache::new(TRIED)),
            wanted: sender,
            bell,
            resting: AtomicBool::new(false),
            busy: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
            wanted,
            met: Bucket::full(MET, Instant::now()),
            parents: LruCache::new(PARENTS),
        }
    }

    /// A process of the scope has forked another.
    pub fn forked(&mut self, parent: ProcessKey, child: ProcessKey) {
        self.parents.put(child.pid, (child, parent));
    }

    /// A process of the scope is there, or has executed another program, which it asked for by `name`.
    pub fn met(&mut self, process: ProcessKey, name: Option<PathBuf>) {
        if self.met.take(Instant::now()) {
            let line = self.line(process);
            self.put(owner_of(&line), Lane::Folders, Task::Met(line, name));
        }
    }

    /// A process of the scope has mapped an unknown file.
    pub fn mapped(&mut self, process: ProcessKey, part: Part) {
        if self.met.take(Instant::now()) {
            let line = self.line(process);
            self.put(owner_of(&line), Lane::Folders, Task::Mapped(line, part));
        }
    }

    /// A process of the scope has made a file executable.
    pub fn made(&mut self, made: Made) {
        let line = self.line(made.process);
        self.put(owner_of(&line), Lane::Made, Task::Made(line, made));
    }

    fn line(&mut self, process: ProcessKey) -> Line {
        let mut line = vec![process];
        while let Some(last) = line.last()
            && line.len() < LINE
            && let Some((child, parent)) = self.parents.get(&last.pid)
            && child == last
        {
            line.push(*parent);
        }
        Line(line)
    }

    fn put(&self, owner: Owner, lane: Lane, task: Task) {
        let key = (owner, lane);
        self.shared.desk.put(key, task, || {
            let shared = Arc::clone(&self.shared);
            move |key| work(&shared, key)
        });
    }

    /// The next file to search.
    pub fn next(&self) -> Option<Wanted> {
        self.wanted.try_recv().ok()
    }

    /// Nothing is looked for any more.
    pub fn rest(&self) {
        self.shared.resting.store(true, Ordering::Relaxed);
        self.shared.desk.clear();
    }

    /// Begins anew: nothing that was found before is known any more.
    pub fn come_back(&self) {
        self.shared
            .tried
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.shared.visits.forget();
        self.shared.resting.store(false, Ordering::Relaxed);
    }

    /// What is to be looked at, and files that were found and not asked for.
    pub fn waiting(&self) -> u64 {
        self.shared.desk.waiting() as u64 + self.shared.busy.load(Ordering::Relaxed)
    }

    /// What was one too many to be looked at.
    pub fn lost(&self) -> u64 {
        self.shared.desk.lost()
    }
}

impl Drop for Ahead {
    /// The threads are not waited for: one may be held by a file system.
    fn drop(&mut self) {
        self.shared.resting.store(true, Ordering::Relaxed);
        self.shared.desk.end();
        self.shared.gate.close();
    }
}

/// Whose a line is.
fn owner_of(line: &Line) -> Owner {
    Owner::of(line.running().next().unwrap_or_default())
}

/// A thread's work: first for this key, then for others that nobody serves.
fn work(shared: &Arc<Shared>, mut key: Key) {
    loop {
        match key.1 {
            Lane::Folders => visits::serve(shared, &key),
            Lane::Made => made::serve(shared, &key),
        }
        match shared.desk.change(&key) {
            Some(next) => key = next,
            None => return,
        }
    }
}

/// A descriptor that waits for a search, until its time is over.
#[derive(Clone)]
struct Held {
    descriptor: Arc<Mutex<Option<OwnedFd>>>,
    until: Instant,
}

impl Held {
    fn new(descriptor: OwnedFd, until: Instant) -> Self {
        Self {
            descriptor: Arc::new(Mutex::new(Some(descriptor))),
            until,
        }
    }

    fn take(&self) -> io::Result<OwnedFd> {
        let mut descriptor = self
            .descriptor
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        descriptor.take().ok_or_else(|| Errno::STALE.into())
    }

    /// Lets go of it if its time is over. Whether it is still held.
    fn expire(&self, now: Instant) -> bool {
        let mut descriptor = self
            .descriptor
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if now >= self.until {
            *descriptor = None;
        }
        descriptor.is_some()
    }
}

#[cfg(test)]
mod tests;
