//! NDJSON behind a spool: a file or a stream as receiver.
//!
//! A batch is accepted when all of it is written and synced; if writing fails in the middle of a line, the next
//! attempt goes on there. After a kill in the middle the batch comes again as a whole: at least once.

use super::batch::{Batch, Limits, Outcome, Receiver};
use super::encoding;
use super::outbox::{Outbox, Target};
use crate::config::Encoding;
use std::io::ErrorKind;

const LIMITS: Limits = Limits {
    events: 4_096,
    bytes: 1024 * 1024,
};

/// Writes one JSON object per line.
pub struct Lines<T> {
    name: &'static str,
    encoding: Encoding,
    outbox: Outbox<T>,
    /// What was taken in last: epoch, first and last sequence.
    under_way: Option<(u64, u64, u64)>,
    closed: Box<dyn FnMut() + Send>,
}

impl<T: Target> Lines<T> {
    /// Over `target`; `name` is the consumer's. `closed` is called whenever the reader is found to have gone.
    pub fn new(name: &'static str, target: T, closed: impl FnMut() + Send + 'static) -> Self {
        Self {
            name,
            encoding: Encoding::Event,
            outbox: Outbox::new(target, usize::MAX),
            under_way: None,
            closed: Box::new(closed),
        }
    }

    /// In another form than tokentrail's own.
    #[must_use]
    pub fn encoded(self, encoding: Encoding) -> Self {
        Self { encoding, ..self }
    }
}

impl<T: Target> Receiver for Lines<T> {
    fn name(&self) -> &str {
        self.name
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn send(&mut self, batch: &Batch) -> Outcome {
        let what = (batch.epoch, batch.first(), batch.last());
        if self.under_way != Some(what) {
            let events = match encoding::events(self.encoding, batch) {
                Ok(events) => events,
                Err(outcome) => return outcome,
            };
            for event in &events {
                self.outbox.push_extra(event);
                self.outbox.push_extra(b"\n");
            }
            self.under_way = Some(what);
        }
        if let Err(error) = self.outbox.attempt() {
            if error.kind() == ErrorKind::BrokenPipe {
                (self.closed)();
            }
            return again(&error);
        }
        // Accepted or to be written anew: what the kernel could not bring to the disk is gone from its memory.
        self.under_way = None;
        match self.outbox.sync() {
            Ok(()) => Outcome::Accepted {
                rejected: 0,
                reason: None,
            },
            Err(error) => again(&error),
        }
    }
}

fn again(error: &std::io::Error) -> Outcome {
    Outcome::Retry {
        after: None,
        reason: error.to_string(),
    }
}
