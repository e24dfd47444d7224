//! What processes with one mount namespace and one root see, and opening files as they see them.
//!
//! A path is resolved by the kernel as one of these processes would (`RESOLVE_IN_ROOT`): no link leads out of their root.
//! Everything is opened as a bare reference first (`O_PATH`), so that no device, named pipe or socket is ever opened, and
//! no automount is caused.
//!
//! Invariant: no descriptor is kept here: what is kept is which processes have the view. Where none of them is left,
//! nobody is there to execute what would be found.

use crate::kernel::device::{self, Mounts};
use agent_common::abi;
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, fstatfs, openat2,
        statx,
    },
    io::Errno,
    path::Arg,
};
use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    sync::{Mutex, PoisonError},
};

/// Processes that are remembered of a view: whoever was met last.
const PROCESSES: usize = 16;
/// How often a path is resolved again where something within was renamed meanwhile.
const TRIES: usize = 4;
/// `AUTOFS_SUPER_MAGIC` (statfs(2)): looking into it mounts what nobody has asked for.
const AUTOFS: i64 = 0x187;

/// Which view a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ViewKey {
    /// Inode number of `/proc/PID/ns/mnt`.
    namespace: u64,
    /// Device and inode number of its root.
    root: (u64, u64),
    /// The root's mount: numbers of namespaces come again as soon as one has ended, those of mounts never do (Linux 6.8),
    /// or later.
    mount: u64,
}

/// `STATX_MNT_ID_UNIQUE` (include/uapi/linux/stat.h)
const MOUNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// See the module.
#[derive(Debug)]
pub struct View {
    pub key: ViewKey,
    processes: Mutex<VecDeque<u32>>,
}

/// A regular file, not opened.
#[derive(Debug)]
pub struct Handle {
    pub descriptor: OwnedFd,
    pub stat: Statx,
}

impl ViewKey {
    /// # Errors
    /// If the process has ended.
    pub fn of(pid: u32) -> io::Result<Self> {
        let link = |name: &str| -> io::Result<Statx> {
            let path = format!("/proc/{pid}/{name}");
            let wanted = StatxFlags::INO | StatxFlags::MNT_ID | MOUNT_ID_UNIQUE;
            Ok(statx(CWD, path, QUIETLY, wanted)?)
        };
        let root = link("root")?;
        Ok(Self {
            namespace: link("ns/mnt")?.stx_ino,
            root: id(&root),
            mount: root.stx_mnt_id,
        })
    }
}

/// Nobody's server is asked, and nothing is mounted for it.
const QUIETLY: AtFlags = AtFlags::STATX_DONT_SYNC.union(AtFlags::NO_AUTOMOUNT);

/// Device and inode number as `stat` gives them.
pub fn id(stat: &Statx) -> (u64, u64) {
    let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    (device, stat.stx_ino)
}

impl View {
    pub fn new(key: ViewKey) -> Self {
        Self {
            key,
            processes: Mutex::default(),
        }
    }

    /// A process has this view.
    pub fn met(&self, pid: u32) {
        let mut processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        processes.retain(|known| *known != pid);
        processes.push_front(pid);
        processes.truncate(PROCESSES);
    }

    /// The root, by whichever process still has it; and that process.
    ///
    /// # Errors
    /// If there is none.
    pub fn root(&self) -> io::Result<(OwnedFd, u32)> {
        let processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        // The agent itself may have the view, and is there for longer.
        for pid in processes.into_iter().chain([std::process::id()]) {
            if let Ok(root) = root_of(pid)
                && ViewKey::of(pid).is_ok_and(|key| key == self.key)
            {
                return Ok((root, pid));
            }
        }
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        Err(Errno::SRCH.into())
    }
}

/// The root of a process, not opened.
pub fn root_of(pid: u32) -> io::Result<OwnedFd> {
    directory(&format!("/proc/{pid}/root"))
}

/// The working folder of a process, not opened.
pub fn working_of(pid: u32) -> io::Result<OwnedFd> {
    directory(&format!("/proc/{pid}/cwd"))
}

fn directory(link: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(link, flags, Mode::empty())?)
}

/// What `path` names for whoever has this root, links followed within it.
///
/// # Errors
/// Those of openat2(2).
pub fn below(root: impl AsFd, path: impl Arg + Copy) -> io::Result<OwnedFd> {
    resolve(root, path, ResolveFlags::IN_ROOT)
}

/// The same, relative to a folder that must not be left.
///
/// # Errors
/// Those of openat2(2): `EXDEV` where the path leads out of the folder.
pub fn within(folder: impl AsFd, path: impl Arg + Copy) -> io::Result<OwnedFd> {
    resolve(folder, path, ResolveFlags::BENEATH)
}

fn resolve(from: impl AsFd, path: impl Arg + Copy, how: ResolveFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let how = how | ResolveFlags::NO_MAGICLINKS;
    for _ in 1..TRIES {
        match openat2(&from, path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN) => {}
            result => return Ok(result?),
        }
    }
    Ok(openat2(&from, path, flags, Mode::empty(), how)?)
}

/// Attributes of what a descriptor names.
///
/// # Errors
/// Those of statx(2).
pub fn attributes(descriptor: impl AsFd) -> io::Result<Statx> {
    let flags = QUIETLY.union(AtFlags::EMPTY_PATH);
    Ok(statx(descriptor, "", flags, StatxFlags::BASIC_STATS)?)
}

/// Attributes of what a link of `/proc` names.
///
/// # Errors
/// Those of statx(2).
pub fn attributes_at(link: &str) -> io::Result<Statx> {
    Ok(statx(CWD, link, QUIETLY, StatxFlags::BASIC_STATS)?)
}

pub fn kind(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

/// Opens a folder for listing.
///
/// # Errors
/// If it is none, or one that mounts others when it is looked at.
pub fn list(handle: &OwnedFd) -> io::Result<rustix::fs::Dir> {
    if kind(&attributes(handle)?) != FileType::Directory {
        return Err(Errno::NOTDIR.into());
    }
    if fstatfs(handle)?.f_type == AUTOFS {
        return Err(Errno::OPNOTSUPP.into());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(handle, ".", flags, Mode::empty())?;
    Ok(rustix::fs::Dir::new(folder)?)
}

impl Handle {
    /// # Errors
    /// If it is no regular file.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let stat = attributes(&descriptor)?;
        if kind(&stat) != FileType::RegularFile {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        Ok(Self { descriptor, stat })
    }

    pub fn is_executable(&self) -> bool {
        self.stat.stx_mode & 0o111 != 0
    }

    /// The file as the probes name it.
    pub fn state(&self, mounts: &Mounts) -> abi::File {
        let stat = &self.stat;
        let (device, inode) = mounts.numbers(&self.descriptor).unwrap_or_else(|| {
            let device = device::to_kernel(stat.stx_dev_major, stat.stx_dev_minor);
            (device, stat.stx_ino)
        });
        abi::File {
            device,
            inode,
            size: stat.stx_size,
            modified: device::to_nanoseconds(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec.into()),
            changed: device::to_nanoseconds(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec.into()),
        }
    }

    /// Opens it for reading, without waiting for whoever has a lease on it.
    ///
    /// # Errors
    /// If it cannot be opened, or does not begin as an ELF file does.
    pub fn open(&self) -> io::Result<File> {
        use std::os::unix::fs::FileExt as _;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let path = format!("/proc/self/fd/{}", self.descriptor.as_raw_fd());
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let mut magic = [0; 4];
        file.read_exact_at(&mut magic, 0)?;
        if magic != *b"\x7fELF" {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no ELF file"));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    #[test]
    fn this_process_has_a_view_that_can_be_opened_by_it() {
        let own = std::process::id();
        let view = View::new(ViewKey::of(own).unwrap());
        // Pids that are nobody's.
        view.met(0);
        view.met(u32::MAX);
        let (root, pid) = view.root().unwrap();
        assert_eq!(pid, own);
        let metadata = std::fs::metadata("/").unwrap();
        assert_eq!(
            id(&attributes(&root).unwrap()),
            (metadata.dev(), metadata.ino())
        );
        let other = View::new(ViewKey {
            namespace: 1,
            ..view.key
        });
        other.met(own);
        assert!(other.root().is_err());
    }

    #[test]
    fn a_state_is_what_the_finder_makes_of_the_same_file() {
        use crate::kernel::keylog::FileState;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, "\x7fELF").unwrap();
        let root = File::open("/").unwrap();
        let handle = Handle::new(below(&root, &path).unwrap()).unwrap();
        let file = handle.open().unwrap();
        let found = FileState::of(&file).unwrap().as_kernel();
        assert_eq!(handle.state(&Mounts::default()), found);
        std::fs::write(&path, "#!/bin/sh").unwrap();
        assert_eq!(
            handle.open().unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn only_regular_files_are_handled() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let root = File::open("/").unwrap();
        for path in [fifo.as_path(), folder.path(), Path::new("/dev/null")] {
            assert!(
                Handle::new(below(&root, path).unwrap()).is_err(),
                "{path:?}"
            );
        }
        assert!(list(&below(&root, &fifo).unwrap()).is_err());
        assert!(list(&below(&root, folder.path()).unwrap()).is_ok());
    }

    #[test]
    fn a_folder_that_must_not_be_left_is_not() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("out")).unwrap();
        let inside = File::open(folder.path()).unwrap();
        assert!(within(&inside, Path::new("file")).is_ok());
        for path in ["out", "../..", "/etc/passwd"] {
            let error = within(&inside, Path::new(path)).unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                Some(Errno::XDEV.raw_os_error()),
                "{path}"
            );
        }
    }
}
