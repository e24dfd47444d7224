//! NDJSON by HTTP POST: one event a line, as `application/x-ndjson`.
//!
//! Every request says what it holds in headers: `tokentrail-agent`, `tokentrail-epoch`, `tokentrail-first-sequence`
//! and `tokentrail-last-sequence`. Any 2xx is an acceptance of the whole batch; everything else is as with OTLP
//! ([`retry`](super::remote::retry)).
//!
//! Invariant: a line is one event, and an event is one line.

use super::batch::{Batch, Limits, Outcome, Receiver};
use super::encoding;
use super::remote::Error;
use super::remote::file::Source;
use super::remote::post::{Poster, Settings};
use crate::config::{self, Encoding};

const CONTENT_TYPE: &str = "application/x-ndjson";

/// A receiver of NDJSON.
pub struct Http {
    poster: Poster,
    encoding: Encoding,
    limits: Limits,
}

/// The receiver that `[http]` names; nothing if it names none.
///
/// # Errors
/// What is wrong with the section, or with the files that it names.
pub fn from_config(config: &config::Http) -> Result<Option<Http>, Error> {
    load(config, &Source::disk())
}

/// The same, with files that `source` has.
///
/// # Errors
/// As [`from_config`].
pub fn load(config: &config::Http, source: &Source) -> Result<Option<Http>, Error> {
    let Some(settings) = Settings::http(config) else {
        return Ok(None);
    };
    Ok(Some(Http {
        poster: Poster::new(&settings, source)?,
        encoding: config.encoding,
        limits: Limits {
            events: config.batch_events.size(),
            bytes: config.batch_bytes.size(),
        },
    }))
}

impl Receiver for Http {
    fn name(&self) -> &str {
        "http"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn destination(&self) -> Option<(String, u16)> {
        self.poster.destination()
    }

    fn send(&mut self, batch: &Batch) -> Outcome {
        let events = match encoding::events(self.encoding, batch) {
            Ok(events) => events,
            Err(outcome) => return outcome,
        };
        let mut body = Vec::with_capacity(events.iter().map(|event| event.len() + 1).sum());
        for event in &events {
            body.extend_from_slice(event);
            body.push(b'\n');
        }
        let headers = [
            ("tokentrail-agent", printable(&batch.agent)),
            ("tokentrail-epoch", batch.epoch.to_string()),
            ("tokentrail-first-sequence", batch.first().to_string()),
            ("tokentrail-last-sequence", batch.last().to_string()),
        ];
        match self.poster.post(CONTENT_TYPE, &headers, &body) {
            Ok(_) => Outcome::Accepted {
                rejected: 0,
                reason: None,
            },
            Err(outcome) => outcome,
        }
    }
}

/// What a header can hold of it: all of a machine id.
fn printable(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).collect()
}
