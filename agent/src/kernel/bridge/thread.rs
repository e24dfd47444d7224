//! The bridge's thread: attaching there takes tens of milliseconds, for which no breakpoint waits.

use super::{Bridges, LOOK};
use crate::kernel::{keeper::Lost, probes::Probes, record::ProcessKey};
use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Instant,
};

/// Requests that may wait.
const QUEUE: usize = 4_096;

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
    /// Gives those of these processes a bridge that may need one, then starts the thread.
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
        bridges.begin(processes, &probes);
        let resting = Arc::new(AtomicBool::new(false));
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
        let request = match requests.recv_timeout(LOOK) {
            Ok(request) => Some(request),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        bridges.look(Instant::now(), probes);
        match request {
            Some(Request::Want { process, socket }) if !resting.load(Ordering::Relaxed) => {
                bridges.want(process, socket, probes);
            }
            Some(Request::Want { .. }) | None => {}
            Some(Request::Over { process, socket }) => bridges.over(process, socket, probes),
            Some(Request::Lost(lost)) => bridges.lost(&lost, probes),
            Some(Request::Rest) => bridges.clear(probes),
            Some(Request::Return(processes)) => bridges.begin(&processes, probes),
            Some(Request::Stop) => return,
        }
    }
}
