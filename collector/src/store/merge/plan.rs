//! Which segments to put together next.
//!
//! | when | what | becomes |
//! |---|---|---|
//! | while an hour lasts | as many sealed ones of it as `part_segments` | a part |
//! | the hour is over | all of it | one for the hour |
//! | the day is over | hours, up to `file_events` | some for the day |
//! | the day is over, and few are of it | all of it, whatever it is, up to `file_events` | some for the day |
//! | always | mixed ones, when there are as many as `part_segments` | one mixed |
//!
//! What is late makes a small segment of an hour or day that was merged already. It is not worth writing the large one
//! again for it: see `worth`.
//!
//! Invariant: a merge makes fewer segments than there were, so that merging ends.

use crate::store::Settings;
use crate::store::segment::{DAY, HOUR, Level, Segment};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Segments of one merge: each is open, with a batch in memory.
const MOST_PARTS: usize = 64;
/// The largest segment is written again when the others together have at least this part of its rows.
const WORTH: u64 = 8;

/// One merge.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Two or more.
    pub parts: Vec<Arc<Segment>>,
    pub level: Level,
    pub hour: i64,
}

/// The next merge, if there is any.
pub(super) fn next(live: &[Arc<Segment>], now: i64, settings: &Settings) -> Option<Plan> {
    let over = |hour: i64| hour.saturating_mul(HOUR).saturating_add(settings.settle) <= now;
    let mut hours: BTreeMap<i64, Vec<&Arc<Segment>>> = BTreeMap::new();
    let mut days: BTreeMap<i64, Vec<&Arc<Segment>>> = BTreeMap::new();
    let mut mixed = Vec::new();
    for segment in live {
        let day = segment.hour.div_euclid(DAY) * DAY;
        match segment.level {
            Level::Sealed | Level::Part | Level::Hour => {
                hours.entry(segment.hour).or_default().push(segment);
                days.entry(day).or_default().push(segment);
            }
            Level::Day => days.entry(day).or_default().push(segment),
            Level::Mixed => mixed.push(segment),
        }
    }
    let few = |hour: i64| {
        let day = hour.div_euclid(DAY) * DAY;
        over(day + DAY) && days.get(&day).is_some_and(|all| all.len() <= MOST_PARTS)
    };
    // What came late, or after a long stop, need not become hours first: each row would be written once more.
    for (hour, segments) in hours.into_iter().filter(|(hour, _)| !few(*hour)) {
        let (level, candidates) = if over(hour + 1) {
            (Level::Hour, segments)
        } else {
            let sealed: Vec<_> = segments
                .into_iter()
                .filter(|segment| segment.level == Level::Sealed)
                .collect();
            if sealed.len() < settings.part_segments {
                continue;
            }
            (Level::Part, sealed)
        };
        if let Some(parts) = group(candidates, settings) {
            return Some(Plan { parts, level, hour });
        }
    }
    for (day, segments) in days {
        if over(day + DAY)
            && let Some(parts) = group(segments, settings)
        {
            return Some(Plan {
                parts,
                level: Level::Day,
                hour: day,
            });
        }
    }
    if mixed.len() >= settings.part_segments {
        let parts = group(mixed, settings)?;
        let hour = parts.iter().map(|part| part.hour).min()?;
        return Some(Plan {
            parts,
            level: Level::Mixed,
            hour,
        });
    }
    None
}

/// Of segments that belong together those that are merged now: the smallest, as many as fit.
fn group(mut segments: Vec<&Arc<Segment>>, settings: &Settings) -> Option<Vec<Arc<Segment>>> {
    segments.sort_by_key(|segment| (segment.rows, segment.id));
    let mut rows = 0;
    let mut parts: Vec<&Arc<Segment>> = segments
        .into_iter()
        .take(MOST_PARTS)
        .take_while(|segment| {
            rows += segment.rows;
            rows <= settings.file_events
        })
        .collect();
    while !worth(&parts, settings) {
        parts.pop()?;
    }
    (parts.len() > 1).then(|| parts.into_iter().cloned().collect())
}

/// Whether the last, the largest, should be written again for the others.
fn worth(parts: &[&Arc<Segment>], settings: &Settings) -> bool {
    let Some((largest, others)) = parts.split_last() else {
        return true;
    };
    let rows: u64 = others.iter().map(|part| part.rows).sum();
    others.len() >= settings.part_segments || rows >= largest.rows / WORTH
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::segment::Facts;
    use object_store::path::Path;
    use proptest::prelude::*;

    fn segment(id: i64, level: Level, hour: i64, rows: u64) -> Arc<Segment> {
        Arc::new(Segment {
            id,
            facts: Facts {
                path: Path::from(format!("s{id}")),
                level,
                hour,
                rows,
                bytes: rows * 20,
                min_time: hour * HOUR,
                max_time: hour * HOUR + 1,
                sealed: hour * HOUR + 2,
            },
        })
    }

    fn settings() -> Settings {
        Settings {
            part_segments: 4,
            file_events: 1_000,
            settle: 0,
            ..Settings::default()
        }
    }

    /// Merges until nothing is left to merge, by the plans alone.
    fn settle(mut live: Vec<Arc<Segment>>, now: i64) -> Vec<Arc<Segment>> {
        let mut id = 1_000;
        while let Some(plan) = next(&live, now, &settings()) {
            assert!(plan.parts.len() > 1);
            let ids: Vec<_> = plan.parts.iter().map(|part| part.id).collect();
            live.retain(|segment| !ids.contains(&segment.id));
            let rows = plan.parts.iter().map(|part| part.rows).sum();
            assert!(rows <= settings().file_events);
            id += 1;
            live.push(segment(id, plan.level, plan.hour, rows));
        }
        live
    }

    #[test]
    fn an_open_hour_gets_parts_and_one_that_is_over_becomes_one() {
        let live: Vec<_> = (0..9).map(|id| segment(id, Level::Sealed, 5, 10)).collect();
        assert!(next(&live[..3], 5 * HOUR, &settings()).is_none());
        let open = settle(live.clone(), 5 * HOUR);
        assert_eq!(open.len(), 1);
        assert_eq!((open[0].level, open[0].rows), (Level::Part, 90));
        let over = settle(live, 6 * HOUR);
        assert_eq!(over.len(), 1);
        assert_eq!((over[0].level, over[0].rows), (Level::Hour, 90));
    }

    #[test]
    fn a_day_that_is_over_becomes_files_of_the_size_that_is_wanted() {
        let live: Vec<_> = (0..24)
            .map(|hour| segment(hour, Level::Hour, 24 + hour, 100))
            .collect();
        assert_eq!(settle(live.clone(), 47 * HOUR).len(), 24);
        let days = settle(live, 48 * HOUR);
        assert_eq!(days.len(), 3);
        assert!(
            days.iter()
                .all(|day| day.level == Level::Day && day.hour == 24)
        );
    }

    #[test]
    fn few_files_of_a_day_that_is_over_become_a_day_at_once() {
        let sealed = |count: i64| -> Vec<_> {
            (0..count)
                .map(|id| segment(id, Level::Sealed, 24 + id % 24, 10))
                .collect()
        };
        let plan = next(&sealed(64), 48 * HOUR, &settings()).unwrap();
        assert_eq!((plan.level, plan.parts.len()), (Level::Day, 64));
        let plan = next(&sealed(65), 48 * HOUR, &settings()).unwrap();
        assert_eq!((plan.level, plan.parts.len()), (Level::Hour, 3));
    }

    #[test]
    fn a_large_file_is_not_written_again_for_a_small_one() {
        let live = [
            segment(1, Level::Day, 0, 900),
            segment(2, Level::Sealed, 3, 10),
        ];
        assert!(next(&live, 100 * HOUR, &settings()).is_none());
        let live = [
            segment(1, Level::Day, 0, 800),
            segment(2, Level::Sealed, 3, 100),
        ];
        assert!(next(&live, 100 * HOUR, &settings()).is_some());
    }

    proptest! {
        #[test]
        fn merging_ends_with_few_files_and_all_rows(
            sizes in proptest::collection::vec((0..72_i64, 1..400_u64, 0..5_usize), 1..80),
        ) {
            let levels = [Level::Sealed, Level::Part, Level::Hour, Level::Day, Level::Mixed];
            let live: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(id, &(hour, rows, level))| {
                    let hour = if level == 3 { hour / DAY * DAY } else { hour };
                    segment(id as i64, levels[level], hour, rows)
                })
                .collect();
            let before: u64 = live.iter().map(|segment| segment.rows).sum();
            let after = settle(live, 48 * HOUR);
            prop_assert_eq!(after.iter().map(|segment| segment.rows).sum::<u64>(), before);
        }
    }
}
