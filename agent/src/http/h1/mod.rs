//! HTTP/1 on one connection: requests paired with their responses.
//!
//! [`Connection`] takes the pieces of both directions in about the order of their times and gives out [`Output`]s. Each
//! direction is a [`lane`] of waiting pieces read by its own state machine ([`request`], [`response`]); between them lie
//! the [`open`] requests. Before the first head is known the connection is [`look`]ed at; after 101 or a CONNECT's 2xx,
//! or where TLS begins, the pieces are handed on as they are.
//!
//! Pairing: responses come in the order of the requests (RFC 9112 section 9.3.2). While nothing was lost that order
//! alone decides, whatever the times say. After a loss a response is paired only if exactly one unanswered request is
//! not younger than it; where two could be meant, none is chosen and both are given out as lost. That request must be
//! younger than what was not read of the responses, or is nobody's: else its answer may be that, and this one another's, whose request
//! was not seen either. (A hole has the time of what follows it, so that the first answer behind it is nobody's, unless
//! its request came later.)
//!
//! Back in step after a loss: responses at a piece that begins with a status line, requests at a piece that begins with
//! a request line and comes after something of the other direction (a body may contain what looks like a request).
//!
//! Invariant: each request whose head was read is given out in exactly one exchange.
//! Invariant: memory is bounded by [`Limits`], and what goes over them is reported.
//! Invariant: the way the bytes are cut into pieces does not change what is given out (tested at every cut), but for
//! getting back in step after a loss.

mod body;
mod chunked;
mod framing;
mod gather;
mod lane;
mod look;
mod open;
mod parse;
mod request;
mod response;
#[cfg(test)]
pub(super) mod tests;

use super::draft::Common;
use super::head::{Exchange, Outcome, ProxyClaim};
use super::{Layer, Limits, Reason};
use crate::flow::{Direction, Nanos, Piece};
use lane::{Lanes, Taken};
use open::{Open, Serial};
use request::Requests;
use response::Responses;
pub use response::becomes_http2;

/// What a connection turned into: what its inner pieces may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Switch {
    /// It began with a TLS record.
    Tls,
    /// It began as HTTP/2.
    Http2 {
        /// Direction of the requests.
        client: Direction,
        /// By direction: it is seen from its first byte.
        from_start: [bool; 2],
    },
    /// A CONNECT was accepted: anything, most often TLS.
    Tunnel,
    /// 101 with `Upgrade: h2c`: HTTP/2, from its first byte. Direction of the requests.
    H2c(Direction),
    /// 101 with `Upgrade: websocket`.
    WebSocket,
    /// 101 to something else.
    OtherUpgrade,
}

/// What comes out, in order.
#[expect(
    clippy::large_enum_variant,
    reason = "exchanges are the common case and a box would cost each an allocation"
)]
pub enum Output {
    Exchange(Exchange),
    /// Once, before the first `Inner`.
    Switched(Switch),
    /// Bytes of another protocol, offsets from 0 in each direction.
    Inner(Direction, Piece),
    Unread(Reason),
}

/// How a connection begins.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub layer: Layer,
    /// Both directions are seen from their first byte.
    pub from_start: bool,
    /// What a PROXY header on the connection around this one claimed.
    pub claim: Option<ProxyClaim>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Looking,
    Http,
    /// Pieces are handed on, the client's after the end of its last request.
    Switched,
    /// Nothing is read any more.
    Done,
}

/// What became of the front piece.
enum Step {
    /// It waits for the other direction.
    Wait,
    /// So many bytes of it were read; none if only the state changed.
    Used(u64),
}

/// One connection; see the module.
pub struct Connection {
    limits: Limits,
    layer: Layer,
    stage: Stage,
    looking: look::Looking,
    /// The client's direction means something once `stage` is not `Looking`.
    common: Common,
    lanes: Lanes,
    requests: Requests,
    responses: Responses,
    open: Open,
    /// False once requests are given out without their responses.
    pairing: bool,
}

impl Connection {
    pub fn new(start: Start, limits: Limits) -> Self {
        Self {
            limits,
            layer: start.layer,
            stage: Stage::Looking,
            looking: look::Looking::new(start.from_start),
            common: Common {
                client: Direction::Sent,
                claim: start.claim,
            },
            lanes: Lanes::default(),
            requests: Requests::default(),
            responses: Responses::default(),
            open: Open::default(),
            pairing: true,
        }
    }

    /// Takes the next piece of a direction.
    pub fn push(&mut self, direction: Direction, piece: Piece, out: &mut Vec<Output>) {
        if self.stage == Stage::Done {
            return;
        }
        self.lanes[direction].push(piece, self.layer);
        self.drive(out);
        self.bound_held(direction, out);
    }

    /// Gives out exchanges older than `max_age` and forgets pieces that waited longer than that.
    pub fn flush(&mut self, now: Nanos, max_age: Nanos, out: &mut Vec<Output>) {
        let old = |time: Nanos| now.saturating_sub(time) >= max_age;
        while let Some(serial) = self.open.oldest_held_if(old) {
            self.give(serial, Outcome::Unfinished, out);
        }
        for direction in [Direction::Sent, Direction::Received] {
            if matches!(self.stage, Stage::Looking | Stage::Http) && !self.is_paused(direction) {
                while self.lanes[direction].since().is_some_and(old) {
                    self.forget_waiting(direction, out);
                    self.drive(out);
                }
            }
        }
    }

    /// The connection ended, or the agent stops: `outcome` is that of the requests without a response.
    pub fn finish(&mut self, outcome: Outcome, out: &mut Vec<Output>) {
        match self.stage {
            Stage::Looking if self.looking.has_seen() => {
                out.push(Output::Unread(Reason::OpaqueProtocol))
            }
            Stage::Http => self.finish_http(outcome, out),
            Stage::Looking | Stage::Switched | Stage::Done => {}
        }
        self.give_all(outcome, out);
        self.stop();
    }

    /// The direction of the requests, once it is known.
    pub fn request_direction(&self) -> Option<Direction> {
        (self.open.has_begun() || self.stage == Stage::Http).then_some(self.common.client)
    }

    /// Every request that was met has its whole response: then the next exchange can be left out as a gap in both
    /// directions, without a trace in those before and after it.
    pub fn is_at_rest(&mut self) -> bool {
        self.stage == Stage::Http
            && self.requests.is_at_rest()
            && self.responses.is_at_rest()
            && self.open.current().is_none()
            && self.open.oldest().is_none()
            && self.lanes[Direction::Sent].is_empty()
            && self.lanes[Direction::Received].is_empty()
    }

    /// It reads heads and bodies: pieces are not handed on to another protocol.
    pub fn is_http(&self) -> bool {
        self.stage == Stage::Http
    }

    /// What a PROXY header claimed, here or around this connection: for the inner connection.
    pub fn proxy_claim(&self) -> Option<ProxyClaim> {
        self.common.claim
    }

    /// When the oldest thing that waits began: a [`flush`](Self::flush) before that plus the age does nothing.
    pub fn waiting_since(&self) -> Option<Nanos> {
        let lanes = [Direction::Sent, Direction::Received]
            .into_iter()
            .filter_map(|at| self.lanes[at].since());
        lanes.chain(self.open.oldest()).min()
    }

    /// Memory held beyond the connection itself, in bytes.
    pub fn held(&self) -> usize {
        let lanes = self.lanes[Direction::Sent].held() + self.lanes[Direction::Received].held();
        lanes + self.requests.gathered() + self.responses.gathered() + self.open.weight()
    }

    fn drive(&mut self, out: &mut Vec<Output>) {
        loop {
            let moved = match self.stage {
                Stage::Looking => self.look(out),
                Stage::Http => self.read_requests(out) | self.read_responses(out),
                Stage::Switched => self.read_requests(out) | self.hand_on(out),
                Stage::Done => false,
            };
            if !moved {
                return;
            }
        }
    }

    /// Reads a lane until it is empty or waits.
    fn read(
        &mut self,
        direction: Direction,
        out: &mut Vec<Output>,
        reads: impl Fn(&Self) -> bool,
        step: impl Fn(&mut Self, &Taken, &mut Vec<Output>) -> Step,
    ) -> bool {
        let mut moved = false;
        while reads(self) {
            let Some(mut taken) = self.lanes[direction].take() else {
                break;
            };
            match step(self, &taken, out) {
                Step::Wait => {
                    self.lanes[direction].put_back(taken);
                    break;
                }
                Step::Used(bytes) => {
                    moved = true;
                    taken.use_up(bytes);
                    self.lanes[direction].put_back(taken);
                }
            }
        }
        moved
    }

    fn hand_on(&mut self, out: &mut Vec<Output>) -> bool {
        let mut moved = false;
        for direction in [Direction::Sent, Direction::Received] {
            if direction == self.common.client && self.requests.in_body() {
                continue;
            }
            while let Some(taken) = self.lanes[direction].take() {
                let piece = self.lanes[direction].rebase(taken, self.layer);
                out.push(Output::Inner(direction, piece));
                moved = true;
            }
        }
        moved
    }

    fn switch(&mut self, switch: Switch, out: &mut Vec<Output>) {
        if self.requests.in_head() {
            out.push(Output::Unread(Reason::RequestLost));
        }
        self.stage = Stage::Switched;
        out.push(Output::Switched(switch));
    }

    /// Gives the exchange out if nothing that comes can change it.
    fn settle(&mut self, serial: Serial, out: &mut Vec<Output>) {
        if !self.pairing && self.open.request_is_settled(serial) {
            self.give(serial, Outcome::Unfinished, out);
            self.open.answer(serial);
        } else {
            if self.open.response_is_settled(serial) {
                self.requests.resume(serial);
            }
            if let Some(exchange) = self.open.complete(serial, self.common) {
                out.push(Output::Exchange(exchange));
            }
        }
        self.open.tidy();
    }

    /// Gives the exchange out as it is.
    fn give(&mut self, serial: Serial, unanswered: Outcome, out: &mut Vec<Output>) {
        if let Some(exchange) = self.open.give(serial, unanswered, self.common) {
            if exchange.outcome == Outcome::Answered {
                self.requests.resume(serial);
            }
            out.push(Output::Exchange(exchange));
        }
        self.open.tidy();
    }

    fn give_all(&mut self, unanswered: Outcome, out: &mut Vec<Output>) {
        while let Some(serial) = self.open.oldest_held_if(|_| true) {
            self.give(serial, unanswered, out);
        }
    }

    fn stop(&mut self) {
        self.stage = Stage::Done;
        self.lanes = Lanes::default();
        self.requests = Requests::default();
        self.responses = Responses::default();
        self.open.clear();
    }

    fn is_paused(&self, direction: Direction) -> bool {
        direction == self.common.client && self.requests.is_paused()
    }

    /// After a drive whatever is left in a lane waits for the other direction.
    fn bound_held(&mut self, direction: Direction, out: &mut Vec<Output>) {
        while self.stage != Stage::Done && self.lanes[direction].held() > self.limits.held {
            if self.stage == Stage::Http && self.is_paused(direction) {
                out.push(Output::Unread(Reason::OverLimit));
                self.give_all(Outcome::Unfinished, out);
                self.stop();
            } else {
                self.forget_waiting(direction, out);
                self.drive(out);
            }
        }
    }

    /// Drops the front piece of a lane that waited for the other direction in vain.
    fn forget_waiting(&mut self, direction: Direction, out: &mut Vec<Output>) {
        let time = self.lanes[direction].since();
        self.lanes[direction].drop_front();
        match self.stage {
            Stage::Looking => self.looking.lost(direction, time),
            _ if direction == self.common.client => {
                // It looked like a request and nothing of the other direction told it from a body.
                out.push(Output::Unread(Reason::RequestLost));
            }
            _ => self.response_forgotten(time, out),
        }
    }

    fn finish_http(&mut self, outcome: Outcome, out: &mut Vec<Output>) {
        if self.requests.in_head() && self.requests.is_synced() {
            out.push(Output::Unread(Reason::HeadIncomplete));
        }
        let (client, server) = (self.common.client, self.common.client.opposite());
        if !self.lanes[client].is_empty() {
            out.push(Output::Unread(if self.requests.is_paused() {
                Reason::FramingLost
            } else {
                Reason::RequestLost
            }));
        }
        if !self.lanes[server].is_empty() {
            out.push(Output::Unread(Reason::ResponseWithoutRequest));
        }
        if outcome == Outcome::Closed {
            self.response_closed(out);
        }
    }
}
