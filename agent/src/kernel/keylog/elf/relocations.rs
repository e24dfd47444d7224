//! Relative relocations: pointers that the loader makes, whose values stand in a table and not always in their place.

use super::Elf;
use super::source::le64;
use std::io;
use std::ops::ControlFlow;

/// `Elf64_Rela`
const ENTRY: usize = 24;
/// Entries read in all. Chromium has 400,000.
const ENTRIES: u64 = 4 << 20;
const WINDOW: usize = 4096 * ENTRY;
const R_X86_64_RELATIVE: u64 = 8;

impl Elf<'_> {
    /// Addresses of the first `most` pointers that `DT_RELA` makes with a value that is `wanted`.
    pub fn relative_pointers_to(
        &self,
        wanted: impl Fn(u64) -> bool,
        most: usize,
    ) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        self.relative_pointers(|at, value| {
            if wanted(value) {
                found.push(at);
            }
            if found.len() < most {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        Ok(found)
    }

    /// Calls `visit(address, value)` for each pointer that `DT_RELA` makes, relative to where the file is loaded, until
    /// it breaks. Those that `DT_RELR` makes have their value in place.
    pub fn relative_pointers(
        &self,
        mut visit: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let Some(table) = self.dynamic.relocations else {
            return Ok(());
        };
        let size = self.dynamic.relocations_size.min(ENTRIES * ENTRY as u64);
        let mut buffer = vec![0; WINDOW];
        let mut at = 0;
        while at < size {
            let length = usize::try_from(size - at).unwrap_or(WINDOW).min(WINDOW);
            let Some(address) = table.checked_add(at) else {
                break;
            };
            let read = self.read(address, &mut buffer[..length])?;
            for entry in buffer[..read].chunks_exact(ENTRY) {
                let field = |index: usize| le64(entry, 8 * index).unwrap_or(0);
                if field(1) & 0xffff_ffff == R_X86_64_RELATIVE
                    && visit(field(0), field(2)).is_break()
                {
                    return Ok(());
                }
            }
            if read < length {
                break;
            }
            at += WINDOW as u64;
        }
        Ok(())
    }
}
