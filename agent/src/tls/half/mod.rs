//! One direction of a TLS connection: from its first record to the plaintext.
//!
//! Records come in order from the [`Deframer`]. Those that cannot be read yet wait in a queue: for the other
//! direction's hello, or for a secret. The phases: cleartext handshake; waiting for a secret; the encrypted
//! handshake of TLS 1.3, if its secret is known (it is not needed: without it the application secret is tried on
//! each record); application data.
//!
//! Invariant: [`Half::step`] consumes one record, or changes the phase, or is blocked.
//! Invariant: records that wait are bounded; what is dropped is counted and reported.

mod clear;
mod open;
mod sealed;

use super::facts::Output;
use super::handshake::MessageReader;
use super::keys::TAG_LEN;
use super::opener::Opener;
use super::record::{Deframer, Lost, Record};
use super::secrets::SecretId;
use super::shared::{Candidates, Shared};
use super::suite::Protocol;
use crate::flow::{Direction, Nanos};
use std::collections::VecDeque;

/// Whole records that did not open, in a row, after which a direction is given up.
const MAX_FAILURES: u32 = 64;

/// Sequence numbers tried when a tag does not fit though nothing is known to be missing.
const NEAR: u64 = 64;

/// Bodies of records up to here are opened even where data is left out: KeyUpdate, alerts and the end of a handshake
/// are short, and what follows them would not be understood without them. A longer record that is one of them shows
/// when the next one does not open, and is then searched for.
const SHORT: usize = 64;

/// What a record that waits costs beyond its bytes.
const WAITING_COST: usize = size_of::<Waiting>();

/// A record that waits.
struct Waiting {
    record: Record,
    /// Candidates up to this one were tried on it.
    tried: SecretId,
    /// Bytes it counts for.
    cost: usize,
}

impl Waiting {
    /// Plaintext bytes it may hold under TLS 1.3; in TLS 1.2 a few more or less.
    fn plain_len(&self) -> u64 {
        self.record.body_len().saturating_sub(TAG_LEN + 1) as u64
    }
}

enum Phase {
    /// Handshake messages in the clear.
    Clear,
    /// Encrypted, and no secret has opened a record. `handshake`: the handshake's secret may still do so.
    Sealed {
        handshake: bool,
    },
    /// The encrypted handshake of TLS 1.3.
    Handshake(Opener),
    Application(Opener),
    /// Ended by an alert, or given up.
    Over,
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Done,
    Blocked,
}

pub struct Half {
    pub direction: Direction,
    phase: Phase,
    pub deframer: Deframer,
    queue: VecDeque<Waiting>,
    /// Bytes held in `queue`.
    queued: usize,
    messages: MessageReader,
    /// ClientHellos and ServerHellos seen in this direction.
    hellos: u32,
    /// Records dropped from the queue unread, and the plaintext bytes they may have held.
    dropped: u64,
    dropped_plain: u64,
    /// Bounds were lost before the keys were known.
    unsure: bool,
    /// Application data: from there on nothing is certain until a tag proves it.
    lost: Option<Lost>,
    failures: u32,
    /// Offset of the next plaintext byte.
    plain: u64,
    time: Nanos,
}

impl Half {
    pub fn new(direction: Direction) -> Self {
        Self {
            direction,
            phase: Phase::Clear,
            deframer: Deframer::new(),
            queue: VecDeque::new(),
            queued: 0,
            messages: MessageReader::new(),
            hellos: 0,
            dropped: 0,
            dropped_plain: 0,
            unsure: false,
            lost: None,
            failures: 0,
            plain: 0,
            time: 0,
        }
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.queued + self.deframer.held() + self.messages.held()
    }

    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// A secret is being waited for.
    pub fn wants_secret(&self) -> bool {
        matches!(self.phase, Phase::Sealed { .. }) && !self.queue.is_empty()
    }

    /// Encrypted records have come, and none was opened.
    pub fn is_sealed(&self) -> bool {
        matches!(self.phase, Phase::Sealed { .. }) && (!self.queue.is_empty() || self.dropped > 0)
    }

    /// Application data is read, in step, and nothing waits.
    pub fn is_at_rest(&self) -> bool {
        matches!(self.phase, Phase::Application(_)) && self.queue.is_empty() && self.lost.is_none()
    }

    pub fn rest(&mut self) {
        if let Phase::Handshake(opener) | Phase::Application(opener) = &mut self.phase {
            opener.rest();
        }
        self.queue.shrink_to_fit();
    }

    /// Nothing more is read of this direction.
    pub fn give_up(&mut self) {
        self.phase = Phase::Over;
        self.queue = VecDeque::new();
        self.queued = 0;
        self.messages.reset();
        self.deframer = Deframer::new();
    }

    pub fn enqueue(&mut self, record: Record, shared: &mut Shared) {
        let counts = shared.counts(self.direction);
        counts.records += 1;
        if record.lost.is_some() {
            counts.losses += 1;
            self.unsure = true;
        }
        self.time = record.time;
        let waiting = Waiting {
            cost: WAITING_COST + record.held(),
            record,
            tried: SecretId::default(),
        };
        self.queued += waiting.cost;
        self.queue.push_back(waiting);
    }

    /// When the record that has waited longest came.
    pub fn oldest(&self) -> Option<Nanos> {
        self.queue.front().map(|waiting| waiting.record.time)
    }

    /// Records that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Drops the record that has waited longest; false if none waits.
    pub fn drop_oldest(&mut self, shared: &mut Shared) -> bool {
        let Some(oldest) = self.pop() else {
            return false;
        };
        self.dropped += 1;
        self.dropped_plain += oldest.plain_len();
        shared.counts(self.direction).unopened += 1;
        true
    }

    /// All processes' candidates are to be tried anew.
    pub fn forget_trials(&mut self) {
        for waiting in &mut self.queue {
            waiting.tried = SecretId::default();
        }
    }

    /// The record at the front, if it can be dealt with now.
    pub fn step(&mut self, shared: &mut Shared, candidates: &mut Candidates<'_>) -> Step {
        if self.queue.is_empty() {
            return Step::Blocked;
        }
        match self.phase {
            Phase::Clear => self.step_clear(shared),
            Phase::Sealed { .. } => self.step_sealed(shared, candidates),
            Phase::Handshake(_) => self.step_handshake(shared),
            Phase::Application(_) => {
                if let Some(waiting) = self.pop() {
                    self.open(waiting.record, shared);
                }
                Step::Done
            }
            Phase::Over => Step::Blocked,
        }
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.queue.pop_front()?;
        self.queued -= waiting.cost;
        Some(waiting)
    }

    fn drain(&mut self, count: usize) -> Vec<Waiting> {
        let drained: Vec<Waiting> = self.queue.drain(..count).collect();
        self.queued -= drained.iter().map(|waiting| waiting.cost).sum::<usize>();
        drained
    }

    fn skip(&mut self, shared: &mut Shared) -> Step {
        self.pop();
        shared.counts(self.direction).skipped += 1;
        Step::Done
    }

    fn is_client(&self, shared: &Shared) -> bool {
        shared.facts.client == Some(self.direction)
    }

    /// Level and description (RFC 8446 section 6, RFC 5246 section 7.2). In TLS 1.3 the level says nothing.
    fn alert(&mut self, [level, description]: [u8; 2], shared: &mut Shared) {
        const FATAL: u8 = 2;
        const CLOSE_NOTIFY: u8 = 0;
        const USER_CANCELED: u8 = 90;
        let tls13 = shared.protocol == Some(Protocol::Tls13);
        if description == CLOSE_NOTIFY || level == FATAL || (tls13 && description != USER_CANCELED)
        {
            shared.push(Output::End {
                direction: self.direction,
                alert: description,
            });
            shared.ended_by.get_or_insert(description);
            self.give_up();
        }
    }
}
