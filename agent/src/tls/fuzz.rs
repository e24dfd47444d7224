//! Deterministic drivers for fuzzing: every input is valid, and the module's invariants are asserted.

use super::handshake::{MAX_MESSAGE, MessageReader};
use super::keys::HEAD_LEN;
use super::record::{Deframer, Framed, MAX_BODY};
use super::{Output, Pool, PoolLimits, Session, SessionLimits, hello, looks_like_record};
use crate::flow::{Budget, Direction, GapReason, Origin, Payload, Piece};
use crate::kernel::record::{Caller, PointId, ProcessKey, SecretRecord};

/// The bodies of the hellos, as they come.
pub fn hellos(data: &[u8]) {
    if let Some(hello) = hello::client_hello(data) {
        let names = hello.sni.iter().chain(&hello.alpn);
        assert!(
            names.into_iter().all(|name| is_name(name)) && hello.alpn.len() <= hello::MAX_PROTOCOLS
        );
    }
    if let Ok(Some(hello)) = hello::server_hello(data) {
        assert!(hello.alpn.iter().all(|name| is_name(name)));
    }
    assert!(
        hello::encrypted_extensions(data)
            .alpn
            .iter()
            .all(|name| is_name(name))
    );
    looks_like_record(data);
}

fn is_name(name: &str) -> bool {
    name.len() <= hello::MAX_NAME
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// Handshake messages, split by the data's own bytes.
pub fn messages(data: &[u8]) {
    let (mut reader, mut out) = (MessageReader::new(), Vec::new());
    let mut rest = data;
    while let Some((control, after)) = rest.split_first() {
        let (part, after) = after.split_at(after.len().min(usize::from(*control % 64)));
        match control >> 6 {
            0 => reader.skip(part.len() * 9, &mut out),
            _ => reader.feed(part, &mut out),
        }
        assert!(reader.held() <= MAX_MESSAGE);
        rest = after;
    }
    assert!(out.len() <= data.len());
}

/// A connection: pieces of both directions, secrets, and time.
pub fn session(data: &[u8]) {
    let process = ProcessKey { pid: 1, start: 1 };
    let limits = SessionLimits {
        waiting: 3000,
        wait: 500,
        trials: 200,
        search: 64,
    };
    let budget = Budget::new(4000);
    let mut pool = Pool::new(PoolLimits {
        per_process: 8,
        total: 8,
        lifetime: 900,
        proven_lifetime: 900,
    });
    let mut session = Session::new(limits, &budget);
    let (mut offsets, mut plain, mut now) = ([0u64; 2], [0u64; 2], 0);
    let mut rest = data;
    while let Some((control, after)) = rest.split_first() {
        let (part, after) = after.split_at(after.len().min(1 + usize::from(control >> 3)));
        rest = after;
        now += u64::from(*control);
        let direction = if control & 1 == 0 {
            Direction::Sent
        } else {
            Direction::Received
        };
        let offset = offsets[direction.index()];
        let piece = match (control >> 1) & 3 {
            0 if control.is_multiple_of(5) => {
                pool.insert(secret(process, control >> 3, part, now));
                session.offer(&mut pool, &[process], now);
                None
            }
            0 if control % 5 == 1 => {
                session.expire(now);
                session.rest();
                None
            }
            0 => Some(Piece::Gap {
                offset,
                time: now,
                len: part.len() as u64 * 50,
                reason: GapReason::Policy,
            }),
            _ => Some(Piece::Data {
                offset,
                time: now,
                origin: Origin {
                    wire: offset,
                    within: 0,
                },
                bytes: Payload::copy_from(part),
            }),
        };
        if let Some(piece) = piece {
            offsets[direction.index()] += piece.len();
            session.push(direction, piece, &mut pool, &[process]);
        }
        drain(&mut session, &mut plain);
        assert!(session.held() <= limits.waiting && budget.used() <= budget.limit());
    }
    session.close();
    drain(&mut session, &mut plain);
    assert_eq!((session.held(), budget.used()), (0, 0));
    let facts = session.facts();
    for (counts, wire) in facts.counts.iter().zip(offsets) {
        assert_eq!(counts.wire, wire);
        assert!(
            counts.opened + counts.parts + counts.skipped + counts.early + counts.unopened
                <= counts.records
        );
    }
}

fn drain(session: &mut Session, plain: &mut [u64; 2]) {
    while let Some(output) = session.pop() {
        if let Output::Plain(direction, piece) = output {
            assert!(!piece.is_empty());
            assert_eq!(piece.offset(), plain[direction.index()]);
            plain[direction.index()] += piece.len();
        }
    }
}

fn secret(process: ProcessKey, kind: u8, bytes: &[u8], time: u64) -> SecretRecord {
    let labels = [
        "CLIENT_RANDOM",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    ];
    let mut secret = bytes.to_vec();
    secret.resize(if kind.is_multiple_of(3) { 32 } else { 48 }, kind);
    let caller = Caller {
        process,
        thread: 1,
        uid: 0,
        gid: 0,
        cgroup: 0,
        network_namespace: 0,
        comm: String::new(),
    };
    SecretRecord {
        time,
        caller,
        point: PointId(0),
        label: labels[usize::from(kind) % labels.len()].to_owned(),
        secret: Payload::from(secret),
        client_random: None,
    }
}

/// Records out of pieces: bounded, in order, and never beyond what was pushed.
pub fn records(data: &[u8]) {
    let mut deframer = Deframer::new();
    let (mut offset, mut end, mut rest) = (0u64, 0u64, data);
    while let Some((control, after)) = rest.split_first() {
        let (part, after) = after.split_at(after.len().min(usize::from(control & 63)));
        rest = after;
        let piece = match control >> 6 {
            0 => Piece::Gap {
                offset,
                time: 0,
                len: u64::from(*control) * 7,
                reason: GapReason::Unseen,
            },
            _ => Piece::Data {
                offset,
                time: 0,
                origin: Origin {
                    wire: offset,
                    within: 0,
                },
                bytes: Payload::copy_from(part),
            },
        };
        offset += piece.len();
        deframer.push(piece);
        while let Some(framed) = deframer.next() {
            if let Framed::Record(record) = framed {
                assert!(record.at >= end && record.end() <= offset);
                assert!(record.held() <= record.body_len() && record.body_len() <= MAX_BODY);
                assert_eq!(
                    record.end(),
                    record.at + (HEAD_LEN + record.body_len()) as u64
                );
                assert!(
                    record
                        .lost
                        .is_none_or(|lost| lost.from <= record.at && lost.from >= end)
                );
                end = record.end();
            }
        }
        assert!(deframer.held() <= MAX_BODY && deframer.position() == offset);
    }
}
