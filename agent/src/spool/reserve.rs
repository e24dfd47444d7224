//! Room on the disk that is kept for taking things out.
//!
//! Removing an entry writes, too: the change goes to SQLite's log first, and the log into the database later. On a
//! full disk nothing could leave any more, and what cannot leave keeps the disk full. So a file of zeros holds some
//! room; when something cannot leave because the disk is full, it is removed, and until it can be made anew nothing is
//! appended: all the room is for positions, for removals, and for bringing the log into the database. Once that is
//! done, the log begins anew within the room that it has, and needs no more.
//!
//! Invariant: nothing is appended while there is no reserve.

use rusqlite::ErrorCode;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// More than the log has (see `CHECKPOINT_PAGES`), so that all of it fits into the database.
const BYTES: u64 = 8 * 1024 * 1024;
const NAME: &str = "reserve";

/// The file of zeros.
pub(super) struct Reserve {
    path: PathBuf,
    there: Mutex<bool>,
}

impl Reserve {
    /// Removes what an earlier run kept: to start needs room, too.
    pub(super) fn open(folder: &Path) -> Self {
        let reserve = Self {
            path: folder.join(NAME),
            there: Mutex::new(true),
        };
        reserve.release();
        reserve
    }

    /// Makes room. `false` if there was none to make.
    pub(super) fn release(&self) -> bool {
        let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *there) && std::fs::remove_file(&self.path).is_ok()
    }

    pub(super) fn is_there(&self) -> bool {
        *self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the room, if it is not taken.
    pub(super) fn ensure(&self) -> std::io::Result<()> {
        let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        if !*there {
            if let Err(error) = self.make() {
                let _ = std::fs::remove_file(&self.path);
                return Err(error);
            }
            *there = true;
        }
        Ok(())
    }

    fn make(&self) -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, BYTES) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                let zeros = [0; 64 * 1024];
                for _ in 0..BYTES / zeros.len() as u64 {
                    file.write_all(&zeros)?;
                }
                file.sync_data()
            }
            result => Ok(result?),
        }
    }

    /// Does what takes things out, with the reserve's room if there is no other.
    pub(super) fn spare<T>(
        &self,
        mut work: impl FnMut() -> Result<T, super::Error>,
    ) -> Result<T, super::Error> {
        match work() {
            Err(error) if is_full(&error) && self.release() => {
                tracing::warn!(%error, "the disk is full: the spool gives its reserve");
                work()
            }
            result => result,
        }
    }
}

/// The disk is, or a quota.
fn is_full(error: &super::Error) -> bool {
    matches!(error, super::Error::Database(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull))
}
