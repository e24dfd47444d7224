//! The bridge's thread, which knows what each process's bridge is about; what takes time is done by others
//! ([`super::attaching`]).

use super::{Attached, Bridges, LOOK, Why};
use crate::kernel::{keeper::Lost, probes::Probes, record::ProcessKey};
use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Requests that may wait.
const QUEUE: usize = 4_096;
/// How long the start waits for the bridges of the processes that were there. Later ones come while the agent works.
const START: Duration = Duration::from_secs(10);

pub enum Request {
    /// TLS whose begin was not seen passes through the process's socket of this inode number.
    Want {
        process: ProcessKey,
        socket: u64,
    },
    /// It does not, or not any more.
    Over {
        process: ProcessKey,
        socket: u64,
    },
    /// A process was looked at, and attached to.
    Attached(Attached),
    /// The keeper has lost these.
    Lost(Lost),
    /// Detach everything.
    Rest,
    /// Begin anew, as at the start, with these processes.
    Return(Vec<ProcessKey>),
    Stop,
}

/// Handle of the thread.
pub struct Bridge {
    requests: SyncSender<Request>,
    resting: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bridge {
    /// Gives those of these processes a bridge that may need one, then starts the thread. Bytes that pass before a
    /// bridge is there are missed, so this waits for them, but not for ever: a file of somebody's may hang.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(
        mut bridges: Bridges,
        probes: Arc<Mutex<Probes>>,
        processes: &[ProcessKey],
    ) -> io::Result<Self> {
        let (requests, receiver) = sync_channel(QUEUE);
        if let Some(keeper) = bridges.keeper.clone() {
            let requests = requests.clone();
            // Where the queue is full, the next look finds what is lost.
            keeper.tell(move |lost| drop(requests.try_send(Request::Lost(lost.clone()))));
        }
        // The thread takes from the queue until its end; then nobody needs to know.
        let attached = requests.clone();
        bridges.start(move |done| drop(attached.send(Request::Attached(done))))?;
        let resting = Arc::new(AtomicBool::new(false));
        bridges.begin(processes);
        let until = Instant::now() + START;
        while bridges.awaits()
            && let left = until.saturating_duration_since(Instant::now())
            && let Ok(request) = receiver.recv_timeout(left)
        {
            bridges.obey(request, &probes, &resting);
        }
        let thread = std::thread::Builder::new().name("bridge".into()).spawn({
            let resting = Arc::clone(&resting);
            move || run(bridges, &probes, &receiver, &resting)
        })?;
        Ok(Self {
            requests,
            resting,
            thread: Some(thread),
        })
    }

    /// Where the queue is full the connection stays unread, or its probes until the next look.
    pub fn ask(&self, request: Request) {
        let _ = self.requests.try_send(request);
    }

    pub fn rest(&self) {
        self.resting.store(true, Ordering::Relaxed);
        self.send(Request::Rest);
    }

    pub fn come_back(&self, processes: Vec<ProcessKey>) {
        self.resting.store(false, Ordering::Relaxed);
        self.send(Request::Return(processes));
    }

    /// The thread takes from the queue until its end, so that there is room soon.
    fn send(&self, request: Request) {
        let _ = self.requests.send(request);
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.send(Request::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its hook.
            let _ = thread.join();
        }
    }
}

fn run(
    mut bridges: Bridges,
    probes: &Mutex<Probes>,
    requests: &Receiver<Request>,
    resting: &AtomicBool,
) {
    loop {
        let request = requests.recv_timeout(LOOK);
        bridges.look(Instant::now(), probes);
        match request {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) | Ok(Request::Stop) => return,
            Ok(request) => bridges.obey(request, probes, resting),
        }
    }
}

impl Bridges {
    fn obey(&mut self, request: Request, probes: &Mutex<Probes>, resting: &AtomicBool) {
        match request {
            Request::Want { process, socket } => {
                if !resting.load(Ordering::Relaxed) {
                    let _ = self.want(process, socket, Why::Wanted);
                }
            }
            Request::Over { process, socket } => self.over(process, socket, probes),
            Request::Attached(attached) => self.attached(attached, probes),
            Request::Lost(lost) => self.lost(&lost, probes),
            Request::Rest => self.clear(probes),
            Request::Return(processes) => self.begin(&processes),
            // The end of the thread.
            Request::Stop => {}
        }
    }
}
