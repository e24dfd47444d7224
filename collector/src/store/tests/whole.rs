//! Seal, snapshot, merge, retention, on healthy ground.

use super::load::Load;
use super::*;
use crate::store::columns::{FINGERPRINT, TIME};
use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use std::time::Duration;

fn load(from: i64) -> Load {
    Load::new(7, 5, 40, from, 1_000_000)
}

async fn sealed_and_merged(mut bench: Bench) {
    let mut load = load(MIDNIGHT + HOUR);
    let mut all = Vec::new();
    for round in 0..6 {
        let events = load.events(300);
        all.extend(events.clone());
        for part in events.chunks(70) {
            bench.inbox.append(part.to_vec());
        }
        bench.has(&all).await;
        if round < 5 {
            let sealed = bench.store.seal().await.unwrap();
            assert_eq!(sealed.events, 300);
            assert!(bench.inbox.pending().is_empty());
            bench.has(&all).await;
        }
    }
    assert_eq!(bench.objects().await.len(), 5);
    let merged = bench.store.merge(MIDNIGHT + HOUR + MINUTE).await.unwrap();
    assert_eq!((merged.parts, merged.wholes, merged.events), (5, 1, 1_500));
    bench.has(&all).await;
    assert_eq!(bench.objects().await.len(), 1, "the parts' objects stay");
    assert_eq!(bench.store.segments()[0].level, Level::Part);
    assert_eq!(bench.store.segments()[0].rows, 1_500);
    bench.reopen().await;
    bench.has(&all).await;
    bench.store.seal().await.unwrap();
    bench.store.merge(MIDNIGHT + 3 * HOUR).await.unwrap();
    assert_eq!(bench.store.segments().len(), 1);
    assert_eq!(bench.store.segments()[0].level, Level::Hour);
    bench.has(&all).await;
    let size = bench.store.segments()[0].bytes;
    let path = &bench.store.segments()[0].path;
    assert_eq!(bench.objects.head(path).await.unwrap().size, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_and_merged_in_memory() {
    sealed_and_merged(Bench::memory().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_and_merged_in_a_directory() {
    sealed_and_merged(Bench::directory().await).await;
}

/// A snapshot put what had just arrived into a chunk that was being sealed: all of it was sealed twice.
#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_and_is_asked_for_during_a_seal_is_there_once() {
    let slow = ThrottleConfig {
        wait_put_per_call: Duration::from_millis(150),
        ..ThrottleConfig::default()
    };
    let objects = ThrottledStore::new(InMemory::new(), slow);
    let bench = Bench::on(Arc::new(objects), tempfile::tempdir().unwrap()).await;
    let mut load = load(MIDNIGHT + HOUR);
    let mut all = load.events(50);
    bench.inbox.append(all.clone());
    let store = bench.store.clone();
    let sealing = tokio::spawn(async move { store.seal().await });
    for _ in 0..30 {
        let events = load.events(5);
        all.extend(events.clone());
        bench.inbox.append(events);
        bench.has(&all).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sealing.await.unwrap().unwrap();
    bench.store.seal().await.unwrap();
    assert!(bench.inbox.pending().is_empty());
    bench.has(&all).await;
}

#[tokio::test]
async fn hours_get_segments_of_their_own_and_days_put_them_together() {
    let bench = Bench::memory().await;
    let mut load = Load::new(3, 3, 20, MIDNIGHT, 40 * MINUTE as u64 / 10);
    let all = load.events(200);
    bench.inbox.append(all.clone());
    bench.store.seal().await.unwrap();
    let hours = bench.store.segments();
    assert!(hours.len() > 8, "{} segments", hours.len());
    for segment in &hours {
        assert_eq!(segment.min_time.div_euclid(HOUR), segment.hour);
        assert_eq!(segment.max_time.div_euclid(HOUR), segment.hour);
    }
    bench.store.merge(MIDNIGHT + 25 * HOUR).await.unwrap();
    let days = bench.store.segments();
    assert_eq!(days.len(), 1);
    assert_eq!(days[0].level, Level::Day);
    assert!(
        days[0]
            .path
            .as_ref()
            .starts_with("segments/2026-11-22/day-")
    );
    bench.has(&all).await;
}

#[tokio::test]
async fn rows_are_sorted_by_fingerprint_and_time() {
    let bench = Bench::memory().await;
    let mut load = load(MIDNIGHT);
    for _ in 0..4 {
        bench.inbox.append(load.events(500));
        bench.store.seal().await.unwrap();
    }
    bench.store.merge(MIDNIGHT + MINUTE).await.unwrap();
    let snapshot = bench.store.snapshot().await.unwrap();
    assert_eq!(snapshot.segments.len(), 1);
    let mut before = None;
    for batch in batches_of(&snapshot, &snapshot.segments[0]).await {
        let fingerprints = batch.column_by_name(FINGERPRINT).unwrap().as_string_view();
        let times = batch.column_by_name(TIME).unwrap();
        let times = times.as_primitive::<TimestampMicrosecondType>();
        for row in 0..batch.num_rows() {
            let key = (fingerprints.value(row).to_owned(), times.value(row));
            assert!(before.as_ref() <= Some(&key));
            before = Some(key);
        }
    }
}

#[tokio::test]
async fn a_fingerprint_is_found_in_its_segments_before_and_after_a_merge() {
    let bench = Bench::memory().await;
    let mut load = Load::new(5, 5, 3_000, MIDNIGHT, 1_000_000);
    let mut all = Vec::new();
    for _ in 0..5 {
        let events = load.events(60);
        all.extend(events.clone());
        bench.inbox.append(events);
        bench.store.seal().await.unwrap();
    }
    let of = |event: &Event| -> String {
        let value: serde_json::Value = serde_json::from_slice(&event.json).unwrap();
        value["token"]["fingerprints"][0]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let rare = all
        .iter()
        .map(of)
        .find(|one| all.iter().filter(|event| of(event) == *one).count() == 1)
        .unwrap();
    let snapshot = bench.store.snapshot().await.unwrap();
    assert_eq!(snapshot.holding(&[&rare]).await.unwrap().len(), 1);
    assert_eq!(snapshot.segments.len(), 5);
    let nowhere = format!("tkf1:k5nz79bq:{}", "A".repeat(43));
    assert!(snapshot.holding(&[&nowhere]).await.unwrap().is_empty());
    bench.store.merge(MIDNIGHT + MINUTE).await.unwrap();
    let later = bench.store.snapshot().await.unwrap();
    let found = later.holding(&[&nowhere, &rare]).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id, later.segments[0].id);
    // The older snapshot goes on to have its own.
    assert_eq!(snapshot.holding(&[&rare]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn fingerprints_of_other_keys_and_of_questions_are_found() {
    let bench = Bench::memory().await;
    let old = format!("tkf1:old:{}", "B".repeat(43));
    let mut event = load(MIDNIGHT).event();
    let text = String::from_utf8(event.json.to_vec()).unwrap();
    let at = text
        .find(r#""],"provider""#)
        .unwrap_or_else(|| text.find(r#""],"scheme""#).unwrap());
    let text = format!(r#"{}","{old}{}"#, &text[..at], &text[at..]);
    event = Event::parse(text.into()).unwrap();
    bench.inbox.append(vec![event.clone()]);
    bench.store.seal().await.unwrap();
    let snapshot = bench.store.snapshot().await.unwrap();
    assert_eq!(snapshot.holding(&[&old]).await.unwrap().len(), 1);
    bench.has(&[event]).await;
}

#[tokio::test]
async fn a_living_snapshot_keeps_its_objects() {
    let bench = Bench::memory().await;
    let mut load = load(MIDNIGHT);
    let mut all = Vec::new();
    for _ in 0..4 {
        let events = load.events(50);
        all.extend(events.clone());
        bench.inbox.append(events);
        bench.store.seal().await.unwrap();
    }
    let snapshot = bench.store.snapshot().await.unwrap();
    bench.store.merge(MIDNIGHT + MINUTE).await.unwrap();
    assert_eq!(bench.objects().await.len(), 5, "parts of a living snapshot");
    same(events_of(&snapshot).await, &all);
    let everything = Retention {
        age: None,
        bytes: Some(0),
    };
    let retained = bench.store.retain(everything, MIDNIGHT).await.unwrap();
    assert_eq!(retained.crowded.len(), 1);
    same(events_of(&snapshot).await, &all);
    bench.has(&[]).await;
    drop(snapshot);
    bench.store.seal().await.unwrap();
    assert!(bench.objects().await.is_empty());
    let loaded = bench.catalog.load().await.unwrap();
    assert!(loaded.dropped.is_empty() && loaded.live.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn snapshots_are_whole_while_seals_and_merges_run() {
    let bench = Arc::new(Bench::directory().await);
    let acknowledged = Arc::new(Mutex::new(Vec::<Event>::new()));
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writing = {
        let (bench, acknowledged, done) = (bench.clone(), acknowledged.clone(), done.clone());
        tokio::spawn(async move {
            let mut load = load(MIDNIGHT);
            for _ in 0..60 {
                let events = load.events(15);
                {
                    // Who reads must not see one without the other.
                    let mut acknowledged = acknowledged.lock().unwrap();
                    bench.inbox.append(events.clone());
                    acknowledged.extend(events);
                }
                bench.store.seal().await.unwrap();
                bench.store.merge(MIDNIGHT + MINUTE).await.unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        })
    };
    let mut looks = 0;
    while !done.load(std::sync::atomic::Ordering::SeqCst) {
        let before = acknowledged.lock().unwrap().clone();
        let snapshot = bench.store.snapshot().await.unwrap();
        let after = acknowledged.lock().unwrap().clone();
        let found = events_of(&snapshot).await;
        assert!(found.len() >= before.len() && found.len() <= after.len());
        same(found.clone(), &after[..found.len()]);
        looks += 1;
    }
    writing.await.unwrap();
    assert!(looks > 5, "{looks} snapshots");
    let all = acknowledged.lock().unwrap().clone();
    bench.has(&all).await;
}

#[tokio::test]
async fn wild_clocks_make_few_files() {
    let bench = Bench::memory().await;
    let mut load = Load::new(9, 3, 20, MIDNIGHT, 1_000);
    let mut all = Vec::new();
    for hour in 0..300 {
        load.now = MIDNIGHT + hour * HOUR;
        all.push(load.event());
    }
    bench.inbox.append(all.clone());
    bench.store.seal().await.unwrap();
    let segments = bench.store.segments();
    assert_eq!(segments.len(), 25);
    let mixed = segments
        .iter()
        .filter(|segment| segment.level == Level::Mixed);
    assert_eq!(mixed.map(|segment| segment.rows).sum::<u64>(), 276);
    bench.has(&all).await;
}

#[tokio::test]
async fn retention_drops_the_oldest_and_says_so() {
    let bench = Bench::memory().await;
    let now = seal::now();
    let midnight = now - now.rem_euclid(24 * HOUR);
    let mut all = Vec::new();
    for day in 0..5 {
        let events = load(midnight - (9 - day) * 24 * HOUR).events(20);
        all.push(events.clone());
        bench.inbox.append(events);
        bench.store.seal().await.unwrap();
    }
    let since = midnight - 7 * 24 * HOUR - 12 * HOUR;
    let age = |now: i64| Retention {
        age: Some(now - since),
        bytes: None,
    };
    // Just sealed, they stay, however old.
    let retained = bench.store.retain(age(now), now).await.unwrap();
    assert!(retained.aged.is_empty());
    let later = now + 25 * HOUR;
    let retained = bench.store.retain(age(later), later).await.unwrap();
    assert_eq!(retained.aged.len(), 2);
    let rows = retained.aged.iter().map(|segment| segment.rows);
    assert_eq!(rows.sum::<u64>(), 40);
    bench.has(&all[2..].concat()).await;
    let bytes: u64 = bench
        .store
        .segments()
        .iter()
        .map(|segment| segment.bytes)
        .sum();
    let most = Retention {
        age: None,
        bytes: Some(bytes - 1),
    };
    let retained = bench.store.retain(most, now).await.unwrap();
    assert_eq!(retained.crowded.len(), 1);
    bench.has(&all[3..].concat()).await;
    assert_eq!(bench.objects().await.len(), 2);
}
