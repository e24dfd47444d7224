//! Fuzz entry point: ring records made of arbitrary bytes, through everything, to events.

use super::{Pipeline, synthetic};
use crate::{
    budget::WHOLE,
    flow::{Direction, Nanos},
    kernel::{
        points::Points,
        record::{Arguments, Closed, FileId, ProcessRecord, Record},
    },
};
use agent_common::event::Body;
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;

/// Connections that are followed at the same time, fewer than the records name.
const CONNECTIONS: usize = 4;
/// As much of a secret in an event is a leak. Less may be chance.
const LEAK: usize = 13;

/// Operations of one control byte (connection, kind), an argument and the bytes that it asks for.
///
/// Asserts that connections are bounded, that events are numbered without a hole, that the counters' sums hold, that
/// nothing is held at the end, and that no event shows a part of a secret that a request carried in a place of
/// credentials, however the request was cut, lost or put out of order.
pub fn fuzz(data: &[u8]) {
    let Some(pipeline) = synthetic::pipeline(synthetic::limits(CONNECTIONS), Points::default())
    else {
        return;
    };
    let mut driver = Driver {
        pipeline,
        offsets: [[0; 2]; 8],
        now: 2_000_000_000,
        parts: HashSet::new(),
        requests: 0,
        sequence: 0,
        usage: 0,
        coverage: 0,
    };
    let mut rest = data;
    while let [control, argument, after @ ..] = rest {
        rest = driver.step(*control, *argument, after);
        driver.check();
    }
    driver.pipeline.finish(driver.now);
    driver.check();
    let skipped = driver.pipeline.take_skipped().map_or(0, |told| told.count);
    let pipeline = &driver.pipeline;
    assert_eq!(pipeline.counters().exchanges_skipped, skipped);
    assert_eq!(pipeline.connections(), 0);
    assert_eq!(pipeline.settings.budget.used(), 0);
    let counters = pipeline.counters();
    assert_eq!(counters.sums(), Ok(()));
    assert_eq!(counters.usage_events, driver.usage);
    assert_eq!(counters.coverage_events, driver.coverage);
    assert_eq!(
        counters.connections_read + counters.connections_unread,
        counters.connections
    );
}

struct Driver {
    pipeline: Pipeline,
    offsets: [[u64; 2]; 8],
    now: Nanos,
    /// Of the secrets: what no event may show.
    parts: HashSet<[u8; LEAK]>,
    requests: u8,
    sequence: u64,
    usage: u64,
    coverage: u64,
}

impl Driver {
    /// What a library may have given, of this generation or another, after the records or before them.
    fn plaintext(&mut self, connection: u8, direction: Direction, how: [u8; 2], bytes: &[u8]) {
        let [high, low] = how;
        if low == 0 {
            let (time, connection) = (self.now, synthetic::connection(connection));
            let untied = Closed { time, connection };
            return self.pipeline.record(Record::Untied(untied));
        }
        let offset = u64::from(low & 0x3f);
        let mut plaintext = synthetic::plaintext(connection, direction, offset, bytes, self.now);
        plaintext.generation = u32::from(low >> 6);
        plaintext.skipped = u64::from(high & 0x0f);
        plaintext.wire = u64::from(high);
        self.pipeline.record(Record::Plaintext(plaintext));
    }

    fn step<'a>(&mut self, control: u8, argument: u8, data: &'a [u8]) -> &'a [u8] {
        let connection = control & 7;
        let direction = if argument & 1 == 0 {
            Direction::Sent
        } else {
            Direction::Received
        };
        self.now += u64::from(argument);
        let (bytes, after) = data.split_at(data.len().min(usize::from(argument >> 1) + 1));
        match control >> 3 {
            0 => {
                self.pipeline.tick(self.now);
                data
            }
            1 => {
                self.now += u64::from(argument) * 100;
                self.pipeline.tick(self.now);
                data
            }
            2 => {
                self.offsets[usize::from(connection)] = [0; 2];
                self.pipeline.record(Record::Closed(Closed {
                    time: self.now,
                    connection: synthetic::connection(connection),
                }));
                data
            }
            3 => {
                self.secret(connection, argument, bytes);
                after
            }
            4 => {
                self.process(connection, argument, bytes);
                after
            }
            // Bytes that nothing saw, or that the policy left out.
            5 => {
                let offset = &mut self.offsets[usize::from(connection)][direction.index()];
                *offset += u64::from(argument) * 16;
                let mut chunk =
                    synthetic::chunk(connection, direction, *offset, Vec::new(), self.now);
                chunk.skipped = u64::from(argument & 0xfe) * 16;
                self.pipeline.record(Record::Chunk(chunk));
                data
            }
            6 => {
                let offset = self.offsets[usize::from(connection)][direction.index()];
                let mut chunk =
                    synthetic::chunk(connection, direction, offset, Vec::new(), self.now);
                chunk.end = true;
                self.pipeline.record(Record::Chunk(chunk));
                data
            }
            // Anywhere, moved by another process, not from the start.
            7 => {
                let [high, low, bytes @ ..] = bytes else {
                    return after;
                };
                if argument & 0x70 == 0x50 {
                    self.plaintext(connection, direction, [*high, *low], bytes);
                    return after;
                }
                let offset = match argument % 4 {
                    0 => u64::MAX - u64::from(*low),
                    _ => u64::from(u16::from_be_bytes([*high, *low])),
                };
                let mut chunk = synthetic::chunk(connection, direction, offset, bytes, self.now);
                chunk.caller = synthetic::caller(high % 8);
                chunk.from_start = low % 2 == 0;
                self.pipeline.record(Record::Chunk(chunk));
                after
            }
            8..16 => {
                let response = &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"[..];
                self.message(connection, direction, response, argument);
                data
            }
            16..24 => {
                let request = self.request(control >> 3, bytes);
                self.message(connection, direction, request.as_bytes(), argument);
                after
            }
            24..31 => {
                self.push(connection, direction, bytes);
                after
            }
            _ => {
                self.afford(argument);
                data
            }
        }
    }

    /// The agent's own budget: less is read, or everything; what waits is given up; the probes rest.
    fn afford(&mut self, argument: u8) {
        match argument % 8 {
            share @ 0..6 => {
                let shares = [0, 1, WHOLE / 2, WHOLE / 2, WHOLE, WHOLE];
                self.pipeline.set_share(shares[usize::from(share)]);
            }
            6 => drop(self.pipeline.shed(self.now)),
            _ => {
                self.pipeline.leave(self.now);
                assert_eq!(self.pipeline.connections(), 0);
                assert_eq!(self.pipeline.settings.budget.used(), 0);
            }
        }
    }

    fn push(&mut self, connection: u8, direction: Direction, bytes: &[u8]) {
        let offset = &mut self.offsets[usize::from(connection)][direction.index()];
        let chunk = synthetic::chunk(connection, direction, *offset, bytes, self.now);
        *offset += bytes.len() as u64;
        self.pipeline.record(Record::Chunk(chunk));
    }

    /// Whole, in two parts, in two parts of which the second comes first, or without its begin.
    fn message(&mut self, connection: u8, direction: Direction, bytes: &[u8], argument: u8) {
        let (left, right) = bytes.split_at(bytes.len() * usize::from(argument >> 3) / 32);
        match argument >> 1 & 3 {
            0 => self.push(connection, direction, bytes),
            1 => {
                self.push(connection, direction, left);
                self.push(connection, direction, right);
            }
            2 => {
                let index = (usize::from(connection), direction.index());
                let offset = self.offsets[index.0][index.1];
                self.offsets[index.0][index.1] = offset + left.len() as u64;
                self.push(connection, direction, right);
                let chunk = synthetic::chunk(connection, direction, offset, left, self.now);
                self.pipeline.record(Record::Chunk(chunk));
            }
            _ => {
                self.offsets[usize::from(connection)][direction.index()] += left.len() as u64;
                self.push(connection, direction, right);
            }
        }
    }

    /// A request whose credential is made of `bytes`, so that no other bytes of the input are equal to it.
    fn request(&mut self, kind: u8, bytes: &[u8]) -> String {
        let mut secret = String::new();
        self.requests = self.requests.wrapping_add(1);
        for byte in Sha256::digest([&[self.requests], bytes].concat()) {
            secret.push(char::from(
                b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(byte % 32)],
            ));
        }
        let text = match kind % 8 {
            0 => format!("GET /a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\n\r\n"),
            1 => format!("GET /a HTTP/1.1\r\nHost: a\r\nX-Api-Key: {secret}\r\n\r\n"),
            2 => format!("GET /a?x=1&access_token={secret} HTTP/1.1\r\nHost: a\r\n\r\n"),
            3 => format!("GET http://u:{secret}@a/b HTTP/1.1\r\nHost: a\r\n\r\n"),
            4 => format!(
                "POST /t HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                 Content-Length: {}\r\n\r\nclient_secret={secret}",
                14 + secret.len()
            ),
            5 => format!(
                "CONNECT a:443 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Bearer {secret}\r\n\r\n"
            ),
            6 => format!(
                "GET /a HTTP/1.1\r\nAuthorization: token {secret}\r\nHost: {secret}\r\n\r\n"
            ),
            _ => format!(
                "GET /{secret} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\n\r\n"
            ),
        };
        let parts = secret.as_bytes().windows(LEAK);
        self.parts
            .extend(parts.filter_map(|part| <[u8; LEAK]>::try_from(part).ok()));
        text
    }

    fn secret(&mut self, number: u8, argument: u8, bytes: &[u8]) {
        let label = [
            "CLIENT_RANDOM",
            "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
            "SERVER_HANDSHAKE_TRAFFIC_SECRET",
            "CLIENT_TRAFFIC_SECRET_0",
            "SERVER_TRAFFIC_SECRET_0",
            "KDF",
            "EXPORTER_SECRET",
            "",
        ][usize::from(argument % 8)];
        let mut secret = bytes.to_vec();
        if argument & 8 == 0 {
            secret.resize(if argument & 16 == 0 { 32 } else { 48 }, argument);
        }
        self.pipeline.record(Record::Secret(synthetic::secret(
            number, label, secret, self.now,
        )));
    }

    fn process(&mut self, number: u8, argument: u8, bytes: &[u8]) {
        let parent = synthetic::process(argument % 8);
        let record = match argument % 3 {
            0 => ProcessRecord::Exec {
                time: self.now,
                caller: synthetic::caller(number),
                parent,
                filename: String::from_utf8_lossy(bytes).into_owned(),
                executable: FileId {
                    device: 1,
                    inode: u64::from(argument),
                },
                arguments: Arguments {
                    bytes: zeroize::Zeroizing::new(bytes.to_vec()),
                    truncated: argument & 1 == 1,
                },
            },
            1 => ProcessRecord::Fork {
                time: self.now,
                child: synthetic::process(number),
                parent,
                cgroup: 1,
            },
            _ => ProcessRecord::Exit {
                time: self.now,
                process: synthetic::process(number),
            },
        };
        self.pipeline.record(Record::Process(record));
    }

    fn check(&mut self) {
        let pipeline = &mut self.pipeline;
        assert!(pipeline.connections() <= CONNECTIONS);
        pipeline.take_demands();
        for event in pipeline.take_events() {
            self.sequence += 1;
            assert_eq!(event.producer.sequence, self.sequence);
            match &event.body {
                Body::Usage(_) => self.usage += 1,
                Body::Coverage(_) => self.coverage += 1,
                _ => {}
            }
            let json = serde_json::to_string(&event);
            let Ok(json) = json else {
                panic!("an event is not JSON: {json:?}");
            };
            for part in json.as_bytes().windows(LEAK) {
                assert!(
                    !self.parts.contains(part),
                    "a part of a secret, {}, in {json}",
                    part.escape_ascii()
                );
            }
        }
    }
}
