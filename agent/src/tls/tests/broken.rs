//! What is missing, late, too much, or not what it should be.

use super::peers::*;
use super::real::{SUITES_12, SUITES_13, check_lines, sample};
use super::replay::*;
use crate::flow::{Budget, Direction, Flow, FlowLimits, GapReason};
use crate::kernel::record::ProcessKey;
use crate::tls::{Detect, SessionLimits, looks_like_record};
use Direction::{Received, Sent};
use std::sync::OnceLock;

const SAMPLES: usize = 6;

/// A page of 200,000 bytes by each suite and version.
fn big(number: usize) -> &'static (Recording, Vec<u8>) {
    static PAGES: [OnceLock<(Recording, Vec<u8>)>; SAMPLES] = [const { OnceLock::new() }; SAMPLES];
    PAGES[number].get_or_init(|| {
        let len = 200_000;
        match number {
            0..3 => page(
                &["-tls1_3"],
                &["-tls1_3", "-ciphersuites", SUITES_13[number]],
                len,
            ),
            _ => page(
                &["-tls1_2"],
                &["-tls1_2", "-cipher", SUITES_12[number - 3]],
                len,
            ),
        }
    })
}

/// Feeds a record as a program would read it: head, then body; `keep` decides what of the body is copied.
fn feed(replay: &mut Replay, direction: Direction, record: &[u8], keep: impl Fn(usize) -> bool) {
    replay.data(direction, &record[..5]);
    let mut at = 5;
    while at < record.len() {
        let kept = keep(at);
        let len = record[at..]
            .iter()
            .enumerate()
            .take_while(|(more, _)| keep(at + more) == kept)
            .count();
        match kept {
            true => replay.data(direction, &record[at..at + len]),
            false => replay.gap(direction, len, GapReason::Policy),
        }
        at += len;
    }
}

/// Both directions in the order of the recording, but by records.
pub fn by_records(recording: &Recording) -> Vec<(Direction, Vec<u8>)> {
    // A record belongs where its last byte came.
    let mut out = Vec::new();
    let streams = [Sent, Received].map(|direction| recording.stream(direction));
    let mut records =
        [Sent, Received].map(|direction| recording.records(direction).into_iter().peekable());
    let mut come = [0; 2];
    for (direction, bytes) in &recording.chunks {
        let index = direction.index();
        come[index] += bytes.len();
        while let Some((from, to)) = records[index].next_if(|(_, to)| *to <= come[index]) {
            out.push((*direction, streams[index][from..to].to_vec()));
        }
    }
    out
}

#[test]
fn large_records_are_read_in_part() {
    for number in 0..SAMPLES {
        let (recording, page) = big(number);
        for (prefix, suffix) in [(4096, 32), (100, 32), (0, 32), (17, 16), (4096, 0), (5, 20)] {
            let mut replay = Replay::new();
            replay.learn(recording);
            for (direction, record) in by_records(recording) {
                let small = record.len() < 2048;
                feed(&mut replay, direction, &record, |at| {
                    small || at < 5 + prefix || at >= record.len() - suffix
                });
            }
            let read = replay.close();
            let text = &read.text[1];
            let body = text.len() - page.len();
            assert_eq!(
                read.unread,
                Vec::<String>::new(),
                "{number} {prefix} {suffix}"
            );
            let known = text[body..]
                .iter()
                .zip(page)
                .filter(|(byte, _)| **byte != b'?');
            assert!(known.into_iter().all(|(byte, expected)| byte == expected));
            let counts = read.facts.counts[1];
            assert!(counts.parts >= 12, "{counts:?}");
            // TLS 1.2's parts begin with 8 bytes that are not text, without which nothing is read.
            let of_part = match (number, prefix) {
                (3..5, 0..8) => 0,
                _ => (prefix as u64).saturating_sub(8) + (suffix as u64).saturating_sub(17),
            };
            assert!(counts.plain >= counts.parts * of_part, "{counts:?}");
            assert!(
                read.gaps[1]
                    .iter()
                    .all(|(_, _, reason)| *reason == GapReason::Policy)
            );
        }
    }
}

#[test]
fn a_lost_record_is_a_gap_of_its_size() {
    for number in 0..SAMPLES {
        let (recording, page) = big(number);
        let records = by_records(recording);
        let large: Vec<usize> = (0..records.len())
            .filter(|at| records[*at].1.len() > 8000)
            .collect();
        for lost in [&large[2..3], &large[3..6]] {
            let mut replay = Replay::new();
            replay.learn(recording);
            for (at, (direction, record)) in records.iter().enumerate() {
                match lost.contains(&at) {
                    true => replay.gap(*direction, record.len(), GapReason::Unseen),
                    false => replay.data(*direction, record),
                }
            }
            let read = replay.close();
            let text = &read.text[1];
            assert_eq!(read.gaps[1].len(), 1, "{number}");
            let (offset, len, reason) = read.gaps[1][0];
            assert_eq!(reason, GapReason::Unseen);
            let body = text.len() - page.len();
            let from = offset as usize - body;
            assert!(text[body..][..from] == page[..from]);
            let after = from + len as usize;
            assert!(text[body..][after..] == page[after..], "{number}");
            assert_eq!(read.facts.counts[1].losses, 1);
            assert_eq!(read.unread, Vec::<String>::new());
        }
    }
}

#[test]
fn a_gap_from_within_a_record_into_another_is_bridged() {
    for number in 0..SAMPLES {
        let (recording, page) = big(number);
        let records = by_records(recording);
        let large: Vec<usize> = (0..records.len())
            .filter(|at| records[*at].1.len() > 8000)
            .collect();
        let (first, last) = (large[2], large[4]);
        let mut replay = Replay::new();
        replay.learn(recording);
        for (at, (direction, record)) in records.iter().enumerate() {
            if at == first {
                replay.data(*direction, &record[..1000]);
                replay.gap(*direction, record.len() - 1000, GapReason::Unseen);
            } else if at > first && at < last && *direction == Received {
                replay.gap(*direction, record.len(), GapReason::Unseen);
            } else if at == last {
                replay.gap(*direction, 3, GapReason::Unseen);
                replay.data(*direction, &record[3..]);
            } else {
                replay.data(*direction, record);
            }
        }
        let read = replay.close();
        let text = &read.text[1];
        let body = text.len() - page.len();
        let (offset, len) = (
            read.gaps[1][0].0 as usize,
            read.gaps[1].iter().map(|gap| gap.1 as usize).sum::<usize>(),
        );
        assert!(text[body..offset] == page[..offset - body], "{number}");
        assert!(
            text[offset + len..] == page[offset + len - body..],
            "{number}"
        );
        assert!(len < 3 * 16384 + 1 && len > 2 * 8000, "{len}");
    }
}

/// Any one record of the conversation may be missing: all lines but one are read, if the hellos are.
#[test]
fn any_record_may_be_lost() {
    for number in 0..SAMPLES {
        let recording = sample(number);
        let records = by_records(recording);
        for lost in 0..records.len() {
            let mut replay = Replay::new();
            replay.learn(recording);
            for (at, (direction, record)) in records.iter().enumerate() {
                match lost == at {
                    true => replay.gap(*direction, record.len(), GapReason::Unseen),
                    false => replay.data(*direction, record),
                }
            }
            let hello = !records[..lost].iter().any(|(of, _)| *of == records[lost].0);
            let read = replay.close();
            let lines = |text: String| text.lines().filter(|line| !line.contains('?')).count();
            let seen = lines(read.sent()) + lines(read.received());
            let what = format!(
                "{number} without {lost} of {}: {:?} {:?}",
                records.len(),
                read.unread,
                read.facts
            );
            if hello {
                assert!(!read.unread.is_empty() || seen == 6, "{what}");
            } else {
                assert!(
                    seen >= 4,
                    "{seen} {what} {:?} {:?}",
                    read.sent(),
                    read.received()
                );
            }
        }
    }
}

#[test]
fn secrets_may_come_after_the_records_in_any_order() {
    for number in 0..SAMPLES {
        let recording = sample(number);
        let count = recording.secrets.len();
        for turn in 0..count {
            let mut replay = Replay::new();
            replay.all(recording);
            assert!(replay.read.is_silent());
            assert!(replay.session.wants_secret());
            for place in 0..count {
                let (label, _, bytes) = &recording.secrets[(place * 7 + turn) % count];
                replay.now += 1;
                replay
                    .pool
                    .insert(secret(PROCESS, label, bytes, replay.now));
                replay.offer();
            }
            check_lines(&replay.close());
        }
    }
}

#[test]
fn application_secrets_are_enough() {
    for number in 0..3 {
        let mut recording = sample(number).clone();
        recording
            .secrets
            .retain(|(label, ..)| label.ends_with("TRAFFIC_SECRET_0"));
        assert_eq!(recording.secrets.len(), 2);
        check_lines(&read(&recording));
        for direction in [Sent, Received] {
            let mut half = recording.clone();
            half.secrets
                .retain(|(label, ..)| label.starts_with("CLIENT") == (direction == Sent));
            let half = read(&half);
            assert_eq!(
                half.unread,
                [format!("{:?} no_secret", direction.opposite())]
            );
            assert!(!half.text[direction.index()].is_empty());
            assert!(half.text[direction.opposite().index()].is_empty());
        }
    }
}

#[test]
fn other_connections_secrets_prove_nothing() {
    for number in 0..SAMPLES {
        let recording = sample(number);
        let mut replay = Replay::new();
        for other in (0..SAMPLES).filter(|other| *other != number) {
            replay.learn(sample(other));
        }
        for noise in 0..500u32 {
            for label in [
                "CLIENT_TRAFFIC_SECRET_0",
                "SERVER_HANDSHAKE_TRAFFIC_SECRET",
                "CLIENT_RANDOM",
            ] {
                let bytes = noise.to_le_bytes().repeat(12);
                replay
                    .pool
                    .insert(secret(PROCESS, label, &bytes, replay.now));
            }
        }
        replay.all(recording);
        assert!(replay.read.proved.is_empty());
        let before = replay.pool.len();
        replay.learn(recording);
        replay.offer();
        let proven = replay.read.proved.len();
        assert_eq!(proven, if number < 3 { 4 } else { 1 });
        assert_eq!(replay.pool.len(), before + if number < 3 { 0 } else { 1 });
        check_lines(&replay.close());
    }
}

#[test]
fn a_connection_without_a_secret_is_told_once() {
    for number in 0..SAMPLES {
        let mut recording = sample(number).clone();
        recording.secrets.clear();
        let read = read(&recording);
        assert_eq!(
            (read.unread, read.text),
            (vec!["no_secret".to_owned()], [vec![], vec![]])
        );
        assert_eq!(read.facts.trials, 0);
    }
}

#[test]
fn secrets_belong_to_processes_and_are_tried_once() {
    let other = ProcessKey { pid: 9, start: 90 };
    for number in 0..SAMPLES {
        let recording = sample(number);
        let mut replay = Replay::new();
        replay.processes = vec![other];
        for noise in 0..10u8 {
            replay
                .pool
                .insert(secret(other, "CLIENT_RANDOM", &[noise; 48], replay.now));
            replay.pool.insert(secret(
                other,
                "SERVER_TRAFFIC_SECRET_0",
                &[noise; 48],
                replay.now,
            ));
            replay.pool.insert(secret(
                other,
                "SERVER_TRAFFIC_SECRET_0",
                &[noise; 32],
                replay.now,
            ));
        }
        replay.learn(recording);
        replay.all(recording);
        assert!(replay.read.proved.is_empty());
        let trials = replay.session.facts().trials;
        for _ in 0..5 {
            replay.offer();
        }
        assert_eq!(
            replay.session.facts().trials,
            trials,
            "nothing is tried twice"
        );
        replay.processes.push(PROCESS);
        replay.offer();
        check_lines(&replay.close());
    }
}

#[test]
fn a_connection_opened_before_is_told() {
    for number in 0..SAMPLES {
        let recording = sample(number);
        let sent = recording.records(Sent);
        let stream = recording.stream(Sent);
        for (from, _) in &sent[1..] {
            let mut replay = Replay::new();
            replay.learn(recording);
            replay.offsets[0] = *from as u64;
            replay.data(Sent, &stream[*from..]);
            // TLS 1.2's Finished looks like a message that is not complete.
            let read = replay.close();
            assert_eq!(read.unread, ["opened_before_agent"], "{number} from {from}");
            assert!(read.is_silent());
        }
    }
}

#[test]
fn the_server_hello_is_enough_for_tls13() {
    for number in 0..SAMPLES {
        let recording = sample(number);
        let mut replay = Replay::new();
        replay.learn(recording);
        let (sent, received) = (recording.stream(Sent), recording.stream(Received));
        let hello = recording.records(Sent)[0].1;
        replay.offsets[0] = hello as u64;
        replay.data(Received, &received);
        replay.data(Sent, &sent[hello..]);
        let read = replay.close();
        match number {
            0..3 => check_lines(&read),
            _ => assert_eq!(read.unread, ["opened_before_agent"]),
        }
    }
}

#[test]
fn what_waits_is_bounded_and_the_rest_is_read() {
    for number in 0..SAMPLES {
        let (recording, page) = big(number);
        let limits = SessionLimits {
            waiting: 40_000,
            ..SessionLimits::default()
        };
        let mut replay = Replay::with(limits, &Budget::new(1 << 20));
        for (direction, record) in by_records(recording) {
            replay.data(direction, &record);
            assert!(replay.session.held() <= limits.waiting);
        }
        replay.learn(recording);
        replay.offer();
        let read = replay.close();
        assert!(
            read.unread.contains(&"Received overflow".to_owned()),
            "{number} {:?}",
            read.unread
        );
        let text = &read.text[1];
        assert!(
            text.ends_with(&page[page.len() - 10_000..]),
            "{number} {:?}",
            read.unread
        );
        assert_eq!(read.gaps[1].len(), 1);
    }
}

#[test]
fn the_shared_budget_binds() {
    let budget = Budget::new(30_000);
    let recording = &big(0).0;
    let mut replays: Vec<Replay> = (0..4)
        .map(|_| Replay::with(SessionLimits::default(), &budget))
        .collect();
    for replay in &mut replays {
        replay.all(recording);
        assert!(budget.used() <= budget.limit());
    }
    for replay in replays {
        let unread = replay.close().unread;
        assert!(
            unread.iter().any(|reason| reason.ends_with("overflow")),
            "{unread:?}"
        );
    }
    assert_eq!(budget.used(), 0);
}

#[test]
fn what_waits_too_long_is_dropped_and_a_late_secret_still_helps() {
    for number in 0..SAMPLES {
        let recording = sample(number);
        let records = by_records(recording);
        // Up to the last line of the client.
        let last = (0..records.len())
            .rev()
            .filter(|at| records[*at].0 == Sent)
            .nth(1)
            .unwrap();
        let mut replay = Replay::new();
        for (direction, record) in &records[..last] {
            replay.data(*direction, record);
        }
        replay.now += 11_000_000_000;
        replay.session.expire(replay.now);
        assert_eq!(replay.session.held(), 0);
        replay.learn(recording);
        for (direction, record) in &records[last..] {
            replay.data(*direction, record);
        }
        let read = replay.close();
        assert_eq!(read.unread, ["no_secret"]);
        assert!(
            read.sent().ends_with("the last one of three\n"),
            "{number} {:?} {:?}",
            read.sent(),
            read.unread
        );
        assert!(
            read.received().ends_with("eerht fo eno tsal eht\n"),
            "{number} {:?}",
            read.received()
        );
    }
}

#[test]
fn a_changed_record_is_not_believed() {
    for number in 0..SAMPLES {
        let recording = sample(number);
        let records = by_records(recording);
        let lines: Vec<usize> = (0..records.len())
            .filter(|at| records[*at].0 == Sent && records[*at].1[0] == 23)
            .collect();
        let changed = lines[lines.len() - 3];
        let mut replay = Replay::new();
        replay.learn(recording);
        for (at, (direction, record)) in records.iter().enumerate() {
            let mut record = record.to_vec();
            if at == changed {
                record[15] ^= 1;
            }
            replay.data(*direction, &record);
        }
        let read = replay.close();
        assert!(
            read.unread.contains(&"Sent lost_records".to_owned()),
            "{number} {:?}",
            read.unread
        );
        assert_eq!(read.gaps[0].len(), 1);
        assert_eq!(read.gaps[0][0].2, GapReason::Unopened);
        assert_eq!(read.text[0].len(), 58);
        assert!(read.sent().ends_with("the last one of three\n"));
    }
}

#[test]
fn a_first_record_in_part_is_read_once_a_whole_one_proves_the_secret() {
    for number in 0..3 {
        let recording = sample(number);
        let records = by_records(recording);
        let first = (0..records.len())
            .filter(|at| records[*at].0 == Sent && records[*at].1[0] == 23)
            .nth(1)
            .unwrap();
        let mut replay = Replay::new();
        replay.learn(recording);
        for (at, (direction, record)) in records.iter().enumerate() {
            feed(&mut replay, *direction, record, |place| {
                at != first || place != 12
            });
        }
        let read = replay.close();
        assert_eq!(
            read.sent(),
            "GET /on? HTTP/1.1 alpha\nsecond line\nthe last one of three\n"
        );
        assert_eq!(read.unread, Vec::<String>::new());
    }
}

#[test]
fn resting_changes_nothing() {
    for number in 0..SAMPLES {
        let recording = sample(number);
        let mut replay = Replay::new();
        replay.learn(recording);
        for (direction, bytes) in &recording.chunks {
            replay.data(*direction, bytes);
            replay.session.rest();
        }
        let read = replay.close();
        check_lines(&read);
        assert!(read.ends.contains(&(Sent, 0)), "close_notify");
    }
}

#[test]
fn garbage_is_told() {
    let rows: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\n\r\n", "malformed (not a record)"),
        (&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0], "malformed (ClientHello)"),
        (
            &[22, 3, 1, 0, 6, 2, 0, 0, 2, 3, 3],
            "malformed (ServerHello)",
        ),
        (
            &[22, 3, 1, 0, 6, 2, 0, 0, 2, 3, 4],
            "version_unsupported (0x0304)",
        ),
        (&[23, 3, 3, 0, 2, 0, 0], "opened_before_agent"),
    ];
    for (bytes, expected) in rows {
        let mut replay = Replay::new();
        replay.data(Sent, bytes);
        replay.data(Sent, b"and more of it");
        assert_eq!(replay.close().unread, [expected]);
    }
}

#[test]
fn a_failed_handshake_is_told() {
    let (_server, address) = openssl_server(&["-tls1_3"]);
    let proxy = Proxy::to(address);
    openssl_refused(&proxy, &["-tls1_2"]);
    let read = read(&Recording {
        chunks: proxy.chunks(0),
        secrets: vec![],
    });
    assert_eq!(read.unread, ["handshake_failed (alert 70)"]);
    assert_eq!(read.ends, [(Received, 70)]);
}

#[test]
fn records_are_recognised_at_every_length() {
    let stream = sample(0).stream(Sent);
    for len in 0..100 {
        let expected = if len < 5 { Detect::More } else { Detect::Yes };
        assert_eq!(looks_like_record(&stream[..len]), expected);
    }
    for other in [
        &b"GET /"[..],
        b"PROXY",
        b"\x16\x03\x05\x00\x05",
        b"\x17\x03\x03\xff\xff",
        b"\x16\x03\x01\x00\x00",
        b"\x19\x03\x03\x00\x20",
    ] {
        assert_eq!(looks_like_record(other), Detect::No, "{other:?}");
    }
    assert_eq!(looks_like_record(b"\x17\x03\x03\x00\x20"), Detect::Yes);
}

/// Ten thousand connections are to fit into a few tens of megabytes.
#[test]
fn an_idle_connection_is_small() {
    assert!(
        size_of::<crate::tls::Session>() <= 1600,
        "{}",
        size_of::<crate::tls::Session>()
    );
    let recording = sample(1);
    let mut replay = Replay::new();
    replay.learn(recording);
    for (direction, record) in &by_records(recording)[..12] {
        replay.data(*direction, record);
    }
    assert_eq!(replay.session.held(), 0);
}

/// Chunks from several CPUs, out of order and with parts left out, through the flows into the session.
#[test]
fn chunks_go_through_the_flow() {
    for number in 0..SAMPLES {
        let recording = sample(number);
        let budget = Budget::new(1 << 20);
        let mut flows =
            [Sent, Received].map(|_| Flow::new(FlowLimits::default(), &budget, Some(0)));
        let mut replay = Replay::new();
        replay.learn(recording);
        let mut offsets = [0u64; 2];
        let mut chunks: Vec<(usize, u64, Vec<u8>)> = Vec::new();
        for (direction, bytes) in &recording.chunks {
            let index = direction.index();
            chunks.push((index, offsets[index], bytes.clone()));
            offsets[index] += bytes.len() as u64;
        }
        // Each four turned round.
        chunks.chunks_mut(4).for_each(<[_]>::reverse);
        for (index, offset, bytes) in chunks {
            let now = replay.now;
            flows[index].push(offset, bytes.len() as u64, bytes.into(), now);
            for (direction, flow) in [Sent, Received].into_iter().zip(&mut flows) {
                while let Some(piece) = flow.pop(now) {
                    replay.push(direction, piece);
                }
            }
        }
        check_lines(&replay.close());
        assert_eq!(budget.used(), 0);
    }
}

#[test]
fn a_stream_joined_within_a_record_was_opened_before() {
    let recording = sample(0);
    let mut replay = Replay::new();
    replay.offsets[1] = 1000;
    replay.data(Received, &recording.stream(Received)[1000..]);
    assert_eq!(replay.close().unread, ["opened_before_agent"]);
}
