//! Who made a call: process, program, user, ancestors, control group, unit, container.
//!
//! Design: [`ProcessTable`] is fed by the kernel's exec, fork and exit records and once by a scan of `/proc`.
//! What exec gave is enough for a process that has ended before its event is built; `/proc` only adds to it
//! (resolved path, digest, user namespace) and every addition is checked against what the kernel said: the
//! start time, and the executable's (device, inode).
//!
//! - A process keeps its last few programs with their begin, so that a call is given to the program that made
//!   it, and not to the one that runs when the response arrives.
//! - Ancestors are copied at fork (at most 16, shared pointers), so that they outlive their table entries.
//! - Opening and hashing executables happens on worker threads ([`executable`]), because a file system may
//!   hang. An event waits for them at most [`Options::hash_wait`] after they were asked for, once per program.
//! - The control group's id comes with the call; its path is found by inode number ([`cgroup`]) and parsed into
//!   unit, container and pod ([`placement`]).
//! - What needs rights over the other process is seen through [`eyes`], which may be another process's.
//! - User ids are those of the host's user namespace. The name comes from the host's `/etc/passwd`, without NSS,
//!   and only where the process is in no container and not known to be in another user namespace.
//!
//! Invariant: a fact that `/proc` gives is used only if it belongs to the process the kernel named.
//! Invariant: arguments are kept only as the redaction returned them.
//! Invariant: every table is bounded; what is pushed out is counted.

pub mod cgroup;
pub mod clock;
pub mod executable;
pub mod eyes;
pub mod host;
mod image;
pub mod placement;
pub mod procfs;
pub mod table;
pub mod user;

pub use clock::Clock;
pub use table::{Counters, Identity, Options, ProcessTable, Redact};

use std::path::PathBuf;

/// What keeps identity from working at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cgroup v2 hierarchy is mounted.
    #[error("no cgroup v2 hierarchy is mounted (no file system of type cgroup2 in {0})")]
    NoCgroup2(PathBuf),
    /// A file that every Linux has could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// Entry points for fuzzing.
#[doc(hidden)]
pub mod fuzz {
    /// Whatever a cgroup is called, its placement holds only well-formed ids.
    pub fn placement(data: &[u8]) {
        let path = String::from_utf8_lossy(data);
        let placement = super::placement::Placement::parse(&path);
        if let Some(container) = placement.container {
            assert_eq!(container.id.len(), 64);
            assert!(container.id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
        if let Some(pod) = placement.pod {
            assert_eq!(pod.len(), 36);
        }
    }

    /// Whatever `/proc` and `/etc/passwd` hold, reading them does not panic.
    pub fn texts(data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        let _ = super::procfs::parse_stat(&text);
        let _ = super::procfs::parse_credentials(&text);
        let _ = super::procfs::parse_namespace(&text);
        let _ = super::cgroup::parse_mountinfo(&text);
        let _ = super::user::parse(data);
    }
}
