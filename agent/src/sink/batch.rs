//! Consecutive events of one agent and epoch, on their way to one receiver.
//!
//! Purpose: the door between the courier, which reads the spool, forms batches and acknowledges, and the receivers,
//! which speak one protocol each.
//!
//! Design: an event crosses it as its canonical JSON, made once, with what a protocol's frame needs beside it. Its
//! name is (`producer.id`, `producer.epoch`, `producer.sequence`) inside that JSON, so that batches can be split and
//! joined on the way without renaming anything; a batch has a first and a last sequence, never a number of its own.
//! A receiver does not retry and does not keep anything: it says what came of one attempt, and the courier decides.
//!
//! Invariant: a batch is never empty, and its sequences ascend.

use agent_common::event::Time;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// `producer.sequence`.
    pub sequence: u64,
    /// The event's time.
    pub time: Time,
    /// The envelope's canonical JSON, without a newline.
    pub json: Bytes,
}

/// Events of one agent and epoch, never none, their sequences ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// `producer.id`.
    pub agent: Arc<str>,
    /// `producer.epoch`.
    pub epoch: u64,
    pub events: Vec<Encoded>,
}

impl Batch {
    /// The first event's sequence; 0, which no event has, of a batch without events.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.events.first().map_or(0, |event| event.sequence)
    }

    /// The last event's sequence, likewise.
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

    /// The most that a batch may hold.
    fn limits(&self) -> Limits;

    /// Host (a name or an address, without brackets) and port, if it is reached over IP.
    fn destination(&self) -> Option<(String, u16)> {
        None
    }

    /// One attempt.
    fn send(&mut self, batch: &Batch) -> Outcome;
}

/// Bounds of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most events.
    pub events: usize,
    /// Most bytes of JSON.
    pub bytes: usize,
}
