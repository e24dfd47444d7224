//! What is to be looked at, by owner, and the threads that look: listing and opening are input and output on file systems
//! of strangers, which may never answer.
//!
//! Each owner has one thread for folders and one for files that were just made, while there is something to do, so that
//! a file system that hangs holds its owner alone.
//!
//! Invariant: bounded: tasks in all and of one owner, and threads. What is over is not looked at ahead, and counted.

use super::{Key, Task};
use crate::kernel::bare;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tracing::debug;

/// Tasks that wait, of one key and in all.
const OF_ONE: usize = 1_024;
const OF_ALL: usize = 8_192;
const THREADS: usize = 32;
/// Bytes of a thread's stack.
const STACK: usize = 512 * 1024;
/// How long a thread waits for more of its owner before it ends.
const LINGER: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Queues {
    waiting: HashMap<Key, VecDeque<Task>>,
    total: usize,
    /// Keys that a thread looks after, each with what wakes it.
    served: HashMap<Key, Arc<Condvar>>,
    ended: bool,
}

/// See the module.
#[derive(Default)]
pub struct Desk {
    queues: Mutex<Queues>,
    lost: AtomicU64,
}

/// What a thread gets when it asks.
pub enum Next {
    Task(Task),
    /// Nothing came for so long as it wanted to wait.
    Nothing,
    End,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a task, and starts a thread for it if need be, which does `work`.
    pub fn put<W>(&self, key: Key, task: Task, work: impl FnOnce() -> W)
    where
        W: FnOnce(Key) + Send + 'static,
    {
        let mut queues = self.lock();
        let queue = queues.waiting.entry(key.clone()).or_default();
        let full = queue.len() >= OF_ONE;
        if full || queues.total >= OF_ALL || queues.ended {
            queues.forget_if_empty(&key);
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let Some(queue) = queues.waiting.get_mut(&key) {
            queue.push_back(task);
            queues.total += 1;
        }
        if let Some(bell) = queues.served.get(&key) {
            bell.notify_one();
            return;
        }
        if queues.served.len() >= THREADS {
            // Whoever is done first takes it over.
            return;
        }
        queues.served.insert(key.clone(), Arc::default());
        drop(queues);
        let work = work();
        let of = key.clone();
        let started = std::thread::Builder::new()
            .name("ahead".into())
            .stack_size(STACK)
            .spawn(move || {
                // It inherits the haste of the thread that attaches, and has none itself. Refused: slower for that one.
                let _ = bare::be_nice();
                work(of);
            });
        if let Err(error) = started {
            debug!(%error, "no thread to look ahead");
            let mut queues = self.lock();
            queues.served.remove(&key);
            let dropped = queues.waiting.remove(&key).map_or(0, |queue| queue.len());
            queues.total -= dropped;
            self.lost.fetch_add(dropped as u64, Ordering::Relaxed);
        }
    }

    /// The next task of a key that the caller serves; waits so long for one.
    pub fn next(&self, key: &Key, patience: Option<Duration>) -> Next {
        let mut queues = self.lock();
        let mut waited = false;
        loop {
            if queues.ended {
                return Next::End;
            }
            if let Some(task) = queues.take(key) {
                return Next::Task(task);
            }
            if waited {
                return Next::Nothing;
            }
            let Some(bell) = queues.served.get(key).map(Arc::clone) else {
                return Next::End;
            };
            let (held, timeout) = bell
                .wait_timeout(queues, patience.unwrap_or(LINGER))
                .unwrap_or_else(PoisonError::into_inner);
            queues = held;
            waited = timeout.timed_out();
        }
    }

    /// The caller is done with `key`: another that nobody serves, or the end of the thread.
    pub fn change(&self, key: &Key) -> Option<Key> {
        let mut queues = self.lock();
        if queues.waiting.contains_key(key) && !queues.ended {
            // It came while the caller turned to go.
            return Some(key.clone());
        }
        queues.served.remove(key);
        if queues.ended {
            return None;
        }
        let mut keys = queues.waiting.keys();
        let other = keys
            .find(|key| !queues.served.contains_key(*key))
            .cloned()?;
        queues.served.insert(other.clone(), Arc::default());
        Some(other)
    }

    /// Forgets everything that waits.
    pub fn clear(&self) {
        let mut queues = self.lock();
        queues.waiting.clear();
        queues.total = 0;
    }

    /// Every thread ends as soon as it is done with what it does.
    pub fn end(&self) {
        let mut queues = self.lock();
        queues.ended = true;
        queues.waiting.clear();
        queues.total = 0;
        queues.served.values().for_each(|bell| bell.notify_all());
    }

    /// Tasks that wait.
    pub fn waiting(&self) -> usize {
        self.lock().total
    }

    /// Tasks that were one too many.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Queues {
    fn take(&mut self, key: &Key) -> Option<Task> {
        let task = self.waiting.get_mut(key)?.pop_front();
        self.forget_if_empty(key);
        self.total -= usize::from(task.is_some());
        task
    }

    fn forget_if_empty(&mut self, key: &Key) {
        if self.waiting.get(key).is_some_and(VecDeque::is_empty) {
            self.waiting.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Lane, Line};
    use super::*;
    use crate::kernel::{owner::Owner, record::ProcessKey};
    use std::sync::mpsc::channel;

    fn key(name: &str) -> Key {
        (Owner::named(name), Lane::Folders)
    }

    fn task(pid: u32) -> Task {
        Task::Met(Line(vec![ProcessKey { pid, start: 1 }]), None)
    }

    /// One owner's thread never comes back; another's work is done all the same, and what the first has is bounded.
    #[test]
    fn who_hangs_holds_himself_alone() {
        let desk = Arc::new(Desk::default());
        let (hang, never) = channel::<()>();
        let never = Arc::new(Mutex::new(never));
        for pid in 0..2 * OF_ONE as u32 {
            let never = Arc::clone(&never);
            desk.put(key("a"), task(pid), || {
                move |_| {
                    let _ = never.lock().unwrap().recv();
                }
            });
        }
        assert_eq!(desk.waiting(), OF_ONE);
        assert_eq!(desk.lost(), OF_ONE as u64);
        let (done, other) = channel();
        let at = Arc::clone(&desk);
        desk.put(key("b"), task(7), || {
            move |key| {
                if let Next::Task(Task::Met(line, _)) = at.next(&key, None) {
                    done.send(line.process()).unwrap();
                }
            }
        });
        assert_eq!(other.recv(), Ok(7));
        drop(hang);
    }

    #[test]
    fn a_thread_goes_on_with_a_key_that_nobody_serves() {
        let desk = Desk::default();
        let stay = || |_| {};
        for number in 0..THREADS {
            desk.put(key(&number.to_string()), task(1), stay);
        }
        desk.put(key("over"), task(2), stay);
        assert!(matches!(
            desk.next(&key("0"), Some(Duration::ZERO)),
            Next::Task(_)
        ));
        assert!(matches!(
            desk.next(&key("0"), Some(Duration::ZERO)),
            Next::Nothing
        ));
        assert_eq!(desk.change(&key("0")), Some(key("over")));
        assert!(matches!(desk.next(&key("over"), None), Next::Task(_)));
        assert_eq!(desk.change(&key("over")), None);
        desk.end();
        assert!(matches!(desk.next(&key("1"), None), Next::End));
        assert_eq!(desk.change(&key("1")), None);
    }
}
