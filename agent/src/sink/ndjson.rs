//! One JSON object per line.

use super::outbox::{Outbox, Target};
use super::{Error, Losses, Sink};
use agent_common::event::Envelope;
use std::io::Write;

/// Events as NDJSON.
pub struct Ndjson<T> {
    pub(super) outbox: Outbox<T>,
}

impl<T: Target> Ndjson<T> {
    /// Into `target`; keeps up to `retry_bytes` while it fails.
    pub fn new(target: T, retry_bytes: usize) -> Self {
        Self {
            outbox: Outbox::new(target, retry_bytes),
        }
    }
}

impl<T: Target> Sink for Ndjson<T> {
    fn name(&self) -> &str {
        self.outbox.target.name()
    }

    fn write(&mut self, event: &Envelope) -> Result<(), Error> {
        self.outbox.push(event.time, |buffer| {
            serde_json::to_writer(&mut *buffer, event)?;
            buffer.write_all(b"\n")
        })
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.outbox.flush()
    }

    fn losses(&mut self) -> Option<Losses> {
        self.outbox.losses()
    }

    fn close(&mut self) -> Result<Option<Losses>, Error> {
        self.outbox.close()
    }
}
