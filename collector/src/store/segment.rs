//! A segment: one Parquet file of sorted rows, and what the catalog knows of it.

use object_store::path::Path;
use std::fmt;

/// Nanoseconds of an hour.
pub const HOUR: i64 = 3_600 * 1_000_000_000;
/// Hours of a day.
pub const DAY: i64 = 24;

/// How far a segment has been merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// As sealed: a few seconds of one hour.
    Sealed,
    /// Some sealed ones of one hour, while the hour lasts.
    Part,
    /// One hour.
    Hour,
    /// Several hours of one day.
    Day,
    /// Of many hours: events whose times lie far apart came at once.
    Mixed,
}

impl Level {
    /// As the catalog stores it. Numbers stay.
    #[must_use]
    pub fn number(self) -> i64 {
        match self {
            Self::Sealed => 0,
            Self::Part => 1,
            Self::Hour => 2,
            Self::Day => 3,
            Self::Mixed => 9,
        }
    }

    /// Reads [`Self::number`].
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::Sealed, Self::Part, Self::Hour, Self::Day, Self::Mixed]
            .into_iter()
            .find(|level| level.number() == number)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sealed => "sealed",
            Self::Part => "part",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Mixed => "mixed",
        })
    }
}

/// A segment as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Ascending, never used again.
    pub id: i64,
    pub facts: Facts,
}

/// What is known of a segment's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The object.
    pub path: Path,
    pub level: Level,
    /// First hour of its window, in hours since the Unix epoch. A day's window begins at midnight UTC.
    pub hour: i64,
    pub rows: u64,
    /// Bytes of the object.
    pub bytes: u64,
    /// First and last event time, in nanoseconds since the Unix epoch.
    pub min_time: i64,
    pub max_time: i64,
    /// When the newest of its events was sealed, in nanoseconds since the Unix epoch.
    pub sealed: i64,
}

impl std::ops::Deref for Segment {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.facts
    }
}

impl Facts {
    /// Until when it tells of the world, in nanoseconds since the Unix epoch: its last event, or when that was
    /// received if a clock was ahead.
    #[must_use]
    pub fn end(&self) -> i64 {
        self.max_time.min(self.sealed)
    }
}

/// Where segments are, below the root of the objects.
pub const FOLDER: &str = "segments";

/// A name that no segment has had: the day, the hour, how far merged, and 64 random bits.
pub(super) fn new_path(level: Level, hour: i64, unique: u64) -> Path {
    let seconds = hour.saturating_mul(3_600);
    let day = jiff::Timestamp::from_second(seconds).map_or_else(
        |_| "unknown".to_owned(),
        |time| time.strftime("%Y-%m-%d").to_string(),
    );
    let name = match level {
        Level::Mixed => format!("mixed/{unique:016x}.parquet"),
        Level::Day => format!("{day}/day-{unique:016x}.parquet"),
        _ => format!(
            "{day}/{:02}-{level}-{unique:016x}.parquet",
            hour.rem_euclid(DAY)
        ),
    };
    // The name has no character that a path would change.
    Path::from(format!("{FOLDER}/{name}"))
}
