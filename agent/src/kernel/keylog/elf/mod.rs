//! A bounded reader of hostile ELF files: what the finder and the report need, and nothing else.
//!
//! Reads with `pread` (a mapping could be cut under the reader and kill it), through [`Source`], so that tests and fuzzing
//! give it bytes. Only 64-bit little-endian x86-64 executables and shared objects are opened; the rest is named in
//! the error. Field names and numbers: `elf.h`, System V ABI (gABI) chapters 4 and 5.
//!
//! Invariant: any bytes give a value or an error: no panic, no loop that the file's own numbers can lengthen past
//! the constants here. Invariant: the loadable segments together are at most [`OVERLAP`] times the file, so one pass
//! over them is bounded by its size.

mod dynamic;
mod notes;
mod relocations;
mod source;
mod symbols;

pub use dynamic::Dynamic;
pub use notes::BuildId;
pub use source::{FileSource, Source};
pub use symbols::Symbol;

pub(super) use source::{le16, le32, le64};
use std::io;

/// Segments accepted in a file. Real programs have 4 to 20.
pub(super) const SEGMENTS: u16 = 256;
/// How often the file's bytes may be claimed by loadable segments.
pub const OVERLAP: u64 = 2;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;

/// Why a file cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    #[error("not an ELF file")]
    NotElf,
    #[error("ELF file for {machine}: only x86-64 is read")]
    OtherMachine { machine: String },
    #[error("ELF file of type {kind}: neither a program nor a shared object")]
    OtherKind { kind: u16 },
    #[error("file of {size} bytes is over the limit of {limit}")]
    TooLarge { size: u64, limit: u64 },
    #[error("truncated: {what} end at byte {end}, the file at {size}")]
    Truncated {
        what: &'static str,
        end: u64,
        size: u64,
    },
    #[error("malformed: {what} ({value})")]
    Malformed { what: &'static str, value: u64 },
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
}

/// How the file is placed in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ET_EXEC`: at fixed addresses, so code may hold addresses as immediates.
    Fixed,
    /// `ET_DYN`: shared objects and position-independent programs.
    Relocatable,
}

/// One `PT_LOAD`: `file_size` bytes at `offset` of the file appear at `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub address: u64,
    pub offset: u64,
    pub file_size: u64,
    pub executable: bool,
    pub writable: bool,
}

/// A part of the file: offset and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    offset: u64,
    length: u64,
}

/// An opened file: its segments and the few facts of its headers.
pub struct Elf<'a> {
    source: &'a dyn Source,
    kind: Kind,
    segments: Vec<Segment>,
    dynamic: Dynamic,
    build_id: Option<BuildId>,
    interpreted: bool,
    sections: Option<Sections>,
}

/// Where the section headers are; read only when a symbol is looked up.
#[derive(Clone, Copy, Debug)]
struct Sections {
    offset: u64,
    count: u16,
}

impl<'a> Elf<'a> {
    /// Reads the headers; `limit` is the largest file accepted, in bytes.
    pub fn open(source: &'a dyn Source, limit: u64) -> Result<Self, ElfError> {
        let size = source.size();
        // Files of procfs and sysfs say that they are empty: reading some of them would block or have effects.
        if size == 0 {
            return Err(ElfError::NotElf);
        }
        let mut header = [0; HEADER];
        let read = source.read_at(0, &mut header)?;
        let kind = check_identity(&header[..read])?;
        if size > limit {
            return Err(ElfError::TooLarge { size, limit });
        }
        if read < HEADER {
            return Err(ElfError::Truncated {
                what: "file headers",
                end: HEADER as u64,
                size,
            });
        }
        let headers = program_headers(source, &header)?;
        let mut elf = Self {
            source,
            kind,
            segments: Vec::new(),
            dynamic: Dynamic::default(),
            build_id: None,
            interpreted: false,
            sections: sections(&header, size),
        };
        let mut dynamic = None;
        let mut notes = Vec::new();
        for header in headers.chunks_exact(PROGRAM_HEADER) {
            let Some(header) = ProgramHeader::parse(header) else {
                continue;
            };
            match header.kind {
                PT_LOAD => elf.add_segment(&header)?,
                PT_DYNAMIC => dynamic = Some(header.range()),
                PT_NOTE => notes.push((header.range(), header.align)),
                PT_INTERP => elf.interpreted = true,
                _ => {}
            }
        }
        elf.check_overlap()?;
        if let Some(range) = dynamic {
            elf.dynamic = Dynamic::read(&elf, range)?;
        }
        for (range, align) in notes {
            if elf.build_id.is_none() {
                elf.build_id = notes::build_id(source, range, align)?;
            }
        }
        Ok(elf)
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub fn dynamic(&self) -> &Dynamic {
        &self.dynamic
    }

    pub fn build_id(&self) -> Option<&BuildId> {
        self.build_id.as_ref()
    }

    /// Has a program interpreter: a dynamically linked program rather than a library or a static program.
    pub fn is_dynamic_program(&self) -> bool {
        self.interpreted
    }

    pub fn source(&self) -> &'a dyn Source {
        self.source
    }

    /// Where in the file the byte at `address` is; `None` outside the segments' file bytes.
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        let (segment, within) = self.segment_at(address)?;
        Some(segment.offset + within)
    }

    /// Every address at which the byte at `offset` of the file appears.
    pub fn addresses_of(&self, offset: u64) -> impl Iterator<Item = u64> + '_ {
        self.segments.iter().filter_map(move |segment| {
            let within = offset.checked_sub(segment.offset)?;
            (within < segment.file_size).then(|| segment.address + within)
        })
    }

    /// Reads what the segment of `address` has from there on; returns how many bytes, 0 outside the segments.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((segment, within)) = self.segment_at(address) else {
            return Ok(0);
        };
        let available = usize::try_from(segment.file_size - within).unwrap_or(usize::MAX);
        let length = buffer.len().min(available);
        self.source
            .read_at(segment.offset + within, &mut buffer[..length])
    }

    /// Whether `address` is code.
    pub fn is_code(&self, address: u64) -> bool {
        self.segment_at(address)
            .is_some_and(|(segment, _)| segment.executable)
    }

    fn segment_at(&self, address: u64) -> Option<(&Segment, u64)> {
        self.segments.iter().find_map(|segment| {
            let within = address.checked_sub(segment.address)?;
            (within < segment.file_size).then_some((segment, within))
        })
    }

    fn add_segment(&mut self, header: &ProgramHeader) -> Result<(), ElfError> {
        let size = self.source.size();
        let end = header
            .offset
            .checked_add(header.file_size)
            .ok_or(ElfError::Malformed {
                what: "segment's offset and size",
                value: header.offset,
            })?;
        if end > size {
            return Err(ElfError::Truncated {
                what: "segments",
                end,
                size,
            });
        }
        // Checked here once, so that `address + within` cannot overflow anywhere.
        header
            .address
            .checked_add(header.file_size)
            .ok_or(ElfError::Malformed {
                what: "segment's address and size",
                value: header.address,
            })?;
        if header.file_size > 0 {
            self.segments.push(Segment {
                address: header.address,
                offset: header.offset,
                file_size: header.file_size,
                executable: header.flags & 1 != 0,
                writable: header.flags & 2 != 0,
            });
        }
        Ok(())
    }

    fn check_overlap(&self) -> Result<(), ElfError> {
        let claimed = self
            .segments
            .iter()
            .fold(0_u64, |sum, segment| sum.saturating_add(segment.file_size));
        if claimed > self.source.size().saturating_mul(OVERLAP) {
            return Err(ElfError::Malformed {
                what: "segments claim more bytes than the file could hold",
                value: claimed,
            });
        }
        Ok(())
    }
}

struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    align: u64,
}

impl ProgramHeader {
    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            kind: le32(bytes, 0)?,
            flags: le32(bytes, 4)?,
            offset: le64(bytes, 8)?,
            address: le64(bytes, 16)?,
            file_size: le64(bytes, 32)?,
            align: le64(bytes, 48)?,
        })
    }

    fn range(&self) -> Range {
        Range {
            offset: self.offset,
            length: self.file_size,
        }
    }
}

/// Checks `e_ident`, `e_machine` and `e_type`, of however many bytes there are.
fn check_identity(header: &[u8]) -> Result<Kind, ElfError> {
    if header.len() < 20 || !header.starts_with(b"\x7fELF") {
        return Err(ElfError::NotElf);
    }
    let big_endian = header[5] == 2;
    let word = |at: usize| {
        let value = le16(header, at).unwrap_or(0);
        if big_endian {
            value.swap_bytes()
        } else {
            value
        }
    };
    let machine = word(18);
    if header[4] != 2 || header[5] != 1 || machine != EM_X86_64 {
        return Err(ElfError::OtherMachine {
            machine: machine_name(machine, header[4], big_endian),
        });
    }
    match word(16) {
        ET_EXEC => Ok(Kind::Fixed),
        ET_DYN => Ok(Kind::Relocatable),
        kind => Err(ElfError::OtherKind { kind }),
    }
}

fn machine_name(machine: u16, class: u8, big_endian: bool) -> String {
    let name = match machine {
        3 => "i386".to_owned(),
        8 => "mips".to_owned(),
        20 | 21 => "powerpc".to_owned(),
        22 => "s390".to_owned(),
        40 => "arm".to_owned(),
        EM_X86_64 => "x86-64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv".to_owned(),
        247 => "bpf".to_owned(),
        258 => "loongarch".to_owned(),
        other => format!("machine {other}"),
    };
    let bits = match class {
        1 => ", 32-bit",
        2 => "",
        _ => ", of an unknown class",
    };
    let order = if big_endian { ", big-endian" } else { "" };
    format!("{name}{bits}{order}")
}

/// The program header table's bytes.
fn program_headers(source: &dyn Source, header: &[u8; HEADER]) -> Result<Vec<u8>, ElfError> {
    let offset = le64(header, 32).unwrap_or(0);
    let entry = le16(header, 54).unwrap_or(0);
    let count = le16(header, 56).unwrap_or(0);
    if count == 0 || count > SEGMENTS {
        return Err(ElfError::Malformed {
            what: "number of program headers",
            value: count.into(),
        });
    }
    if usize::from(entry) != PROGRAM_HEADER {
        return Err(ElfError::Malformed {
            what: "size of a program header",
            value: entry.into(),
        });
    }
    let mut bytes = vec![0; usize::from(count) * PROGRAM_HEADER];
    let read = source.read_at(offset, &mut bytes)?;
    if read < bytes.len() {
        return Err(ElfError::Truncated {
            what: "program headers",
            end: offset.saturating_add(bytes.len() as u64),
            size: source.size(),
        });
    }
    Ok(bytes)
}

/// Section headers are a convenience of linkers: absent or out of range, they are simply not there.
fn sections(header: &[u8; HEADER], size: u64) -> Option<Sections> {
    let offset = le64(header, 40)?;
    let entry = le16(header, 58)?;
    let count = le16(header, 60)?;
    let end = offset.checked_add(u64::from(entry) * u64::from(count))?;
    (offset > 0 && usize::from(entry) == symbols::SECTION_HEADER && end <= size)
        .then_some(Sections { offset, count })
}
