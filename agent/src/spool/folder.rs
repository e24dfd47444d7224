//! The spool's folder: ours alone, used by one agent at a time.
//!
//! Invariant: a folder that others may write is refused: they could exchange what is delivered.

use super::Error;
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const MODE: u32 = 0o700;
const OTHERS_WRITE: u32 = 0o022;
pub(super) const DATABASE: &str = "spool.db";
const LOCK: &str = "lock";
/// Damaged databases are called so, and by the time at which they were found.
const ASIDE: &str = "damaged-";
/// SQLite finds a database's log by these endings.
const ENDINGS: [&str; 3] = ["", "-wal", "-shm"];

/// Makes the folder, and those above it, if they are not there. What is there is looked at when it is opened.
///
/// # Errors
/// If there can be none.
pub fn make(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(MODE)
        .create(path)
        .map_err(|source| Error::Folder {
            path: path.to_owned(),
            source,
        })
}

/// Makes and checks the folder, and takes the lock, which goes with the returned file.
pub(super) fn open(path: &Path) -> Result<File, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Folder { path, source }
    };
    make(path)?;
    let metadata = std::fs::metadata(path).map_err(failed(path))?;
    if !metadata.is_dir() {
        return Err(Error::NotAFolder {
            path: path.to_owned(),
        });
    }
    let agent = rustix::process::geteuid().as_raw();
    if metadata.uid() != agent {
        return Err(Error::Owner {
            path: path.to_owned(),
            owner: metadata.uid(),
            agent,
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
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked {
            path: path.to_owned(),
        }),
        Err(error) => Err(failed(&lock)(error.into())),
    }
}

/// Moves a damaged database and its log aside, and answers with its new path.
pub(super) fn move_aside(folder: &Path) -> Result<PathBuf, Error> {
    let now = SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default()
        .as_nanos();
    let aside = folder.join(format!("{ASIDE}{now}.db"));
    // The log first: a database without its log is older, a log without its database is nothing; and what is left
    // after a crash between the two is found and moved at the next start.
    for ending in ENDINGS.iter().rev() {
        let with = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        match std::fs::rename(with(&folder.join(DATABASE)), with(&aside)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result.map_err(|source| Error::Folder {
                path: with(&aside),
                source,
            })?,
        }
    }
    Ok(aside)
}

/// What was moved aside so far: names and when each was made (or last written, where that is not known).
pub(super) fn aside(folder: &Path) -> Result<Vec<(String, SystemTime)>, Error> {
    let failed = |source| Error::Folder {
        path: folder.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with(ASIDE) && name.ends_with(".db") {
            let metadata = entry.metadata().map_err(failed)?;
            let made = metadata.created().or_else(|_| metadata.modified());
            found.push((name, made.unwrap_or(SystemTime::UNIX_EPOCH)));
        }
    }
    Ok(found)
}
