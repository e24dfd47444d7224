//! What a request holds, as it is decoded: events, and what is none.
//!
//! Invariant: all of it is held of the budget.

use super::answer::Failure;
use super::budget::Held;
use super::door::Sender;
use crate::event::Event;
use crate::inbox::{Form, Packed, Refused};
use bytes::Bytes;
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
    events: Vec<Event>,
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
            events: Vec::new(),
            refused: Vec::new(),
            bytes: 0,
            summary: Summary::default(),
        }
    }

    /// What has the form of an event: it is one, or is refused with a reason. The event, if it is one.
    pub(super) fn take(&mut self, json: Bytes) -> Result<Option<&Event>, Failure> {
        let event = Event::parse(json.clone()).map_err(|error| error.to_string());
        match event.and_then(|event| self.allowed(event)) {
            Ok(event) => {
                self.count(event.json.len())?;
                self.events.push(event);
                Ok(self.events.last())
            }
            Err(reason) => {
                self.refuse(reason, Form::Json, json.to_vec())?;
                Ok(None)
            }
        }
    }

    fn allowed(&self, event: Event) -> Result<Event, String> {
        let agent = &event.key.agent;
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
            _ => Ok(event),
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
                line: self.events.len() + self.refused.len() + 1,
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

    pub(super) fn events(&self) -> &[Event] {
        &self.events
    }

    fn count(&mut self, bytes: usize) -> Result<(), Failure> {
        if self.events.len() + self.refused.len() == RECORDS {
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
        let bytes = self.events.iter().map(|event| event.json.len() + 1).sum();
        // The piece, and at most as much again compressed.
        self.held.grow(bytes)?;
        let events = Packed::new(self.events)
            .map_err(|error| Failure::Unreadable(format!("it cannot be compressed: {error}")))?;
        Ok(Packet {
            events,
            refused: self.refused,
            summary: self.summary,
            held: self.held,
        })
    }
}
