//! The GNU build id: the linker's digest of a file's contents, in a note.

use super::source::le32;
use super::{Range, Source};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// Bytes of notes looked at, per segment.
const NOTES: u64 = 64 * 1024;
/// Longest build id accepted; SHA-1 has 20 bytes, `--build-id=0x…` any number.
const BUILD_ID: usize = 64;
const NT_GNU_BUILD_ID: u32 = 3;

/// A file's build id in lower-case hexadecimal. A name given by the file itself: it proves nothing about its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BuildId(String);

impl BuildId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The build id among the notes of one segment, whose alignment is 4 or 8 (gABI "Note Section").
pub(super) fn build_id(
    source: &dyn Source,
    range: Range,
    align: u64,
) -> io::Result<Option<BuildId>> {
    let length = range.length.min(NOTES);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let read = source.read_at(range.offset, &mut bytes)?;
    bytes.truncate(read);
    Ok(parse(&bytes, if align == 8 { 8 } else { 4 }))
}

fn parse(mut notes: &[u8], align: usize) -> Option<BuildId> {
    loop {
        let name_length = usize::try_from(le32(notes, 0)?).ok()?;
        let value_length = usize::try_from(le32(notes, 4)?).ok()?;
        let kind = le32(notes, 8)?;
        let name = notes.get(12..)?.get(..name_length)?;
        let value_at = 12_usize
            .checked_add(name_length)?
            .checked_next_multiple_of(align)?;
        let value = notes.get(value_at..)?.get(..value_length)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" && (1..=BUILD_ID).contains(&value.len()) {
            return Some(BuildId(
                value.iter().map(|byte| format!("{byte:02x}")).collect(),
            ));
        }
        let next = value_at
            .checked_add(value_length)?
            .checked_next_multiple_of(align)?;
        notes = notes.get(next..)?;
    }
}
