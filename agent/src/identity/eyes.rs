//! What of another process is seen only with rights over it: its program, its user namespace; and the accounts.
//!
//! `/proc/PID/exe` and `/proc/PID/ns` ask for `PTRACE_MODE_READ_FSCREDS` (fs/proc/base.c, kernel/ptrace.c), opening
//! executables for `CAP_DAC_READ_SEARCH`. The process that parses and delivers has neither: it asks the one that has
//! ([`crate::privilege`]). Where there is one process alone it looks itself ([`Direct`]).
//!
//! Invariant: nothing else of identity opens a file that belongs to another process's user.
//! Invariant: what is asked for at once ([`Eyes::running`], [`Eyes::still_runs`]) waits for no file's server, which may
//! hang.

use super::executable::{Finder, Landing, Limits, Request, Slot, displayed};
use super::procfs::ProcFs;
use super::user::Users;
use crate::kernel::device;
use crate::kernel::record::FileId;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
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

    /// The program that a process runs, not opened: that would ask the file's server.
    fn program(&self, pid: u32) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::open(self.proc.path(pid, "exe"), flags, Mode::empty())
    }

    /// As [`Eyes::find`], for an answer that lands elsewhere.
    pub fn find_for(&self, request: Request, landing: Arc<dyn Landing>) -> bool {
        self.finder.submit(request, landing)
    }
}

impl Eyes for Direct {
    fn running(&self, pid: u32) -> Option<Running> {
        let path = std::fs::read_link(self.proc.path(pid, "exe")).ok()?;
        let (file, names) = device::at_hand(self.program(pid).ok()?).ok()?;
        let (path, deleted) = displayed(&path, names.into());
        Some(Running {
            path,
            deleted,
            file,
            user_namespace: self.proc.namespace(pid, "user"),
        })
    }

    fn still_runs(&self, pid: u32, file: Option<FileId>) -> bool {
        let Ok(now) = self.program(pid) else {
            return true;
        };
        match (device::at_hand(&now), file) {
            (Ok((shown, _)), Some(file)) => device::is(&now, shown, file, self.proc.root(), pid),
            (shown, _) => shown.is_err(),
        }
    }

    fn find(&self, request: Request, slot: &Arc<Slot>) -> bool {
        self.finder.submit(request, slot.clone())
    }

    fn user_name(&mut self, uid: u32) -> Option<Arc<str>> {
        self.users.name(uid)
    }
}
