//! What the probes tell the process that attaches: the records of the ring `ATTACH`.
//!
//! Invariant: a record of another length or kind is refused, and counted by the caller.

use crate::{flow::Nanos, kernel::record::ProcessKey};
use agent_common::abi::{self, Header, TICK, kind};
use std::{ffi::OsStr, mem::offset_of, os::unix::ffi::OsStrExt as _, path::PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A process has executed a file: it has nothing of what it had before.
    Executed {
        process: ProcessKey,
        time: Nanos,
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
    /// It was moved to another cgroup: into the scope or within it, or out of it.
    Moved { process: ProcessKey, inside: bool },
    /// Its last thread has ended.
    Exited { process: ProcessKey },
    /// It has made a file executable, or has created it so.
    Made(Made),
}

/// Where a file is that was made executable: all that is known is what the call said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub process: ProcessKey,
    /// The process's descriptor, if it has the file open.
    pub descriptor: Option<u32>,
    /// The process's descriptor that `path` is relative to; `None`: its working folder.
    pub folder: Option<u32>,
    pub path: Option<PathBuf>,
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
                    time: header.time,
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
                        start: start(word(bytes, 24)?),
                    },
                    parent: ProcessKey {
                        pid: u32::from_ne_bytes(at(bytes, 20)?),
                        start: start(word(bytes, 32)?),
                    },
                    time: header.time,
                }
            }
            kind::MOVED => {
                whole(size_of::<abi::Moved>())?;
                Self::Moved {
                    process: process(bytes)?,
                    inside: u32::from_ne_bytes(at(bytes, 20)?) != 0,
                }
            }
            kind::EXIT => {
                whole(size_of::<abi::Exit>())?;
                Self::Exited {
                    process: process(bytes)?,
                }
            }
            kind::MADE => {
                whole(size_of::<abi::Made>())?;
                Self::Made(made(bytes)?)
            }
            _ => return None,
        })
    }
}

fn made(bytes: &[u8]) -> Option<Made> {
    let number = |place| Some(i32::from_ne_bytes(at(bytes, place)?));
    let len = u32::from_ne_bytes(at(bytes, 40)?) as usize;
    let path = bytes
        .get(offset_of!(abi::Made, path)..)?
        .get(..len)
        .filter(|path| path.len() < abi::PATH_MAX && !path.contains(&0))?;
    Some(Made {
        process: process(bytes)?,
        descriptor: u32::try_from(number(32)?).ok(),
        folder: u32::try_from(number(36)?).ok(),
        path: (!path.is_empty()).then(|| OsStr::from_bytes(path).into()),
    })
}

/// Where `file` is in both records that have one.
const FILE: usize = 32;
const _: () = {
    assert!(offset_of!(abi::Made, process) == 16 && offset_of!(abi::Made, start) == 24);
    assert!(offset_of!(abi::Made, path_len) == 40);
    assert!(offset_of!(abi::Made, descriptor) == 32 && offset_of!(abi::Made, folder) == 36);
    assert!(offset_of!(abi::Executed, process) == 16 && offset_of!(abi::Executed, start) == 24);
    assert!(offset_of!(abi::Executed, file) == FILE && offset_of!(abi::Mapped, file) == FILE);
    assert!(offset_of!(abi::Mapped, process) == 16 && offset_of!(abi::Mapped, start) == 24);
    assert!(offset_of!(abi::Exit, process) == 16 && offset_of!(abi::Exit, start) == 24);
    assert!(offset_of!(abi::Moved, process) == 16 && offset_of!(abi::Moved, inside) == 20);
    assert!(offset_of!(abi::Moved, start) == 24);
    assert!(offset_of!(abi::Fork, child) == 16 && offset_of!(abi::Fork, parent) == 20);
    assert!(offset_of!(abi::Fork, child_start) == 24 && offset_of!(abi::Fork, parent_start) == 32);
};

/// Starts are compared in ticks, which is what `/proc` has of a process that was there before.
fn start(nanoseconds: u64) -> u64 {
    nanoseconds / TICK * TICK
}

/// The same process, its start in whole ticks.
pub fn in_ticks(process: ProcessKey) -> ProcessKey {
    ProcessKey {
        start: start(process.start),
        ..process
    }
}

fn process(bytes: &[u8]) -> Option<ProcessKey> {
    Some(ProcessKey {
        pid: u32::from_ne_bytes(at(bytes, 16)?),
        start: start(word(bytes, 24)?),
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
        let words: [u64; 10] = [7, 3 * TICK + 99, 1, 2, 3, 4, 5, 0x1000, 0x2000, 0x3000];
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
        assert_eq!((process.pid, process.start), (7, 3 * TICK));
        assert_eq!((file.device, file.changed), (1, 5));
        assert_eq!(part.address_of(0x3010), Some(0x1010));
        assert_eq!(part.address_of(0x5000), None);
        assert_eq!(part.address_of(0x2fff), None);
        assert!((0..bytes.len()).all(|len| Record::decode(&bytes[..len]).is_none()));
    }

    fn made(descriptor: i32, folder: i32, path: &[u8]) -> Vec<u8> {
        let size = size_of::<abi::Made>();
        let mut bytes = vec![0; size];
        let mut put = |place: usize, value: &[u8]| {
            bytes[place..place + value.len()].copy_from_slice(value);
        };
        put(0, &abi::VERSION.to_ne_bytes());
        put(2, &kind::MADE.to_ne_bytes());
        put(4, &(size as u32).to_ne_bytes());
        put(16, &7u32.to_ne_bytes());
        put(24, &(5 * TICK).to_ne_bytes());
        put(32, &descriptor.to_ne_bytes());
        put(36, &folder.to_ne_bytes());
        put(40, &(path.len() as u32).to_ne_bytes());
        put(48, path);
        bytes
    }

    #[test]
    fn a_made_file_is_read_as_the_call_named_it() {
        let read = |bytes: &[u8]| match Record::decode(bytes) {
            Some(Record::Made(made)) => Some(made),
            _ => None,
        };
        let found = read(&made(abi::Made::NOT_OPEN, -100, b"bin/\xff")).unwrap();
        assert_eq!((found.process.pid, found.process.start), (7, 5 * TICK));
        assert_eq!((found.descriptor, found.folder), (None, None));
        assert_eq!(found.path.unwrap().as_os_str().as_bytes(), b"bin/\xff");
        let found = read(&made(5, 4, b"")).unwrap();
        assert_eq!(
            (found.descriptor, found.folder, found.path),
            (Some(5), Some(4), None)
        );
        // A length beyond the record's end, and a path with an end within.
        let mut long = made(5, 4, b"x");
        long[40..44].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(read(&long), None);
        assert_eq!(read(&made(5, 4, b"a\0b")), None);
        assert_eq!(read(&made(5, 4, b"a")[..559]), None);
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
