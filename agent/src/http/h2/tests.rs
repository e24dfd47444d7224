//! Whole conversations, at every cut, with losses, joined late.

use super::*;
use crate::flow::GapReason;
use crate::http::h1::tests::render_exchange;
use Direction::{Received, Sent};
use frame::{flag, kind};
use std::collections::BTreeMap;

enum Part {
    Data(Direction, Vec<u8>),
    Gap(Direction, u64),
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&len[1..], &[kind, flags], &stream, payload].concat()
}

/// Inserted into the table, without Huffman coding.
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [&[0x40][..], &text(name), &text(value)].concat()
}

const GET: &[u8] = &[0x82];
const OK: &[u8] = &[0x88];
const NOT_FOUND: &[u8] = &[0x8d];
/// The newest of the inserted.
const NEWEST: &[u8] = &[0xbe];

fn request(stream: u32, flags: u8, path: &str, more: &[u8]) -> Vec<u8> {
    let block = [GET, &field(":path", path), more].concat();
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, &block)
}

fn response(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, block)
}

fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, bytes)
}

fn settings() -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])
}

fn preface() -> Vec<u8> {
    [&frame::PREFACE[..], &settings()].concat()
}

fn begin() -> Vec<Part> {
    vec![
        Part::Data(Sent, preface()),
        Part::Data(Received, settings()),
    ]
}

fn sent(frames: &[Vec<u8>]) -> Part {
    Part::Data(Sent, frames.concat())
}

fn received(frames: &[Vec<u8>]) -> Part {
    Part::Data(Received, frames.concat())
}

const END: u8 = flag::END_STREAM;

fn limits() -> Limits {
    Limits {
        body_prefix: 16,
        ..Limits::default()
    }
}

/// Every part in pieces of at most `cut` bytes.
fn run(parts: &[Part], from_start: bool, cut: usize, limits: Limits) -> Vec<String> {
    let start = Start {
        layer: Layer::Socket,
        client: Sent,
        from_start: [from_start; 2],
        claim: None,
    };
    let mut connection = Connection::new(start, limits);
    let mut offsets = [0; 2];
    let mut out = Vec::new();
    for (time, part) in (1..).zip(parts) {
        let mut push = |direction: Direction, piece: &dyn Fn(u64) -> Piece| {
            let offset = &mut offsets[direction.index()];
            let piece = piece(*offset);
            *offset += piece.len();
            connection.push(direction, piece, &mut out);
        };
        match part {
            Part::Gap(direction, len) => push(*direction, &|offset| Piece::Gap {
                offset,
                time,
                len: *len,
                reason: GapReason::Unseen,
            }),
            Part::Data(direction, bytes) => {
                for bytes in bytes.chunks(cut) {
                    push(*direction, &|offset| Piece::Data {
                        offset,
                        time,
                        origin: Origin {
                            wire: offset,
                            within: 0,
                        },
                        bytes: Payload::copy_from(bytes),
                    });
                }
            }
        }
    }
    connection.finish(Outcome::Closed, &mut out);
    assert_eq!(
        connection.streams.oldest(),
        None,
        "something was not given out"
    );
    let mut through: BTreeMap<(u32, usize), String> = BTreeMap::new();
    out.iter()
        .filter_map(|output| match output {
            Output::Exchange(exchange) => Some(render_exchange(exchange)),
            Output::Unread(reason) => Some(format!("unread {reason:?}")),
            Output::Tunnel(stream, direction, piece) => {
                let text = through.entry((*stream, direction.index())).or_default();
                match piece {
                    Piece::Data { bytes, .. } => *text += &String::from_utf8_lossy(bytes.as_ref()),
                    Piece::Gap { len, .. } => *text += &format!("<{len}>"),
                }
                None
            }
            Output::TunnelEnd(stream, direction) => {
                let text = through.remove(&(*stream, direction.index()));
                Some(format!(
                    "{stream} {direction:?} {}",
                    text.unwrap_or_default()
                ))
            }
            Output::TunnelOver(stream) => Some(format!("{stream} over")),
        })
        .collect()
}

#[track_caller]
fn gives(parts: &[Part], expected: &[&str]) {
    for cut in [usize::MAX, 1, 2, 3, 5, 8, 9, 10, 13, 24, 64] {
        assert_eq!(run(parts, true, cut, limits()), expected, "pieces of {cut}");
    }
}

fn talk(more: impl IntoIterator<Item = Part>) -> Vec<Part> {
    begin().into_iter().chain(more).collect()
}

#[test]
fn streams_are_paired_whatever_their_order() {
    gives(
        &talk([
            sent(&[
                request(1, END, "/a", &field("authorization", "Bearer x")),
                request(3, 0, "/b", &field(":authority", "h.example")),
                data(3, END, b"body"),
                request(5, END, "/c", &[0xc1]),
            ]),
            received(&[
                response(5, END, NOT_FOUND),
                response(3, 0, &[OK, &field("server", "s")].concat()),
                data(3, 0, b"one "),
                response(1, 0, &[OK, NEWEST].concat()),
                data(3, END, b"two"),
                data(1, END, b""),
            ]),
        ]),
        &[
            // 0xc1: the fourth newest of the inserted, `authorization`.
            "Sent GET /c authorization=Bearer x . => 404 .",
            "Sent GET /b host=h.example body. => 200 server=s one two.",
            "Sent GET /a authorization=Bearer x . => 200 server=s .",
        ],
    );
}

#[test]
fn blocks_in_parts_padding_and_priority() {
    let block = [GET, &field(":path", "/long"), &field("x", "y")].concat();
    let mut first = vec![3, 0x80, 0, 0, 0, 7];
    first.extend_from_slice(&block[..4]);
    first.extend_from_slice(&[0; 3]);
    let padded = flag::PADDED | flag::PRIORITY | END;
    gives(
        &talk([
            sent(&[
                frame(kind::PRIORITY, 0, 1, &[0; 5]),
                frame(kind::HEADERS, padded, 1, &first),
                frame(kind::CONTINUATION, 0, 1, &block[4..9]),
                frame(kind::CONTINUATION, flag::END_HEADERS, 1, &block[9..]),
                frame(kind::PING, 0, 0, &[0; 8]),
                frame(0x77, 0xff, 9, b"unknown"),
            ]),
            received(&[
                frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
                response(1, 0, &[0x48, 3, b'1', b'0', b'3']),
                response(1, 0, OK),
                data(1, flag::PADDED, &[&[2][..], b"ab", &[0; 2]].concat()),
                // Trailers.
                response(1, END, &field("grpc-status", "0")),
                frame(kind::GOAWAY, 0, 0, &[0; 8]),
            ]),
        ]),
        &["Sent GET /long x=y . => 200 ab. grpc 0"],
    );
}

#[test]
fn a_grpc_call_waits_for_its_end() {
    let called = || field("content-type", "application/grpc+proto");
    let long = b"longer than the prefix of a body that is handed on";
    gives(
        &talk([
            sent(&[
                request(1, 0, "/a.B/Denied", &called()),
                data(1, END, long),
                request(3, END, "/a.B/Refused", &[0xbf]),
                request(5, END, "/a.B/Cut", &[0xc0]),
            ]),
            received(&[
                response(1, 0, OK),
                data(1, 0, long),
                // Nothing but a head.
                response(3, END, &[OK, &field("grpc-status", "16")].concat()),
                response(5, 0, OK),
                response(1, END, &field("grpc-status", "7")),
                frame(kind::RST_STREAM, 0, 5, &[0, 0, 0, 8]),
            ]),
        ]),
        &[
            "Sent GET /a.B/Refused content-type=application/grpc+proto . => 200 grpc-status=16 . grpc 16",
            "Sent GET /a.B/Denied content-type=application/grpc+proto longer than the … => 200 longer than the … grpc 7",
            "Sent GET /a.B/Cut content-type=application/grpc+proto . => 200 …",
        ],
    );
}

/// CONNECT and `:authority`, or an extended one.
fn connect(stream: u32, more: &[u8]) -> Vec<u8> {
    let block = [
        &field(":method", "CONNECT"),
        &field(":authority", "h.example:443"),
        more,
    ]
    .concat();
    frame(kind::HEADERS, flag::END_HEADERS, stream, &block)
}

#[test]
fn an_accepted_connect_is_a_tunnel() {
    gives(
        &talk([
            sent(&[
                connect(1, &field("proxy-authorization", "Bearer x")),
                // Read before the answer is: the other direction comes from another CPU.
                data(1, 0, b"early, "),
            ]),
            received(&[response(1, 0, OK), data(1, 0, b"hello")]),
            sent(&[request(3, END, "/b", &[]), data(1, END, b"later")]),
            received(&[response(3, END, OK), data(1, END, b"!")]),
        ]),
        &[
            "Sent CONNECT h.example:443 host=h.example:443 proxy-authorization=Bearer x . => 200 .",
            "1 Sent early, later",
            "Sent GET /b . => 200 .",
            "1 Received hello!",
            "1 over",
        ],
    );
    // What was read before the answer, beyond what is kept of a body, is not known.
    gives(
        &talk([
            sent(&[connect(1, &[]), data(1, END, b"0123456789abcdef and more")]),
            received(&[response(1, 0, OK), frame(kind::RST_STREAM, 0, 1, &[0; 4])]),
        ]),
        &[
            "Sent CONNECT h.example:443 host=h.example:443 . => 200 .",
            "1 over",
        ],
    );
    // Refused, it is an exchange like others.
    gives(
        &talk([
            sent(&[connect(1, &[])]),
            received(&[response(1, 0, NOT_FOUND), data(1, END, b"no")]),
            sent(&[data(1, END, b"")]),
        ]),
        &["Sent CONNECT h.example:443 host=h.example:443 . => 404 no."],
    );
    // A WebSocket's exchange does not wait for its end.
    gives(
        &talk([
            sent(&[connect(
                1,
                &[
                    field(":protocol", "websocket"),
                    field(":path", "/chat?token=x"),
                ]
                .concat(),
            )]),
            received(&[response(1, 0, OK), data(1, 0, b"frames")]),
        ]),
        &["Sent CONNECT /chat?token=x host=h.example:443 . => 200 ."],
    );
}

#[test]
fn pushes_resets_and_ends() {
    let promised = [&[0, 0, 0, 2][..], GET, &field("x", "pushed")].concat();
    gives(
        &talk([
            sent(&[
                request(1, END, "/", &[]),
                request(3, END, "/reset", &[]),
                request(5, END, "/open", &[]),
            ]),
            received(&[
                frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &promised),
                response(2, END, OK),
                // What the promise inserted is the newest.
                response(1, END, &[OK, NEWEST].concat()),
                frame(kind::RST_STREAM, 0, 3, &[0, 0, 0, 8]),
            ]),
        ]),
        &[
            "Sent GET / . => 200 x=pushed .",
            "Sent GET /reset . => Closed",
            "Sent GET /open . => Closed",
        ],
    );
}

#[test]
fn a_gap_in_a_body_loses_nothing_else() {
    let parts = talk([
        sent(&[request(1, END, "/big", &[])]),
        Part::Data(
            Received,
            [response(1, 0, OK), data(1, END, &[b'x'; 64])[..20].to_vec()].concat(),
        ),
        Part::Gap(Received, 64 + 9 - 20),
        sent(&[request(3, END, "/next", &[])]),
        received(&[response(3, END, NOT_FOUND)]),
    ]);
    gives(
        &parts,
        &[
            "Sent GET /big . => 200 xxxxxxxxxxx…",
            "Sent GET /next . => 404 .",
        ],
    );
}

/// A gap over the bounds of frames: what was inserted before it is unknown, what is inserted after is not.
#[test]
fn the_way_is_lost_and_found() {
    let parts = talk([
        sent(&[request(1, END, "/a", &field("authorization", "Bearer x"))]),
        received(&[response(1, END, OK)]),
        sent(&[request(3, END, "/b", &[])]),
        Part::Gap(Received, 1000),
        Part::Gap(Sent, 50),
        // No proof: this may be the middle of anything.
        Part::Data(Sent, b"GET / HTTP/1.1".to_vec()),
        sent(&[
            frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
            request(9, END, "/c", NEWEST),
            request(11, END, "/d", &[0xc0]),
        ]),
        received(&[response(9, END, NOT_FOUND), response(11, END, OK)]),
    ]);
    assert_eq!(
        run(&parts, true, usize::MAX, limits()),
        [
            "Sent GET /a authorization=Bearer x . => 200 .",
            "unread RequestLost",
            "unread FieldsUnresolved",
            // The newest is its own path.
            "Sent GET /c . => 404 .",
            "Sent GET /d . => 200 .",
            "Sent GET /b . => ResponseLost",
        ]
    );
}

#[test]
fn joined_late() {
    let parts = [
        Part::Data(Sent, b"the end of a body".to_vec()),
        received(&[response(7, END, OK)]),
        sent(&[request(9, END, "/late", &[0xbf])]),
        received(&[response(9, END, OK)]),
    ];
    assert_eq!(
        run(&parts, false, usize::MAX, limits()),
        [
            "unread FieldsUnresolved",
            "Sent GET /late . => 200 .",
            "unread ResponseWithoutRequest",
        ]
    );
}

#[test]
fn limits_hold() {
    let few = Limits {
        outstanding: 2,
        head: 64,
        fields: 3,
        ..limits()
    };
    let long = [GET, &field("x", &"y".repeat(80))].concat();
    let parts = talk([
        sent(&[
            request(1, END, "/1", &[]),
            request(3, END, "/3", &[]),
            request(5, END, "/5", &[]),
            frame(kind::HEADERS, END, 7, &long),
            frame(kind::CONTINUATION, flag::END_HEADERS, 7, &long),
            request(9, END, "/9", &[field("a", "b"), field("c", "d")].concat()),
        ]),
        received(&[response(5, END, OK), response(1, END, OK)]),
    ]);
    assert_eq!(
        run(&parts, true, usize::MAX, few),
        [
            "unread TooManyOutstanding",
            "Sent GET /1 . => Unfinished",
            "unread HeadTooLong",
            "unread TooManyFields",
            "unread TooManyOutstanding",
            "Sent GET /3 . => Unfinished",
            "Sent GET /5 . => 200 .",
            "Sent GET /9 a=b . => Closed",
        ]
    );
}

#[test]
fn what_is_no_frame_is_said() {
    let parts = talk([
        sent(&[request(1, END, "/", &[]), frame(kind::PING, 0, 1, &[0; 8])]),
        received(&[response(1, END, &[0xff, 0xff])]),
    ]);
    assert_eq!(
        run(&parts, true, usize::MAX, limits()),
        [
            "unread Malformed",
            "unread Malformed",
            "Sent GET / . => ResponseLost"
        ]
    );
}
