//! The two ways of writing a device number.
//!
//! The kernel's `dev_t` (`super_block.s_dev`) is `major << 20 | minor` (`MKDEV`, include/linux/kdev_t.h); what
//! `stat` returns is spread over 64 bits by `new_encode_dev` and the C library's `makedev`.
//!
//! On overlayfs over several file systems, and on btrfs subvolumes, `stat` shows other numbers than the kernel's own
//! structures hold, which the probes report. Those are read from `fdinfo` and `mountinfo` instead ([`numbered`]).

use super::record::FileId;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const MINOR_BITS: u32 = 20;

/// A file as the probes report it, its device written as `stat` would.
#[must_use]
pub fn from_kernel(s_dev: u32, inode: u64) -> FileId {
    FileId {
        device: rustix::fs::makedev(s_dev >> MINOR_BITS, s_dev & ((1 << MINOR_BITS) - 1)),
        inode,
    }
}

/// A device as the kernel numbers it, and as the probes report it.
#[must_use]
pub fn to_kernel(major: u32, minor: u32) -> u64 {
    u64::from(major) << MINOR_BITS | u64::from(minor)
}

/// A file's time as the probes report it, from seconds and nanoseconds.
#[must_use]
pub fn to_nanoseconds(seconds: i64, more: u64) -> u64 {
    seconds
        .cast_unsigned()
        .wrapping_mul(1_000_000_000)
        .wrapping_add(more)
}

/// A file as this kernel has it at hand, and its number of names: its server is not asked, since that may hang.
///
/// # Errors
/// Those of statx(2).
pub fn at_hand(file: impl AsFd) -> std::io::Result<(FileId, u32)> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, c"", flags, StatxFlags::INO | StatxFlags::NLINK)?;
    let id = FileId {
        device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
    };
    Ok((id, stat.stx_nlink))
}

/// The file that `metadata` is about.
#[must_use]
pub fn file_id(metadata: &Metadata) -> FileId {
    FileId {
        device: metadata.dev(),
        inode: metadata.ino(),
    }
}

/// Whether the open file, which `stat` shows as `shown`, is the one that the kernel numbers `recorded`, in a mount that
/// this process or `pid` has; `proc` is where procfs is mounted.
#[must_use]
pub fn is(file: impl AsFd, shown: FileId, recorded: FileId, proc: &Path, pid: u32) -> bool {
    shown == recorded || numbered(file, proc, pid) == Some(recorded)
}

/// The open file by the numbers in the kernel's structures: `inode.i_ino` (the line `ino` of `fdinfo`, since
/// Linux 5.14), and `super_block.s_dev` of the mount that it was opened in.
fn numbered(file: impl AsFd, proc: &Path, pid: u32) -> Option<FileId> {
    let (inode, mount) = fdinfo(file, proc)?;
    let device = ["self", &pid.to_string()]
        .iter()
        .find_map(|process| mount_device(&proc.join(process).join("mountinfo"), mount))?;
    Some(FileId { device, inode })
}

/// Inode and mount of an open file.
fn fdinfo(file: impl AsFd, proc: &Path) -> Option<(u64, u64)> {
    let fd = file.as_fd().as_raw_fd();
    let mut info = String::new();
    File::open(proc.join(format!("self/fdinfo/{fd}")))
        .ok()?
        .take(4096)
        .read_to_string(&mut info)
        .ok()?;
    parse_fdinfo(&info)
}

/// `ino` and `mnt_id` (proc_pid_fdinfo(5)).
fn parse_fdinfo(text: &str) -> Option<(u64, u64)> {
    let number = |name: &str| {
        text.lines().find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix(':')?
                .trim()
                .parse()
                .ok()
        })
    };
    Some((number("ino")?, number("mnt_id")?))
}

/// Longest `mountinfo` that is read.
const MOUNTS_LIMIT: u64 = 16 * 1024 * 1024;

fn mount_device(mounts: &Path, id: u64) -> Option<u64> {
    each_mount(mounts).find_map(|(mount, device)| (mount == id).then_some(device))
}

/// Every mount by its id, with its device. None where the file cannot be read.
fn each_mount(mounts: &Path) -> impl Iterator<Item = (u64, u64)> {
    let file = File::open(mounts).ok();
    let lines = file.map(|file| BufReader::new(file.take(MOUNTS_LIMIT)).split(b'\n'));
    lines
        .into_iter()
        .flatten()
        .map_while(Result::ok)
        .filter_map(|line| parse_mount(&line))
}

/// Mount and device of a line (proc_pid_mountinfo(5): id, parent's id, major:minor, ...).
fn parse_mount(line: &[u8]) -> Option<(u64, u64)> {
    let mut fields = line.split(|byte| *byte == b' ').map(std::str::from_utf8);
    let id = fields.next()?.ok()?.parse().ok()?;
    let (major, minor) = fields.nth(1)?.ok()?.split_once(':')?;
    let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    Some((id, device))
}

/// The devices of a process's mounts at one time, for many files.
#[derive(Debug, Default)]
pub struct Mounts(HashMap<u64, u64>);

impl Mounts {
    /// Those of `pid`. Empty if it has ended: then files have the numbers that `stat` gives them.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self(each_mount(Path::new(&format!("/proc/{pid}/mountinfo"))).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The open file by the numbers in the kernel's structures, as the probes report them: device and inode. `None` where
    /// they cannot be told.
    pub fn numbers(&self, file: impl AsFd) -> Option<(u64, u64)> {
        let (inode, mount) = fdinfo(file, Path::new("/proc"))?;
        let device = *self.0.get(&mount)?;
        Some((
            to_kernel(rustix::fs::major(device), rustix::fs::minor(device)),
            inode,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo_forms() {
        let text = "pos:\t0\nflags:\t010000000\nmnt_id:\t1182\nino:\t15599174\n";
        assert_eq!(parse_fdinfo(text), Some((15_599_174, 1182)));
        // Before Linux 5.14.
        assert_eq!(parse_fdinfo("pos:\t0\nflags:\t0\nmnt_id:\t27\n"), None);
        assert_eq!(parse_fdinfo("ino:\tx\nmnt_id:\t27\n"), None);
    }

    #[test]
    fn mount_forms() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(parse_mount(line), Some((36, rustix::fs::makedev(98, 0))));
        assert_eq!(parse_mount(b"36 35 98"), None);
        assert_eq!(parse_mount(b"x 35 98:0 / / rw"), None);
        assert_eq!(parse_mount(b""), None);
    }

    /// On a file system without numbers of its own, both ways give the same file; and only that one.
    #[test]
    fn kernel_numbers_of_an_open_file() {
        let proc = Path::new("/proc");
        let file = File::open("/proc/self/stat").unwrap();
        let metadata = file.metadata().unwrap();
        let found = numbered(&file, proc, std::process::id()).unwrap();
        let shown = file_id(&metadata);
        assert_eq!(found, shown);
        assert_eq!(at_hand(&file).unwrap(), (shown, 1));
        assert!(is(&file, shown, found, proc, std::process::id()));
        let by_mounts = Mounts::of(std::process::id()).numbers(&file);
        let (major, minor) = (
            rustix::fs::major(found.device),
            rustix::fs::minor(found.device),
        );
        assert_eq!(by_mounts, Some((to_kernel(major, minor), found.inode)));
        assert_eq!(Mounts::of(0).numbers(&file), None);
        let other = FileId {
            inode: found.inode + 1,
            ..found
        };
        assert!(!is(&file, shown, other, proc, std::process::id()));
    }

    #[test]
    fn encodings_agree() {
        // (s_dev, st_dev): 254:0, 0:38, 8:17, a minor over 8 bits, a major over 12 bits.
        for (major, minor) in [(254, 0), (0, 38), (8, 17), (259, 70_000), (4095, 0xf_ffff)] {
            let converted = from_kernel(major << 20 | minor, 5).device;
            assert_eq!(converted, rustix::fs::makedev(major, minor));
            assert_eq!(rustix::fs::major(converted), major);
            assert_eq!(rustix::fs::minor(converted), minor);
        }
        assert_eq!(from_kernel(8 << 20 | 17, 5).device, 0x811);
        assert_eq!(from_kernel(8 << 20 | 0x12345, 5).device, 0x1230_0845);
    }

    /// `/proc/self/mountinfo` writes the superblock's device as major:minor; `stat` of the root agrees with it
    /// on file systems without numbers of their own.
    #[test]
    fn agrees_with_mountinfo() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let proc = mounts
            .lines()
            .find(|line| line.contains(" - proc proc"))
            .unwrap();
        let device = proc.split(' ').nth(2).unwrap();
        let (major, minor) = device.split_once(':').unwrap();
        let s_dev = major.parse::<u32>().unwrap() << 20 | minor.parse::<u32>().unwrap();
        let metadata = std::fs::metadata("/proc/self/stat").unwrap();
        assert_eq!(file_id(&metadata), from_kernel(s_dev, metadata.ino()));
    }
}
