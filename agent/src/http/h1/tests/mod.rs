//! Whole conversations, at every cut.

mod conversations;
mod generated;
mod losses;
mod parsers;
mod switches;

use super::{Connection, Layer, Limits, Output, Start};
use crate::flow::{Direction, GapReason, Origin, Payload, Piece};
use crate::http::head::{BodyPrefix, Exchange, Headers, Outcome};
use Direction::{Received, Sent};

/// What one side did at one time; part `n` of a conversation happens at time `n + 1`.
#[derive(Clone)]
enum Part {
    Data(Direction, Vec<u8>),
    Gap(Direction, u64),
}

fn sent(bytes: impl AsRef<[u8]>) -> Part {
    Part::Data(Sent, bytes.as_ref().to_vec())
}

fn received(bytes: impl AsRef<[u8]>) -> Part {
    Part::Data(Received, bytes.as_ref().to_vec())
}

fn gap(direction: Direction, len: u64) -> Part {
    Part::Gap(direction, len)
}

const START: Start = Start {
    layer: Layer::Socket,
    from_start: true,
    claim: None,
};

/// How a conversation is given to the connection.
#[derive(Clone)]
struct Play {
    parts: Vec<Part>,
    from_start: bool,
    limits: Limits,
    /// Outcome given to `finish`.
    end: Outcome,
}

fn play(parts: impl Into<Vec<Part>>) -> Play {
    Play {
        parts: parts.into(),
        from_start: true,
        limits: Limits::default(),
        end: Outcome::Closed,
    }
}

impl Play {
    fn late(self) -> Self {
        Self {
            from_start: false,
            ..self
        }
    }

    fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The pieces, with the data of each part cut by `cut` (given the part's number and length: the cuts).
    fn pieces(&self, cut: impl Fn(usize, usize) -> Vec<usize>) -> Vec<(Direction, Piece)> {
        let mut offsets = [0_u64; 2];
        let mut pieces = Vec::new();
        for (at, part) in self.parts.iter().enumerate() {
            let time = at as u64 + 1;
            match part {
                Part::Gap(direction, len) => {
                    let offset = offsets[direction.index()];
                    pieces.push((
                        *direction,
                        Piece::Gap {
                            offset,
                            time,
                            len: *len,
                            reason: GapReason::Unseen,
                        },
                    ));
                    offsets[direction.index()] += len;
                }
                Part::Data(direction, bytes) => {
                    let mut cuts = cut(at, bytes.len());
                    cuts.insert(0, 0);
                    cuts.push(bytes.len());
                    for pair in cuts.windows(2) {
                        let offset = offsets[direction.index()];
                        let bytes = Payload::copy_from(&bytes[pair[0]..pair[1]]);
                        offsets[direction.index()] += bytes.len() as u64;
                        let origin = Origin {
                            wire: offset,
                            within: 0,
                        };
                        pieces.push((
                            *direction,
                            Piece::Data {
                                offset,
                                time,
                                origin,
                                bytes,
                            },
                        ));
                    }
                }
            }
        }
        pieces
    }

    fn run(&self, pieces: Vec<(Direction, Piece)>) -> Vec<String> {
        let start = Start {
            layer: Layer::Socket,
            from_start: self.from_start,
            claim: None,
        };
        let mut connection = Connection::new(start, self.limits);
        let mut out = Vec::new();
        for (direction, piece) in pieces {
            connection.push(direction, piece, &mut out);
        }
        connection.finish(self.end, &mut out);
        self.check_places(&out);
        let before = out.len();
        connection.finish(self.end, &mut out);
        assert_eq!(out.len(), before, "nothing comes after the end");
        render(out)
    }

    /// Each head's time and origin are those of the byte that begins it.
    fn check_places(&self, out: &[Output]) {
        let mut streams = [vec![], vec![]];
        for (at, part) in self.parts.iter().enumerate() {
            let time = at as u64 + 1;
            match part {
                Part::Data(direction, bytes) => {
                    streams[direction.index()].extend(bytes.iter().map(|byte| (time, *byte)));
                }
                Part::Gap(direction, len) => {
                    streams[direction.index()].extend((0..*len).map(|_| (time, 0)));
                }
            }
        }
        let check = |direction: Direction, time: u64, origin: Origin, start: &str| {
            let at = origin.wire as usize;
            let found = &streams[direction.index()][at..at + start.len()];
            assert_eq!(found[0].0, time, "time of {start}");
            assert!(
                found.iter().map(|(_, byte)| *byte).eq(start.bytes()),
                "place of {start}"
            );
        };
        for output in out {
            let Output::Exchange(exchange) = output else {
                continue;
            };
            let (client, request) = (exchange.request_direction, &exchange.request);
            check(client, request.time, request.origin, &request.method);
            if let Some(response) = &exchange.response {
                check(client.opposite(), response.time, response.origin, "HTTP/1.");
            }
        }
    }

    /// Runs whole, with one cut at each place of each part, and byte by byte.
    #[track_caller]
    fn gives(&self, expected: &[&str]) {
        assert_eq!(self.run(self.pieces(|_, _| vec![])), expected, "whole");
        for (at, part) in self.parts.iter().enumerate() {
            let Part::Data(_, bytes) = part else { continue };
            for cut in 1..bytes.len() {
                let pieces = self.pieces(|part, _| if part == at { vec![cut] } else { vec![] });
                assert_eq!(self.run(pieces), expected, "part {at} cut at {cut}");
            }
        }
        assert_eq!(
            self.run(self.pieces(|_, len| (1..len).collect())),
            expected,
            "byte by byte"
        );
    }

    /// Also with each direction's pieces pushed all before the other's, times as they are.
    #[track_caller]
    fn gives_in_any_order(&self, expected: &[&str]) {
        self.gives(expected);
        for first in [Sent, Received] {
            for bytewise in [false, true] {
                let cut = |_: usize, len: usize| if bytewise { (1..len).collect() } else { vec![] };
                let (mut pieces, rest): (Vec<_>, Vec<_>) = self
                    .pieces(cut)
                    .into_iter()
                    .partition(|(direction, _)| *direction == first);
                pieces.extend(rest);
                assert_eq!(
                    self.run(pieces),
                    expected,
                    "{first:?} first, byte by byte: {bytewise}"
                );
            }
        }
    }
}

/// One line for each output, inner bytes joined at the end.
fn render(out: Vec<Output>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inner = [(0, String::new()), (0, String::new())];
    for output in out {
        match output {
            Output::Exchange(exchange) => lines.push(render_exchange(&exchange)),
            Output::Switched(switch) => lines.push(format!("switched {switch:?}")),
            Output::Unread(reason) => lines.push(format!("unread {reason:?}")),
            Output::Inner(direction, piece) => {
                let (next, text) = &mut inner[direction.index()];
                assert_eq!(piece.offset(), *next, "inner offsets are contiguous from 0");
                *next += piece.len();
                match piece {
                    Piece::Data { bytes, .. } => text.push_str(&bytes.escape_ascii().to_string()),
                    Piece::Gap { len, .. } => text.push_str(&format!("<{len}>")),
                }
            }
        }
    }
    for (direction, (_, text)) in [Sent, Received].into_iter().zip(inner) {
        if !text.is_empty() {
            lines.push(format!("inner {direction:?} {text}"));
        }
    }
    lines
}

pub(in crate::http) fn render_exchange(exchange: &Exchange) -> String {
    let request = &exchange.request;
    let mut line = format!(
        "{:?} {} {}{} {}",
        exchange.request_direction,
        request.method,
        request.target.escape_ascii(),
        render_headers(&request.headers),
        render_body(&exchange.request_body),
    );
    match &exchange.response {
        Some(response) => line.push_str(&format!(
            " => {}{} {}",
            response.status,
            render_headers(&response.headers),
            render_body(&exchange.response_body)
        )),
        None => assert!(exchange.response_body.bytes.is_empty() && !exchange.response_body.whole),
    }
    if let Some(status) = exchange.grpc_status {
        line.push_str(&format!(" grpc {status}"));
    }
    if exchange.outcome != Outcome::Answered {
        line.push_str(&format!(" => {:?}", exchange.outcome));
    }
    if let Some(claim) = exchange.proxy_claim {
        line.push_str(&format!(" for {} v{}", claim.source, claim.version));
    }
    line
}

/// Without what only says how long the body is.
fn render_headers(headers: &Headers) -> String {
    let shown = headers
        .iter()
        .filter(|(name, _)| *name != "content-length" && *name != "transfer-encoding");
    shown
        .map(|(name, value)| format!(" {name}={}", value.escape_ascii()))
        .collect()
}

fn render_body(body: &BodyPrefix) -> String {
    format!(
        "{}{}",
        body.bytes.escape_ascii(),
        if body.whole { "." } else { "…" }
    )
}
