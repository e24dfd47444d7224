//! Which file a process runs, and its digest, found off the hot path.
//!
//! A [`Request`] is made when exec is recorded. A worker opens the file (`/proc/PID/exe`; when the process has
//! ended, the name given to exec, within the root of the process, of its parent, or of the host), compares
//! (device, inode) with what exec recorded, and only then reads it. The result lands in a [`Slot`], where an
//! event may wait for it a bounded moment.
//!
//! Files are first opened with `O_PATH`, which has no effect on devices and pipes; only a regular file with the
//! recorded identity is opened for reading. Names are resolved within the other root (`RESOLVE_IN_ROOT`), so
//! that a link in a container cannot lead out of it. A file system that hangs holds a worker, and the others
//! go on; when all are held, digests are [`HashAbsent::Busy`] or [`HashAbsent::Pending`], and nothing else waits.
//!
//! Invariant: only what somebody may execute is hashed.
//! Invariant: a digest belongs to the (device, inode) that exec recorded and to one version of its content:
//! the file's times and size are the same before and after reading, and are part of the cache's key.

use super::procfs::ProcFs;
use crate::kernel::device::{self, file_id};
use crate::kernel::record::FileId;
use agent_common::event::{HashAbsent, Hex, Sha256};
use lru::LruCache;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::Digest;
use std::fs::{File, Metadata};
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

const WORKERS: usize = 2;
const QUEUE: usize = 1024;
const READ_SIZE: usize = 128 * 1024;

/// What may be spent on digests.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Whether files are hashed at all; paths are found in any case.
    pub enabled: bool,
    /// Larger files are not hashed.
    pub file_bytes: u64,
    /// Digests remembered.
    pub cached: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            enabled: true,
            file_bytes: 512 * 1024 * 1024,
            cached: 4096,
        }
    }
}

/// Which file to find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub pid: u32,
    pub parent: Option<u32>,
    /// As handed to exec.
    pub filename: Option<String>,
    /// As exec recorded it.
    pub file: FileId,
}

/// What is known of a program's file so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Path in the process's mount namespace.
    pub path: Option<String>,
    /// The file has no name any more.
    pub deleted: bool,
    /// User namespace of the process after exec.
    pub user_namespace: Option<u32>,
    /// Absent until it is settled.
    pub digest: Option<Result<Sha256, HashAbsent>>,
}

/// Where the answer to a request lands.
#[derive(Default)]
pub struct Slot {
    found: Mutex<Found>,
    settled: Condvar,
    requested: OnceLock<Instant>,
}

impl Slot {
    /// A slot that knows something already.
    #[must_use]
    pub fn with(found: Found) -> Self {
        Self {
            found: Mutex::new(found),
            ..Self::default()
        }
    }

    /// What is known; waits for the digest until `limit` has passed since it was requested.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Found {
        let found = self.lock();
        let left = self.requested.get().map_or(Duration::ZERO, |requested| {
            limit.saturating_sub(requested.elapsed())
        });
        if found.digest.is_some() || left.is_zero() {
            return found.clone();
        }
        self.settled
            .wait_timeout_while(found, left, |found| found.digest.is_none())
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .clone()
    }

    /// Calls `submit`, once per slot; further calls do nothing. Gives what it said.
    pub fn ask_once(&self, submit: impl FnOnce() -> bool) -> Option<bool> {
        if self.requested.get().is_some() || self.requested.set(Instant::now()).is_err() {
            return None;
        }
        let taken = submit();
        if !taken {
            self.settle(Err(HashAbsent::Busy));
        }
        Some(taken)
    }

    /// Takes over what another finder has found.
    pub fn land(&self, found: Found) {
        let mut known = self.lock();
        known.user_namespace = found.user_namespace.or(known.user_namespace);
        if found.path.is_some() {
            known.path = found.path;
            known.deleted = found.deleted;
        }
        drop(known);
        if let Some(digest) = found.digest {
            self.settle(digest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a worker's findings go, one after the other.
pub trait Landing: Send + Sync {
    fn user_namespace(&self, inode: Option<u32>);

    /// The file's path, and that it has no name any more.
    fn path(&self, path: String, deleted: bool);

    /// The last.
    fn settle(&self, digest: Result<Sha256, HashAbsent>);
}

impl Landing for Slot {
    fn user_namespace(&self, inode: Option<u32>) {
        self.lock().user_namespace = inode;
    }

    fn path(&self, path: String, deleted: bool) {
        let mut found = self.lock();
        found.path = Some(path);
        found.deleted = deleted;
    }

    fn settle(&self, digest: Result<Sha256, HashAbsent>) {
        self.lock().digest = Some(digest);
        self.settled.notify_all();
    }
}

type Job = (Request, Arc<dyn Landing>);

/// The workers.
pub struct Finder {
    queue: SyncSender<Job>,
}

impl Finder {
    /// Starts the workers; they end when the finder is dropped.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(proc: &ProcFs, limits: Limits) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let worker = Worker {
            proc: proc.clone(),
            limits,
            jobs: Arc::new(Mutex::new(jobs)),
            digests: Arc::new(Mutex::new(LruCache::new(
                NonZeroUsize::new(limits.cached).unwrap_or(NonZeroUsize::MIN),
            ))),
        };
        for number in 0..WORKERS {
            let worker = worker.clone();
            std::thread::Builder::new()
                .name(format!("executable-{number}"))
                .spawn(move || worker.run())?;
        }
        Ok(Self { queue })
    }

    /// False if too many are waiting: then nothing lands.
    pub fn submit(&self, request: Request, landing: Arc<dyn Landing>) -> bool {
        self.queue.try_send((request, landing)).is_ok()
    }
}

/// A file's content at one time: (file, size, modified, changed).
type Version = (FileId, u64, (i64, i64), (i64, i64));

fn version(metadata: &Metadata) -> Version {
    (
        file_id(metadata),
        metadata.size(),
        (metadata.mtime(), metadata.mtime_nsec()),
        // Unlike the modification time, nobody can set this one.
        (metadata.ctime(), metadata.ctime_nsec()),
    )
}

#[derive(Clone)]
struct Worker {
    proc: ProcFs,
    limits: Limits,
    jobs: Arc<Mutex<Receiver<Job>>>,
    digests: Arc<Mutex<LruCache<Version, Sha256>>>,
}

impl Worker {
    fn run(&self) {
        loop {
            let job = self
                .jobs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .recv();
            let Ok((request, landing)) = job else {
                return;
            };
            let digest = self.work(&request, &*landing);
            landing.settle(digest);
        }
    }

    fn work(&self, request: &Request, landing: &dyn Landing) -> Result<Sha256, HashAbsent> {
        // First of all what vanishes with the process.
        let opened = self.open(request);
        landing.user_namespace(self.proc.namespace(request.pid, "user"));
        let (fd, metadata) = opened?;
        let link = self.proc.own(&format!("self/fd/{}", fd.as_raw_fd()));
        if let Ok(path) = std::fs::read_link(&link) {
            let (path, deleted) = displayed(&path, metadata.nlink());
            landing.path(path, deleted);
        }
        if !self.limits.enabled {
            return Err(HashAbsent::Disabled);
        }
        if metadata.len() > self.limits.file_bytes {
            return Err(HashAbsent::TooLarge);
        }
        let version = version(&metadata);
        if let Some(digest) = self.cache().get(&version) {
            return Ok(*digest);
        }
        let file = File::open(link).map_err(|_| HashAbsent::Unreadable)?;
        let digest =
            digest(file, &version, self.limits.file_bytes).ok_or(HashAbsent::Unreadable)?;
        self.cache().put(version, digest);
        Ok(digest)
    }

    fn cache(&self) -> MutexGuard<'_, LruCache<Version, Sha256>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The recorded file, by any of the ways that lead to it.
    fn open(&self, request: &Request) -> Result<(OwnedFd, Metadata), HashAbsent> {
        let mut reason = HashAbsent::Gone;
        let mut check = |opened: Result<OwnedFd, Errno>| match opened {
            Ok(fd) => match metadata(&fd) {
                Some(metadata)
                    if may_be_executed(&metadata)
                        && device::is(
                            &fd,
                            file_id(&metadata),
                            request.file,
                            self.proc.root(),
                            request.pid,
                        ) =>
                {
                    Some((fd, metadata))
                }
                _ => {
                    reason = HashAbsent::Mismatch;
                    None
                }
            },
            Err(Errno::NOENT | Errno::SRCH) => None,
            Err(_) => {
                if reason == HashAbsent::Gone {
                    reason = HashAbsent::Unreadable;
                }
                None
            }
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let direct = openat(
            CWD,
            self.proc.path(request.pid, "exe"),
            flags,
            Mode::empty(),
        );
        if let Some(opened) = check(direct) {
            return Ok(opened);
        }
        let Some(filename) = &request.filename else {
            return Err(reason);
        };
        let by_process = [Some(request.pid), request.parent]
            .into_iter()
            .flatten()
            .map(|pid| {
                (
                    self.proc.path(pid, "root"),
                    Some(self.proc.path(pid, "cwd")),
                )
            });
        let by_host = std::iter::once((self.proc.own("self/root"), None));
        for (root, cwd) in by_process.chain(by_host) {
            let opened = open_in(&root, cwd.as_deref(), Path::new(filename), flags);
            if let Some(opened) = check(opened) {
                return Ok(opened);
            }
        }
        Err(reason)
    }
}

/// Nothing else is hashed: who asks may be the less privileged process, for which a digest of another file would be
/// a way to test guesses of its content.
fn may_be_executed(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.mode() & 0o111 != 0
}

/// `name` as a process with this root and working folder would open it.
fn open_in(root: &Path, cwd: Option<&Path>, name: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let root = openat(CWD, root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let name = if name.is_absolute() {
        name.to_owned()
    } else {
        std::fs::read_link(cwd.ok_or(Errno::NOENT)?)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOENT))?
            .join(name)
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(&root, &name, flags, Mode::empty(), resolve)
}

fn metadata(fd: &OwnedFd) -> Option<Metadata> {
    File::from(fd.as_fd().try_clone_to_owned().ok()?)
        .metadata()
        .ok()
}

/// The kernel marks removed files by ` (deleted)` behind the path; a name may end so too.
pub(super) fn displayed(path: &Path, names: u64) -> (String, bool) {
    let path = path.to_string_lossy();
    if names > 0 {
        return (path.into_owned(), false);
    }
    let name = path.strip_suffix(" (deleted)").unwrap_or(&path);
    (name.to_owned(), true)
}

/// `None` if it cannot be read, or is not the expected version before and after.
fn digest(mut file: File, expected: &Version, limit: u64) -> Option<Sha256> {
    let unchanged = |file: &File| file.metadata().is_ok_and(|now| version(&now) == *expected);
    if !unchanged(&file) {
        return None;
    }
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; READ_SIZE];
    let mut total = 0u64;
    loop {
        let count = file.read(&mut buffer).ok()?;
        if count == 0 {
            break;
        }
        total = total.saturating_add(count as u64);
        if total > limit {
            return None;
        }
        hasher.update(&buffer[..count]);
    }
    unchanged(&file).then(|| Hex(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::process::{Child, Command};

    fn finder(limits: Limits) -> Finder {
        Finder::start(&ProcFs::new(Path::new("/proc")), limits).unwrap()
    }

    fn ask(finder: &Finder, request: Request) -> Found {
        let slot = Arc::new(Slot::default());
        slot.ask_once(|| finder.submit(request, slot.clone()));
        slot.wait(Duration::from_secs(20))
    }

    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A copy of `sleep` in a folder of its own, and a process that runs it.
    fn sleeper(folder: &Path) -> (PathBuf, Sleeper) {
        let path = folder.join("own-sleep");
        // Not by this process: another test's child, between fork and exec, would hold the file open for writing.
        let copied = Command::new("cp").arg("/bin/sleep").arg(&path).status();
        assert!(copied.unwrap().success());
        let child = Sleeper(Command::new(&path).arg("60").spawn().unwrap());
        (path, child)
    }

    fn sha256(path: &Path) -> Sha256 {
        Hex(sha2::Sha256::digest(std::fs::read(path).unwrap()).into())
    }

    fn request(child: &Sleeper, path: &Path) -> Request {
        Request {
            pid: child.0.id(),
            parent: Some(std::process::id()),
            filename: Some(path.to_str().unwrap().to_owned()),
            file: file_id(&std::fs::metadata(path).unwrap()),
        }
    }

    #[test]
    fn a_running_program() {
        let folder = tempfile::tempdir().unwrap();
        let (path, child) = sleeper(folder.path());
        let found = ask(&finder(Limits::default()), request(&child, &path));
        assert_eq!(found.path.as_deref(), path.to_str());
        assert!(!found.deleted);
        assert_eq!(found.digest, Some(Ok(sha256(&path))));
        let own = ProcFs::new(Path::new("/proc")).own_namespace("user");
        assert_eq!(found.user_namespace, own);
    }

    #[test]
    fn a_deleted_program() {
        let folder = tempfile::tempdir().unwrap();
        let (path, child) = sleeper(folder.path());
        let (request, expected) = (request(&child, &path), sha256(&path));
        std::fs::remove_file(&path).unwrap();
        let found = ask(&finder(Limits::default()), request);
        assert_eq!(found.path.as_deref(), path.to_str());
        assert!(found.deleted);
        assert_eq!(found.digest, Some(Ok(expected)));
    }

    #[test]
    fn a_program_that_has_ended_is_found_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, child) = sleeper(folder.path());
        let mut ended = request(&child, &path);
        drop(child);
        let finder = finder(Limits::default());
        assert_eq!(ask(&finder, ended.clone()).digest, Some(Ok(sha256(&path))));
        ended.parent = None;
        assert_eq!(
            ask(&finder, ended.clone()).digest,
            Some(Ok(sha256(&path))),
            "by the host's root"
        );
        std::fs::remove_file(&path).unwrap();
        let found = ask(&finder, ended);
        assert_eq!(found.digest, Some(Err(HashAbsent::Gone)));
        assert_eq!(found.path, None);
    }

    #[test]
    fn a_replaced_file_is_not_taken_for_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let (path, child) = sleeper(folder.path());
        let ended = request(&child, &path);
        drop(child);
        let other = folder.path().join("other");
        std::fs::write(&other, "something else").unwrap();
        std::fs::rename(&other, &path).unwrap();
        let found = ask(&finder(Limits::default()), ended);
        assert_eq!(found.digest, Some(Err(HashAbsent::Mismatch)));
        assert_eq!(found.path, None);
    }

    #[test]
    fn a_pid_of_another_program_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (path, child) = sleeper(folder.path());
        let mut wrong = request(&child, &path);
        wrong.file = file_id(&std::fs::metadata("/bin/sh").unwrap());
        wrong.filename = None;
        assert_eq!(
            ask(&finder(Limits::default()), wrong).digest,
            Some(Err(HashAbsent::Mismatch))
        );
    }

    #[test]
    fn pipes_and_devices_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(CWD, &path, Mode::from_raw_mode(0o644)).unwrap();
        let request = Request {
            pid: u32::MAX,
            parent: None,
            filename: Some(path.to_str().unwrap().to_owned()),
            file: file_id(&std::fs::metadata(&path).unwrap()),
        };
        // Opening a pipe for reading would wait for a writer.
        assert_eq!(
            ask(&finder(Limits::default()), request).digest,
            Some(Err(HashAbsent::Mismatch))
        );
    }

    #[test]
    fn what_nobody_may_execute_is_not_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets");
        std::fs::write(&path, "a secret").unwrap();
        let request = Request {
            pid: u32::MAX,
            parent: None,
            filename: Some(path.to_str().unwrap().to_owned()),
            file: file_id(&std::fs::metadata(&path).unwrap()),
        };
        let found = ask(&finder(Limits::default()), request);
        assert_eq!(found.digest, Some(Err(HashAbsent::Mismatch)));
        assert_eq!(found.path, None);
    }

    #[test]
    fn limits_hold() {
        let folder = tempfile::tempdir().unwrap();
        let (path, child) = sleeper(folder.path());
        let small = Limits {
            file_bytes: 100,
            ..Limits::default()
        };
        let found = ask(&finder(small), request(&child, &path));
        assert_eq!(found.digest, Some(Err(HashAbsent::TooLarge)));
        assert_eq!(found.path.as_deref(), path.to_str());
        let off = Limits {
            enabled: false,
            ..Limits::default()
        };
        let found = ask(&finder(off), request(&child, &path));
        assert_eq!(found.digest, Some(Err(HashAbsent::Disabled)));
        assert_eq!(found.path.as_deref(), path.to_str());
    }

    #[test]
    fn too_many_requests_are_refused() {
        // No worker ever takes a job.
        let (queue, _jobs) = sync_channel(1);
        let finder = Finder { queue };
        let job = || Request {
            pid: 1,
            parent: None,
            filename: None,
            file: FileId {
                device: 0,
                inode: 0,
            },
        };
        let slots: Vec<_> = (0..3).map(|_| Arc::new(Slot::default())).collect();
        let taken = |slot: &Arc<Slot>| slot.ask_once(|| finder.submit(job(), slot.clone()));
        let taken: Vec<_> = slots.iter().map(taken).collect();
        assert_eq!(taken, [Some(true), Some(false), Some(false)]);
        assert_eq!(slots[2].ask_once(|| unreachable!("asked twice")), None);
        let begin = Instant::now();
        assert_eq!(
            slots[0].wait(Duration::from_millis(50)).digest,
            None,
            "pending"
        );
        assert!(begin.elapsed() >= Duration::from_millis(40));
        assert_eq!(
            slots[1].wait(Duration::from_secs(9)).digest,
            Some(Err(HashAbsent::Busy))
        );
        let begin = Instant::now();
        let _ = slots[0].wait(Duration::from_millis(50));
        assert!(
            begin.elapsed() < Duration::from_millis(40),
            "waits only once per program"
        );
    }
}
