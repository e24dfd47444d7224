//! Programs that nobody has met: copies under new names, written by a process of the scope, each removed after its run.
//!
//! A copy of a build that the agent has met is soon known by its build id. A copy that is nobody's build has other bytes
//! there: eight of the id, which nothing but tools for debugging looks at.

use super::launch::Copy;
use super::programs::Program;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

/// Bytes of the id that are changed.
const CHANGED: usize = 8;
/// Bytes of notes that are looked at, for each segment of them.
const NOTES: u64 = 64 * 1024;

/// A folder with one copy of a program, gone with its value.
pub struct Fresh {
    folder: PathBuf,
    /// The files that are to be written.
    pub copies: Vec<Copy>,
}

impl Fresh {
    /// Its folder and links are made; the files are not there yet.
    pub fn make(program: &Program, folder: &Path, places: Option<&[u64]>) -> Result<Self> {
        fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut fresh = Self {
            folder: folder.to_path_buf(),
            copies: Vec::new(),
        };
        for (number, from) in program.files.iter().enumerate() {
            let name = from.file_name().context("a file has a name")?;
            fresh.copies.push(Copy {
                from: from.clone(),
                to: folder.join(name),
                place: places
                    .and_then(|places| places.get(number))
                    .copied()
                    .unwrap_or(0),
            });
        }
        for path in &program.beside {
            let name = path.file_name().context("a file has a name")?;
            symlink(path, folder.join(name))?;
        }
        Ok(fresh)
    }

    pub fn program(&self) -> &Path {
        self.copies.first().map_or(&self.folder, |copy| &copy.to)
    }

    /// Where its libraries are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // Removed with the bench's folder otherwise.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Where the build id of each file is; 0 where it has none, and so is known by none.
pub fn build_ids(files: &[PathBuf]) -> Result<Vec<u64>> {
    let place = |path: &PathBuf| {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(build_id(&file).unwrap_or(0))
    };
    files.iter().map(place).collect()
}

/// Through the program headers of a 64-bit ELF file (elf(5)) to its notes.
fn build_id(file: &File) -> Option<u64> {
    let mut head = [0; 64];
    file.read_exact_at(&mut head, 0).ok()?;
    let is_elf = head.starts_with(b"\x7fELF\x02\x01");
    let table = u64_at(&head, 32).filter(|_| is_elf)?;
    let (size, count) = (u16_at(&head, 54)?, u16_at(&head, 56)?);
    for number in 0..u64::from(count) {
        let mut segment = [0; 56];
        let at = table.checked_add(number * u64::from(size))?;
        file.read_exact_at(&mut segment, at).ok()?;
        // PT_NOTE
        if u32_at(&segment, 0)? != 4 {
            continue;
        }
        let (offset, length) = (u64_at(&segment, 8)?, u64_at(&segment, 32)?.min(NOTES));
        let mut notes = vec![0; usize::try_from(length).ok()?];
        file.read_exact_at(&mut notes, offset).ok()?;
        if let Some(found) = in_notes(&notes) {
            return Some(offset + found as u64);
        }
    }
    None
}

/// Behind the head of the note: length of its name, of its value, NT_GNU_BUILD_ID, name.
fn in_notes(notes: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\x03\0\0\0GNU\0";
    let found = notes
        .windows(NAME.len())
        .position(|bytes| bytes == NAME)
        .filter(|found| *found >= 8)?;
    let length = u32_at(notes, found - 4)? as usize;
    let value = found + NAME.len();
    (length >= CHANGED && notes.len() >= value + CHANGED).then_some(value)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_id_is_found_behind_other_notes() {
        let mut notes = b"\x04\0\0\0\x10\0\0\0\x01\0\0\0GNU\0".to_vec();
        notes.extend([0; 16]);
        notes.extend(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0");
        let value = notes.len();
        notes.extend([7; 20]);
        assert_eq!(in_notes(&notes), Some(value));
        // Too short to change, or cut off.
        notes[value - 12] = 4;
        assert_eq!(in_notes(&notes), None);
        notes[value - 12] = 20;
        assert_eq!(in_notes(&notes[..value + 4]), None);
        assert_eq!(in_notes(b"\x03\0\0\0GNU\0"), None);
    }

    #[test]
    fn what_is_no_elf_has_none() {
        let file = File::open("/proc/self/cmdline").unwrap();
        assert_eq!(build_id(&file), None);
    }
}
