use super::replay::{PROCESS, secret};
use crate::kernel::record::ProcessKey;
use crate::tls::secrets::{Found, Query};
use crate::tls::{Inserted, Label, Pool, PoolLimits, SecretId};

const OTHER: ProcessKey = ProcessKey { pid: 8, start: 80 };

fn pool() -> Pool {
    Pool::new(PoolLimits {
        per_process: 4,
        total: 6,
        lifetime: 100,
        proven_lifetime: 1000,
    })
}

/// A synthetic master secret.
fn master(number: u8) -> Vec<u8> {
    vec![number; 48]
}

fn insert(pool: &mut Pool, process: ProcessKey, number: u8, time: u64) -> Inserted {
    pool.insert(secret(process, "CLIENT_RANDOM", &master(number), time))
}

/// First bytes of the candidates, in the order they are tried.
fn tried(pool: &mut Pool, processes: &[ProcessKey], around: u64, since: u64) -> Vec<u8> {
    let mut seen = Vec::new();
    let query = Query {
        processes,
        labels: &[Label::Master],
        after: SecretId(0),
        around,
        since,
        resumable: 2,
        client_random: Some([1; 32]),
    };
    let found: Option<Found<()>> = pool.search(&query, |candidate| {
        seen.push(candidate.secret.expose()[0]);
        None
    });
    assert!(found.is_none());
    seen
}

fn find(pool: &mut Pool, number: u8) -> Option<SecretId> {
    let query = Query {
        processes: &[PROCESS, OTHER],
        labels: &[Label::Master],
        after: SecretId(0),
        around: 0,
        since: 0,
        resumable: 0,
        client_random: None,
    };
    pool.search(&query, |candidate| {
        (candidate.secret.expose()[0] == number).then_some(())
    })
    .map(|found| found.id)
}

#[test]
fn secrets_are_kept_once_and_only_if_they_are_needed() {
    let mut pool = pool();
    assert_eq!(
        insert(&mut pool, PROCESS, 1, 5),
        Inserted::Kept(SecretId(1))
    );
    assert_eq!(insert(&mut pool, PROCESS, 1, 6), Inserted::Duplicate);
    assert_eq!(insert(&mut pool, OTHER, 1, 6), Inserted::Kept(SecretId(3)));
    for (label, len) in [
        ("EXPORTER_SECRET", 32),
        ("CLIENT_RANDOM", 47),
        ("CLIENT_TRAFFIC_SECRET_0", 31),
        ("", 0),
    ] {
        assert_eq!(
            pool.insert(secret(PROCESS, label, &vec![9; len], 5)),
            Inserted::Ignored,
            "{label}"
        );
    }
    let counts = pool.counts();
    assert_eq!(
        (counts.kept, counts.duplicate, counts.ignored, pool.len()),
        (2, 1, 4, 2)
    );
}

#[test]
fn those_after_the_hello_are_tried_first_then_the_latest_before_it() {
    let mut pool = pool();
    for (number, time) in [(1, 10), (4, 40), (2, 20), (3, 30)] {
        insert(&mut pool, PROCESS, number, time);
    }
    assert_eq!(tried(&mut pool, &[PROCESS], 25, 0), [3, 4, 2, 1]);
    assert_eq!(tried(&mut pool, &[PROCESS], 25, 20), [3, 4, 2]);
    assert_eq!(
        tried(&mut pool, &[PROCESS], 25, 25),
        [3, 4],
        "older ones only to resume by"
    );
    for number in [1, 2] {
        let id = find(&mut pool, number).unwrap();
        pool.keep_proven(PROCESS, id, 40);
    }
    assert_eq!(tried(&mut pool, &[PROCESS], 45, 45), [2, 1]);
    let renewed = insert(&mut pool, PROCESS, 1, 50);
    assert_eq!(
        renewed,
        Inserted::Duplicate,
        "a library may log again at a resumption"
    );
    assert_eq!(tried(&mut pool, &[PROCESS], 45, 45), [1, 2]);
    assert!(tried(&mut pool, &[OTHER], 25, 0).is_empty());
    let mut named = secret(PROCESS, "CLIENT_RANDOM", &master(5), 50);
    named.client_random = Some([2; 32]);
    pool.insert(named);
    assert!(
        !tried(&mut pool, &[PROCESS], 45, 0).contains(&5),
        "another connection's is not tried"
    );
}

#[test]
fn limits_evict_the_oldest_unproven() {
    let mut pool = pool();
    for number in 1..=4 {
        insert(&mut pool, PROCESS, number, u64::from(number));
    }
    let first = find(&mut pool, 1).unwrap();
    pool.keep_proven(PROCESS, first, 4);
    insert(&mut pool, PROCESS, 5, 5);
    assert_eq!(tried(&mut pool, &[PROCESS], 0, 0), [1, 3, 4, 5]);
    for number in 6..=9 {
        insert(&mut pool, OTHER, number, u64::from(number));
    }
    assert_eq!(pool.len(), 6);
    let counts = pool.counts();
    assert_eq!((counts.kept, counts.evicted, counts.proven), (9, 3, 1));
}

/// A server of TLS 1.2 has had more connections than its share holds: the next one's secret must not be the first to go.
#[test]
fn a_new_secret_finds_room_among_proven_ones() {
    let mut pool = pool();
    for number in 1..=40 {
        insert(&mut pool, PROCESS, number, u64::from(number));
        let id = find(&mut pool, number).expect("what has just come is there");
        pool.keep_proven(PROCESS, id, u64::from(number));
    }
    // Those that were used last.
    assert_eq!(tried(&mut pool, &[PROCESS], 0, 0), [37, 38, 39, 40]);
}

#[test]
fn the_unproven_expire_first() {
    let mut pool = pool();
    insert(&mut pool, PROCESS, 1, 0);
    insert(&mut pool, PROCESS, 2, 0);
    let first = find(&mut pool, 1).unwrap();
    pool.keep_proven(PROCESS, first, 10);
    pool.expire(100);
    assert_eq!(pool.len(), 2);
    pool.expire(101);
    assert_eq!(tried(&mut pool, &[PROCESS], 0, 0), [1]);
    pool.expire(1011);
    assert!(pool.is_empty());
    assert_eq!(pool.counts().expired, 2);
}

#[test]
fn a_process_is_forgotten() {
    let mut pool = pool();
    insert(&mut pool, PROCESS, 1, 0);
    insert(&mut pool, OTHER, 2, 0);
    pool.forget(PROCESS);
    assert_eq!((pool.len(), pool.counts().forgotten), (1, 1));
    assert_eq!(
        insert(&mut pool, PROCESS, 1, 0),
        Inserted::Kept(SecretId(3))
    );
}

#[test]
fn what_is_gone_does_not_pile_up() {
    let mut pool = pool();
    for round in 0..10_000u64 {
        pool.insert(secret(
            PROCESS,
            "CLIENT_RANDOM",
            &round.to_le_bytes().repeat(6),
            round,
        ));
        if let Some(id) = find(&mut pool, round as u8) {
            pool.take(PROCESS, id);
        }
    }
    let counts = pool.counts();
    assert_eq!(
        counts.kept,
        counts.proven + counts.evicted + pool.len() as u64
    );
    assert!(pool.arrivals_len() < 200);
}
