//! The privileged process's side of the finder: hands files over, waits, and checks what comes back.
//!
//! A file that was being searched when a searcher ended is searched once more, alone; where that ends too, the file is to
//! blame and is not searched again in this state.
//!
//! Invariant: of an answer nothing is believed that could harm: each point lies in code of the descriptor that was
//! handed over, and what is needed of the headers is read here ([`Headers`]).
//! Invariant: a call ends, however the finder behaves.

use super::message::{Answer, Ask};
use super::{Class, Lane, SearchError};
use crate::kernel::keylog::elf::FileSource;
use crate::kernel::keylog::finder::Found;
use crate::kernel::keylog::headers::Headers;
use crate::kernel::keylog::state::FileState;
use crate::privilege::pipe::{Error, Pipe};
use lru::LruCache;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::Shutdown;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// How long the finder may take to begin.
const BEGIN: Duration = Duration::from_secs(20);
/// How much longer than the search itself an answer is waited for.
const GRACE: Duration = Duration::from_secs(5);
/// Searches under way at a pipe, those included whose answer nobody waits for any more. Far below what a socket takes.
const UNDER_WAY: usize = 64;
/// Files remembered that a searcher ended over.
const SUSPECTS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// How long the finder is given to end.
const END: Duration = Duration::from_secs(2);

/// Why there is no finder.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the finder cannot be started: {0}")]
    Start(#[from] io::Error),
    #[error("the finder cannot be talked to: {0}")]
    Pipe(#[from] Error),
    #[error("the finder did not begin within {} s", BEGIN.as_secs())]
    Late,
    #[error("the finder did not say that it is locked down")]
    Unready,
}

/// See the module. Dropping it ends the finder.
#[derive(Debug)]
pub struct Client {
    child: Mutex<Child>,
    weaker: Vec<String>,
    /// For all files, and for those that a searcher ended over.
    many: Arc<End>,
    alone: Arc<End>,
    suspects: Mutex<LruCache<FileState, Suspicion>>,
    most: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    /// A searcher ended while it had this file and perhaps others.
    Suspect,
    /// A searcher ended that had this file alone.
    Deadly,
}

struct Request<'a> {
    file: &'a File,
    hint: Option<&'a Found>,
    lane: Lane,
    patience: Duration,
}

/// One pipe.
#[derive(Debug)]
struct End {
    pipe: Pipe,
    state: Mutex<State>,
    answered: Condvar,
    listening: Once,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    searches: HashMap<u64, Search>,
    searcher: Option<u32>,
    gone: Option<String>,
}

#[derive(Debug)]
enum Search {
    Awaited,
    /// Nobody waits for it any more.
    Left,
    Done(Result<Box<Found>, SearchError>),
}

impl Client {
    /// Starts `program` (this process's own executable) with the hidden command `finder`. No thread is made before the
    /// first search.
    ///
    /// # Errors
    /// If it cannot be started, or does not lock itself down.
    pub fn start(program: &Path, account: Option<(u32, u32)>) -> Result<Self, StartError> {
        let (many, their_many) = Pipe::pair()?;
        let (alone, their_alone) = Pipe::pair()?;
        let mut command = Command::new(program);
        command
            .arg("finder")
            .env_clear()
            .stdin(Stdio::from(their_many))
            .stdout(Stdio::from(their_alone));
        if let Some((user, group)) = account {
            command.args([format!("--user={user}"), format!("--group={group}")]);
        }
        let child = command.spawn()?;
        // The command keeps its copies of the other ends.
        drop(command);
        let mut client = Self {
            child: Mutex::new(child),
            weaker: Vec::new(),
            many: End::new(many),
            alone: End::new(alone),
            suspects: Mutex::new(LruCache::new(SUSPECTS)),
            most: Duration::MAX,
        };
        let until = Instant::now() + BEGIN;
        match client.many.first(until)? {
            Answer::Ready { weaker } => client.weaker = weaker,
            _ => return Err(StartError::Unready),
        }
        for end in [&client.many, &client.alone] {
            match end.first(until)? {
                Answer::Begun { pid } => end.lock().searcher = Some(pid),
                _ => return Err(StartError::Unready),
            }
        }
        Ok(client)
    }

    /// With a bound on how long a search is waited for, if that is shorter than what the search itself may take.
    #[must_use]
    pub fn waiting_at_most(mut self, most: Duration) -> Self {
        self.most = most;
        self
    }

    /// What this kernel could not do for the finder.
    #[must_use]
    pub fn weaker(&self) -> &[String] {
        &self.weaker
    }

    /// The finder's processes as far as they are there, the supervisor first.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let supervisor = lock(&self.child).id();
        let searchers = [&self.many, &self.alone].map(|end| end.lock().searcher);
        [Some(supervisor), searchers[0], searchers[1]]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Searches a file, by the descriptor at hand, or confirms that `hint` is true of it. Waits.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn search(
        &self,
        file: &File,
        hint: Option<&Found>,
        class: Class,
    ) -> Result<Found, SearchError> {
        let flags = rustix::fs::fcntl_getfl(file).map_err(io::Error::from);
        let flags = flags.map_err(crate::kernel::keylog::LookError::from)?;
        if flags.contains(OFlags::PATH) || flags & OFlags::RWMODE != OFlags::RDONLY {
            return Err(SearchError::Writable);
        }
        let state = FileState::of(file)?;
        let lane = Lane::of(class, state.size);
        let request = Request {
            file,
            hint,
            lane,
            patience: (lane.limits().time + GRACE).min(self.most),
        };
        let mut suspicion = lock(&self.suspects).get(&state).copied();
        if suspicion.is_none() {
            match self.many.search(&request) {
                Err(SearchError::Died) => suspicion = Some(self.suspect(state, Suspicion::Suspect)),
                outcome => return checked(file, outcome?),
            }
        }
        if suspicion == Some(Suspicion::Deadly) {
            return Err(SearchError::Deadly);
        }
        match self.alone.search_alone(&request) {
            Err(SearchError::Died) => {
                self.suspect(state, Suspicion::Deadly);
                Err(SearchError::Deadly)
            }
            outcome => {
                let found = checked(file, outcome?)?;
                lock(&self.suspects).pop(&state);
                Ok(found)
            }
        }
    }

    fn suspect(&self, state: FileState, suspicion: Suspicion) -> Suspicion {
        lock(&self.suspects).put(state, suspicion);
        suspicion
    }
}

/// The answer, if it can be true of the file.
fn checked(file: &File, mut found: Found) -> Result<Found, SearchError> {
    let look = |error: io::Error| SearchError::Look(error.into());
    let source = FileSource::new(file).map_err(look)?;
    let headers = Headers::read(&source).map_err(look)?;
    let headers = headers.ok_or(SearchError::Untrue)?;
    if !headers.agree(&found) {
        return Err(SearchError::Untrue);
    }
    found.code_start = headers.code_start();
    Ok(found)
}

impl Drop for Client {
    fn drop(&mut self) {
        for end in [&self.many, &self.alone] {
            // It is told that this side is gone; so is the thread that listens.
            let _ = rustix::net::shutdown(end.pipe.as_fd(), Shutdown::Both);
        }
        let mut child = lock(&self.child);
        let begin = Instant::now();
        while begin.elapsed() < END {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
        // It was stopped, perhaps. Where this may not be done, it ends as soon as it goes on.
        if child.kill().is_ok() {
            let _ = child.wait();
        }
    }
}

impl End {
    fn new(pipe: Pipe) -> Arc<Self> {
        Arc::new(Self {
            pipe,
            state: Mutex::default(),
            answered: Condvar::new(),
            listening: Once::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The next message, before there is a thread that listens.
    fn first(&self, until: Instant) -> Result<Answer, StartError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut watched = [PollFd::from_borrowed_fd(self.pipe.as_fd(), PollFlags::IN)];
            let left = Timespec::try_from(left).map_err(|_| StartError::Late)?;
            return match poll(&mut watched, Some(&left)) {
                Ok(0) => Err(StartError::Late),
                // A signal that is for the main loop.
                Err(Errno::INTR) => continue,
                Ok(_) => Ok(self.pipe.receiver().receive()?),
                Err(error) => Err(StartError::Start(error.into())),
            };
        }
    }

    fn listen(self: &Arc<Self>) {
        self.listening.call_once(|| {
            let end = Arc::clone(self);
            let listening = std::thread::Builder::new()
                .name("finder-answers".into())
                .spawn(move || end.hear());
            if let Err(error) = listening {
                self.lock().gone = Some(error.to_string());
            }
        });
    }

    fn hear(&self) {
        let mut receiver = self.pipe.receiver();
        loop {
            let answer = receiver.receive::<Answer>();
            let mut state = self.lock();
            match answer {
                Ok(Answer::Searched { number, outcome }) => {
                    let search = state.searches.get_mut(&number);
                    match search {
                        Some(search @ Search::Awaited) => {
                            *search = Search::Done(outcome.map_err(SearchError::Failed));
                        }
                        Some(Search::Left) => drop(state.searches.remove(&number)),
                        // Asked of one that has ended, answered by the next.
                        Some(Search::Done(_)) | None => {}
                    }
                }
                Ok(Answer::Begun { pid }) => state.searcher = Some(pid),
                Ok(Answer::Died { .. }) => {
                    state.searcher = None;
                    state.fail(|| SearchError::Died);
                }
                // What is none is no answer: the search runs out of time.
                Ok(Answer::Ready { .. }) | Err(Error::Message(_)) => {}
                Err(error) => {
                    let why = error.to_string();
                    state.gone = Some(why.clone());
                    state.fail(|| SearchError::Gone(why.clone()));
                }
            }
            let gone = state.gone.is_some();
            drop(state);
            self.answered.notify_all();
            if gone {
                return;
            }
        }
    }

    fn search(self: &Arc<Self>, request: &Request<'_>) -> Result<Found, SearchError> {
        let number = self.begin(UNDER_WAY)?;
        self.await_answer(number, request)
    }

    /// While no other search is under way.
    fn search_alone(self: &Arc<Self>, request: &Request<'_>) -> Result<Found, SearchError> {
        let until = Instant::now() + request.patience;
        let number = loop {
            match self.begin(1) {
                Err(SearchError::Busy) if Instant::now() < until => {
                    let state = self.lock();
                    let waited = self
                        .answered
                        .wait_timeout(state, Duration::from_millis(100));
                    drop(waited);
                }
                begun => break begun?,
            }
        };
        self.await_answer(number, request)
    }

    fn begin(self: &Arc<Self>, most: usize) -> Result<u64, SearchError> {
        self.listen();
        let mut state = self.lock();
        if let Some(why) = &state.gone {
            return Err(SearchError::Gone(why.clone()));
        }
        if state.searches.len() >= most {
            return Err(SearchError::Busy);
        }
        state.next += 1;
        let number = state.next;
        state.searches.insert(number, Search::Awaited);
        Ok(number)
    }

    fn await_answer(&self, number: u64, request: &Request<'_>) -> Result<Found, SearchError> {
        let ask = Ask::Search {
            number,
            lane: request.lane,
            hint: request.hint.map(|hint| Box::new(hint.clone())),
        };
        let until = Instant::now() + request.patience;
        if let Err(error) = self.pipe.send_with(&ask, request.file.as_fd()) {
            self.lock().searches.remove(&number);
            self.answered.notify_all();
            return Err(match error {
                Error::Stuck => SearchError::Busy,
                error => SearchError::Gone(error.to_string()),
            });
        }
        let mut state = self.lock();
        loop {
            if let Some(Search::Done(_)) = state.searches.get(&number)
                && let Some(Search::Done(outcome)) = state.searches.remove(&number)
            {
                drop(state);
                self.answered.notify_all();
                return outcome.map(|found| *found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.searches.insert(number, Search::Left);
                return Err(SearchError::NoAnswer(request.patience));
            }
            let waited = self.answered.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    /// What is under way has no answer.
    fn fail(&mut self, why: impl Fn() -> SearchError) {
        self.searches
            .retain(|_, search| !matches!(search, Search::Left));
        for search in self.searches.values_mut() {
            if matches!(search, Search::Awaited) {
                *search = Search::Done(Err(why()));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves plain values behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::keylog::tests::{Compiled, LIBRARY, look};

    /// A finder that was taken over says what it likes.
    #[test]
    fn lies_are_refused() {
        let compiled = Compiled::new(LIBRARY, "c", &["-shared", "-fPIC", "-O2", "-Wl,-Bsymbolic"]);
        let file = File::open(&compiled.stripped_path).unwrap();
        let found = look(&compiled.stripped).unwrap();
        assert_eq!(checked(&file, found.clone()).unwrap(), found);
        let mut moved = found.clone();
        moved.code_start = Some(7);
        assert_eq!(checked(&file, moved).unwrap(), found);
        let mut elsewhere = found.clone();
        elsewhere.points[0].file_offset = 1;
        assert!(matches!(
            checked(&file, elsewhere),
            Err(SearchError::Untrue)
        ));
        let mut larger = found;
        larger.size += 1;
        assert!(matches!(checked(&file, larger), Err(SearchError::Untrue)));
    }
}
