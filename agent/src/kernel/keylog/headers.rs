//! The little of an ELF file that the privileged process reads itself: where its code is.
//!
//! What the finder's process says of a file is checked by it: every point must lie in an executable segment. And the
//! kernel's own reckoning is repeated: a process's `mm->start_code` is the lowest address of an executable segment, plus
//! by how much the program was moved (`load_elf_binary`, fs/binfmt_elf.c).
//!
//! Invariant: reads the file header and at most [`SEGMENTS`] program headers, and follows nothing that they say.

use super::elf::{SEGMENTS, Source, le16, le32, le64};
use super::finder::{Found, Point};
use sha2::{Digest as _, Sha256};
use std::io;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;
const EXECUTABLE: u32 = 1;

/// Where a file's code is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    size: u64,
    code: Vec<Code>,
    digest: [u8; 32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Code {
    address: u64,
    offset: u64,
    size: u64,
}

impl Headers {
    /// `None` where the file is nothing that could be searched.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(source: &dyn Source) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER];
        let read = source.read_at(0, &mut header)?;
        // 64-bit, little-endian.
        if read < HEADER || !header.starts_with(b"\x7fELF\x02\x01") {
            return Ok(None);
        }
        let table = le64(&header, 32).unwrap_or(0);
        let (entry, count) = (le16(&header, 54), le16(&header, 56).unwrap_or(0));
        if entry.map(usize::from) != Some(PROGRAM_HEADER) || count > SEGMENTS {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::from(count) * PROGRAM_HEADER];
        if source.read_at(table, &mut bytes)? < bytes.len() {
            return Ok(None);
        }
        let code = bytes.chunks_exact(PROGRAM_HEADER).filter_map(|entry| {
            let executable = le32(entry, 4)? & EXECUTABLE != 0;
            (le32(entry, 0)? == PT_LOAD && executable).then_some(Code {
                offset: le64(entry, 8)?,
                address: le64(entry, 16)?,
                size: le64(entry, 32)?,
            })
        });
        let code = code.collect();
        let digest = Sha256::new()
            .chain_update(header)
            .chain_update(&bytes)
            .finalize();
        Ok(Some(Self {
            size: source.size(),
            code,
            digest: digest.into(),
        }))
    }

    /// The lowest address of an executable segment, as the file has it.
    #[must_use]
    pub fn code_start(&self) -> Option<u64> {
        self.code.iter().map(|code| code.address).min()
    }

    /// What copies of one build have in common, and other files hardly: a reason to try, no proof.
    #[must_use]
    pub fn build(&self) -> Build {
        Build {
            size: self.size,
            digest: self.digest,
        }
    }

    /// Whether the point lies in code of this file, at the address that it says.
    #[must_use]
    pub fn has(&self, point: &Point) -> bool {
        point.file_offset < self.size
            && self.code.iter().any(|code| {
                point
                    .file_offset
                    .checked_sub(code.offset)
                    .is_some_and(|within| {
                        within < code.size
                            && code.address.checked_add(within) == Some(point.virtual_address)
                    })
            })
    }

    /// Whether all that is said of the file can be true.
    #[must_use]
    pub fn agree(&self, found: &Found) -> bool {
        found.size == self.size && found.points.iter().all(|point| self.has(point))
    }
}

/// See [`Headers::build`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    size: u64,
    digest: [u8; 32],
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Compiled, look};
    use super::*;

    fn compiled() -> Compiled {
        let source = super::super::tests::LIBRARY;
        Compiled::new(source, "c", &["-shared", "-fPIC", "-O2", "-Wl,-Bsymbolic"])
    }

    #[test]
    fn points_of_the_file_are_agreed_to_and_others_are_not() {
        let compiled = compiled();
        let found = look(&compiled.stripped).unwrap();
        let headers = Headers::read(&compiled.stripped).unwrap().unwrap();
        assert_eq!(found.key_log_points().count(), 1);
        assert!(headers.agree(&found));
        assert_eq!(headers.code_start(), found.code_start);
        let change = |change: &dyn Fn(&mut Found)| {
            let mut other = found.clone();
            change(&mut other);
            headers.agree(&other)
        };
        assert!(!change(&|found| found.points[0].file_offset += 1));
        assert!(!change(&|found| found.points[0].virtual_address += 1));
        assert!(!change(&|found| found.points[0].file_offset = u64::MAX));
        assert!(!change(&|found| found.size += 1));
        // The file's headers: no code.
        let outside = |found: &mut Found| {
            found.points[0].file_offset = 0;
            found.points[0].virtual_address = 0;
        };
        assert!(!change(&outside));
        // Another address in the code is not its business.
        assert!(change(&|found| {
            found.points[0].file_offset += 1;
            found.points[0].virtual_address += 1;
        }));
    }

    #[test]
    fn whatever_the_headers_say_it_ends() {
        let whole = compiled().stripped;
        for at in 0..1024.min(whole.len()) {
            for value in [0, 1, 0x80, 0xff] {
                let mut file = whole.clone();
                file[at] = value;
                if let Some(headers) = Headers::read(&file).unwrap() {
                    let _ = (headers.code_start(), headers.build());
                }
                let _ = Headers::read(&whole[..at].to_vec()).unwrap();
            }
        }
        assert!(Headers::read(&b"#!/bin/sh\n".to_vec()).unwrap().is_none());
    }
}
