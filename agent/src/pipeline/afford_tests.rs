//! Exchanges that are skipped, buffers that are shed, and the pause in which the probes are detached.

use super::synthetic::connection;
use super::tests::{Driver, OK, request, usage};
use crate::{
    budget::{Gate, Skipped, WHOLE},
    flow::Direction::{self, Received, Sent},
};
use agent_common::event::CoverageReason;

/// Says `bytes` in pieces of `step`, from `offset` on; where they end.
fn say(driver: &mut Driver, direction: Direction, offset: u64, bytes: &[u8], step: usize) -> u64 {
    let mut at = offset;
    for piece in bytes.chunks(step) {
        driver.chunk(1, direction, at, piece);
        at += piece.len() as u64;
    }
    at
}

/// A connection of which some exchanges are read: those for which `reads` says so. Gives the paths of their events.
fn talk(driver: &mut Driver, reads: &[bool], step: usize) -> Vec<String> {
    let (mut sent, mut received) = (0, 0);
    for (number, read) in reads.iter().enumerate() {
        driver.pipeline.set_share(if *read { WHOLE } else { 0 });
        sent = say(driver, Sent, sent, &request(&number.to_string()), step);
        received = say(driver, Received, received, OK, step);
    }
    driver.close(connection(1));
    paths(driver)
}

fn paths(driver: &mut Driver) -> Vec<String> {
    let usage = driver.usage();
    assert!(usage.iter().all(|event| {
        event
            .http
            .response
            .as_ref()
            .is_some_and(|response| response.status_code == 200)
    }));
    usage.iter().map(|event| event.url.path.clone()).collect()
}

#[test]
fn what_is_skipped_leaves_no_trace_in_what_is_read() {
    for step in [1, 3, 17, 1_000] {
        for pattern in 0..32_u8 {
            let reads: Vec<bool> = (0..5).map(|bit| pattern & 1 << bit != 0).collect();
            let mut driver = Driver::new(4);
            let paths = talk(&mut driver, &reads, step);
            let expected: Vec<String> = (0..5)
                .filter(|number| reads[*number])
                .map(|number| format!("/{number}"))
                .collect();
            assert_eq!(paths, expected, "{reads:?} by {step}");
            let skipped = reads.iter().filter(|read| !**read).count() as u64;
            let told = driver
                .pipeline
                .take_skipped()
                .map_or(0, |skipped| skipped.count);
            assert_eq!(told, skipped, "{reads:?} by {step}");
            driver.finish();
            let counters = driver.pipeline.counters();
            assert_eq!(counters.exchanges_skipped, skipped);
            assert_eq!(counters.exchanges, 5 - skipped);
            assert_eq!((counters.heads_lost, counters.coverage_events), (0, 0));
            let unread = u64::from(skipped > 0);
            assert_eq!(counters.connections_unread, unread);
            assert_eq!(counters.unread.get("budget").copied().unwrap_or(0), unread);
        }
    }
}

#[test]
fn the_ledger_has_what_was_skipped() {
    let mut driver = Driver::new(4);
    driver.pipeline.set_share(0);
    say(&mut driver, Sent, 0, &request("a"), 1_000);
    say(&mut driver, Received, 0, OK, 1_000);
    let snapshot = driver
        .pipeline
        .snapshot(driver.now, Vec::new(), Default::default());
    assert_eq!(
        snapshot.rows[0].unread.get(&CoverageReason::Budget),
        Some(&1)
    );
    assert_eq!(snapshot.rows[0].protocol, "http");
    let skipped = driver.pipeline.take_skipped().unwrap();
    assert_eq!((skipped.count, skipped.first <= skipped.last), (1, true));
    assert_eq!(driver.pipeline.take_skipped(), None::<Skipped>);
}

#[test]
fn requests_without_a_pause_between_them_are_asked_for_one_by_one() {
    let mut driver = Driver::new(4);
    driver.pipeline.set_share(0);
    let requests = [request("one"), request("two"), request("three")].concat();
    say(&mut driver, Sent, 0, &requests, 1_000);
    say(&mut driver, Received, 0, &OK.repeat(3), 1_000);
    assert_eq!(driver.pipeline.take_skipped().unwrap().count, 3);
    driver.finish();
    assert_eq!(driver.usage().len(), 0);
}

#[test]
fn a_decision_to_read_is_for_one_exchange() {
    let mut driver = Driver::new(4);
    driver.pipeline.gate = Gate::seeded(1);
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 40000\r\n\r\n";
    // The second is decided on while the connection is at rest. After it that is never so: the rest of an answer is told
    // of with the next one.
    let shares = [WHOLE, WHOLE - 1, 0, 0, 0];
    let (mut sent, mut received, mut skipped) = (0, 0, 0);
    for (number, share) in shares.into_iter().enumerate() {
        driver.pipeline.set_share(share);
        sent = say(
            &mut driver,
            Sent,
            sent,
            &request(&number.to_string()),
            1_000,
        );
        if number == 0 {
            received = say(&mut driver, Received, received, OK, 1_000);
            continue;
        }
        driver.change(1, Received, received, head, |chunk| chunk.skipped = skipped);
        received += head.len() as u64 + 40_000;
        skipped = 40_000;
    }
    driver.close(connection(1));
    let read = paths(&mut driver);
    assert!(
        read.iter()
            .all(|path| ["/0", "/1"].contains(&path.as_str())),
        "{read:?}"
    );
    let told = driver.pipeline.take_skipped().unwrap().count;
    assert_eq!(told as usize + read.len(), shares.len());
    driver.finish();
}

#[test]
fn an_upload_that_waits_for_leave_may_be_skipped() {
    let mut driver = Driver::new(4);
    let first = request("first");
    let mut sent = say(&mut driver, Sent, 0, &first, 1_000);
    let mut received = say(&mut driver, Received, 0, OK, 1_000);
    driver.pipeline.set_share(0);
    let head =
        b"PUT /up HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3000\r\n\r\n";
    sent = say(&mut driver, Sent, sent, head, 1_000);
    received = say(
        &mut driver,
        Received,
        received,
        b"HTTP/1.1 100 Continue\r\n\r\n",
        1_000,
    );
    // Whatever is decided about the rest, which is no request.
    driver.pipeline.set_share(WHOLE);
    sent = say(&mut driver, Sent, sent, &[b'x'; 3_000], 1_000);
    received = say(&mut driver, Received, received, OK, 1_000);
    say(&mut driver, Sent, sent, &request("last"), 1_000);
    say(&mut driver, Received, received, OK, 1_000);
    assert_eq!(paths(&mut driver), ["/first", "/last"]);
    assert_eq!(driver.pipeline.take_skipped().unwrap().count, 1);
    driver.finish();
}

#[test]
fn pieces_of_a_skipped_exchange_come_in_any_order() {
    let mut driver = Driver::new(4);
    let request = |number: u64| request(&number.to_string());
    let (asked, answered) = (request(0).len() as u64, OK.len() as u64);
    say(&mut driver, Sent, 0, &request(0), 1_000);
    say(&mut driver, Received, 0, OK, 1_000);
    driver.pipeline.set_share(0);
    // The answer's first half is seen before its request.
    driver.chunk(1, Received, answered, &OK[..10]);
    driver.chunk(1, Sent, asked + 20, &request(1)[20..]);
    driver.chunk(1, Sent, asked, &request(1)[..20]);
    driver.chunk(1, Received, answered + 10, &OK[10..]);
    driver.pipeline.set_share(WHOLE);
    for number in 2..4 {
        driver.chunk(1, Sent, number * asked, &request(number));
        driver.chunk(1, Received, number * answered, OK);
    }
    driver.close(connection(1));
    let read = paths(&mut driver);
    assert!(
        read.contains(&"/0".to_owned()) && read.contains(&"/3".to_owned()),
        "{read:?}"
    );
    driver.finish();
}

#[test]
fn after_a_rest_connections_are_met_anew() {
    let mut driver = Driver::new(4);
    say(&mut driver, Sent, 0, &request("before"), 1_000);
    // No answer is seen: the probes are detached.
    driver.pipeline.leave(driver.now);
    assert_eq!(driver.usage().len(), 1);
    assert_eq!(driver.pipeline.connections(), 0);
    driver.pipeline.come_back().unwrap();
    let late = |chunk: &mut crate::kernel::record::Chunk| chunk.from_start = false;
    // The end of an answer that began before, then the next exchange.
    driver.change(1, Received, 0, b"rest of a body", late);
    driver.change(1, Sent, 0, &request("after"), late);
    driver.change(1, Received, 14, OK, late);
    driver.close(connection(1));
    assert_eq!(paths(&mut driver), ["/after"]);
    driver.finish();
    assert_eq!(driver.pipeline.counters().connections, 2);
}

#[test]
fn what_waits_is_shed_and_counted() {
    let mut driver = Driver::new(4);
    let first = request("first");
    say(&mut driver, Sent, 0, &first, 1_000);
    say(&mut driver, Received, 0, OK, 1_000);
    // Behind a hole.
    let at = first.len() as u64 + 100;
    say(&mut driver, Sent, at, &request("behind"), 1_000);
    let shed = driver.pipeline.shed(driver.now);
    assert_eq!(shed.bytes, request("behind").len() as u64);
    assert_eq!(driver.pipeline.settings.budget.used(), 0);
    assert_eq!(driver.pipeline.shed(driver.now).bytes, 0);
    assert_eq!(driver.pipeline.counters().shed_bytes, shed.bytes);
    driver.close(connection(1));
    let events = driver.pipeline.take_events();
    assert!(!usage(events).is_empty());
    driver.finish();
    assert_eq!(driver.pipeline.counters().bytes_unseen, 100);
}
