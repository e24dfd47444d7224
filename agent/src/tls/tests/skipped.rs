//! Application data that is skipped for the sake of the agent's budget: counted, not opened, and what follows is read.

use super::broken::by_records;
use super::peers::*;
use super::real::{SUITES_12, SUITES_13};
use super::replay::*;
use crate::flow::{Direction, GapReason};
use Direction::{Received, Sent};

const COUNT: usize = 4;

/// Longer than what is opened in any case.
fn line(number: usize) -> String {
    format!("{}{number}", "a line as long as a short request ".repeat(4))
}

fn said(between: &[Say<'static>], server: &[&str], client: &[&str]) -> Recording {
    let lines: Vec<&'static str> = (0..COUNT)
        .map(|number| &*Box::leak(line(number).into_boxed_str()))
        .collect();
    let mut conversation = Vec::new();
    for line in lines {
        conversation.push(Say::Line(line));
        conversation.extend(between.iter().copied());
    }
    openssl(server, client, &conversation)
}

fn recordings() -> Vec<Recording> {
    let of_13 =
        SUITES_13.map(|suite| said(&[], &["-tls1_3"], &["-tls1_3", "-ciphersuites", suite]));
    let of_12 = SUITES_12[..3]
        .iter()
        .map(|suite| said(&[], &["-tls1_2"], &["-tls1_2", "-cipher", suite]));
    of_13.into_iter().chain(of_12).collect()
}

/// A gap has taken the line's end with it.
fn whole_lines(text: &str) -> usize {
    let lines = text.split(['\n', '?']);
    lines.filter(|line| line.len() > 100).count()
}

/// Replays by records, skipping those that `skips` names by their place.
fn replay(recording: &Recording, skips: impl Fn(usize) -> bool) -> Read {
    let mut replay = Replay::new();
    replay.learn(recording);
    for (at, (direction, record)) in by_records(recording).iter().enumerate() {
        replay.session.skip(skips(at));
        replay.data(*direction, record);
    }
    replay.close()
}

#[test]
fn any_record_may_be_skipped() {
    for recording in recordings() {
        for at in 0..by_records(&recording).len() {
            let read = replay(&recording, |record| record == at);
            let left_out: u64 = read.facts.counts.iter().map(|counts| counts.left_out).sum();
            let lines = whole_lines(&read.sent()) + whole_lines(&read.received());
            assert_eq!(read.unread, Vec::<String>::new(), "{at}");
            assert!(left_out <= 1);
            assert!(
                lines + left_out as usize >= 2 * COUNT,
                "{at}: {lines} lines, {left_out} left out"
            );
            let gaps = read.gaps.iter().flatten();
            assert!(
                gaps.clone()
                    .all(|(_, _, reason)| *reason == GapReason::Budget)
            );
            assert_eq!(gaps.count() as u64, left_out);
        }
    }
}

#[test]
fn skipped_lines_are_gaps_of_their_size_and_the_last_is_read() {
    for recording in recordings() {
        let records = by_records(&recording);
        // The last line and its answer.
        let long: Vec<usize> = (0..records.len())
            .filter(|at| records[*at].1.len() > 100)
            .collect();
        let from = long[long.len() - 2];
        let read = replay(&recording, |record| record < from);
        assert_eq!(read.unread, Vec::<String>::new());
        assert!(read.facts.proven);
        let sent = read.sent();
        let expected: usize = (0..COUNT).map(|number| line(number).len() + 1).sum();
        assert_eq!(sent.len(), expected);
        let skipped = expected - line(0).len() - 1;
        assert!(sent[..skipped].bytes().all(|byte| byte == b'?'));
        assert_eq!(sent[skipped..].trim_end(), line(COUNT - 1));
        assert_eq!(whole_lines(&read.received()), 1);
        let counts = read.facts.counts;
        assert_eq!(counts[Sent.index()].left_out, COUNT as u64 - 1);
        assert!(counts[Received.index()].left_out >= COUNT as u64 - 1);
    }
}

#[test]
fn keys_that_change_while_everything_is_skipped_are_followed() {
    for suite in SUITES_13 {
        let recording = said(
            &[Say::Command("K", "KEYUPDATE")],
            &["-tls1_3"],
            &["-tls1_3", "-ciphersuites", suite],
        );
        let records = by_records(&recording);
        let long: Vec<usize> = (0..records.len())
            .filter(|at| records[*at].1.len() > 100)
            .collect();
        let from = long[long.len() - 2];
        let read = replay(&recording, |record| record < from);
        assert_eq!(read.unread, Vec::<String>::new());
        assert!(
            read.facts.key_updates >= 2 * (COUNT as u64 - 1),
            "{}",
            read.facts.key_updates
        );
        assert_eq!(
            (whole_lines(&read.sent()), whole_lines(&read.received())),
            (1, 1)
        );
    }
}
