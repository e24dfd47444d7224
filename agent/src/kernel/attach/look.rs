//! What `/proc` shows of a process that the probes have not told of: it ran before, or a record was lost.
//!
//! Invariant: no file is opened, and none is asked for its attributes by way of its server (`AT_STATX_DONT_SYNC`): a file
//! system that hangs holds nobody.

use super::record::Part;
use crate::kernel::{
    device,
    keylog::discover::{self, DiscoverError, Mapping},
    record::ProcessKey,
};
use agent_common::abi;
use rustix::{
    fs::{AtFlags, CWD, StatxFlags, statx},
    io::Errno,
};
use std::{collections::HashMap, fs, path::PathBuf};

/// The agent has no file descriptor left.
#[derive(Debug)]
pub struct NoDescriptor;

/// A file that a process has mapped as code, by all the parts that are mapped so.
pub struct Code {
    pub mapping: Mapping,
    /// As the probes would name it, unless the file system has numbers of its own (overlayfs, btrfs).
    pub file: abi::File,
    pub parts: Vec<Part>,
}

/// Everything that a process has mapped as code. Empty: it is about to end, or has ended.
///
/// # Errors
/// If the agent has no descriptor left to look.
pub fn code(process: ProcessKey) -> Result<Vec<Code>, NoDescriptor> {
    let mappings = match discover::code_of_process(process.pid) {
        Ok(mappings) => mappings,
        Err(DiscoverError::Unreadable { error, .. })
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::MFILE | Errno::NFILE)
            ) =>
        {
            return Err(NoDescriptor);
        }
        Err(_) => Vec::new(),
    };
    let mut places = HashMap::new();
    let mut all: Vec<Code> = Vec::new();
    for mapping in mappings {
        let part = Part {
            address: mapping.start,
            len: mapping.end - mapping.start,
            offset: mapping.offset,
        };
        if let Some(place) = places.get(&mapping.id) {
            let known: &mut Code = &mut all[*place];
            known.parts.push(part);
            continue;
        }
        let Some(file) = state(&mapping) else {
            continue;
        };
        places.insert(mapping.id, all.len());
        all.push(Code {
            mapping,
            file,
            parts: vec![part],
        });
    }
    Ok(all)
}

fn state(mapping: &Mapping) -> Option<abi::File> {
    let wanted = StatxFlags::INO | StatxFlags::SIZE | StatxFlags::MTIME | StatxFlags::CTIME;
    let link = mapping.link();
    let stat = statx(CWD, &link, AtFlags::STATX_DONT_SYNC, wanted).ok()?;
    Some(abi::File {
        device: device::to_kernel(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        size: stat.stx_size,
        modified: device::to_nanoseconds(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec.into()),
        changed: device::to_nanoseconds(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec.into()),
    })
}

/// The path of the file at this address, as the process sees it.
pub fn path_at(pid: u32, address: u64) -> Option<PathBuf> {
    let mappings = discover::code_of_process(pid).ok()?;
    let holds = |mapping: &&Mapping| (mapping.start..mapping.end).contains(&address);
    let found = mappings.iter().find(holds)?;
    Some(found.path.clone())
}

/// The path of a process's program, as it sees it.
pub fn program(pid: u32) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let text = path.as_os_str().as_encoded_bytes();
    match text.strip_suffix(b" (deleted)") {
        Some(text) => {
            use std::os::unix::ffi::OsStrExt as _;
            Some(std::ffi::OsStr::from_bytes(text).into())
        }
        None => Some(path),
    }
}

/// Whether code of some file is still mapped at each of these addresses.
pub fn is_mapped_at(pid: u32, addresses: &[u64]) -> Option<bool> {
    let mappings = discover::code_of_process(pid).ok()?;
    if mappings.is_empty() {
        return None;
    }
    let holds = |address: &u64| {
        let mut mappings = mappings.iter();
        mappings.any(|mapping| (mapping.start..mapping.end).contains(address))
    };
    Some(addresses.iter().all(holds))
}
