//! TLS connections that were open before the agent: who is asked for their plaintext, when nobody is any more, and
//! where none came.
//!
//! Invariant: every process that was asked for a connection is told when it is over.
//! Invariant: such a connection gives events, or one coverage event that says why not, or both.

use super::{Connection, Demand, Pipeline, bridged::Late};
use crate::{
    flow::Nanos,
    kernel::{
        points::Mapped,
        record::{ConnectionKey, Endpoints, Plaintext, ProcessKey},
    },
    tls,
};

/// A connection that was open before, and of which no TLS has come for so long, is not waited for: it carries something
/// else, or its records' heads are yet to come (in a long download), and the probes are asked for anew.
const OTHER: Nanos = 1_000_000_000;

impl Pipeline {
    /// Plaintext that a TLS library gave or took.
    pub(super) fn plain(&mut self, plain: Plaintext) {
        self.now = self.now.max(plain.time);
        let key = plain.connection;
        let mut out = std::mem::take(&mut self.outputs);
        match self.connections.get_mut(&key) {
            Some(connection) if connection.before || connection.late.is_some() => {
                connection.plain(plain, &self.settings, &mut self.pool, &mut out);
            }
            // Its records were lost, it carries something else, or it has ended.
            _ => self.counters.bridge_ignored += 1,
        }
        self.handle(key, &mut out);
        self.outputs = out;
    }

    /// No more plaintext comes.
    pub(super) fn untied(&mut self, key: ConnectionKey) {
        if let Some(late) = self
            .connections
            .peek_mut(&key)
            .and_then(|connection| connection.late.as_mut())
        {
            late.untied = true;
            self.demands.extend(over(key, &late.give_up()));
            self.without_plaintext(key);
        }
    }

    /// The records of a connection belong to a handshake that nobody saw.
    pub(super) fn opened_before(&mut self, key: ConnectionKey, facts: Box<tls::Facts>) {
        let Some(connection) = self.connections.peek_mut(&key) else {
            return;
        };
        let tcp = matches!(connection.endpoints, Endpoints::Tcp { .. });
        if connection.late.is_some() || connection.from_start || connection.read || !tcp {
            // TLS within the plaintext, in a tunnel, or nothing that the probes would tie.
            return self.tls_unread(key, tls::Reason::OpenedBeforeAgent, &facts);
        }
        connection.is_late(Late::new(connection.last, facts));
        for process in connection.processes.clone() {
            self.ask_for_bridge(key, process);
        }
    }

    /// This process uses the connection.
    pub(super) fn ask_for_bridge(&mut self, key: ConnectionKey, process: ProcessKey) {
        if let Some(connection) = self.connections.peek_mut(&key)
            && connection.processes.contains(&process)
            && let Some(late) = &mut connection.late
        {
            connection.before = false;
            if late.asks(process) {
                let socket = key.inode;
                self.demands.push(Demand::Bridge { process, socket });
            }
        }
    }

    /// Time passes.
    pub(super) fn look_at_bridge(&mut self, key: ConnectionKey, now: Nanos) {
        let Some(connection) = self.connections.peek_mut(&key) else {
            return;
        };
        if connection.before && (connection.read || now.saturating_sub(connection.first) > OTHER) {
            connection.before = false;
            connection.bridged = None;
            self.demands.extend(over(key, &connection.processes));
        }
        let hopeless = connection
            .late
            .as_ref()
            .is_some_and(|late| late.is_hopeless(connection.last, now));
        if let (true, None, Some(late)) = (hopeless, &connection.bridged, &mut connection.late) {
            self.demands.extend(over(key, &late.give_up()));
            self.without_plaintext(key);
        }
    }

    /// The connection ends.
    pub(super) fn end_bridge(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.peek_mut(&key) else {
            return;
        };
        match &mut connection.late {
            Some(late) => {
                self.demands.extend(over(key, &late.give_up()));
                match connection.bridged {
                    Some(_) => self.counters.bridged += 1,
                    None => self.without_plaintext(key),
                }
            }
            None if connection.before => self.demands.extend(over(key, &connection.processes)),
            None => {}
        }
    }

    fn without_plaintext(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.peek(&key) else {
            return;
        };
        let Some(late) = &connection.late else {
            return;
        };
        let (reason, detail) = late.reason();
        let facts = std::sync::Arc::clone(&late.facts);
        let processes = connection.processes.iter();
        let mut libraries = processes.flat_map(|process| self.points.of_process(*process));
        let library = libraries.next().map(|mapped| mapped.library.name());
        self.unread(
            key,
            reason,
            Some(&facts),
            Some((detail.to_owned(), library)),
        );
    }

    /// The library that gave a connection's plaintext, if its process has only one of that kind.
    pub(super) fn library_of(&self, connection: &Connection) -> Option<Mapped> {
        let gnutls = connection.bridged.as_ref()?.gnutls;
        let process = connection.last_caller()?.process;
        let mut fitting = self
            .points
            .of_process(process)
            .into_iter()
            .filter(|mapped| match mapped.library.name() {
                "gnutls" => gnutls,
                "openssl" | "boringssl" | "unknown" => !gnutls,
                _ => false,
            });
        let first = fitting.next()?;
        fitting.next().is_none().then_some(first)
    }
}

fn over(key: ConnectionKey, processes: &[ProcessKey]) -> impl Iterator<Item = Demand> {
    processes.iter().map(move |process| Demand::BridgeOver {
        process: *process,
        socket: key.inode,
    })
}
