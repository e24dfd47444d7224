//! Log records that look like ones before them: their JSON is written straight from the protobuf, without decoding,
//! tree, or parsing.
//!
//! The plain way ([`super::otlp`]) decodes a record, makes a tree of its attributes, writes that as JSON and reads the
//! JSON as an event: some 25 times the work. But an agent's records nearly all have the same attributes in the same
//! order, and most values repeat. So what the plain way has accepted is learned:
//!
//! - a [`Head`]: what is the same for all records of one resource and scope;
//! - a [`Shape`]: the names of a record's attributes, in their order, and the JSON that stands between their values;
//! - a [known](known) value: the bytes of one attribute, and its JSON. For values whose form the contract restricts in a way
//!   that [a rule](rule) does not check itself: closed sets, lists, maps.
//!
//! A record is taken here only if head and shape are known, and each value is one that its rule allows or is known. An
//! event is valid when it has the fields that are due and each value is valid by itself, so that it would have been
//! accepted by the plain way. Everything else goes there, and is learned when it was accepted; a shape is kept only if
//! it writes the very bytes of the event that it was learned from.
//!
//! Invariant: what is taken here, the plain way would take, with the same bytes (`tests`: on random records).
//! Invariant: what is learned is bounded.

mod fields;
mod known;
mod rule;
mod shape;
#[cfg(test)]
mod tests;
mod write;

pub(super) use shape::Head;

use crate::event::{EventKey, SIZE_LIMIT};
use fields::Record;
use known::Learned;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use shape::Shape;
use std::sync::{Arc, PoisonError, RwLock};
use write::Clock;

/// What was learned, for all requests.
#[derive(Default)]
pub(super) struct Quick {
    learned: RwLock<Learned>,
}

/// One request's way through it.
pub(super) struct Reader {
    quick: Arc<Quick>,
    /// What was learned when it was last looked at.
    learned: Learned,
    clock: Clock,
    /// The shape of the record before: often that of the next one.
    last: Option<Arc<Shape>>,
}

/// An event that was written.
pub(super) struct Taken {
    pub key: EventKey,
    /// Nanoseconds since the Unix epoch.
    pub time: i64,
}

impl Reader {
    pub(super) fn new(quick: &Arc<Quick>) -> Self {
        let learned = quick.learned.read().unwrap_or_else(PoisonError::into_inner);
        Self {
            quick: Arc::clone(quick),
            learned: learned.clone(),
            clock: Clock::default(),
            last: None,
        }
    }

    /// Appends the record's event to `json`; nothing is appended if it is not one that is known.
    pub(super) fn take(&mut self, head: &Head, record: &[u8], json: &mut Vec<u8>) -> Option<Taken> {
        let begin = json.len();
        let taken = self.write(head, record, json);
        if taken.is_none() || json.len() - begin > SIZE_LIMIT {
            json.truncate(begin);
            return None;
        }
        taken
    }

    fn write(&mut self, head: &Head, record: &[u8], json: &mut Vec<u8>) -> Option<Taken> {
        let record = Record::read(record)?;
        let shape = match &self.last {
            Some(last) if last.fits(&record) => Arc::clone(last),
            _ => {
                let found = self.learned.shape(&record)?;
                self.last = Some(Arc::clone(&found));
                found
            }
        };
        shape.write(head, &record, &self.learned, &mut self.clock, json)
    }

    /// What the plain way has made of a record.
    pub(super) fn learn(&mut self, head: &mut Head, record: &[u8], event: (&EventKey, &[u8])) {
        if let Some(record) = Record::read(record) {
            self.learned.learn(head, &record, event, &mut self.clock);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.learned.is_fresh() {
            let all = self.quick.learned.write();
            all.unwrap_or_else(PoisonError::into_inner)
                .merge(&self.learned);
        }
    }
}

impl Head {
    /// Of a resource and scope whose records may be events.
    pub(super) fn of(
        resource: Option<&Resource>,
        scope: Option<&InstrumentationScope>,
    ) -> Option<Self> {
        shape::head(resource?, scope?)
    }
}
