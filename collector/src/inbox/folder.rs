//! The inbox's folder: the collector's alone, used by one at a time.
//!
//! Invariant: a folder that others may write is refused: they could exchange what is found later.

use super::Error;
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const MODE: u32 = 0o700;
const OTHERS_WRITE: u32 = 0o022;
pub(super) const DATABASE: &str = "inbox.db";
const LOCK: &str = "lock";

/// Makes and checks the folder, and takes the lock, which goes with the returned file.
pub(super) fn open(path: &Path) -> Result<File, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Folder { path, source }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(MODE)
        .create(path)
        .map_err(failed(path))?;
    let metadata = std::fs::metadata(path).map_err(failed(path))?;
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(Error::Owner {
            path: path.to_owned(),
            owner: metadata.uid(),
            own,
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        return Err(Error::Writable {
            path: path.to_owned(),
            mode,
        });
    }
    if mode != MODE {
        std::fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(failed(path))?;
    }
    let lock = path.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock)
        .map_err(failed(&lock))?;
    // SQLite forces the names in the folder to the disk, but not the folder's own.
    let canonical = path.canonicalize().map_err(failed(path))?;
    let parent = canonical.parent().unwrap_or(&canonical);
    File::open(parent)
        .and_then(|folder| folder.sync_all())
        .map_err(failed(parent))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked {
            path: path.to_owned(),
        }),
        Err(error) => Err(failed(&lock)(error.into())),
    }
}
