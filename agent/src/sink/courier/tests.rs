//! The courier before a receiver that fails in every way, through the real spool.

use super::super::batch::{Batch, Limits, Outcome, Receiver};
use super::super::delivery::{Delivery, Options};
use super::Patience;
use crate::spool;
use agent_common::event::{Body, Envelope, Loss, LossDetail, LossReason};
use serde_json::json;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn options(folder: &Path) -> Options {
    Options {
        spool: spool::Options {
            path: folder.join("spool"),
            max_bytes: 1 << 30,
            max_age: Duration::from_secs(3_600),
            when_full: spool::WhenFull::Refuse,
            quarantine_bytes: 1 << 20,
        },
        group: Duration::ZERO,
        retry_bytes: 1 << 20,
        patience: Patience {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(5),
        },
    }
}

/// Event `sequence` of a run; `loss` if it is to tell of one.
fn event(epoch: u64, sequence: u64, loss: Option<LossDetail>) -> Envelope {
    let mut event: Envelope = serde_json::from_value(json!({
        "version": 1,
        "kind": "loss",
        "time": "2026-09-21T14:13:20.123456789Z",
        "observed_time": "2026-09-21T14:13:20.200000000Z",
        "producer": { "id": "a", "name": "tokentrail-agent", "version": "0", "epoch": epoch, "sequence": sequence },
        "host": { "name": "h", "boot_id": "b" },
        "loss": {
            "stage": "kernel", "reason": "ring_full", "count": sequence, "unit": "records", "intentional": false,
            "from": "2026-09-21T14:13:20.000000000Z", "to": "2026-09-21T14:13:20.000000000Z"
        }
    }))
    .unwrap();
    if let Some(loss) = loss {
        event.body = Body::Loss(Loss { loss });
    }
    event
}

/// What a receiver does with batches.
type Decide = Box<dyn FnMut(&Batch) -> Outcome + Send>;

#[derive(Default)]
struct Log {
    /// Every batch that came: first, last, when.
    came: Vec<(u64, u64, Instant)>,
    /// Events of batches that were accepted.
    has: Vec<(u64, u64)>,
}

struct Scripted {
    name: &'static str,
    limits: Limits,
    log: Arc<Mutex<Log>>,
    decide: Decide,
}

impl Receiver for Scripted {
    fn name(&self) -> &str {
        self.name
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn send(&mut self, batch: &Batch) -> Outcome {
        assert!(!batch.events.is_empty() && batch.events.len() <= self.limits.events);
        let bytes: usize = batch.events.iter().map(|event| event.json.len()).sum();
        assert!(bytes <= self.limits.bytes || batch.events.len() == 1);
        assert!(batch.events.is_sorted_by_key(|event| event.sequence));
        for encoded in &batch.events {
            let event: Envelope = serde_json::from_slice(&encoded.json).unwrap();
            assert_eq!(event.producer.id, batch.agent);
            assert_eq!(
                (event.producer.epoch, event.producer.sequence, event.time),
                (batch.epoch, encoded.sequence, encoded.time)
            );
        }
        let now = Instant::now();
        self.log
            .lock()
            .unwrap()
            .came
            .push((batch.first(), batch.last(), now));
        let outcome = (self.decide)(batch);
        if let Outcome::Accepted { .. } = outcome {
            let keys = batch
                .events
                .iter()
                .map(|event| (batch.epoch, event.sequence));
            self.log.lock().unwrap().has.extend(keys);
        }
        outcome
    }
}

fn accepted() -> Outcome {
    Outcome::Accepted {
        rejected: 0,
        reason: None,
    }
}

fn retry() -> Outcome {
    Outcome::Retry {
        after: None,
        reason: "503".into(),
    }
}

fn receiver(
    name: &'static str,
    limits: (usize, usize),
    decide: impl FnMut(&Batch) -> Outcome + Send + 'static,
) -> (Box<dyn Receiver>, Arc<Mutex<Log>>) {
    let log = Arc::new(Mutex::new(Log::default()));
    let receiver = Scripted {
        name,
        limits: Limits {
            events: limits.0,
            bytes: limits.1,
        },
        log: Arc::clone(&log),
        decide: Box::new(decide),
    };
    (Box::new(receiver), log)
}

/// First answers from a list, then always the last one.
fn script(
    answers: impl IntoIterator<Item = Outcome>,
    then: Outcome,
) -> impl FnMut(&Batch) -> Outcome {
    let mut answers: VecDeque<_> = answers.into_iter().collect();
    move |_| answers.pop_front().unwrap_or_else(|| then.clone())
}

/// Gives events, in one group.
fn give(delivery: &mut Delivery, sequences: impl IntoIterator<Item = u64>) {
    for sequence in sequences {
        delivery.take(&event(delivery.epoch(), sequence, None));
    }
    delivery.tend();
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "{what} has not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn sequences(log: &Mutex<Log>) -> Vec<u64> {
    log.lock()
        .unwrap()
        .has
        .iter()
        .map(|(_, sequence)| *sequence)
        .collect()
}

fn spans(log: &Mutex<Log>) -> Vec<(u64, u64)> {
    log.lock()
        .unwrap()
        .came
        .iter()
        .map(|(first, last, _)| (*first, *last))
        .collect()
}

fn start(folder: &Path, receivers: Vec<Box<dyn Receiver>>) -> Delivery {
    Delivery::start(options(folder), receivers, "a", 7).unwrap()
}

#[test]
fn batches_keep_to_limits_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (dead, _) = receiver("one", (100, 1 << 20), |_| retry());
    let mut delivery = start(folder.path(), vec![dead]);
    give(&mut delivery, 1..=10);
    assert_eq!(delivery.durable(), 10);
    assert_eq!(delivery.close(Duration::ZERO), []);
    // A later run: the rest of the first one comes first, and by itself.
    let (good, log) = receiver("one", (4, 1 << 20), |_| accepted());
    let mut delivery = start(folder.path(), vec![good]);
    assert_eq!(delivery.epoch(), 8);
    give(&mut delivery, 1..=3);
    eventually("everything", || sequences(&log).len() == 13);
    assert_eq!(spans(&log), [(1, 4), (5, 8), (9, 10), (1, 3)]);
    assert_eq!(delivery.close(SOON), []);
    assert_eq!(log.lock().unwrap().has.len(), 13, "nothing twice");
}

#[test]
fn what_cannot_be_taken_now_is_sent_again_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let after = Duration::from_millis(150);
    let busy = Outcome::Retry {
        after: Some(after),
        reason: "429".into(),
    };
    let (gate, held) = mpsc::channel::<()>();
    let mut decide = script([busy, retry(), retry()], accepted());
    let mut first = true;
    let (receiver, log) = receiver("one", (100, 1 << 20), move |batch| {
        if std::mem::take(&mut first) {
            held.recv().unwrap();
        }
        decide(batch)
    });
    let mut delivery = start(folder.path(), vec![receiver]);
    give(&mut delivery, 1..=3);
    eventually("the first batch", || !spans(&log).is_empty());
    // What comes meanwhile does not change the batch.
    give(&mut delivery, 4..=5);
    gate.send(()).unwrap();
    eventually("everything", || sequences(&log).len() == 5);
    assert_eq!(spans(&log), [(1, 3), (1, 3), (1, 3), (1, 3), (4, 5)]);
    let came = &log.lock().unwrap().came;
    assert!(came[1].2 - came[0].2 >= after);
    let counters = &delivery.couriers()[0].counters;
    assert_eq!(
        counters.retries.load(std::sync::atomic::Ordering::Relaxed),
        3
    );
}

#[test]
fn pauses_grow_to_a_limit_and_differ() {
    let folder = tempfile::tempdir().unwrap();
    let (receiver, log) = receiver("one", (1, 1), script((0..9).map(|_| retry()), accepted()));
    let options = Options {
        patience: Patience {
            first: Duration::from_millis(8),
            longest: Duration::from_millis(64),
        },
        ..options(folder.path())
    };
    let mut delivery = Delivery::start(options, vec![receiver], "a", 7).unwrap();
    give(&mut delivery, 1..=1);
    eventually("the event", || sequences(&log) == [1]);
    let came = &log.lock().unwrap().came;
    let pauses: Vec<_> = came.windows(2).map(|pair| pair[1].2 - pair[0].2).collect();
    for (pause, most) in pauses.iter().zip([8, 16, 32, 64, 64, 64, 64, 64, 64]) {
        assert!(*pause >= Duration::from_millis(most) / 2, "{pauses:?}");
    }
}

#[test]
fn too_large_is_split_down_to_the_one_event() {
    let folder = tempfile::tempdir().unwrap();
    // At most 3 events, and number 6 not at all.
    let (receiver, log) = receiver("one", (16, 1 << 20), |batch| {
        let six = batch.events.iter().any(|event| event.sequence == 6);
        if batch.events.len() > 3 || six {
            Outcome::TooLarge {
                reason: "413".into(),
            }
        } else {
            accepted()
        }
    });
    let mut delivery = start(folder.path(), vec![receiver]);
    give(&mut delivery, 1..=16);
    eventually("the others", || sequences(&log).len() == 15);
    let expected: Vec<u64> = (1..=16).filter(|sequence| *sequence != 6).collect();
    assert_eq!(sequences(&log), expected);
    assert_eq!(spans(&log)[..4], [(1, 16), (1, 8), (1, 4), (1, 2)]);
    let losses = delivery.losses();
    assert_eq!(losses.len(), 1);
    let events = losses[0].events.clone().unwrap();
    assert_eq!(
        (
            losses[0].probe.as_deref(),
            losses[0].reason,
            losses[0].count,
            events.first,
            events.last
        ),
        (Some("one"), LossReason::Rejected, Some(1), 6, Some(6))
    );
    // After some calm the limit is tried again.
    for sequence in 17..=200 {
        give(&mut delivery, [sequence]);
    }
    eventually("the rest", || sequences(&log).len() == 199);
}

#[test]
fn refused_batches_are_quarantined_and_counted_and_told_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let decide = |batch: &Batch| match batch.first() {
        3 => Outcome::Rejected {
            reason: format!("400 {}", "x".repeat(10_000)),
        },
        5 => Outcome::Accepted {
            rejected: 1,
            reason: Some("one of them".into()),
        },
        // More than there are.
        7 => Outcome::Accepted {
            rejected: 99,
            reason: None,
        },
        _ => accepted(),
    };
    let (receiver, log) = receiver("one", (2, 1 << 20), decide);
    let mut delivery = start(folder.path(), vec![receiver]);
    give(&mut delivery, 1..=10);
    eventually("the last", || sequences(&log).ends_with(&[10]));
    let losses = delivery.losses();
    assert_eq!(losses.len(), 1);
    let events = losses[0].events.clone().unwrap();
    assert_eq!(
        (losses[0].count, events.epoch, events.first, events.last),
        (Some(2 + 1 + 2), 7, 3, Some(8))
    );
    let database = rusqlite::Connection::open(folder.path().join("spool/spool.db")).unwrap();
    let kept: Vec<(i64, i64, i64, i64)> = database
        .prepare("SELECT first, last, rejected, LENGTH(reason) FROM quarantine ORDER BY id")
        .unwrap()
        .query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        kept.iter()
            .map(|(first, last, rejected, _)| (*first, *last, *rejected))
            .collect::<Vec<_>>(),
        [(3, 4, 2), (5, 6, 1), (7, 8, 2)]
    );
    assert!(kept.iter().all(|(.., length)| *length <= 512));
    // Its event takes it out of the list.
    let count = |table| -> i64 {
        database
            .query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |row| {
                row.get(0)
            })
            .unwrap()
    };
    assert_eq!(count("losses"), 1);
    delivery.take(&event(7, 11, losses.into_iter().next()));
    delivery.tend();
    assert_eq!(count("losses"), 0);
}

#[test]
fn a_dead_receiver_delays_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (hold, held) = mpsc::channel::<()>();
    let (stuck, _) = receiver("stuck", (10, 1 << 20), move |_| {
        // Until the test is over.
        let _ = held.recv();
        accepted()
    });
    let (failing, tried) = receiver("failing", (10, 1 << 20), |_| retry());
    let (good, log) = receiver("good", (10, 1 << 20), |_| accepted());
    let mut delivery = start(folder.path(), vec![stuck, failing, good]);
    for sequence in 1..=500 {
        give(&mut delivery, [sequence]);
    }
    eventually("everything", || sequences(&log).len() == 500);
    eventually("an attempt", || !spans(&tried).is_empty());
    // The stuck one is left behind, and what it has not is there for the next run.
    let before = Instant::now();
    assert_eq!(delivery.close(Duration::from_millis(100)), []);
    assert!(before.elapsed() < Duration::from_secs(5));
    drop(hold);
}

#[test]
fn a_stop_ends_a_long_pause_with_one_last_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let (receiver, log) = receiver(
        "one",
        (2, 1 << 20),
        script(
            [Outcome::Retry {
                after: Some(Duration::from_secs(1_000_000)),
                reason: "later".into(),
            }],
            accepted(),
        ),
    );
    let mut delivery = start(folder.path(), vec![receiver]);
    give(&mut delivery, 1..=5);
    eventually("an attempt", || !spans(&log).is_empty());
    assert_eq!(delivery.close(SOON), []);
    assert_eq!(sequences(&log), [1, 2, 3, 4, 5]);
    // Nothing is left, and the end was clean.
    let mut spool = spool::Spool::open(options(folder.path()).spool).unwrap();
    assert_eq!(spool.losses().unwrap(), []);
    let mut consumers = spool.register(&["one".to_owned()]).unwrap();
    assert!(consumers[0].page(10, 1 << 20).unwrap().is_none());
}

#[test]
fn two_receivers_of_one_name_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (one, _) = receiver("same", (1, 1), |_| accepted());
    let (two, _) = receiver("same", (1, 1), |_| accepted());
    assert!(Delivery::start(options(folder.path()), vec![one, two], "a", 1).is_err());
}

#[test]
fn a_panic_is_survived_from_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut batches = 0;
    let (panics, log) = receiver("one", (4, 1 << 20), move |_| {
        batches += 1;
        assert!(batches != 3 && batches != 6, "a mistake");
        accepted()
    });
    let (other, calm) = receiver("two", (4, 1 << 20), |_| accepted());
    let mut delivery = start(folder.path(), vec![panics, other]);
    give(&mut delivery, 1..=20);
    eventually("everything", || sequences(&log).len() == 20);
    assert_eq!(sequences(&log), Vec::from_iter(1..=20));
    let again = [
        (1, 4),
        (5, 8),
        (9, 12),
        (9, 12),
        (13, 16),
        (17, 20),
        (17, 20),
    ];
    assert_eq!(spans(&log), again);
    eventually("the other", || sequences(&calm).len() == 20);
    let restarted = |delivery: &Delivery| {
        let counters = delivery.couriers().iter().map(|courier| &courier.counters);
        counters
            .map(|counters| counters.panics.load(std::sync::atomic::Ordering::Relaxed))
            .collect::<Vec<_>>()
    };
    assert_eq!(restarted(&delivery), [2, 0]);
    assert_eq!(delivery.close(SOON), []);
}

#[test]
fn a_receiver_that_always_panics_does_not_hold_up_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (panics, log) = receiver("one", (4, 1 << 20), |_| panic!("a mistake"));
    let mut delivery = start(folder.path(), vec![panics]);
    give(&mut delivery, 1..=3);
    eventually("two attempts", || spans(&log).len() > 1);
    let begin = Instant::now();
    assert_eq!(delivery.close(SOON), []);
    assert!(begin.elapsed() < SOON);
    // Nothing of it has left the spool.
    let (good, log) = receiver("one", (4, 1 << 20), |_| accepted());
    let _delivery = start(folder.path(), vec![good]);
    eventually("everything", || sequences(&log) == [1, 2, 3]);
}

#[test]
fn reports_say_what_was_done_and_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let (dead, _) = receiver("dead", (4, 1 << 20), |_| retry());
    let (picky, log) = receiver("picky", (1, 1 << 20), |batch| match batch.first() {
        2 => Outcome::Rejected {
            reason: "400".into(),
        },
        _ => accepted(),
    });
    let mut delivery = start(folder.path(), vec![dead, picky]);
    let reports = delivery.reports();
    assert!(reports.lock().unwrap()[1].last_delivered.is_none());
    give(&mut delivery, 1..=5);
    eventually("the others", || sequences(&log).len() == 4);
    eventually("the report", || {
        delivery.tend();
        reports.lock().unwrap()[1].waiting == 0 && reports.lock().unwrap()[0].waiting == 5
    });
    let reports = reports.lock().unwrap().clone();
    let [dead, picky] = &reports[..] else {
        panic!("{reports:?}")
    };
    assert_eq!((dead.name.as_str(), picky.name.as_str()), ("dead", "picky"));
    assert!(dead.retried > 0 && dead.last_delivered.is_none());
    assert_eq!((dead.delivered, dead.refused, dead.quarantined), (0, 0, 0));
    assert_eq!(
        (picky.delivered, picky.refused, picky.quarantined),
        (4, 1, 1)
    );
    assert!(picky.retried == 0 && picky.restarted == 0 && picky.last_delivered.is_some());
}

#[test]
fn another_receiver_takes_the_place_and_ends_the_pause() {
    let folder = tempfile::tempdir().unwrap();
    let hour = Outcome::Retry {
        after: Some(Duration::from_secs(3_600)),
        reason: "its certificate has expired".into(),
    };
    let (old, tried) = receiver("one", (100, 1 << 20), move |_| hour.clone());
    let mut delivery = start(folder.path(), vec![old]);
    give(&mut delivery, 1..=8);
    eventually("an attempt", || !spans(&tried).is_empty());
    let (new, log) = receiver("one", (3, 1 << 20), |_| accepted());
    let slots = delivery.slots();
    assert_eq!(slots[0].name(), "one");
    slots[0].put(new);
    eventually("everything", || sequences(&log).len() == 8);
    assert_eq!(spans(&tried), [(1, 8)]);
    assert_eq!(spans(&log), [(1, 3), (4, 6), (7, 8)]);
    assert_eq!(delivery.close(SOON), []);
}
