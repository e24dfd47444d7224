//! The process that starts those that search, and starts them again.
//!
//! It has one thread, so that it may fork, and reads nothing that comes through the pipes.
//!
//! Invariant: it ends, and its children with it, when the other end of a pipe is closed.

use super::message::Answer;
use super::searcher;
use crate::kernel::bare;
use crate::privilege::pipe::Pipe;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid,
};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// One that lived for less is not started again at once.
const SHORT: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_millis(100);
const WAIT_MOST: Duration = Duration::from_secs(10);

struct Slot {
    pipe: Pipe,
    child: Option<Child>,
    wait: Duration,
    again: Instant,
}

struct Child {
    pid: Pid,
    handle: OwnedFd,
    since: Instant,
}

/// Why the process came back from [`supervise`].
pub enum Ended {
    /// The supervisor: nobody is there any more.
    Supervisor,
    /// One of its children.
    Searcher(Result<(), Box<dyn std::error::Error>>),
}

/// Keeps a searcher at each pipe. The process is locked down already.
///
/// # Errors
/// Those of poll.
pub fn supervise(pipes: [Pipe; 2], weaker: Vec<String>) -> Result<Ended, Errno> {
    let own = rustix::process::getpid();
    let [first, second] = pipes;
    // The other end is gone where it cannot be told.
    let _ = first.send(&Answer::Ready { weaker });
    let now = Instant::now();
    let slot = |pipe| Slot {
        pipe,
        child: None,
        wait: WAIT,
        again: now,
    };
    let mut slots = [slot(first), slot(second)];
    loop {
        for index in 0..slots.len() {
            if slots[index].child.is_some() || slots[index].again > Instant::now() {
                continue;
            }
            match bare::fork() {
                Ok(None) => {
                    let [first, second] = slots;
                    let (of_it, other) = match index {
                        0 => (first, second),
                        _ => (second, first),
                    };
                    // A searcher hears what is asked of it alone.
                    drop(other);
                    return Ok(Ended::Searcher(searcher::run(of_it.pipe, own)));
                }
                Ok(Some(pid)) => slots[index].begun(pid),
                Err(_) => slots[index].put_off(),
            }
        }
        if !wait(&slots)? {
            for child in slots.iter().filter_map(|slot| slot.child.as_ref()) {
                let _ = pidfd_send_signal(&child.handle, Signal::KILL);
            }
            return Ok(Ended::Supervisor);
        }
        slots.iter_mut().for_each(Slot::reap);
    }
}

impl Slot {
    fn begun(&mut self, pid: Pid) {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => {
                let _ = self.pipe.send(&Answer::Begun {
                    pid: pid.as_raw_nonzero().get().cast_unsigned(),
                });
                self.child = Some(Child {
                    pid,
                    handle,
                    since: Instant::now(),
                });
            }
            // It cannot be watched over; it ends with this process at the latest.
            Err(_) => self.put_off(),
        }
    }

    fn put_off(&mut self) {
        self.again = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(WAIT_MOST);
    }

    fn reap(&mut self) {
        let Some(child) = &self.child else { return };
        let Ok(Some((_, status))) = waitpid(Some(child.pid), WaitOptions::NOHANG) else {
            return;
        };
        if child.since.elapsed() < SHORT {
            self.put_off();
        } else {
            (self.wait, self.again) = (WAIT, Instant::now());
        }
        self.child = None;
        let _ = self.pipe.send(&Answer::Died {
            by_signal: status.terminating_signal(),
        });
    }
}

/// Waits until something happens, or a searcher is to be started; false if the other end of a pipe is closed.
fn wait(slots: &[Slot; 2]) -> Result<bool, Errno> {
    let mut watched: Vec<PollFd<'_>> = Vec::new();
    for slot in slots {
        // Its closing is always told.
        watched.push(PollFd::from_borrowed_fd(
            slot.pipe.as_fd(),
            PollFlags::empty(),
        ));
    }
    let children = slots.iter().filter_map(|slot| slot.child.as_ref());
    watched.extend(children.map(|child| PollFd::new(&child.handle, PollFlags::IN)));
    let missing = slots.iter().filter(|slot| slot.child.is_none());
    let soonest = missing
        .map(|slot| slot.again.saturating_duration_since(Instant::now()))
        .min();
    let timeout = soonest.and_then(|soonest| {
        let soonest = soonest + Duration::from_millis(1);
        Timespec::try_from(soonest).ok()
    });
    match poll(&mut watched, timeout.as_ref()) {
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error),
        Ok(_) => {
            let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
            let pipes = watched.iter().take(slots.len());
            Ok(!pipes
                .map(PollFd::revents)
                .any(|events| events.intersects(gone)))
        }
    }
}
