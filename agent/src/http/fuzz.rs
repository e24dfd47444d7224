//! Fuzz entry points: deterministic, asserting each parser's invariants.

use super::detect::{self, Detected};
use super::h1::{Connection, Output, Start};
use super::proxy::{self, Parsed};
use super::{Layer, Limits};
use crate::flow::{Direction, GapReason, Origin, Payload, Piece};
use crate::http::head::Outcome;

/// What every prefix says must be what longer ones say.
pub fn detect(data: &[u8]) {
    let mut settled = None;
    for len in 0..=data.len().min(2 * detect::UNDECIDED) {
        match (detect::detect(&data[..len]), settled) {
            (Detected::Is(start), None) => settled = Some(start),
            (now, Some(before)) => assert_eq!(now, Detected::Is(before)),
            (Detected::More, None) => assert!(len < detect::UNDECIDED),
        }
    }
}

/// The same for PROXY headers.
pub fn proxy(data: &[u8]) {
    let mut settled = None;
    for len in 0..=data.len().min(128) {
        match (proxy::parse(&data[..len]), settled) {
            (Parsed::More, before) => assert!(before.is_none() && len < 107),
            (now, None) => settled = Some(now),
            (now, Some(before)) => assert_eq!(now, before),
        }
    }
}

/// Pieces, gaps, flushes and an end, made of `data`. Its first byte says how the connection begins and how small its
/// limits are.
pub fn connection(data: &[u8]) {
    let Some((&first, mut rest)) = data.split_first() else {
        return;
    };
    let layer = if first & 1 == 0 {
        Layer::Socket
    } else {
        Layer::Record
    };
    let limits = match first & 4 {
        0 => Limits::default(),
        _ => Limits {
            head: 64,
            fields: 2,
            body_prefix: 4,
            outstanding: 2,
            queued: 2000,
            held: 400,
        },
    };
    let mut connection = Connection::new(
        Start {
            layer,
            from_start: first & 2 == 0,
            claim: None,
        },
        limits,
    );
    let mut out = Vec::new();
    let mut offsets = [0_u64; 2];
    let mut requests_most = 0;
    for time in 1.. {
        let Some((&step, after)) = rest.split_first() else {
            break;
        };
        rest = after;
        let direction = if step & 1 == 0 {
            Direction::Sent
        } else {
            Direction::Received
        };
        let offset = &mut offsets[direction.index()];
        let piece = match step >> 1 & 7 {
            0 => {
                let len = u64::from(step >> 4) + 1;
                Piece::Gap {
                    offset: *offset,
                    time,
                    len,
                    reason: GapReason::Unseen,
                }
            }
            1 => {
                connection.flush(time, u64::from(step >> 4), &mut out);
                continue;
            }
            // Whole messages make progress where random bytes would not.
            kind @ (2 | 3) => {
                let message = message(kind == 2, step >> 4);
                requests_most += 1;
                Piece::Data {
                    offset: *offset,
                    time,
                    origin: origin(*offset),
                    bytes: Payload::copy_from(message),
                }
            }
            _ => {
                let (bytes, after) = rest.split_at(rest.len().min(usize::from(step >> 4) * 4 + 1));
                rest = after;
                // A request takes 14 bytes at least.
                requests_most += bytes.len();
                Piece::Data {
                    offset: *offset,
                    time,
                    origin: origin(*offset),
                    bytes: Payload::copy_from(bytes),
                }
            }
        };
        *offset += piece.len();
        connection.push(direction, piece, &mut out);
        assert!(connection.held() <= 2 * limits.head + limits.queued + 2 * limits.held);
    }
    connection.finish(Outcome::Closed, &mut out);
    let ended = out.len();
    let piece = Piece::Gap {
        offset: offsets[0],
        time: u64::MAX,
        len: u64::MAX,
        reason: GapReason::Unseen,
    };
    connection.push(Direction::Sent, piece, &mut out);
    connection.flush(u64::MAX, 0, &mut out);
    connection.finish(Outcome::Closed, &mut out);
    assert_eq!(out.len(), ended, "nothing comes after the end");
    check(&out, &limits, requests_most);
}

fn origin(offset: u64) -> Origin {
    Origin {
        wire: offset,
        within: 0,
    }
}

fn message(request: bool, kind: u8) -> &'static [u8] {
    match (request, kind) {
        (true, 0..6) => b"GET / HTTP/1.1\r\n\r\n",
        (true, 6..8) => b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc",
        (true, 8..10) => b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabc",
        (true, 10..12) => b"HEAD / HTTP/1.1\r\n\r\n",
        (true, 12..14) => b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        (true, _) => b"GET / HTTP/1.1\r\nupgrade: h2c\r\n\r\n",
        (false, 0..6) => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        (false, 6..8) => b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        (false, 8..10) => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabc",
        (false, 10..12) => b"HTTP/1.1 100 Continue\r\n\r\n",
        (false, 12..14) => b"HTTP/1.1 200 OK\r\n\r\n",
        (false, _) => b"HTTP/1.1 101 Switching\r\n\r\n",
    }
}

fn check(out: &[Output], limits: &Limits, requests_most: usize) {
    let mut next = [0_u64; 2];
    let (mut exchanges, mut switches) = (0, 0);
    let mut last = None;
    for output in out {
        match output {
            Output::Exchange(exchange) => {
                exchanges += 1;
                assert!(exchange.request_body.bytes.len() <= limits.body_prefix);
                assert!(exchange.response_body.bytes.len() <= limits.body_prefix);
                assert!(exchange.request.headers.len() <= limits.fields);
                assert_eq!(
                    exchange.response.is_some(),
                    exchange.outcome == Outcome::Answered
                );
                let place = exchange.request.origin;
                assert!(last != Some(place), "given out twice");
                last = Some(place);
            }
            Output::Switched(_) => switches += 1,
            Output::Inner(direction, piece) => {
                assert_eq!(switches, 1);
                assert_eq!(piece.offset(), next[direction.index()]);
                next[direction.index()] += piece.len();
            }
            Output::Unread(_) => {}
        }
    }
    assert!(switches <= 1 && exchanges <= requests_most);
}
