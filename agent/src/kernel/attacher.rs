//! The thread that looks for key-log points and attaches to them: at start in the usual library folders and in the
//! running processes of the scope, then whenever a process in scope maps a file that was not looked at. It keeps the
//! bridges (`super::bridge`) as well. While the agent rests (`crate::budget`) nothing is attached; after it the thread
//! begins anew.
//!
//! Invariant: each file is looked at once between two rests; attaching never waits for the pipeline, nor the pipeline for it.

use super::{
    bridge::{self, Bridges},
    decode, device,
    keylog::{Finder, Found, Point, PointKind, discover},
    points::{Attached, Mapped, Points, State},
    probes::Probes,
    record::{FileId, PointId, ProcessKey},
};
use agent_common::abi;
use aya::programs::uprobe::UProbeLinkId;
use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Instant,
};
use tracing::{debug, info, warn};

/// Requests that may wait. A full queue forgets the file, so that its next mapping asks again.
const QUEUE: usize = 4_096;
/// Files whose findings are kept in memory.
const FILES: usize = 65_536;
/// `libcrypto`s that are kept open for the fallback.
const FALLBACKS: usize = 256;

pub enum Request {
    /// Look at the files that this process has mapped. `file` is what the probe reported, if one did.
    Process {
        process: ProcessKey,
        file: Option<abi::File>,
        /// What exec said that it runs.
        executable: Option<(FileId, PathBuf)>,
    },
    /// TLS whose begin was not seen passes through the process's socket of this inode number.
    Bridge {
        process: ProcessKey,
        socket: u64,
    },
    /// It does not, or not any more.
    BridgeOver {
        process: ProcessKey,
        socket: u64,
    },
    /// Look whether there are points to drop.
    Drops,
    /// Detach every point.
    Rest(Done),
    /// Begin anew, as at the start: the usual folders, then these processes.
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

/// Handle of the thread.
pub struct Attacher {
    points: Points,
    requests: SyncSender<Request>,
    /// Points to drop: beside the queue, because each is asked for once and must not be lost.
    drops: Arc<Mutex<BTreeSet<PointId>>>,
    resting: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Worker {
    probes: Arc<Mutex<Probes>>,
    finder: Finder,
    points: Points,
    fallback: Fallback,
    /// What a file turned out to hold.
    known: HashMap<FileId, Vec<Mapped>>,
    links: HashMap<PointId, UProbeLinkId>,
    /// `libcrypto`s that were seen, for when the fallback is needed. They stay open: in a container's mount namespace
    /// the same path is another file, where the point's offset may lie within an instruction.
    fallbacks: Vec<(PathBuf, File, Point)>,
    fallback_wanted: bool,
    bridges: Bridges,
    drops: Arc<Mutex<BTreeSet<PointId>>>,
    /// Nothing is to be attached, or looked at, until the next [`Request::Return`].
    resting: Arc<AtomicBool>,
}

impl Attacher {
    /// Looks through the usual folders and `processes` before it returns, then starts the thread.
    pub fn start(
        probes: Arc<Mutex<Probes>>,
        finder: Finder,
        points: Points,
        fallback: Fallback,
        bridges: Bridges,
        processes: &[ProcessKey],
    ) -> std::io::Result<Self> {
        let mut worker = Worker {
            probes,
            finder,
            points,
            fallback,
            known: HashMap::new(),
            links: HashMap::new(),
            fallbacks: Vec::new(),
            fallback_wanted: false,
            bridges,
            drops: Arc::default(),
            resting: Arc::default(),
        };
        worker.begin(processes);
        let points = worker.points.clone();
        let (drops, resting) = (Arc::clone(&worker.drops), Arc::clone(&worker.resting));
        let (requests, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("attacher".into())
            .spawn(move || worker.run(&receiver))?;
        Ok(Self {
            points,
            requests,
            drops,
            resting,
            thread: Some(thread),
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
            let _ = self.requests.try_send(Request::Drops);
        }
    }

    /// Detaches every point; what waits to be looked at is not looked at any more.
    pub fn rest(&self, done: Done) {
        self.resting.store(true, Ordering::Relaxed);
        // The queue has room soon, since resting answers at once what waits in it.
        let _ = self.requests.send(Request::Rest(done));
    }

    /// Comes back from a rest: searches and attaches as at the start. The points that were known are forgotten.
    pub fn come_back(&self, processes: Vec<ProcessKey>, done: Done) {
        self.resting.store(false, Ordering::Relaxed);
        let _ = self.requests.send(Request::Return { processes, done });
    }

    /// False if the queue is full.
    pub fn ask(&self, request: Request) -> bool {
        let process = match &request {
            Request::Process { process, .. } => Some(*process),
            _ => None,
        };
        if let Some(process) = process {
            self.points.asked(process);
        }
        let taken = !matches!(self.requests.try_send(request), Err(TrySendError::Full(_)));
        if let (false, Some(process)) = (taken, process) {
            self.points.looked_at(process);
        }
        taken
    }
}

impl Drop for Attacher {
    fn drop(&mut self) {
        // The thread takes from the queue until it sees this, or has ended already.
        let _ = self.requests.send(Request::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its hook.
            let _ = thread.join();
        }
    }
}

impl Worker {
    fn begin(&mut self, processes: &[ProcessKey]) {
        for path in discover::usual_libraries() {
            if self.is_resting() {
                return;
            }
            self.library(&path);
        }
        for process in processes {
            if !self.is_resting() {
                self.process(*process);
            }
            self.points.looked_at(*process);
        }
        if !self.is_resting() {
            self.bridges.begin(processes, &self.probes);
        }
        self.save();
    }

    fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
    }

    fn run(mut self, requests: &Receiver<Request>) {
        loop {
            let request = match requests.recv_timeout(bridge::LOOK) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            self.bridges.look(Instant::now(), &self.probes);
            let Some(request) = request else { continue };
            let drops =
                std::mem::take(&mut *self.drops.lock().unwrap_or_else(PoisonError::into_inner));
            drops.into_iter().for_each(|point| self.drop_point(point));
            match request {
                Request::Process { process, .. } if self.is_resting() => {
                    self.points.looked_at(process);
                }
                Request::Process {
                    process,
                    file,
                    executable,
                } => {
                    let looked = self.process(process);
                    if let (false, Some((id, path))) = (looked, executable) {
                        self.gone(process, id, &path);
                    }
                    self.points.looked_at(process);
                    if let (false, Some(file)) = (looked, file) {
                        self.lock(|probes| probes.forget_file(file));
                    }
                }
                Request::Bridge { .. } if self.is_resting() => {}
                Request::Bridge { process, socket } => {
                    self.bridges.want(process, socket, &self.probes);
                }
                Request::BridgeOver { process, socket } => {
                    self.bridges.over(process, socket, &self.probes);
                }
                // Done already.
                Request::Drops => {}
                Request::Rest(done) => {
                    self.bridges.clear(&self.probes);
                    self.detach_all();
                    done();
                }
                Request::Return { processes, done } => {
                    self.points.clear();
                    self.known.clear();
                    self.fallbacks.clear();
                    self.fallback_wanted = false;
                    self.begin(&processes);
                    done();
                }
                Request::Stop => break,
            }
        }
        self.save();
    }

    fn lock<R>(&self, f: impl FnOnce(&mut Probes) -> R) -> R {
        f(&mut self.probes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn save(&mut self) {
        if let Err(problem) = self.finder.cache_mut().save() {
            debug!(%problem, "the findings were not cached");
        }
    }

    /// Looks at what a process has mapped; false if it is gone.
    fn process(&mut self, process: ProcessKey) -> bool {
        let mappings = match discover::files_of_process(process.pid) {
            // A process that is about to end has no mappings any more.
            Ok(mappings) if !mappings.is_empty() => mappings,
            Ok(_) => return false,
            Err(error) => {
                debug!(%error, "mappings were not looked at");
                return false;
            }
        };
        for mapping in mappings {
            if !self.known.contains_key(&mapping.id) {
                let file = match mapping.open() {
                    Ok(file) => file,
                    Err(error) => {
                        debug!(%error, "a mapped file was not looked at");
                        continue;
                    }
                };
                let attach_path = file.attach_path();
                let found = self.file(&mapping.path, &file.file, &attach_path);
                self.remember(mapping.id, found);
            }
            for mapped in self.known.get(&mapping.id).into_iter().flatten() {
                self.points.map(process, mapped.clone());
            }
        }
        true
    }

    /// The process has ended already: its program may still be found by the path that exec was given, in this mount
    /// namespace, if that is the file that exec opened.
    fn gone(&mut self, process: ProcessKey, executable: FileId, path: &Path) {
        if !self.known.contains_key(&executable)
            && path.is_absolute()
            && let Ok(file) = discover::open_regular(path)
            && let Ok(metadata) = file.metadata()
            && device::is(
                &file,
                &metadata,
                executable,
                Path::new("/proc"),
                process.pid,
            )
        {
            let found = self.file(path, &file, path);
            self.remember(executable, found);
        }
        for mapped in self.known.get(&executable).into_iter().flatten() {
            self.points.map(process, mapped.clone());
        }
    }

    fn library(&mut self, path: &Path) {
        let file = match discover::open_regular(path) {
            Ok(file) => file,
            Err(error) => {
                debug!(path = %path.display(), %error, "a library was not looked at");
                return;
            }
        };
        let Ok(metadata) = file.metadata() else {
            return;
        };
        let id = device::file_id(&metadata);
        if self.known.contains_key(&id) {
            return;
        }
        let found = self.file(path, &file, path);
        self.remember(id, found);
    }

    fn remember(&mut self, id: FileId, found: Vec<Mapped>) {
        if self.known.len() >= FILES {
            self.known.clear();
        }
        self.known.insert(id, found);
    }

    /// Searches one file and attaches to what is found.
    fn file(&mut self, path: &Path, file: &File, attach_path: &Path) -> Vec<Mapped> {
        let found = match self.finder.look_at_file(file) {
            Ok(found) => found,
            Err(error) => {
                debug!(path = %path.display(), %error, "not searched");
                return Vec::new();
            }
        };
        let mut mapped: Vec<Mapped> = found
            .unread
            .iter()
            .map(|unread| Mapped {
                library: unread.library,
                path: path.into(),
                attached: None,
            })
            .collect();
        for point in self.wanted(path, file, &found) {
            match self.attach(path, attach_path, &point) {
                Some(since) => {
                    mapped.retain(|known| known.library != point.library);
                    mapped.push(Mapped {
                        library: point.library,
                        path: path.into(),
                        attached: Some(since),
                    });
                }
                None => mapped.push(Mapped {
                    library: point.library,
                    path: path.into(),
                    attached: None,
                }),
            }
        }
        mapped
    }

    fn wanted(&mut self, path: &Path, file: &File, found: &Found) -> Vec<Point> {
        let mut wanted: Vec<Point> = found.key_log_points().cloned().collect();
        if self.fallback == Fallback::Only {
            wanted.retain(|point| point.library.name() != "openssl");
            self.fallback_wanted = true;
        }
        if let Some(point) = found.fallback() {
            if self.fallback_wanted {
                wanted.push(point.clone());
            } else if self.fallbacks.len() < FALLBACKS
                && let Ok(file) = file.try_clone()
            {
                self.fallbacks.push((path.to_owned(), file, point.clone()));
            }
        }
        if found.wants_fallback() && !self.fallback_wanted {
            self.fallback_wanted = true;
            for (path, file, point) in std::mem::take(&mut self.fallbacks) {
                self.attach(&path, &discover::descriptor_path(&file), &point);
            }
        }
        wanted
    }

    fn attach(&mut self, path: &Path, attach_path: &Path, point: &Point) -> Option<u64> {
        let attached =
            self.lock(|probes| probes.attach_point(attach_path, point.kind, point.file_offset));
        let (id, link) = match attached {
            Ok(attached) => attached,
            Err(error) => {
                warn!(path = %path.display(), %error, "a key-log point could not be attached");
                return None;
            }
        };
        let since = decode::now();
        self.links.insert(id, link);
        self.points.add(Attached {
            path: path.into(),
            library: point.library,
            version: point.version.clone(),
            kind: point.kind,
            file_offset: point.file_offset,
            state: State::Candidate,
            since,
        });
        info!(
            path = %path.display(),
            library = point.library.name(),
            offset = format_args!("{:#x}", point.file_offset),
            fallback = point.kind == PointKind::KdfDerive,
            votes = point.how.votes(),
            "key-log point attached"
        );
        Some(since)
    }

    fn detach_all(&mut self) {
        for (id, link) in std::mem::take(&mut self.links) {
            if let Err(error) = self.lock(|probes| probes.detach_point(id, link)) {
                warn!(%error, "a key-log point could not be detached");
            }
        }
    }

    fn drop_point(&mut self, id: PointId) {
        let Some(link) = self.links.remove(&id) else {
            return;
        };
        if let Err(error) = self.lock(|probes| probes.detach_point(id, link)) {
            warn!(%error, "a key-log point could not be detached");
        }
        self.points.set_state(id, State::Dropped);
        if let Some(point) = self.points.get(id) {
            self.points.unreadable(&point.path, point.library);
            for mapped in self.known.values_mut().flatten() {
                mapped.is_unreadable(&point.path, point.library);
            }
            warn!(
                path = %point.path.display(),
                library = point.library.name(),
                "key-log point dropped: its secrets opened no record"
            );
        }
    }
}
