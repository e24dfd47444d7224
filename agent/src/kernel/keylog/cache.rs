//! What earlier searches found, in memory and in one JSON file, so that a restart does not search every library anew.
//!
//! Two keys. A file's own state (device, inode, size, times) answers for that file, also that it holds nothing. Build
//! id and size answer for another copy of the same build (container images), only where a key-log point was found:
//! a build id is a name that any file can give itself, so it must not be able to hide a library, and the finder
//! checks every point that comes from here against the file at hand.
//!
//! File: `key-log-points.json` in the given folder, a [`Stored`], replaced as a whole by rename.
//!
//! Invariant: a file that others could have written is not read; a corrupt one is ignored with a reason, never an
//! error. Invariant: both maps are bounded.

use super::elf::BuildId;
use super::finder::Found;
use crate::kernel::device;
use agent_common::abi;
use lru::LruCache;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files remembered.
const FILES: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");
/// Builds remembered.
const BUILDS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// Largest cache file read, in bytes.
const CACHE_BYTES: u64 = 16 << 20;
/// Raised whenever the search or the format changes: older answers are then searched anew.
const VERSION: u32 = 2;
const NAME: &str = "key-log-points.json";
/// Where the agent keeps it.
pub const FOLDER: &str = "/var/cache/tokentrail";

/// A file as `stat` tells it from every other and from itself after a change. `ctime` cannot be set by anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileState {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    /// Seconds and nanoseconds.
    pub modified: (i64, i64),
    pub changed: (i64, i64),
}

impl FileState {
    /// Of an open regular file.
    pub fn of(file: &File) -> Result<Self, super::LookError> {
        Self::from_metadata(&file.metadata()?)
    }

    /// As the probes would report it, unless the file system has numbers of its own (overlayfs, btrfs).
    pub(in crate::kernel) fn as_kernel(self) -> abi::File {
        let nanoseconds = |(seconds, more): (i64, i64)| {
            seconds
                .cast_unsigned()
                .wrapping_mul(1_000_000_000)
                .wrapping_add(more.cast_unsigned())
        };
        abi::File {
            device: device::to_kernel(
                rustix::fs::major(self.device),
                rustix::fs::minor(self.device),
            ),
            inode: self.inode,
            size: self.size,
            modified: nanoseconds(self.modified),
            changed: nanoseconds(self.changed),
        }
    }

    pub(super) fn from_metadata(metadata: &fs::Metadata) -> Result<Self, super::LookError> {
        super::discover::check_regular(metadata.mode())?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// The cache file's contents.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    files: Vec<(FileState, Found)>,
    builds: Vec<Found>,
}

/// Why a cache file was not used. The agent goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum CacheProblem {
    #[error("{path} belongs to user {owner}, not to the agent's: ignored")]
    Owner { path: PathBuf, owner: u32 },
    #[error("{path} can be written by others (mode {mode:o}): ignored")]
    Writable { path: PathBuf, mode: u32 },
    #[error("{path} has {size} bytes: ignored")]
    Size { path: PathBuf, size: u64 },
    #[error("{path} is not a cache of version {VERSION}: ignored")]
    Version { path: PathBuf },
    #[error("{path} is corrupt, ignored: {error}")]
    Corrupt {
        path: PathBuf,
        error: serde_json::Error,
    },
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

/// See the module.
pub struct Cache {
    files: LruCache<FileState, Found>,
    builds: LruCache<(BuildId, u64), Found>,
    /// Files whose search ended without an answer, with its message: not tried again until they change.
    failures: LruCache<FileState, String>,
    folder: Option<PathBuf>,
    dirty: bool,
}

impl Cache {
    /// Remembers nothing beyond this run.
    pub fn in_memory() -> Self {
        Self {
            files: LruCache::new(FILES),
            builds: LruCache::new(BUILDS),
            failures: LruCache::new(FILES),
            folder: None,
            dirty: false,
        }
    }

    /// Reads the cache file in `folder`, if there is a usable one, and makes [`Cache::save`] write there.
    pub fn open(folder: &Path) -> (Self, Option<CacheProblem>) {
        let mut cache = Self::in_memory();
        let problem = match read(folder) {
            Ok(None) => None,
            Ok(Some(stored)) => {
                for (state, found) in stored.files {
                    cache.files.put(state, found);
                }
                for found in stored.builds {
                    cache.keep_build(&found);
                }
                None
            }
            Err(problem) => Some(problem),
        };
        // A folder that others can write to is no place to write either.
        let refused = matches!(
            problem,
            Some(CacheProblem::Owner { .. } | CacheProblem::Writable { .. })
        );
        cache.folder = (!refused).then(|| folder.to_owned());
        (cache, problem)
    }

    pub(super) fn by_state(&mut self, state: &FileState) -> Option<Found> {
        self.files.get(state).cloned()
    }

    pub(super) fn by_build(&mut self, build_id: &BuildId, size: u64) -> Option<Found> {
        self.builds.get(&(build_id.clone(), size)).cloned()
    }

    pub(super) fn failure(&mut self, state: &FileState) -> Option<String> {
        self.failures.get(state).cloned()
    }

    pub(super) fn keep(&mut self, state: FileState, found: &Found) {
        self.files.put(state, found.clone());
        self.keep_build(found);
        self.dirty = true;
    }

    pub(super) fn keep_failure(&mut self, state: FileState, message: String) {
        self.failures.put(state, message);
    }

    fn keep_build(&mut self, found: &Found) {
        let has_point = found
            .points
            .iter()
            .any(|point| point.kind.is_first_choice());
        if let (true, Some(build_id)) = (has_point, &found.build_id) {
            self.builds
                .put((build_id.clone(), found.size), found.clone());
        }
    }

    /// Writes the cache file, if there is anything new and a folder to write to (made if missing, mode 0700).
    pub fn save(&mut self) -> Result<(), CacheProblem> {
        let Some(folder) = self.folder.clone().filter(|_| self.dirty) else {
            return Ok(());
        };
        let stored = Stored {
            version: VERSION,
            // Least recently used first, so that reading it back keeps the order.
            files: self
                .files
                .iter()
                .rev()
                .map(|(state, found)| (*state, found.clone()))
                .collect(),
            builds: self
                .builds
                .iter()
                .rev()
                .map(|(_, found)| found.clone())
                .collect(),
        };
        let path = folder.join(NAME);
        write(&folder, &path, &stored).map_err(|error| CacheProblem::Io { path, error })?;
        self.dirty = false;
        Ok(())
    }
}

fn read(folder: &Path) -> Result<Option<Stored>, CacheProblem> {
    let path = folder.join(NAME);
    let io_problem = |error: io::Error| CacheProblem::Io {
        path: path.clone(),
        error,
    };
    match fs::symlink_metadata(folder) {
        Ok(metadata) => check_owner(folder, &metadata)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_problem(error)),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(descriptor) => File::from(descriptor),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(io_problem(error.into())),
    };
    let metadata = file.metadata().map_err(io_problem)?;
    check_owner(&path, &metadata)?;
    if !metadata.is_file() || metadata.len() > CACHE_BYTES {
        return Err(CacheProblem::Size {
            path,
            size: metadata.len(),
        });
    }
    let mut bytes = Vec::new();
    file.take(CACHE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(io_problem)?;

    /// Read first: another version may have other fields.
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    match serde_json::from_slice::<Head>(&bytes) {
        Ok(head) if head.version != VERSION => return Err(CacheProblem::Version { path }),
        Ok(_) => {}
        Err(error) => return Err(CacheProblem::Corrupt { path, error }),
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| CacheProblem::Corrupt { path, error })
}

fn check_owner(path: &Path, metadata: &fs::Metadata) -> Result<(), CacheProblem> {
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own && metadata.uid() != 0 {
        return Err(CacheProblem::Owner {
            path: path.to_owned(),
            owner: metadata.uid(),
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(CacheProblem::Writable {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

fn write(folder: &Path, path: &Path, stored: &Stored) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let temporary = folder.join(format!(".{NAME}.{}", std::process::id()));
    // Left by an agent that was killed: the folder is ours alone.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = (|| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(stored)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // Nothing more can be done about it; the next save removes it.
        let _ = fs::remove_file(&temporary);
    }
    written
}
