//! Consecutive events of one agent and epoch, on their way to one receiver.
//!
//! Design: an event's key is (`producer.id`, `producer.epoch`, `producer.sequence`) inside its JSON, so that
//! splitting and joining batches changes none. Every batch also says (agent, epoch, first, last) in the place that
//! the receiver's protocol has for it.
//!
//! Invariant: a batch is never empty, and its sequences ascend.

use agent_common::event::Time;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// One event as it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The event's number.
    pub sequence: u64,
    /// When it happened.
    pub time: Time,
    /// The envelope's canonical JSON, no newline.
    pub json: Bytes,
}

/// Events that go out together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `producer.id` of all of them.
    pub agent: Arc<str>,
    /// `producer.epoch` of all of them.
    pub epoch: u64,
    /// Never empty, sequences ascending.
    pub events: Vec<Encoded>,
}

impl Batch {
    /// The first event's number.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.events.first().map_or(0, |event| event.sequence)
    }

    /// The last event's number.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.events.last().map_or(0, |event| event.sequence)
    }
}

/// What a receiver said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All but `rejected` are the receiver's now.
    Accepted {
        rejected: u64,
        reason: Option<String>,
    },
    /// Not now (429, 502, 503, 504, network): the same again, not before `after`.
    Retry {
        after: Option<Duration>,
        reason: String,
    },
    /// 413: the same in two halves.
    TooLarge { reason: String },
    /// Never: to be quarantined.
    Rejected { reason: String },
}

/// A receiver. One thread drives it; it may block up to its own time-outs.
pub trait Receiver: Send {
    /// `otlp`, `http`, `syslog`, `file`, ...
    fn name(&self) -> &str;

    /// What a batch may hold.
    fn limits(&self) -> Limits;

    /// Delivers a batch.
    fn send(&mut self, batch: &Batch) -> Outcome;
}

/// Most of what a batch holds. A single event that is over `bytes` is sent nevertheless: the receiver decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most events.
    pub events: usize,
    /// Most bytes of JSON, all events together.
    pub bytes: usize,
}
