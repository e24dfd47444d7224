//! UTC dates from and to Unix seconds, for the key file's validity.
//!
//! The algorithm is the proleptic Gregorian one over 400-year eras; it is exact for the years 1 to 9999, which are
//! all that TOML (RFC 3339) can write.
//!
//! Invariant: no overflow for any input.

use toml::value::{Date, Datetime, Offset, Time};

/// Unix seconds of `0001-01-01T00:00:00Z` and `9999-12-31T23:59:59Z`.
pub(super) const MIN: i64 = -62_135_596_800;
pub(super) const MAX: i64 = 253_402_300_799;

/// `None` unless it is a date with a time and an offset, in the years 1 to 9999.
pub(super) fn to_unix(datetime: &Datetime) -> Option<i64> {
    let (date, time) = (datetime.date?, datetime.time?);
    let offset_minutes = match datetime.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    // Years begin in March, so that the leap day is the last of its year.
    let month_from_march = (i64::from(date.month) + 9) % 12;
    let year = i64::from(date.year) - i64::from(date.month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(date.day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let second_of_day =
        i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second);
    let unix = days * 86_400 + second_of_day - offset_minutes * 60;
    (MIN..=MAX).contains(&unix).then_some(unix)
}

/// Clamped to the years 1 to 9999.
pub(super) fn from_unix(unix: i64) -> Datetime {
    let unix = unix.clamp(MIN, MAX);
    let (days, second) = (unix.div_euclid(86_400) + 719_468, unix.rem_euclid(86_400));
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Datetime {
        date: Some(Date {
            year: year as u16,
            month: month as u8,
            day: day as u8,
        }),
        time: Some(Time {
            hour: (second / 3600) as u8,
            minute: (second / 60 % 60) as u8,
            second: (second % 60) as u8,
            nanosecond: 0,
        }),
        offset: Some(Offset::Z),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates_both_ways() {
        for (text, unix) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-10-05T12:34:56Z", 1_791_203_696),
            ("0001-01-01T00:00:00Z", MIN),
            ("9999-12-31T23:59:59Z", MAX),
        ] {
            assert_eq!(to_unix(&text.parse().unwrap()), Some(unix), "{text}");
            assert_eq!(from_unix(unix).to_string(), text);
        }
        assert_eq!(
            to_unix(&"2026-10-05T14:34:56+02:00".parse().unwrap()),
            Some(1_791_203_696)
        );
        for incomplete in [
            "2026-10-05",
            "12:34:56",
            "2026-10-05T12:34:56",
            "0000-01-01T00:00:00Z",
        ] {
            assert_eq!(to_unix(&incomplete.parse().unwrap()), None, "{incomplete}");
        }
        assert_eq!(to_unix(&from_unix(i64::MIN)), Some(MIN));
        assert_eq!(to_unix(&from_unix(i64::MAX)), Some(MAX));
    }

    #[test]
    fn every_day_of_eight_centuries_round_trips() {
        for day in 0..146_097 * 2 {
            let unix = MIN + day * 86_400 + 43_210;
            assert_eq!(to_unix(&from_unix(unix)), Some(unix));
        }
    }
}
