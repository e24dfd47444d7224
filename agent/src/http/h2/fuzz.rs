//! Fuzz entry point: deterministic, asserting the connection's invariants.

use super::frame::{PREFACE, flag, kind};
use super::{Connection, Output, Start};
use crate::flow::{Direction, GapReason, Origin, Payload, Piece};
use crate::http::head::Outcome;
use crate::http::{Layer, Limits};
use std::collections::BTreeSet;

/// Frames, loose bytes, gaps and flushes, made of `data`. Its first byte says how the connection begins and how small
/// its limits are.
pub fn http2(data: &[u8]) {
    let Some((&first, mut rest)) = data.split_first() else {
        return;
    };
    let limits = match first & 4 {
        0 => Limits::default(),
        _ => Limits {
            head: 64,
            fields: 3,
            body_prefix: 4,
            outstanding: 2,
            queued: 2000,
            held: 400,
        },
    };
    let start = Start {
        layer: Layer::Socket,
        client: Direction::Sent,
        from_start: [first & 1 == 0, first & 2 == 0],
        claim: None,
    };
    let mut connection = Connection::new(start, limits);
    let mut out = Vec::new();
    let mut offsets = [0_u64; 2];
    let mut largest = 0;
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
        let size = usize::from(step >> 4);
        let offset = &mut offsets[direction.index()];
        let bytes = match step >> 1 & 7 {
            0 => {
                let piece = Piece::Gap {
                    offset: *offset,
                    time,
                    len: size as u64 + 1,
                    reason: GapReason::Unseen,
                };
                *offset += piece.len();
                connection.push(direction, piece, &mut out);
                continue;
            }
            1 => {
                connection.flush(time, size as u64, &mut out);
                continue;
            }
            2 => PREFACE.to_vec(),
            3 => taken(&mut rest, size * 4 + 1).to_vec(),
            // A frame of the next bytes: kind, flags and stream are such as lead somewhere.
            other => {
                let payload = taken(&mut rest, size * 2);
                let (kind, flags) = match other {
                    4 => (kind::HEADERS, flag::END_HEADERS | flag::END_STREAM),
                    5 => (kind::HEADERS, (size as u8) & !flag::PRIORITY),
                    6 => (kind::DATA, (size as u8) & flag::END_STREAM),
                    _ => (kind::CONTINUATION, flag::END_HEADERS),
                };
                let stream = 1 + 2 * (payload.len() as u8 % 4);
                let head = [0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
                [&head, payload].concat()
            }
        };
        largest = largest.max(bytes.len());
        let piece = Piece::Data {
            offset: *offset,
            time,
            origin: Origin {
                wire: *offset,
                within: 0,
            },
            bytes: Payload::from(bytes),
        };
        *offset += piece.len();
        connection.push(direction, piece, &mut out);
        // One entry more than is allowed stands while it is given out.
        assert!(connection.held() <= 4 * limits.head + limits.queued + 4096 + largest);
    }
    connection.finish(Outcome::Closed, &mut out);
    assert_eq!(
        connection.waiting_since(),
        None,
        "something was not given out"
    );
    let mut places = BTreeSet::new();
    for output in &out {
        let Output::Exchange(exchange) = output else {
            continue;
        };
        assert!(exchange.request_body.bytes.len() <= limits.body_prefix);
        assert!(exchange.response_body.bytes.len() <= limits.body_prefix);
        // The authority may become one more.
        assert!(exchange.request.headers.len() <= limits.fields + 1);
        let answered = exchange.outcome == Outcome::Answered;
        assert_eq!(exchange.response.is_some(), answered);
        let place = exchange.request.origin;
        assert!(places.insert(place), "given out twice");
    }
}

fn taken<'a>(rest: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, after) = rest.split_at(most.min(rest.len()));
    *rest = after;
    taken
}
