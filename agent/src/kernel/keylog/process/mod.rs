//! The finder as a process of its own: who parses strangers' files has no rights.
//!
//! Three processes besides the privileged one. The *supervisor*, started by it from its own executable (hidden command
//! `finder`), locks itself down and forks the two that search ([`supervisor`]); it parses nothing. One of them searches
//! many files at once ([`searcher`]); the other is for files that were being searched when the first one died, and
//! searches them one by one, so that the one to blame is known and no other has to suffer for it. The privileged process
//! opens files, hands their descriptors over, and checks what comes back ([`client`]).
//!
//! | | supervisor | searchers |
//! |---|---|---|
//! | user | its own, if the agent has one for it | the same |
//! | capabilities, new privileges, dumps, cores | none | none |
//! | files | what it is handed; Landlock allows none | the same |
//! | system calls | a list: those of the searchers, to fork, to wait, to end its children | a list: no file is opened, no socket made, no process, nothing written but answers |
//! | memory | bounded | bounded |
//!
//! What a searcher that was taken over could still do: read the files that it is handed, which whoever made it fall has
//! under way beside their own; say that a file has no point, or points at wrong places of that file's code, where a probe
//! reads registers and does nothing else; and use up its bounded share of the processor.
//!
//! Invariant: all of them end when the privileged process does, however it does.
//! Invariant: nothing here makes the privileged process wait without an end.

pub mod client;
pub mod message;
pub mod pool;
mod searcher;
pub mod supervisor;

use super::elf::ElfError;
use super::finder::{Limits, LookError};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a search is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A program that runs: its first handshake may come at any moment.
    Prompt,
    /// A file that may be run some day.
    Ahead,
}

/// The threads that a search is done by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Lane {
    Prompt,
    /// For files that take long, at a lower priority: they do not hold the others.
    Large,
    /// When nobody else wants the processor.
    Ahead,
}

/// From this size on a file is large: it takes longer than a few ten milliseconds.
pub const LARGE: u64 = 160 << 20;

impl Lane {
    pub const ALL: [Self; 3] = [Self::Prompt, Self::Large, Self::Ahead];

    #[must_use]
    pub fn of(class: Class, size: u64) -> Self {
        match class {
            Class::Ahead => Self::Ahead,
            Class::Prompt if size >= LARGE => Self::Large,
            Class::Prompt => Self::Prompt,
        }
    }

    /// Longest that a search may take: those that get little of the processor may take longer.
    #[must_use]
    pub fn limits(self) -> Limits {
        let seconds = match self {
            Self::Prompt => 20,
            Self::Large => 60,
            Self::Ahead => 300,
        };
        Limits {
            time: Duration::from_secs(seconds),
            ..Limits::default()
        }
    }
}

/// Why the finder's process did not search a file to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    #[error("not an ELF file")]
    NotElf,
    #[error("an ELF file for another machine than x86-64")]
    OtherMachine,
    #[error("an ELF file that is neither a program nor a shared object")]
    OtherKind,
    #[error("larger than what is searched")]
    TooLarge,
    #[error("a malformed or truncated ELF file")]
    Malformed,
    #[error("the search took too long")]
    Time,
    #[error("not a regular file")]
    NotAFile,
    #[error("it cannot be read (error {0})")]
    Read(i32),
    /// The finder's own mistake.
    #[error("the search stumbled over it")]
    Stumbled,
    #[error("more was found in it than may be said")]
    TooMuch,
}

impl From<&LookError> for Failure {
    fn from(error: &LookError) -> Self {
        match error {
            LookError::Elf(ElfError::NotElf) => Self::NotElf,
            LookError::Elf(ElfError::OtherMachine { .. }) => Self::OtherMachine,
            LookError::Elf(ElfError::OtherKind { .. }) => Self::OtherKind,
            LookError::Elf(ElfError::TooLarge { .. }) => Self::TooLarge,
            LookError::Elf(ElfError::Truncated { .. } | ElfError::Malformed { .. }) => {
                Self::Malformed
            }
            LookError::Time(_) | LookError::Earlier(_) => Self::Time,
            LookError::NotAFile(_) => Self::NotAFile,
            LookError::Elf(ElfError::Read(error)) | LookError::Read(error) => {
                Self::Read(error.raw_os_error().unwrap_or(0))
            }
        }
    }
}

impl Failure {
    /// The same file in the same state would fail again, or take as long as it did.
    #[must_use]
    pub fn would_come_again(self) -> bool {
        !matches!(self, Self::Read(_))
    }
}

/// Why there is no answer about a file.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error("the finder did not answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    #[error("the finder has too many searches that do not end")]
    Busy,
    #[error("the finder's process ended over it and others")]
    Died,
    #[error("the finder's process ended over this file: it is not searched again")]
    Deadly,
    #[error("the finder's answer is not true of this file")]
    Untrue,
    #[error("the finder is gone: {0}")]
    Gone(String),
    #[error(
        "the file is open for writing, or as a path alone: such a descriptor is not handed out"
    )]
    Writable,
    #[error("it cannot be looked at: {0}")]
    Look(#[from] LookError),
}
