//! Which sequences of a source were ever received: coalesced ranges, on the disk alone.
//!
//! Each range knows where the hole in front of it begins (at its own first sequence: there is none), since when the
//! hole is there, and whether it was told of; what is left of a hole that is filled in part keeps both. So holes are
//! found by an index and never by reading all ranges.
//!
//! Invariant: ranges of a source neither overlap nor touch.
//! Invariant: called within the transaction that stores what is new.

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};

/// Consecutive sequences, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub first: i64,
    pub last: i64,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    run: Run,
    gap: i64,
    since: i64,
    told: bool,
}

impl Range {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            run: Run {
                first: row.get(0)?,
                last: row.get(1)?,
            },
            gap: row.get(2)?,
            since: row.get(3)?,
            told: row.get(4)?,
        })
    }
}

/// The number of an (agent, epoch), which is made if it is new.
pub(super) fn source(connection: &Connection, agent: &str, epoch: i64) -> rusqlite::Result<i64> {
    let known = connection
        .prepare_cached("SELECT id FROM sources WHERE agent = ?1 AND epoch = ?2")?
        .query_row(params![agent, epoch], |row| row.get(0))
        .optional()?;
    if let Some(known) = known {
        return Ok(known);
    }
    connection
        .prepare_cached("INSERT INTO sources (agent, epoch) VALUES (?1, ?2)")?
        .execute(params![agent, epoch])?;
    Ok(connection.last_insert_rowid())
}

/// Sequences in ascending order, as runs. Equal ones count once.
pub(super) fn runs(sequences: impl Iterator<Item = i64>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for sequence in sequences {
        match runs.last_mut() {
            Some(run) if sequence <= run.last => {}
            Some(run) if sequence == run.last + 1 => run.last = sequence,
            _ => runs.push(Run {
                first: sequence,
                last: sequence,
            }),
        }
    }
    runs
}

/// Counts a run as received; the parts of it that were before are appended to `had`, ascending.
pub(super) fn receive(
    connection: &Connection,
    source: i64,
    run: Run,
    now: i64,
    had: &mut Vec<Run>,
) -> rusqlite::Result<()> {
    let near = near(connection, source, run)?;
    let before = near.first().filter(|range| range.run.last < run.first - 1);
    let touching = &near[usize::from(before.is_some())..];
    for range in touching {
        let first = range.run.first.max(run.first);
        let last = range.run.last.min(run.last);
        if first <= last {
            had.push(Run { first, last });
        }
    }
    let lowest = touching.first();
    if lowest.is_some_and(|range| range.run.first <= run.first && range.run.last >= run.last) {
        return Ok(());
    }
    let highest = touching.last().map_or(i64::MIN, |range| range.run.last);
    let last = run.last.max(highest);
    let next = if last == highest {
        None
    } else {
        after(connection, source, last)?
    };
    // The range whose hole the run lies in, or whose front it becomes.
    let behind = lowest.or(next.as_ref());
    let mut merged = match (lowest, behind) {
        (Some(range), _) if range.run.first <= run.first => *range,
        (_, Some(range)) => *range,
        _ => Range {
            run,
            gap: before.map_or(1, |range| range.run.last + 1),
            since: now,
            told: false,
        },
    };
    merged.run = Run {
        first: run
            .first
            .min(lowest.map_or(run.first, |range| range.run.first)),
        last,
    };
    for range in touching {
        if range.run.first != merged.run.first {
            cached(
                connection,
                "DELETE FROM ranges WHERE source = ?1 AND first = ?2",
            )?
            .execute(params![source, range.run.first])?;
        }
    }
    cached(
        connection,
        "INSERT INTO ranges (source, first, last, gap, since, told) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (source, first) DO UPDATE SET last = excluded.last",
    )?
    .execute(params![
        source,
        merged.run.first,
        merged.run.last,
        merged.gap,
        merged.since,
        merged.told
    ])?;
    if let Some(next) = next {
        cached(
            connection,
            "UPDATE ranges SET gap = ?3 WHERE source = ?1 AND first = ?2",
        )?
        .execute(params![source, next.run.first, last + 1])?;
    }
    Ok(())
}

/// Ranges that overlap or touch a run, and the one before it.
fn near(connection: &Connection, source: i64, run: Run) -> rusqlite::Result<Vec<Range>> {
    let mut statement = cached(
        connection,
        "SELECT first, last, gap, since, told FROM ranges WHERE source = ?1 AND first <= ?3 AND first >=
            COALESCE((SELECT MAX(first) FROM ranges WHERE source = ?1 AND first <= ?2), ?2)
         ORDER BY first",
    )?;
    statement
        .query_map(
            params![source, run.first, run.last.saturating_add(1)],
            Range::read,
        )?
        .collect()
}

/// The first range that begins after a sequence.
fn after(connection: &Connection, source: i64, last: i64) -> rusqlite::Result<Option<Range>> {
    cached(
        connection,
        "SELECT first, last, gap, since, told FROM ranges WHERE source = ?1 AND first > ?2 ORDER BY first LIMIT 1",
    )?
    .query_row(params![source, last], Range::read)
    .optional()
}

fn cached<'a>(
    connection: &'a Connection,
    statement: &str,
) -> rusqlite::Result<CachedStatement<'a>> {
    connection.prepare_cached(statement)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::{database, hole};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn connection(folder: &tempfile::TempDir) -> Connection {
        database::open(&folder.path().join("inbox.db")).unwrap()
    }

    /// What the table must say of a set.
    fn expected(set: &BTreeSet<i64>) -> Vec<(i64, i64, i64)> {
        let mut before = 0;
        runs(set.iter().copied())
            .into_iter()
            .map(|run| {
                let gap = before + 1;
                before = run.last;
                (run.first, run.last, gap)
            })
            .collect()
    }

    fn table(connection: &Connection, source: i64) -> Vec<(i64, i64, i64)> {
        connection
            .prepare("SELECT first, last, gap FROM ranges WHERE source = ?1 ORDER BY first")
            .unwrap()
            .query_map([source], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn ranges_are_the_set(given in proptest::collection::vec((1i64..60, 0i64..12), 1..40)) {
            let folder = tempfile::tempdir().unwrap();
            let connection = connection(&folder);
            connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
            let source = source(&connection, "a", 7).unwrap();
            let other = super::source(&connection, "a", 8).unwrap();
            receive(&connection, other, Run { first: 3, last: 40 }, 0, &mut Vec::new()).unwrap();
            let mut set = BTreeSet::new();
            for (first, more) in given {
                let run = Run { first, last: first + more };
                let mut had = Vec::new();
                receive(&connection, source, run, 1, &mut had).unwrap();
                let known = (run.first..=run.last).filter(|sequence| set.contains(sequence));
                prop_assert_eq!(had, runs(known));
                set.extend(run.first..=run.last);
                prop_assert_eq!(table(&connection, source), expected(&set));
            }
        }
    }

    #[test]
    fn what_is_left_of_a_hole_keeps_its_age() {
        let folder = tempfile::tempdir().unwrap();
        let connection = connection(&folder);
        let source = source(&connection, "a", 7).unwrap();
        let receive = |first, last, now| {
            receive(
                &connection,
                source,
                Run { first, last },
                now,
                &mut Vec::new(),
            )
            .unwrap();
        };
        receive(1, 10, 100);
        receive(20, 30, 200);
        let told = "UPDATE ranges SET told = 1 WHERE first = 20";
        connection.execute(told, []).unwrap();
        // In the middle, at the end and at the begin of what is left.
        receive(14, 15, 300);
        receive(19, 19, 400);
        receive(11, 11, 500);
        let holes = hole::list(&connection, i64::MAX, 10).unwrap();
        let holes: Vec<_> = holes
            .iter()
            .map(|hole| (hole.first, hole.last, hole.since, hole.told))
            .collect();
        assert_eq!(holes, [(12, 13, 200, true), (16, 18, 200, true)]);
        // A new one behind everything is new.
        receive(40, 40, 600);
        let holes = hole::list(&connection, i64::MAX, 10).unwrap();
        assert_eq!(
            (holes[2].first, holes[2].since, holes[2].told),
            (31, 600, false)
        );
    }

    #[test]
    fn the_greatest_sequence_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let connection = connection(&folder);
        let source = source(&connection, "a", 7).unwrap();
        let run = Run {
            first: i64::MAX - 1,
            last: i64::MAX,
        };
        let mut had = Vec::new();
        receive(&connection, source, run, 1, &mut had).unwrap();
        receive(&connection, source, run, 1, &mut had).unwrap();
        assert_eq!(had, [run]);
    }
}
