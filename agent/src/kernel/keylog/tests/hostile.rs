//! Files that lie: cut, flipped and made up. The answer may be anything but a panic, an endless loop, or a point
//! outside the file.

use super::compiled::LIBRARY;
use super::{Compiled, look};
use crate::kernel::keylog::fuzz;
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn library() -> Vec<u8> {
    // Small: every byte of it is changed below.
    let arguments = [
        "-shared",
        "-fPIC",
        "-O2",
        "-nostdlib",
        "-Wl,-Bsymbolic",
        "-Wl,-z,noseparate-code",
    ];
    Compiled::new(LIBRARY, "c", &arguments).stripped
}

/// Bytes that steer the reader: the headers, and the tables that follow them up to the code.
const HEADERS: usize = 1024;

#[test]
fn every_header_byte_changed() {
    let whole = library();
    let start = Instant::now();
    for at in 0..HEADERS.min(whole.len()) {
        for change in [0x01, 0x80, 0xff] {
            let mut file = whole.clone();
            file[at] ^= change;
            fuzz::elf(&file);
        }
        for value in [0x00, 0xff] {
            let mut file = whole.clone();
            let end = (at + 8).min(file.len());
            file[at..end].fill(value);
            fuzz::elf(&file);
        }
    }
    assert!(
        start.elapsed() < Duration::from_secs(120),
        "took {:?}",
        start.elapsed()
    );
}

#[test]
fn cut_anywhere() {
    let whole = library();
    assert!(look(&whole).unwrap().key_log_points().next().is_some());
    for length in (0..HEADERS).chain((HEADERS..whole.len()).step_by(97)) {
        fuzz::elf(&whole[..length]);
        let message = look(&whole[..length]).map(|found| found.points.len());
        if length < 64 {
            assert!(message.is_err(), "cut at {length}: {message:?}");
        }
    }
}

/// Numbers that would make a careless reader slow: huge counts, a program header that claims everything.
#[test]
fn claims_are_bounded() {
    let whole = library();
    let start = Instant::now();
    let program_headers = 64..64 + 56 * usize::from(u16::from_le_bytes([whole[56], whole[57]]));
    let mut file = whole.clone();
    for header in file[program_headers.clone()].chunks_exact_mut(56) {
        // Everything loadable, executable, the whole file.
        header[..4].copy_from_slice(&1_u32.to_le_bytes());
        header[4..8].copy_from_slice(&5_u32.to_le_bytes());
        header[8..16].fill(0);
        header[32..40].copy_from_slice(&(whole.len() as u64).to_le_bytes());
    }
    let message = look(&file).unwrap_err().to_string();
    assert!(message.contains("claim more bytes"), "{message}");

    let mut file = whole.clone();
    file[56..58].fill(0xff);
    let message = look(&file).unwrap_err().to_string();
    assert!(
        message.contains("number of program headers (65535)"),
        "{message}"
    );

    let mut file = whole.clone();
    for header in file[program_headers].chunks_exact_mut(56) {
        header[16..24].fill(0xff);
    }
    let message = look(&file).unwrap_err().to_string();
    assert!(message.contains("segment's address"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// Code that is nothing but references, calls and jumps.
#[test]
fn dense_code_is_bounded() {
    let start = Instant::now();
    let common =
        ".intel_syntax noprefix\n.section .rodata\nrandom: .asciz \"CLIENT_RANDOM\"\n.text\n";
    let bodies = [
        ".rept 20000\n lea rsi, random[rip]\n.endr\n ret\n",
        ".rept 20000\n lea rsi, random[rip]\n jmp . + 7\n.endr\n ret\n",
        ".rept 20000\n lea rsi, random[rip]\n call . + 5\n.endr\n ret\n",
        ".rept 20000\n lea rbx, random[rip]\n je . + 2\n jne . - 9\n call . + 17\n.endr\n ret\n .space 64\n",
        ".space 4000000, 0xe8\n lea rsi, random[rip]\n jmp . + 5\n",
        ".space 4000000, 0x8d\n lea rsi, random[rip]\n",
    ];
    for body in bodies {
        let compiled = Compiled::new(&format!("{common}{body}"), "s", &["-shared", "-nostdlib"]);
        fuzz::elf(&compiled.stripped);
        let _ = look(&compiled.stripped);
    }
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "took {:?}",
        start.elapsed()
    );
}

#[test]
fn other_files_are_named() {
    let whole = library();
    let with = |changes: &[(usize, u8)]| {
        let mut file = whole.clone();
        for &(at, value) in changes {
            file[at] = value;
        }
        look(&file).unwrap_err().to_string()
    };
    assert_eq!(
        with(&[(18, 183)]),
        "ELF file for aarch64: only x86-64 is read"
    );
    assert_eq!(
        with(&[(4, 1), (18, 3)]),
        "ELF file for i386, 32-bit: only x86-64 is read"
    );
    assert_eq!(
        with(&[(5, 2), (18, 0), (19, 22)]),
        "ELF file for s390, big-endian: only x86-64 is read"
    );
    assert_eq!(
        with(&[(16, 1)]),
        "ELF file of type 1: neither a program nor a shared object"
    );
    assert_eq!(with(&[(0, 0)]), "not an ELF file");
    assert_eq!(look(b"").unwrap_err().to_string(), "not an ELF file");
    assert_eq!(
        look(b"#!/bin/sh\n").unwrap_err().to_string(),
        "not an ELF file"
    );
    let cut = look(&whole[..200]).unwrap_err().to_string();
    assert!(
        cut.starts_with("truncated: program headers end at byte"),
        "{cut}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_changes(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        thread_local! {
            static LIBRARY: Vec<u8> = library();
        }
        let mut file = LIBRARY.with(Clone::clone);
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] = value;
        }
        fuzz::elf(&file);
    }

    #[test]
    fn random_text(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz::text(&bytes);
        fuzz::elf(&bytes);
    }
}
