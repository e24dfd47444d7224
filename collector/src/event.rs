//! An event as the collector handles it: its canonical JSON, and the key that names it.
//!
//! The JSON is kept byte for byte: hashes of the log are of these bytes. Fields of a later agent's events that this
//! version does not know stay in them.
//!
//! Invariant: an [`Event`]'s bytes are one JSON object of the contract's version 1, without a newline.

use agent_common::event::Envelope;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// The largest event that is taken, in bytes.
pub const SIZE_LIMIT: usize = 1024 * 1024;

/// Names one event: (`producer.id`, `producer.epoch`, `producer.sequence`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey {
    pub agent: Arc<str>,
    pub epoch: u64,
    pub sequence: u64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub key: EventKey,
    /// Nanoseconds since the Unix epoch at which it happened.
    pub time: i64,
    pub json: Bytes,
}

/// Why bytes are not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEvent {
    #[error("{0} bytes are more than the {SIZE_LIMIT} that an event may have")]
    Size(usize),
    #[error("{0}")]
    Json(String),
    #[error("{name} is {value}, which is more than {most}")]
    Range {
        name: &'static str,
        value: String,
        most: i64,
    },
    #[error("producer.sequence is 0; the first event of a run is 1")]
    Sequence,
    #[error("a newline stands in it")]
    Newline,
}

impl Event {
    /// Takes what an agent has sent.
    ///
    /// # Errors
    /// It is no event.
    pub fn parse(json: Bytes) -> Result<Self, NoEvent> {
        let (key, time) = Self::head(&json)?;
        Ok(Self { key, time, json })
    }

    /// Key and time of an event's JSON.
    ///
    /// # Errors
    /// It is no event.
    pub fn head(json: &[u8]) -> Result<(EventKey, i64), NoEvent> {
        if json.len() > SIZE_LIMIT {
            return Err(NoEvent::Size(json.len()));
        }
        let envelope: Envelope =
            serde_json::from_slice(json).map_err(|error| NoEvent::Json(error.to_string()))?;
        // JSON has no newline in a string, so one is between its parts.
        if json.contains(&b'\n') || json.contains(&b'\r') {
            return Err(NoEvent::Newline);
        }
        let producer = &envelope.producer;
        if producer.sequence == 0 {
            return Err(NoEvent::Sequence);
        }
        // Stores count with a sign.
        let signed = |name, value: u64| match i64::try_from(value) {
            Ok(_) => Ok(value),
            Err(_) => Err(NoEvent::Range {
                name,
                value: value.to_string(),
                most: i64::MAX,
            }),
        };
        let nanos = envelope.time.unix_nanos();
        let time = i64::try_from(nanos).map_err(|_| NoEvent::Range {
            name: "time",
            value: nanos.to_string(),
            most: i64::MAX,
        })?;
        let key = EventKey {
            agent: producer.id.clone(),
            epoch: signed("producer.epoch", producer.epoch)?,
            sequence: signed("producer.sequence", producer.sequence)?,
        };
        Ok((key, time))
    }
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.agent, self.epoch, self.sequence)
    }
}
