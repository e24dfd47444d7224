//! The requests of a connection whose responses have not gone by.
//!
//! An entry outlives its exchange: when the exchange was given out early (its age, the limits), the entry stays so that
//! its response is not taken for the next one's.
//!
//! Invariant: each exchange is given out once: its parts are taken.

use crate::flow::Nanos;
use crate::http::draft::{Common, Draft};
use crate::http::head::{Exchange, Outcome, RequestHead};
use crate::http::prefix::Prefix;
use std::collections::VecDeque;

/// Names a request on its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Serial(u64);

pub(super) struct Entry {
    /// When the request's first byte came.
    pub time: Nanos,
    /// HEAD: its response has no body.
    pub head_request: bool,
    pub connect: bool,
    /// The client may speak another protocol next: its bytes wait until the response tells.
    pub pauses: bool,
    /// A request that was lost: it stands for what may be one response.
    pub phantom: bool,
    /// The final response has ended.
    pub answered: bool,
    parts: Option<Box<Draft>>,
    /// Memory of the parts.
    weight: usize,
}

impl Entry {
    pub fn new(request: RequestHead, weight: usize, prefix: usize) -> Self {
        Self {
            time: request.time,
            head_request: request.method == "HEAD",
            connect: request.method == "CONNECT",
            pauses: request.method == "CONNECT" || request.headers.first("upgrade").is_some(),
            phantom: false,
            answered: false,
            parts: Some(Box::new(Draft {
                request,
                request_body: Prefix::new(prefix),
                response: None,
                response_body: Prefix::new(prefix),
                grpc_status: None,
            })),
            weight: weight + size_of::<Draft>(),
        }
    }

    pub fn phantom(time: Nanos) -> Self {
        Self {
            time,
            head_request: false,
            connect: false,
            pauses: false,
            phantom: true,
            answered: false,
            parts: None,
            weight: 0,
        }
    }

    pub fn parts(&mut self) -> Option<&mut Draft> {
        self.parts.as_deref_mut()
    }

    /// Its exchange has not been given out.
    pub fn is_held(&self) -> bool {
        self.parts.is_some()
    }

    fn is_complete(&self) -> bool {
        self.parts.as_ref().is_some_and(|parts| {
            parts.response.is_some()
                && parts.request_body.is_settled()
                && parts.response_body.is_settled()
        })
    }
}

#[derive(Default)]
pub(super) struct Open {
    entries: VecDeque<Entry>,
    /// Serial of the first entry.
    first: u64,
    weight: usize,
}

impl Open {
    pub fn push(&mut self, entry: Entry) -> Serial {
        self.weight += entry.weight;
        self.entries.push_back(entry);
        Serial(self.first + self.entries.len() as u64 - 1)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn weight(&self) -> usize {
        self.weight
    }

    pub fn get(&mut self, serial: Serial) -> Option<&mut Entry> {
        self.entries
            .get_mut(usize::try_from(serial.0.checked_sub(self.first)?).ok()?)
    }

    /// More memory is held for an entry.
    pub fn grew(&mut self, serial: Serial, bytes: usize) {
        if let Some(entry) = self.get(serial).filter(|entry| entry.is_held()) {
            entry.weight += bytes;
            self.weight += bytes;
        }
    }

    /// The request that the next response belongs to, if responses come in order.
    pub fn current(&mut self) -> Option<(Serial, &mut Entry)> {
        let at = self.entries.iter().position(|entry| !entry.answered)?;
        Some((Serial(self.first + at as u64), &mut self.entries[at]))
    }

    /// Unanswered requests that are no younger than `time`.
    pub fn candidates(&self, time: Nanos) -> usize {
        self.entries
            .iter()
            .filter(|entry| !entry.answered && entry.time <= time)
            .count()
    }

    /// A later unanswered request than the current one that is no younger than `time`.
    pub fn has_later(&self, time: Nanos) -> bool {
        self.entries
            .iter()
            .filter(|entry| !entry.answered)
            .nth(1)
            .is_some_and(|entry| entry.time <= time)
    }

    /// When the oldest request whose exchange is still held began.
    pub fn oldest(&self) -> Option<Nanos> {
        self.entries
            .iter()
            .filter(|entry| entry.is_held())
            .map(|entry| entry.time)
            .min()
    }

    /// The first request whose exchange is still held and whose time fits.
    pub fn oldest_held_if(&self, fits: impl Fn(Nanos) -> bool) -> Option<Serial> {
        let at = self
            .entries
            .iter()
            .position(|entry| entry.is_held() && fits(entry.time))?;
        Some(Serial(self.first + at as u64))
    }

    /// A request was ever seen, or lost.
    pub fn has_begun(&self) -> bool {
        self.first > 0 || !self.entries.is_empty()
    }

    /// The request's side of the exchange cannot change any more.
    pub fn request_is_settled(&mut self, serial: Serial) -> bool {
        self.get(serial)
            .and_then(Entry::parts)
            .is_some_and(|parts| parts.request_body.is_settled())
    }

    /// The response's side of the exchange cannot change any more.
    pub fn response_is_settled(&mut self, serial: Serial) -> bool {
        self.get(serial)
            .and_then(Entry::parts)
            .is_some_and(|parts| parts.response.is_some() && parts.response_body.is_settled())
    }

    /// Its response has gone by, or is not waited for.
    pub fn answer(&mut self, serial: Serial) {
        if let Some(entry) = self.get(serial) {
            entry.answered = true;
        }
    }

    pub fn clear(&mut self) {
        self.first += self.entries.len() as u64;
        self.entries = VecDeque::new();
        self.weight = 0;
    }

    /// The exchange, if nothing that comes can change it.
    pub fn complete(&mut self, serial: Serial, common: Common) -> Option<Exchange> {
        if self.get(serial)?.is_complete() {
            self.give(serial, Outcome::Answered, common)
        } else {
            None
        }
    }

    /// The exchange as it is, if it was not given out yet; `unanswered` is the outcome if it has no response.
    pub fn give(
        &mut self,
        serial: Serial,
        unanswered: Outcome,
        common: Common,
    ) -> Option<Exchange> {
        let entry = self.get(serial)?;
        let parts = entry.parts.take()?;
        self.weight -= std::mem::take(&mut entry.weight);
        Some(parts.exchange(unanswered, common))
    }

    /// Drops entries at the front that are answered and given out.
    pub fn tidy(&mut self) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.answered && !entry.is_held())
        {
            self.entries.pop_front();
            self.first += 1;
        }
    }
}
