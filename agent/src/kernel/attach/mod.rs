//! Attaching to key-log points: a thread that hears from the probes what is executed and mapped, has unknown files
//! searched, and puts breakpoints where secrets pass.
//!
//! [`record`] is what the probes tell, [`breakpoint`] one breakpoint, [`processes`] who has what, [`findings`] what a file
//! holds, [`maps`] what is shared with the probes, [`ahead`] what is searched before it runs, `thread` the loop. Searching
//! is the business of `super::keylog::searches`.
//!
//! Invariant: nothing is attached by name or path: a point is an address in a process that the kernel told of, or that
//! `/proc` shows.
//! Invariant: the thread never opens or reads a file of anybody's: on a file system that hangs it would hang.

mod ahead;
pub mod breakpoint;
mod findings;
mod kept;
mod look;
pub mod maps;
mod places;
mod point;
mod processes;
pub mod record;
mod thread;

use super::{
    keeper::{Keeper, Lost},
    keylog::{Searched, Searches},
    points::Points,
    record::{PointId, ProcessKey},
};
use maps::AttachMaps;
pub use point::Way;
use rustix::event::{EventfdFlags, eventfd};
use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel},
    },
    thread::JoinHandle,
};

/// Requests that may wait.
const QUEUE: usize = 4_096;

pub(super) enum Request {
    /// Look at what this process has mapped.
    Look(ProcessKey),
    /// Look whether there are points to drop.
    Drops,
    /// Detach every point.
    Rest(Done),
    /// Begin anew, as at the start, with these processes.
    Return {
        processes: Vec<ProcessKey>,
        done: Done,
    },
    Stop,
}

/// Called by the thread when it has done what was asked.
pub type Done = Box<dyn FnOnce() + Send>;

/// Whether the fallback `EVP_KDF_derive` is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Where an OpenSSL 3 has no key-log point that could be found.
    WhenNeeded,
    /// Always, and no key-log point of OpenSSL: to try it.
    Only,
}

/// Wakes the thread.
#[derive(Clone)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(eventfd(0, flags)?)))
    }

    pub fn ring(&self) {
        // A counter that is full has woken it already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    fn hush(&self) {
        // Nothing there: nobody rang.
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

/// What the thread begins with.
pub struct Start {
    pub maps: AttachMaps,
    pub points: Points,
    pub fallback: Fallback,
    pub way: Way,
    /// Holds uprobes, and tells of those that are gone.
    pub keeper: Option<Arc<Keeper>>,
    pub lost: Option<Receiver<Lost>>,
    /// The agent's own processes, which are never attached to.
    pub own: Vec<u32>,
    /// Files are searched before they are executed.
    pub search_ahead: bool,
}

/// Handle of the thread.
pub struct Attacher {
    points: Points,
    requests: SyncSender<Request>,
    bell: Bell,
    /// Points to drop: beside the queue, because each is asked for once and must not be lost.
    drops: Arc<Mutex<BTreeSet<PointId>>>,
    resting: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Where searches leave what they found.
pub struct Results {
    sender: Sender<Searched>,
    bell: Bell,
    receiver: Receiver<Searched>,
}

impl Results {
    /// # Errors
    /// Those of eventfd(2).
    pub fn new() -> io::Result<Self> {
        let (sender, receiver) = channel();
        let bell = Bell::new()?;
        Ok(Self {
            sender,
            bell,
            receiver,
        })
    }

    /// Wakes the thread.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Takes a result to the thread.
    pub fn taker(&self) -> impl Fn(Searched) + Send + Sync + 'static {
        let (sender, bell) = (self.sender.clone(), self.bell.clone());
        move |searched| {
            // At the end nobody takes it any more.
            let _ = sender.send(searched);
            bell.ring();
        }
    }
}

impl Attacher {
    /// Looks at `processes` and the usual libraries, and waits a while for what is found, before it returns.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(
        start: Start,
        searches: Arc<Searches>,
        results: Results,
        processes: &[ProcessKey],
    ) -> io::Result<Self> {
        let (requests, receiver) = sync_channel(QUEUE);
        let (drops, resting) = (Arc::default(), Arc::default());
        let points = start.points.clone();
        let bell = results.bell.clone();
        let mut thread = thread::Thread::new(
            start,
            searches,
            results,
            receiver,
            Arc::clone(&drops),
            Arc::clone(&resting),
        )?;
        thread.begin(processes);
        let handle = std::thread::Builder::new()
            .name("attacher".into())
            .spawn(move || thread.run())?;
        Ok(Self {
            points,
            requests,
            bell,
            drops,
            resting,
            thread: Some(handle),
        })
    }

    /// This point did not prove itself. Ids of no point are ignored.
    pub fn drop_point(&self, point: PointId) {
        if self.points.get(point).is_some() {
            self.drops
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(point);
            // Where the queue is full, the next request leads there as well.
            let _ = self.send(Request::Drops);
        }
    }

    /// Detaches every point; what waits to be looked at is not looked at any more.
    pub fn rest(&self, done: Done) {
        self.resting.store(true, Ordering::Relaxed);
        self.send_surely(Request::Rest(done));
    }

    /// Comes back from a rest: looks and attaches as at the start.
    pub fn come_back(&self, processes: Vec<ProcessKey>, done: Done) {
        self.resting.store(false, Ordering::Relaxed);
        self.send_surely(Request::Return { processes, done });
    }

    /// Looks at what a process has mapped, beside what the probes tell. The worker has counted that it asked.
    pub fn look(&self, process: ProcessKey) {
        if !self.send(Request::Look(record::in_ticks(process))) {
            // Nothing was looked at: the worker must not wait for it.
            self.points.answered(process);
        }
    }

    /// False if the queue is full.
    fn send(&self, request: Request) -> bool {
        let taken = !matches!(self.requests.try_send(request), Err(TrySendError::Full(_)));
        self.bell.ring();
        taken
    }

    /// The queue has room soon, since the thread takes from it until its end.
    fn send_surely(&self, request: Request) {
        self.bell.ring();
        let _ = self.requests.send(request);
        self.bell.ring();
    }
}

impl Drop for Attacher {
    fn drop(&mut self) {
        self.send_surely(Request::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its hook.
            let _ = thread.join();
        }
    }
}
