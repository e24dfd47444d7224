//! Which files may take a uprobe under a lease.
//!
//! A lease holds back those who write through the same kernel and the same inode. The list is of file systems where that
//! is everybody; of another one nothing is known, so that it is refused.

use super::{Refused, Scope};
use rustix::fs::{FileType, SealFlags, fcntl_get_seals, fstat, fstatfs};
use std::os::fd::{AsFd, BorrowedFd};

/// `OVERLAYFS_SUPER_MAGIC` (include/uapi/linux/magic.h).
const OVERLAY: u64 = 0x794c_7630;

/// Numbers of include/uapi/linux/magic.h and of the file systems' own headers.
const LOCAL: &[u64] = &[
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0xf2f5_2010, // f2fs
    0xca45_1a4e, // bcachefs
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // erofs
];

/// What is said of file systems that others write to.
const OTHERS: &[(u64, &str)] = &[
    (0x6573_5546, "fuse"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x7461_636f, "ocfs2"),
    (0x0116_1970, "gfs2"),
    (0x5346_414f, "afs"),
    (0x2fc1_2fc1, "zfs"),
    (0x9584_58f6, "hugetlbfs"),
];

/// Whether a lease on it holds everybody back who writes; true if all but those who write into an overlay's layers.
///
/// `memory`: the device of files that are in memory alone.
pub(in crate::kernel) fn check(
    file: impl AsFd,
    scope: Scope,
    memory: Option<u64>,
) -> Result<bool, Refused> {
    let file = file.as_fd();
    let stat = fstat(file).map_err(|error| Refused::Kernel(error.to_string()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refused::NoFile);
    }
    if memory == Some(stat.st_dev) && !is_sealed(file) {
        return Err(Refused::Memory);
    }
    let kind = fstatfs(file)
        .map_err(|error| Refused::Kernel(error.to_string()))?
        .f_type as u64
        & 0xffff_ffff;
    match (kind, scope) {
        (OVERLAY, Scope::Process(_)) => Ok(true),
        (OVERLAY, Scope::Host) => Err(Refused::Layers),
        (kind, _) if LOCAL.contains(&kind) => Ok(false),
        (kind, _) => {
            let known = OTHERS.iter().find(|(number, _)| *number == kind);
            let name = known.map_or_else(|| format!("type {kind:#x}"), |(_, name)| (*name).into());
            Err(Refused::FileSystem(name))
        }
    }
}

/// Nobody can write to it any more, its maker included.
fn is_sealed(file: BorrowedFd<'_>) -> bool {
    fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};
    use std::fs::File;

    #[test]
    fn files_in_memory_are_refused_until_they_are_sealed() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("library", flags).unwrap();
        let device = Some(fstat(&file).unwrap().st_dev);
        let scope = Scope::Process(1);
        assert_eq!(check(&file, scope, device), Err(Refused::Memory));
        fcntl_add_seals(&file, SealFlags::WRITE).unwrap();
        assert_eq!(check(&file, scope, device), Ok(false));
    }

    #[test]
    fn what_is_no_file_of_a_local_file_system_is_refused() {
        let scope = Scope::Process(1);
        let folder = File::open("/").unwrap();
        assert_eq!(check(&folder, scope, None), Err(Refused::NoFile));
        let pseudo = File::open("/proc/self/status").unwrap();
        let refused = check(&pseudo, scope, None).unwrap_err();
        assert!(matches!(refused, Refused::FileSystem(_)), "{refused}");
    }
}
