//! What of another process is seen only with rights over it: its program, its user namespace; and the accounts.
//!
//! `/proc/PID/exe` and `/proc/PID/ns` ask for `PTRACE_MODE_READ_FSCREDS` (fs/proc/base.c, kernel/ptrace.c), opening
//! executables for `CAP_DAC_READ_SEARCH`. The process that parses and delivers has neither: it asks the one that has
//! ([`crate::privilege`]). Where there is one process alone it looks itself ([`Direct`]).
//!
//! Invariant: nothing else of identity opens a file that belongs to another process's user.

use super::executable::{Finder, Landing, Limits, Request, Slot, displayed};
use super::procfs::ProcFs;
use super::user::Users;
use crate::kernel::device;
use crate::kernel::record::FileId;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// The program of a running process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Path in the process's mount namespace.
    pub path: String,
    /// The file has no name any more.
    pub deleted: bool,
    pub file: FileId,
    pub user_namespace: Option<u32>,
}

/// Sees programs and accounts.
pub trait Eyes: Send {
    /// What the process with this pid runs. `None` for a kernel thread, or if the process is gone.
    fn running(&self, pid: u32) -> Option<Running>;

    /// Whether the process with this pid still runs this file, as far as can be seen.
    fn still_runs(&self, pid: u32, file: Option<FileId>) -> bool;

    /// Has an executable found and hashed; the slot gets what comes of it. False if too many are waiting.
    fn find(&self, request: Request, slot: &Arc<Slot>) -> bool;

    /// Name of a user of the host.
    fn user_name(&mut self, uid: u32) -> Option<Arc<str>>;
}

/// Looks itself.
pub struct Direct {
    proc: ProcFs,
    finder: Finder,
    users: Users,
}

impl Direct {
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(proc: &Path, passwd: &Path, limits: Limits) -> std::io::Result<Self> {
        let proc = ProcFs::new(proc);
        Ok(Self {
            finder: Finder::start(&proc, limits)?,
            users: Users::new(passwd),
            proc,
        })
    }

    /// As [`Eyes::find`], for an answer that lands elsewhere.
    pub fn find_for(&self, request: Request, landing: Arc<dyn Landing>) -> bool {
        self.finder.submit(request, landing)
    }
}

impl Eyes for Direct {
    fn running(&self, pid: u32) -> Option<Running> {
        let link = self.proc.path(pid, "exe");
        let path = std::fs::read_link(&link).ok()?;
        let metadata = std::fs::metadata(&link).ok()?;
        let (path, deleted) = displayed(&path, &metadata);
        Some(Running {
            path,
            deleted,
            file: device::file_id(&metadata),
            user_namespace: self.proc.namespace(pid, "user"),
        })
    }

    fn still_runs(&self, pid: u32, file: Option<FileId>) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let Ok(now) = rustix::fs::open(self.proc.path(pid, "exe"), flags, Mode::empty()) else {
            return true;
        };
        let now = File::from(now);
        match (now.metadata(), file) {
            (Ok(metadata), Some(file)) => device::is(&now, &metadata, file, self.proc.root(), pid),
            (metadata, _) => metadata.is_err(),
        }
    }

    fn find(&self, request: Request, slot: &Arc<Slot>) -> bool {
        self.finder.submit(request, slot.clone())
    }

    fn user_name(&mut self, uid: u32) -> Option<Arc<str>> {
        self.users.name(uid)
    }
}
