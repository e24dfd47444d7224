//! A file that is rotated by size: PATH, then PATH.1 (the newest rotated one), PATH.2, ...
//!
//! The file is made with mode 0600, an existing one is brought to it; it must be a regular file of the agent's own
//! user, no link, in a folder that others cannot write. A file that someone else moved or removed (logrotate) is
//! noticed within a second and made anew. A file whose last line was cut by a crash gets a newline first, so that
//! only that line is spoilt.
//!
//! Rotation renames: no event is copied, and none is in two files. If it fails, the old file goes on growing and
//! rotation is tried again after as many bytes more. With `keep` 0 the file is emptied instead.

use super::Error;
use super::outbox::Target;
use crate::config;
use rustix::fs::OFlags;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MODE: u32 = 0o600;
const TEND_EVERY: Duration = Duration::from_secs(1);

/// A file that makes place for itself.
pub struct RotatingFile {
    path: PathBuf,
    name: String,
    file: File,
    /// (device, inode) of `file`.
    identity: (u64, u64),
    size: u64,
    limit: u64,
    /// Size at which rotation is due.
    turn_at: u64,
    keep: u64,
    sync: config::Sync,
    unsynced: bool,
    tended: Instant,
    pub(super) tend_every: Duration,
}

impl RotatingFile {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// If it cannot be opened, or others could exchange it.
    pub fn open(path: &Path, config: &config::File) -> Result<Self, Error> {
        check_folder(path)?;
        let (file, metadata) = open(path)?;
        let mut opened = Self {
            name: path.display().to_string(),
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            limit: config.rotate_bytes.get(),
            turn_at: config.rotate_bytes.get(),
            keep: config.keep.get(),
            sync: config.sync,
            unsynced: false,
            tended: Instant::now(),
            tend_every: TEND_EVERY,
            file,
        };
        opened.end_cut_line().map_err(|source| Error::Open {
            path: path.to_owned(),
            source,
        })?;
        Ok(opened)
    }

    fn end_cut_line(&mut self) -> std::io::Result<()> {
        if self.size == 0 {
            return Ok(());
        }
        let mut last = [0];
        self.file.seek(SeekFrom::End(-1))?;
        self.file.read_exact(&mut last)?;
        if last != [b'\n'] {
            match self.file.write(b"\n") {
                Ok(count) => self.size += count as u64,
                // The disk is full: the first event waits for it, too, and its line is spoilt with the cut one.
                Err(error) => {
                    tracing::warn!(sink = self.name, %error, "the cut last line stays open")
                }
            }
        }
        Ok(())
    }

    fn numbered(&self, number: u64) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        if self.keep == 0 {
            self.file.set_len(0)?;
            self.size = 0;
            return Ok(());
        }
        self.sync()?;
        for number in (1..self.keep).rev() {
            ignore_missing(std::fs::rename(
                self.numbered(number),
                self.numbered(number + 1),
            ))?;
        }
        let newest = self.numbered(1);
        std::fs::rename(&self.path, &newest)?;
        if let Err(error) = self.reopen() {
            // The open file goes on under its old name.
            ignore_missing(std::fs::rename(&newest, &self.path))?;
            return Err(error);
        }
        // The names are durable, too.
        if let Some(folder) = folder(&self.path) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        let (file, metadata) = open(&self.path).map_err(|error| match error {
            Error::Open { source, .. } => source,
            other => std::io::Error::other(other.to_string()),
        })?;
        self.file = file;
        self.identity = (metadata.dev(), metadata.ino());
        self.size = metadata.len();
        self.turn_at = self.limit;
        Ok(())
    }
}

impl Target for RotatingFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.size += count as u64;
        self.unsynced = true;
        // The bytes are in the file in any case: an error here must not have them written twice.
        if self.sync == config::Sync::Event
            && let Err(error) = self.sync()
        {
            tracing::error!(sink = self.name, %error, "events may not be on the disk");
        }
        Ok(count)
    }

    fn room(&self) -> usize {
        usize::try_from(self.turn_at.saturating_sub(self.size)).unwrap_or(usize::MAX)
    }

    fn is_fresh(&self) -> bool {
        self.size == 0
    }

    fn turn(&mut self) -> std::io::Result<()> {
        if let Err(error) = self.rotate() {
            tracing::warn!(sink = self.name, %error, "cannot rotate; the file goes on growing");
            self.turn_at = self.size.saturating_add(self.limit);
        } else {
            self.turn_at = self.limit;
        }
        Ok(())
    }

    fn tend(&mut self) -> std::io::Result<()> {
        if self.tended.elapsed() < self.tend_every {
            return Ok(());
        }
        self.tended = Instant::now();
        if self.sync == config::Sync::Second {
            self.sync()?;
        }
        let there = std::fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.identity) {
            return Ok(());
        }
        self.sync()?;
        self.reopen()
    }

    fn sync(&mut self) -> std::io::Result<()> {
        if self.unsynced {
            self.unsynced = false;
            self.file.sync_data()?;
        }
        Ok(())
    }
}

fn folder(path: &Path) -> Option<&Path> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Some(Path::new(".")),
        other => other,
    }
}

fn ignore_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Others must not be able to put another file in its place. In a folder with the sticky bit they cannot.
fn check_folder(path: &Path) -> Result<(), Error> {
    let Some(folder) = folder(path) else {
        return Ok(());
    };
    let metadata = std::fs::metadata(folder).map_err(|source| Error::Open {
        path: folder.to_owned(),
        source,
    })?;
    let mode = metadata.mode();
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err(Error::Folder {
            path: folder.to_owned(),
            mode: mode & 0o7777,
        });
    }
    Ok(())
}

fn open(path: &Path) -> Result<(File, Metadata), Error> {
    let failed = |source| Error::Open {
        path: path.to_owned(),
        source,
    };
    // Without NONBLOCK opening a pipe would wait for its reader.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let agent = rustix::process::geteuid().as_raw();
    if !metadata.is_file() {
        return Err(Error::NotAFile {
            path: path.to_owned(),
        });
    }
    if metadata.uid() != agent {
        return Err(Error::Owner {
            path: path.to_owned(),
            owner: metadata.uid(),
            agent,
        });
    }
    if metadata.mode() & 0o7777 != MODE {
        file.set_permissions(std::fs::Permissions::from_mode(MODE))
            .map_err(failed)?;
    }
    Ok((file, metadata))
}
