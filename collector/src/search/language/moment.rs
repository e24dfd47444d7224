//! Times as people type them.
//!
//! - `now`, and a while ago: `90s`, `30m`, `24h`, `7d`, `2w`, `1d12h`.
//! - `2026-11-01`, `2026-11-22T10:00Z`, `2026-11-22T10:00:05.25+01:00`; without an offset it is UTC.
//!
//! A time stands for the span that it names: a date for its day, a time to the minute for that minute. So
//! `time:2026-11-01` is a whole day and `time:2026-11-01..2026-11-02` are two.
//!
//! Invariant: what `Display` writes is read back as the same.

use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;
use std::fmt;

const NANOS: i64 = 1_000_000_000;
const UNITS: [(char, u64); 5] = [
    ('w', 7 * 86_400),
    ('d', 86_400),
    ('h', 3600),
    ('m', 60),
    ('s', 1),
];
/// More than 100 years ago is a mistake.
const AGO_MAX: u64 = 36_525 * 86_400;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Seconds before the question is asked.
    Ago(u64),
    At {
        /// Begin, nanoseconds since the Unix epoch.
        nanos: i64,
        precision: Precision,
    },
}

/// How long a time's span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    Day,
    Minute,
    Second,
    Nanosecond,
}

impl Precision {
    fn nanos(self) -> i64 {
        match self {
            Self::Day => 86_400 * NANOS,
            Self::Minute => 60 * NANOS,
            Self::Second => NANOS,
            Self::Nanosecond => 1,
        }
    }
}

/// What a text that is not a time should be.
pub(super) const EXPECTED: &str =
    "a time such as `24h`, `2026-11-01` or `2026-11-22T10:00Z` (UTC without an offset)";

impl Moment {
    /// `None`: not a time, or not one of the years 1678 to 2261.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "now" {
            return Some(Self::Ago(0));
        }
        Self::ago(text).or_else(|| Self::at(text))
    }

    fn ago(text: &str) -> Option<Self> {
        let mut total = 0_u64;
        let mut rest = text;
        let mut units = UNITS.iter();
        while !rest.is_empty() {
            let digits = rest.find(|character: char| !character.is_ascii_digit())?;
            let number: u64 = rest[..digits].parse().ok()?;
            let unit = rest[digits..].chars().next()?;
            // Each unit once, the largest first.
            let (_, seconds) = units.find(|(letter, _)| *letter == unit)?;
            total = total.checked_add(number.checked_mul(*seconds)?)?;
            rest = &rest[digits + unit.len_utf8()..];
        }
        (!text.is_empty() && total <= AGO_MAX).then_some(Self::Ago(total))
    }

    fn at(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_digit() || b"-:.+TZtz ".contains(byte);
        let dashes = bytes.get(4) == Some(&b'-') && bytes.get(7) == Some(&b'-');
        if !bytes.iter().all(plain) || !dashes {
            return None;
        }
        let (civil, offset, precision) = match text.get(10..) {
            Some("") => {
                let date: Date = text.parse().ok()?;
                (
                    date.to_datetime(jiff::civil::Time::midnight()),
                    Offset::UTC,
                    Precision::Day,
                )
            }
            Some(clock) => {
                let clock = clock.strip_prefix(['T', 't', ' '])?;
                let (clock, offset) = split_offset(clock)?;
                let precision = match clock.len() {
                    5 => Precision::Minute,
                    8 => Precision::Second,
                    10..=18 if clock.as_bytes()[8] == b'.' => Precision::Nanosecond,
                    _ => return None,
                };
                let civil: DateTime = format!("{}T{clock}", &text[..10]).parse().ok()?;
                (civil, offset, precision)
            }
            None => return None,
        };
        let timestamp = offset.to_timestamp(civil).ok()?;
        let nanos = i64::try_from(timestamp.as_nanosecond()).ok()?;
        nanos.checked_add(precision.nanos())?;
        Some(Self::At { nanos, precision })
    }

    /// First nanosecond, and the first one after it, since the Unix epoch.
    #[must_use]
    pub fn span(self, now: i64) -> (i64, i64) {
        match self {
            Self::Ago(seconds) => {
                let ago = i64::try_from(seconds).unwrap_or(i64::MAX);
                let begin = now.saturating_sub(ago.saturating_mul(NANOS));
                (begin, begin.saturating_add(1))
            }
            Self::At { nanos, precision } => (nanos, nanos.saturating_add(precision.nanos())),
        }
    }
}

/// Takes `Z`, `+01:00` or nothing off the end.
fn split_offset(clock: &str) -> Option<(&str, Offset)> {
    if let Some(clock) = clock.strip_suffix(['Z', 'z']) {
        return Some((clock, Offset::UTC));
    }
    let Some(place) = clock.find(['+', '-']) else {
        return Some((clock, Offset::UTC));
    };
    let (clock, offset) = clock.split_at(place);
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = hours * 3600 + minutes * 60;
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    Some((clock, Offset::from_seconds(sign * seconds).ok()?))
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Ago(0) => f.write_str("now"),
            Self::Ago(mut seconds) => UNITS.iter().try_for_each(|(letter, unit)| {
                let (count, rest) = (seconds / unit, seconds % unit);
                seconds = rest;
                if count == 0 {
                    return Ok(());
                }
                write!(f, "{count}{letter}")
            }),
            Self::At { nanos, precision } => {
                let timestamp =
                    jiff::Timestamp::from_nanosecond(i128::from(nanos)).map_err(|_| fmt::Error)?;
                let civil = Offset::UTC.to_datetime(timestamp);
                match precision {
                    Precision::Day => write!(f, "{}", civil.date()),
                    Precision::Minute => write!(f, "{}Z", civil.strftime("%Y-%m-%dT%H:%M")),
                    Precision::Second => write!(f, "{}Z", civil.strftime("%Y-%m-%dT%H:%M:%S")),
                    Precision::Nanosecond => {
                        write!(f, "{}Z", civil.strftime("%Y-%m-%dT%H:%M:%S%.9f"))
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_type_them() {
        for (text, begin, length, again) in [
            ("now", 1_000_000 * NANOS, 1, "now"),
            ("90s", 999_910 * NANOS, 1, "1m30s"),
            ("24h", 913_600 * NANOS, 1, "1d"),
            ("1d12h", 870_400 * NANOS, 1, "1d12h"),
            ("1970-01-02", 86_400 * NANOS, 86_400 * NANOS, "1970-01-02"),
            (
                "1970-01-02T01:00",
                90_000 * NANOS,
                60 * NANOS,
                "1970-01-02T01:00Z",
            ),
            (
                "1970-01-02T01:00Z",
                90_000 * NANOS,
                60 * NANOS,
                "1970-01-02T01:00Z",
            ),
            (
                "1970-01-02 02:00:00+01:00",
                90_000 * NANOS,
                NANOS,
                "1970-01-02T01:00:00Z",
            ),
            (
                "1970-01-01T23:59:59.5-01:00",
                89_999 * NANOS + NANOS / 2,
                1,
                "1970-01-02T00:59:59.500000000Z",
            ),
        ] {
            let moment = Moment::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(
                moment.span(1_000_000 * NANOS),
                (begin, begin + length),
                "{text}"
            );
            assert_eq!(moment.to_string(), again, "{text}");
            assert_eq!(Moment::parse(again), Some(moment), "{text}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "h",
            "24",
            "24x",
            "1h1d",
            "1h1h",
            "-1h",
            "99999999999999999999s",
            "101y",
            "2026",
            "2026-13-01",
            "2026-02-30",
            "2026-11-01T",
            "2026-11-01T10",
            "2026-11-01T24:00",
            "2026-11-01T10:00ZZ",
            "2026-11-01T10:00+1:00",
            "2026-11-01T10:00:00.Z",
            "2026-11-01T10:00:00.0000000000Z",
            "9999-01-01",
            "1000-01-01",
            "2026-11-01T10:00[UTC]",
            "20261101T100000Z",
            "yesterday",
            "40000d",
            "2026-11-0é",
        ] {
            assert_eq!(Moment::parse(text), None, "{text}");
        }
    }
}
