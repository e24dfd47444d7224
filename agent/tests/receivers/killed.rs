//! `kill -9` of the receivers while events flow.
//!
//! OTLP: what the receiver has not acknowledged comes again. The collector of these tests acknowledges what the server
//! behind it has (no queue of its own); of one that keeps a queue in memory, what it had acknowledged is its own to
//! lose.
//!
//! Syslog: what was handed to the kernel and not written down by the daemon when it was killed is lost, and nothing
//! else: for each kill one span of events that begins right after the last one that was written.

use crate::chance::Chance;
use crate::collector::Collector;
use crate::daemons::{Daemon, rsyslog, syslog_ng};
use crate::support::arrived::first_copies;
use crate::support::feed::{Feed, at_least_once};
use crate::support::{asked, eventually};
use std::time::Duration;
use tokentrail_agent::sink::otlp;

const SEED: u64 = 20_261_123;
const KILLS: usize = 6;
/// Events between two groups.
const BETWEEN: Duration = Duration::from_millis(2);

#[test]
fn a_collector_that_is_killed_misses_nothing() {
    if !asked("collector") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(folder.path(), Vec::new());
    let receiver = otlp::from_config(&collector.config()).unwrap().unwrap();
    let mut feed = Feed::start(folder.path(), vec![Box::new(receiver)]);
    let mut chance = Chance(SEED);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            for _ in 0..KILLS {
                std::thread::sleep(Duration::from_micros(chance.below(400_000)));
                collector.kill();
            }
        });
        while !killer.is_finished() {
            feed.give(48, BETWEEN);
        }
    });
    let given = feed.drain();
    let twice = at_least_once("collector", &given, &collector.arrived());
    println!("{KILLS} kills, {} events, {twice} twice", given.len());
}

/// Events that a daemon has written, as far as its end let it write whole lines.
fn written(daemon: &Daemon) -> Vec<String> {
    let lines = daemon.lines();
    let jsons = lines
        .iter()
        .filter_map(|line| Some(line[line.find("] {")? + 2..].to_owned()));
    jsons
        .filter(|json| serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok())
        .collect()
}

fn sequence(json: &str) -> u64 {
    let event: serde_json::Value = serde_json::from_str(json).unwrap();
    event["producer"]["sequence"].as_u64().unwrap()
}

fn last_written(daemon: &Daemon) -> u64 {
    let sequences = written(daemon).iter().map(|json| sequence(json)).max();
    sequences.unwrap_or(0)
}

fn loses_what_was_in_flight(daemon: &mut Daemon) {
    let folder = tempfile::tempdir().unwrap();
    let mut feed = Feed::start(folder.path(), vec![Box::new(daemon.tls_receiver())]);
    let mut chance = Chance(SEED);
    let mut killed_after = Vec::new();
    for _ in 0..KILLS {
        feed.give(12 + chance.below(400) as usize, BETWEEN);
        daemon.kill();
        killed_after.push(last_written(daemon));
        feed.give(12, BETWEEN);
        daemon.start_again();
        // Until it has something that was given after its start.
        let mark = feed.given.len() as u64;
        feed.give(12, BETWEEN);
        eventually("it takes events again", || {
            if last_written(daemon) > mark {
                return Ok(());
            }
            Err(format!("it has {} of {mark}", last_written(daemon)))
        });
    }
    let given = feed.drain();
    let last = given.len() as u64;
    eventually("all of it is written", || {
        if last_written(daemon) == last {
            return Ok(());
        }
        Err(format!("it has {} of {last}", last_written(daemon)))
    });
    let kept = first_copies("syslog", &written(daemon));
    for json in &kept {
        assert_eq!(given[sequence(json) as usize - 1], *json);
    }
    let has: Vec<u64> = kept.iter().map(|json| sequence(json)).collect();
    assert!(has.is_sorted(), "{has:?}");
    let mut lost = 0;
    for pair in has.windows(2).filter(|pair| pair[1] != pair[0] + 1) {
        assert!(
            killed_after.contains(&pair[0]),
            "nobody was killed after {}, and it goes on at {}: {killed_after:?}",
            pair[0],
            pair[1]
        );
        lost += pair[1] - pair[0] - 1;
    }
    println!("{KILLS} kills, {last} events, {lost} lost in flight");
}

#[test]
fn rsyslog_that_is_killed_misses_what_was_in_flight() {
    if asked("rsyslog") {
        let folder = tempfile::tempdir().unwrap();
        loses_what_was_in_flight(&mut rsyslog(folder.path()));
    }
}

#[test]
fn syslog_ng_that_is_killed_misses_what_was_in_flight() {
    if asked("syslog-ng") {
        let folder = tempfile::tempdir().unwrap();
        loses_what_was_in_flight(&mut syslog_ng(folder.path()));
    }
}
