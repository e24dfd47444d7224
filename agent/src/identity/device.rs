//! The two ways of writing a device number.
//!
//! The kernel's `dev_t` (`super_block.s_dev`) is `major << 20 | minor` (`MKDEV`, include/linux/kdev_t.h); what
//! `stat` returns is spread over 64 bits by `new_encode_dev` and the C library's `makedev`.
//!
//! On overlayfs over several file systems, and on btrfs subvolumes, `stat` shows another device than the
//! superblock's: there the two never agree, and an executable's digest stays unknown.

use crate::kernel::record::FileId;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

const MINOR_BITS: u32 = 20;

/// The kernel's `s_dev` as `stat` would show it.
#[must_use]
pub fn from_kernel(s_dev: u32) -> u64 {
    rustix::fs::makedev(s_dev >> MINOR_BITS, s_dev & ((1 << MINOR_BITS) - 1))
}

/// The file that `metadata` is about.
#[must_use]
pub fn file_id(metadata: &Metadata) -> FileId {
    FileId {
        device: metadata.dev(),
        inode: metadata.ino(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_agree() {
        // (s_dev, st_dev): 254:0, 0:38, 8:17, a minor over 8 bits, a major over 12 bits.
        for (major, minor) in [(254, 0), (0, 38), (8, 17), (259, 70_000), (4095, 0xf_ffff)] {
            let converted = from_kernel(major << 20 | minor);
            assert_eq!(converted, rustix::fs::makedev(major, minor));
            assert_eq!(rustix::fs::major(converted), major);
            assert_eq!(rustix::fs::minor(converted), minor);
        }
        assert_eq!(from_kernel(8 << 20 | 17), 0x811);
        assert_eq!(from_kernel(8 << 20 | 0x12345), 0x1230_0845);
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
        assert_eq!(file_id(&metadata).device, from_kernel(s_dev));
    }
}
