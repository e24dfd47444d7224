use super::*;
use crate::event::Event;
use crate::search::fields;
use crate::search::language::{Query, parse};
use crate::search::testing::{self, BEGIN, Dice, HOUR, fingerprint};
use serde_json::Value as Json;
use std::collections::BTreeMap;

pub(super) const NOW: i64 = BEGIN + 6 * HOUR;

pub(super) fn question(query: &str) -> SearchQuestion {
    SearchQuestion {
        query: parse(query).unwrap(),
        order: Order::Newest,
        limit: 10_000,
        cursor: None,
        force: false,
        now: NOW,
    }
}

fn sorted(mut events: Vec<&Event>, order: Order) -> Vec<bytes::Bytes> {
    events.sort_by(|a, b| (a.time, &a.key).cmp(&(b.time, &b.key)));
    if order == Order::Newest {
        events.reverse();
    }
    events.into_iter().map(|event| event.json.clone()).collect()
}

fn expected(events: &[Event], query: &Query, order: Order) -> Vec<bytes::Bytes> {
    let taken = events
        .iter()
        .filter(|event| testing::takes(query, event, NOW));
    sorted(taken.collect(), order)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_searches_find_what_the_language_says() {
    let events = testing::events(700, 1);
    let (engine, _bench) = testing::engine(&events, 150, Limits::default()).await;
    let mut dice = Dice(2);
    let mut hits = [0_usize; 3];
    // Without optimisation a plan takes long to make; more of them on request.
    let searches = std::env::var("TOKENTRAIL_SEARCHES").map_or(30, |count| count.parse().unwrap());
    for _ in 0..searches {
        let text = testing::query(&mut dice, 2);
        let mut question = question(&text);
        question.order = dice.of(&[Order::Newest, Order::Oldest]);
        let found = engine
            .search(&question)
            .await
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        let expected = expected(&events, &question.query, question.order);
        assert_eq!(found.events.len(), expected.len(), "{text}");
        assert_eq!(found.events, expected, "{text}");
        assert_eq!(found.cursor, None);
        hits[usize::from(!expected.is_empty()) + usize::from(expected.len() == events.len())] += 1;
    }
    assert!(
        hits[1] > searches / 3,
        "queries that take some, but not all: {hits:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_join_without_a_gap_or_a_repetition() {
    let events = testing::events(400, 3);
    let (engine, _bench) = testing::engine(&events, 90, Limits::default()).await;
    for (order, limit) in [(Order::Newest, 60), (Order::Oldest, 1)] {
        let mut question = question(if limit == 1 {
            "status:401 host:web-1 path:/admin"
        } else {
            "kind:usage since:5h"
        });
        question.order = order;
        question.limit = limit;
        let expected = expected(&events, &question.query, order);
        let mut found = Vec::new();
        loop {
            let page = engine.search(&question).await.unwrap();
            assert!(page.events.len() <= limit);
            found.extend(page.events);
            // Time goes on between pages; what `since:5h` means stays.
            question.now += HOUR;
            question.cursor = page.cursor;
            if question.cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "{order:?} {limit}");
    }
}

#[tokio::test]
async fn a_cursor_of_another_question_is_refused() {
    let events = testing::events(50, 4);
    let (engine, _bench) = testing::engine(&events, 10, Limits::default()).await;
    let mut question = question("");
    question.limit = 5;
    let page = engine.search(&question).await.unwrap();
    question.query = parse("kind:usage").unwrap();
    question.cursor = page.cursor;
    let error = engine.search(&question).await.unwrap_err();
    assert!(
        matches!(error, SearchError::Cursor(InvalidCursor::Question)),
        "{error}"
    );
}

fn value(event: &Event, path: &str) -> Json {
    let event: Json = serde_json::from_slice(&event.json).unwrap();
    let pointer = format!("/{}", path.replace('.', "/"));
    event.pointer(&pointer).cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_are_those_of_the_events() {
    let events = testing::events(500, 5);
    let (engine, _bench) = testing::engine(&events, 100, Limits::default()).await;
    for (query, by, every) in [
        ("", &[][..], None),
        ("kind:usage", &["provider", "status"][..], None),
        ("", &["kind", "loss.intentional"], Some(3600)),
        ("status:401", &["src"], Some(600)),
        ("status:99999", &[], None),
        ("status:99999", &["src"], Some(60)),
    ] {
        let by: Vec<_> = by.iter().map(|name| fields::find(name).unwrap()).collect();
        let query = parse(query).unwrap();
        let question = StatsQuestion {
            query: query.clone(),
            by: by.clone(),
            every: every.map(std::time::Duration::from_secs),
            limit: 10_000,
            force: false,
            now: NOW,
        };
        let counts = engine.stats(&question).await.unwrap();
        let mut expected: BTreeMap<(Option<i64>, String), u64> = BTreeMap::new();
        for event in events
            .iter()
            .filter(|event| testing::takes(&query, event, NOW))
        {
            let values: Vec<Json> = by.iter().map(|field| value(event, field.path)).collect();
            let bucket = every.map(|seconds| {
                let width = i64::try_from(seconds).unwrap() * 1_000_000_000;
                event.time / width * width
            });
            *expected
                .entry((bucket, serde_json::to_string(&values).unwrap()))
                .or_default() += 1;
        }
        assert_eq!(counts.total, expected.values().sum::<u64>());
        assert!(!counts.more);
        let key = |row: &Counted| {
            let time = row
                .time
                .map(|time| i64::try_from(time.unix_nanos()).unwrap());
            (time, serde_json::to_string(&row.values).unwrap())
        };
        let found: BTreeMap<_, _> = counts
            .rows
            .iter()
            .map(|row| (key(row), row.count))
            .collect();
        assert_eq!(found, expected, "{query}");
        assert!(
            counts
                .rows
                .is_sorted_by_key(|row| (row.time, std::cmp::Reverse(row.count)))
        );

        // The first of all groups are the groups of a smaller limit.
        let fewer = engine
            .stats(&StatsQuestion {
                limit: 3,
                ..question
            })
            .await
            .unwrap();
        assert_eq!(fewer.rows[..], counts.rows[..counts.rows.len().min(3)]);
        assert_eq!(
            (fewer.total, fewer.more),
            (counts.total, counts.rows.len() > 3)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trail_tells_everything_of_a_credential() {
    let events = testing::events(600, 6);
    let (engine, _bench) = testing::engine(&events, 120, Limits::default()).await;
    // Under the older key, which some events have beside the current one.
    for prints in [
        vec![fingerprint("k1", 3)],
        vec![fingerprint("k1", 3), fingerprint("k2", 3)],
    ] {
        let query = parse(
            &prints
                .iter()
                .map(|print| format!("fp:{print}"))
                .collect::<Vec<_>>()
                .join(" or "),
        )
        .unwrap();
        let of: Vec<&Event> = events
            .iter()
            .filter(|event| testing::takes(&query, event, NOW))
            .collect();
        assert!(of.len() > 5);
        let trail = engine
            .trail(&TrailQuestion {
                fingerprints: prints.iter().map(|print| print.parse().unwrap()).collect(),
                limit: 1_000,
                cursor: None,
                force: false,
                now: NOW,
            })
            .await
            .unwrap();
        assert_eq!(trail.events, of.len() as u64);
        assert_eq!(trail.timeline, sorted(of.clone(), Order::Oldest));
        let micros = |time: i64| i128::from(time / 1000 * 1000);
        assert_eq!(
            trail.first.unwrap().unix_nanos(),
            micros(of.iter().map(|event| event.time).min().unwrap())
        );
        assert_eq!(
            trail.last.unwrap().unix_nanos(),
            micros(of.iter().map(|event| event.time).max().unwrap())
        );
        assert_eq!(trail.facets.len(), FACETS.len());
        for facet in &trail.facets {
            for row in &facet.rows {
                let same = of.iter().filter(|event| {
                    let values = facet.fields.iter().map(|path| value(event, path));
                    values.eq(row.values.iter().cloned())
                });
                let times: Vec<i64> = same.map(|event| event.time).collect();
                assert_eq!(
                    row.count,
                    times.len() as u64,
                    "{} {:?}",
                    facet.name,
                    row.values
                );
                assert_eq!(row.first.unix_nanos(), micros(*times.iter().min().unwrap()));
                assert_eq!(row.last.unix_nanos(), micros(*times.iter().max().unwrap()));
            }
            let counted: u64 = facet.rows.iter().map(|row| row.count).sum();
            let with = of.iter().filter(|event| {
                facet
                    .fields
                    .iter()
                    .any(|path| !value(event, path).is_null())
            });
            assert_eq!(counted, with.count() as u64, "{}", facet.name);
        }
    }
    let never = engine
        .trail(&TrailQuestion {
            fingerprints: vec![fingerprint("k9", 1).parse().unwrap()],
            limit: 10,
            cursor: None,
            force: false,
            now: NOW,
        })
        .await
        .unwrap();
    assert_eq!(
        (never.events, never.first, never.timeline.len()),
        (0, None, 0)
    );
}

#[tokio::test]
async fn segments_are_chosen_by_time_and_fingerprint() {
    let events = testing::events(300, 7);
    let (engine, _bench) = testing::engine(&events, 0, Limits::default()).await;
    let explained = async |query: &str| engine.explain(&question(query)).await.unwrap();
    let all = explained("kind:usage").await;
    assert_eq!((all.segments, all.files_read, all.rows), (12, 12, 300));
    let late = explained("since:90m").await;
    assert_eq!((late.segments_excluded_by_time, late.files_read), (8, 4));
    let none = explained(&format!("fp:{}", fingerprint("k9", 0))).await;
    assert_eq!(
        (none.segments_excluded_by_fingerprint, none.files_read),
        (12, 0)
    );
    // Filters reach the files.
    assert!(
        all.plan.contains("predicate=") && all.plan.contains("kind@"),
        "{}",
        all.plan
    );
}

#[tokio::test]
async fn what_would_read_too_much_is_refused_and_can_be_forced() {
    let events = testing::events(100, 8);
    let limits = Limits {
        rows: 60,
        ..Limits::default()
    };
    let (engine, _bench) = testing::engine(&events, 40, limits).await;
    let mut all = question("kind:usage");
    let error = engine.search(&all).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "up to 100 events would be read, and at most 60 are without `force`: a shorter time (`since:1h`) or a \
         fingerprint narrows it"
    );
    assert!(engine.search(&question("since:30m")).await.is_ok());
    assert_eq!(engine.explain(&all).await.unwrap().rows, 100);
    all.force = true;
    assert_eq!(engine.search(&all).await.unwrap().rows, 100);
}

#[tokio::test]
async fn limits_of_memory_and_time_end_a_question() {
    let events = testing::events(400, 9);
    let limits = Limits {
        memory: 1_000,
        ..Limits::default()
    };
    let (engine, _bench) = testing::engine(&events, 100, limits).await;
    let error = engine.search(&question("")).await.unwrap_err();
    assert!(matches!(error, SearchError::Memory(1_000)), "{error}");

    struct Stuck;

    #[async_trait]
    impl Source for Stuck {
        async fn snapshot(&self) -> Result<Snapshot, String> {
            std::future::pending().await
        }
    }
    let limits = Limits {
        time: Duration::from_millis(1),
        ..Limits::default()
    };
    let engine = Engine::new(Arc::new(Stuck), limits).unwrap();
    let error = engine.search(&question("")).await.unwrap_err();
    assert!(matches!(error, SearchError::Time(_)), "{error}");
}

#[tokio::test]
async fn arguments_have_limits() {
    let (engine, _bench) = testing::engine(&testing::events(10, 1), 1, Limits::default()).await;
    for limit in [0, 10_001] {
        let error = engine
            .search(&SearchQuestion {
                limit,
                ..question("")
            })
            .await
            .unwrap_err();
        assert!(matches!(error, SearchError::Argument { name: "limit", .. }));
    }
    let stats = |by: &str, seconds| StatsQuestion {
        query: Query::All,
        by: vec![fields::find(by).unwrap()],
        every: Some(std::time::Duration::from_secs(seconds)),
        limit: 10,
        force: false,
        now: NOW,
    };
    for (by, seconds, name) in [
        ("time", 60, "by"),
        ("kind", 0, "every"),
        ("kind", u64::MAX, "every"),
    ] {
        match engine.stats(&stats(by, seconds)).await.unwrap_err() {
            SearchError::Argument { name: wrong, .. } => assert_eq!(wrong, name),
            other => panic!("{other}"),
        }
    }
}
