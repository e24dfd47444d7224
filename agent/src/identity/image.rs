//! A program that a process runs, from one exec to the next.

use super::executable::{Found, Request, Slot};
use super::eyes::Eyes;
use super::procfs::ProcFs;
use super::table::Redact;
use crate::flow::Nanos;
use crate::kernel::record::{Arguments, FileId, ProcessKey};
use agent_common::event::{Ancestor, Executable, Hash, HashAbsent, ProcessCreation, Time};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub(in crate::identity) struct Image {
    /// Boot time of the exec; 0 for what `/proc` showed.
    pub(in crate::identity) since: Nanos,
    filename: Option<String>,
    /// The file that the kernel opened; absent if nothing says so.
    file: Option<FileId>,
    slot: Arc<Slot>,
    /// Redacted, and whether they were cut. Of what `/proc` showed they are read when they are first needed: the
    /// arguments of processes that never make a call are none of the agent's business.
    arguments: OnceLock<(Vec<String>, bool)>,
}

impl Image {
    /// From an exec record.
    pub(in crate::identity) fn executed(
        since: Nanos,
        filename: &str,
        file: FileId,
        arguments: &Arguments,
        redact: Redact,
    ) -> Self {
        // Zeroes mean that the probe could not read them.
        let file = (file.inode != 0).then_some(file);
        Self {
            since,
            filename: (!filename.is_empty()).then(|| filename.to_owned()),
            file,
            slot: Arc::default(),
            arguments: OnceLock::from((
                redact(&arguments.bytes, arguments.truncated),
                arguments.truncated,
            )),
        }
    }

    /// From `/proc`. `None` for a kernel thread, or if the process is gone.
    pub(in crate::identity) fn running(pid: u32, eyes: &dyn Eyes) -> Option<Self> {
        let running = eyes.running(pid)?;
        Some(Self {
            since: 0,
            filename: None,
            file: Some(running.file),
            slot: Arc::new(Slot::with(Found {
                path: Some(running.path),
                deleted: running.deleted,
                user_namespace: running.user_namespace,
                digest: None,
            })),
            arguments: OnceLock::new(),
        })
    }

    /// The redacted arguments, and whether they were cut; read from `/proc` if no exec record gave them and the pid
    /// still means this process.
    pub(in crate::identity) fn arguments(
        &self,
        process: ProcessKey,
        proc: &ProcFs,
        eyes: &dyn Eyes,
        redact: Redact,
    ) -> Option<&(Vec<String>, bool)> {
        if self.arguments.get().is_none()
            && let Some(arguments) = proc.arguments(process.pid)
            && self.still_runs(process.pid, eyes)
            && let Some(stat) = proc.stat(process.pid)
            && proc.same_start(process.start, stat.start_ticks)
        {
            let redacted = redact(&arguments.bytes, arguments.truncated);
            // Another thread cannot have been faster: the table has one.
            let _ = self.arguments.set((redacted, arguments.truncated));
        }
        self.arguments.get()
    }

    /// Whether the process with this pid still runs this file, as far as can be seen.
    pub(in crate::identity) fn still_runs(&self, pid: u32, eyes: &dyn Eyes) -> bool {
        eyes.still_runs(pid, self.file)
    }

    #[cfg(test)]
    pub(in crate::identity) fn has_arguments(&self) -> bool {
        self.arguments.get().is_some()
    }

    /// Has the file found and hashed, unless that was asked before. False if too many are waiting.
    pub(in crate::identity) fn request(
        &self,
        eyes: &dyn Eyes,
        pid: u32,
        parent: Option<u32>,
    ) -> bool {
        let Some(file) = self.file else { return true };
        let submit = || {
            let request = Request {
                pid,
                parent,
                filename: self.filename.clone(),
                file,
            };
            eyes.find(request, &self.slot)
        };
        self.slot.ask_once(submit).unwrap_or(true)
    }

    /// What is known of the file, waiting at most until `limit` after it was asked for; the user namespace; and
    /// whether this is settled.
    pub(in crate::identity) fn executable(
        &self,
        limit: Duration,
    ) -> (Executable, Option<u32>, bool) {
        let found = self.slot.wait(limit);
        let absent = match (&found.digest, self.file) {
            (Some(Ok(_)), _) => None,
            (Some(Err(absent)), _) => Some(*absent),
            (None, Some(_)) => Some(HashAbsent::Pending),
            (None, None) => Some(HashAbsent::Unknown),
        };
        let executable = Executable {
            path: found.path.or_else(|| self.filename.clone()),
            deleted: found.deleted,
            hash: found
                .digest
                .and_then(Result::ok)
                .map(|sha256| Hash { sha256 }),
            hash_absent: absent,
        };
        let settled = absent != Some(HashAbsent::Pending);
        (executable, found.user_namespace, settled)
    }
}

/// A process in another one's line, with the program that it ran when it forked the next.
#[derive(Clone)]
pub(in crate::identity) struct Forebear {
    pub(in crate::identity) key: ProcessKey,
    pub(in crate::identity) image: Option<Arc<Image>>,
}

impl Forebear {
    pub(in crate::identity) fn ancestor(&self, created: Time) -> Ancestor {
        let executable = self
            .image
            .as_ref()
            .map_or_else(Executable::default, |image| {
                let (found, _, _) = image.executable(Duration::ZERO);
                Executable {
                    path: found.path,
                    deleted: found.deleted,
                    ..Executable::default()
                }
            });
        Ancestor {
            pid: self.key.pid,
            creation: ProcessCreation { time: created },
            executable,
        }
    }
}
