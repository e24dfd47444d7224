//! Uprobes, held by a process that does nothing else.
//!
//! A uprobe changes text: the kernel puts a breakpoint into the pages of a file as a process has them mapped. When the
//! file then gets other content, a breakpoint that stays at its old place breaks the new program. So a uprobe is attached
//! here only while a *read lease* on its file is held (fcntl(2), `F_SETLEASE`): whoever opens the file for writing or
//! truncates it waits until every uprobe on it is gone and the lease is given back. That is quick, or somebody waits who
//! has nothing to do with this agent; so it is done by processes of its own, which share no lock, no queue and no memory
//! with the rest of the agent:
//!
//! - the *keeper* ([`hold`]) holds leases and uprobes, and nobody else has a copy of them. One thread listens to the agent;
//!   each other one ([`shard`]) holds some of the attachments in a table of descriptors of its own, so that they are
//!   detached at the same time, also when the process is ended by force;
//! - the *watch* ([`watch`]), its parent, hears a beat of it every 10 ms while it holds anything, ends it by force when
//!   none has come for 50 ms (its end detaches everything and gives the leases back), and starts it anew;
//! - the agent ([`Keeper`]) asks for attachments, and is told of those that are gone.
//!
//! Uprobes are bound to one process ([`Scope::Process`]) and are attached to libraries alone: programs that copy or
//! translate their own text, breakpoint and all, are left out ([`screen`]). [`Scope::Host`] is for who asks for it by name.
//! `inherit` is never used: it makes `fork` fail in what is watched.
//!
//! What cannot be had: a writer that does not wait (`O_NONBLOCK`) gets `EAGAIN` instead; file systems where others write
//! past the lease are left out ([`file`]), except overlayfs for one process alone, whose layers somebody may write to
//! directly: then only that process, whose text changes under it anyway, may meet the breakpoint.
//!
//! Invariant: a uprobe is attached by the descriptor of the very file whose state the caller has searched, after the lease.
//! Invariant: a lease is given back only after the last uprobe on its file is gone.
//! Invariant: neither process waits for the agent.

mod askers;
mod calls;
mod channel;
mod client;
mod file;
mod hold;
mod patience;
mod programs;
mod screen;
mod shard;
#[doc(hidden)]
pub mod trial;
mod watch;

pub(in crate::kernel) use askers::{Askers, Turn};
pub use client::{Keeper, Request, StartError, Started};
pub(in crate::kernel) use file::check as check_file;
pub use hold::{ATTACHMENTS, EVENTS, FILES};
pub(in crate::kernel) use programs::Maps;
pub use programs::{Programs, ProgramsError};
pub(in crate::kernel) use screen::is_translator;
pub use watch::run;

use serde::{Deserialize, Serialize};

/// Most places of one attachment.
pub const PLACES: usize = 64;

/// Which of the probes' programs runs at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Program {
    KeylogPoint,
    KeylogPlaced,
    KdfDerive,
    BridgeEnter,
    BridgeReturn,
    BridgeForget,
}

impl Program {
    pub const ALL: [Self; 6] = [
        Self::KeylogPoint,
        Self::KeylogPlaced,
        Self::KdfDerive,
        Self::BridgeEnter,
        Self::BridgeReturn,
        Self::BridgeForget,
    ];

    /// Its name among the probes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KeylogPoint => "keylog_point",
            Self::KeylogPlaced => "keylog_placed",
            Self::KdfDerive => "kdf_derive",
            Self::BridgeEnter => "bridge_enter",
            Self::BridgeReturn => "bridge_return",
            Self::BridgeForget => "bridge_forget",
        }
    }
}

/// A place in a file, and what runs there. Places are attached in their order and detached in the opposite one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub program: Program,
    pub file_offset: u64,
    /// What the program finds (`bpf_get_attach_cookie`).
    pub cookie: u64,
    /// At the return of the function that begins there.
    pub returns: bool,
}

/// Whom a uprobe stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// One process, by its id.
    Process(u32),
    /// Every process that has the file mapped, now or later.
    Host,
}

/// How uprobes are attached here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// `uprobe_multi`: one link for all places of a program, detached beside others.
    Multi,
    /// Events of perf: one for each place, detached one after the other in the whole system.
    Perf,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Multi => "uprobe_multi",
            Self::Perf => "perf",
        })
    }
}

/// What the trial at the start has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub way: Way,
    /// Why the better way is not taken.
    pub no_multi: Option<String>,
    /// Capabilities that are kept, by their names.
    pub capabilities: Vec<String>,
    /// What this start does not allow, in words.
    pub weaker: Vec<String>,
}

/// An attachment's name, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentId(pub u64);

/// What is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub id: AttachmentId,
    pub way: Way,
    /// On overlayfs: who writes into its layers directly does not wait for the lease.
    pub layered: bool,
}

/// Why something is not attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    #[error("a process has the file open for writing, or mapped so that it can write")]
    Writer,
    #[error("a writer came while it was attached")]
    Written,
    #[error("the file is not as it was when it was searched")]
    Changed,
    #[error("the file is in memory alone (memfd), where its maker may write past a lease")]
    Memory,
    #[error("files on this file system ({0}) can be written past a lease")]
    FileSystem(String),
    #[error(
        "it is on overlayfs, where its layers can be written past a lease: for one process alone"
    )]
    Layers,
    #[error("it is no regular file")]
    NoFile,
    #[error("another process asks to be told before the file is read")]
    Busy,
    #[error("a lease on the file is refused: {0}")]
    Lease(String),
    #[error("the process has ended")]
    Ended,
    #[error(
        "it is the process's own program, which may copy its text: only libraries take uprobes"
    )]
    Executable,
    #[error("the process runs under {0}, which copies or translates text")]
    Translated(String),
    #[error("the process is told to copy its text to large pages ({0})")]
    LargePages(String),
    #[error("what the process runs cannot be looked up: {0}")]
    Unseen(String),
    #[error("the kernel refuses it: {0}")]
    Kernel(String),
    #[error("too few files may be open (EMFILE)")]
    Descriptors,
    #[error("too many places are asked for at once")]
    Places,
    #[error("there are {0} attachments already, which is the bound")]
    Attachments(usize),
    #[error("there are attachments on {0} files already, which is the bound")]
    Files(usize),
    #[error(
        "there are {0} events already, which is the bound where they are detached one after the other"
    )]
    Events(usize),
    #[error("the probes have no such program")]
    Program,
    #[error("the keeper was started anew meanwhile")]
    Restarted,
    #[error("the keeper does not answer in time")]
    Late,
    #[error("the keeper has ended")]
    NoKeeper,
    #[error("the keeper cannot be asked: {0}")]
    Channel(String),
}

/// Why attachments are gone that nobody gave up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Somebody wants to write to the file.
    Written,
    /// The process has ended.
    Ended,
    /// The keeper was ended and is started anew: what is still wanted is to be attached again.
    Restarted(String),
    /// The keeper has ended for good.
    Gone,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Written => f.write_str("somebody writes to the file"),
            Self::Ended => f.write_str("the process has ended"),
            Self::Restarted(how) => write!(f, "the keeper is started anew ({how})"),
            Self::Gone => f.write_str("the keeper has ended"),
        }
    }
}

/// Attachments that are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub ids: Vec<AttachmentId>,
    pub why: Why,
}
