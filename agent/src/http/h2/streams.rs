//! Requests and their responses, by stream.
//!
//! A stream's entry outlives its exchange, so that what still comes on the stream is not taken for another's. Responses
//! may be read before their requests, since the two directions come from different CPUs: they wait.
//!
//! An accepted CONNECT is given out at once, and what comes on its stream then is the tunnel's. A client may only write
//! when it was accepted (RFC 9113 section 8.5), so what was read of it before is the tunnel's too.
//!
//! Invariant: each request whose head was read is given out in exactly one exchange.
//! Invariant: at most [`Limits::outstanding`] entries and [`Limits::queued`] bytes, about.

use super::Output;
use crate::flow::{Direction, GapReason, Nanos, Origin, Payload, Piece};
use crate::http::draft::{Common, Draft};
use crate::http::grpc;
use crate::http::head::{BodyPrefix, Outcome, RequestHead, ResponseHead};
use crate::http::prefix::Prefix;
use crate::http::{Limits, Reason};
use std::collections::BTreeMap;

/// What a request asks its stream to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connect {
    No,
    /// CONNECT (RFC 9113 section 8.5).
    Tunnel,
    /// Extended CONNECT (RFC 8441 section 4): a WebSocket, or another protocol.
    Protocol,
}

/// One stream, as far as it was seen.
pub(super) struct Stream {
    /// When its first head came.
    time: Nanos,
    request: Option<RequestHead>,
    connect: Connect,
    request_body: Prefix,
    /// Where the request's body begins, and its bytes so far.
    early: Option<((Nanos, Origin), u64)>,
    response: Option<ResponseHead>,
    response_body: Prefix,
    grpc_status: Option<u16>,
    request_over: bool,
    response_over: bool,
    /// Its exchange was given out, or there will be none.
    given: bool,
    /// Bytes in which its response may lie are not known.
    response_lost: bool,
    /// Bytes that passed through the tunnel that it is, by direction.
    tunnel: Option<[u64; 2]>,
    weight: usize,
}

impl Stream {
    fn new(time: Nanos, prefix: usize) -> Self {
        Self {
            time,
            request: None,
            connect: Connect::No,
            request_body: Prefix::new(prefix),
            early: None,
            response: None,
            response_body: Prefix::new(prefix),
            grpc_status: None,
            request_over: false,
            response_over: false,
            given: false,
            response_lost: false,
            tunnel: None,
            weight: size_of::<Self>(),
        }
    }

    /// What came of a gRPC call is said at its end.
    fn is_complete(&self) -> bool {
        let request = self.request.as_ref();
        self.is_connected()
            || request.is_some_and(|head| self.response_over || !grpc::is_call(head))
                && self.response.is_some()
                && self.request_body.is_settled()
                && self.response_body.is_settled()
    }

    /// A CONNECT of either kind was accepted: its exchange has no bodies.
    fn is_connected(&self) -> bool {
        self.connect != Connect::No
            && self.request.is_some()
            && self
                .response
                .as_ref()
                .is_some_and(|head| (200..300).contains(&head.status))
    }

    /// What was read of the client's direction before it was known to be a tunnel's, of which `begin` was kept. Nothing
    /// if it is none.
    fn become_tunnel(&mut self, begin: &[u8], client: Direction) -> Vec<Piece> {
        let mut early = Vec::new();
        if self.connect == Connect::Tunnel {
            let passed = self.tunnel.insert([0; 2]);
            if let Some((place, len)) = self.early {
                let passed = &mut passed[client.index()];
                early.push(data(passed, begin, place));
                if len > *passed {
                    early.push(gap(passed, len - *passed, place.0));
                }
            }
        }
        early
    }

    fn is_over(&self) -> bool {
        self.request_over && self.response_over
    }
}

pub(super) struct Streams {
    /// By their ids, which grow with time.
    entries: BTreeMap<u32, Stream>,
    /// The highest id that a request had; 0 before the first.
    highest: u32,
    weight: usize,
    limits: Limits,
    common: Common,
}

impl Streams {
    pub fn new(common: Common, limits: Limits) -> Self {
        Self {
            entries: BTreeMap::new(),
            highest: 0,
            weight: 0,
            limits,
            common,
        }
    }

    pub fn held(&self) -> usize {
        self.weight
    }

    /// When the oldest that is still held began.
    pub fn oldest(&self) -> Option<Nanos> {
        let held = self.entries.values().filter(|stream| !stream.given);
        held.map(|stream| stream.time).min()
    }

    /// The stream is one of a request that was given out and forgotten.
    fn is_past(&self, id: u32) -> bool {
        id <= self.highest && !self.entries.contains_key(&id)
    }

    /// A request's head would be its trailers.
    pub fn has_request(&self, id: u32) -> bool {
        id <= self.highest
    }

    /// A response's head would be its trailers, or nobody waits for it.
    pub fn has_response(&self, id: u32) -> bool {
        let stream = self.entries.get(&id);
        stream.map_or(self.is_past(id), |stream| {
            stream.response.is_some() || stream.given
        })
    }

    pub fn request(
        &mut self,
        id: u32,
        (head, connect): (RequestHead, Connect),
        weight: usize,
        out: &mut Vec<Output>,
    ) {
        self.highest = self.highest.max(id);
        let stream = self.entry(id, head.time, out);
        stream.request = Some(head);
        stream.connect = connect;
        self.grew(id, weight);
        self.settle(id, out);
    }

    /// A request that was made before this protocol was spoken, and is over.
    pub fn upgraded(&mut self, head: RequestHead, body: &BodyPrefix, out: &mut Vec<Output>) {
        self.request(1, (head, Connect::No), 0, out);
        if let Some(stream) = self.entries.get_mut(&1) {
            stream.request_body = Prefix::read(body);
            stream.request_over = true;
        }
        self.grew(1, body.bytes.len());
    }

    pub fn response(&mut self, id: u32, head: ResponseHead, weight: usize, out: &mut Vec<Output>) {
        let stream = self.entry(id, head.time, out);
        stream.grpc_status = grpc::status(head.headers.parts());
        stream.response = Some(head);
        self.grew(id, weight);
        self.settle(id, out);
    }

    pub fn data(
        &mut self,
        id: u32,
        direction: Direction,
        bytes: &[u8],
        place: (Nanos, Origin),
        out: &mut Vec<Output>,
    ) {
        let client = self.common.client;
        let Some(stream) = self.entries.get_mut(&id) else {
            return;
        };
        if let Some(passed) = &mut stream.tunnel {
            let piece = data(&mut passed[direction.index()], bytes, place);
            return out.push(Output::Tunnel(id, direction, piece));
        }
        if stream.given {
            return;
        }
        let body = if direction == client {
            let (_, len) = stream.early.get_or_insert((place, 0));
            *len += bytes.len() as u64;
            &mut stream.request_body
        } else {
            &mut stream.response_body
        };
        let before = body.len();
        body.add(bytes);
        let grown = body.len() - before;
        self.grew(id, grown);
        self.settle(id, out);
    }

    /// Fields behind a response's body.
    pub fn trailers<'a>(&mut self, id: u32, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
        if let Some(stream) = self.entries.get_mut(&id) {
            stream.grpc_status = grpc::status(fields).or(stream.grpc_status);
        }
    }

    /// A response came, and what it says is not known.
    pub fn unknown_response(&mut self, id: u32) {
        if let Some(stream) = self.entries.get_mut(&id) {
            stream.response_lost = stream.response.is_none();
        }
    }

    /// So many bytes of a body are not known.
    pub fn hole(
        &mut self,
        id: u32,
        direction: Direction,
        (len, time): (usize, Nanos),
        out: &mut Vec<Output>,
    ) {
        if let Some(stream) = self.entries.get_mut(&id) {
            if let Some(passed) = &mut stream.tunnel {
                let piece = gap(&mut passed[direction.index()], len as u64, time);
                out.push(Output::Tunnel(id, direction, piece));
            }
            if direction == self.common.client {
                stream.request_body.cut();
            } else {
                stream.response_body.cut();
            }
            self.settle(id, out);
        }
    }

    pub fn end(&mut self, id: u32, direction: Direction, out: &mut Vec<Output>) {
        if let Some(stream) = self.entries.get_mut(&id) {
            if direction == self.common.client {
                stream.request_body.end();
                stream.request_over = true;
            } else {
                stream.response_body.end();
                stream.response_over = true;
            }
            if stream.tunnel.is_some() {
                out.push(Output::TunnelEnd(id, direction));
            }
            self.settle(id, out);
        }
    }

    /// One side ended the stream: nothing more comes on it.
    pub fn reset(&mut self, id: u32, out: &mut Vec<Output>) {
        if let Some(stream) = self.entries.get_mut(&id) {
            stream.request_body.cut();
            stream.response_body.cut();
            (stream.request_over, stream.response_over) = (true, true);
            if stream.tunnel.is_some() {
                return self.remove(id, out);
            }
            // A response that waits for its request goes on waiting.
            if stream.request.is_some() {
                self.give(id, Outcome::Closed, out);
            }
        }
    }

    /// Bytes of a direction that may have been anything are not known.
    pub fn lost(&mut self, direction: Direction, out: &mut Vec<Output>) {
        let ids: Vec<u32> = self.entries.keys().copied().collect();
        for id in ids {
            if let Some(stream) = self.entries.get_mut(&id) {
                if direction == self.common.client {
                    stream.request_body.cut();
                } else {
                    stream.response_body.cut();
                    stream.response_lost |= stream.response.is_none();
                }
                // How much of a tunnel was lost is not known.
                if stream.tunnel.take().is_some() {
                    out.push(Output::TunnelOver(id));
                }
                self.settle(id, out);
            }
        }
    }

    /// Gives out exchanges that began at a time which `fits`, as they are.
    pub fn give_all(
        &mut self,
        unanswered: Outcome,
        fits: impl Fn(Nanos) -> bool,
        out: &mut Vec<Output>,
    ) {
        let old: Vec<u32> = self
            .entries
            .iter()
            .filter(|(_, stream)| !stream.given && fits(stream.time))
            .map(|(id, _)| *id)
            .collect();
        for id in old {
            self.give(id, unanswered, out);
        }
    }

    fn entry(&mut self, id: u32, time: Nanos, out: &mut Vec<Output>) -> &mut Stream {
        if !self.entries.contains_key(&id) {
            while self.entries.len() >= self.limits.outstanding.max(1) {
                self.make_room(out);
            }
            self.weight += size_of::<Stream>();
        }
        let prefix = self.limits.body_prefix;
        self.entries
            .entry(id)
            .or_insert_with(|| Stream::new(time, prefix))
    }

    /// The oldest entry goes, those of which nothing is awaited first.
    fn make_room(&mut self, out: &mut Vec<Output>) {
        let done = |stream: &Stream| stream.given && stream.tunnel.is_none();
        let given = self.entries.iter().find(|(_, stream)| done(stream));
        let Some(id) = given.or(self.entries.iter().next()).map(|(id, _)| *id) else {
            return;
        };
        if self.entries.get(&id).is_some_and(|stream| !stream.given) {
            out.push(Output::Unread(Reason::TooManyOutstanding));
            self.give(id, Outcome::Unfinished, out);
        }
        self.remove(id, out);
    }

    fn remove(&mut self, id: u32, out: &mut Vec<Output>) {
        if let Some(stream) = self.entries.remove(&id) {
            self.weight -= stream.weight;
            if stream.tunnel.is_some() {
                out.push(Output::TunnelOver(id));
            }
        }
    }

    fn grew(&mut self, id: u32, bytes: usize) {
        if let Some(stream) = self.entries.get_mut(&id) {
            stream.weight += bytes;
            self.weight += bytes;
        }
    }

    fn settle(&mut self, id: u32, out: &mut Vec<Output>) {
        let Some(stream) = self.entries.get(&id) else {
            return;
        };
        let unanswered = stream.request.is_some() && stream.is_over();
        if !stream.given && (stream.is_complete() || unanswered) {
            self.give(id, Outcome::Closed, out);
        } else if stream.given && stream.is_over() {
            self.remove(id, out);
        }
        while self.weight > self.limits.queued {
            let held = self.entries.iter().find(|(_, stream)| !stream.given);
            let Some(id) = held.map(|(id, _)| *id) else {
                break;
            };
            out.push(Output::Unread(Reason::OverLimit));
            self.give(id, Outcome::Unfinished, out);
        }
    }

    /// Gives the exchange out as it is; `unanswered` is the outcome if it has no response.
    fn give(&mut self, id: u32, unanswered: Outcome, out: &mut Vec<Output>) {
        let Some(stream) = self.entries.get_mut(&id).filter(|stream| !stream.given) else {
            return;
        };
        stream.given = true;
        let is_connected = stream.is_connected();
        let freed = stream.weight - size_of::<Stream>();
        stream.weight -= freed;
        self.weight -= freed;
        let unanswered = if stream.response_lost {
            Outcome::ResponseLost
        } else {
            unanswered
        };
        let response = stream.response.take();
        let grpc_status = stream.grpc_status;
        let mut request_body = std::mem::take(&mut stream.request_body);
        let mut response_body = std::mem::take(&mut stream.response_body);
        let mut early = Vec::new();
        if is_connected {
            let begin = std::mem::take(&mut request_body).take().bytes;
            response_body = Prefix::default();
            request_body.end();
            response_body.end();
            early = stream.become_tunnel(&begin, self.common.client);
        }
        out.push(match stream.request.take() {
            Some(request) => {
                let draft = Draft {
                    request,
                    request_body,
                    response,
                    response_body,
                    grpc_status,
                };
                Output::Exchange(draft.exchange(unanswered, self.common))
            }
            None => Output::Unread(Reason::ResponseWithoutRequest),
        });
        let client = self.common.client;
        out.extend(
            early
                .into_iter()
                .map(|piece| Output::Tunnel(id, client, piece)),
        );
        if self.entries.get(&id).is_some_and(Stream::is_over) {
            self.remove(id, out);
        }
    }
}

/// The next bytes of a tunnel, of which so many have `passed`.
fn data(passed: &mut u64, bytes: &[u8], (time, origin): (Nanos, Origin)) -> Piece {
    let offset = *passed;
    *passed += bytes.len() as u64;
    Piece::Data {
        offset,
        time,
        origin,
        bytes: Payload::copy_from(bytes),
    }
}

fn gap(passed: &mut u64, len: u64, time: Nanos) -> Piece {
    let offset = *passed;
    *passed += len;
    Piece::Gap {
        offset,
        time,
        len,
        reason: GapReason::Unseen,
    }
}
