//! Files that a receiver needs: certificates, which may be public, and secrets, which may not.

use super::Error;
use std::cell::RefCell;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Seek};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The system's bundle has about 200 KiB.
const PUBLIC_LIMIT: u64 = 4 * 1024 * 1024;
const SECRET_LIMIT: u64 = 64 * 1024;
const OTHERS_WRITE: u32 = 0o022;
const OTHERS: u32 = 0o077;

/// Where such files are: on the disk, or among those that somebody has opened who may.
///
/// What is opened stays so, so that it can be passed on: the files that a configuration needs are those that were opened
/// when its receivers were made.
pub struct Source {
    disk: bool,
    opened: RefCell<Vec<(PathBuf, File)>>,
}

impl Source {
    #[must_use]
    pub fn disk() -> Self {
        Self {
            disk: true,
            opened: RefCell::default(),
        }
    }

    /// These files, and no others.
    #[must_use]
    pub fn passed(files: Vec<(PathBuf, File)>) -> Self {
        Self {
            disk: false,
            opened: RefCell::new(files),
        }
    }

    /// What was opened, each file once.
    #[must_use]
    pub fn into_opened(self) -> Vec<(PathBuf, File)> {
        self.opened.into_inner()
    }

    /// Whether there is such a file.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        let opened = self.opened.borrow();
        opened.iter().any(|(each, _)| each == path) || (self.disk && path.exists())
    }

    /// A file that only root or the agent's own user may write.
    ///
    /// # Errors
    /// If it cannot be read, or others may write it.
    pub fn public(&self, path: &Path) -> Result<Vec<u8>, Error> {
        let (file, metadata) = self.open(path)?;
        if metadata.mode() & OTHERS_WRITE != 0 {
            return Err(Error::Writable {
                path: path.to_owned(),
                mode: metadata.mode() & 0o7777,
            });
        }
        let mut bytes = Vec::new();
        read(path, &file, PUBLIC_LIMIT, &mut bytes)?;
        Ok(bytes)
    }

    /// A file that nobody but its owner may use, who is root or the agent's own user.
    ///
    /// # Errors
    /// If it cannot be read, or others may read or write it.
    pub fn secret(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (file, metadata) = self.open(path)?;
        if metadata.mode() & OTHERS != 0 {
            return Err(Error::Readable {
                path: path.to_owned(),
                mode: metadata.mode() & 0o7777,
            });
        }
        // In one piece from the start: a vector that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(
            usize::try_from(metadata.len().min(SECRET_LIMIT)).unwrap_or_default() + 1,
        ));
        read(path, &file, SECRET_LIMIT, &mut bytes)?;
        Ok(bytes)
    }

    fn open(&self, path: &Path) -> Result<(File, Metadata), Error> {
        let failed = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let mut opened = self.opened.borrow_mut();
        if !opened.iter().any(|(each, _)| each == path) && self.disk {
            let file = OpenOptions::new()
                .read(true)
                // A pipe without a writer would hold the agent.
                .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
                .open(path)
                .map_err(failed)?;
            opened.push((path.to_owned(), file));
        }
        let (_, file) = opened
            .iter()
            .find(|(each, _)| each == path)
            .ok_or_else(|| failed(ErrorKind::NotFound.into()))?;
        let mut file = file.try_clone().map_err(failed)?;
        check(path, &file).and_then(|metadata| {
            // It may have been read before.
            file.rewind().map_err(failed)?;
            Ok((file, metadata))
        })
    }
}

/// The checks are made on the opened file, so that it cannot be exchanged meanwhile.
fn check(path: &Path, file: &File) -> Result<Metadata, Error> {
    let metadata = file.metadata().map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let agent = rustix::process::geteuid().as_raw();
    if !metadata.is_file() {
        Err(Error::NotAFile {
            path: path.to_owned(),
        })
    } else if metadata.uid() != 0 && metadata.uid() != agent {
        Err(Error::Owner {
            path: path.to_owned(),
            owner: metadata.uid(),
            agent,
        })
    } else {
        Ok(metadata)
    }
}

fn read(path: &Path, file: &File, limit: u64, into: &mut Vec<u8>) -> Result<(), Error> {
    let count = file
        .take(limit + 1)
        .read_to_end(into)
        .map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
    if count as u64 > limit {
        return Err(Error::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(())
}
