//! One JSON object per line.

use super::outbox::{Outbox, Target};
use super::{Error, Losses, Sink, ocsf};
use crate::config::Encoding;
use agent_common::event::Envelope;
use std::io::Write;

/// Events as NDJSON.
pub struct Ndjson<T> {
    encoding: Encoding,
    pub(super) outbox: Outbox<T>,
}

impl<T: Target> Ndjson<T> {
    /// Into `target`; keeps up to `retry_bytes` while it fails.
    pub fn new(target: T, retry_bytes: usize) -> Self {
        Self {
            encoding: Encoding::Event,
            outbox: Outbox::new(target, retry_bytes),
        }
    }

    /// In another form than tokentrail's own.
    #[must_use]
    pub fn encoded(self, encoding: Encoding) -> Self {
        Self { encoding, ..self }
    }
}

impl<T: Target> Sink for Ndjson<T> {
    fn name(&self) -> &str {
        self.outbox.target.name()
    }

    fn write(&mut self, event: &Envelope) -> Result<(), Error> {
        let encoding = self.encoding;
        self.outbox.push(event.time, |buffer| {
            match encoding {
                Encoding::Event => serde_json::to_writer(&mut *buffer, event)?,
                Encoding::Ocsf => serde_json::to_writer(&mut *buffer, &ocsf::event(event))?,
            }
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
