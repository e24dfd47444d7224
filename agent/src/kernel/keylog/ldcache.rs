//! `/etc/ld.so.cache`: which path a library's name stands for (glibc `sysdeps/generic/dl-cache.h`).
//!
//! A header of 48 bytes (magic, number of entries at 20), entries of 24 (name and path at 4 and 8, offsets from the
//! header's start), strings. An older table may stand before it.
//!
//! Invariant: any bytes give a list; it is bounded.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

const PATH: &str = "/etc/ld.so.cache";
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const CACHE_BYTES: u64 = 16 << 20;
const HEADER: usize = 48;
const ENTRY: usize = 24;
const ENTRIES: usize = 65_536;
const NAME: usize = 4096;

/// Name and path of every library in the system's cache, in its order; nothing if there is none (musl).
pub(super) fn load() -> Vec<(String, PathBuf)> {
    let mut bytes = Vec::new();
    let read = File::open(PATH).and_then(|file| file.take(CACHE_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => parse(&bytes),
        Err(_) => Vec::new(),
    }
}

pub(super) fn parse(bytes: &[u8]) -> Vec<(String, PathBuf)> {
    let Some(cache) = memchr::memmem::find(bytes, MAGIC).map(|start| &bytes[start..]) else {
        return Vec::new();
    };
    let count = word(cache, 20).unwrap_or(0).min(ENTRIES);
    let entries = cache
        .get(HEADER..)
        .unwrap_or_default()
        .chunks_exact(ENTRY)
        .take(count);
    entries
        .filter_map(|entry| {
            let name = string(cache, word(entry, 4)?)?;
            let path = string(cache, word(entry, 8)?)?;
            let name = String::from_utf8(name.to_vec()).ok()?;
            path.starts_with(b"/")
                .then(|| (name, PathBuf::from(OsString::from_vec(path.to_vec()))))
        })
        .collect()
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*word)).ok()
}

fn string(cache: &[u8], at: usize) -> Option<&[u8]> {
    let rest = cache.get(at..)?;
    let rest = &rest[..rest.len().min(NAME)];
    Some(&rest[..memchr::memchr(0, rest)?])
}
