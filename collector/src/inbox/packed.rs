//! Events as an entry holds them: NDJSON in one piece of memory, and compressed.
//!
//! The events are slices of that one piece, so that an entry's memory is what its events say, whatever larger buffer
//! they came in.
//!
//! Invariant: what is unpacked is what was packed, or an error.

use crate::event::Event;
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

impl Packed {
    /// Takes time for each byte: beside the threads that must answer.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(mut events: Vec<Event>) -> std::io::Result<Self> {
        if events.is_empty() {
            return Ok(Self::default());
        }
        let length = events.iter().map(|event| event.json.len() + 1).sum();
        let mut raw = Vec::with_capacity(length);
        for event in &events {
            raw.extend_from_slice(&event.json);
            raw.push(b'\n');
        }
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        let payload = compressor.compress(&raw)?;
        let raw = Bytes::from(raw);
        let mut at = 0;
        for event in &mut events {
            let end = at + event.json.len();
            event.json = raw.slice(at..end);
            at = end + 1;
        }
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
