//! Go programs in which there is no other code: found by what Go itself has to find, so that most of the file is never
//! read.
//!
//! Go's linker puts a description of what was built (`.go.buildinfo`) and `runtime.moduledata` into the writable segments,
//! which are small. The latter names the table of functions, where the text begins and where it ends (symtab.go of the
//! runtime; its shape up to there is the same from Go 1.18 to 1.26). Where all code of the file is Go's, no other form of
//! TLS library can be in it, and nothing else is searched.
//!
//! Invariant: gives the same points as [`super::go::search`] does by reading everything, or says that it cannot.

use super::Search;
use super::go::{BUILD, KNOWN, MODULE_TEXT, NAMES, Pointers, Table, functions, push, version};
use crate::kernel::keylog::elf::{Elf, le64};
use crate::kernel::keylog::finder::LookError;
use crate::kernel::keylog::needles::Needles;
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

/// Bytes of writable segments that are looked through. The largest Go programs have 20 MiB.
const WRITABLE: u64 = 64 << 20;
/// Bytes of code that are not Go's: file headers, the linker's stubs, the start-up code of the C library. The smallest TLS
/// library has several times as many.
const FOREIGN: u64 = 64 << 10;
/// Places looked at that may be a `moduledata`.
const CANDIDATES: usize = 64;

/// Whether the file is such a program and its functions were found: then nothing else is to be searched.
pub(super) fn search(search: &mut Search<'_>) -> Result<bool, LookError> {
    let elf = search.elf;
    let (built, mut candidates) = writable(search)?;
    if built.is_empty() {
        return Ok(false);
    }
    relocated(elf, &mut candidates)?;
    let modules: Vec<u64> = candidates
        .iter()
        .map(|candidate| candidate.module)
        .collect();
    let pointers = Pointers::read(elf, &modules)?;
    let mut found = None;
    for candidate in candidates {
        let Some(table) = Table::at(elf, candidate.table)? else {
            continue;
        };
        if let Some(text) = pointers.text_of(elf, candidate.module, &table)?
            && let Some(end) = candidate.module.checked_add(MODULE_TEXT + 8)
            && let Some(end) = pointers.at(elf, end)?
            && foreign(elf, text, end) <= FOREIGN
        {
            found = Some((candidate.module, table, text));
            break;
        }
    }
    let Some((module, table, text)) = found else {
        return Ok(false);
    };
    let places = names(search, &table)?;
    let functions = functions(search, &table, Some(module), &places)?;
    if functions.is_empty() {
        // No TLS, or names that were changed: the labels will tell.
        return Ok(false);
    }
    let version = version(elf, &built)?;
    push(search, &table, text, functions, version.as_ref())?;
    Ok(!search.found.points.is_empty())
}

/// What may be a `moduledata`, and the table that it would be about.
#[derive(Clone, Copy)]
struct Candidate {
    module: u64,
    table: u64,
}

impl Candidate {
    fn new(module: u64, table: u64, names: u64) -> Option<Self> {
        let fits = names
            .checked_sub(table)
            .is_some_and(|distance| NAMES.contains(&distance));
        fits.then_some(Self { module, table })
    }
}

/// Where in the file the writable segments have the description of what was built, and what may be a `moduledata` with its
/// pointers in place.
fn writable(search: &mut Search<'_>) -> Result<(Vec<u64>, Vec<Candidate>), LookError> {
    let (mut built, mut candidates) = (Vec::new(), Vec::new());
    let segments = search.elf.segments().iter();
    let size: u64 = segments
        .filter(|segment| segment.writable && !segment.executable)
        .map(|segment| segment.file_size)
        .sum();
    if size > WRITABLE {
        return Ok((built, candidates));
    }
    let needles = Needles::new(&[BUILD])?;
    search.scanner.writable(|segment, at, bytes, fresh| {
        needles.each(bytes, |_, start| {
            if start < fresh && built.len() < CANDIDATES {
                built.push(segment.offset + at + start as u64);
            }
        });
        let address = segment.address + at;
        // Pointers stand at multiples of 8. A `moduledata` begins with the address of the table and that of its names, with
        // their length and capacity.
        let skipped = address.wrapping_neg() as usize % 8;
        let mut before = 0;
        let words = bytes.get(skipped..).unwrap_or_default().chunks_exact(8);
        for (index, word) in words.enumerate() {
            let word = le64(word, 0).unwrap_or(0);
            let distance = word.wrapping_sub(std::mem::replace(&mut before, word));
            if NAMES.contains(&distance) && index > 0 {
                let start = skipped + 8 * (index - 1);
                let length = le64(bytes, start + 16);
                if start < fresh
                    && length.is_some()
                    && length == le64(bytes, start + 24)
                    && candidates.len() < CANDIDATES
                {
                    let table = word.wrapping_sub(distance);
                    candidates.extend(Candidate::new(address + start as u64, table, word));
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok((built, candidates))
}

/// Those whose pointers the loader makes, from neighbours in its table.
fn relocated(elf: &Elf<'_>, candidates: &mut Vec<Candidate>) -> io::Result<()> {
    let mut before = (0_u64, 0_u64);
    elf.relative_pointers(|at, value| {
        if before.0.checked_add(8) == Some(at) {
            candidates.extend(Candidate::new(before.0, before.1, value));
        }
        before = (at, value);
        if candidates.len() < CANDIDATES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })
}

/// Bytes of code outside of Go's text.
fn foreign(elf: &Elf<'_>, text: u64, end: u64) -> u64 {
    let code = elf.segments().iter().filter(|segment| segment.executable);
    code.map(|segment| {
        let last = segment.address + segment.file_size;
        let inside = last.min(end).saturating_sub(segment.address.max(text));
        segment.file_size - inside
    })
    .sum()
}

/// Where the names of [`KNOWN`] stand among the table's, by address.
fn names(search: &mut Search<'_>, table: &Table) -> Result<BTreeMap<&'static str, u64>, LookError> {
    let known: Vec<&[u8]> = KNOWN.iter().map(|(name, _)| name.as_bytes()).collect();
    let needles = Needles::new(&known)?;
    let mut places = BTreeMap::new();
    search
        .scanner
        .range(table.names(), |address, bytes, fresh| {
            needles.each(bytes, |number, start| {
                if start < fresh {
                    let at = address + start as u64 + 1;
                    places.entry(KNOWN[number].0).or_insert(at);
                }
            });
            if places.len() == known.len() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
    Ok(places)
}
