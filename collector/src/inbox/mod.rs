//! The durable queue between the network and the segments: an event is in it once, or is not acknowledged.
//!
//! Design: one SQLite database (bundled, so that every host has the same, tried version) in write-ahead mode with
//! `synchronous=FULL`, in a folder of its own. One thread writes; whatever waits when it begins a transaction shares
//! the transaction's one fsync (group commit), so that many senders cost little more than one. What is committed is
//! kept in memory, too, because it is searched until the store has sealed it; the limits bound both.
//!
//! Batches are split, joined, repeated and reordered on the way here (413, crashes, collectors in between). So every
//! (agent, epoch) keeps the ranges of sequences that were ever received, coalesced, and an append stores only what is
//! in none of them, in the same transaction. What is missing between ranges is a [`Hole`]: visible until it is filled,
//! and, after a grace, told of once by an event of the collector itself.
//!
//! Files: `inbox.db` (with `-wal` and `-shm`), `lock`.
//!
//! | table | holds |
//! |---|---|
//! | `entries` | one row per append that stored something: when, whose, NDJSON (zstd with checksum). Ids are never used again |
//! | `sources` | each (agent, epoch) that was ever heard of |
//! | `ranges` | sequences received of a source, for ever; each knows where the hole in front of it begins |
//! | `quarantine` | what was acknowledged and is no event, with its reason; bounded by bytes, the oldest leaves |
//!
//! Invariant: what is acknowledged survives power loss, and is stored once.
//! Invariant: full and failing disks are answers, never the end of the process; what failed was not acknowledged.
//! Invariant: memory is bounded by [`Limits`] and the senders' own bound; ranges are on the disk alone.

mod database;
mod folder;
mod hole;
#[cfg(test)]
mod kill;
mod own;
mod packed;
mod quarantine;
mod ranges;
mod room;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

pub use hole::Hole;
pub use own::Identity;
pub use packed::{Lines, Packed};
pub use quarantine::{Form, PIECE as QUARANTINED_BYTES, Quarantined, Refused};

use crate::event::{Event, EventKey};
use agent_common::event::{Body, Time};
use room::Room;
use rusqlite::Connection;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc};
use std::time::Duration;
use tokio::sync::{broadcast, oneshot};
use writer::{Job, Writer};

/// Committed entries that a subscriber may be behind before it loses some.
const SUBSCRIPTION: usize = 4_096;
/// Larger batches are compressed beside the callers' threads.
const INLINE_BYTES: usize = 64 * 1024;

/// What may wait until it is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of JSON, with what memory needs beside it.
    pub bytes: u64,
    pub events: u64,
    /// Bytes of what is no event that are kept; the oldest leave.
    pub quarantine: u64,
}

/// The events of one append that were new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Ascending, never used again.
    pub id: i64,
    /// Nanoseconds since the Unix epoch.
    pub received: i64,
    /// Who sent them, as the door knows it.
    pub origin: Arc<str>,
    pub events: Vec<Event>,
}

/// What came of an append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    pub stored: usize,
    pub duplicates: usize,
}

/// Nothing of the append is stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("the inbox holds as much as it may; again in {} s", retry_after.as_secs())]
    Full { retry_after: Duration },
    /// The disk may be full, or failing.
    #[error("the inbox cannot be written: {0}")]
    Disk(String),
    #[error("the inbox is closed")]
    Closed,
}

/// Why an inbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Folder {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} belongs to user {owner}, not to the collector's user {own}")]
    Owner { path: PathBuf, owner: u32, own: u32 },
    #[error("{path} is writable by others (mode {mode:04o}); `chmod 0700 {path}` would do")]
    Writable { path: PathBuf, mode: u32 },
    #[error("another collector uses {path}")]
    Locked { path: PathBuf },
    #[error("{path} is not an inbox of tokentrail")]
    NotAnInbox { path: PathBuf },
    #[error("{path} has version {found}, of a later collector than this one, which knows {known}")]
    Version {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error(
        "{path} is damaged: {reason}; it may hold acknowledged events that are nowhere else: restore it, or move it \
         away to begin with an empty one"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("the inbox's database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("the inbox's thread: {0}")]
    Thread(std::io::Error),
    #[error("the inbox: {0}")]
    Append(#[from] AppendError),
}

/// A cheap handle. When the last one goes, what waits is committed and the database closed.
#[derive(Clone)]
pub struct Inbox {
    inner: Arc<Inner>,
}

struct Inner {
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<std::thread::JoinHandle<()>>,
    shared: Arc<Shared>,
    /// For questions; the writer is not waited for.
    reader: Mutex<Connection>,
}

/// What the handles and the writer have in common.
struct Shared {
    /// Committed and not removed, ascending.
    pending: RwLock<VecDeque<Arc<Entry>>>,
    committed: broadcast::Sender<Arc<Entry>>,
    room: Arc<Room>,
}

impl Inbox {
    /// Opens the inbox in a folder, which is made if it is not there, and reads what waits.
    ///
    /// # Errors
    /// The folder is another's or used; the database cannot be read, or is of a later version.
    pub fn open(folder: &Path, limits: Limits) -> Result<Self, Error> {
        let lock = folder::open(folder)?;
        let path = folder.join(folder::DATABASE);
        let connection = database::open(&path)?;
        let pending = database::pending(&connection, &path)?;
        let room = Room::new(limits, &pending);
        let shared = Arc::new(Shared {
            pending: RwLock::new(pending),
            committed: broadcast::Sender::new(SUBSCRIPTION),
            room,
        });
        let reader = database::connect(&path)?;
        let (jobs, queue) = mpsc::channel();
        let writer = Writer::new(connection, Arc::clone(&shared), limits.quarantine, lock);
        let writer = std::thread::Builder::new()
            .name("inbox".into())
            .spawn(move || writer.run(&queue))
            .map_err(Error::Thread)?;
        Ok(Self {
            inner: Arc::new(Inner {
                jobs: Some(jobs),
                writer: Some(writer),
                shared,
                reader: Mutex::new(reader),
            }),
        })
    }

    /// Stores those events that it has never had; returns when they are on the disk.
    ///
    /// # Errors
    /// Nothing was stored.
    pub async fn append(
        &self,
        origin: Arc<str>,
        events: Vec<Event>,
    ) -> Result<Appended, AppendError> {
        let bytes: usize = events.iter().map(|event| event.json.len()).sum();
        let packed = if bytes > INLINE_BYTES {
            tokio::task::spawn_blocking(move || Packed::new(events))
                .await
                .map_err(|error| AppendError::Disk(error.to_string()))?
        } else {
            Packed::new(events)
        };
        let packed = packed.map_err(|error| AppendError::Disk(error.to_string()))?;
        self.append_packed(origin, packed, Vec::new()).await
    }

    /// The same with events that are compressed already, and with what came with them and is none, for the
    /// quarantine: all in one transaction.
    ///
    /// # Errors
    /// Nothing was stored.
    pub async fn append_packed(
        &self,
        origin: Arc<str>,
        packed: Packed,
        refused: Vec<Refused>,
    ) -> Result<Appended, AppendError> {
        if packed.is_empty() && refused.is_empty() {
            return Ok(Appended::default());
        }
        let aside: usize = refused.iter().map(|refused| refused.bytes.len()).sum();
        let weight = packed.weight() + aside as u64;
        let place = Room::take(&self.inner.shared.room, weight, packed.count())?;
        self.ask(|answer| Job::Append {
            origin,
            packed,
            refused,
            place,
            answer,
        })
        .await
    }

    /// Committed and not removed, by ascending ids.
    #[must_use]
    pub fn pending(&self) -> Vec<Arc<Entry>> {
        let pending = self.inner.shared.pending.read();
        let pending = pending.unwrap_or_else(PoisonError::into_inner);
        pending.iter().cloned().collect()
    }

    /// Entries as they are committed. Who is too far behind loses some, and is told.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Entry>> {
        self.inner.shared.committed.subscribe()
    }

    /// The store has everything up to this id, durably. Blocks for a commit.
    ///
    /// # Errors
    /// Nothing was removed; it can be asked again.
    pub fn remove(&self, through: i64) -> Result<(), Error> {
        let (answer, removed) = mpsc::sync_channel(1);
        self.send(Job::Remove { through, answer })?;
        Ok(removed.recv().map_err(|_| AppendError::Closed)??)
    }

    /// Bytes and events that wait or are on their way into the inbox.
    #[must_use]
    pub fn used(&self) -> (u64, u64) {
        self.inner.shared.room.used()
    }

    /// Says who the collector is in its own events, and begins an epoch of them.
    ///
    /// # Errors
    /// The former epochs cannot be read.
    pub async fn identify(&self, identity: Identity) -> Result<u64, AppendError> {
        self.ask(|answer| Job::Identify { identity, answer }).await
    }

    /// Stores an event of the collector itself, and numbers it.
    ///
    /// # Errors
    /// It is not stored; [`AppendError::Closed`] before [`identify`](Self::identify).
    pub async fn say(&self, time: Time, body: Body) -> Result<EventKey, AppendError> {
        self.ask(|answer| Job::Say { time, body, answer }).await
    }

    /// Stores one loss event for each hole that has stood for `grace` and was not told of yet; how many. At most
    /// [`hole::REPORTED_AT_ONCE`] at once.
    ///
    /// # Errors
    /// None is stored and none counts as told of; [`AppendError::Closed`] before [`identify`](Self::identify).
    pub async fn report_holes(&self, grace: Duration) -> Result<usize, AppendError> {
        self.ask(|answer| Job::ReportHoles { grace, answer }).await
    }

    /// Holes that have stood for `grace`, the oldest first, at most `most`; told of or not. Blocks on the disk.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn holes(&self, grace: Duration, most: usize) -> Result<Vec<Hole>, Error> {
        Ok(hole::list(&self.reader(), hole::before(grace), most)?)
    }

    /// Puts aside what is no event; returns when it is on the disk.
    ///
    /// # Errors
    /// It is not stored.
    pub async fn quarantine(
        &self,
        origin: Arc<str>,
        refused: Refused,
    ) -> Result<Appended, AppendError> {
        self.append_packed(origin, Packed::default(), vec![refused])
            .await
    }

    /// What was put aside, the newest first, at most `most`, before the id `before` if there is one; of each at most its
    /// first `bytes` bytes. Blocks on the disk.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn quarantined(
        &self,
        before: Option<i64>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<Quarantined>, Error> {
        Ok(quarantine::list(&self.reader(), before, most, bytes)?)
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, AppendError>>) -> Job,
    ) -> Result<T, AppendError> {
        let (answer, answered) = oneshot::channel();
        self.send(job(answer))?;
        answered.await.map_err(|_| AppendError::Closed)?
    }

    fn send(&self, job: Job) -> Result<(), AppendError> {
        let jobs = self.inner.jobs.as_ref().ok_or(AppendError::Closed)?;
        jobs.send(job).map_err(|_| AppendError::Closed)
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        let reader = self.inner.reader.lock();
        reader.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// The greatest id that waits; 0: none does.
    fn newest(&self) -> i64 {
        let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner);
        pending.back().map_or(0, |entry| entry.id)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The writer ends when nobody can ask it any more.
        drop(self.jobs.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn now() -> i64 {
    i64::try_from(Time::now().unix_nanos()).unwrap_or(i64::MAX)
}
