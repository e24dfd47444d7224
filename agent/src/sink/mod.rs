//! Where events go: standard output as table or NDJSON, a rotating file as NDJSON.
//!
//! Design: every sink is an encoder in front of an [`outbox`], which is in front of a [`Target`]: a stream or a
//! [`file::RotatingFile`]. The outbox keeps encoded events in bounded memory until the target takes them; when a
//! target fails (full disk, vanished folder), it goes on keeping, tries again after a growing pause, continues a
//! line in its middle if it had been cut there, and counts what no longer fits. The count is handed out by
//! [`Sink::losses`] when writing works again, so that it becomes an event that can be written.
//!
//! Receivers over the network ([`otlp`], [`http`], [`syslog`]) are a [`batch::Receiver`] each: they take a batch of
//! encoded events, make one attempt and say what came of it; keeping and trying again is their courier's part.
//! [`ocsf`] is an encoding for them.
//!
//! Sinks are synchronous and may block on their target; the pipeline runs them behind a bounded queue.
//!
//! With a spool, events take another way: [`delivery`] encodes each once and appends groups of them to the
//! [`spool`](crate::spool); one [`courier`] per [`batch::Receiver`] reads from its own position there, sends batches,
//! and acknowledges what the receiver has.
//!
//! Invariant: every event given to a sink is written, or kept, or counted as lost.
//! Invariant: knows neither flows nor secrets.

pub mod batch;
pub mod courier;
pub mod delivery;
pub mod encoding;
pub mod file;
pub mod http;
mod layout;
pub mod lines;
pub mod ndjson;
pub mod ocsf;
pub mod otlp;
pub mod outbox;
pub mod remote;
/// As the tests of receivers use it, which name this crate from outside.
#[cfg(test)]
#[path = "../../tests/receivers/samples.rs"]
mod samples;
mod severity;
pub mod stream;
pub mod syslog;
pub mod table;
#[cfg(test)]
mod tests;
mod width;

pub use file::RotatingFile;
pub use ndjson::Ndjson;
pub use outbox::Target;
pub use stream::Stream;
pub use table::Table;

use agent_common::event::{Envelope, Time};
use std::path::PathBuf;

/// An output of events.
pub trait Sink: Send {
    /// For messages and loss events: `stdout`, or the file's path.
    fn name(&self) -> &str;

    /// Takes in one event. It is on its way when this returns, not necessarily written.
    ///
    /// # Errors
    /// [`Error::Closed`] if the reader has gone; a target that fails otherwise is tried again, and that is no error.
    fn write(&mut self, event: &Envelope) -> Result<(), Error>;

    /// Writes what is kept, if the target takes it. To be called whenever no event is waiting, and about once a
    /// second.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn flush(&mut self) -> Result<(), Error>;

    /// What was lost since the last call, once writing works again.
    fn losses(&mut self) -> Option<Losses>;

    /// The last attempt: writes and syncs what is kept. Everything that was lost and not yet handed out, and what
    /// could not be written now, is the answer.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn close(&mut self) -> Result<Option<Losses>, Error>;
}

/// Events that an output lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Losses {
    pub count: u64,
    /// Time of the first one.
    pub from: Time,
    /// Time of the last one.
    pub to: Time,
}

/// What an output cannot go on with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reader of standard output has gone: the agent ends, without complaint.
    #[error("the reader of {name} has gone")]
    Closed { name: String },
    #[error("cannot open {path}: {source}")]
    Open {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("{path} belongs to user {owner}, not to the agent's user {agent}")]
    Owner {
        path: PathBuf,
        owner: u32,
        agent: u32,
    },
    #[error(
        "the folder {path} is writable by others (mode {mode:04o}): they could exchange the file; `chmod go-w {path}` would do"
    )]
    Folder { path: PathBuf, mode: u32 },
}
