//! The queue by itself: order, positions, caps, damage, runs.

use super::*;
use rusqlite::Connection;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const AGENT: &str = "agent-1";

fn options(path: &Path) -> Options {
    Options {
        path: path.join("spool"),
        max_bytes: 1 << 30,
        max_age: Duration::from_secs(3_600),
        when_full: WhenFull::Refuse,
        quarantine_bytes: 1 << 20,
    }
}

fn at(number: u64) -> Time {
    Time::from_unix_nanos(1_790_000_000_000_000_000 + i128::from(number) * 1_000_003)
}

/// Does not compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

fn record(sequence: u64) -> Record {
    Record {
        sequence,
        time: at(sequence),
        bytes: format!("{{\"n\":{sequence}}}").into(),
        settles: None,
    }
}

fn noisy(sequence: u64, length: usize) -> Record {
    Record {
        bytes: noise(sequence, length).into(),
        ..record(sequence)
    }
}

fn records(sequences: impl IntoIterator<Item = u64>) -> Vec<Record> {
    sequences.into_iter().map(record).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A spool in its first run, epoch 100, with consumers.
fn start(options: &Options, consumers: &[&str]) -> (Spool, Vec<Consumer>) {
    let mut spool = Spool::open(options.clone()).unwrap();
    let consumers = spool.register(&names(consumers)).unwrap();
    spool.begin(AGENT, 100, at(0)).unwrap();
    (spool, consumers)
}

fn sequences(page: &Page) -> Vec<u64> {
    page.records.iter().map(|record| record.sequence).collect()
}

/// Everything that waits for a consumer, acknowledged in pages of `most`.
fn drain(consumer: &mut Consumer, most: usize) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    while let Some(page) = consumer.page(most, 1 << 20).unwrap() {
        all.extend(
            page.records
                .iter()
                .map(|record| (page.epoch, record.sequence)),
        );
        consumer.acknowledge(page.records.len()).unwrap();
    }
    all
}

fn count(connection: &Connection, table: &str) -> i64 {
    connection
        .query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |row| {
            row.get(0)
        })
        .unwrap()
}

fn database(options: &Options) -> Connection {
    Connection::open(options.path.join("spool.db")).unwrap()
}

#[test]
fn records_come_out_as_they_went_in() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (mut spool, mut consumers) = start(&options, &["one"]);
    let groups = [
        records(1..=3),
        vec![noisy(4, 0), noisy(9, 100_000), noisy(10, 1)],
        vec![Record {
            bytes: Bytes::from_static(b"\n{}\n\n"),
            ..record(11)
        }],
    ];
    for group in &groups {
        assert_eq!(spool.append(group).unwrap(), Appended::Stored);
    }
    let page = consumers[0].page(100, 1 << 20).unwrap().unwrap();
    assert_eq!((page.agent.as_ref(), page.epoch), (AGENT, 100));
    assert_eq!(page.records, groups.concat());
    // Until they are acknowledged.
    assert_eq!(
        consumers[0].page(100, 1 << 20).unwrap().unwrap().records,
        groups.concat()
    );
    consumers[0].acknowledge(7).unwrap();
    assert!(consumers[0].page(100, 1 << 20).unwrap().is_none());
}

#[test]
fn pages_keep_to_their_limits_and_join_entries() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (mut spool, mut consumers) = start(&options, &["one"]);
    for group in [1..=3u64, 4..=4, 5..=10] {
        spool.append(&records(group)).unwrap();
    }
    let consumer = &mut consumers[0];
    let mut page = |events, bytes| {
        let page = consumer.page(events, bytes).unwrap().unwrap();
        consumer.acknowledge(page.records.len()).unwrap();
        sequences(&page)
    };
    assert_eq!(page(2, 1000), [1, 2]);
    assert_eq!(page(4, 1000), [3, 4, 5, 6]);
    // Each has 7 bytes.
    assert_eq!(page(100, 14), [7, 8]);
    assert_eq!(page(100, 13), [9]);
    assert_eq!(page(0, 0), [10]);
}

#[test]
fn large_groups_become_several_entries() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (mut spool, mut consumers) = start(&options, &["one"]);
    let mut all = records(1..=9_000);
    all.extend((9_001..=9_004).map(|sequence| noisy(sequence, 700_000)));
    all.push(noisy(9_005, 3_000_000));
    spool.append(&all).unwrap();
    assert_eq!(count(&database(&options), "entries"), 3 + 4 + 1 - 1);
    let expected: Vec<_> = all.iter().map(|record| (100, record.sequence)).collect();
    assert_eq!(drain(&mut consumers[0], 1_000), expected);
}

#[test]
fn positions_survive_and_what_all_have_passed_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    // Cut at every place.
    for done in 0..=6usize {
        let _ = std::fs::remove_dir_all(&options.path);
        let (mut spool, mut consumers) = start(&options, &["fast", "slow"]);
        spool.append(&records(1..=3)).unwrap();
        spool.append(&records(4..=6)).unwrap();
        assert_eq!(drain(&mut consumers[0], 10).len(), 6);
        consumers[1].page(100, 1000).unwrap().unwrap();
        consumers[1].acknowledge(done).unwrap();
        spool.tend().unwrap();
        let left = 2 - done as i64 / 3;
        assert_eq!(count(&database(&options), "entries"), left, "{done}");
        assert_eq!(spool.used() > 0, left > 0);
        drop((spool, consumers));
        let mut spool = Spool::open(options.clone()).unwrap();
        let mut consumers = spool.register(&names(&["slow", "fast"])).unwrap();
        let rest: Vec<_> = (done as u64 + 1..=6).map(|n| (100, n)).collect();
        assert_eq!(drain(&mut consumers[0], 2), rest);
        assert_eq!(drain(&mut consumers[1], 2), []);
    }
}

#[test]
fn consumers_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (mut spool, consumers) = start(&options, &["gone"]);
    spool.append(&records(1..=3)).unwrap();
    drop(consumers);
    // A new one gets what is there, and the old one does not hold it any more.
    let mut consumers = spool.register(&names(&["new"])).unwrap();
    assert_eq!(drain(&mut consumers[0], 10).len(), 3);
    spool.tend().unwrap();
    assert_eq!(count(&database(&options), "entries"), 0);
    assert_eq!(count(&database(&options), "consumers"), 1);
}

#[test]
fn runs_are_told_apart_and_epochs_rise() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (mut spool, _) = start(&options, &["one"]);
    spool.append(&records(1..=2)).unwrap();
    spool.end().unwrap();
    assert!(matches!(spool.append(&records([3])), Err(Error::NoRun)));
    drop(spool);
    let mut spool = Spool::open(options.clone()).unwrap();
    let mut consumers = spool.register(&names(&["one"])).unwrap();
    // The clock went back.
    assert_eq!(spool.begin("agent-2", 50, at(9)).unwrap(), 101);
    assert_eq!(spool.losses().unwrap(), []);
    spool.append(&records(1..=2)).unwrap();
    let page = consumers[0].page(100, 1000).unwrap().unwrap();
    assert_eq!((page.epoch, sequences(&page)), (100, vec![1, 2]));
    consumers[0].acknowledge(2).unwrap();
    let page = consumers[0].page(100, 1000).unwrap().unwrap();
    assert_eq!(
        (page.epoch, page.agent.as_ref(), sequences(&page)),
        (101, "agent-2", vec![1, 2])
    );
    spool.end().unwrap();
    assert_eq!(spool.begin("agent-2", 5_000, at(10)).unwrap(), 5_000);
}

#[test]
fn an_end_without_goodbye_is_a_loss_until_it_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (mut spool, _) = start(&options, &["one"]);
    spool.append(&records(1..=7)).unwrap();
    drop(spool);
    // Killed again before it could tell.
    for run in 0..3 {
        let mut spool = Spool::open(options.clone()).unwrap();
        spool.register(&names(&["one"])).unwrap();
        let epoch = spool.begin(AGENT, 200 + run, at(50 + run)).unwrap();
        let losses = spool.losses().unwrap();
        assert_eq!(losses.len(), run as usize + 1);
        assert_eq!(spool.losses().unwrap(), [], "handed out once");
        let lost = &losses[0];
        assert_eq!(
            (lost.reason, lost.begin, lost.last, lost.count),
            (Reason::UncleanEnd, Some((100, 8)), None, None)
        );
        assert_eq!((lost.from, lost.to), (at(7), at(50)));
        if let Some(lost) = losses.get(1) {
            // Nothing durable: since its start.
            assert_eq!((lost.begin, lost.from), (Some((epoch - run, 1)), at(50)));
        }
        if run == 2 {
            let told: Vec<_> = losses
                .iter()
                .zip(1..)
                .map(|(lost, sequence)| Record {
                    settles: Some(lost.id),
                    ..record(sequence)
                })
                .collect();
            spool.append(&told).unwrap();
            spool.end().unwrap();
        }
    }
    let mut spool = Spool::open(options).unwrap();
    spool.begin(AGENT, 300, at(60)).unwrap();
    assert_eq!(spool.losses().unwrap(), []);
}

#[test]
fn at_the_cap_the_newest_are_refused_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        max_bytes: 100_000,
        ..options(folder.path())
    };
    let (mut spool, mut consumers) = start(&options, &["one"]);
    let mut stored = Vec::new();
    for sequence in 1..=10 {
        match spool.append(&[noisy(sequence, 20_000)]).unwrap() {
            Appended::Stored => stored.push((100, sequence)),
            Appended::Refused(count) => assert_eq!(count, 1),
        }
        assert!(spool.used() <= options.max_bytes);
    }
    assert_eq!(stored.len(), 4);
    let losses = spool.losses().unwrap();
    assert_eq!(losses.len(), 1, "one of a kind: {losses:?}");
    let lost = &losses[0];
    assert_eq!(
        (
            lost.reason,
            &lost.consumer,
            lost.begin,
            lost.last,
            lost.count
        ),
        (Reason::Full, &None, Some((100, 5)), Some(10), Some(6))
    );
    assert_eq!((lost.from, lost.to), (at(5), at(10)));
    // The event that tells of it is refused, too: it is told of later, together with itself.
    let telling = Record {
        settles: Some(lost.id),
        ..noisy(11, 20_000)
    };
    assert_eq!(
        spool.append(std::slice::from_ref(&telling)).unwrap(),
        Appended::Refused(1)
    );
    let again = spool.losses().unwrap();
    assert_eq!(again.iter().filter_map(|lost| lost.count).sum::<u64>(), 7);
    assert_eq!(drain(&mut consumers[0], 100), stored);
    let telling: Vec<_> = again
        .iter()
        .zip(12..)
        .map(|(lost, sequence)| Record {
            settles: Some(lost.id),
            ..record(sequence)
        })
        .collect();
    assert_eq!(spool.append(&telling).unwrap(), Appended::Stored);
    assert_eq!(count(&database(&options), "losses"), 0);
}

#[test]
fn at_the_cap_the_oldest_leave_if_so_configured() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        max_bytes: 100_000,
        when_full: WhenFull::DropOldest,
        ..options(folder.path())
    };
    let (mut spool, mut consumers) = start(&options, &["ahead", "behind", "within"]);
    for sequence in (1..=8).step_by(2) {
        spool
            .append(&[noisy(sequence, 10_000), noisy(sequence + 1, 10_000)])
            .unwrap();
    }
    for (index, done) in [(0, 8), (2, 3)] {
        consumers[index].page(100, 1 << 20).unwrap().unwrap();
        consumers[index].acknowledge(done).unwrap();
    }
    for sequence in (9..=12).step_by(2) {
        let records = [noisy(sequence, 10_000), noisy(sequence + 1, 10_000)];
        assert_eq!(spool.append(&records).unwrap(), Appended::Stored);
        assert!(spool.used() <= options.max_bytes);
    }
    let losses: Vec<_> = spool
        .losses()
        .unwrap()
        .into_iter()
        .map(|lost| {
            (
                lost.consumer.unwrap(),
                lost.reason,
                lost.begin,
                lost.last,
                lost.count,
            )
        })
        .collect();
    assert_eq!(
        losses,
        [
            (
                "behind".to_owned(),
                Reason::Full,
                Some((100, 1)),
                Some(4),
                Some(4)
            ),
            (
                "within".to_owned(),
                Reason::Full,
                Some((100, 3)),
                Some(4),
                Some(1)
            ),
        ]
    );
    let expected: Vec<_> = (5..=12).map(|n| (100, n)).collect();
    assert_eq!(drain(&mut consumers[1], 100), expected);
    // Larger than the whole spool: refused all the same, and nothing leaves for it.
    assert_eq!(
        spool.append(&[noisy(13, 200_000)]).unwrap(),
        Appended::Refused(1)
    );
    assert!(spool.used() > 0);
}

#[test]
fn what_is_too_old_leaves_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (mut spool, mut consumers) = start(&options, &["done", "waiting"]);
    spool.append(&records(1..=5)).unwrap();
    drain(&mut consumers[0], 100);
    database(&options)
        .execute("UPDATE entries SET made = made - 4000000000000", [])
        .unwrap();
    spool.append(&records(6..=6)).unwrap();
    let losses = spool.losses().unwrap();
    assert_eq!(losses.len(), 1);
    assert_eq!(
        (
            losses[0].consumer.as_deref(),
            losses[0].reason,
            losses[0].count
        ),
        (Some("waiting"), Reason::Expired, Some(5))
    );
    assert_eq!(drain(&mut consumers[1], 100), [(100, 6)]);
}

#[test]
fn damage_anywhere_in_an_entry_loses_that_entry_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let columns = [
        "payload",
        "payload_seal",
        "seal",
        "first",
        "last",
        "from_time",
        "to_time",
        "records",
        "raw",
        "run",
        "made",
    ];
    for column in columns {
        let _ = std::fs::remove_dir_all(&options.path);
        let (mut spool, mut consumers) = start(&options, &["one", "two"]);
        for group in [1..=3u64, 4..=6, 7..=9] {
            spool.append(&records(group)).unwrap();
        }
        let change = match column {
            "payload" => {
                "payload = CAST(SUBSTR(payload, 1, 20) || X'00' || SUBSTR(payload, 22) AS BLOB)"
                    .to_owned()
            }
            "payload_seal" | "seal" => format!("{column} = X'00'"),
            number => format!("{number} = {number} + 1"),
        };
        let changed = database(&options)
            .execute(&format!("UPDATE entries SET {change} WHERE id = 2"), [])
            .unwrap();
        assert_eq!(changed, 1);
        let expected: Vec<_> = [1, 2, 3, 7, 8, 9].map(|n| (100, n)).to_vec();
        for consumer in &mut consumers {
            assert_eq!(drain(consumer, 2), expected, "{column}");
        }
        let losses = spool.losses().unwrap();
        assert_eq!(losses.len(), 1, "once for all of them");
        let lost = &losses[0];
        assert_eq!((lost.reason, &lost.consumer), (Reason::Damaged, &None));
        if column == "payload" {
            assert_eq!(
                (lost.begin, lost.last, lost.count),
                (Some((100, 4)), Some(6), Some(3))
            );
        } else {
            assert_eq!((lost.begin, lost.last, lost.count), (None, None, None));
        }
        spool.tend().unwrap();
        assert_eq!(spool.used(), 0);
    }
}

#[test]
fn every_flipped_bit_of_a_payload_is_seen() {
    let mut packer = entry::Packer::new().unwrap();
    let (head, payload) = packer.entry(1, 2, &records(1..=3)).unwrap();
    let unpacked = entry::unpack(&payload, head.raw, head.records).unwrap();
    assert_eq!(unpacked, records(1..=3));
    for bit in 0..payload.len() * 8 {
        let mut damaged = payload.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(entry::seal(&damaged), head.payload_seal);
        // Whatever it says without its seal, it is no panic.
        let _ = entry::unpack(&damaged, head.raw, head.records);
    }
    for (raw, count) in [
        (-1, 3),
        (i64::MAX, 3),
        (head.raw, -1),
        (head.raw, i64::MAX),
        (head.raw, 2),
        (head.raw, 4),
    ] {
        assert_eq!(entry::unpack(&payload, raw, count), None);
    }
    for end in 0..payload.len() {
        assert_eq!(entry::unpack(&payload[..end], head.raw, head.records), None);
    }
}

#[test]
fn a_damaged_database_is_moved_aside_and_told_of() {
    for damage in ["no database", "begin", "tables", "stranger", "empty"] {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let (mut spool, mut consumers) = start(&options, &["one"]);
        for group in 0..50 {
            spool
                .append(&[noisy(2 * group + 1, 10_000), noisy(2 * group + 2, 10_000)])
                .unwrap();
        }
        drain(&mut consumers[0], 100);
        drop((spool, consumers));
        let path = options.path.join("spool.db");
        // The log is brought into the file.
        database(&options)
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
            .unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        match damage {
            "no database" => bytes = b"something else entirely".repeat(1_000),
            "begin" => bytes[..100].fill(0xff),
            "tables" => bytes[100..4_096].fill(0xaa),
            "stranger" => bytes[68..72].fill(0),
            _ => bytes[8_192..].fill(0x55),
        }
        std::fs::write(&path, &bytes).unwrap();
        let mut spool = Spool::open(options.clone()).unwrap();
        spool.register(&names(&["one"])).unwrap();
        spool.begin(AGENT, 500, at(90)).unwrap();
        let aside: Vec<_> = std::fs::read_dir(&options.path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                path.file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with("damaged-")
            })
            .filter(|path| path.extension().unwrap() == "db")
            .collect();
        assert_eq!(aside.len(), 1, "{damage}");
        assert!(std::fs::read(&aside[0]).unwrap() == bytes, "{damage}");
        drop(spool);
        // Told of once, and again after a kill before it was durable; not any more when it is.
        for told in [false, true] {
            let mut spool = Spool::open(options.clone()).unwrap();
            spool.begin(AGENT, 500, at(90)).unwrap();
            let losses = spool.losses().unwrap();
            let lost: Vec<_> = losses
                .iter()
                .filter(|lost| lost.reason == Reason::Damaged)
                .collect();
            assert_eq!(lost.len(), 1, "{damage} {told}");
            assert_eq!((lost[0].count, lost[0].begin), (None, None));
            assert!(lost[0].from <= lost[0].to && lost[0].from > Time::from_unix_nanos(0));
            let telling = Record {
                settles: Some(lost[0].id),
                ..record(1)
            };
            if told {
                assert_eq!(spool.append(&[telling]).unwrap(), Appended::Stored);
            }
        }
        let mut spool = Spool::open(options.clone()).unwrap();
        assert!(
            spool
                .losses()
                .unwrap()
                .iter()
                .all(|lost| lost.reason != Reason::Damaged)
        );
    }
}

#[test]
fn the_folder_is_ours_alone() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (spool, _) = start(&options, &[]);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&options.path), 0o700);
    assert!(matches!(
        Spool::open(options.clone()),
        Err(Error::Locked { .. })
    ));
    drop(spool);
    for (given, fits) in [
        (0o755, true),
        (0o700, true),
        (0o720, false),
        (0o702, false),
        (0o1777, false),
    ] {
        std::fs::set_permissions(&options.path, std::fs::Permissions::from_mode(given)).unwrap();
        match Spool::open(options.clone()) {
            Ok(_) => {
                assert!(fits, "{given:o}");
                assert_eq!(mode(&options.path), 0o700);
            }
            Err(error) => {
                assert!(!fits && matches!(error, Error::Writable { .. }), "{error}");
            }
        }
    }
    std::fs::set_permissions(&options.path, std::fs::Permissions::from_mode(0o700)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&options.path, Some(12_345), None).unwrap();
        assert!(matches!(
            Spool::open(options.clone()),
            Err(Error::Owner { owner: 12_345, .. })
        ));
    }
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(
        Spool::open(Options {
            path: file,
            ..options
        })
        .is_err()
    );
}

#[test]
fn room_goes_back_to_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (mut spool, mut consumers) = start(&options, &["one"]);
    for sequence in 1..=100 {
        spool.append(&[noisy(sequence, 100_000)]).unwrap();
    }
    let size = || {
        std::fs::metadata(options.path.join("spool.db"))
            .unwrap()
            .len()
    };
    drain(&mut consumers[0], 10);
    spool.tend().unwrap();
    let before = size();
    let connection = database(&options);
    while database::shrink(&connection).unwrap() {}
    assert!(
        before > 5_000_000 && size() < 1_000_000,
        "{before} {}",
        size()
    );
}

#[test]
fn a_later_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    drop(start(&options, &[]));
    database(&options)
        .pragma_update(None, "user_version", 2)
        .unwrap();
    assert!(matches!(
        Spool::open(options.clone()),
        Err(Error::Version {
            found: 2,
            known: 1,
            ..
        })
    ));
    assert_eq!(folder::aside(&options.path).unwrap(), []);
}

#[test]
fn quarantine_is_bounded_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        quarantine_bytes: 25_000,
        ..options(folder.path())
    };
    let (mut spool, mut consumers) = start(&options, &["one", "two"]);
    for sequence in 1..=5 {
        spool.append(&[noisy(sequence, 10_000)]).unwrap();
    }
    for sequence in 1..=5 {
        let page = consumers[0].page(1, 1 << 20).unwrap().unwrap();
        assert_eq!(sequences(&page), [sequence]);
        consumers[0].quarantine(1, 1, "not understood").unwrap();
    }
    let database = database(&options);
    let kept: Vec<(i64, String)> = database
        .prepare("SELECT first, reason FROM quarantine ORDER BY id")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        kept,
        [
            (4, "not understood".to_owned()),
            (5, "not understood".to_owned())
        ]
    );
    let losses = spool.losses().unwrap();
    assert_eq!(losses.len(), 1);
    assert_eq!(
        (
            losses[0].consumer.as_deref(),
            losses[0].reason,
            losses[0].count,
            losses[0].begin,
            losses[0].last
        ),
        (
            Some("one"),
            Reason::Rejected,
            Some(5),
            Some((100, 1)),
            Some(5)
        )
    );
    assert_eq!(
        drain(&mut consumers[1], 100).len(),
        5,
        "the other one has them"
    );
}

#[test]
fn what_was_given_up_is_told_of_with_the_next_append() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (mut spool, _) = start(&options, &["one"]);
    spool.append(&records(1..=1)).unwrap();
    spool.give_up(&records(2..=3));
    spool.give_up(&records(4..=4));
    assert_eq!(spool.unsaved().len(), 1);
    assert_eq!(spool.losses().unwrap(), []);
    spool.append(&records(5..=5)).unwrap();
    assert_eq!(spool.unsaved(), []);
    let losses = spool.losses().unwrap();
    assert_eq!(
        (
            losses[0].reason,
            losses[0].begin,
            losses[0].last,
            losses[0].count
        ),
        (Reason::Failed, Some((100, 2)), Some(4), Some(3))
    );
}
