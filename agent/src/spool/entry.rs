//! A group of records as it stands in the database.
//!
//! The payload is one zstd frame of: the records' differences of sequence (u64), their differences of time in
//! nanoseconds (i64), their lengths (u32), each as a column in little-endian order; then the records one after the
//! other, each followed by a newline. Columns because they compress to almost nothing.
//!
//! Two seals, each the first 16 bytes of a SHA-256: one of the payload, and one of everything else and the first
//! seal. So an entry whose payload alone is damaged still says what is lost.
//!
//! Invariant: what does not fit its seals, or its own lengths, is damaged, and never a panic.

use super::{Record, nanos, signed, time, unsigned};
use bytes::Bytes;
use rusqlite::Row;
use sha2::{Digest, Sha256};

/// Most bytes of records in an entry, unless a single one is larger.
pub(super) const RAW_BYTES: usize = 1024 * 1024;
/// Most records in an entry.
pub(super) const RECORDS: usize = 4_096;
/// More than any entry has: what says so is damaged.
const RAW_LIMIT: u64 = 256 * 1024 * 1024;
/// Of sequence, time and length in the columns.
const COLUMNS: usize = 8 + 8 + 4;
const LEVEL: i32 = 1;
const PAGE: u64 = 4_096;

pub(super) type Seal = [u8; 16];

/// An entry without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub run: i64,
    pub made: i64,
    pub first: i64,
    pub last: i64,
    pub from_time: i64,
    pub to_time: i64,
    pub records: i64,
    /// Bytes of the payload, decompressed.
    pub raw: i64,
    /// What the entry takes of the disk.
    pub size: i64,
    pub payload_seal: Seal,
}

impl Head {
    /// The columns that [`read`](Self::read) wants, from number 1 on, and the seal after them.
    pub(super) const COLUMNS: &str =
        "id, run, made, first, last, from_time, to_time, records, raw, size, payload_seal, seal";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<(i64, Self, Seal)> {
        let seal = |index| -> rusqlite::Result<Seal> {
            // Of another length: it fits nothing.
            let bytes: Vec<u8> = row.get(index)?;
            Ok(bytes.try_into().unwrap_or_default())
        };
        let head = Self {
            run: row.get(1)?,
            made: row.get(2)?,
            first: row.get(3)?,
            last: row.get(4)?,
            from_time: row.get(5)?,
            to_time: row.get(6)?,
            records: row.get(7)?,
            raw: row.get(8)?,
            size: row.get(9)?,
            payload_seal: seal(10)?,
        };
        Ok((row.get(0)?, head, seal(11)?))
    }

    pub(super) fn seal(&self) -> Seal {
        let mut hash = Sha256::new();
        for number in [
            self.run,
            self.made,
            self.first,
            self.last,
            self.from_time,
            self.to_time,
            self.records,
            self.raw,
            self.size,
        ] {
            hash.update(number.to_le_bytes());
        }
        hash.update(self.payload_seal);
        short(hash)
    }
}

fn short(hash: Sha256) -> Seal {
    let mut seal = Seal::default();
    seal.copy_from_slice(&hash.finalize()[..16]);
    seal
}

/// Compresses groups.
pub(super) struct Packer {
    compressor: zstd::bulk::Compressor<'static>,
    raw: Vec<u8>,
}

impl Packer {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            compressor: zstd::bulk::Compressor::new(LEVEL)?,
            raw: Vec::new(),
        })
    }

    /// The payload of records, and how many bytes it has decompressed.
    pub(super) fn payload(&mut self, records: &[Record]) -> std::io::Result<(Vec<u8>, i64)> {
        let raw = &mut self.raw;
        raw.clear();
        let mut before = 0u64;
        for record in records {
            raw.extend(record.sequence.wrapping_sub(before).to_le_bytes());
            before = record.sequence;
        }
        let mut before = 0i64;
        for record in records {
            let nanos = nanos(record.time);
            raw.extend(nanos.wrapping_sub(before).to_le_bytes());
            before = nanos;
        }
        for record in records {
            let length = u32::try_from(record.bytes.len()).map_err(std::io::Error::other)?;
            raw.extend(length.to_le_bytes());
        }
        for record in records {
            raw.extend_from_slice(&record.bytes);
            raw.push(b'\n');
        }
        let payload = self.compressor.compress(raw)?;
        let length = raw.len() as i64;
        // A single huge record is no reason to keep its size for ever.
        raw.shrink_to(2 * RAW_BYTES);
        Ok((payload, length))
    }

    /// An entry of records, which are not none.
    pub(super) fn entry(
        &mut self,
        run: i64,
        made: i64,
        records: &[Record],
    ) -> std::io::Result<(Head, Vec<u8>)> {
        let (payload, raw) = self.payload(records)?;
        let times = || records.iter().map(|record| nanos(record.time));
        let head = Head {
            run,
            made,
            first: records.first().map_or(0, |record| signed(record.sequence)),
            last: records.last().map_or(0, |record| signed(record.sequence)),
            from_time: times().min().unwrap_or(0),
            to_time: times().max().unwrap_or(0),
            records: records.len() as i64,
            raw,
            size: signed(size(payload.len())),
            payload_seal: seal(&payload),
        };
        Ok((head, payload))
    }
}

/// Of the disk: small entries share a page, larger ones fill up their last one.
fn size(payload: usize) -> u64 {
    let bytes = payload as u64 + 160;
    if bytes > PAGE {
        bytes.div_ceil(PAGE) * PAGE
    } else {
        bytes
    }
}

pub(super) fn seal(payload: &[u8]) -> Seal {
    short(Sha256::new().chain_update(payload))
}

/// How records are split into entries: lengths of consecutive groups.
pub(super) fn groups(records: &[Record]) -> Vec<usize> {
    let mut groups = Vec::new();
    let (mut count, mut bytes) = (0, 0usize);
    for record in records {
        let length = record.bytes.len();
        if count > 0 && (count == RECORDS || bytes.saturating_add(length) > RAW_BYTES) {
            groups.push(count);
            (count, bytes) = (0, 0);
        }
        count += 1;
        bytes = bytes.saturating_add(length);
    }
    if count > 0 {
        groups.push(count);
    }
    groups
}

/// The records of a payload. `None`: damaged.
pub(super) fn unpack(payload: &[u8], raw: i64, records: i64) -> Option<Vec<Record>> {
    let raw = u64::try_from(raw).ok().filter(|raw| *raw <= RAW_LIMIT)?;
    let count = usize::try_from(records).ok()?;
    let bytes = zstd::bulk::decompress(payload, usize::try_from(raw).ok()?).ok()?;
    if bytes.len() as u64 != raw {
        return None;
    }
    let bytes = Bytes::from(bytes);
    let columns = bytes.get(..count.checked_mul(COLUMNS)?)?;
    let (sequences, rest) = columns.split_at(count * 8);
    let (times, lengths) = rest.split_at(count * 8);
    let mut at = columns.len();
    let (mut sequence, mut nanos) = (0u64, 0i64);
    let mut unpacked = Vec::with_capacity(count);
    for index in 0..count {
        sequence = sequence.wrapping_add(u64::from_le_bytes(column(sequences, index)?));
        nanos = nanos.wrapping_add(i64::from_le_bytes(column(times, index)?));
        let length = u32::from_le_bytes(column(lengths, index)?) as usize;
        let end = at.checked_add(length)?;
        if *bytes.get(end)? != b'\n' {
            return None;
        }
        unpacked.push(Record {
            sequence,
            time: time(nanos),
            bytes: bytes.slice(at..end),
            settles: None,
        });
        at = end + 1;
    }
    (at == bytes.len()).then_some(unpacked)
}

fn column<const N: usize>(column: &[u8], index: usize) -> Option<[u8; N]> {
    column.get(index * N..(index + 1) * N)?.try_into().ok()
}

impl Head {
    /// First and last sequence, where the seal says that they can be trusted.
    pub(super) fn span(&self) -> (u64, u64) {
        (unsigned(self.first), unsigned(self.last))
    }
}
