//! The two ways of writing a device number.
//!
//! The kernel's `dev_t` (`super_block.s_dev`) is `major << 20 | minor` (`MKDEV`, include/linux/kdev_t.h); what
//! `stat` returns is spread over 64 bits by `new_encode_dev` and the C library's `makedev`.
//!
//! On overlayfs over several file systems, and on btrfs subvolumes, `stat` shows other numbers than the kernel's own
//! structures hold, which the probes report. Those are read from `fdinfo` and `mountinfo` instead ([`numbered`]).

use super::record::FileId;
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

/// The file that `metadata` is about.
#[must_use]
pub fn file_id(metadata: &Metadata) -> FileId {
    FileId {
        device: metadata.dev(),
        inode: metadata.ino(),
    }
}

/// Whether the open file is the one that the kernel numbers `recorded`, in a mount that this process or `pid` has;
/// `proc` is where procfs is mounted.
#[must_use]
pub fn is(file: impl AsFd, metadata: &Metadata, recorded: FileId, proc: &Path, pid: u32) -> bool {
    file_id(metadata) == recorded || numbered(file, proc, pid) == Some(recorded)
}

/// The open file by the numbers in the kernel's structures: `inode.i_ino` (the line `ino` of `fdinfo`, since
/// Linux 5.14), and `super_block.s_dev` of the mount that it was opened in.
fn numbered(file: impl AsFd, proc: &Path, pid: u32) -> Option<FileId> {
    let fd = file.as_fd().as_raw_fd();
    let mut info = String::new();
    File::open(proc.join(format!("self/fdinfo/{fd}")))
        .ok()?
        .take(4096)
        .read_to_string(&mut info)
        .ok()?;
    let (inode, mount) = parse_fdinfo(&info)?;
    let device = ["self", &pid.to_string()]
        .iter()
        .find_map(|process| mount_device(&proc.join(process).join("mountinfo"), mount))?;
    Some(FileId { device, inode })
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
    let lines = BufReader::new(File::open(mounts).ok()?.take(MOUNTS_LIMIT)).split(b'\n');
    lines
        .map_while(Result::ok)
        .find_map(|line| parse_mount(&line, id))
}

/// The device of a line that is about this mount (proc_pid_mountinfo(5): id, parent's id, major:minor, ...).
fn parse_mount(line: &[u8], id: u64) -> Option<u64> {
    let mut fields = line.split(|byte| *byte == b' ').map(std::str::from_utf8);
    if fields.next()?.ok()?.parse() != Ok(id) {
        return None;
    }
    let (major, minor) = fields.nth(1)?.ok()?.split_once(':')?;
    Some(rustix::fs::makedev(
        major.parse().ok()?,
        minor.parse().ok()?,
    ))
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
        assert_eq!(parse_mount(line, 36), Some(rustix::fs::makedev(98, 0)));
        assert_eq!(parse_mount(line, 35), None);
        assert_eq!(parse_mount(b"36 35 98", 36), None);
        assert_eq!(parse_mount(b"", 36), None);
    }

    /// On a file system without numbers of its own, both ways give the same file; and only that one.
    #[test]
    fn kernel_numbers_of_an_open_file() {
        let proc = Path::new("/proc");
        let file = File::open("/proc/self/stat").unwrap();
        let metadata = file.metadata().unwrap();
        let found = numbered(&file, proc, std::process::id()).unwrap();
        assert_eq!(found, file_id(&metadata));
        assert!(is(&file, &metadata, found, proc, std::process::id()));
        let other = FileId {
            inode: found.inode + 1,
            ..found
        };
        assert!(!is(&file, &metadata, other, proc, std::process::id()));
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
