//! Passes over a file's segments: where strings stand, and which code refers to them.
//!
//! A segment is read in windows that overlap by what a hit may span, so memory does not follow the file's size, and
//! every hit is reported by the one window in which it starts.
//!
//! A reference is one of the two ways in which x86-64 code takes an address: `lea r64, [rip + disp32]`
//! (REX.W 8d, ModRM mod 00 rm 101), and, in programs at fixed addresses, `mov r32, imm32` (b8+r) or
//! `mov r64, imm32` (REX.W c7 /0). Bytes are compared, not decoded: code has no reliable start to decode from, and a
//! displacement that hits a label by accident is one in 2^32.
//!
//! Invariant: results are capped, and every pass ends by the deadline.

use super::elf::{Elf, Segment};
use super::finder::{Limits, LookError};
use super::needles::Needles;
use memchr::memmem::Finder;
use std::ops::{ControlFlow, Range};
use std::time::Instant;

/// Longest string searched for, and what a reference may span, in bytes: the windows' overlap.
const OVERLAP: usize = 64;
/// Hits kept per string.
const STRING_HITS: usize = 256;
/// References kept in all. Real programs have about ten.
const REFERENCES: usize = 1024;
/// Addresses looked for as immediates, each with a search of its own.
const IMMEDIATES: usize = 16;

/// Where in a `lea r64, [rip + disp32]` the upper half of the displacement stands.
const UPPER_HALF: usize = 5;
/// Upper halves of displacements that are looked for, each in a walk of its own over bytes that are in the cache.
const HALVES: usize = 6;

/// Which segments a pass covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Code,
    Data,
}

/// An instruction that takes a wanted address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Where the instruction starts.
    pub address: u64,
    /// The address it takes.
    pub target: u64,
}

/// One file being searched.
pub struct Scanner<'a> {
    elf: &'a Elf<'a>,
    buffer: Vec<u8>,
    window: usize,
    deadline: Instant,
    limits: Limits,
}

impl<'a> Scanner<'a> {
    pub fn new(elf: &'a Elf<'a>, limits: Limits) -> Self {
        let window = limits.window_bytes.max(OVERLAP);
        Self {
            elf,
            // Grown on first use: most files are answered by the cache or by their headers.
            buffer: Vec::new(),
            window,
            deadline: Instant::now() + limits.time,
            limits,
        }
    }

    /// Offsets in the file at which each of `strings` stands, in ascending order, at most [`STRING_HITS`] each.
    /// With `first_only` the pass ends when every string has been seen once.
    pub fn strings(
        &mut self,
        part: Part,
        strings: &[&[u8]],
        first_only: bool,
    ) -> Result<Vec<Vec<u64>>, LookError> {
        let mut hits = vec![Vec::new(); strings.len()];
        if strings.is_empty() {
            return Ok(hits);
        }
        let needles = Needles::new(strings)?;
        let cap = if first_only { 1 } else { STRING_HITS };
        self.pass(part, |segment, at, bytes, fresh| {
            needles.each(bytes, |number, start| {
                let hits = &mut hits[number];
                if start < fresh && hits.len() < cap {
                    hits.push(segment.offset + at + start as u64);
                }
            });
            if hits.iter().all(|hits| hits.len() >= cap) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        for hits in &mut hits {
            // Segments may share a page at their edges.
            hits.sort_unstable();
            hits.dedup();
        }
        Ok(hits)
    }

    /// Code that takes one of `targets` (ascending), in ascending order of address.
    pub fn references(
        &mut self,
        targets: &[u64],
        immediates: bool,
    ) -> Result<Vec<Reference>, LookError> {
        let mut found = Vec::new();
        let (Some(&low), Some(&high)) = (targets.first(), targets.last()) else {
            return Ok(found);
        };
        let immediates: Vec<u32> = targets
            .iter()
            .filter(|_| immediates)
            .filter_map(|&target| u32::try_from(target).ok())
            .take(IMMEDIATES)
            .collect();
        let words: Vec<[u8; 4]> = immediates.iter().map(|word| word.to_le_bytes()).collect();
        let words: Vec<&[u8]> = words.iter().map(<[u8; 4]>::as_slice).collect();
        let words = Needles::new(&words)?;
        self.pass(Part::Code, |segment, at, bytes, fresh| {
            let base = segment.address + at;
            let mut take = |start: usize| {
                if let Some(target) = lea_target(&bytes[start..], base + start as u64)
                    && (low..=high).contains(&target)
                    && targets.binary_search(&target).is_ok()
                    && found.len() < REFERENCES
                {
                    found.push(Reference {
                        address: base + start as u64,
                        target,
                    });
                }
            };
            match upper_halves(targets, base, bytes.len()) {
                Some(halves) => {
                    for half in halves {
                        let half = Finder::new(&half);
                        let hits = half.find_iter(bytes);
                        let starts = hits.filter_map(|hit| hit.checked_sub(UPPER_HALF));
                        starts.filter(|&start| start < fresh).for_each(&mut take);
                    }
                }
                None => {
                    let hits = memchr::memchr_iter(0x8d, bytes);
                    let starts = hits.filter_map(|hit| hit.checked_sub(1));
                    starts.filter(|&start| start < fresh).for_each(&mut take);
                }
            }
            words.each(bytes, |number, hit| {
                let start = immediate_start(&bytes[..hit]).filter(|&start| start < fresh);
                if let Some(start) = start
                    && found.len() < REFERENCES
                {
                    found.push(Reference {
                        address: base + start as u64,
                        target: immediates[number].into(),
                    });
                }
            });
            if found.len() >= REFERENCES {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Which of `targets` (ascending) a direct `call` leads to: those are beginnings of functions. Ascending too.
    pub fn called(&mut self, targets: &[u64]) -> Result<Vec<u64>, LookError> {
        let (Some(&low), Some(&high)) = (targets.first(), targets.last()) else {
            return Ok(Vec::new());
        };
        let mut called = vec![false; targets.len()];
        self.pass(Part::Code, |segment, at, bytes, fresh| {
            let base = segment.address + at;
            for hit in memchr::memchr_iter(0xe8, bytes).take_while(|&hit| hit < fresh) {
                let Some(displacement) = bytes[hit + 1..].first_chunk().copied() else {
                    continue;
                };
                let next = (base + hit as u64).wrapping_add(5);
                let target = next.wrapping_add_signed(i64::from(i32::from_le_bytes(displacement)));
                if (low..=high).contains(&target)
                    && let Ok(index) = targets.binary_search(&target)
                {
                    called[index] = true;
                }
            }
            ControlFlow::Continue(())
        })?;
        let functions = targets.iter().zip(called).filter(|(_, called)| *called);
        Ok(functions.map(|(&target, _)| target).collect())
    }

    /// For a search's own walk through a file: an error once the time is up.
    pub fn in_time(&self) -> Result<(), LookError> {
        if Instant::now() > self.deadline {
            Err(LookError::Time(self.limits.time))
        } else {
            Ok(())
        }
    }

    /// Calls `visit(segment, offset within it, bytes, fresh)` for each window of the writable segments that are no code.
    pub fn writable(
        &mut self,
        visit: impl FnMut(&Segment, u64, &[u8], usize) -> ControlFlow<()>,
    ) -> Result<(), LookError> {
        self.windows(|segment| segment.writable && !segment.executable, visit)
    }

    /// Calls `visit(address, bytes, fresh)` for each window of what the file has at these addresses, as far as it is in
    /// one segment.
    pub fn range(
        &mut self,
        addresses: Range<u64>,
        mut visit: impl FnMut(u64, &[u8], usize) -> ControlFlow<()>,
    ) -> Result<(), LookError> {
        let mut at = addresses.start;
        while at < addresses.end {
            self.in_time()?;
            let left = usize::try_from(addresses.end - at).unwrap_or(usize::MAX);
            let length = left.min(self.window + OVERLAP);
            if self.buffer.len() < length {
                self.buffer.resize(length, 0);
            }
            let read = self.elf.read(at, &mut self.buffer[..length])?;
            let last = length == left || read < length;
            let fresh = if last { read } else { self.window };
            if visit(at, &self.buffer[..read], fresh).is_break() || last {
                break;
            }
            at += self.window as u64;
        }
        Ok(())
    }

    fn pass(
        &mut self,
        part: Part,
        visit: impl FnMut(&Segment, u64, &[u8], usize) -> ControlFlow<()>,
    ) -> Result<(), LookError> {
        self.windows(|segment| segment.executable == (part == Part::Code), visit)
    }

    /// Calls `visit(segment, offset within it, bytes, fresh)` for each window; hits that start at `fresh` or later
    /// belong to the next one.
    fn windows(
        &mut self,
        wanted: impl Fn(&Segment) -> bool,
        mut visit: impl FnMut(&Segment, u64, &[u8], usize) -> ControlFlow<()>,
    ) -> Result<(), LookError> {
        for segment in self.elf.segments().iter().filter(|segment| wanted(segment)) {
            let mut at = 0;
            while at < segment.file_size {
                self.in_time()?;
                let left = usize::try_from(segment.file_size - at).unwrap_or(usize::MAX);
                let length = left.min(self.window + OVERLAP);
                if self.buffer.len() < length {
                    self.buffer.resize(length, 0);
                }
                let read = self
                    .elf
                    .source()
                    .read_at(segment.offset + at, &mut self.buffer[..length])?;
                let last = length == left;
                let fresh = if last { read } else { self.window };
                if visit(segment, at, &self.buffer[..read], fresh).is_break() {
                    return Ok(());
                }
                if last || read < length {
                    break;
                }
                at += self.window as u64;
            }
        }
        Ok(())
    }
}

/// The upper halves of the displacements by which code at `base` and up to `length` bytes behind it takes one of
/// `targets`: far fewer places have those than have a `lea`. `None` where they are too many, or what code is full of.
fn upper_halves(targets: &[u64], base: u64, length: usize) -> Option<Vec<[u8; 2]>> {
    let mut halves: Vec<[u8; 2]> = Vec::new();
    for &target in targets {
        let first = target.wrapping_sub(base).wrapping_sub(7).cast_signed();
        let last = first.wrapping_sub(i64::try_from(length).ok()?);
        for half in (last >> 16)..=(first >> 16) {
            // Out of reach.
            let Ok(half) = i16::try_from(half) else {
                continue;
            };
            let half = half.to_le_bytes();
            if half == [0, 0] || half == [0xff, 0xff] {
                return None;
            }
            if !halves.contains(&half) {
                halves.push(half);
            }
            if halves.len() > HALVES {
                return None;
            }
        }
    }
    Some(halves)
}

/// Target of a `lea r64, [rip + disp32]` at `address`.
fn lea_target(code: &[u8], address: u64) -> Option<u64> {
    let &[rex, 0x8d, modrm, a, b, c, d] = code.first_chunk::<7>()? else {
        return None;
    };
    if rex & 0xf8 != 0x48 || modrm & 0xc7 != 0x05 {
        return None;
    }
    let displacement = i64::from(i32::from_le_bytes([a, b, c, d]));
    Some(address.wrapping_add(7).wrapping_add_signed(displacement))
}

/// Start of the `mov` whose 4-byte immediate follows `code`.
fn immediate_start(code: &[u8]) -> Option<usize> {
    match code {
        [.., rex, 0xc7, modrm] if rex & 0xfe == 0x48 && modrm & 0xf8 == 0xc0 => {
            Some(code.len() - 3)
        }
        [.., 0x41, 0xb8..=0xbf] => Some(code.len() - 2),
        [.., 0xb8..=0xbf] => Some(code.len() - 1),
        _ => None,
    }
}
