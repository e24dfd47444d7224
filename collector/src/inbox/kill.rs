//! `kill -9` at random points of appends, seals and starts: every acknowledged event is there, and none twice.
//!
//! `TOKENTRAIL_KILLS` says how often (100).

use super::tests::open_with;
use super::{AppendError, Entry, Inbox, Limits};
use crate::event::Event;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const FOLDER: &str = "TOKENTRAIL_TEST_FOLDER";
const SEED: &str = "TOKENTRAIL_TEST_SEED";
const KILLS: &str = "TOKENTRAIL_KILLS";
/// Small, so that it is full now and then.
const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    events: 2_000,
    quarantine: 0,
};
const SENDERS: u64 = 6;
/// Between two looks at everything.
const LOOK: u64 = 20;

/// Ends a line. One of a killed run may have come but in part, and without it.
const END: &str = " .\n";

fn whole(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n')
        .filter_map(|line| line.strip_suffix(END))
}

/// Steele and Vigna's SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }
}

fn event(epoch: u64, sequence: u64) -> Event {
    let json = json!({
        "version": 1, "time": "2026-11-22T09:00:00.000000001Z", "observed_time": "2026-11-22T09:00:00.000000002Z",
        "producer": { "id": "a", "name": "tokentrail-agent", "version": "0", "epoch": epoch, "sequence": sequence },
        "host": { "name": "h", "boot_id": "b" }, "kind": "audit",
        "audit": { "action": "agent_report", "detail": format!("{:x}", Chance(sequence).below(u64::MAX)) },
    });
    Event::parse(serde_json::to_vec(&json).unwrap().into()).unwrap()
}

#[test]
#[ignore = "it is what the other test starts"]
fn run_as_child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let inbox = open_with(&folder.join("inbox"), LIMITS).unwrap();
    let append_to = |name: &str| {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        let mut file = options.open(folder.join(name)).unwrap();
        // Ends what the run before had not written whole.
        file.write_all(b"\n").unwrap();
        Arc::new(file)
    };
    let acknowledged = append_to("acknowledged");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    // Where each epoch has come to, by all runs, about.
    let at: Arc<Vec<AtomicU64>> =
        Arc::new((0..3).map(|_| AtomicU64::new(seed % 50 * 40)).collect());
    // Some runs go on where others were, some are new.
    let base = seed % 40 * 3;
    for sender in 0..SENDERS {
        let (inbox, at) = (inbox.clone(), Arc::clone(&at));
        let acknowledged = Arc::clone(&acknowledged);
        runtime.spawn(send(
            inbox,
            base,
            at,
            acknowledged,
            Chance(seed ^ (sender << 40)),
        ));
    }
    seal(&inbox, &append_to("sealed"), Chance(seed ^ 0x5ea1));
}

/// Until it is killed: batches behind, over and beyond what was sent.
async fn send(
    inbox: Inbox,
    base: u64,
    at: Arc<Vec<AtomicU64>>,
    acknowledged: Arc<File>,
    mut chance: Chance,
) {
    loop {
        let number = chance.below(at.len() as u64);
        let epoch = base + number;
        let count = 1 + chance.below(60);
        let reached = at[number as usize].fetch_add(count, Ordering::Relaxed);
        let first = (reached + chance.below(20))
            .saturating_sub(chance.below(100))
            .max(1);
        let events = (first..first + count).map(|sequence| event(epoch, sequence));
        match inbox.append("test".into(), events.collect()).await {
            Ok(_) => (&*acknowledged)
                .write_all(format!("{epoch} {first} {}{END}", first + count - 1).as_bytes())
                .unwrap(),
            Err(AppendError::Full { .. }) => tokio::time::sleep(Duration::from_millis(2)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What the store does: has the entries, then lets them be removed.
fn seal(inbox: &Inbox, sealed: &File, mut chance: Chance) {
    loop {
        std::thread::sleep(Duration::from_micros(chance.below(20_000)));
        let pending = inbox.pending();
        let some = &pending[..chance.below(pending.len() as u64 + 1) as usize];
        let Some(last) = some.last() else {
            continue;
        };
        let lines: String = some.iter().map(|entry| line(entry)).collect();
        let mut out = sealed;
        out.write_all(lines.as_bytes()).unwrap();
        inbox.remove(last.id).unwrap();
    }
}

fn line(entry: &Entry) -> String {
    let keys = entry.events.iter();
    let keys: Vec<_> = keys
        .map(|event| format!("{}/{}", event.key.epoch, event.key.sequence))
        .collect();
    format!("{} {}{END}", entry.id, keys.join(" "))
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_kills() {
    let kills = std::env::var(KILLS).map_or(100, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut chance = Chance(20_261_122);
    for kill in 1..=kills {
        let length =
            || std::fs::metadata(folder.path().join("acknowledged")).map_or(0, |file| file.len());
        let acknowledged = length() + chance.below(300);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "inbox::kill::run_as_child",
                "--ignored",
                "--nocapture",
            ])
            .env(FOLDER, folder.path())
            .env(SEED, chance.below(u64::MAX).to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Most are killed while they work, some while they start.
        if chance.below(10) > 0 {
            while length() <= acknowledged {
                let ended = child.try_wait().unwrap();
                assert!(ended.is_none(), "{ended:?}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        std::thread::sleep(Duration::from_micros(chance.below(20_000)));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        if kill % LOOK == 0 || kill == kills {
            check(folder.path(), kill);
        }
    }
}

fn check(folder: &Path, kill: u64) {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let inbox = open_with(&folder.join("inbox"), LIMITS).unwrap();
    // An entry may be sealed and pending, but is one: ids are never used again.
    let mut entries: BTreeMap<String, String> = BTreeMap::new();
    let pending: String = inbox.pending().iter().map(|entry| line(entry)).collect();
    let sealed = read("sealed");
    for line in whole(&sealed).chain(whole(&pending)) {
        let (id, keys) = line.split_once(' ').unwrap();
        let known = entries
            .entry(id.to_owned())
            .or_insert_with(|| keys.to_owned());
        assert_eq!(known, keys, "entry {id}");
    }
    let mut stored: BTreeSet<(u64, u64)> = BTreeSet::new();
    for (id, keys) in &entries {
        for key in keys.split(' ') {
            let (epoch, sequence) = key.split_once('/').unwrap();
            let key = (epoch.parse().unwrap(), sequence.parse().unwrap());
            assert!(stored.insert(key), "{key:?} of entry {id} is there twice");
        }
    }
    let acknowledged = read("acknowledged");
    let mut batches = 0;
    for line in whole(&acknowledged) {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect();
        batches += 1;
        for sequence in numbers[1]..=numbers[2] {
            let key = (numbers[0], sequence);
            assert!(
                stored.contains(&key),
                "{key:?} was acknowledged and is not there"
            );
        }
    }
    let holes = inbox.holes(Duration::ZERO, 1 << 20).unwrap();
    for hole in &holes {
        let inside = (hole.epoch, hole.first)..=(hole.epoch, hole.last);
        assert_eq!(stored.range(inside).next(), None, "{hole:?}");
    }
    println!(
        "after {kill} kills: {batches} batches acknowledged, {} events in {} entries, {} pending, {} holes",
        stored.len(),
        entries.len(),
        inbox.pending().len(),
        holes.len()
    );
}
