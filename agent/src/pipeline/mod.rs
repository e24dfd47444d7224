//! The only place that wires the stages: ring records in, events out.
//!
//! One thread drives it. The ring before it and the queue behind it are bounded; inside, connections, bytes and secrets
//! are. Everything that is not read ends in a coverage or loss event.
//!
//! Invariant: credentials parsed = usage events + losses; checked at the end ([`Counters::sums`]).

mod afford;
#[cfg(test)]
mod afford_tests;
mod bridged;
mod connection;
mod coverage;
#[doc(hidden)]
pub mod fuzz;
mod kernel_tls;
mod late;
#[cfg(test)]
mod late_tests;
mod layers;
mod proof;
mod quic;
mod report;
pub(crate) mod synthetic;
#[cfg(test)]
mod tests;

use crate::{
    budget::Gate,
    coverage::Ledger,
    credential::Observer,
    flow::{Budget, FlowLimits, Nanos},
    http::{
        self,
        head::{Exchange, Outcome},
    },
    identity::{Clock, ProcessTable},
    kernel::{
        self,
        points::Points,
        record::{Chunk, ConnectionKey, PointId, ProcessKey, ProcessRecord, Record, SecretRecord},
    },
    tls,
    usage::{self, Facts},
};
pub use afford::Shed;
use agent_common::event::{Body, CoverageReason, Envelope, Hook};
use connection::Connection;
use layers::{Around, Output, Settings};
use lru::LruCache;
use proof::Proofs;
pub use report::{Counters, Numbering};
use std::{collections::VecDeque, num::NonZeroUsize};
use tracing::trace;

/// Bounds, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: NonZeroUsize,
    pub total_bytes: usize,
    pub flow: FlowLimits,
    pub http: http::Limits,
    pub tls: tls::SessionLimits,
    /// How long a request waits for its response.
    pub response_wait: Nanos,
}

/// What the pipeline asks of the outside.
pub enum Demand {
    /// Look for key-log points in what this process has mapped: it speaks TLS, and no TLS library of it is known.
    Look(ProcessKey),
    /// TLS whose begin was not seen passes through this socket (its inode number) of the process.
    Bridge { process: ProcessKey, socket: u64 },
    /// It does not, or not any more.
    BridgeOver { process: ProcessKey, socket: u64 },
    /// Messages of this connection do not wait for one another: more than the begin of each turn matters.
    Multiplexed(ConnectionKey),
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
    gate: Gate,
    pool: tls::Pool,
    observer: Observer,
    processes: ProcessTable,
    points: Points,
    clock: Clock,
    hook: Hook,
    numbering: Numbering,
    proofs: Proofs,
    quic: quic::Quic,
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
            gate: Gate::default(),
            pool: tls::Pool::new(tls::PoolLimits::default()),
            observer,
            processes,
            points,
            clock,
            hook,
            numbering,
            proofs: Proofs::default(),
            quic: quic::Quic::default(),
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
            Record::Plaintext(plain) => self.plain(plain),
            Record::Untied(untied) => self.untied(untied.connection),
            Record::Closed(closed) => self.close(closed.connection, closed.time, Outcome::Closed),
            Record::Secret(secret) => self.secret(secret),
            Record::Process(record) => self.process(&record),
            Record::Datagram(datagram) => self.datagram(datagram),
        }
    }

    /// Time passes. Call it some times a second.
    pub fn tick(&mut self, now: Nanos) {
        self.now = now;
        self.clock.now();
        self.pool.expire(now);
        self.list_attempts(now, false);
        while let Some((time, process)) = self.ended.front().copied()
            && now.saturating_sub(time) > LINGER
        {
            self.ended.pop_front();
            self.pool.forget(process);
            self.waiting.pop(&process);
        }
        let mut out = std::mem::take(&mut self.outputs);
        let mut closed = Vec::new();
        for key in self.keys() {
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
            self.look_at_bridge(key, now);
        }
        self.outputs = out;
        for key in closed {
            self.close(key, now, Outcome::Closed);
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
            connection.push(
                chunk,
                &mut self.gate,
                &self.settings,
                &mut self.pool,
                &mut out,
            );
            if connection.wants_secret() && connection.may_wait_for(process) {
                let waiting = self.waiting.get_or_insert_mut(process, Vec::new);
                if waiting.len() < WAITING {
                    waiting.push(key);
                    connection.waits_for.push(process);
                    if self.points.of_process(process).is_empty() {
                        self.demands.push(Demand::Look(process));
                    }
                }
            }
        }
        self.handle(key, &mut out);
        self.outputs = out;
        self.ask_for_bridge(key, process);
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
        if let ProcessRecord::Exec { time, caller, .. } = record {
            self.points.is_another_since(caller.process, *time);
        }
        if let ProcessRecord::Exit { time, process } = record {
            self.ended.push_back((*time, *process));
        }
    }

    /// Why a connection was not read is known only when its processes' files were looked at.
    fn must_wait(&self, connection: &Connection, now: Nanos) -> bool {
        let since = connection.closed.unwrap_or(now);
        now.saturating_sub(since) < LOOK && connection.wants_secret() && !self.knows_all(connection)
    }

    /// The files of all its processes were looked at.
    fn knows_all(&self, connection: &Connection) -> bool {
        let mut processes = connection.processes.iter();
        processes.all(|process| self.points.knows(*process))
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
        self.end_bridge(key);
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
                Output::Multiplexed => self.demands.push(Demand::Multiplexed(key)),
                Output::Switched => self.counters.switched += 1,
                Output::Skipped => self.left_out(key),
                Output::HttpUnread(reason, around) => self.http_unread(key, reason, &around),
                Output::TlsUnread(tls::Reason::OpenedBeforeAgent, facts) => {
                    self.opened_before(key, facts);
                }
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
        if let Some(connection) = self.connections.peek_mut(&key) {
            connection.read = true;
            connection.tls |= around.tls.is_some();
        }
        if !self.affords(key, exchange) {
            return;
        }
        self.counters.exchanges += 1;
        if exchange.outcome == Outcome::ResponseLost {
            self.counters.responses_lost += 1;
        }
        let Some(connection) = self.connections.peek(&key) else {
            return;
        };
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
            library: match around.nested {
                true => self.library_of(connection).map(|mapped| mapped.path),
                false => around
                    .point
                    .and_then(|point| self.points.path_of(caller.process, point)),
            },
            nested: around.nested,
            by_kernel: around.by_kernel,
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
