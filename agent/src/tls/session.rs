//! One TLS connection, read passively.
//!
//! A [`Session`] takes the pieces of both directions, in order within each, and gives [`Output`]s. It is told of the
//! processes whose secrets may be the connection's, and tries them as records and secrets come, in any order.
//!
//! Invariant: plaintext comes only from keys that a tag has proven on this connection.
//! Invariant: each secret is tried at most once on each record.

use super::facts::{Facts, Output, Reason};
use super::half::{Half, Step};
use super::record::Framed;
use super::secrets::Pool;
use super::shared::{Candidates, Shared};
use super::suite::Protocol;
use crate::flow::{Budget, Direction, GapReason, Nanos, Piece, Share};
use crate::kernel::record::ProcessKey;

/// Limits of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Bytes of records that wait for a hello or a secret, both directions.
    pub waiting: usize,
    /// How long they wait.
    pub wait: Nanos,
    /// Trials of a secret on a record.
    pub trials: u64,
    /// Sequence numbers searched after a loss.
    pub search: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            waiting: 256 << 10,
            wait: 10_000_000_000,
            trials: 100_000,
            search: 1 << 14,
        }
    }
}

/// See the module.
pub struct Session {
    halves: [Half; 2],
    shared: Shared,
    share: Share,
    processes: Vec<ProcessKey>,
    /// Records have waited in vain.
    hopeless: bool,
    closed: bool,
}

impl Session {
    pub fn new(limits: SessionLimits, budget: &Budget) -> Self {
        Self {
            halves: [Half::new(Direction::Sent), Half::new(Direction::Received)],
            shared: Shared::new(limits),
            share: budget.share(),
            processes: Vec::new(),
            hopeless: false,
            closed: false,
        }
    }

    /// Both directions are read, and nothing waits: what comes now may be skipped.
    pub fn is_at_rest(&self) -> bool {
        !self.shared.failed && self.halves.iter().all(Half::is_at_rest)
    }

    /// Whether application data of the next pieces is to be left out: its records are counted and given as gaps, and not
    /// opened.
    pub fn skip(&mut self, skip: bool) {
        self.shared.skip = skip;
    }

    /// The next piece of one direction. `processes` are those that may hold the connection's secrets.
    pub fn push(
        &mut self,
        direction: Direction,
        piece: Piece,
        pool: &mut Pool,
        processes: &[ProcessKey],
    ) {
        self.shared.counts(direction).wire += piece.len();
        let half = &mut self.halves[direction.index()];
        if self.shared.failed || half.is_over() || piece.is_empty() {
            return;
        }
        let (now, offset, len) = (piece.time(), piece.offset(), piece.len());
        half.deframer.push(piece);
        loop {
            let half = &mut self.halves[direction.index()];
            match half.deframer.next() {
                None => break,
                Some(Framed::Record(record)) => {
                    half.enqueue(record, &mut self.shared);
                    self.pump(pool, processes, now);
                }
                Some(Framed::NotARecord) => {
                    let counts = self.shared.facts.counts[direction.index()];
                    if counts.records == 0 && counts.wire == len && offset > 0 {
                        self.shared.fail(Reason::OpenedBeforeAgent);
                    } else if counts.records == 0 || self.shared.protocol.is_none() {
                        self.shared.fail(Reason::Malformed("not a record"));
                    }
                    self.shared.counts(direction).losses += 1;
                }
            }
            if self.shared.failed || self.halves[direction.index()].is_over() {
                break;
            }
        }
        self.bound();
    }

    /// Tries again: a secret of one of the `processes` has come.
    pub fn offer(&mut self, pool: &mut Pool, processes: &[ProcessKey], now: Nanos) {
        self.pump(pool, processes, now);
        self.bound();
    }

    /// Records wait for a secret: worth a call of [`Session::offer`] when one comes.
    pub fn wants_secret(&self) -> bool {
        !self.shared.failed && self.halves.iter().any(Half::wants_secret)
    }

    /// Drops what has waited too long; a connection without any secret is then told of, though one that comes later
    /// still helps. To be called now and then, while the connection lives.
    pub fn expire(&mut self, now: Nanos) {
        for half in &mut self.halves {
            let deadline = now.saturating_sub(self.shared.limits.wait);
            while half.oldest().is_some_and(|time| time < deadline) {
                half.drop_oldest(&mut self.shared);
                self.hopeless = !self.shared.facts.proven;
            }
        }
        if self.hopeless {
            let reason = match self.shared.protocol {
                Some(_) => Reason::NoSecret,
                None => Reason::Incomplete,
            };
            self.shared.report(None, reason);
        }
        self.bound();
    }

    /// Gives up the records that wait: a secret that comes later is tried on those that follow.
    pub fn shed(&mut self) {
        for half in &mut self.halves {
            while half.drop_oldest(&mut self.shared) {}
        }
        self.bound();
    }

    /// The connection's secrets will not come: its library is not read.
    pub fn give_up(&mut self) {
        self.shared.fail(Reason::NoSecret);
        self.bound();
    }

    /// One direction's stream has ended.
    pub fn end(&mut self, direction: Direction) {
        if !self.shared.failed && !self.halves[direction.index()].is_over() {
            self.halves[direction.index()].end(&mut self.shared);
        }
    }

    /// The connection has closed: what was not read is reported, and every buffer is dropped.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.end(Direction::Sent);
        self.end(Direction::Received);
        if !self.shared.failed {
            self.conclude();
        }
        for half in &mut self.halves {
            self.shared.facts.counts[half.direction.index()].unopened += half.waiting() as u64;
            half.give_up();
        }
        self.shared.connection_keys = [None, None];
        self.bound();
    }

    fn conclude(&mut self) {
        let shared = &mut self.shared;
        let seen = shared.facts.counts.iter().any(|counts| counts.records > 0);
        if shared.suite.is_none() {
            match shared.ended_by {
                Some(alert) => shared.fail(Reason::HandshakeFailed(alert)),
                None if seen => shared.fail(Reason::Incomplete),
                None => {}
            }
            return;
        }
        let sealed: Vec<Direction> = self
            .halves
            .iter()
            .filter(|half| half.is_sealed())
            .map(|half| half.direction)
            .collect();
        match (shared.facts.proven, shared.ended_by) {
            (false, Some(alert)) if alert != 0 => shared.fail(Reason::HandshakeFailed(alert)),
            (false, _)
                if shared.protocol == Some(Protocol::Tls12) && shared.randoms().is_none() =>
            {
                shared.fail(Reason::OpenedBeforeAgent);
            }
            (false, _) if !sealed.is_empty() => shared.fail(Reason::NoSecret),
            (false, _) => shared.fail(Reason::Incomplete),
            (true, _) => {
                for direction in sealed {
                    shared.report(Some(direction), Reason::NoSecret);
                }
            }
        }
    }

    /// The next output.
    pub fn pop(&mut self) -> Option<Output> {
        self.shared.outputs.pop_front()
    }

    pub fn facts(&self) -> &Facts {
        &self.shared.facts
    }

    /// Bytes held, outputs aside.
    pub fn held(&self) -> usize {
        self.halves.iter().map(Half::held).sum()
    }

    /// The connection is idle: forgets what can be computed again (about 1 KiB a direction).
    pub fn rest(&mut self) {
        for half in &mut self.halves {
            half.rest();
        }
        self.shared.outputs.shrink_to_fit();
    }

    fn pump(&mut self, pool: &mut Pool, processes: &[ProcessKey], now: Nanos) {
        if processes
            .iter()
            .any(|process| !self.processes.contains(process))
        {
            self.processes = processes.to_vec();
            for half in &mut self.halves {
                half.forget_trials();
            }
        }
        let mut candidates = Candidates {
            pool,
            processes,
            now,
        };
        // The server first: it says what the client's records are.
        let order = match self.shared.facts.client {
            Some(client) => [client.opposite(), client],
            None => [Direction::Sent, Direction::Received],
        };
        loop {
            let mut moved = false;
            for direction in order {
                while !self.shared.failed
                    && self.halves[direction.index()].step(&mut self.shared, &mut candidates)
                        == Step::Done
                {
                    moved = true;
                }
            }
            if !moved || self.shared.failed {
                break;
            }
        }
        self.shared.facts.trials = self.shared.trials.spent;
        if self.shared.trials.left == 0 {
            self.shared.report(None, Reason::TrialsExhausted);
        }
    }

    /// Brings what is held back within the limits.
    fn bound(&mut self) {
        if self.shared.failed {
            self.halves.iter_mut().for_each(Half::give_up);
        }
        // A secret may still come, but it is not likely: room for the record that would prove it.
        let waiting = match self.hopeless && !self.shared.facts.proven {
            true => self.shared.limits.waiting / 8,
            false => self.shared.limits.waiting,
        };
        while self.held() > waiting || !self.share.resize(self.held()) {
            let fuller = usize::from(self.halves[1].held() > self.halves[0].held());
            let half = &mut self.halves[fuller];
            self.shared.report(Some(half.direction), Reason::Overflow);
            if !half.drop_oldest(&mut self.shared) {
                half.deframer.abandon(GapReason::Evicted);
                if half.held() > 0 {
                    half.give_up();
                }
            }
        }
    }
}
