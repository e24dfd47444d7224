//! How much may wait: taken before an append is queued, given back when it fails, is a duplicate, or is sealed.
//!
//! The collector's own events have some room more: it starts, and records who asks for a trail, when senders have
//! filled the rest.
//!
//! Invariant: what is taken is given back once.

use super::{AppendError, Entry, Limits, packed};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Sealing runs every few seconds.
const RETRY: Duration = Duration::from_secs(5);

/// What the collector's own events have beside the limits: as many holes as are told of at once, and thousands of
/// questions.
const OWN_BYTES: u64 = 4 * 1024 * 1024;
const OWN_EVENTS: u64 = 8_192;

pub(super) struct Room {
    limits: Limits,
    bytes: AtomicU64,
    events: AtomicU64,
}

/// Room that an append has taken; given back when it is dropped, but for what was [kept](Place::keep).
pub(super) struct Place {
    room: Arc<Room>,
    bytes: u64,
    events: u64,
}

impl Room {
    pub(super) fn new(limits: Limits, pending: &VecDeque<Arc<Entry>>) -> Arc<Self> {
        let room = Self {
            limits,
            bytes: AtomicU64::new(0),
            events: AtomicU64::new(0),
        };
        for entry in pending {
            room.bytes
                .fetch_add(packed::weight(&entry.events), Ordering::Relaxed);
            room.events
                .fetch_add(entry.events.len() as u64, Ordering::Relaxed);
        }
        Arc::new(room)
    }

    /// An append that is larger than the limits finds room when nothing else waits, or it never would.
    pub(super) fn take(room: &Arc<Self>, bytes: u64, events: u64) -> Result<Place, AppendError> {
        Self::within(room, room.limits, bytes, events)
    }

    /// For an event of the collector itself.
    pub(super) fn take_own(
        room: &Arc<Self>,
        bytes: u64,
        events: u64,
    ) -> Result<Place, AppendError> {
        let limits = Limits {
            bytes: room.limits.bytes.saturating_add(OWN_BYTES),
            events: room.limits.events.saturating_add(OWN_EVENTS),
            ..room.limits
        };
        Self::within(room, limits, bytes, events)
    }

    fn within(
        room: &Arc<Self>,
        limits: Limits,
        bytes: u64,
        events: u64,
    ) -> Result<Place, AppendError> {
        let place = Place {
            room: Arc::clone(room),
            bytes,
            events,
        };
        let waiting = room.bytes.fetch_add(bytes, Ordering::Relaxed);
        let waiting_events = room.events.fetch_add(events, Ordering::Relaxed);
        let over = waiting.saturating_add(bytes) > limits.bytes
            || waiting_events.saturating_add(events) > limits.events;
        if over && (waiting > 0 || waiting_events > 0) {
            return Err(AppendError::Full { retry_after: RETRY });
        }
        Ok(place)
    }

    pub(super) fn give_back(&self, bytes: u64, events: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.events.fetch_sub(events, Ordering::Relaxed);
    }

    pub(super) fn used(&self) -> (u64, u64) {
        (
            self.bytes.load(Ordering::Relaxed),
            self.events.load(Ordering::Relaxed),
        )
    }
}

impl Place {
    /// So much of it was stored, and waits to be sealed.
    pub(super) fn keep(&mut self, bytes: u64, events: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.events = self.events.saturating_sub(events);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.give_back(self.bytes, self.events);
    }
}
