//! The only place that wires the stages: ring records in, events out.
//!
//! One thread drives it. The ring before it and the queue behind it are bounded; inside, connections, bytes and secrets
//! are. Everything that is not read ends in a coverage or loss event.
//!
//! Invariant: credentials parsed = usage events + losses; checked at the end ([`Counters::sums`]).
//! Invariant: at most one coverage event per connection and reason.

mod connection;
#[doc(hidden)]
pub mod fuzz;
mod layers;
mod proof;
mod report;
pub(crate) mod synthetic;
#[cfg(test)]
mod tests;

use crate::{
    coverage::{Ledger, Snapshot, Subject},
    credential::Observer,
    flow::{Budget, FlowLimits, Nanos},
    http::{
        h1,
        head::{Exchange, Outcome},
    },
    identity::{Clock, ProcessTable},
    kernel::{
        self,
        points::Points,
        record::{
            Chunk, ConnectionKey, Datagram, FileId, PointId, ProcessKey, ProcessRecord, Record,
            SecretRecord,
        },
    },
    tls,
    usage::{self, Facts},
};
use agent_common::event::{
    Body, Connections, Coverage, CoverageDetail, CoverageReason, CoverageScope, Envelope, Hook,
};
use connection::Connection;
use layers::{Around, Output, Settings};
use lru::LruCache;
use proof::Proofs;
pub use report::{Counters, Numbering};
use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroUsize,
};
use tracing::trace;

/// Bounds, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: NonZeroUsize,
    pub total_bytes: usize,
    pub flow: FlowLimits,
    pub http: h1::Limits,
    pub tls: tls::SessionLimits,
    /// How long a request waits for its response.
    pub response_wait: Nanos,
}

/// What the pipeline asks of the outside.
pub enum Demand {
    /// Look for key-log points in what this process has mapped.
    LookAt {
        process: ProcessKey,
        /// What it runs, for when it is gone before it is looked at.
        executable: FileId,
        filename: String,
    },
    /// Look again: it speaks TLS, and no TLS library of it is known. What other processes have mapped before is not
    /// reported anew when this one maps it.
    LookAgain(ProcessKey),
    /// This point gives secrets that open nothing.
    DropPoint(PointId),
}

/// Everything between ring and sinks; see the module.
pub struct Pipeline {
    connections: LruCache<ConnectionKey, Connection>,
    /// Connections whose records wait for a secret, by process.
    waiting: LruCache<ProcessKey, Vec<ConnectionKey>>,
    settings: Settings,
    limits: Limits,
    pool: tls::Pool,
    observer: Observer,
    processes: ProcessTable,
    points: Points,
    clock: Clock,
    hook: Hook,
    numbering: Numbering,
    proofs: Proofs,
    counters: Counters,
    ledger: Ledger,
    /// Processes that have ended; their secrets follow.
    ended: VecDeque<(Nanos, ProcessKey)>,
    outputs: Vec<Output>,
    events: Vec<Envelope>,
    demands: Vec<Demand>,
    now: Nanos,
    /// When this run began.
    began: Nanos,
}

/// How long a closed connection waits for the look at its processes' files.
const LOOK: Nanos = 5_000_000_000;

/// Secrets outlive their process by this: its last records may still be on their way.
const LINGER: Nanos = 1_000_000_000;

/// Programs that the ledger keeps apart.
const PROGRAMS: usize = 4_096;

/// Most connections that wait for one process's secrets.
const WAITING: usize = 4_096;
/// Most processes whose connections wait: a lost exit record must not keep one for ever.
const WAITING_PROCESSES: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

impl Pipeline {
    pub fn new(
        limits: Limits,
        observer: Observer,
        processes: ProcessTable,
        points: Points,
        clock: Clock,
        hook: Hook,
        numbering: Numbering,
    ) -> Self {
        let budget = Budget::new(limits.total_bytes);
        Self {
            connections: LruCache::new(limits.connections),
            waiting: LruCache::new(WAITING_PROCESSES),
            settings: Settings {
                http: limits.http,
                tls: limits.tls,
                budget,
            },
            limits,
            pool: tls::Pool::new(tls::PoolLimits::default()),
            observer,
            processes,
            points,
            clock,
            hook,
            numbering,
            proofs: Proofs::default(),
            counters: Counters::default(),
            ledger: Ledger::new(PROGRAMS),
            ended: VecDeque::new(),
            outputs: Vec::new(),
            events: Vec::new(),
            demands: Vec::new(),
            now: 0,
            began: kernel::decode::now(),
        }
    }

    /// Takes other bounds, for connections that are met from now on, and another observer. How many connections are
    /// kept, and how many bytes of all together, stays.
    pub fn reconfigure(&mut self, limits: Limits, observer: Observer) {
        self.settings.http = limits.http;
        self.settings.tls = limits.tls;
        self.limits = Limits {
            connections: self.limits.connections,
            total_bytes: self.limits.total_bytes,
            ..limits
        };
        self.observer = observer;
    }

    /// Takes one record of the ring.
    pub fn record(&mut self, record: Record) {
        match record {
            Record::Chunk(chunk) => self.chunk(chunk),
            Record::Closed(closed) => self.close(closed.connection, closed.time, Outcome::Closed),
            Record::Secret(secret) => self.secret(secret),
            Record::Process(record) => self.process(&record),
            Record::Datagram(datagram) => self.datagram(&datagram),
        }
    }

    /// Time passes. Call it some times a second.
    pub fn tick(&mut self, now: Nanos) {
        self.now = now;
        self.clock.now();
        self.pool.expire(now);
        while let Some((time, process)) = self.ended.front().copied()
            && now.saturating_sub(time) > LINGER
        {
            self.ended.pop_front();
            self.pool.forget(process);
            self.waiting.pop(&process);
        }
        let mut out = std::mem::take(&mut self.outputs);
        let keys: Vec<ConnectionKey> = self.connections.iter().map(|(key, _)| *key).collect();
        let mut closed = Vec::new();
        for key in keys {
            let Some(connection) = self.connections.peek_mut(&key) else {
                continue;
            };
            connection.tick(
                now,
                self.limits.response_wait,
                &self.settings,
                &mut self.pool,
                &mut out,
            );
            if connection.closed.is_some() {
                closed.push(key);
            }
            self.handle(key, &mut out);
        }
        self.outputs = out;
        for key in closed {
            self.close(key, now, Outcome::Closed);
        }
    }

    /// The agent stops: everything that waits is given out.
    pub fn finish(&mut self, now: Nanos) {
        let keys: Vec<ConnectionKey> = self.connections.iter().map(|(key, _)| *key).collect();
        for key in keys {
            self.close(key, now, Outcome::Unfinished);
        }
    }

    /// Events made so far, in order.
    pub fn take_events(&mut self) -> Vec<Envelope> {
        std::mem::take(&mut self.events)
    }

    pub fn take_demands(&mut self) -> Vec<Demand> {
        std::mem::take(&mut self.demands)
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn pool_counts(&self) -> tls::PoolCounts {
        self.pool.counts()
    }

    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// An event that the wiring outside has to report (audit, losses in the kernel).
    pub fn emit(&mut self, at: Nanos, body: Body) {
        let time = self.clock.wall(at);
        let observed = self.clock.now().1;
        self.events
            .push(self.numbering.envelope(time, observed, body));
    }

    pub fn wall(&self, at: Nanos) -> agent_common::event::Time {
        self.clock.wall(at)
    }

    fn chunk(&mut self, chunk: Chunk) {
        self.now = self.now.max(chunk.time);
        let key = chunk.connection;
        let known = self.connections.peek(&key);
        if known.is_some_and(|connection| connection.is_followed_by(&chunk)) {
            self.end(key, chunk.time, Outcome::Closed);
        }
        if self.connections.peek(&key).is_none() {
            if self.connections.len() == self.limits.connections.get()
                && let Some((oldest, _)) = self.connections.peek_lru()
            {
                let oldest = *oldest;
                self.counters.connections_evicted += 1;
                self.unread(oldest, CoverageReason::Limit, None, None);
                self.close(oldest, chunk.time, Outcome::Unfinished);
            }
            self.counters.connections += 1;
            let connection = Connection::new(&chunk, self.limits.flow, &self.settings);
            self.connections.put(key, connection);
        }
        let process = chunk.caller.process;
        trace!(
            ?key,
            comm = chunk.caller.comm,
            offset = chunk.offset,
            len = chunk.bytes.len(),
            "chunk"
        );
        let mut out = std::mem::take(&mut self.outputs);
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.push(chunk, &self.settings, &mut self.pool, &mut out);
            if connection.wants_secret() && connection.may_wait_for(process) {
                let waiting = self.waiting.get_or_insert_mut(process, Vec::new);
                if waiting.len() < WAITING {
                    waiting.push(key);
                    connection.waits_for.push(process);
                    if self.points.of_process(process).is_empty() {
                        self.demands.push(Demand::LookAgain(process));
                    }
                }
            }
        }
        self.handle(key, &mut out);
        self.outputs = out;
    }

    /// A UDP socket that speaks QUIC, as it seems, is not read: listed once.
    fn datagram(&mut self, datagram: &Datagram) {
        let Datagram {
            time,
            endpoints,
            caller,
        } = datagram;
        self.now = self.now.max(*time);
        self.counters.connections += 1;
        self.counters.connections_unread += 1;
        let reason = CoverageReason::Quic;
        *self
            .counters
            .unread
            .entry(report::name(reason))
            .or_default() += 1;
        let identity = self.processes.resolve(caller, *time, &self.clock);
        let executable = identity.principal.process.executable.path.clone();
        let subject = Subject {
            program: executable.unwrap_or_else(|| caller.comm.clone()),
            protocol: "quic",
            library: None,
        };
        self.ledger.record(subject, Some(reason));
        let at = self.clock.wall(*time);
        let body = Body::Coverage(Box::new(Coverage {
            coverage: CoverageDetail {
                scope: CoverageScope::Connection,
                reason: Some(reason),
                detail: None,
                protocol: Some("quic".to_owned()),
                library: None,
                connections: Connections {
                    seen: 1,
                    read: 0,
                    unread: 1,
                },
                from: at,
                to: at,
            },
            principal: Some(identity.principal),
            network: Some(usage::network(endpoints, None)),
            tls: None,
        }));
        let now = self.clock.now().1;
        self.events.push(self.numbering.envelope(at, now, body));
        self.counters.coverage_events += 1;
    }

    fn secret(&mut self, record: SecretRecord) {
        self.now = self.now.max(record.time);
        let (process, time) = (record.caller.process, record.time);
        self.counters.secrets += 1;
        trace!(pid = process.pid, label = record.label, "secret");
        self.proofs.hit(process, record.point);
        let mut kept = false;
        for record in labelled(record) {
            // A duplicate may be news: a resumed connection logs its secret again.
            kept |= !matches!(self.pool.insert(record), tls::Inserted::Ignored);
        }
        if !kept {
            return;
        }
        let Some(waiting) = self.waiting.get_mut(&process) else {
            return;
        };
        let keys = std::mem::take(waiting);
        let mut still = Vec::new();
        let mut out = std::mem::take(&mut self.outputs);
        for key in keys {
            let Some(connection) = self.connections.peek_mut(&key) else {
                continue;
            };
            connection.offer(time, &self.settings, &mut self.pool, &mut out);
            if connection.wants_secret() {
                still.push(key);
            } else {
                connection.waits_for.retain(|other| *other != process);
            }
            self.handle(key, &mut out);
        }
        self.outputs = out;
        if still.is_empty() {
            self.waiting.pop(&process);
        } else {
            self.waiting.put(process, still);
        }
    }

    fn process(&mut self, record: &ProcessRecord) {
        self.processes.apply(record);
        match record {
            ProcessRecord::Exec {
                caller,
                executable,
                filename,
                ..
            } => self.demands.push(Demand::LookAt {
                process: caller.process,
                executable: *executable,
                filename: filename.clone(),
            }),
            ProcessRecord::Exit { time, process } => self.ended.push_back((*time, *process)),
            ProcessRecord::Fork { .. } => {}
        }
    }

    /// Why a connection was not read is known only when its processes' files were looked at.
    fn must_wait(&self, connection: &Connection, now: Nanos) -> bool {
        let since = connection.closed.unwrap_or(now);
        now.saturating_sub(since) < LOOK
            && connection.wants_secret()
            && !connection
                .processes
                .iter()
                .all(|process| self.points.knows(*process))
    }

    fn close(&mut self, key: ConnectionKey, now: Nanos, outcome: Outcome) {
        if let Some(connection) = self.connections.peek(&key)
            && outcome == Outcome::Closed
            && self.must_wait(connection, now)
        {
            if let Some(connection) = self.connections.peek_mut(&key) {
                connection.closed.get_or_insert(now);
            }
            return;
        }
        self.end(key, now, outcome);
    }

    fn end(&mut self, key: ConnectionKey, now: Nanos, outcome: Outcome) {
        let mut out = std::mem::take(&mut self.outputs);
        if let Some(connection) = self.connections.peek_mut(&key) {
            // Also where it is the agent's end that ends the waiting.
            let outcome = match connection.closed {
                Some(_) => Outcome::Closed,
                None => outcome,
            };
            connection.finish(now, outcome, &self.settings, &mut self.pool, &mut out);
        }
        self.handle(key, &mut out);
        self.outputs = out;
        if let Some(connection) = self.connections.pop(&key) {
            let counters = &mut self.counters;
            // Positions are what the kernel says: a wrong one must not stop the agent.
            counters.bytes_unseen = counters.bytes_unseen.saturating_add(connection.unseen());
            counters.bytes_left_out = counters
                .bytes_left_out
                .saturating_add(connection.left_out());
            self.enter(&connection);
        }
    }

    /// A connection has ended: into the ledger.
    fn enter(&mut self, connection: &Connection) {
        let unread = connection.reported.first().copied();
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
                let unread = connection.reported.first().copied();
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

    fn handle(&mut self, key: ConnectionKey, out: &mut Vec<Output>) {
        for output in out.drain(..) {
            match output {
                Output::Exchange(exchange, around) => self.exchange(key, &exchange, &around),
                Output::Proved(point) => {
                    self.proofs.proved(point, &self.points);
                    let library = self.points.get(point).map(|point| point.library.name());
                    if let Some(connection) = self.connections.peek_mut(&key) {
                        connection.library = library;
                    }
                }
                Output::Switched => self.counters.switched += 1,
                Output::HttpUnread(reason, around) => self.http_unread(key, reason, &around),
                Output::TlsUnread(reason, facts) => self.tls_unread(key, reason, &facts),
                Output::TlsClosed(facts) => {
                    if let Some(connection) = self.connections.peek_mut(&key) {
                        connection.tls = true;
                    }
                    self.counters.tls += 1;
                    self.counters.tls_opened += u64::from(facts.proven);
                }
            }
        }
    }

    fn exchange(&mut self, key: ConnectionKey, exchange: &Exchange, around: &Around) {
        self.counters.exchanges += 1;
        if exchange.outcome == Outcome::ResponseLost {
            self.counters.responses_lost += 1;
        }
        let Some(connection) = self.connections.peek_mut(&key) else {
            return;
        };
        connection.read = true;
        connection.tls |= around.tls.is_some();
        let started = exchange.request.time;
        let time = self.clock.wall(started);
        let seconds = i64::try_from(time.unix_nanos() / 1_000_000_000).unwrap_or(0);
        let observed = self.observer.observe(exchange, seconds);
        if observed.observations.is_empty() {
            self.counters.exchanges_without_credential += 1;
            return;
        }
        self.counters.credentials += observed.observations.len() as u64;
        let direction = exchange.request_direction;
        let offset = exchange.request.origin.wire;
        let Some(caller) = connection.caller_at(direction, offset).cloned() else {
            self.counters.credentials_lost += observed.observations.len() as u64;
            return;
        };
        let identity = self.processes.resolve(&caller, started, &self.clock);
        let facts = Facts {
            endpoints: &connection.endpoints,
            connection: key,
            sequence: connection.sequence_at(direction, offset),
            caller: &caller,
            identity: &identity,
            tls: around.tls.as_deref(),
            library: around.point.and_then(|point| self.points.get(point)),
            hook: self.hook,
        };
        for usage in usage::build(exchange, observed, &facts) {
            match usage {
                Ok(usage) => {
                    let now = self.clock.reading();
                    self.events.push(self.numbering.envelope(
                        time,
                        now,
                        Body::Usage(Box::new(usage)),
                    ));
                    self.counters.usage_events += 1;
                }
                Err(_) => self.counters.credentials_lost += 1,
            }
        }
    }

    fn http_unread(&mut self, key: ConnectionKey, reason: h1::Reason, around: &Around) {
        let tls = around.tls.as_deref();
        let detail = report::http_detail(reason);
        let reason = match reason {
            h1::Reason::OpaqueProtocol => CoverageReason::NotHttp,
            h1::Reason::Http2 => CoverageReason::Http2,
            h1::Reason::HeadTooLong
            | h1::Reason::TooManyFields
            | h1::Reason::TooManyOutstanding
            | h1::Reason::OverLimit => CoverageReason::Limit,
            h1::Reason::Malformed | h1::Reason::HeadIncomplete => {
                self.counters.heads_malformed += 1;
                CoverageReason::NotHttp
            }
            h1::Reason::RequestLost
            | h1::Reason::ResponseWithoutRequest
            | h1::Reason::FramingLost => {
                self.counters.heads_lost += 1;
                CoverageReason::BytesLost
            }
        };
        self.unread(key, reason, tls, Some((detail.to_owned(), None)));
    }

    fn tls_unread(&mut self, key: ConnectionKey, reason: tls::Reason, facts: &tls::Facts) {
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
        let secrets = connection
            .processes
            .iter()
            .any(|process| self.proofs.gave_secrets(*process));
        let coverage = match reason {
            tls::Reason::OpenedBeforeAgent => CoverageReason::OpenedBefore,
            tls::Reason::NoSecret | tls::Reason::TrialsExhausted | tls::Reason::Overflow => {
                if secrets {
                    CoverageReason::SecretUnproven
                } else if late {
                    CoverageReason::AttachedLate
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
            for point in self.proofs.failed(&connection.processes) {
                self.demands.push(Demand::DropPoint(point));
            }
        }
        let detail = reason.to_string();
        self.unread(key, coverage, Some(facts), Some((detail, known)));
    }

    /// A coverage event of a connection, at most one for each reason.
    fn unread(
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
        let name = report::name(reason);
        *self.counters.unread.entry(name).or_default() += 1;
        let Some(caller) = connection.last_caller().cloned() else {
            return;
        };
        let identity = self
            .processes
            .resolve(&caller, connection.last, &self.clock);
        let (detail, library) = detail.unzip();
        let protocol = match (reason, tls.is_some()) {
            (CoverageReason::Http2, _) => Some("h2"),
            (CoverageReason::NotHttp, false) => None,
            (_, true) => Some("tls"),
            (_, false) => Some("http"),
        };
        let body = Body::Coverage(Box::new(Coverage {
            coverage: CoverageDetail {
                scope: CoverageScope::Connection,
                reason: Some(reason),
                detail,
                protocol: protocol.map(str::to_owned),
                library: library.flatten().map(str::to_owned),
                connections: Connections {
                    seen: 1,
                    read: 0,
                    unread: 1,
                },
                from: self.clock.wall(connection.first),
                to: self.clock.wall(connection.last),
            },
            principal: Some(identity.principal),
            network: Some(usage::network(&connection.endpoints, None)),
            tls: tls.map(usage::tls),
        }));
        let (at, now) = (self.clock.wall(connection.last), self.clock.now().1);
        self.events.push(self.numbering.envelope(at, now, body));
        self.counters.coverage_events += 1;
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
    let executable = identity.principal.process.executable.path.clone();
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
        program: executable.unwrap_or_else(|| caller.comm.clone()),
        protocol,
        library,
    })
}

/// The fallback does not tell which secret it gives: it is offered as each of those that it may be.
fn labelled(record: SecretRecord) -> Vec<SecretRecord> {
    const TRAFFIC: [tls::Label; 4] = [
        tls::Label::ClientHandshake,
        tls::Label::ServerHandshake,
        tls::Label::ClientApplication,
        tls::Label::ServerApplication,
    ];
    if record.label != "KDF" {
        return vec![record];
    }
    TRAFFIC
        .iter()
        .map(|label| SecretRecord {
            time: record.time,
            caller: record.caller.clone(),
            point: record.point,
            label: label.name().to_owned(),
            secret: record.secret.clone(),
            client_random: record.client_random,
        })
        .collect()
}
