//! Plaintext of a TLS connection that was open before the agent, as the library's own calls gave it, and the HTTP in it.
//!
//! Which socket it belongs to the probes have told, by nesting (`agent-ebpf/src/bridge.rs`). What comes is believed only
//! where this connection's records were found to belong to a handshake that nobody saw: until then it waits, bounded as
//! every flow is.
//!
//! Invariant: what has another generation than what came before is not joined with it.

use super::layers::{Output, Settings, Stream, Surroundings};
use crate::{
    flow::{Direction, Flow, FlowLimits, Nanos, Origin, Piece},
    http::head::Outcome,
    kernel::record::{Plaintext, ProcessKey},
    tls,
};
use agent_common::event::CoverageReason;
use std::{collections::VecDeque, sync::Arc};
use tracing::trace;

/// A connection that moves bytes for so long, and gives no plaintext, is not read by its process's probes.
const PATIENCE: Nanos = 10_000_000_000;
/// Bytes that move within this of the begin may have been on their way before the probes were there.
const BEGIN: Nanos = 2_000_000_000;
/// Places on the wire that are remembered of one direction.
const PLACES: usize = 1_024;

/// TLS whose begin was not seen.
pub struct Late {
    since: Nanos,
    pub facts: Arc<tls::Facts>,
    /// Processes that are asked for their plaintext.
    asked: Vec<ProcessKey>,
    /// None is asked any more: nothing came of it.
    given_up: bool,
    /// Its plaintext ended while it went on: two of the program's objects claimed its socket, or one two sockets.
    pub untied: bool,
}

impl Late {
    pub fn new(since: Nanos, facts: Box<tls::Facts>) -> Self {
        Self {
            since,
            facts: facts.into(),
            asked: Vec::new(),
            given_up: false,
            untied: false,
        }
    }

    /// The first time that this process is met on the connection.
    pub fn asks(&mut self, process: ProcessKey) -> bool {
        let new = !self.given_up && !self.asked.contains(&process);
        if new {
            self.asked.push(process);
        }
        new
    }

    /// Nobody is asked any more: those that were.
    pub fn give_up(&mut self) -> Vec<ProcessKey> {
        self.given_up = true;
        std::mem::take(&mut self.asked)
    }

    /// Plaintext would have come by now.
    pub fn is_hopeless(&self, last: Nanos, now: Nanos) -> bool {
        self.untied
            || now.saturating_sub(self.since) > PATIENCE && last.saturating_sub(self.since) > BEGIN
    }

    pub fn reason(&self) -> (CoverageReason, &'static str) {
        let detail = match self.untied {
            true => "untied",
            false => "opened_before_agent",
        };
        (CoverageReason::OpenedBefore, detail)
    }
}

/// Both directions of the plaintext, since the object was tied.
struct Tied {
    generation: u32,
    flows: [Flow; 2],
    /// By direction: from which plaintext offset on where on the wire it was carried.
    places: [VecDeque<(u64, Origin)>; 2],
    stream: Stream,
}

/// See the module.
#[derive(Default)]
pub struct Bridged {
    tied: Option<Tied>,
    /// The library is GnuTLS.
    pub gnutls: bool,
}

impl Bridged {
    /// Takes what came; it is read by [`pump`](Self::pump).
    pub fn push(
        &mut self,
        plain: Plaintext,
        limits: FlowLimits,
        settings: &Settings,
        facts: Option<&Arc<tls::Facts>>,
        with: &mut Surroundings<'_>,
    ) {
        let generation = plain.generation;
        if let Some(tied) = &self.tied
            && tied.generation > generation
        {
            return;
        }
        if self
            .tied
            .as_ref()
            .is_none_or(|tied| tied.generation < generation)
        {
            if let (Some(before), Some(_)) = (self.tied.take(), facts) {
                before.finish(plain.time, Outcome::ResponseLost, with);
            }
            self.tied = Some(Tied::new(generation, limits, settings, facts));
        }
        self.gnutls = plain.gnutls;
        let Some(tied) = &mut self.tied else {
            return;
        };
        let d = plain.direction.index();
        let origin = Origin {
            wire: plain.wire,
            within: plain.within,
        };
        let places = &mut tied.places[d];
        let at = places.partition_point(|(from, _)| *from <= plain.offset);
        places.insert(at, (plain.offset, origin));
        if places.len() > PLACES {
            places.pop_front();
        }
        let flow = &mut tied.flows[d];
        flow.push(
            plain.offset.saturating_sub(plain.skipped),
            plain.skipped,
            Default::default(),
            plain.time,
        );
        flow.push(plain.offset, 0, plain.bytes, plain.time);
    }

    /// The connection was found to be one that the plaintext is believed of.
    pub fn believe(&mut self, facts: &Arc<tls::Facts>) {
        if let Some(tied) = &mut self.tied {
            tied.stream.around_plaintext(facts);
        }
    }

    pub fn pump(&mut self, now: Nanos, with: &mut Surroundings<'_>) {
        if let Some(tied) = &mut self.tied {
            tied.pump(now, with);
        }
    }

    /// Gives out what has waited longer than `max_age`.
    pub fn flush(&mut self, now: Nanos, max_age: Nanos, with: &mut Surroundings<'_>) {
        if let Some(tied) = &mut self.tied {
            tied.pump(now, with);
            tied.stream.flush(now, max_age, with);
        }
    }

    pub fn rest(&mut self) {
        if let Some(tied) = &mut self.tied {
            tied.stream.rest();
        }
    }

    /// Gives up what waits for earlier bytes.
    pub fn shed(&mut self, now: Nanos, with: &mut Surroundings<'_>) {
        if let Some(tied) = &mut self.tied {
            tied.flows.iter_mut().for_each(Flow::give_up_hole);
            tied.pump(now, with);
            tied.stream.shed(with);
        }
    }

    pub fn finish(&mut self, now: Nanos, outcome: Outcome, with: &mut Surroundings<'_>) {
        if let Some(tied) = self.tied.take() {
            tied.finish(now, outcome, with);
        }
    }

    /// Bytes that positions say were there and that nothing saw.
    pub fn unseen(&self) -> u64 {
        let counts = self.tied.iter().flat_map(|tied| &tied.flows);
        counts
            .map(|flow| flow.counts().unseen.saturating_add(flow.counts().evicted))
            .fold(0, u64::saturating_add)
    }
}

impl Tied {
    fn new(
        generation: u32,
        limits: FlowLimits,
        settings: &Settings,
        facts: Option<&Arc<tls::Facts>>,
    ) -> Self {
        // Where the connection was forgotten meanwhile, they do not begin at 0.
        let flow = || Flow::new(limits, &settings.budget, None);
        let mut stream = Stream::plaintext(settings);
        if let Some(facts) = facts {
            stream.around_plaintext(facts);
        }
        Self {
            generation,
            flows: [flow(), flow()],
            places: Default::default(),
            stream,
        }
    }

    fn pump(&mut self, now: Nanos, with: &mut Surroundings<'_>) {
        for direction in [Direction::Sent, Direction::Received] {
            while let Some(mut piece) = self.flows[direction.index()].pop(now) {
                trace!(
                    ?direction,
                    offset = piece.offset(),
                    len = piece.len(),
                    "bridged"
                );
                self.locate(direction, &mut piece);
                self.stream.push(direction, piece, with);
            }
        }
    }

    fn locate(&mut self, direction: Direction, piece: &mut Piece) {
        let places = &mut self.places[direction.index()];
        let at = piece.offset();
        while places.get(1).is_some_and(|(from, _)| *from <= at) {
            places.pop_front();
        }
        if let (Piece::Data { origin, .. }, Some((from, place))) = (piece, places.front()) {
            let further = u32::try_from(at.saturating_sub(*from)).unwrap_or(u32::MAX);
            *origin = Origin {
                wire: place.wire,
                within: place.within.saturating_add(further),
            };
        }
    }

    fn finish(mut self, now: Nanos, outcome: Outcome, with: &mut Surroundings<'_>) {
        self.flows.iter_mut().for_each(Flow::close);
        self.pump(now, with);
        let before = with.out.len();
        self.stream.finish(outcome, with);
        // Of the tunnels in it.
        let mut added = with.out.split_off(before);
        added.retain(|output| !matches!(output, Output::TlsClosed(_)));
        with.out.append(&mut added);
    }
}
