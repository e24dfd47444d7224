//! Events as an entry holds them: NDJSON in one piece of memory, and compressed.
//!
//! The events are slices of that one piece, so that an entry's memory is what its events say, whatever larger buffer
//! they came in.
//!
//! Invariant: what is unpacked is what was packed, or an error.

use crate::event::{Event, EventKey};
use bytes::Bytes;
use std::io::Read;

/// About 500 MB/s; higher levels save little on what is sealed within seconds.
const LEVEL: i32 = 1;
/// What an event takes in memory beside its JSON.
const BESIDE: u64 = size_of::<Event>() as u64 + 1;

/// Events, ready to be stored.
#[derive(Clone, Default)]
pub struct Packed {
    pub(super) events: Vec<Event>,
    pub(super) payload: Vec<u8>,
}

/// Events as they are collected: a line each.
#[derive(Default)]
pub struct Lines {
    /// Whole lines; while an event is written, also the begin of one.
    pub bytes: Vec<u8>,
    /// Key, time, and where its JSON ends.
    events: Vec<(EventKey, i64, usize)>,
}

impl Lines {
    #[must_use]
    pub fn count(&self) -> usize {
        self.events.len()
    }

    /// Appends an event.
    pub fn push(&mut self, key: EventKey, time: i64, json: &[u8]) -> Option<&EventKey> {
        self.bytes.extend_from_slice(json);
        self.end(key, time)
    }

    /// What was written behind the last line is this event.
    pub fn end(&mut self, key: EventKey, time: i64) -> Option<&EventKey> {
        self.events.push((key, time, self.bytes.len()));
        self.bytes.push(b'\n');
        self.events.last().map(|(key, ..)| key)
    }
}

impl Packed {
    /// Takes time for each byte: beside the threads that must answer.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(events: Vec<Event>) -> std::io::Result<Self> {
        let mut lines = Lines::default();
        let length = events.iter().map(|event| event.json.len() + 1).sum();
        lines.bytes.reserve_exact(length);
        for Event { key, time, json } in events {
            lines.push(key, time, &json);
        }
        Self::of(lines)
    }

    /// The same of lines.
    ///
    /// # Errors
    /// Out of memory.
    pub fn of(lines: Lines) -> std::io::Result<Self> {
        let Lines {
            bytes: mut raw,
            events,
        } = lines;
        // It stays in memory until it is sealed.
        raw.shrink_to_fit();
        if events.is_empty() {
            return Ok(Self::default());
        }
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        let payload = compressor.compress(&raw)?;
        let raw = Bytes::from(raw);
        let mut at = 0;
        let events = events.into_iter().map(|(key, time, end)| {
            let json = raw.slice(at..end);
            at = end + 1;
            Event { key, time, json }
        });
        let events = events.collect();
        Ok(Self { events, payload })
    }

    /// # Errors
    /// What stands there is not what was packed.
    pub(super) fn unpack(
        payload: &[u8],
        count: usize,
        length: usize,
    ) -> Result<Vec<Event>, String> {
        let mut raw = Vec::new();
        let decoder = zstd::stream::read::Decoder::new(payload);
        decoder
            .and_then(|decoder| decoder.take(length as u64 + 1).read_to_end(&mut raw))
            .map_err(|error| error.to_string())?;
        if raw.len() != length {
            return Err(format!("{} bytes instead of {length}", raw.len()));
        }
        let raw = Bytes::from(raw);
        let mut events = Vec::new();
        let mut at = 0;
        for (end, _) in raw.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            let event = Event::parse(raw.slice(at..end)).map_err(|error| error.to_string())?;
            events.push(event);
            at = end + 1;
        }
        if at != raw.len() || events.len() != count {
            return Err(format!("{} events instead of {count}", events.len()));
        }
        Ok(events)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn count(&self) -> u64 {
        self.events.len() as u64
    }

    /// Bytes as [`Limits`](super::Limits) count them.
    pub(super) fn weight(&self) -> u64 {
        weight(&self.events)
    }

    /// Bytes of the NDJSON.
    pub(super) fn length(&self) -> u64 {
        length(&self.events)
    }
}

pub(super) fn length(events: &[Event]) -> u64 {
    events.iter().map(|event| event.json.len() as u64 + 1).sum()
}

pub(super) fn weight(events: &[Event]) -> u64 {
    length(events) + events.len() as u64 * BESIDE
}
