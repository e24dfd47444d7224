//! HTTP/2 on one connection (RFC 9113): requests paired with their responses, stream by stream.
//!
//! Each direction has a [`reader`] (frames to header blocks and bodies) and an [`hpack`] decoder; between them lie the
//! [`streams`]. A connection may be joined late and may lose bytes: the way is found again at a piece that begins with
//! a chain of frames, and header fields that refer to what was inserted before that are reported as unresolved
//! ([`Reason::FieldsUnresolved`]), never guessed.
//!
//! A request without `:method` or `:path` among its known fields is given out all the same, with what is known: its
//! credential counts. `:authority` becomes the field `host` where the request has none (RFC 9113 section 8.3.1).
//! What a CONNECT that was accepted carries is given out as it comes ([`Output::Tunnel`]); a WebSocket's messages
//! (RFC 8441) are not.
//! Pushed requests are the server's own words: they are decoded for the table's sake, and not given out.
//!
//! Invariant: each request whose head was read is given out in exactly one exchange.
//! Invariant: memory is bounded by [`Limits`], and what goes over them is reported.
//! Invariant: how the bytes are cut into pieces does not change what is given out, but for finding the way again.

pub(super) mod frame;
#[doc(hidden)]
pub mod fuzz;
mod hpack;
mod reader;
mod streams;
#[cfg(test)]
mod tests;

use super::draft::Common;
use super::head::{Exchange, Headers, Outcome, ProxyClaim, RequestHead, ResponseHead, Version};
use super::{Layer, Limits, Reason};
use crate::flow::{Direction, Nanos, Origin, Payload, Piece};
use hpack::{Decoder, Fields, Most};
use reader::{Event, Loss, Reader};
use streams::{Connect, Streams};

/// What comes out, in order.
#[expect(clippy::large_enum_variant, reason = "exchanges are the common case")]
pub enum Output {
    Exchange(Exchange),
    Unread(Reason),
    /// Bytes of the tunnel that this stream is, offsets from 0 in each direction.
    Tunnel(u32, Direction, Piece),
    /// A direction of a tunnel has ended.
    TunnelEnd(u32, Direction),
    /// Nothing more comes of a tunnel.
    TunnelOver(u32),
}

/// How a connection begins.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub layer: Layer,
    /// Direction of the requests.
    pub client: Direction,
    /// By direction: it is seen from its first byte.
    pub from_start: [bool; 2],
    /// What a PROXY header around this connection claimed.
    pub claim: Option<ProxyClaim>,
}

/// One connection; see the module.
pub struct Connection {
    layer: Layer,
    client: Direction,
    limits: Limits,
    lanes: [Lane; 2],
    streams: Streams,
}

/// One direction.
struct Lane {
    reader: Reader,
    decoder: Decoder,
    /// Where the next piece should begin.
    next: Option<u64>,
}

impl Connection {
    pub fn new(start: Start, limits: Limits) -> Self {
        let lane = |direction: Direction| {
            let mut decoder = Decoder::default();
            let reader = if start.from_start[direction.index()] {
                Reader::new(direction == start.client, limits.head)
            } else {
                decoder.forget();
                Reader::late(limits.head)
            };
            Lane {
                reader,
                decoder,
                next: None,
            }
        };
        Self {
            layer: start.layer,
            client: start.client,
            limits,
            lanes: [lane(Direction::Sent), lane(Direction::Received)],
            streams: Streams::new(
                Common {
                    client: start.client,
                    claim: start.claim,
                },
                limits,
            ),
        }
    }

    /// The request that asked for HTTP/2 is that of stream 1 (RFC 7540 section 3.2).
    pub fn upgraded(&mut self, exchange: Exchange, out: &mut Vec<Output>) {
        self.streams
            .upgraded(exchange.request, &exchange.request_body, out);
    }

    /// Takes the next piece of a direction.
    pub fn push(&mut self, direction: Direction, piece: Piece, out: &mut Vec<Output>) {
        let Self {
            layer,
            client,
            limits,
            lanes,
            streams,
        } = self;
        let lane = &mut lanes[direction.index()];
        let expected = lane
            .next
            .replace(piece.offset().saturating_add(piece.len()));
        let time = piece.time();
        let missing = expected.map_or(0, |expected| piece.offset().saturating_sub(expected));
        let Lane {
            reader, decoder, ..
        } = lane;
        let mut each = |event: Event<'_>| {
            Read {
                is_request: direction == *client,
                direction,
                time,
                most: Most {
                    fields: limits.fields,
                    bytes: limits.head,
                },
                decoder,
                streams,
                out: &mut *out,
            }
            .take(event)
        };
        if missing > 0 {
            reader.gap(missing, &mut each);
        }
        match piece {
            Piece::Gap { len, .. } => reader.gap(len, &mut each),
            Piece::Data {
                time,
                origin,
                bytes,
                ..
            } => {
                let place = |at: usize| (time, layer.advance(origin, at as u64));
                reader.data(&bytes, place, &mut each);
            }
        }
    }

    /// Gives out exchanges older than `max_age`.
    pub fn flush(&mut self, now: Nanos, max_age: Nanos, out: &mut Vec<Output>) {
        let old = |time: Nanos| now.saturating_sub(time) >= max_age;
        self.streams.give_all(Outcome::Unfinished, old, out);
    }

    /// The connection ended, or the agent stops: `outcome` is that of the requests without a response.
    pub fn finish(&mut self, outcome: Outcome, out: &mut Vec<Output>) {
        self.streams.give_all(outcome, |_| true, out);
    }

    pub fn request_direction(&self) -> Direction {
        self.client
    }

    /// When the oldest thing that waits began.
    pub fn waiting_since(&self) -> Option<Nanos> {
        self.streams.oldest()
    }

    /// Memory held beyond the connection itself and its tables, in bytes.
    pub fn held(&self) -> usize {
        let read: usize = self.lanes.iter().map(|lane| lane.reader.held()).sum();
        read + self.streams.held()
    }
}

/// What an event of one direction changes.
struct Read<'a> {
    is_request: bool,
    direction: Direction,
    time: Nanos,
    most: Most,
    decoder: &'a mut Decoder,
    streams: &'a mut Streams,
    out: &'a mut Vec<Output>,
}

impl Read<'_> {
    fn take(self, event: Event<'_>) {
        match event {
            Event::Block {
                stream,
                block,
                ends,
                place,
            } => self.block(stream, block, ends, place),
            Event::Promise { block } => {
                if self.decoder.decode(block, self.most).is_err() {
                    self.lose(Reason::Malformed);
                }
            }
            Event::Data {
                stream,
                bytes,
                place,
            } => {
                self.streams
                    .data(stream, self.direction, bytes, place, self.out);
            }
            Event::Hole { stream, len } => {
                self.streams
                    .hole(stream, self.direction, (len, self.time), self.out);
            }
            Event::End { stream } => self.streams.end(stream, self.direction, self.out),
            Event::Reset { stream } => self.streams.reset(stream, self.out),
            Event::Lost(loss) => self.lost(loss),
        }
    }

    fn block(self, stream: u32, block: &[u8], ends: bool, place: (Nanos, Origin)) {
        let Ok(fields) = self.decoder.decode(block, self.most) else {
            return self.lose(Reason::Malformed);
        };
        if fields.left_out > 0 {
            self.out.push(Output::Unread(Reason::TooManyFields));
        }
        if self.is_request {
            if !self.streams.has_request(stream) {
                if fields.unresolved > 0 {
                    self.out.push(Output::Unread(Reason::FieldsUnresolved));
                }
                let connect = Connect::of(&fields);
                let head = request(&fields, place);
                self.streams
                    .request(stream, (head, connect), fields.len(), self.out);
            }
        } else if self.streams.has_response(stream) {
            self.streams.trailers(stream, regular(&fields));
        } else {
            match response(&fields, place) {
                Some(head) => self.streams.response(stream, head, fields.len(), self.out),
                None if fields.pseudo(":status").is_none() => self.streams.unknown_response(stream),
                None => {}
            }
        }
        if ends {
            self.streams.end(stream, self.direction, self.out);
        }
    }

    fn lost(self, loss: Loss) {
        match loss {
            Loss::TooLong => self.lose(Reason::HeadTooLong),
            Loss::Malformed => self.lose(Reason::Malformed),
            Loss::Gap if self.is_request => self.lose(Reason::RequestLost),
            // Exchanges whose response it may have been say so.
            Loss::Gap => {
                self.decoder.forget();
                self.streams.lost(self.direction, self.out);
            }
        }
    }

    fn lose(self, reason: Reason) {
        self.out.push(Output::Unread(reason));
        self.decoder.forget();
        self.streams.lost(self.direction, self.out);
    }
}

impl Connect {
    fn of(fields: &Fields) -> Self {
        if fields.pseudo(":method") != Some(b"CONNECT") {
            Self::No
        } else if fields.pseudo(":protocol").is_some() {
            Self::Protocol
        } else {
            Self::Tunnel
        }
    }
}

fn request(fields: &Fields, (time, origin): (Nanos, Origin)) -> RequestHead {
    let pseudo = |name| fields.pseudo(name).unwrap_or_default();
    let authority = pseudo(":authority");
    let target = match fields.pseudo(":path") {
        Some(path) => path,
        // CONNECT (section 8.5).
        None => authority,
    };
    let named = fields.iter().any(|(name, _)| name == b"host");
    let host = (!named && !authority.is_empty()).then_some((&b"host"[..], authority));
    RequestHead {
        time,
        origin,
        version: Version::Http2,
        method: String::from_utf8_lossy(pseudo(":method")).into_owned(),
        target: Payload::copy_from(target),
        headers: Headers::of(host.into_iter().chain(regular(fields))),
    }
}

/// `None` for an interim response, and for one whose status is not known.
fn response(fields: &Fields, (time, origin): (Nanos, Origin)) -> Option<ResponseHead> {
    let status = std::str::from_utf8(fields.pseudo(":status")?).ok()?;
    let status = status.parse().ok().filter(|status| *status >= 200)?;
    Some(ResponseHead {
        time,
        origin,
        version: Version::Http2,
        status,
        headers: Headers::of(regular(fields)),
    })
}

fn regular(fields: &Fields) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
    fields.iter().filter(|(name, _)| !name.starts_with(b":"))
}
