//! Looking a function up by name: exported ones through the hash tables, all of them through `.symtab` where a file
//! is not stripped.

use super::source::{le16, le32, le64};
use super::{Elf, Sections};
use std::io;

pub(super) const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;
/// Symbols looked at in one table. Chromium with symbols has about two million.
const SYMBOLS: u64 = 1 << 22;
/// Symbols or string bytes read at a time.
const BLOCK: usize = 256 * 1024;
/// Steps along one hash chain.
const CHAIN: u32 = 1 << 12;
/// Places in the string table that end in the wanted name: suffixes are shared, so there may be several.
const NAME_PLACES: usize = 64;
const SHT_SYMTAB: u32 = 2;
const STT_FUNC: u8 = 2;

/// A defined function symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    pub address: u64,
    pub size: u64,
}

impl Elf<'_> {
    /// An exported function, by the loader's own way (`DT_GNU_HASH`, else `DT_HASH`): needs no section headers.
    pub fn exported_function(&self, name: &str) -> io::Result<Option<Symbol>> {
        let dynamic = &self.dynamic;
        let (Some(symbols), Some(_)) = (dynamic.symbols, dynamic.strings) else {
            return Ok(None);
        };
        if let Some(table) = dynamic.gnu_hash {
            return self.by_gnu_hash(table, symbols, name);
        }
        match dynamic.hash {
            Some(table) => self.by_hash(table, symbols, name),
            None => Ok(None),
        }
    }

    /// Any function of `.symtab`, exact name. `None` in a stripped file.
    pub fn function(&self, name: &str) -> io::Result<Option<Symbol>> {
        let Some(sections) = self.sections else {
            return Ok(None);
        };
        for index in 0..sections.count {
            let Some(header) = self.section(sections, index)? else {
                break;
            };
            if le32(&header, 4) != Some(SHT_SYMTAB) {
                continue;
            }
            let link = le32(&header, 40).and_then(|link| u16::try_from(link).ok());
            let strings = match link {
                Some(link) if link < sections.count => self.section(sections, link)?,
                _ => None,
            };
            let (Some(strings), Some(offset), Some(size)) =
                (strings, le64(&header, 24), le64(&header, 32))
            else {
                continue;
            };
            let (Some(strings_at), Some(strings_size)) = (le64(&strings, 24), le64(&strings, 32))
            else {
                continue;
            };
            let names = self.places_of(name, strings_at, strings_size)?;
            return self.in_table(offset, size / SYMBOL as u64, &names);
        }
        Ok(None)
    }

    fn section(&self, sections: Sections, index: u16) -> io::Result<Option<[u8; SECTION_HEADER]>> {
        let mut header = [0; SECTION_HEADER];
        let at = sections.offset + u64::from(index) * SECTION_HEADER as u64;
        let read = self.source.read_at(at, &mut header)?;
        Ok((read == SECTION_HEADER).then_some(header))
    }

    /// Offsets in a string table at which `name` stands, NUL-terminated.
    fn places_of(&self, name: &str, offset: u64, size: u64) -> io::Result<Vec<u32>> {
        let mut wanted = name.as_bytes().to_vec();
        wanted.push(0);
        let finder = memchr::memmem::Finder::new(&wanted);
        let mut buffer = vec![0; BLOCK + wanted.len()];
        let size = size.min(u64::from(u32::MAX)).min(self.source.size());
        let mut places = Vec::new();
        let mut at = 0;
        while at < size && places.len() < NAME_PLACES {
            let Some(position) = offset.checked_add(at) else {
                break;
            };
            let length = usize::try_from(size - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let read = self.source.read_at(position, &mut buffer[..length])?;
            if read == 0 {
                break;
            }
            let fresh = finder
                .find_iter(&buffer[..read])
                .take_while(|&hit| hit < BLOCK);
            places.extend(fresh.filter_map(|hit| u32::try_from(at + hit as u64).ok()));
            at += BLOCK as u64;
        }
        places.truncate(NAME_PLACES);
        Ok(places)
    }

    /// The first defined function among `count` symbols whose name stands at one of `names`.
    fn in_table(&self, offset: u64, count: u64, names: &[u32]) -> io::Result<Option<Symbol>> {
        if names.is_empty() {
            return Ok(None);
        }
        let mut buffer = vec![0; BLOCK / SYMBOL * SYMBOL];
        let mut left = count.min(SYMBOLS);
        let mut at = offset;
        while left > 0 {
            let length = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .saturating_mul(SYMBOL)
                .min(buffer.len());
            let read = self.source.read_at(at, &mut buffer[..length])?;
            for entry in buffer[..read].chunks_exact(SYMBOL) {
                if le32(entry, 0).is_some_and(|name| names.contains(&name))
                    && let Some(symbol) = defined_function(entry)
                {
                    return Ok(Some(symbol));
                }
            }
            if read < length {
                break;
            }
            left -= (length / SYMBOL) as u64;
            let Some(next) = at.checked_add(length as u64) else {
                break;
            };
            at = next;
        }
        Ok(None)
    }

    /// `DT_GNU_HASH`: header, bloom words (skipped), buckets, chains of hashes whose low bit ends them.
    fn by_gnu_hash(&self, table: u64, symbols: u64, name: &str) -> io::Result<Option<Symbol>> {
        let mut header = [0; 16];
        if self.read(table, &mut header)? < header.len() {
            return Ok(None);
        }
        let word = |at| u64::from(le32(&header, at).unwrap_or(0));
        let (buckets, first, bloom) = (word(0), word(4), word(8));
        if buckets == 0 {
            return Ok(None);
        }
        let hash = name.bytes().fold(5381_u32, |hash, byte| {
            hash.wrapping_mul(33).wrapping_add(u32::from(byte))
        });
        // All factors are 32-bit, so only the sum with the table's address can overflow.
        let Some(buckets_at) = table.checked_add(16 + bloom * 8) else {
            return Ok(None);
        };
        let Some(chains_at) = buckets_at.checked_add(buckets * 4) else {
            return Ok(None);
        };
        let Some(start) = self.word(buckets_at + u64::from(hash) % buckets * 4)? else {
            return Ok(None);
        };
        if u64::from(start) < first {
            return Ok(None);
        }
        for index in (u64::from(start)..).take(CHAIN as usize) {
            let Some(chain) = chains_at.checked_add((index - first) * 4) else {
                break;
            };
            let Some(found) = self.word(chain)? else {
                break;
            };
            if found | 1 == hash | 1
                && let Some(symbol) = self.exported_at(symbols, index, name)?
            {
                return Ok(Some(symbol));
            }
            if found & 1 == 1 {
                break;
            }
        }
        Ok(None)
    }

    /// `DT_HASH` (gABI "Hash Table"): bucket and chain counts, buckets, chains.
    fn by_hash(&self, table: u64, symbols: u64, name: &str) -> io::Result<Option<Symbol>> {
        let Some(buckets) = self.word(table)? else {
            return Ok(None);
        };
        if buckets == 0 {
            return Ok(None);
        }
        let hash = name.bytes().fold(0_u32, |hash, byte| {
            let hash = (hash << 4).wrapping_add(u32::from(byte));
            let high = hash & 0xf000_0000;
            (hash ^ (high >> 24)) & !high
        });
        let word_at = |index: u64| table.checked_add(8 + index * 4);
        let mut next = match word_at(u64::from(hash % buckets)) {
            Some(at) => self.word(at)?,
            None => None,
        };
        for _ in 0..CHAIN {
            let Some(index) = next.filter(|&index| index != 0) else {
                break;
            };
            if let Some(symbol) = self.exported_at(symbols, u64::from(index), name)? {
                return Ok(Some(symbol));
            }
            next = match word_at(u64::from(buckets) + u64::from(index)) {
                Some(at) => self.word(at)?,
                None => None,
            };
        }
        Ok(None)
    }

    /// The exported symbol `index`, if it is a defined function of that name.
    fn exported_at(&self, symbols: u64, index: u64, name: &str) -> io::Result<Option<Symbol>> {
        let mut entry = [0; SYMBOL];
        let Some(address) = symbols.checked_add(index * SYMBOL as u64) else {
            return Ok(None);
        };
        if self.read(address, &mut entry)? < SYMBOL {
            return Ok(None);
        }
        let at = u64::from(le32(&entry, 0).unwrap_or(0));
        if self.dynamic.string(self, at)?.as_deref() != Some(name) {
            return Ok(None);
        }
        Ok(defined_function(&entry))
    }

    fn word(&self, address: u64) -> io::Result<Option<u32>> {
        let mut word = [0; 4];
        let read = self.read(address, &mut word)?;
        Ok((read == word.len()).then_some(u32::from_le_bytes(word)))
    }
}

fn defined_function(entry: &[u8]) -> Option<Symbol> {
    let kind = entry.get(4)? & 0xf;
    let section = le16(entry, 6)?;
    let address = le64(entry, 8)?;
    // An indirect function (STT_GNU_IFUNC) is left out: its value is a resolver that runs once, not at the call.
    (kind == STT_FUNC && section != 0 && address != 0).then_some(Symbol {
        address,
        size: le64(entry, 16)?,
    })
}
