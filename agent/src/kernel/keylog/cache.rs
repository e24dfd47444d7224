//! What earlier searches found, in memory and in one JSON file, so that a restart does not search every library anew.
//!
//! Two keys. A file's own state ([`super::state`]) answers for that file, also that it holds nothing. Size and headers are
//! a hint for another copy of the same build (container images), only where a key-log point was found: any file can have
//! the headers of another, so they must not be able to hide a library, and the finder checks the build id and every
//! point that comes from here against the file at hand.
//!
//! File: `key-log-points.json` in the given folder, a [`Stored`], replaced as a whole by rename.
//!
//! Invariant: a file that others could have written is not read; a corrupt one is ignored with a reason, never an
//! error. Invariant: what is remembered is bounded, in entries and in bytes, in memory and on the disk; what was not used
//! for longest is forgotten first.

use super::finder::{Found, How};
use super::headers::Build;
use super::state::FileState;
use lru::LruCache;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files remembered.
const FILES: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");
/// Builds remembered.
const BUILDS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// Bytes of what is remembered of either kind, by their form in the file.
const REMEMBERED: usize = 7 << 20;
/// Largest cache file read, in bytes.
const CACHE_BYTES: u64 = 16 << 20;
/// Raised whenever the search or the format changes: older answers are then searched anew.
const VERSION: u32 = 6;
const NAME: &str = "key-log-points.json";
/// Where the agent keeps it.
pub const FOLDER: &str = "/var/cache/tokentrail";

/// The cache file's contents.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    files: Vec<(FileState, Shared)>,
    builds: Vec<(Build, Shared)>,
}

/// In the file as what it shares.
struct Shared(Arc<Found>);

impl Serialize for Shared {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Shared {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Found::deserialize(from).map(|found| Self(Arc::new(found)))
    }
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

/// A map that forgets by use, with a bound on the bytes of its values.
struct Remembered<K> {
    entries: LruCache<K, Arc<Found>>,
    bytes: usize,
}

impl<K: std::hash::Hash + Eq + Copy> Remembered<K> {
    fn new(entries: NonZeroUsize) -> Self {
        Self {
            entries: LruCache::new(entries),
            bytes: 0,
        }
    }

    fn put(&mut self, key: K, found: Arc<Found>) {
        self.bytes += weight(&found);
        if let Some((_, forgotten)) = self.entries.push(key, found) {
            self.bytes -= weight(&forgotten);
        }
        while self.bytes > REMEMBERED
            && let Some((_, forgotten)) = self.entries.pop_lru()
        {
            self.bytes -= weight(&forgotten);
        }
    }

    fn get(&mut self, key: &K) -> Option<Arc<Found>> {
        self.entries.get(key).cloned()
    }

    /// Least recently used first, so that reading it back keeps the order.
    fn all(&self) -> Vec<(K, Shared)> {
        let entries = self.entries.iter().rev();
        entries
            .map(|(key, found)| (*key, Shared(Arc::clone(found))))
            .collect()
    }
}

/// At least the bytes that it takes in the file.
fn weight(found: &Found) -> usize {
    let text = |text: &Option<String>| 6 * text.as_deref().unwrap_or_default().len();
    let points = found.points.iter().map(|point| {
        let how = match &point.how {
            How::Labels(sites) => sites.iter().map(|site| 160 + 6 * site.label.len()).sum(),
            How::Export(name) => 6 * name.len(),
            How::GoFunction(function) => 160 + 6 * function.name.len(),
            How::CallSite { .. } | How::MethodTable { .. } => 64,
        };
        1536 + how + text(&point.version)
    });
    let unread = found
        .unread
        .iter()
        .map(|unread| 128 + text(&unread.version));
    768 + text(&found.soname) + points.sum::<usize>() + unread.sum::<usize>()
}

/// See the module.
pub struct Cache {
    files: Remembered<FileState>,
    builds: Remembered<Build>,
    /// Files whose search ended without an answer, with its message: not tried again until they change.
    failures: LruCache<FileState, String>,
    folder: Option<PathBuf>,
    dirty: bool,
}

/// What is to be written, taken out of the cache so that nobody waits for the disk.
pub struct Saving {
    folder: PathBuf,
    stored: Stored,
}

impl Saving {
    /// Writes the cache file; the folder is made if missing, mode 0700.
    ///
    /// # Errors
    /// Why it was not written.
    pub fn write(&self) -> Result<(), CacheProblem> {
        let path = self.folder.join(NAME);
        write(&self.folder, &path, &self.stored).map_err(|error| CacheProblem::Io { path, error })
    }
}

impl Cache {
    /// Remembers nothing beyond this run.
    pub fn in_memory() -> Self {
        Self {
            files: Remembered::new(FILES),
            builds: Remembered::new(BUILDS),
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
                    cache.files.put(state, found.0);
                }
                for (build, found) in stored.builds {
                    cache.builds.put(build, found.0);
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

    pub fn by_state(&mut self, state: &FileState) -> Option<Arc<Found>> {
        self.files.get(state)
    }

    pub fn by_build(&mut self, build: &Build) -> Option<Arc<Found>> {
        self.builds.get(build)
    }

    pub(super) fn failure(&mut self, state: &FileState) -> Option<String> {
        self.failures.get(state).cloned()
    }

    /// `build` is kept as well where a key-log point was found.
    pub fn keep(&mut self, state: Option<FileState>, build: Option<Build>, found: &Arc<Found>) {
        let mut points = found.points.iter();
        let has_point = points.any(|point| point.kind.is_first_choice());
        if let Some(build) = build.filter(|_| has_point && found.build_id.is_some()) {
            self.builds.put(build, Arc::clone(found));
            self.dirty = true;
        }
        if let Some(state) = state {
            self.files.put(state, Arc::clone(found));
            self.dirty = true;
        }
    }

    pub(super) fn keep_failure(&mut self, state: FileState, message: String) {
        self.failures.put(state, message);
    }

    /// What is to be written now, if there is anything new and a folder to write to.
    pub fn saving(&mut self) -> Option<Saving> {
        let folder = self.folder.clone().filter(|_| self.dirty)?;
        self.dirty = false;
        Some(Saving {
            folder,
            stored: Stored {
                version: VERSION,
                files: self.files.all(),
                builds: self.builds.all(),
            },
        })
    }

    /// Writes the cache file, if there is anything new and a folder to write to (made if missing, mode 0700).
    pub fn save(&mut self) -> Result<(), CacheProblem> {
        let Some(saving) = self.saving() else {
            return Ok(());
        };
        let written = saving.write();
        self.dirty |= written.is_err();
        written
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

#[cfg(test)]
mod tests {
    use super::super::process::message::tests::much;
    use super::super::state::FileKey;
    use super::*;

    fn state(inode: u64) -> FileState {
        FileState {
            file: FileKey::Inode {
                device: u64::MAX,
                inode,
            },
            size: u64::MAX,
            modified: (i64::MIN, i64::MIN),
            changed: (i64::MIN, i64::MIN),
        }
    }

    #[test]
    fn the_bytes_are_not_underestimated() {
        for found in [much(), Found::default()] {
            let below = FileState {
                file: FileKey::Below { handle: [255; 32] },
                ..state(0)
            };
            let stored = serde_json::to_vec(&(below, &found)).unwrap();
            assert!(weight(&found) >= stored.len(), "{} bytes", stored.len());
        }
    }

    /// However much is found in however many files: what was used last is there, what is written can be read.
    #[test]
    fn what_was_not_used_for_longest_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("cache");
        let (mut cache, problem) = Cache::open(&folder);
        assert!(problem.is_none());
        let (large, small) = (Arc::new(much()), Arc::new(Found::default()));
        cache.keep(Some(state(0)), None, &small);
        cache.keep(Some(state(1)), None, &small);
        let most = REMEMBERED / weight(&large);
        for inode in 2..2 + 2 * most as u64 {
            cache.keep(Some(state(inode)), None, &large);
            assert!(cache.by_state(&state(0)).is_some());
            assert!(cache.files.bytes <= REMEMBERED);
        }
        assert!(cache.by_state(&state(1)).is_none());
        cache.save().unwrap();
        let written = fs::metadata(folder.join(NAME)).unwrap();
        assert!(written.len() < CACHE_BYTES, "{} bytes", written.len());
        let (mut again, problem) = Cache::open(&folder);
        assert!(problem.is_none(), "{problem:?}");
        assert_eq!(again.files.entries.len(), cache.files.entries.len());
        assert_eq!(again.by_state(&state(0)).as_deref(), Some(&*small));

        // Many small ones.
        for inode in 0..2 * FILES.get() as u64 {
            cache.keep(Some(state(inode)), None, &small);
        }
        assert!(cache.files.entries.len() <= FILES.get());
        let sum = |cache: &Cache| -> usize {
            let entries = cache.files.entries.iter();
            entries.map(|(_, found)| weight(found)).sum()
        };
        assert_eq!(cache.files.bytes, sum(&cache));
    }
}
