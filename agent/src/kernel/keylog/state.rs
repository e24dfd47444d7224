//! When two looks are at the same content: what a file is and was when it was searched.
//!
//! `stat` tells a file from every other by device and inode, and from itself after a change by size and times: nobody but
//! the kernel can set `ctime`. On overlayfs each mount has a device of its own; where the kernel gives the handle of the
//! file below (Linux 6.6), all containers of an image have one state. This holds not
//!
//! - where a server chooses what `stat` says (FUSE, NFS and others): a stealer there could show another content under the
//!   same state, below overlayfs too. Only the file systems in [`LOCAL`] are believed;
//! - for a file that was changed so lately that another change might leave its `ctime` as it is ([`YOUNG`]);
//! - where somebody else than root may write through a shared mapping: the kernel notes a change when a page is first
//!   written to, and later ones only once that page was on the disk ([`WRITTEN_BACK`]), on tmpfs never.
//!
//! Invariant: of two equal states that are [`Seen::lasting`], the content was the same, unless root or the disk's own
//! hardware cheated; before Linux 6.6, or whoever may mount overlayfs over a server of their own.

use super::LookError;
use crate::kernel::device;
use agent_common::abi;
use rustix::fs::{AtFlags, Stat, fstat, fstatfs};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

/// A second change within this time may have the first one's `ctime`: the kernel's coarse clock has steps of up to 10 ms.
const YOUNG: Duration = Duration::from_millis(100);
/// After this time what was written is on the disk (`vm.dirty_expire_centisecs` is 30 s, looked at every 5 s), so that
/// the next write through a mapping is noted.
const WRITTEN_BACK: Duration = Duration::from_secs(60);

const OVERLAYFS: u64 = 0x794c_7630;
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;
const HUGETLBFS: u64 = 0x9584_58f6;

/// File systems whose times the kernel of this host sets (include/uapi/linux/magic.h), besides those above.
const LOCAL: &[u64] = &[
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // erofs
    0x9660,      // iso9660
    0x2405_1905, // ubifs
];

/// A file in one of its states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileState {
    pub file: FileKey,
    pub size: u64,
    /// Seconds and nanoseconds.
    pub modified: (i64, i64),
    pub changed: (i64, i64),
}

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FileKey {
    /// As `stat` has it.
    Inode { device: u64, inode: u64 },
    /// SHA-256 of the handle of the file below overlayfs, which has that file system's own number in it.
    Below { handle: [u8; 32] },
}

/// A state, and whether it will be enough to know the content again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub state: FileState,
    pub lasting: bool,
}

impl Seen {
    /// Of an open regular file, now.
    ///
    /// # Errors
    /// If it is no regular file, or cannot be looked at.
    pub fn of(file: impl AsFd) -> Result<Self, LookError> {
        let stat = stat(&file)?;
        let kind = fstatfs(&file).map_err(std::io::Error::from)?.f_type;
        #[expect(clippy::cast_sign_loss, reason = "magic numbers of 32 bits")]
        let kind = kind as u64 & 0xffff_ffff;
        let mut key = FileKey::inode(&stat);
        let mut local = LOCAL.contains(&kind) || matches!(kind, TMPFS | RAMFS | HUGETLBFS);
        if kind == OVERLAYFS {
            local = match below(&file) {
                Handle::Trusted(below) => {
                    key = below;
                    true
                }
                Handle::Unknown => true,
                Handle::Nameless => false,
            };
        }
        let now = clock_gettime(ClockId::RealtimeCoarse);
        let age = age(
            (now.tv_sec, now.tv_nsec),
            (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        );
        let only_root_writes = stat.st_uid == 0 && stat.st_mode & 0o022 == 0;
        let in_memory = matches!(kind, TMPFS | RAMFS | HUGETLBFS);
        let noted = only_root_writes || !in_memory && age >= Some(WRITTEN_BACK);
        Ok(Self {
            state: FileState::new(key, &stat),
            lasting: local && noted && age >= Some(YOUNG),
        })
    }
}

impl FileState {
    fn new(file: FileKey, stat: &Stat) -> Self {
        Self {
            file,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }

    /// By device and inode, wherever the file is: enough for as long as the file is not looked at a second time.
    ///
    /// # Errors
    /// As [`Seen::of`].
    pub fn of(file: impl AsFd) -> Result<Self, LookError> {
        let stat = stat(file)?;
        Ok(Self::new(FileKey::inode(&stat), &stat))
    }
}

impl FileState {
    pub(super) fn from_metadata(metadata: &std::fs::Metadata) -> Result<Self, LookError> {
        super::discover::check_regular(metadata.mode())?;
        Ok(Self {
            file: FileKey::Inode {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl FileState {
    /// As the probes would report it, unless the file system has numbers of its own (btrfs, overlayfs). Of a file below
    /// overlayfs these numbers are 0: its content alone is told.
    #[must_use]
    pub fn as_kernel(self) -> abi::File {
        let at =
            |(seconds, more): (i64, i64)| device::to_nanoseconds(seconds, more.cast_unsigned());
        let (device, inode) = match self.file {
            FileKey::Inode { device, inode } => (
                device::to_kernel(rustix::fs::major(device), rustix::fs::minor(device)),
                inode,
            ),
            FileKey::Below { .. } => (0, 0),
        };
        abi::File {
            device,
            inode,
            size: self.size,
            modified: at(self.modified),
            changed: at(self.changed),
        }
    }
}

impl FileKey {
    fn inode(stat: &Stat) -> Self {
        Self::Inode {
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }
}

fn stat(file: impl AsFd) -> Result<Stat, LookError> {
    let stat = fstat(file).map_err(std::io::Error::from)?;
    super::discover::check_regular(stat.st_mode)?;
    Ok(stat)
}

fn nanoseconds(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(0)
}

/// `None` for what lies ahead.
fn age(now: (i64, i64), then: (i64, i64)) -> Option<Duration> {
    let seconds = now.0.checked_sub(then.0)?;
    let nanoseconds = i128::from(seconds) * 1_000_000_000 + i128::from(now.1 - then.1);
    u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
}

/// Bytes of a handle that are kept.
const HANDLE: usize = 64;
/// `OVL_FILEID_V1` (fs/overlayfs/overlayfs.h).
const OVERLAY_HANDLE: i32 = 0xf8;
/// `struct ovl_fh`: 3 bytes of padding, version, magic, length, flags, type, then the file system's uuid.
const MAGIC_AT: usize = 4;
const MAGIC: u8 = 0xfb;
const UUID_AT: usize = 8;
const UUID: usize = 16;

enum Handle {
    Trusted(FileKey),
    /// The kernel gives none.
    Unknown,
    /// The file system below has no number: its server may be anybody.
    Nameless,
}

/// name_to_handle_at(2) with `AT_HANDLE_FID`.
fn below(file: impl AsFd) -> Handle {
    let mut bytes = [0; HANDLE];
    match name_to_handle(file, &mut bytes) {
        Ok((kind, length)) => key_of(kind, &bytes, length),
        Err(Errno::OVERFLOW) => Handle::Nameless,
        Err(_) => Handle::Unknown,
    }
}

fn key_of(kind: i32, bytes: &[u8; HANDLE], length: usize) -> Handle {
    let fits = kind == OVERLAY_HANDLE
        && length > UUID_AT + UUID
        && length <= HANDLE
        && bytes[MAGIC_AT] == MAGIC
        && bytes[UUID_AT..UUID_AT + UUID].iter().any(|&byte| byte != 0);
    if !fits {
        return Handle::Nameless;
    }
    Handle::Trusted(FileKey::Below {
        handle: Sha256::digest(&bytes[..length]).into(),
    })
}

/// Type and length.
#[expect(
    unsafe_code,
    reason = "neither rustix nor the standard library has this call"
)]
fn name_to_handle(file: impl AsFd, bytes: &mut [u8; HANDLE]) -> Result<(i32, usize), Errno> {
    /// `struct file_handle`.
    #[repr(C)]
    struct Handle {
        length: u32,
        kind: i32,
        bytes: [u8; HANDLE],
    }
    /// Linux 6.5: the same bit as `AT_REMOVEDIR`.
    const AT_HANDLE_FID: i32 = 0x200;
    let mut handle = Handle {
        length: HANDLE as u32,
        kind: 0,
        bytes: [0; HANDLE],
    };
    let mut mount: i32 = 0;
    let flags = AtFlags::EMPTY_PATH.bits().cast_signed() | AT_HANDLE_FID;
    // SAFETY: the handle has as many bytes as it says, and both places are written to alone.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_fd().as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            flags,
        )
    };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    *bytes = handle.bytes;
    let length = usize::try_from(handle.length).unwrap_or(HANDLE + 1);
    Ok((handle.kind, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::time::Instant;

    #[test]
    fn ages() {
        let second = 1_000_000_000;
        assert_eq!(age((5, 0), (4, second - 1)), Some(Duration::from_nanos(1)));
        assert_eq!(age((5, 7), (5, 7)), Some(Duration::ZERO));
        assert_eq!(age((5, 7), (5, 8)), None);
        assert_eq!(age((5, 0), (i64::MIN, 0)), None);
    }

    fn handle(change: impl Fn(&mut [u8; HANDLE])) -> Handle {
        let mut bytes = [0; HANDLE];
        bytes[MAGIC_AT] = MAGIC;
        bytes[UUID_AT..UUID_AT + UUID + 8].fill(7);
        change(&mut bytes);
        key_of(OVERLAY_HANDLE, &bytes, UUID_AT + UUID + 8)
    }

    #[test]
    fn handles_are_believed_where_they_name_a_file_system() {
        assert!(matches!(handle(|_| ()), Handle::Trusted(_)));
        let nameless = handle(|bytes| bytes[UUID_AT..UUID_AT + UUID].fill(0));
        assert!(matches!(nameless, Handle::Nameless));
        assert!(matches!(
            handle(|bytes| bytes[MAGIC_AT] = 0),
            Handle::Nameless
        ));
        assert!(matches!(key_of(1, &[7; HANDLE], 40), Handle::Nameless));
        assert!(matches!(
            key_of(OVERLAY_HANDLE, &[MAGIC; HANDLE], 20),
            Handle::Nameless
        ));
    }

    /// Waits until the file is no longer young.
    fn aged(file: &File) -> Seen {
        let begin = Instant::now();
        loop {
            let seen = Seen::of(file).unwrap();
            if seen.lasting || begin.elapsed() > Duration::from_secs(30) {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_state_lasts_once_the_file_is_not_young_and_ends_with_a_change() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: files that only root may write are needed");
            return;
        }
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let file = File::open(&path).unwrap();
        assert!(!Seen::of(&file).unwrap().lasting);
        let before = aged(&file);
        assert!(before.lasting, "{before:?}");
        fs::write(&path, "two").unwrap();
        let after = Seen::of(&file).unwrap();
        assert_ne!(before.state, after.state);
        assert!(!after.lasting);

        // Others may write to it, and could do so through a mapping without being noticed.
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        std::thread::sleep(YOUNG * 2);
        assert!(!Seen::of(&file).unwrap().lasting);
    }

    #[test]
    fn what_a_server_says_does_not_last() {
        // procfs, whose times are those of the look.
        let Ok(seen) = Seen::of(File::open("/proc/self/status").unwrap()) else {
            panic!("it is a regular file");
        };
        assert!(!seen.lasting);
        assert!(Seen::of(File::open("/proc/self").unwrap()).is_err());
    }

    /// Two mounts of one image: one state. And not of another file.
    #[test]
    fn mounts_of_one_image_have_one_state() {
        // A tmpfs has a number of its own; not every disk has.
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
            println!("skipped: no tmpfs at /dev/shm");
            return;
        };
        let at = |name: &str| folder.path().join(name);
        for name in ["low", "up1", "work1", "one", "up2", "work2", "two"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("low/file"), "x").unwrap();
        fs::write(at("low/other"), "x").unwrap();
        let mount = |number: &str, at_: &str| {
            let options = format!(
                "lowerdir={},upperdir={},workdir={}",
                at("low").display(),
                at(&format!("up{number}")).display(),
                at(&format!("work{number}")).display()
            );
            std::process::Command::new("mount")
                .args(["-t", "overlay", "overlay", "-o", &options])
                .arg(at(at_))
                .status()
                .is_ok_and(|status| status.success())
        };
        if !mount("1", "one") {
            println!("skipped: overlayfs cannot be mounted here");
            return;
        }
        let second = mount("2", "two");
        let states = ["one/file", "two/file", "one/other"].map(|name| {
            File::open(at(name))
                .ok()
                .map(|file| Seen::of(&file).unwrap().state)
        });
        for name in ["one", "two"] {
            let _ = std::process::Command::new("umount").arg(at(name)).status();
        }
        assert!(second);
        let [one, two, other] = states.map(Option::unwrap);
        if matches!(one.file, FileKey::Inode { .. }) {
            println!(
                "skipped: this kernel gives no handles on overlayfs that name the file system below"
            );
            return;
        }
        assert_eq!(one, two);
        assert_ne!(one.file, other.file);
    }
}
