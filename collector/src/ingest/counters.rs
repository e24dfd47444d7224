//! What the ingest has done, for the metrics.

use super::answer::{Failure, Speech};
use crate::inbox::{AppendError, Appended};
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident,)+) => {
        /// Ascending since the start.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $help])+ pub $name: AtomicU64,)+
        }

        impl Counters {
            /// Each with its name and what it counts.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($help),+).trim_start(), self.$name.load(Ordering::Relaxed)),)+]
            }
        }
    };
}

counters! {
    /// Requests with OTLP.
    otlp_requests,
    /// Requests with NDJSON.
    ndjson_requests,
    /// Bytes of bodies as they were sent.
    bytes,
    /// Bytes of bodies, decompressed.
    decompressed,
    /// Events that were stored.
    stored,
    /// Events that had been received before.
    duplicates,
    /// Records and lines that are no events, of requests that were taken.
    rejected,
    /// Batches whose first and last sequence are not those that they state.
    disagreements,
    /// Requests refused with 401.
    unknown,
    /// Requests refused with 403.
    forbidden,
    /// Requests refused with 400.
    unreadable,
    /// Requests refused with 413.
    too_large,
    /// Requests refused with 415.
    unsupported,
    /// Requests refused with 503, because those in flight had taken all memory that they may.
    busy,
    /// Requests refused with 503, because their bodies came too slowly.
    slow,
    /// Requests refused with 503, because the inbox was full.
    full,
    /// Requests refused with 503, because the inbox could not be written.
    disk,
}

impl Counters {
    pub(super) fn request(&self, speech: Speech) {
        let counter = match speech {
            Speech::Otlp => &self.otlp_requests,
            Speech::Ndjson => &self.ndjson_requests,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn took(&self, appended: &Appended, rejected: usize) {
        let add = |counter: &AtomicU64, count: usize| {
            counter.fetch_add(count as u64, Ordering::Relaxed);
        };
        add(&self.stored, appended.stored);
        add(&self.duplicates, appended.duplicates);
        add(&self.rejected, rejected);
    }

    pub(super) fn failed(&self, failure: &Failure) {
        let counter = match failure {
            Failure::Unknown(_) => &self.unknown,
            Failure::Forbidden(_) => &self.forbidden,
            Failure::Unreadable(_) | Failure::NoEvents(_) => &self.unreadable,
            Failure::TooLarge(_) => &self.too_large,
            Failure::Unsupported(_) => &self.unsupported,
            Failure::Busy => &self.busy,
            Failure::Slow => &self.slow,
            Failure::Inbox(AppendError::Full { .. }) => &self.full,
            Failure::Inbox(AppendError::Disk(_) | AppendError::Closed) => &self.disk,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
