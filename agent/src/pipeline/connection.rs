//! One connection in the pipeline: its two flows, its layers, and who used it when.

use super::{
    bridged::{Bridged, Late},
    kernel_tls::Taken,
    layers::{Output, Settings, Stream, Surroundings},
};
use crate::{
    budget::Gate,
    flow::{Direction, Flow, FlowLimits, GapReason, Nanos, Piece},
    http::head::Outcome,
    kernel::record::{Caller, Chunk, Endpoints, Plaintext, ProcessKey},
    tls,
};
use agent_common::event::CoverageReason;
use tracing::trace;

/// A connection that moved nothing for so long is idle.
const IDLE: Nanos = 1_000_000_000;
/// Callers that are remembered per direction.
const CALLERS: usize = 16;
/// Processes that may hold a connection's secrets.
const PROCESSES: usize = 8;

/// Where a connection stands.
pub struct Connection {
    pub endpoints: Endpoints,
    pub first: Nanos,
    pub last: Nanos,
    flows: [Flow; 2],
    stream: Stream,
    /// By direction: from which stream offset on which caller moved the bytes; by offset.
    callers: [Vec<(u64, Caller)>; 2],
    /// Of the last chunk.
    last_direction: Direction,
    /// Sequence number of stream offset 0, by direction.
    sequence: [Option<u32>; 2],
    pub processes: Vec<ProcessKey>,
    /// Those whose secrets it is offered as they come.
    pub waits_for: Vec<ProcessKey>,
    /// At most one coverage event per connection and reason.
    pub reported: Vec<CoverageReason>,
    /// TLS was met on it.
    pub tls: bool,
    /// The TLS library whose secret opened it.
    pub library: Option<&'static str>,
    rested: bool,
    /// It has closed, and waits for what the attacher finds in its processes' files.
    pub closed: Option<Nanos>,
    /// At least one exchange came out.
    pub read: bool,
    turn: Turn,
    /// Exchanges of it were skipped.
    pub skipped: bool,
    /// Seen from its first byte.
    pub from_start: bool,
    /// It is not, and nobody has asked yet whether its processes' probes are to stay for it.
    pub before: bool,
    /// TLS whose begin was not seen.
    pub late: Option<Late>,
    pub bridged: Option<Box<Bridged>>,
    limits: FlowLimits,
    /// By direction.
    taken: [Taken; 2],
}

/// What becomes of the exchange that is under way: decided at the first byte that the client's side moves after the
/// other's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Not decided, because something was under way already: each exchange is asked for when it comes out.
    Open,
    Read,
    /// Both directions are left out until the next turn. `counted`: bytes of it have come.
    Skipped {
        counted: bool,
    },
}

impl Connection {
    pub fn new(chunk: &Chunk, limits: FlowLimits, settings: &Settings) -> Self {
        let base = chunk.from_start.then_some(0);
        let flow = || Flow::new(limits, &settings.budget, base);
        Self {
            endpoints: chunk.endpoints.clone(),
            first: chunk.time,
            last: chunk.time,
            flows: [flow(), flow()],
            stream: Stream::new(settings, chunk.from_start),
            callers: [Vec::new(), Vec::new()],
            last_direction: chunk.direction,
            sequence: [None, None],
            processes: Vec::new(),
            waits_for: Vec::new(),
            reported: Vec::new(),
            tls: false,
            library: None,
            closed: None,
            rested: false,
            read: false,
            turn: Turn::Open,
            skipped: false,
            from_start: chunk.from_start,
            before: !chunk.from_start,
            late: None,
            bridged: None,
            limits,
            taken: Default::default(),
        }
    }

    /// Plaintext that its library gave or took.
    pub fn plain(
        &mut self,
        plain: Plaintext,
        settings: &Settings,
        pool: &mut tls::Pool,
        out: &mut Vec<Output>,
    ) {
        let now = plain.time;
        self.last = self.last.max(now);
        self.called(plain.direction.index(), plain.wire, plain.caller.clone());
        let mut with = Surroundings {
            settings,
            pool,
            processes: &self.processes,
            skip: false,
            out,
        };
        let facts = self.late.as_ref().map(|late| &late.facts);
        let bridged = self.bridged.get_or_insert_default();
        bridged.push(plain, self.limits, settings, facts, &mut with);
        if facts.is_some() {
            bridged.pump(now, &mut with);
        }
    }

    /// Its records belong to a handshake that nobody saw.
    pub fn is_late(&mut self, late: Late) {
        if let Some(bridged) = &mut self.bridged {
            bridged.believe(&late.facts);
        }
        self.late = Some(late);
    }

    pub fn push(
        &mut self,
        chunk: Chunk,
        gate: &mut Gate,
        settings: &Settings,
        pool: &mut tls::Pool,
        out: &mut Vec<Output>,
    ) {
        let d = chunk.direction.index();
        if chunk.direction != self.last_direction && !chunk.bytes.is_empty() {
            self.turned(chunk.direction, gate);
        }
        self.last = chunk.time;
        self.last_direction = chunk.direction;
        if let Endpoints::Unix { path: None, .. } = self.endpoints {
            self.endpoints = chunk.endpoints.clone();
        }
        let first =
            *self.sequence[d].get_or_insert(chunk.sequence.wrapping_sub(chunk.offset as u32));
        let wire = match chunk.kernel_tls {
            true => self.taken[d].note(&chunk, first),
            false => chunk.offset,
        };
        let process = chunk.caller.process;
        self.called(d, wire, chunk.caller);
        if !self.processes.contains(&process) && self.processes.len() < PROCESSES {
            self.processes.push(process);
        }
        let flow = &mut self.flows[d];
        if chunk.skipped > 0 {
            flow.push(
                chunk.offset.saturating_sub(chunk.skipped),
                chunk.skipped,
                Default::default(),
                chunk.time,
            );
        }
        let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
        if !chunk.bytes.is_empty() {
            match flow.pass(chunk.offset, chunk.bytes, chunk.time) {
                Ok(piece) => {
                    let mut with = Surroundings {
                        settings,
                        pool,
                        processes: &self.processes,
                        skip: matches!(self.turn, Turn::Skipped { .. }),
                        out,
                    };
                    match self.taken[d].take(piece) {
                        Ok(piece) => self.stream.push_plain(chunk.direction, piece, &mut with),
                        Err(piece) => self.stream.push(chunk.direction, piece, &mut with),
                    }
                }
                Err(bytes) => flow.push(chunk.offset, 0, bytes, chunk.time),
            }
        }
        let flow = &mut self.flows[d];
        if chunk.end {
            flow.end(end, chunk.time);
        }
        self.pump(chunk.time, settings, pool, out);
    }

    /// Bytes of `direction` follow those of the other.
    fn turned(&mut self, direction: Direction, gate: &mut Gate) {
        let undecided = self.turn == Turn::Open;
        // The server's bytes belong to the exchange that is under way.
        if gate.is_open() && undecided || self.stream.request_direction() != Some(direction) {
            return;
        }
        self.turn = if gate.is_open() || !self.stream.is_at_rest() {
            Turn::Open
        } else if gate.passes() {
            Turn::Read
        } else {
            Turn::Skipped { counted: false }
        };
    }

    /// Bytes of the exchange under way were left out: true for the first of them.
    pub fn leaves_first_out(&mut self) -> bool {
        let first = self.turn == Turn::Skipped { counted: false };
        if first {
            self.turn = Turn::Skipped { counted: true };
        }
        first
    }

    /// It was decided already that the exchange which comes out now is read.
    pub fn is_to_be_read(&self) -> bool {
        self.turn == Turn::Read
    }

    /// Why it was not read, or not wholly: the first reason there was.
    pub fn unread(&self) -> Option<CoverageReason> {
        let skipped = self.skipped.then_some(CoverageReason::Budget);
        self.reported.first().copied().or(skipped)
    }

    /// Remembers who moves the bytes from `offset` on, where that changes. Chunks come in any order.
    fn called(&mut self, d: usize, offset: u64, caller: Caller) {
        let same = |other: &Caller| other.process == caller.process && other.comm == caller.comm;
        let callers = &mut self.callers[d];
        let at = callers.partition_point(|(from, _)| *from <= offset);
        if at > 0 && same(&callers[at - 1].1) {
            return;
        }
        if let Some((from, next)) = callers.get_mut(at)
            && same(next)
        {
            *from = offset;
            return;
        }
        callers.insert(at, (offset, caller));
        if callers.len() > CALLERS {
            callers.remove(0);
        }
    }

    /// Who moved the byte at `offset`, else who used the connection last.
    pub fn caller_at(&self, direction: Direction, offset: u64) -> Option<&Caller> {
        let find = |d: usize| {
            let callers = &self.callers[d];
            callers
                .iter()
                .rev()
                .find(|(from, _)| *from <= offset)
                .or(callers.first())
                .map(|(_, caller)| caller)
        };
        find(direction.index()).or_else(|| find(direction.opposite().index()))
    }

    /// Whoever used it last.
    pub fn last_caller(&self) -> Option<&Caller> {
        self.callers[self.last_direction.index()]
            .last()
            .map(|(_, caller)| caller)
    }

    /// TCP sequence number at a stream offset.
    pub fn sequence_at(&self, direction: Direction, offset: u64) -> Option<u32> {
        self.sequence[direction.index()].map(|base| base.wrapping_add(offset as u32))
    }

    fn pump(
        &mut self,
        now: Nanos,
        settings: &Settings,
        pool: &mut tls::Pool,
        out: &mut Vec<Output>,
    ) {
        let Self {
            flows,
            stream,
            processes,
            turn,
            taken,
            ..
        } = self;
        let mut with = Surroundings {
            settings,
            pool,
            processes,
            skip: matches!(turn, Turn::Skipped { .. }),
            out,
        };
        for direction in [Direction::Sent, Direction::Received] {
            let flow = &mut flows[direction.index()];
            while let Some(piece) = flow.pop(now) {
                trace!(?direction, offset = piece.offset(), len = piece.len(), gap = ?gap(&piece), "socket");
                match taken[direction.index()].take(piece) {
                    Ok(piece) => stream.push_plain(direction, piece, &mut with),
                    Err(piece) => stream.push(direction, piece, &mut with),
                }
            }
            if flow.ended() {
                stream.end(direction, &mut with);
            }
        }
    }

    pub fn offer(
        &mut self,
        now: Nanos,
        settings: &Settings,
        pool: &mut tls::Pool,
        out: &mut Vec<Output>,
    ) {
        let mut with = Surroundings {
            settings,
            pool,
            processes: &self.processes,
            skip: matches!(self.turn, Turn::Skipped { .. }),
            out,
        };
        self.stream.offer(now, &mut with);
    }

    pub fn wants_secret(&self) -> bool {
        self.stream.wants_secret()
    }

    /// It has closed, and this is the first of another connection of the same socket.
    pub fn is_followed_by(&self, chunk: &Chunk) -> bool {
        let seen = self.sequence[chunk.direction.index()].is_some();
        self.closed.is_some() && seen && chunk.offset == 0 && !chunk.bytes.is_empty()
    }

    /// It can use this process's secrets, and is not offered them yet.
    pub fn may_wait_for(&self, process: ProcessKey) -> bool {
        self.processes.contains(&process) && !self.waits_for.contains(&process)
    }

    /// Time passes: holes are given up, old exchanges are given out.
    pub fn tick(
        &mut self,
        now: Nanos,
        max_age: Nanos,
        settings: &Settings,
        pool: &mut tls::Pool,
        out: &mut Vec<Output>,
    ) {
        self.pump(now, settings, pool, out);
        let mut with = Surroundings {
            settings,
            pool,
            processes: &self.processes,
            skip: matches!(self.turn, Turn::Skipped { .. }),
            out,
        };
        self.stream.flush(now, max_age, &mut with);
        let bridged = self.bridged.as_mut().filter(|_| self.late.is_some());
        let idle = now.saturating_sub(self.last) > IDLE;
        if idle && !self.rested {
            self.stream.rest();
        }
        if let Some(bridged) = bridged {
            bridged.flush(now, max_age, &mut with);
            if idle && !self.rested {
                bridged.rest();
            }
        }
        self.rested = idle;
    }

    /// Gives up what waits for earlier bytes or for a secret, and forgets what can be computed again.
    pub fn shed(
        &mut self,
        now: Nanos,
        settings: &Settings,
        pool: &mut tls::Pool,
        out: &mut Vec<Output>,
    ) {
        let held = |flows: &[Flow; 2]| flows.iter().map(Flow::held).sum::<usize>();
        loop {
            let before = held(&self.flows);
            self.flows.iter_mut().for_each(Flow::give_up_hole);
            self.pump(now, settings, pool, out);
            if held(&self.flows) == before {
                break;
            }
        }
        let mut with = Surroundings {
            settings,
            pool,
            processes: &self.processes,
            skip: matches!(self.turn, Turn::Skipped { .. }),
            out,
        };
        self.stream.shed(&mut with);
        if let (Some(bridged), Some(_)) = (&mut self.bridged, &self.late) {
            bridged.shed(now, &mut with);
        }
    }

    pub fn finish(
        &mut self,
        now: Nanos,
        outcome: Outcome,
        settings: &Settings,
        pool: &mut tls::Pool,
        out: &mut Vec<Output>,
    ) {
        for flow in &mut self.flows {
            flow.close();
        }
        self.pump(now, settings, pool, out);
        let mut with = Surroundings {
            settings,
            pool,
            processes: &self.processes,
            skip: matches!(self.turn, Turn::Skipped { .. }),
            out,
        };
        self.stream.finish(outcome, &mut with);
        if let (Some(bridged), Some(_)) = (&mut self.bridged, &self.late) {
            bridged.finish(now, outcome, &mut with);
        }
    }

    /// Bytes that positions say were there and that nothing saw.
    pub fn unseen(&self) -> u64 {
        self.flows
            .iter()
            .flat_map(|flow| [flow.counts().unseen, flow.counts().evicted])
            .chain(self.bridged.as_ref().map(|bridged| bridged.unseen()))
            .fold(0, u64::saturating_add)
    }

    /// Bytes that the policy left out.
    pub fn left_out(&self) -> u64 {
        let counts = self.flows.iter().map(|flow| flow.counts().policy);
        counts.fold(0, u64::saturating_add)
    }
}

/// For diagnostics: places and sizes, never bytes.
pub fn gap(piece: &Piece) -> Option<GapReason> {
    match piece {
        Piece::Data { .. } => None,
        Piece::Gap { reason, .. } => Some(*reason),
    }
}
