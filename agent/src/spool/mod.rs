//! The durable queue between events and sinks: what was appended survives kill -9 and power loss until every consumer
//! has it.
//!
//! Design: one SQLite database (bundled, so that every host has the same, tried version) in write-ahead mode in a
//! folder of its own. SQLite and not a log format of ours or fjall: its crash safety is the most tried there is (power
//! loss is simulated in its own tests), append, position, loss and quarantine change together in one transaction, the
//! file does not grow beyond what is waiting, and `sqlite3` opens it when something must be looked at. What it costs
//! is one fsync per group of events, which groups pay for.
//!
//! Files: `spool.db` (with `-wal` and `-shm`), `lock`, `reserve` (room for taking things out of a full disk), and `damaged-<time>.db` for what could not be read any more.
//!
//! | table | holds |
//! |---|---|
//! | `runs` | one row per run of the agent: producer's id, epoch, last durable record, how it ended |
//! | `entries` | one row per group of records of one run: spans of sequence and time, seals, payload (zstd) |
//! | `consumers` | each consumer's position: the entry it is at, and how many of its records are done |
//! | `losses` | losses that are not yet events: each goes when the event that tells of it is durable |
//! | `quarantine` | batches that a receiver refused for good, bounded by bytes, the oldest leaves |
//! | `aside` | damaged databases that were moved aside and told of |
//!
//! [`Spool`] is the writing end (one thread): it appends with `synchronous=FULL`, and removes what every consumer has
//! passed in the same transaction. Each [`Consumer`] has a connection of its own and reads without waiting for the
//! writer. Its position is written with `synchronous=NORMAL`: after a power loss it may be older than the truth, and
//! then some events are delivered twice, which is what "at least once" allows.
//!
//! A run that has not ended cleanly is found by the next [`Spool::begin`] and becomes a loss with unknown count; so
//! whatever was in memory only when the agent was killed is told of. Holes in the sequence before the last durable
//! record are explained by losses that were stored in the same transaction as, or before, that record.
//!
//! Invariant: opaque bytes: knows nothing of what a record means.
//! Invariant: a record leaves when every consumer has passed it, or as a counted loss.
//! Invariant: a database that cannot be read is moved aside and told of, never deleted.
//! Invariant: no call here blocks on a consumer, and no consumer on another.

mod consumer;
mod database;
mod entry;
mod folder;
mod loss;
mod quarantine;
mod reserve;
mod signal;
#[cfg(test)]
mod tests;
mod writer;

pub use consumer::{Consumer, Page};
pub use folder::make as make_folder;
pub use loss::{Lost, Reason};
pub use quarantine::{Quarantine, Refused};
pub use signal::Signal;
pub use writer::{Appended, Backlog, Spool};

use agent_common::event::Time;
use bytes::Bytes;
use std::path::PathBuf;
use std::time::Duration;

/// One opaque record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Ascending within a run, not necessarily contiguous.
    pub sequence: u64,
    pub time: Time,
    pub bytes: Bytes,
    /// The loss (its [`Lost::id`]) that this record tells of: it goes when the record is durable.
    pub settles: Option<i64>,
}

/// What happens to events when the spool holds as much as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The new ones are refused.
    Refuse,
    /// The oldest ones leave.
    DropOldest,
}

/// How a spool behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder.
    pub path: PathBuf,
    /// Most bytes that wait, compressed.
    pub max_bytes: u64,
    /// What is older leaves.
    pub max_age: Duration,
    pub when_full: WhenFull,
    /// Most bytes of what receivers refused, compressed.
    pub quarantine_bytes: u64,
}

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Folder {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is not a folder")]
    NotAFolder { path: PathBuf },
    #[error("{path} belongs to user {owner}, not to the agent's user {agent}")]
    Owner {
        path: PathBuf,
        owner: u32,
        agent: u32,
    },
    #[error("{path} is writable by others (mode {mode:04o}); `chmod 0700 {path}` would do")]
    Writable { path: PathBuf, mode: u32 },
    #[error("another agent uses {path}")]
    Locked { path: PathBuf },
    #[error("{path} has version {found}, of a later agent than this one, which knows {known}")]
    Version {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error("the spool's database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("records could not be compressed: {0}")]
    Compression(std::io::Error),
    #[error("the disk is full: {0}")]
    NoReserve(std::io::Error),
    #[error("the spool has no run: nothing can be appended")]
    NoRun,
    #[error("there is no spool in {path}: no agent has run with it")]
    NoSpool { path: PathBuf },
    #[error("{path} is not a spool of tokentrail")]
    NotASpool { path: PathBuf },
    #[error("batch {id} of the quarantine is damaged")]
    DamagedBatch { id: i64 },
}

/// As the database keeps times and numbers.
fn nanos(time: Time) -> i64 {
    i64::try_from(time.unix_nanos()).unwrap_or(i64::MAX)
}

fn time(nanos: i64) -> Time {
    Time::from_unix_nanos(nanos.into())
}

/// SQLite's integers are signed; sequences and epochs do not come near the limit.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
