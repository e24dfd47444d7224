//! The pipeline driven by records that no kernel made.

use super::{
    Demand, Pipeline, labelled,
    synthetic::{self, chunk, connection, endpoints},
};
use crate::{
    flow::Direction::{self, Received, Sent},
    kernel::{
        keylog::{Library, PointKind},
        points::{Attached, Mapped, Points, State, Unattached},
        record::{Closed, ConnectionKey, Endpoints, PointId, ProcessRecord, Record},
    },
};
use agent_common::event::{Body, Coverage, CoverageReason, Envelope, SocketEvidence, Usage};

pub const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
/// The head of a TLS record of encrypted data, and noise.
pub const ENCRYPTED: &[u8] = b"\x17\x03\x03\x00\x20\
    \x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\
    \x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a";

pub fn request(path: &str) -> Vec<u8> {
    format!(
        "GET /{path} HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer synthetic-0123456789abcdef\r\n\r\n"
    )
    .into_bytes()
}

pub struct Driver {
    pub pipeline: Pipeline,
    points: Points,
    pub now: u64,
}

impl Driver {
    pub fn new(connections: usize) -> Self {
        let points = Points::default();
        let pipeline = synthetic::pipeline(synthetic::limits(connections), points.clone());
        Self {
            pipeline: pipeline.unwrap(),
            points,
            now: 5_000_000_000,
        }
    }

    pub fn chunk(&mut self, number: u8, direction: Direction, offset: u64, bytes: &[u8]) {
        self.change(number, direction, offset, bytes, |_| {});
    }

    pub fn change(
        &mut self,
        number: u8,
        direction: Direction,
        offset: u64,
        bytes: &[u8],
        change: impl FnOnce(&mut crate::kernel::record::Chunk),
    ) {
        self.now += 10;
        let mut chunk = chunk(number, direction, offset, bytes, self.now);
        change(&mut chunk);
        self.pipeline.record(Record::Chunk(chunk));
    }

    pub fn close(&mut self, connection: ConnectionKey) {
        let time = self.now;
        self.pipeline
            .record(Record::Closed(Closed { time, connection }));
    }

    pub fn finish(&mut self) {
        self.pipeline.finish(self.now);
        assert_eq!(self.pipeline.counters().sums(), Ok(()));
        assert_eq!(self.pipeline.settings.budget.used(), 0);
        assert_eq!(self.pipeline.connections(), 0);
    }

    pub fn usage(&mut self) -> Vec<Usage> {
        usage(self.pipeline.take_events())
    }

    fn coverage(&mut self) -> Vec<Coverage> {
        let events = self.pipeline.take_events().into_iter();
        events
            .filter_map(|event| match event.body {
                Body::Coverage(coverage) => Some(*coverage),
                _ => None,
            })
            .collect()
    }

    fn reasons(&mut self) -> Vec<CoverageReason> {
        let coverage = self.coverage().into_iter();
        coverage.filter_map(|event| event.coverage.reason).collect()
    }
}

pub fn usage(events: Vec<Envelope>) -> Vec<Usage> {
    events
        .into_iter()
        .filter_map(|event| match event.body {
            Body::Usage(usage) => Some(*usage),
            _ => None,
        })
        .collect()
}

fn pid(usage: &Usage) -> u32 {
    usage.principal.process.pid
}

#[test]
fn a_keep_alive_exchange_gives_its_event_however_it_is_cut() {
    let requests = [request("one"), request("two")].concat();
    for cut in 0..=requests.len() {
        let mut driver = Driver::new(4);
        driver.chunk(1, Sent, 0, &requests[..cut]);
        driver.chunk(1, Sent, cut as u64, &requests[cut..]);
        driver.chunk(1, Received, 0, OK);
        driver.chunk(1, Received, OK.len() as u64, OK);
        driver.close(connection(1));
        let events = driver.pipeline.take_events();
        let numbers: Vec<u64> = events.iter().map(|event| event.producer.sequence).collect();
        assert_eq!(numbers, [1, 2], "cut at {cut}");
        let usage = usage(events);
        let paths: Vec<&str> = usage.iter().map(|usage| usage.url.path.as_str()).collect();
        assert_eq!(paths, ["/one", "/two"], "cut at {cut}");
        for event in &usage {
            assert_eq!(event.http.response.as_ref().unwrap().status_code, 200);
            assert_eq!(event.url.scheme, "http");
            assert_eq!(pid(event), synthetic::process(1).pid);
        }
        assert_ne!(usage[0].exchange.id, usage[1].exchange.id);
        driver.finish();
        let counters = driver.pipeline.counters();
        assert_eq!((counters.exchanges, counters.credentials), (2, 2));
        assert_eq!(
            (counters.connections_read, counters.connections_unread),
            (1, 0)
        );
    }
}

#[test]
fn both_ends_name_the_exchange_alike() {
    let mut driver = Driver::new(4);
    let request = request("a");
    driver.chunk(1, Sent, 0, &request);
    driver.chunk(1, Received, 0, OK);
    // The server's socket: ends and directions the other way round, the same sequence numbers.
    let swapped = |direction: Direction| {
        let Endpoints::Tcp { local, peer } = endpoints(1) else {
            panic!("not TCP");
        };
        let sequence = chunk(1, direction.opposite(), 0, [], 0).sequence;
        move |chunk: &mut crate::kernel::record::Chunk| {
            chunk.endpoints = Endpoints::Tcp {
                local: peer,
                peer: local,
            };
            chunk.sequence = sequence;
        }
    };
    driver.change(2, Received, 0, &request, swapped(Received));
    driver.change(2, Sent, 0, OK, swapped(Sent));
    driver.finish();
    let usage = driver.usage();
    assert_eq!(usage.len(), 2);
    assert_eq!(usage[0].exchange.id, usage[1].exchange.id);
    assert_ne!(usage[0].direction, usage[1].direction);
    assert_ne!(pid(&usage[0]), pid(&usage[1]));
    assert_eq!(usage[0].token.fingerprints, usage[1].token.fingerprints);
}

#[test]
fn the_caller_of_the_request_is_named() {
    let mut driver = Driver::new(4);
    let (one, two) = (request("one"), request("two"));
    let second = one.len() as u64;
    driver.chunk(1, Sent, 0, &one);
    // The connection is handed to another process, whose chunk comes first.
    driver.change(1, Sent, second + 10, &two[10..], |chunk| {
        chunk.caller = synthetic::caller(2);
    });
    driver.change(1, Sent, second, &two[..10], |chunk| {
        chunk.caller = synthetic::caller(2);
    });
    driver.change(1, Received, 0, OK, |chunk| {
        chunk.caller = synthetic::caller(3)
    });
    driver.change(1, Received, OK.len() as u64, OK, |chunk| {
        chunk.caller = synthetic::caller(3);
    });
    driver.finish();
    let pids: Vec<u32> = driver.usage().iter().map(pid).collect();
    let expected = [1, 2].map(|number| synthetic::process(number).pid);
    assert_eq!(pids, expected);
}

#[test]
fn late_tls_is_covered_once() {
    let mut driver = Driver::new(4);
    for (at, direction) in [(0, Sent), (0, Received), (1, Sent), (1, Received)] {
        let offset = at * ENCRYPTED.len() as u64;
        driver.change(1, direction, offset, ENCRYPTED, |chunk| {
            chunk.from_start = false;
        });
    }
    driver.close(connection(1));
    let coverage = driver.coverage();
    let [event] = coverage.as_slice() else {
        panic!("{} coverage events", coverage.len());
    };
    assert_eq!(event.coverage.reason, Some(CoverageReason::OpenedBefore));
    assert_eq!(event.coverage.protocol.as_deref(), Some("tls"));
    assert_eq!(
        event.principal.as_ref().unwrap().process.pid,
        synthetic::process(1).pid
    );
    driver.finish();
    assert_eq!(driver.pipeline.counters().connections_unread, 1);
    assert_eq!(driver.reasons(), []);
}

#[test]
fn ktls_whose_handshake_was_not_seen_is_tls_all_the_same() {
    let mut driver = Driver::new(4);
    for (direction, bytes) in [(Sent, request("kernel").as_slice()), (Received, OK)] {
        driver.change(1, direction, 0, bytes, |chunk| {
            chunk.from_start = false;
            chunk.kernel_tls = true;
        });
    }
    driver.finish();
    let usage = driver.usage();
    assert_eq!(usage.len(), 1);
    assert_eq!(usage[0].url.scheme, "https");
    assert!(usage[0].tls.as_ref().unwrap().protocol.is_none());
    assert_eq!(usage[0].evidence.socket, SocketEvidence::Socket);
}

#[test]
fn over_the_limit_the_oldest_goes_and_is_covered() {
    let mut driver = Driver::new(2);
    for number in [1, 2] {
        driver.chunk(number, Sent, 0, &request("a"));
    }
    // Used again: now 2 is the oldest.
    driver.chunk(1, Received, 0, OK);
    driver.chunk(3, Sent, 0, &request("b"));
    assert_eq!(driver.pipeline.connections(), 2);
    assert_eq!(driver.pipeline.counters().connections_evicted, 1);
    let events = driver.pipeline.take_events();
    let of_two: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.body {
            Body::Coverage(coverage) => Some((
                coverage.coverage.reason,
                coverage.principal.as_ref().unwrap().process.pid,
            )),
            _ => None,
        })
        .collect();
    assert_eq!(
        of_two,
        [(Some(CoverageReason::Limit), synthetic::process(2).pid)]
    );
    // Its request is given out without its response.
    assert_eq!(usage(events).len(), 2);
    driver.finish();
    assert_eq!(driver.usage().len(), 1);
}

#[test]
fn what_is_not_http_is_covered_once() {
    let mut driver = Driver::new(2);
    driver.chunk(1, Sent, 0, b"SSH-2.0-OpenSSH_9.6\r\n");
    driver.chunk(1, Received, 0, b"SSH-2.0-OpenSSH_9.6\r\n");
    driver.chunk(1, Sent, 21, &[7; 500]);
    driver.finish();
    assert_eq!(driver.reasons(), [CoverageReason::NotHttp]);
}

#[test]
fn a_hole_is_waited_for_and_then_counted() {
    let mut driver = Driver::new(2);
    driver.chunk(1, Sent, 0, &request("a"));
    driver.chunk(1, Received, 0, OK);
    let at = request("a").len() as u64 + 500;
    driver.chunk(1, Sent, at, &request("b"));
    driver.chunk(1, Received, OK.len() as u64 + 40, OK);
    assert_eq!(driver.usage().len(), 1, "the hole may still close");
    driver.now += 1_000_000;
    driver.pipeline.tick(driver.now);
    driver.close(connection(1));
    let events = driver.pipeline.take_events();
    assert_eq!(usage(events).len(), 1);
    driver.finish();
    let counters = driver.pipeline.counters();
    assert_eq!(counters.bytes_unseen, 540);
    assert_eq!(counters.unread.get("bytes_lost"), Some(&1));
}

#[test]
fn offsets_at_the_end_of_their_range_do_no_harm() {
    for offset in [u64::MAX, u64::MAX - 1, u64::MAX - 10] {
        let mut driver = Driver::new(2);
        driver.change(1, Sent, offset, b"GET / HTTP/1.1\r\n", |chunk| {
            chunk.end = true;
            chunk.skipped = u64::MAX;
        });
        driver.finish();
    }
}

#[test]
fn a_response_that_does_not_come_is_not_waited_for_longer_than_said() {
    let mut driver = Driver::new(2);
    driver.chunk(1, Sent, 0, &request("a"));
    driver.pipeline.tick(driver.now + 9_000);
    assert!(driver.usage().is_empty());
    driver.pipeline.tick(driver.now + 11_000);
    let usage = driver.usage();
    assert_eq!(usage.len(), 1);
    assert!(usage[0].http.response.is_none());
}

#[test]
fn a_secret_that_the_fallback_gives_is_offered_as_each_that_it_may_be() {
    let labels = |label| {
        let records = labelled(synthetic::secret(1, label, [7; 32], 1));
        assert!(records.iter().all(|record| record.secret[..] == [7; 32]));
        records
            .into_iter()
            .map(|record| record.label)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        labels("KDF"),
        [
            "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
            "SERVER_HANDSHAKE_TRAFFIC_SECRET",
            "CLIENT_TRAFFIC_SECRET_0",
            "SERVER_TRAFFIC_SECRET_0",
        ]
    );
    assert_eq!(labels("CLIENT_RANDOM"), ["CLIENT_RANDOM"]);
    assert_eq!(labels("SOMETHING_NEW"), ["SOMETHING_NEW"]);
}

/// A connection of TLS 1.3 that is closed and was not opened: AES-128-GCM is agreed on, then comes noise.
fn closed(driver: &mut Driver, number: u8) {
    let record = |kind: u8, body: &[u8]| {
        let [high, low] = (body.len() as u16).to_be_bytes();
        [&[kind, 3, 3, high, low], body].concat()
    };
    let hello = |kind: u8, suites: &[u8], version: &[u8]| {
        let mut body = vec![3, 3];
        body.extend([number; 32]);
        body.push(0);
        body.extend(suites);
        body.extend([0, version.len() as u8 + 4, 0, 43, 0, version.len() as u8]);
        body.extend(version);
        let length = body.len() as u8;
        record(22, &[&[kind, 0, 0, length][..], &body].concat())
    };
    let client = hello(1, &[0, 2, 0x13, 1, 1, 0], &[2, 3, 4]);
    let server = hello(2, &[0x13, 1, 0], &[3, 4]);
    let noise = record(23, &[0x5a; 64]);
    driver.chunk(number, Sent, 0, &client);
    driver.chunk(number, Received, 0, &[server, noise.clone()].concat());
    driver.chunk(number, Sent, client.len() as u64, &noise);
    driver.close(connection(number));
}

/// The same, and it is known why: no one looks at the process's files here, so that it is waited for in vain.
fn sealed(driver: &mut Driver, number: u8) {
    closed(driver, number);
    driver.now += 2 * super::LOOK;
    driver.pipeline.tick(driver.now);
}

#[test]
fn a_socket_that_is_used_again_begins_another_connection() {
    let mut driver = Driver::new(4);
    closed(&mut driver, 1);
    assert_eq!(driver.pipeline.connections(), 1, "it waits for the look");
    driver.chunk(1, Sent, 0, &request("a"));
    driver.chunk(1, Received, 0, OK);
    assert_eq!(driver.usage().len(), 1);
    driver.finish();
    assert_eq!(driver.pipeline.counters().connections, 2);
}

fn point(driver: &Driver, since: u64) {
    let attached = Attached {
        path: "/lib/libssl.so.3".into(),
        library: Library::Openssl,
        version: None,
        kind: PointKind::KeyLog,
        file_offset: 1,
        state: State::Candidate,
        since,
    };
    driver.points.add(PointId(0), attached);
}

fn library(driver: &Driver, number: u8, attached: Option<u64>) {
    let mapped = Mapped {
        library: Library::Openssl,
        path: "/lib/libssl.so.3".into(),
        attached,
        point: attached.map(|_| PointId(0)),
        why: None,
    };
    driver.points.map(synthetic::process(number), mapped);
}

#[test]
fn why_a_point_was_not_attached() {
    use CoverageReason as R;
    for (why, reason) in [
        (Unattached::Unsearched, R::NotSearched),
        (Unattached::NoBreakpoint, R::BreakpointsTaken),
        (Unattached::Limit, R::AttachLimit),
        (Unattached::Descriptors, R::DescriptorsExhausted),
        (Unattached::Written, R::AttachRefused),
        (Unattached::TextCopied, R::TextCopied),
    ] {
        let mut driver = Driver::new(2);
        let process = synthetic::process(1);
        driver.points.looked_at(process, 1);
        let mapped = Mapped {
            library: Library::Openssl,
            path: "/lib/libssl.so.3".into(),
            attached: None,
            point: Some(PointId(0)),
            why: Some(why),
        };
        driver.points.map(process, mapped);
        sealed(&mut driver, 1);
        assert_eq!(driver.reasons(), [reason], "{why:?}");
        driver.finish();
    }
}

#[test]
fn why_tls_was_not_opened() {
    use CoverageReason as R;
    type Case = (&'static str, fn(&mut Driver), R);
    let cases: [Case; 8] = [
        ("no library", |_| {}, R::NoKeyLogPoint),
        (
            "nothing is known of it yet",
            |driver| driver.points.executed(synthetic::process(1)),
            R::NotSearched,
        ),
        (
            "a search of its files is not done",
            |driver| {
                library(driver, 1, Some(1));
                driver.points.asked(synthetic::process(1));
            },
            R::NotSearched,
        ),
        (
            "a library without a point",
            |driver| library(driver, 1, None),
            R::LibraryUnsupported,
        ),
        (
            "attached before",
            |driver| library(driver, 1, Some(1)),
            R::NoSecret,
        ),
        (
            "attached after",
            |driver| library(driver, 1, Some(u64::MAX)),
            R::AttachedLate,
        ),
        (
            "attached after, and then it gave secrets",
            |driver| {
                library(driver, 1, Some(u64::MAX));
                point(driver, u64::MAX);
                let secret =
                    synthetic::secret(1, "SERVER_HANDSHAKE_TRAFFIC_SECRET", [7; 32], driver.now);
                driver.pipeline.record(Record::Secret(secret));
            },
            R::AttachedLate,
        ),
        (
            "secrets that open nothing",
            |driver| {
                library(driver, 1, Some(1));
                let secret =
                    synthetic::secret(1, "SERVER_HANDSHAKE_TRAFFIC_SECRET", [7; 32], driver.now);
                driver.pipeline.record(Record::Secret(secret));
            },
            R::SecretUnproven,
        ),
    ];
    for (name, prepare, reason) in cases {
        let mut driver = Driver::new(2);
        driver.points.looked_at(synthetic::process(1), 1);
        prepare(&mut driver);
        sealed(&mut driver, 1);
        assert_eq!(driver.reasons(), [reason], "{name}");
        driver.finish();
    }
}

#[test]
fn a_point_whose_secrets_open_nothing_is_dropped() {
    let mut driver = Driver::new(16);
    point(&driver, 1);
    let dropped = |driver: &mut Driver| {
        let demands = driver.pipeline.take_demands().into_iter();
        demands
            .filter(|demand| matches!(demand, Demand::DropPoint(point) if point.0 == 0))
            .count()
    };
    let label = "SERVER_HANDSHAKE_TRAFFIC_SECRET";
    let secret = synthetic::secret(1, label, [7; 32], driver.now);
    driver.pipeline.record(Record::Secret(secret));
    // Connections that were open before say nothing about the point.
    for number in 100..120 {
        driver.change(number, Sent, 0, ENCRYPTED, |chunk| {
            chunk.from_start = false;
            chunk.caller = synthetic::caller(1);
        });
        driver.close(connection(number));
    }
    assert_eq!(dropped(&mut driver), 0);
    for _ in 0..8 {
        sealed(&mut driver, 1);
    }
    assert_eq!(dropped(&mut driver), 1);
    driver.finish();
}

#[test]
fn connections_wait_for_a_process_once_and_until_its_end() {
    let mut driver = Driver::new(8);
    let hello = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00";
    let process = synthetic::process(1);
    let waiting = |driver: &Driver| {
        let waiting = driver.pipeline.waiting.peek(&process);
        waiting.map_or(0, Vec::len)
    };
    for (at, byte) in hello.iter().enumerate() {
        driver.chunk(1, Sent, at as u64, &[*byte]);
        assert!(waiting(&driver) <= 1);
    }
    for at in 0..3 {
        driver.chunk(1, Sent, hello.len() as u64 + at * 37, ENCRYPTED);
        assert!(waiting(&driver) <= 1, "listed again");
    }
    let time = driver.now;
    driver
        .pipeline
        .record(Record::Process(ProcessRecord::Exit { time, process }));
    assert_eq!(waiting(&driver), 0);
    driver.finish();
}
