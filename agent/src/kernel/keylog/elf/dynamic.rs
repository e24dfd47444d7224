//! The dynamic section: what a file is called, what it needs, and where its exported symbols are.

use super::source::le64;
use super::{Elf, ElfError, Range};
use std::io;

/// Entries read of the dynamic section. Large programs have about 100.
const ENTRIES: u64 = 2048;
const ENTRY: usize = 16;
/// Longest name or path read.
const NAME: usize = 4096;
/// Needed libraries kept.
const NEEDED: usize = 512;

const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_STRSZ: u64 = 10;
const DT_SONAME: u64 = 14;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
const DT_GNU_HASH: u64 = 0x6fff_fef5;

/// What the dynamic section says. Addresses are virtual; strings are as in the file, not valid UTF-8 replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    pub soname: Option<String>,
    pub needed: Vec<String>,
    /// `DT_RPATH`, colon-separated: searched before `LD_LIBRARY_PATH`, ignored where there is a `runpath`.
    pub rpath: Option<String>,
    pub runpath: Option<String>,
    pub(super) symbols: Option<u64>,
    pub(super) strings: Option<u64>,
    pub(super) strings_size: u64,
    pub(super) hash: Option<u64>,
    pub(super) gnu_hash: Option<u64>,
    pub(super) relocations: Option<u64>,
    pub(super) relocations_size: u64,
}

impl Dynamic {
    pub(super) fn read(elf: &Elf<'_>, range: Range) -> Result<Self, ElfError> {
        let length = range.length.min(ENTRIES * ENTRY as u64);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let read = elf.source.read_at(range.offset, &mut bytes)?;
        let mut dynamic = Self::default();
        let mut names = Vec::new();
        for entry in bytes[..read].chunks_exact(ENTRY) {
            let (Some(tag), Some(value)) = (le64(entry, 0), le64(entry, 8)) else {
                break;
            };
            match tag {
                DT_NULL => break,
                DT_STRTAB => dynamic.strings = Some(value),
                DT_STRSZ => dynamic.strings_size = value,
                DT_SYMTAB => dynamic.symbols = Some(value),
                DT_HASH => dynamic.hash = Some(value),
                DT_GNU_HASH => dynamic.gnu_hash = Some(value),
                DT_RELA => dynamic.relocations = Some(value),
                DT_RELASZ => dynamic.relocations_size = value,
                // Names are offsets into a table that may be declared later.
                DT_SONAME | DT_RPATH | DT_RUNPATH | DT_NEEDED => names.push((tag, value)),
                _ => {}
            }
        }
        for (tag, at) in names {
            let Some(name) = dynamic.string(elf, at)? else {
                continue;
            };
            match tag {
                DT_SONAME => dynamic.soname = Some(name),
                DT_RPATH => dynamic.rpath = Some(name),
                DT_RUNPATH => dynamic.runpath = Some(name),
                _ if dynamic.needed.len() < NEEDED => dynamic.needed.push(name),
                _ => {}
            }
        }
        Ok(dynamic)
    }

    /// The NUL-terminated string at `at` of the dynamic string table.
    pub(super) fn string(&self, elf: &Elf<'_>, at: u64) -> io::Result<Option<String>> {
        let Some(address) = self.strings.and_then(|table| table.checked_add(at)) else {
            return Ok(None);
        };
        if at >= self.strings_size {
            return Ok(None);
        }
        let mut buffer = [0; NAME];
        let read = elf.read(address, &mut buffer)?;
        let bytes = &buffer[..read];
        Ok(memchr::memchr(0, bytes).map(|end| String::from_utf8_lossy(&bytes[..end]).into_owned()))
    }
}
