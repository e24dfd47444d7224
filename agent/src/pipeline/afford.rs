//! What the pipeline does for the sake of the agent's own budget: skips exchanges, sheds what waits, and starts afresh
//! after the probes were detached.
//!
//! Invariant: each exchange that was skipped is counted once, and its connection is entered in the ledger for that.

use super::{Pipeline, connection::Connection, proof::Proofs, report};
use crate::{
    budget::Skipped,
    flow::Nanos,
    http::head::{Exchange, Outcome},
    kernel::record::ConnectionKey,
    tls,
};
use agent_common::event::CoverageReason;

/// What was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shed {
    /// Bytes of connections that waited for earlier ones or for a secret.
    pub bytes: u64,
    /// Ended processes.
    pub processes: u64,
}

impl Pipeline {
    /// From now on so many exchanges of [`crate::budget::WHOLE`] are read. True if the answer to whether any are skipped
    /// has changed.
    pub fn set_share(&mut self, kept: u16) -> bool {
        let before = self.gate.is_open();
        self.gate.set(kept);
        self.gate.is_open() != before
    }

    /// Exchanges are skipped at present.
    pub fn skips(&self) -> bool {
        !self.gate.is_open()
    }

    /// What was skipped since the last call.
    pub fn take_skipped(&mut self) -> Option<Skipped> {
        self.gate.take()
    }

    /// Gives up what is cheap to give up: buffers that wait, and ended processes.
    pub fn shed(&mut self, now: Nanos) -> Shed {
        let before = self.settings.budget.used();
        let mut out = std::mem::take(&mut self.outputs);
        for key in self.keys() {
            if let Some(connection) = self.connections.peek_mut(&key) {
                connection.shed(now, &self.settings, &mut self.pool, &mut out);
            }
            self.handle(key, &mut out);
        }
        self.outputs = out;
        let shed = Shed {
            bytes: before.saturating_sub(self.settings.budget.used()) as u64,
            processes: self.processes.forget_ended() as u64,
        };
        self.counters.shed_bytes += shed.bytes;
        self.counters.shed_processes += shed.processes;
        shed
    }

    /// The probes are detached: what is open is given out as it is, and secrets go. Connections that live on are met
    /// anew when they are attached again.
    pub fn leave(&mut self, now: Nanos) {
        self.finish(now);
        self.pool = tls::Pool::new(tls::PoolLimits::default());
        self.waiting.clear();
        self.ended.clear();
        self.proofs = Proofs::default();
    }

    /// The probes are attached again; nothing of the time between is known. Takes in the processes that run now.
    ///
    /// # Errors
    /// If `/proc` cannot be listed.
    pub fn come_back(&mut self) -> std::io::Result<()> {
        self.processes.begin_anew()
    }

    /// Whether an exchange that came out is to be read.
    pub(super) fn affords(&mut self, key: ConnectionKey, exchange: &Exchange) -> bool {
        if self.gate.is_open() {
            return true;
        }
        let decided = self
            .connections
            .peek(&key)
            .is_some_and(|connection| connection.is_to_be_read());
        if decided || self.gate.passes() {
            return true;
        }
        self.count_skipped(key, exchange.request.time, |_| true);
        false
    }

    /// Bytes of a connection's exchange were left out, which counts with the first of them.
    pub(super) fn left_out(&mut self, key: ConnectionKey) {
        self.count_skipped(key, self.now, Connection::leaves_first_out);
    }

    fn count_skipped(
        &mut self,
        key: ConnectionKey,
        at: Nanos,
        counts: impl FnOnce(&mut Connection) -> bool,
    ) {
        let Some(connection) = self.connections.peek_mut(&key) else {
            return;
        };
        if !std::mem::replace(&mut connection.skipped, true) {
            let name = report::name(CoverageReason::Budget);
            *self.counters.unread.entry(name).or_default() += 1;
        }
        if counts(connection) {
            self.gate.count(at);
            self.counters.exchanges_skipped += 1;
        }
    }

    pub(super) fn keys(&self) -> Vec<ConnectionKey> {
        self.connections.iter().map(|(key, _)| *key).collect()
    }

    /// The agent stops, or leaves: everything that waits is given out.
    pub fn finish(&mut self, now: Nanos) {
        for key in self.keys() {
            self.close(key, now, Outcome::Unfinished);
        }
        self.list_attempts(now, true);
    }
}
