//! What a request holds, as it is decoded: events, and what is none.
//!
//! Invariant: all of it is held of the budget.

use super::answer::Failure;
use super::budget::Held;
use super::door::Sender;
use super::quick::{Head, Reader};
use crate::event::{Event, EventKey, SIZE_LIMIT};
use crate::inbox::{Form, Lines, Packed, Refused};
use serde::Serialize;

/// Records and lines of one request.
pub(super) const RECORDS: usize = 128 * 1024;
/// Of an agent's id; one is 32 characters of hex.
const AGENT_BYTES: usize = 256;
/// Reasons that are told to the sender.
const REASONS: usize = 100;
const REASON_CHARS: usize = 300;
/// What an event, or what is none, takes in memory beside its bytes.
const BESIDE: usize = 256;

/// What is told of a request beside what came of its events.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    pub rejected: usize,
    /// The first ones.
    pub reasons: Vec<Reason>,
    #[serde(skip)]
    pub disagreements: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Reason {
    /// Of the line or record, from 1.
    pub line: usize,
    pub reason: String,
}

impl Summary {
    /// The first reason, for people.
    pub(super) fn first(&self) -> String {
        let first = self.reasons.first();
        first.map_or_else(String::new, |Reason { line, reason }| {
            format!("number {line}: {reason}")
        })
    }
}

pub(super) struct Decoded {
    sender: Sender,
    limit: usize,
    held: Held,
    /// The events, a line each: what is compressed and kept.
    lines: Lines,
    refused: Vec<Refused>,
    /// Bytes of both.
    bytes: usize,
    summary: Summary,
}

/// Ready for the inbox.
pub(super) struct Packet {
    pub events: Packed,
    pub refused: Vec<Refused>,
    pub summary: Summary,
    pub held: Held,
}

impl Decoded {
    /// At most `limit` bytes of events.
    pub(super) fn new(sender: Sender, limit: usize, held: Held) -> Self {
        Self {
            sender,
            limit,
            held,
            lines: Lines::default(),
            refused: Vec::new(),
            bytes: 0,
            summary: Summary::default(),
        }
    }

    /// What has the form of an event: it is one, or is refused with a reason. Its key, if it is one.
    pub(super) fn take(&mut self, json: &[u8]) -> Result<Option<&EventKey>, Failure> {
        let head = Event::head(json).map_err(|error| error.to_string());
        match head.and_then(|(key, time)| self.allowed(&key).map(|()| (key, time))) {
            Ok((key, time)) => {
                self.count(json.len())?;
                Ok(self.lines.push(key, time, json))
            }
            Err(reason) => {
                self.refuse(reason, Form::Json, json.to_vec())?;
                Ok(None)
            }
        }
    }

    /// A log record that looks like one before it; nothing, if it does not and has to be decoded.
    pub(super) fn take_quick(
        &mut self,
        reader: &mut Reader,
        head: Option<&Head>,
        record: &[u8],
    ) -> Result<Option<&EventKey>, Failure> {
        let Some(head) = head.filter(|head| head.is_proven() && record.len() <= SIZE_LIMIT) else {
            return Ok(None);
        };
        let before = self.lines.bytes.len();
        let Some(taken) = reader.take(head, record, &mut self.lines.bytes) else {
            return Ok(None);
        };
        let length = self.lines.bytes.len() - before;
        // What is wrong with the sender is said the plain way.
        if self.allowed(&taken.key).is_err() {
            self.lines.bytes.truncate(before);
            return Ok(None);
        }
        self.count(length)?;
        Ok(self.lines.end(taken.key, taken.time))
    }

    fn allowed(&self, key: &EventKey) -> Result<(), String> {
        let agent = &key.agent;
        if agent.is_empty() || agent.len() > AGENT_BYTES {
            return Err(format!(
                "producer.id has {} bytes, not 1 to {AGENT_BYTES}",
                agent.len()
            ));
        }
        match &self.sender.agent {
            Some(own) if own != agent => Err(format!(
                "its producer is {agent:?}, and {own:?} alone may send through this door"
            )),
            _ => Ok(()),
        }
    }

    /// What is no event.
    pub(super) fn refuse(
        &mut self,
        reason: String,
        form: Form,
        bytes: Vec<u8>,
    ) -> Result<(), Failure> {
        self.count(bytes.len() + reason.len())?;
        self.summary.rejected += 1;
        if self.summary.reasons.len() < REASONS {
            self.summary.reasons.push(Reason {
                line: self.lines.count() + self.refused.len() + 1,
                reason: reason.chars().take(REASON_CHARS).collect(),
            });
        }
        self.refused.push(Refused {
            reason,
            form,
            bytes,
        });
        Ok(())
    }

    pub(super) fn disagree(&mut self, batches: u64) {
        self.summary.disagreements += batches;
    }

    fn count(&mut self, bytes: usize) -> Result<(), Failure> {
        if self.lines.count() + self.refused.len() == RECORDS {
            return Err(Failure::TooLarge(format!(
                "the request holds more than {RECORDS} events"
            )));
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limit {
            return Err(Failure::TooLarge(format!(
                "the request's events have more than {} bytes",
                self.limit
            )));
        }
        self.held.grow(bytes + BESIDE)
    }

    /// Compressed, and in one piece of memory each.
    pub(super) fn pack(mut self) -> Result<Packet, Failure> {
        // At most as much again compressed.
        self.held.grow(self.lines.bytes.len())?;
        let events = Packed::of(self.lines)
            .map_err(|error| Failure::Unreadable(format!("it cannot be compressed: {error}")))?;
        Ok(Packet {
            events,
            refused: self.refused,
            summary: self.summary,
            held: self.held,
        })
    }
}
