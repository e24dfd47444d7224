//! The searches that the privileged process asks for: a queue by owner, threads that open the files and wait for the
//! finder's process, and what earlier searches found.
//!
//! A job goes through two steps: the file is opened and its state taken (its server may hang already then), and, if
//! nothing is known of that state, it is searched. Whose turn it is says [`queue`]; that what hangs holds no other is the
//! business of [`pool`](super::process::pool).
//!
//! Invariant: every job that was taken is answered once, unless the searches are dropped before; what was not taken is
//! answered at once, with the reason. Invariant: the one who asks never waits.

mod queue;

pub use queue::{Queue, Shares, Taken};

use super::cache::{Cache, CacheProblem};
use super::elf::FileSource;
use super::finder::{Found, LookError};
use super::headers::Headers;
use super::process::client::Client;
use super::process::pool::{Handle, Line, Pool, Threads};
use super::process::{Class, Failure, Lane, SearchError};
use super::state::{FileState, Seen};
use crate::kernel::{bare, owner::Owner};
use lru::LruCache;
use queue::Ticket;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::debug;

/// Threads of each lane; the finder's process has as many.
const THREADS: [Threads; 3] = [
    Threads { usual: 3, most: 24 },
    Threads { usual: 1, most: 4 },
    Threads { usual: 1, most: 4 },
];
/// Files remembered that cannot be searched.
const FAILED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// How often what was found is written to the disk, if there is anything new.
const SAVE: Duration = Duration::from_secs(30);

/// Opens the file of a job. Called on a thread that may wait.
pub type Open = Box<dyn FnOnce() -> Result<File, LookError> + Send>;

/// A file to be searched.
pub struct Job {
    /// The caller's name for it: comes back with the answer.
    pub token: u64,
    pub owner: Owner,
    pub class: Class,
    pub open: Open,
}

/// The answer to a [`Job`].
#[derive(Debug)]
pub struct Searched {
    pub token: u64,
    /// Of the file as it was searched; `None` if it was not opened.
    pub state: Option<FileState>,
    pub outcome: Result<Arc<Found>, Reason>,
    /// The state is enough to know the content again: another file in this state needs no search.
    pub cacheable: bool,
    /// Nothing was searched, since the state was known.
    pub known: bool,
}

/// Which bound the queue has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Owner,
    All,
}

/// Why a file was not searched.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    #[error("its owner has too many files waiting to be searched")]
    OwnerFull,
    #[error("too many files wait to be searched")]
    Full,
    #[error("the agent has no descriptor left to open it")]
    NoDescriptor,
    #[error("it cannot be opened: {0}")]
    Open(LookError),
    #[error("it was changed while it was searched")]
    Changed,
    #[error(transparent)]
    Search(#[from] SearchError),
}

impl From<LookError> for Reason {
    fn from(error: LookError) -> Self {
        match error.errno() {
            Some(Errno::MFILE | Errno::NFILE) => Self::NoDescriptor,
            _ => Self::Open(error),
        }
    }
}

/// Who searches; the finder's process, but for tests.
pub trait Search: Send + Sync + 'static {
    /// # Errors
    /// Why there is no answer.
    fn search(&self, file: &File, hint: Option<&Found>, class: Class)
    -> Result<Found, SearchError>;
}

impl Search for Client {
    fn search(
        &self,
        file: &File,
        hint: Option<&Found>,
        class: Class,
    ) -> Result<Found, SearchError> {
        Self::search(self, file, hint, class)
    }
}

impl<S: Search + ?Sized> Search for Arc<S> {
    fn search(
        &self,
        file: &File,
        hint: Option<&Found>,
        class: Class,
    ) -> Result<Found, SearchError> {
        (**self).search(file, hint, class)
    }
}

/// A job on its way.
struct Step {
    token: u64,
    class: Class,
    what: What,
}

enum What {
    Closed(Open),
    Opened(File, Seen),
}

/// See the module. Dropping it leaves what waits unanswered, and saves what was found.
pub struct Searches {
    pool: Pool<Queue<Step>>,
    shared: Arc<Shared>,
}

struct Shared {
    search: Box<dyn Search>,
    cache: Mutex<Cache>,
    /// Files that cannot be searched: not tried again in this state.
    failed: Mutex<LruCache<FileState, Failure>>,
    saved: Mutex<Instant>,
    answer: Box<dyn Fn(Searched) + Send + Sync>,
}

impl<J: Send + 'static> Line for Queue<J> {
    type Job = Taken<J>;

    fn next(&mut self, lane: Lane, now: Instant) -> Option<Self::Job> {
        Self::next(self, lane, now)
    }

    fn waits(&self, lane: Lane, now: Instant) -> bool {
        Self::waits(self, lane, now)
    }

    fn is_empty(&self) -> bool {
        self.waiting() == 0
    }
}

impl Searches {
    /// `answer` is called on other threads, and by [`ask`](Self::ask) itself for what is refused.
    ///
    /// # Errors
    /// If a thread cannot be made.
    pub fn start(
        search: impl Search,
        cache: Cache,
        shares: Shares,
        answer: impl Fn(Searched) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            search: Box::new(search),
            cache: Mutex::new(cache),
            failed: Mutex::new(LruCache::new(FAILED)),
            saved: Mutex::new(Instant::now()),
            answer: Box::new(answer),
        });
        let work = Arc::clone(&shared);
        let pool = Pool::start(
            Queue::new(shares),
            THREADS,
            // The finder's process does the work; here threads open files. What has time makes way for what has not, but
            // not for everybody: these threads share a queue with the one that attaches.
            |lane| {
                if lane != Lane::Prompt {
                    // Where the kernel refuses, it competes with the others: slower for them, and not wrong.
                    let _ = bare::be_nice();
                }
            },
            move |line, lane, taken| work.work(line, lane, taken),
        )?;
        Ok(Self { pool, shared })
    }

    /// Takes a job, or answers it at once. Does not wait.
    pub fn ask(&self, job: Job) {
        let lane = Lane::of(job.class, 0);
        let step = Step {
            token: job.token,
            class: job.class,
            what: What::Closed(job.open),
        };
        let pushed = self
            .pool
            .handle()
            .with(|queue| queue.push(&job.owner, lane, step, Instant::now()));
        if let Err((full, step)) = pushed {
            self.shared.refuse(
                step.token,
                match full {
                    Full::Owner => Reason::OwnerFull,
                    Full::All => Reason::Full,
                },
            );
        }
    }

    /// What is known of a file in this state, without a search.
    #[must_use]
    pub fn known(&self, state: &FileState) -> Option<Arc<Found>> {
        self.shared.cache().by_state(state)
    }

    /// What a file holds. Waits for the search if it is not known.
    #[must_use]
    pub fn find(&self, file: &File) -> Option<Arc<Found>> {
        let seen = Seen::of(file).ok()?;
        match self.shared.known(&seen) {
            Some(known) => known.ok(),
            None => self.shared.look(file, Class::Prompt, seen).ok(),
        }
    }

    /// Jobs that wait, those under way not counted.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pool.handle().with(|queue| queue.waiting())
    }

    /// Writes what was found to the disk, if there is anything new. May wait for the disk.
    ///
    /// # Errors
    /// Why it was not written.
    pub fn save(&self) -> Result<(), CacheProblem> {
        let saving = self.shared.cache().saving();
        saving.map_or(Ok(()), |saving| saving.write())
    }
}

impl Drop for Searches {
    fn drop(&mut self) {
        if let Err(problem) = self.save() {
            debug!(%problem, "the findings were not cached");
        }
    }
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        lock(&self.cache)
    }

    fn work(&self, line: &Handle<Queue<Step>>, lane: Lane, taken: Taken<Step>) {
        let Taken { owner, ticket, job } = taken;
        match job.what {
            What::Closed(open) => self.open(line, &owner, ticket, (job.token, job.class), open),
            What::Opened(file, seen) => {
                let searched = self.search(job.token, job.class, file, seen);
                self.done(line, &owner, ticket, searched);
            }
        }
        if lane == Lane::Ahead || line.with(|queue| queue.waiting()) == 0 {
            self.save_now_and_then();
        }
    }

    fn open(
        &self,
        line: &Handle<Queue<Step>>,
        owner: &Owner,
        ticket: Ticket,
        (token, class): (u64, Class),
        open: Open,
    ) {
        let opened = open().map_err(Reason::from).and_then(|file| {
            let seen = Seen::of(&file).map_err(Reason::from)?;
            Ok((file, seen))
        });
        let (file, seen) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                let searched = Searched::not_opened(token, reason);
                return self.done(line, owner, ticket, searched);
            }
        };
        if let Some(outcome) = self.known(&seen) {
            let searched = Searched {
                token,
                state: Some(seen.state),
                cacheable: outcome.is_ok(),
                outcome,
                known: true,
            };
            // On this thread: what a file's server does when it is closed may hang.
            drop(file);
            return self.done(line, owner, ticket, searched);
        }
        let (lane, size) = (Lane::of(class, seen.state.size), seen.state.size);
        let step = Step {
            token,
            class,
            what: What::Opened(file, seen),
        };
        let now = Instant::now();
        line.with(|queue| {
            queue.done(owner, ticket, now);
            queue.push_open(owner, lane, size, step, now);
        });
    }

    /// What an earlier search said of a file in this state.
    fn known(&self, seen: &Seen) -> Option<Result<Arc<Found>, Reason>> {
        if !seen.lasting {
            return None;
        }
        if let Some(found) = self.cache().by_state(&seen.state) {
            return Some(Ok(found));
        }
        let failure = lock(&self.failed).get(&seen.state).copied()?;
        Some(Err(SearchError::Failed(failure).into()))
    }

    fn search(&self, token: u64, class: Class, file: File, seen: Seen) -> Searched {
        let outcome = self.look(&file, class, seen);
        if let Err(Reason::Search(SearchError::Failed(failure))) = &outcome
            && seen.lasting
            && failure.would_come_again()
        {
            lock(&self.failed).put(seen.state, *failure);
        }
        Searched {
            token,
            state: Some(seen.state),
            cacheable: outcome.is_ok() && seen.lasting,
            outcome,
            known: false,
        }
    }

    fn look(&self, file: &File, class: Class, seen: Seen) -> Result<Arc<Found>, Reason> {
        let look = |error: io::Error| SearchError::Look(error.into());
        let source = FileSource::new(file).map_err(look)?;
        let Some(headers) = Headers::read(&source).map_err(look)? else {
            return Err(SearchError::Failed(Failure::NotElf).into());
        };
        let build = headers.build();
        let hint = self.cache().by_build(&build);
        let found = self.search.search(file, hint.as_deref(), class)?;
        // The same state before and after: it was searched as a whole.
        if Seen::of(file).map_err(SearchError::from)?.state != seen.state {
            return Err(Reason::Changed);
        }
        let found = match hint {
            // Containers of one image share what was found.
            Some(hint) if *hint == found => hint,
            _ => Arc::new(found),
        };
        let state = seen.lasting.then_some(seen.state);
        self.cache().keep(state, Some(build), &found);
        Ok(found)
    }

    /// Answers before the owner may have more: whoever waits for answers sees them in that order.
    fn done(&self, line: &Handle<Queue<Step>>, owner: &Owner, ticket: Ticket, searched: Searched) {
        if !line.has_stopped() {
            (self.answer)(searched);
        }
        line.with(|queue| queue.done(owner, ticket, Instant::now()));
    }

    fn refuse(&self, token: u64, reason: Reason) {
        (self.answer)(Searched::not_opened(token, reason));
    }

    fn save_now_and_then(&self) {
        let mut saved = lock(&self.saved);
        if saved.elapsed() < SAVE {
            return;
        }
        *saved = Instant::now();
        drop(saved);
        let saving = self.cache().saving();
        if let Some(saving) = saving
            && let Err(problem) = saving.write()
        {
            debug!(%problem, "the findings were not cached");
        }
    }
}

impl Searched {
    fn not_opened(token: u64, reason: Reason) -> Self {
        Self {
            token,
            state: None,
            outcome: Err(reason),
            cacheable: false,
            known: false,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves plain values behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
