//! TLS connections that were open before, driven by records that no kernel made.

use super::{
    Demand,
    synthetic::{connection, plaintext, process},
    tests::{Driver, ENCRYPTED, OK, request},
};
use crate::{
    flow::Direction::{self, Received, Sent},
    kernel::record::{Closed, Record},
};
use agent_common::event::{Body, CoverageReason, Envelope, SocketEvidence, Usage};

impl Driver {
    /// A record of TLS that the agent has no begin of.
    fn late(&mut self, number: u8, direction: Direction) {
        self.change(number, direction, 500, ENCRYPTED, |chunk| {
            chunk.from_start = false;
        });
    }

    fn plain(&mut self, number: u8, direction: Direction, offset: u64, bytes: &[u8], of: u32) {
        self.now += 10;
        let mut plaintext = plaintext(number, direction, offset, bytes, self.now);
        plaintext.generation = of;
        plaintext.wire = 500;
        self.pipeline.record(Record::Plaintext(plaintext));
    }
}

fn split(events: Vec<Envelope>) -> (Vec<Usage>, Vec<CoverageReason>) {
    let (mut usage, mut reasons) = (Vec::new(), Vec::new());
    for event in events {
        match event.body {
            Body::Usage(one) => usage.push(*one),
            Body::Coverage(coverage) => reasons.extend(coverage.coverage.reason),
            _ => {}
        }
    }
    (usage, reasons)
}

/// `Some(true)`: asked for; `Some(false)`: over.
fn bridges(demands: Vec<Demand>) -> Vec<bool> {
    demands
        .into_iter()
        .filter_map(|demand| match demand {
            Demand::Bridge {
                process: who,
                socket,
            } => {
                assert_eq!((who, socket), (process(1), connection(1).inode));
                Some(true)
            }
            Demand::BridgeOver {
                process: who,
                socket,
            } => {
                assert_eq!((who, socket), (process(1), connection(1).inode));
                Some(false)
            }
            _ => None,
        })
        .collect()
}

#[test]
fn plaintext_gives_events_wherever_it_is_cut_and_before_the_verdict_too() {
    let asked = request("one");
    for cut in 0..=asked.len() {
        for verdict_first in [true, false] {
            let mut driver = Driver::new(4);
            let early = |driver: &mut Driver| driver.late(1, Sent);
            // Too little to say what it is.
            driver.change(1, Sent, 499, b"", |chunk| chunk.from_start = false);
            if verdict_first {
                early(&mut driver);
            }
            driver.plain(1, Sent, 0, &asked[..cut], 1);
            driver.plain(1, Sent, cut as u64, &asked[cut..], 1);
            if !verdict_first {
                assert!(driver.usage().is_empty());
                early(&mut driver);
            }
            driver.plain(1, Received, 0, OK, 1);
            driver.close(connection(1));
            assert_eq!(bridges(driver.pipeline.take_demands()), [true, false]);
            let (usage, reasons) = split(driver.pipeline.take_events());
            assert_eq!(reasons, []);
            let [event] = &usage[..] else {
                panic!("{} events, cut at {cut}", usage.len());
            };
            assert_eq!(event.url.path, "/one");
            assert_eq!(event.url.scheme, "https");
            assert_eq!(event.evidence.socket, SocketEvidence::Nested);
            assert_eq!(event.http.response.as_ref().unwrap().status_code, 200);
            assert_eq!(event.principal.process.pid, process(1).pid);
            let counters = driver.pipeline.counters();
            assert_eq!((counters.tls, counters.bridged), (1, 1));
            driver.finish();
        }
    }
}

#[test]
fn plaintext_of_a_connection_that_was_seen_from_its_start_is_not_believed() {
    let mut driver = Driver::new(4);
    driver.chunk(1, Sent, 0, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    driver.plain(1, Sent, 0, &request("one"), 1);
    driver.plain(1, Received, 0, OK, 1);
    driver.chunk(1, Received, 0, OK);
    driver.close(connection(1));
    assert!(driver.usage().is_empty());
    assert_eq!(bridges(driver.pipeline.take_demands()), [false; 0]);
    driver.finish();
}

#[test]
fn plaintext_of_nobody_is_counted() {
    let mut driver = Driver::new(4);
    driver.plain(1, Sent, 0, &request("one"), 1);
    assert_eq!(driver.pipeline.counters().bridge_ignored, 1);
    driver.finish();
}

#[test]
fn generations_are_not_joined() {
    let asked = request("one");
    let mut driver = Driver::new(4);
    driver.late(1, Sent);
    driver.plain(1, Sent, 0, &asked[..30], 1);
    driver.plain(1, Sent, 0, &asked[30..], 2);
    // Late, of the one before.
    driver.plain(1, Sent, 30, &asked[30..], 1);
    driver.plain(1, Received, 0, OK, 2);
    driver.plain(1, Sent, asked.len() as u64 - 30, &request("two"), 2);
    driver.plain(1, Received, OK.len() as u64, OK, 2);
    driver.close(connection(1));
    let (usage, _) = split(driver.pipeline.take_events());
    let paths: Vec<&str> = usage.iter().map(|usage| usage.url.path.as_str()).collect();
    assert_eq!(paths, ["/two"]);
    driver.finish();
}

#[test]
fn what_gives_no_plaintext_is_listed_when_it_closes() {
    let mut driver = Driver::new(4);
    driver.late(1, Sent);
    assert_eq!(bridges(driver.pipeline.take_demands()), [true]);
    assert_eq!(split(driver.pipeline.take_events()).1, []);
    driver.close(connection(1));
    assert_eq!(bridges(driver.pipeline.take_demands()), [false]);
    let listed = [CoverageReason::OpenedBefore];
    assert_eq!(split(driver.pipeline.take_events()).1, listed);
    driver.finish();
}

#[test]
fn what_gives_no_plaintext_is_listed_once_while_it_lives() {
    let mut driver = Driver::new(4);
    driver.late(1, Sent);
    driver.now += 5_000_000_000;
    driver.late(1, Received);
    driver.pipeline.tick(driver.now);
    assert_eq!(split(driver.pipeline.take_events()).1, []);
    driver.now += 6_000_000_000;
    driver.pipeline.tick(driver.now);
    assert_eq!(bridges(driver.pipeline.take_demands()), [true, false]);
    driver.late(1, Sent);
    driver.pipeline.tick(driver.now);
    driver.close(connection(1));
    assert_eq!(bridges(driver.pipeline.take_demands()), [false; 0]);
    let listed = [CoverageReason::OpenedBefore];
    assert_eq!(split(driver.pipeline.take_events()).1, listed);
    driver.finish();
}

#[test]
fn what_is_untied_is_listed_beside_its_events() {
    let mut driver = Driver::new(4);
    driver.late(1, Sent);
    driver.plain(1, Sent, 0, &request("one"), 1);
    driver.plain(1, Received, 0, OK, 1);
    driver.pipeline.record(Record::Untied(Closed {
        time: driver.now,
        connection: connection(1),
    }));
    driver.close(connection(1));
    let (usage, reasons) = split(driver.pipeline.take_events());
    assert_eq!(usage.len(), 1);
    assert_eq!(reasons, [CoverageReason::OpenedBefore]);
    driver.finish();
}

#[test]
fn nobody_is_asked_for_a_connection_that_carries_something_else() {
    let mut driver = Driver::new(4);
    driver.change(1, Sent, 0, &request("one"), |chunk| {
        chunk.from_start = false
    });
    driver.change(1, Received, 0, OK, |chunk| chunk.from_start = false);
    driver.pipeline.tick(driver.now);
    assert_eq!(bridges(driver.pipeline.take_demands()), [false]);
    driver.close(connection(1));
    assert_eq!(bridges(driver.pipeline.take_demands()), [false; 0]);
    driver.finish();
}

#[test]
fn it_is_asked_for_also_where_heads_come_late() {
    let mut driver = Driver::new(4);
    // The middle of a long record.
    driver.change(1, Received, 0, &[0x5a; 64], |chunk| {
        chunk.from_start = false;
    });
    driver.plain(1, Received, 0, OK, 1);
    driver.now += 2_000_000_000;
    driver.pipeline.tick(driver.now);
    assert_eq!(bridges(driver.pipeline.take_demands()), [false]);
    // Nobody waits for it: it is not kept.
    driver.plain(1, Received, OK.len() as u64, OK, 1);
    assert_eq!(driver.pipeline.counters().bridge_ignored, 1);
    assert_eq!(driver.pipeline.settings.budget.used(), 0);
    driver.late(1, Sent);
    assert_eq!(bridges(driver.pipeline.take_demands()), [true]);
    driver.finish();
}

/// One direction is the kernel's (kTLS), the other one's records cannot be opened: its request would be told twice.
#[test]
fn half_of_ktls_is_left_to_the_bridge() {
    let mut driver = Driver::new(4);
    driver.late(1, Received);
    driver.change(1, Sent, 0, &request("half"), |chunk| {
        chunk.from_start = false;
        chunk.kernel_tls = true;
    });
    driver.plain(1, Sent, 0, &request("half"), 1);
    driver.plain(1, Received, 0, OK, 1);
    driver.finish();
    let usage = driver.usage();
    assert_eq!(usage.len(), 1);
    assert_eq!(usage[0].evidence.socket, SocketEvidence::Nested);
}
