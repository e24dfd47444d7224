//! Threads that work through what a [`Line`] gives them, each for one lane.
//!
//! A read of a file on a server that is dead may hang for ever, and its thread with it. So where a job waits and no
//! thread of its lane has become free for [`STALL`], another is started, up to a bound; those above the usual number end
//! when they have nothing to do.
//!
//! Invariant: jobs that hang hold nobody else, as long as the line lets no one owner have all threads.

use super::Lane;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long no thread may become free before another is started.
pub const STALL: Duration = Duration::from_secs(1);
/// How often that is looked at, while jobs wait.
const LOOK: Duration = Duration::from_millis(200);
/// How long a thread above the usual number waits for a job.
const IDLE: Duration = Duration::from_secs(10);
/// A search holds little on the stack.
const STACK: usize = 512 * 1024;

/// Gives the jobs.
pub trait Line: Send + 'static {
    type Job: Send;

    /// The next job of a lane, if one may be done now.
    fn next(&mut self, lane: Lane, now: Instant) -> Option<Self::Job>;

    /// Whether [`next`](Self::next) would give one.
    fn waits(&self, lane: Lane, now: Instant) -> bool;

    /// Nothing waits that could be done later, either.
    fn is_empty(&self) -> bool;
}

/// Threads of one lane: usually, and at most.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    pub usual: usize,
    pub most: usize,
}

struct State<L> {
    line: L,
    lanes: [Of; 3],
    stopped: bool,
}

#[derive(Clone, Copy, Default)]
struct Of {
    threads: usize,
    idle: usize,
    /// When a thread last took a job, or was started.
    moved: Option<Instant>,
}

impl<L: Line> State<L> {
    /// How long nothing needs to be looked at: what may be done depends on time, too.
    fn wait(&self) -> Duration {
        if self.line.is_empty() { IDLE } else { LOOK }
    }
}

/// See the module. Dropping it ends the threads that do nothing; those that hang are left to themselves.
pub struct Pool<L: Line>(Arc<Shared<L>>);

struct Shared<L: Line> {
    state: Mutex<State<L>>,
    changed: Condvar,
    /// Wakes the one that looks after the threads.
    waiting: Condvar,
    threads: [Threads; 3],
    begin: Box<dyn Fn(Lane) + Send + Sync>,
    work: Box<Work<L>>,
}

type Work<L> = dyn Fn(&Handle<L>, Lane, <L as Line>::Job) + Send + Sync;

/// What jobs may do with the line.
pub struct Handle<L: Line>(Arc<Shared<L>>);

impl<L: Line> Clone for Handle<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: Line> Handle<L> {
    /// Changes the line, and wakes whom it concerns.
    pub fn with<R>(&self, change: impl FnOnce(&mut L) -> R) -> R {
        let mut state = self.0.lock();
        let result = change(&mut state.line);
        drop(state);
        self.0.changed.notify_all();
        self.0.waiting.notify_all();
        result
    }

    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.0.lock().stopped
    }
}

impl<L: Line> Pool<L> {
    /// Starts the usual threads. Each calls `begin` once, then `work` for each job.
    ///
    /// # Errors
    /// If a thread cannot be made.
    pub fn start(
        line: L,
        threads: [Threads; 3],
        begin: impl Fn(Lane) + Send + Sync + 'static,
        work: impl Fn(&Handle<L>, Lane, L::Job) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let pool = Self(Arc::new(Shared {
            state: Mutex::new(State {
                line,
                lanes: [Of::default(); 3],
                stopped: false,
            }),
            changed: Condvar::new(),
            waiting: Condvar::new(),
            threads,
            begin: Box::new(begin),
            work: Box::new(work),
        }));
        for lane in Lane::ALL {
            for _ in 0..threads[lane as usize].usual {
                pool.0.lock().lanes[lane as usize].threads += 1;
                pool.0.spawn(lane)?;
            }
        }
        let shared = Arc::clone(&pool.0);
        std::thread::Builder::new()
            .name("finder-watch".into())
            .stack_size(STACK)
            .spawn(move || shared.look_after())?;
        Ok(pool)
    }

    #[must_use]
    pub fn handle(&self) -> Handle<L> {
        Handle(Arc::clone(&self.0))
    }

    /// Threads there are of a lane.
    #[must_use]
    pub fn threads(&self, lane: Lane) -> usize {
        self.0.lock().lanes[lane as usize].threads
    }
}

impl<L: Line> Drop for Pool<L> {
    fn drop(&mut self) {
        self.0.lock().stopped = true;
        self.0.changed.notify_all();
        self.0.waiting.notify_all();
    }
}

impl<L: Line> Shared<L> {
    fn lock(&self) -> MutexGuard<'_, State<L>> {
        // A panic elsewhere leaves plain values behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread is counted already.
    fn spawn(self: &Arc<Self>, lane: Lane) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("finder".into())
            .stack_size(STACK)
            .spawn(move || {
                (shared.begin)(lane);
                shared.serve(lane);
            });
        let mut state = self.lock();
        let of = &mut state.lanes[lane as usize];
        of.moved = Some(Instant::now());
        if spawned.is_err() {
            of.threads -= 1;
        }
        spawned.map(drop)
    }

    fn serve(self: &Arc<Self>, lane: Lane) {
        let handle = Handle(Arc::clone(self));
        let mut state = self.lock();
        let mut since = Instant::now();
        loop {
            let now = Instant::now();
            if state.stopped {
                state.lanes[lane as usize].threads -= 1;
                return;
            }
            if let Some(job) = state.line.next(lane, now) {
                state.lanes[lane as usize].moved = Some(now);
                drop(state);
                (self.work)(&handle, lane, job);
                state = self.lock();
                since = Instant::now();
                continue;
            }
            let wait = state.wait();
            let of = &mut state.lanes[lane as usize];
            if of.threads > self.threads[lane as usize].usual && since.elapsed() >= IDLE {
                of.threads -= 1;
                return;
            }
            of.idle += 1;
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.lanes[lane as usize].idle -= 1;
        }
    }

    fn look_after(self: &Arc<Self>) {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return;
            }
            let now = Instant::now();
            let waits = Lane::ALL.map(|lane| state.line.waits(lane, now));
            if !waits.contains(&true) {
                let wait = state.wait();
                let waited = self.waiting.wait_timeout(state, wait);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let mut more = Vec::new();
            for lane in Lane::ALL {
                let of = &mut state.lanes[lane as usize];
                let stalled = waits[lane as usize]
                    && of.idle == 0
                    && of.threads < self.threads[lane as usize].most
                    && of.moved.is_none_or(|moved| now - moved >= STALL);
                if stalled {
                    of.threads += 1;
                    more.push(lane);
                }
            }
            drop(state);
            for lane in more {
                // Where there is no room for one it is tried again.
                let _ = self.spawn(lane);
            }
            std::thread::sleep(LOOK);
            state = self.lock();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::mpsc::{Receiver, Sender, channel};

    struct Simple(VecDeque<(Lane, Option<Receiver<()>>, u32)>);

    impl Line for Simple {
        type Job = (Option<Receiver<()>>, u32);

        fn next(&mut self, lane: Lane, _: Instant) -> Option<Self::Job> {
            let at = self.0.iter().position(|job| job.0 == lane)?;
            self.0.remove(at).map(|(_, hang, number)| (hang, number))
        }

        fn waits(&self, lane: Lane, _: Instant) -> bool {
            self.0.iter().any(|job| job.0 == lane)
        }

        fn is_empty(&self) -> bool {
            self.0.is_empty()
        }
    }

    const THREADS: Threads = Threads { usual: 1, most: 4 };
    const PATIENCE: Duration = Duration::from_secs(60);

    fn pool() -> (Pool<Simple>, Receiver<u32>) {
        let (done, numbers) = channel();
        let done = Mutex::new(done);
        let work = move |_: &Handle<Simple>, _, (hang, number): (Option<Receiver<()>>, u32)| {
            if let Some(hang) = hang {
                let _ = hang.recv();
            }
            let _ = done.lock().unwrap().send(number);
        };
        let line = Simple(VecDeque::new());
        (
            Pool::start(line, [THREADS; 3], |_| (), work).unwrap(),
            numbers,
        )
    }

    /// A file system that is dead: the job ends when the other end is dropped.
    fn hanging(pool: &Pool<Simple>, lane: Lane, number: u32) -> Sender<()> {
        let (sender, receiver) = channel();
        pool.handle()
            .with(|line| line.0.push_back((lane, Some(receiver), number)));
        sender
    }

    #[test]
    fn what_hangs_holds_nobody_else() {
        let (pool, done) = pool();
        let first = hanging(&pool, Lane::Prompt, 1);
        let second = hanging(&pool, Lane::Prompt, 2);
        let push = |lane, number| {
            pool.handle()
                .with(|line| line.0.push_back((lane, None, number)))
        };
        push(Lane::Ahead, 3);
        assert_eq!(
            done.recv_timeout(PATIENCE),
            Ok(3),
            "another lane has its own threads"
        );
        push(Lane::Prompt, 4);
        assert_eq!(
            done.recv_timeout(PATIENCE),
            Ok(4),
            "more threads are started"
        );
        assert!(pool.threads(Lane::Prompt) >= 3);
        drop(second);
        assert_eq!(done.recv_timeout(PATIENCE), Ok(2));
        drop(first);
        assert_eq!(done.recv_timeout(PATIENCE), Ok(1));
    }

    #[test]
    fn threads_are_bounded() {
        let (pool, done) = pool();
        let hang: Vec<_> = (0..THREADS.most as u32 + 2)
            .map(|number| hanging(&pool, Lane::Large, number))
            .collect();
        let begin = Instant::now();
        while pool.threads(Lane::Large) < THREADS.most && begin.elapsed() < PATIENCE {
            std::thread::sleep(LOOK);
        }
        std::thread::sleep(2 * STALL);
        assert_eq!(pool.threads(Lane::Large), THREADS.most);
        drop(hang);
        for _ in 0..THREADS.most + 2 {
            done.recv_timeout(PATIENCE).unwrap();
        }
    }
}
