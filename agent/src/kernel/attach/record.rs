//! What the probes tell the process that attaches: the records of the ring `ATTACH`.
//!
//! Invariant: a record of another length or kind is refused, and counted by the caller.

use crate::{flow::Nanos, kernel::record::ProcessKey};
use agent_common::abi::{self, Header, kind};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A process has executed a file: it has nothing of what it had before.
    Executed {
        process: ProcessKey,
        file: abi::File,
        code: Code,
        /// What it asked for, not resolved.
        name: PathBuf,
    },
    /// It has mapped a part of a file as code.
    Mapped {
        process: ProcessKey,
        file: abi::File,
        part: Part,
    },
    Forked {
        parent: ProcessKey,
        child: ProcessKey,
        time: Nanos,
    },
    /// Its last thread has ended.
    Exited { process: ProcessKey },
}

/// Where an executed program's own code lies in its memory: `mm_struct.start_code` and `.end_code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    pub start: u64,
    pub end: u64,
}

/// A part of a file in a process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub address: u64,
    pub len: u64,
    /// Place in the file of its first byte.
    pub offset: u64,
}

impl Part {
    /// Where this byte of the file is in memory, if it is in this part.
    pub fn address_of(&self, file_offset: u64) -> Option<u64> {
        let within = file_offset.checked_sub(self.offset)?;
        (within < self.len).then(|| self.address.wrapping_add(within))
    }
}

impl Record {
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let header = Header {
            version: u16::from_ne_bytes(at(bytes, 0)?),
            kind: u16::from_ne_bytes(at(bytes, 2)?),
            len: u32::from_ne_bytes(at(bytes, 4)?),
            time: word(bytes, 8)?,
        };
        if header.version != abi::VERSION || header.len as usize != bytes.len() {
            return None;
        }
        let whole = |size: usize| (bytes.len() == size).then_some(());
        Some(match header.kind {
            kind::EXECUTED => {
                whole(size_of::<abi::Executed>())?;
                let after = FILE + size_of::<abi::File>();
                Self::Executed {
                    process: process(bytes)?,
                    file: file(bytes)?,
                    code: Code {
                        start: word(bytes, after)?,
                        end: word(bytes, after + 8)?,
                    },
                    name: text(bytes.get(after + 16..)?),
                }
            }
            kind::MAPPED => {
                whole(size_of::<abi::Mapped>())?;
                let after = FILE + size_of::<abi::File>();
                Self::Mapped {
                    process: process(bytes)?,
                    file: file(bytes)?,
                    part: Part {
                        address: word(bytes, after)?,
                        len: word(bytes, after + 8)?,
                        offset: word(bytes, after + 16)?,
                    },
                }
            }
            kind::FORK => {
                whole(size_of::<abi::Fork>())?;
                Self::Forked {
                    child: ProcessKey {
                        pid: u32::from_ne_bytes(at(bytes, 16)?),
                        start: word(bytes, 24)?,
                    },
                    parent: ProcessKey {
                        pid: u32::from_ne_bytes(at(bytes, 20)?),
                        start: word(bytes, 32)?,
                    },
                    time: header.time,
                }
            }
            kind::EXIT => {
                whole(size_of::<abi::Exit>())?;
                Self::Exited {
                    process: process(bytes)?,
                }
            }
            _ => return None,
        })
    }
}

/// Where `file` is in both records that have one.
const FILE: usize = 32;
const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(abi::Executed, process) == 16 && offset_of!(abi::Executed, start) == 24);
    assert!(offset_of!(abi::Executed, file) == FILE && offset_of!(abi::Mapped, file) == FILE);
    assert!(offset_of!(abi::Mapped, process) == 16 && offset_of!(abi::Mapped, start) == 24);
    assert!(offset_of!(abi::Exit, process) == 16 && offset_of!(abi::Exit, start) == 24);
    assert!(offset_of!(abi::Fork, child) == 16 && offset_of!(abi::Fork, parent) == 20);
    assert!(offset_of!(abi::Fork, child_start) == 24 && offset_of!(abi::Fork, parent_start) == 32);
};

fn process(bytes: &[u8]) -> Option<ProcessKey> {
    Some(ProcessKey {
        pid: u32::from_ne_bytes(at(bytes, 16)?),
        start: word(bytes, 24)?,
    })
}

fn file(bytes: &[u8]) -> Option<abi::File> {
    Some(abi::File {
        device: word(bytes, FILE)?,
        inode: word(bytes, FILE + 8)?,
        size: word(bytes, FILE + 16)?,
        modified: word(bytes, FILE + 24)?,
        changed: word(bytes, FILE + 32)?,
    })
}

fn text(bytes: &[u8]) -> PathBuf {
    let len = bytes.iter().position(|byte| *byte == 0);
    OsStr::from_bytes(&bytes[..len.unwrap_or(bytes.len())]).into()
}

fn word(bytes: &[u8], place: usize) -> Option<u64> {
    at(bytes, place).map(u64::from_ne_bytes)
}

fn at<const N: usize>(bytes: &[u8], place: usize) -> Option<[u8; N]> {
    bytes.get(place..place + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped() -> Vec<u8> {
        let words: [u64; 10] = [7, 99, 1, 2, 3, 4, 5, 0x1000, 0x2000, 0x3000];
        let mut bytes = Vec::new();
        bytes.extend(abi::VERSION.to_ne_bytes());
        bytes.extend(kind::MAPPED.to_ne_bytes());
        bytes.extend(96u32.to_ne_bytes());
        bytes.extend(11u64.to_ne_bytes());
        words
            .iter()
            .for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn a_mapping_is_read_and_every_cut_refused() {
        let bytes = mapped();
        let Some(Record::Mapped {
            process,
            file,
            part,
        }) = Record::decode(&bytes)
        else {
            panic!("not read");
        };
        assert_eq!((process.pid, process.start), (7, 99));
        assert_eq!((file.device, file.changed), (1, 5));
        assert_eq!(part.address_of(0x3010), Some(0x1010));
        assert_eq!(part.address_of(0x5000), None);
        assert_eq!(part.address_of(0x2fff), None);
        assert!((0..bytes.len()).all(|len| Record::decode(&bytes[..len]).is_none()));
    }

    #[test]
    fn another_version_or_kind_is_refused() {
        let mut other = mapped();
        other[0] = abi::VERSION as u8 + 1;
        assert_eq!(Record::decode(&other), None);
        let mut other = mapped();
        other[2] = 200;
        assert_eq!(Record::decode(&other), None);
    }
}
