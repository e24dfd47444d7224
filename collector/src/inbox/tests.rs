//! Appends in every order, with restarts, full disks and full inboxes: stored once, or not acknowledged.

use super::*;
use agent_common::event::Envelope;
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use tokio::runtime::Runtime;

const WIDE: Limits = Limits {
    bytes: 1 << 30,
    events: 1 << 20,
    quarantine: 64 << 20,
};

pub(crate) fn event(agent: &str, epoch: u64, sequence: u64) -> Event {
    let json = json!({
        "version": 1, "time": "2026-11-22T09:00:00.000000001Z", "observed_time": "2026-11-22T09:00:00.000000002Z",
        "producer": { "id": agent, "name": "tokentrail-agent", "version": "0", "epoch": epoch, "sequence": sequence },
        "host": { "name": "h", "boot_id": "b" }, "kind": "audit",
        "audit": { "action": "agent_report", "detail": format!("{agent} {epoch} {sequence}") },
    });
    Event::parse(serde_json::to_vec(&json).unwrap().into()).unwrap()
}

fn events(epoch: u64, sequences: impl IntoIterator<Item = u64>) -> Vec<Event> {
    let sequences = sequences.into_iter();
    sequences
        .map(|sequence| event("a", epoch, sequence))
        .collect()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// A child that another test starts has the lock, too, until it becomes its program.
pub(super) fn open_with(folder: &Path, limits: Limits) -> Result<Inbox, Error> {
    for _ in 0..1_000 {
        match Inbox::open(folder, limits) {
            Err(Error::Locked { .. }) => std::thread::sleep(Duration::from_millis(10)),
            result => return result,
        }
    }
    Inbox::open(folder, limits)
}

fn open(folder: &Path) -> Inbox {
    open_with(folder, WIDE).unwrap()
}

fn append(inbox: &Inbox, events: Vec<Event>) -> Result<Appended, AppendError> {
    runtime().block_on(inbox.append("test".into(), events))
}

/// Every pending event, and how often it is there.
fn counts(inbox: &Inbox) -> BTreeMap<EventKey, usize> {
    let mut counts = BTreeMap::new();
    for entry in inbox.pending() {
        for event in &entry.events {
            assert_eq!(Event::parse(event.json.clone()).as_ref(), Ok(event));
            *counts.entry(event.key.clone()).or_default() += 1;
        }
    }
    counts
}

fn identity() -> Identity {
    let host = json!({ "name": "h", "boot_id": "b" });
    Identity {
        id: "collector-1".into(),
        name: "tokentrail".into(),
        version: "0".into(),
        host: serde_json::from_value(host).unwrap(),
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Sequences of an epoch, in any order.
    Append(u64, Vec<u64>),
    /// Several at once.
    Together(Vec<(u64, Vec<u64>)>),
    Reopen,
    /// Some of what is pending, in percent.
    Remove(usize),
}

fn batch() -> impl Strategy<Value = (u64, Vec<u64>)> {
    let span = (1u64..50, 0u64..20).prop_map(|(first, more)| (first..=first + more).collect());
    let any = proptest::collection::vec(1u64..70, 1..12);
    (1u64..4, prop_oneof![3 => span, 1 => any])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => batch().prop_map(|(epoch, sequences)| Step::Append(epoch, sequences)),
        3 => proptest::collection::vec(batch(), 2..8).prop_map(Step::Together),
        1 => Just(Step::Reopen),
        1 => (0usize..=100).prop_map(Step::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn stored_exactly_once(steps in proptest::collection::vec(step(), 1..24)) {
        let folder = tempfile::tempdir().unwrap();
        let runtime = runtime();
        let mut inbox = open(folder.path());
        let mut given: BTreeSet<EventKey> = BTreeSet::new();
        let mut removed: BTreeSet<EventKey> = BTreeSet::new();
        let mut last = 0;
        for step in steps {
            let batches = match step {
                Step::Append(epoch, sequences) => vec![(epoch, sequences)],
                Step::Together(batches) => batches,
                Step::Reopen => {
                    drop(inbox);
                    inbox = open(folder.path());
                    Vec::new()
                }
                Step::Remove(percent) => {
                    let pending = inbox.pending();
                    let gone = &pending[..pending.len() * percent / 100];
                    if let Some(entry) = gone.last() {
                        inbox.remove(entry.id).unwrap();
                    }
                    for event in gone.iter().flat_map(|entry| &entry.events) {
                        prop_assert!(removed.insert(event.key.clone()), "{} again", event.key);
                    }
                    Vec::new()
                }
            };
            let before = given.len();
            let mut sent = 0;
            let tasks: Vec<_> = batches
                .into_iter()
                .map(|(epoch, sequences)| {
                    let events = events(epoch, sequences);
                    sent += events.len();
                    given.extend(events.iter().map(|event| event.key.clone()));
                    let inbox = inbox.clone();
                    runtime.spawn(async move { inbox.append("test".into(), events).await })
                })
                .collect();
            let (mut stored, mut duplicates) = (0, 0);
            for task in tasks {
                let appended = runtime.block_on(task).unwrap().unwrap();
                stored += appended.stored;
                duplicates += appended.duplicates;
            }
            prop_assert_eq!(stored, given.len() - before);
            prop_assert_eq!(stored + duplicates, sent);
            let counts = counts(&inbox);
            prop_assert!(counts.values().all(|count| *count == 1));
            let expected: Vec<_> = given.difference(&removed).collect();
            prop_assert_eq!(counts.keys().collect::<Vec<_>>(), expected);
            let ids: Vec<i64> = inbox.pending().iter().map(|entry| entry.id).collect();
            prop_assert!(ids.is_sorted());
            if let Some(greatest) = ids.last() {
                prop_assert!(*greatest >= last);
                last = *greatest;
            }
            let (bytes, waiting) = inbox.used();
            let pending = inbox.pending();
            prop_assert_eq!(waiting, counts.len() as u64);
            let weight: u64 = pending.iter().map(|entry| packed::weight(&entry.events)).sum();
            prop_assert_eq!(bytes, weight);
        }
    }
}

#[test]
fn ids_are_never_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let inbox = open(folder.path());
    append(&inbox, events(1, 1..=3)).unwrap();
    append(&inbox, events(1, 4..=6)).unwrap();
    let last = inbox.pending()[1].id;
    // More than is there is not more than is there.
    inbox.remove(i64::MAX).unwrap();
    assert!(inbox.pending().is_empty());
    assert_eq!(inbox.used(), (0, 0));
    drop(inbox);
    let inbox = open(folder.path());
    append(&inbox, events(1, 7..=7)).unwrap();
    assert_eq!(inbox.pending()[0].id, last + 1);
    // What was removed is still known.
    let again = append(&inbox, events(1, 1..=8)).unwrap();
    assert_eq!((again.stored, again.duplicates), (1, 7));
}

#[test]
fn full_is_said_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        bytes: 1 << 20,
        events: 10,
        ..WIDE
    };
    let inbox = open_with(folder.path(), limits).unwrap();
    append(&inbox, events(1, 1..=8)).unwrap();
    let full = append(&inbox, events(1, 9..=12));
    assert!(matches!(full, Err(AppendError::Full { .. })), "{full:?}");
    append(&inbox, events(1, 9..=10)).unwrap();
    assert_eq!(inbox.used().1, 10);
    inbox.remove(inbox.pending()[0].id).unwrap();
    append(&inbox, events(1, 11..=12)).unwrap();
    inbox.remove(i64::MAX).unwrap();
    // A single batch that is larger than the limits would never find room.
    assert_eq!(append(&inbox, events(1, 13..=40)).unwrap().stored, 28);
    // Bytes count, too, and so after a restart.
    drop(inbox);
    let limits = Limits {
        bytes: 4_000,
        events: 1_000,
        ..WIDE
    };
    let inbox = open_with(folder.path(), limits).unwrap();
    let full = append(&inbox, events(1, 41..=41));
    assert!(matches!(full, Err(AppendError::Full { .. })), "{full:?}");
}

#[test]
fn a_full_disk_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let inbox = open(folder.path());
    append(&inbox, events(1, 1..=10)).unwrap();
    // SQLite answers as if the disk were full.
    let full = |pages: i64| {
        let (answer, answered) = mpsc::sync_channel(1);
        inbox.send(Job::Pages { pages, answer }).unwrap();
        answered.recv().unwrap();
    };
    full(1);
    let noise = |sequence: u64| {
        let mut large = event("a", 1, sequence);
        let mut text = String::from_utf8(large.json.to_vec()).unwrap();
        let mut state = sequence;
        let long: String = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'a' + (state >> 32) as u8 % 26)
        })
        .take(200_000)
        .collect();
        text = text.replace("a 1", &long);
        large.json = text.into_bytes().into();
        Event::parse(large.json).unwrap()
    };
    let runtime = runtime();
    let failed: Vec<_> = (0..4)
        .map(|at| {
            let inbox = inbox.clone();
            let events = vec![noise(11 + at)];
            runtime.spawn(async move { inbox.append("test".into(), events).await })
        })
        .collect();
    for failed in failed {
        let failed = runtime.block_on(failed).unwrap();
        assert!(matches!(failed, Err(AppendError::Disk(_))), "{failed:?}");
    }
    assert_eq!(counts(&inbox).len(), 10);
    assert_eq!(inbox.used().1, 10);
    full(1 << 30);
    assert_eq!(
        append(&inbox, vec![noise(11), noise(12)]).unwrap().stored,
        2
    );
    drop(inbox);
    assert_eq!(counts(&open(folder.path())).len(), 12);
}

#[test]
fn what_is_committed_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let inbox = open(folder.path());
    let mut committed = inbox.subscribe();
    append(&inbox, events(1, 1..=3)).unwrap();
    append(&inbox, events(1, 1..=3)).unwrap();
    append(&inbox, events(1, 2..=4)).unwrap();
    let first = committed.try_recv().unwrap();
    assert_eq!((first.events.len(), &*first.origin), (3, "test"));
    let second = committed.try_recv().unwrap();
    assert_eq!(second.events, events(1, [4]));
    assert!(committed.try_recv().is_err());
}

#[test]
fn holes_are_told_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let inbox = open(folder.path());
    let runtime = runtime();
    let report = |inbox: &Inbox, grace| runtime.block_on(inbox.report_holes(grace));
    assert_eq!(report(&inbox, Duration::ZERO), Err(AppendError::Closed));
    let epoch = runtime.block_on(inbox.identify(identity())).unwrap();
    append(&inbox, events(7, [3, 4, 9])).unwrap();
    append(&inbox, vec![event("b", 8, 2)]).unwrap();
    let holes = |inbox: &Inbox| {
        let holes = inbox.holes(Duration::ZERO, 10).unwrap();
        let said = |hole: Hole| (hole.agent, hole.epoch, hole.first, hole.last, hole.told);
        holes.into_iter().map(said).collect::<Vec<_>>()
    };
    let named =
        |agent: &str, epoch, first, last, told| (agent.to_owned(), epoch, first, last, told);
    assert_eq!(
        holes(&inbox),
        [
            named("a", 7, 1, 2, false),
            named("a", 7, 5, 8, false),
            named("b", 8, 1, 1, false)
        ]
    );
    assert!(
        inbox
            .holes(Duration::from_secs(3_600), 10)
            .unwrap()
            .is_empty()
    );
    assert_eq!(report(&inbox, Duration::from_secs(3_600)), Ok(0));
    assert_eq!(report(&inbox, Duration::ZERO), Ok(3));
    assert_eq!(report(&inbox, Duration::ZERO), Ok(0));
    let entry = inbox.pending().pop().unwrap();
    let told: Vec<Envelope> = entry
        .events
        .iter()
        .map(|event| serde_json::from_slice(&event.json).unwrap())
        .collect();
    let Body::Loss(loss) = &told[1].body else {
        panic!("{told:?}");
    };
    assert_eq!(loss.loss.count, Some(4));
    let lost = loss.loss.events.as_ref().unwrap();
    assert_eq!(
        (lost.agent.as_deref(), lost.epoch, lost.first, lost.last),
        (Some("a"), 7, 5, Some(8))
    );
    assert_eq!(
        (told[1].producer.epoch, told[1].producer.sequence),
        (epoch, 2)
    );
    // Filled: gone; filled in part: the rest stays, and is not told of again.
    append(&inbox, events(7, [1, 2, 6])).unwrap();
    assert_eq!(
        holes(&inbox),
        [
            named("a", 7, 5, 5, true),
            named("a", 7, 7, 8, true),
            named("b", 8, 1, 1, true)
        ]
    );
    assert_eq!(report(&inbox, Duration::ZERO), Ok(0));
    let body = audit("agent_report");
    let said = runtime
        .block_on(inbox.say(Time::now(), body.clone()))
        .unwrap();
    assert_eq!(
        (&*said.agent, said.epoch, said.sequence),
        ("collector-1", epoch, 4)
    );
    drop(inbox);
    let inbox = open(folder.path());
    assert!(runtime.block_on(inbox.identify(identity())).unwrap() > epoch);
    assert_eq!(
        runtime
            .block_on(inbox.say(Time::now(), body))
            .unwrap()
            .sequence,
        1
    );
    assert_eq!(report(&inbox, Duration::ZERO), Ok(0));
}

fn audit(action: &str) -> Body {
    let audit = serde_json::from_value(json!({ "action": action })).unwrap();
    Body::Audit(agent_common::event::Audit { audit })
}

#[test]
fn the_collectors_own_events_have_room_when_senders_have_filled_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { events: 8, ..WIDE };
    let body = audit("collector_started");
    for start in 0..3 {
        let inbox = open_with(folder.path(), limits).unwrap();
        if start == 0 {
            append(&inbox, events(1, 1..=8)).unwrap();
        }
        let full = append(&inbox, events(1, 9..=9));
        assert!(matches!(full, Err(AppendError::Full { .. })), "{full:?}");
        let runtime = runtime();
        runtime.block_on(inbox.identify(identity())).unwrap();
        let said = inbox.say(Time::now(), body.clone());
        assert_eq!(runtime.block_on(said).unwrap().sequence, 1);
    }
}

#[test]
fn the_quarantine_is_bounded_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let inbox = open(folder.path());
    let runtime = runtime();
    let refused = |bytes: Vec<u8>| Refused {
        reason: "not an event".into(),
        form: Form::Otlp,
        bytes,
    };
    let put = |bytes| runtime.block_on(inbox.quarantine("someone".into(), refused(bytes)));
    put(b"first".to_vec()).unwrap();
    // Noise, so that it stays large.
    let mut state = 1u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let piece: Vec<u8> = (0..quarantine::PIECE + 7).map(|_| noise()).collect();
    let list = inbox.quarantined(None, 10, QUARANTINED_BYTES).unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(
        (&*list[0].origin, &list[0].bytes[..]),
        ("someone", &b"first"[..])
    );
    for _ in 0..70 {
        put(piece.clone()).unwrap();
    }
    let list = inbox.quarantined(None, 1_000, QUARANTINED_BYTES).unwrap();
    let bytes: usize = list.iter().map(|quarantined| quarantined.bytes.len()).sum();
    assert!(
        bytes as u64 <= WIDE.quarantine && list.len() > 55,
        "{}",
        list.len()
    );
    assert_eq!(list[0].length, piece.len() as u64);
    assert_eq!(list[0].bytes, piece[..quarantine::PIECE]);
    let older = inbox.quarantined(Some(list[0].id), 1, 3).unwrap();
    assert_eq!((older[0].id, older[0].bytes.len()), (list[1].id, 3));
    // Not counted as waiting events.
    assert_eq!(inbox.used(), (0, 0));
}

#[test]
fn what_is_not_ours_or_damaged_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox");
    let inbox = open(&path);
    let second = Inbox::open(&path, WIDE).map(|_| ());
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    append(&inbox, events(1, 1..=200)).unwrap();
    drop(inbox);
    let database = path.join("inbox.db");
    let good = std::fs::read(&database).unwrap();
    let reopen = || open_with(&path, WIDE).map(|_| ());
    // Every page of the payload, damaged in its middle, is found.
    let mut found = 0;
    for page in 0..good.len() / 4_096 {
        let mut bad = good.clone();
        for byte in &mut bad[page * 4_096 + 1_000..page * 4_096 + 3_000] {
            *byte ^= 0x55;
        }
        std::fs::write(&database, &bad).unwrap();
        found += usize::from(matches!(reopen(), Err(Error::Damaged { .. })));
    }
    assert!(found >= 1, "{found}");
    std::fs::write(&database, b"something else entirely, of some length").unwrap();
    assert!(matches!(reopen(), Err(Error::NotAnInbox { .. })));
    std::fs::write(&database, &good).unwrap();
    let connection = Connection::open(&database).unwrap();
    connection.pragma_update(None, "user_version", 2).unwrap();
    drop(connection);
    assert!(matches!(reopen(), Err(Error::Version { found: 2, .. })));
    std::os::unix::fs::chown(&path, Some(1234), None).ok();
    if rustix::process::geteuid().is_root() {
        assert!(matches!(reopen(), Err(Error::Owner { owner: 1234, .. })));
    }
}
