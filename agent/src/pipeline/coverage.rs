//! What was not read, and what was: coverage events, and the ledger's entries.
//!
//! Every reason of the stages below ends here as one of the contract's.
//!
//! Invariant: at most one coverage event per connection and reason.

use super::{Around, Connection, Demand, Pipeline, report};
use crate::kernel::points::Unattached;
use crate::{
    coverage::{Snapshot, Subject},
    flow::Nanos,
    http,
    identity::{Clock, Identity, ProcessTable},
    kernel::{
        points::Points,
        record::{Caller, ConnectionKey},
    },
    tls, usage,
};
use agent_common::event::{
    Body, Connections, Coverage, CoverageDetail, CoverageReason, CoverageScope, Network,
};
use std::collections::BTreeMap;

impl Pipeline {
    /// A connection has ended: into the ledger.
    pub(super) fn enter(&mut self, connection: &Connection) {
        let unread = connection.unread();
        if unread.is_some() {
            self.counters.connections_unread += 1;
        } else {
            self.counters.connections_read += 1;
        }
        if let Some(subject) = subject(connection, &mut self.processes, &self.points, &self.clock) {
            self.ledger.record(subject, unread);
        }
    }

    /// The ledger now, with the connections that are open. `scope` and `counters` are what the wiring outside knows.
    pub fn snapshot(
        &mut self,
        at: Nanos,
        scope: Vec<String>,
        counters: BTreeMap<String, u64>,
    ) -> Snapshot {
        let mut ledger = self.ledger.clone();
        for (_, connection) in &self.connections {
            let subject = subject(connection, &mut self.processes, &self.points, &self.clock);
            if let Some(subject) = subject {
                let unread = connection.unread();
                ledger.record_open(subject, connection.read, unread);
            }
        }
        Snapshot {
            from: self.clock.wall(self.began),
            to: self.clock.wall(at),
            scope,
            total: ledger.total(),
            rows: ledger.rows(),
            sinks: Vec::new(),
            searches: self.points.searches(),
            counters,
        }
    }

    /// What was read and what was not, of this run so far: one event in all, or also one by program and reason.
    pub fn summarise(&mut self, at: Nanos, by_program: bool) {
        let detail = |scope, connections, from| CoverageDetail {
            scope,
            reason: None,
            detail: None,
            protocol: None,
            library: None,
            connections,
            from,
            to: from,
        };
        let (from, to) = (self.clock.wall(self.began), self.clock.wall(at));
        let mut details = vec![detail(CoverageScope::Agent, self.ledger.total(), from)];
        if by_program {
            for (subject, counts) in self.ledger.subjects() {
                let whole = CoverageDetail {
                    detail: Some(subject.program.clone()),
                    protocol: Some(subject.protocol.to_owned()),
                    library: subject.library.map(str::to_owned),
                    ..detail(CoverageScope::Process, counts.connections(), from)
                };
                let by_reason = counts.unread.iter().map(|(reason, count)| CoverageDetail {
                    reason: Some(*reason),
                    connections: Connections {
                        seen: *count,
                        read: 0,
                        unread: *count,
                    },
                    ..whole.clone()
                });
                if counts.read > 0 {
                    let read = Connections {
                        seen: counts.read,
                        read: counts.read,
                        unread: 0,
                    };
                    details.push(CoverageDetail {
                        connections: read,
                        ..whole.clone()
                    });
                }
                details.extend(by_reason);
            }
        }
        for coverage in details {
            let coverage = Coverage {
                coverage: CoverageDetail { to, ..coverage },
                principal: None,
                network: None,
                tls: None,
            };
            self.emit(at, Body::Coverage(Box::new(coverage)));
        }
    }

    pub(super) fn http_unread(
        &mut self,
        key: ConnectionKey,
        reason: http::Reason,
        around: &Around,
    ) {
        let tls = around.tls.as_deref();
        let detail = report::http_detail(reason);
        let reason = match reason {
            http::Reason::OpaqueProtocol => CoverageReason::NotHttp,
            http::Reason::FieldsUnresolved => CoverageReason::FieldsUnresolved,
            http::Reason::HeadTooLong
            | http::Reason::TooManyFields
            | http::Reason::TooManyOutstanding
            | http::Reason::OverLimit => CoverageReason::Limit,
            http::Reason::Malformed | http::Reason::HeadIncomplete => {
                self.counters.heads_malformed += 1;
                CoverageReason::NotHttp
            }
            http::Reason::RequestLost
            | http::Reason::ResponseWithoutRequest
            | http::Reason::FramingLost => {
                self.counters.heads_lost += 1;
                CoverageReason::BytesLost
            }
        };
        self.unread(key, reason, tls, Some((detail.to_owned(), None)));
    }

    pub(super) fn tls_unread(
        &mut self,
        key: ConnectionKey,
        reason: tls::Reason,
        facts: &tls::Facts,
    ) {
        let Some(connection) = self.connections.peek(&key) else {
            return;
        };
        let libraries: Vec<_> = connection
            .processes
            .iter()
            .flat_map(|process| self.points.of_process(*process))
            .collect();
        let first = connection.first;
        let late = libraries
            .iter()
            .any(|mapped| mapped.attached.is_some_and(|since| since > first));
        let readable = libraries.iter().any(|mapped| mapped.attached.is_some());
        let known = libraries.first().map(|mapped| mapped.library.name());
        let copied = libraries
            .iter()
            .any(|mapped| mapped.why == Some(Unattached::TextCopied));
        let refused = libraries.iter().find_map(|mapped| mapped.why);
        // A process whose points were attached meanwhile gives secrets, too, but of later handshakes.
        let points = &self.points;
        let in_time = |point| {
            let attached = points.get(point);
            attached.is_none_or(|attached| attached.since <= first)
        };
        let secrets = connection
            .processes
            .iter()
            .any(|process| self.proofs.gave_secrets(*process, in_time));
        let coverage = match reason {
            tls::Reason::OpenedBeforeAgent => CoverageReason::OpenedBefore,
            tls::Reason::NoSecret | tls::Reason::TrialsExhausted | tls::Reason::Overflow => {
                if secrets {
                    CoverageReason::SecretUnproven
                } else if copied {
                    CoverageReason::TextCopied
                } else if refused == Some(Unattached::NoBreakpoint) {
                    // Some of its points may be attached, in time or not: the secret may have passed at one that is not.
                    CoverageReason::BreakpointsTaken
                } else if late {
                    CoverageReason::AttachedLate
                } else if let Some(why) = refused.and_then(unattached) {
                    // Some of its points may be attached: the secret passed at one that is not.
                    why
                } else if !self.knows_all(connection) {
                    CoverageReason::NotSearched
                } else if readable {
                    CoverageReason::NoSecret
                } else if known.is_some() {
                    CoverageReason::LibraryUnsupported
                } else {
                    CoverageReason::NoKeyLogPoint
                }
            }
            tls::Reason::SuiteUnsupported(_) => CoverageReason::CipherUnsupported,
            tls::Reason::VersionUnsupported(_) => CoverageReason::VersionUnsupported,
            tls::Reason::EarlyData => CoverageReason::EarlyData,
            tls::Reason::LostRecords => CoverageReason::BytesLost,
            tls::Reason::Incomplete
            | tls::Reason::HandshakeFailed(_)
            | tls::Reason::Renegotiation
            | tls::Reason::Malformed(_) => CoverageReason::HandshakeMalformed,
        };
        // Other reasons say nothing about where the secrets came from.
        if coverage == CoverageReason::SecretUnproven {
            for point in self.proofs.failed(&connection.processes, in_time) {
                self.demands.push(Demand::DropPoint(point));
            }
        }
        let detail = match (coverage, refused) {
            (CoverageReason::AttachRefused, Some(why)) => why.text().to_owned(),
            _ => reason.to_string(),
        };
        self.unread(key, coverage, Some(facts), Some((detail, known)));
    }

    /// A coverage event of a connection, at most one for each reason.
    pub(super) fn unread(
        &mut self,
        key: ConnectionKey,
        reason: CoverageReason,
        tls: Option<&tls::Facts>,
        detail: Option<(String, Option<&'static str>)>,
    ) {
        let Some(connection) = self.connections.peek_mut(&key) else {
            return;
        };
        if connection.reported.contains(&reason) {
            return;
        }
        connection.reported.push(reason);
        let caller = connection.last_caller().cloned();
        let network = usage::network(&connection.endpoints, None);
        let span = (connection.first, connection.last);
        self.count_unread(reason);
        let Some(caller) = caller else {
            return;
        };
        let identity = self.processes.resolve(&caller, span.1, &self.clock);
        let (detail, library) = detail.unzip();
        let protocol = match (reason, tls.is_some()) {
            (CoverageReason::FieldsUnresolved, _) => Some("h2"),
            (CoverageReason::NotHttp, false) => None,
            (_, true) => Some("tls"),
            (_, false) => Some("http"),
        };
        let unread = Unread {
            reason,
            detail,
            protocol,
            library: library.flatten(),
            tls,
        };
        self.push_unread(unread, identity, network, span);
    }

    pub(super) fn count_unread(&mut self, reason: CoverageReason) {
        let name = report::name(reason);
        *self.counters.unread.entry(name).or_default() += 1;
    }

    /// The event of one connection that is not read, seen from the first to the second time of `span`.
    pub(super) fn push_unread(
        &mut self,
        unread: Unread,
        identity: Identity,
        network: Network,
        span: (Nanos, Nanos),
    ) {
        let (from, to) = (self.clock.wall(span.0), self.clock.wall(span.1));
        let body = Body::Coverage(Box::new(Coverage {
            coverage: CoverageDetail {
                scope: CoverageScope::Connection,
                reason: Some(unread.reason),
                detail: unread.detail,
                protocol: unread.protocol.map(str::to_owned),
                library: unread.library.map(str::to_owned),
                connections: Connections {
                    seen: 1,
                    read: 0,
                    unread: 1,
                },
                from,
                to,
            },
            principal: Some(identity.principal),
            network: Some(network),
            tls: unread.tls.map(usage::tls),
        }));
        self.emit(span.1, body);
        self.counters.coverage_events += 1;
    }
}

/// What a coverage event says of a connection.
pub(super) struct Unread<'a> {
    pub reason: CoverageReason,
    pub detail: Option<String>,
    pub protocol: Option<&'static str>,
    pub library: Option<&'static str>,
    pub tls: Option<&'a tls::Facts>,
}

/// The executable's path, or the process's name where that is not known.
pub(super) fn program(identity: &Identity, caller: &Caller) -> String {
    let executable = identity.principal.process.executable.path.clone();
    executable.unwrap_or_else(|| caller.comm.clone())
}

/// Why a point that is known was not attached, where that is the reason.
fn unattached(why: Unattached) -> Option<CoverageReason> {
    match why {
        Unattached::NoBreakpoint => Some(CoverageReason::BreakpointsTaken),
        Unattached::Limit => Some(CoverageReason::AttachLimit),
        Unattached::Descriptors => Some(CoverageReason::DescriptorsExhausted),
        Unattached::Ended => Some(CoverageReason::AttachedLate),
        Unattached::Unsearched => Some(CoverageReason::NotSearched),
        Unattached::Refused
        | Unattached::Written
        | Unattached::NoLease
        | Unattached::Executable => Some(CoverageReason::AttachRefused),
        Unattached::TextCopied => Some(CoverageReason::TextCopied),
        Unattached::Dropped => None,
    }
}

/// Whose connection it is, for the ledger. Nobody's, if no record told who used it.
fn subject(
    connection: &Connection,
    processes: &mut ProcessTable,
    points: &Points,
    clock: &Clock,
) -> Option<Subject> {
    let caller = connection.last_caller()?;
    let identity = processes.resolve(caller, connection.last, clock);
    let protocol = match (connection.tls, connection.read) {
        (true, _) => "tls",
        (false, true) => "http",
        (false, false) => "other",
    };
    // Of several that a process has mapped, nothing says which one an unread connection used.
    let only = || {
        let mapped = points.of_process(caller.process);
        let mut names = mapped.iter().map(|mapped| mapped.library.name());
        let first = names.next()?;
        names.all(|name| name == first).then_some(first)
    };
    let library = match connection.tls {
        true => connection.library.or_else(only),
        false => None,
    };
    Some(Subject {
        program: program(&identity, caller),
        protocol,
        library,
    })
}
