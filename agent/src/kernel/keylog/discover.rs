//! Which files to look at: what a process has mapped as code, and where libraries usually are.
//!
//! A process's file is opened through `/proc/PID/map_files`, which is the very file that is mapped, deleted or in
//! another mount namespace or not. Where that is refused, its path is opened below `/proc/PID/root` (never leaving
//! it: `RESOLVE_IN_ROOT`), and counts only if device and inode number are those of the mapping.
//!
//! Opening is in two steps, `O_PATH` and then the same inode through `/proc/self/fd`: a device, FIFO or socket put in
//! the place of a file is never opened.
//!
//! A process maps about a hundred files, nearly all of which are known to hold nothing: [`look`] asks for such a file by
//! one `stat`, without opening it.
//!
//! Invariant: nothing but `/proc` is read of a process, and no file is opened that is not regular.

use super::finder::{Finder, Found, LookError};
use super::ldcache;
use super::state::FileState;
use crate::kernel::record::FileId;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes read of `/proc/PID/maps`: about 200,000 mappings (`vm.max_map_count` is 65,530 by default).
const MAPS_BYTES: u64 = 32 << 20;
/// Different files kept of one process, and parts of files.
const FILES: usize = 4096;
const PARTS: usize = 16_384;
/// Folders of shared libraries, beside those that `/etc/ld.so.cache` names.
const FOLDERS: &[&str] = &[
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/ssl/lib64",
    "/usr/local/openssl/lib64",
];
/// What TLS libraries are called, and the fallback's.
const NAMES: &[&str] = &["libssl", "libgnutls", "libboringssl", "libcrypto"];

/// Why a process's file cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    #[error("process {pid} is gone")]
    ProcessGone { pid: u32 },
    #[error("mappings of process {pid} cannot be read: {error}")]
    Unreadable { pid: u32, error: io::Error },
    #[error("{path} of process {pid} cannot be opened: {error}")]
    Unopenable {
        pid: u32,
        path: PathBuf,
        error: io::Error,
    },
    #[error("{path} of process {pid} is another file than the one mapped")]
    Changed { pid: u32, path: PathBuf },
    #[error("{path} of process {pid}: {error}")]
    Refused {
        pid: u32,
        path: PathBuf,
        error: LookError,
    },
}

/// A file that a process has mapped as code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub pid: u32,
    pub start: u64,
    pub end: u64,
    /// Place in the file of its first byte.
    pub offset: u64,
    /// Device and inode number as `/proc/PID/maps` has them. On overlayfs and btrfs `stat` says another device.
    pub id: FileId,
    /// The path in the process's own view, without ` (deleted)`.
    pub path: PathBuf,
    pub deleted: bool,
}

/// A mapping's file, open for reading.
#[derive(Debug)]
pub struct MappedFile {
    pub file: File,
    /// As `stat` has it.
    pub id: FileId,
    pub mapping: Mapping,
}

/// What came of looking at a mapping's file.
#[derive(Debug)]
pub struct Looked {
    pub found: Found,
    /// Open if there is a point to attach to.
    pub file: Option<MappedFile>,
}

/// Looks at a mapping's file, opening it only if need be.
pub fn look(mapping: &Mapping, finder: &mut Finder) -> Result<Looked, DiscoverError> {
    let state = fs::metadata(mapping.link())
        .ok()
        .and_then(|metadata| FileState::from_metadata(&metadata).ok());
    if let Some(found) = state.and_then(|state| finder.nothing_in(&state)) {
        return Ok(Looked { found, file: None });
    }
    let file = mapping.open()?;
    match finder.look_at_file(&file.file) {
        Ok(found) => Ok(Looked {
            file: (!found.points.is_empty()).then_some(file),
            found,
        }),
        Err(error) => Err(DiscoverError::Refused {
            pid: mapping.pid,
            path: mapping.path.clone(),
            error,
        }),
    }
}

impl MappedFile {
    /// A path that names this very file for as long as it is open: what to attach a probe to.
    pub fn attach_path(&self) -> PathBuf {
        descriptor_path(&self.file)
    }
}

impl Mapping {
    /// Opens the file; see the module.
    pub fn open(&self) -> Result<MappedFile, DiscoverError> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match rustix::fs::open(self.link(), flags, Mode::empty()) {
            Ok(handle) => self.finish(handle, false),
            Err(_) => {
                let handle = self
                    .open_below_root()
                    .map_err(|error| self.unopenable(error.into()))?;
                self.finish(handle, true)
            }
        }
    }

    /// Names the very file that is mapped, as long as it is.
    pub fn link(&self) -> String {
        format!(
            "/proc/{}/map_files/{:x}-{:x}",
            self.pid, self.start, self.end
        )
    }

    fn open_below_root(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{}/root", self.pid), flags, Mode::empty())?;
        rustix::fs::openat2(
            root,
            &self.path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        )
    }

    fn finish(&self, handle: OwnedFd, verify: bool) -> Result<MappedFile, DiscoverError> {
        let file = reopen(handle).map_err(|error| DiscoverError::Refused {
            pid: self.pid,
            path: self.path.clone(),
            error,
        })?;
        let metadata = file.metadata().map_err(|error| self.unopenable(error))?;
        let id = FileId {
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        if verify && id != self.id {
            return Err(DiscoverError::Changed {
                pid: self.pid,
                path: self.path.clone(),
            });
        }
        Ok(MappedFile {
            file,
            id,
            mapping: self.clone(),
        })
    }

    fn unopenable(&self, error: io::Error) -> DiscoverError {
        DiscoverError::Unopenable {
            pid: self.pid,
            path: self.path.clone(),
            error,
        }
    }
}

/// The files that `pid` has mapped as code, each once, the likeliest to hold TLS first: libraries called so, then the
/// program itself, then the rest.
pub fn files_of_process(pid: u32) -> Result<Vec<Mapping>, DiscoverError> {
    read_maps(pid).map(|bytes| parse_maps(pid, &bytes))
}

fn read_maps(pid: u32) -> Result<Vec<u8>, DiscoverError> {
    let mut bytes = Vec::new();
    let read = File::open(format!("/proc/{pid}/maps"))
        .and_then(|file| file.take(MAPS_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        // ESRCH: it ended between opening and reading.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
        {
            Err(DiscoverError::ProcessGone { pid })
        }
        Err(error) => Err(DiscoverError::Unreadable { pid, error }),
    }
}

/// Everything that `pid` has mapped as code, part by part, in the order of its addresses.
pub fn code_of_process(pid: u32) -> Result<Vec<Mapping>, DiscoverError> {
    Ok(read_maps(pid)?
        .split(|&byte| byte == b'\n')
        .filter_map(|line| parse_line(pid, line))
        .take(PARTS)
        .collect())
}

/// Opens the program that `pid` runs, whatever has become of its name.
pub fn open_program(pid: u32) -> Result<File, LookError> {
    open_regular(Path::new(&format!("/proc/{pid}/exe")))
}

/// Opens the file of which `pid` has code mapped at this address.
pub fn open_at(pid: u32, address: u64) -> Result<File, LookError> {
    let gone = || LookError::Read(io::ErrorKind::NotFound.into());
    let mapping = code_of_process(pid)
        .map_err(|error| match error {
            DiscoverError::Unreadable { error, .. } => LookError::Read(error),
            _ => gone(),
        })?
        .into_iter()
        .find(|mapping| (mapping.start..mapping.end).contains(&address))
        .ok_or_else(gone)?;
    match mapping.open() {
        Ok(mapped) => Ok(mapped.file),
        Err(DiscoverError::Refused { error, .. }) => Err(error),
        Err(DiscoverError::Unopenable { error, .. } | DiscoverError::Unreadable { error, .. }) => {
            Err(LookError::Read(error))
        }
        Err(DiscoverError::ProcessGone { .. } | DiscoverError::Changed { .. }) => Err(gone()),
    }
}

/// Reads the text of `/proc/PID/maps` (Documentation/filesystems/proc.rst): `start-end perms offset dev inode path`.
pub fn parse_maps(pid: u32, text: &[u8]) -> Vec<Mapping> {
    let mut seen = BTreeSet::new();
    let mut mappings: Vec<Mapping> = text
        .split(|&byte| byte == b'\n')
        .filter_map(|line| parse_line(pid, line))
        .filter(|mapping| seen.insert(mapping.id))
        .take(FILES)
        .collect();
    let program = mappings.first().map(|mapping| mapping.id);
    mappings.sort_by_key(|mapping| match () {
        () if has_tls_name(mapping.path.file_name()) => 0,
        () if Some(mapping.id) == program => 1,
        () => 2,
    });
    mappings
}

fn parse_line(pid: u32, line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut field = || {
        let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
        let (field, after) = rest.split_at(end);
        rest = after.trim_ascii_start();
        std::str::from_utf8(field).ok()
    };
    let (start, end) = field()?.split_once('-')?;
    let permissions = field()?;
    let offset = u64::from_str_radix(field()?, 16).ok()?;
    let (major, minor) = field()?.split_once(':')?;
    let inode: u64 = field()?.parse().ok()?;
    if permissions.as_bytes().get(2) != Some(&b'x') || inode == 0 || !rest.starts_with(b"/") {
        return None;
    }
    let path = unescape(rest);
    let deleted = path.ends_with(b" (deleted)");
    let path = path.strip_suffix(b" (deleted)").unwrap_or(&path).to_vec();
    let device = rustix::fs::makedev(
        u32::from_str_radix(major, 16).ok()?,
        u32::from_str_radix(minor, 16).ok()?,
    );
    Some(Mapping {
        pid,
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        offset,
        id: FileId { device, inode },
        path: PathBuf::from(OsString::from_vec(path)),
        deleted,
    })
}

/// The kernel writes a newline in a path as `\012` and leaves a backslash as it is (`seq_file_path` with `"\n"`).
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            plain.push(b'\n');
            rest = after;
        } else {
            plain.push(byte);
            rest = after;
        }
    }
    plain
}

/// Ids of the processes there are now.
pub fn running_processes() -> io::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// TLS libraries in the usual folders of this mount namespace and in `/etc/ld.so.cache`: real paths, each once,
/// libraries before fallbacks.
pub fn usual_libraries() -> Vec<PathBuf> {
    let mut candidates: Vec<PathBuf> = ldcache::load().into_iter().map(|(_, path)| path).collect();
    for folder in FOLDERS {
        let entries = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        candidates.extend(entries.map(|entry| entry.path()));
    }
    let mut found: Vec<PathBuf> = candidates
        .into_iter()
        .filter(|path| has_tls_name(path.file_name()) && is_shared_object(path))
        .filter_map(|path| fs::canonicalize(path).ok())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    found.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        name.starts_with(b"libcrypto")
    });
    found
}

/// Folders of shared libraries to search for a needed one, in order.
pub(super) fn library_folders() -> impl Iterator<Item = &'static Path> {
    FOLDERS.iter().map(Path::new)
}

fn has_tls_name(name: Option<&OsStr>) -> bool {
    let name = name.unwrap_or_default().as_bytes();
    NAMES.iter().any(|known| name.starts_with(known.as_bytes()))
}

/// `libssl.so`, `libssl.so.3`, `libssl-1a2b.so.3`, not `libssl.a` or `libssl.pc`.
fn is_shared_object(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    name.ends_with(b".so") || memchr::memmem::find(name, b".so.").is_some()
}

/// Opens a path of this mount namespace, following links, if it is a regular file.
pub fn open_regular(path: &Path) -> Result<File, LookError> {
    let handle = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)?;
    reopen(handle)
}

/// Opens for reading what an `O_PATH` handle names.
fn reopen(handle: OwnedFd) -> Result<File, LookError> {
    let stat = rustix::fs::fstat(&handle).map_err(io::Error::from)?;
    check_regular(stat.st_mode)?;
    Ok(File::open(descriptor_path(&handle))?)
}

pub(in crate::kernel) fn check_regular(mode: u32) -> Result<(), LookError> {
    use rustix::fs::FileType;
    let what = match FileType::from_raw_mode(mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "folder",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Fifo => "named pipe",
        FileType::Socket => "socket",
        FileType::Symlink => "symbolic link",
        _ => "file of an unknown type",
    };
    Err(LookError::NotAFile(what))
}

pub(in crate::kernel) fn descriptor_path(descriptor: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd()))
}
