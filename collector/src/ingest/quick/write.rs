//! JSON, as `serde_json` and the contract write it.

/// As `serde_json` writes a string.
pub(super) fn string(text: &str, json: &mut Vec<u8>) {
    json.push(b'"');
    // Without a way out of the loop it is done many bytes at a time.
    let escaped = text.bytes().fold(false, |escaped, byte| {
        escaped | (byte < 0x20) | (byte == b'"') | (byte == b'\\')
    });
    if escaped {
        json.pop();
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(json, text);
        return;
    }
    json.extend_from_slice(text.as_bytes());
    json.push(b'"');
}

pub(super) fn whole(number: u64, json: &mut Vec<u8>) {
    digits::<1>(number, json);
}

/// At least so many digits.
fn digits<const LEAST: usize>(mut number: u64, json: &mut Vec<u8>) {
    let mut text = [b'0'; 20];
    let mut at = text.len();
    while number > 0 || text.len() - at < LEAST {
        at -= 1;
        if let Some(digit) = text.get_mut(at) {
            *digit = b'0' + (number % 10) as u8;
        }
        number /= 10;
    }
    json.extend_from_slice(text.get(at..).unwrap_or_default());
}

const NANOS: u64 = 1_000_000_000;
const DAY: u64 = 24 * 3_600;

/// Writes times, and remembers the day.
#[derive(Default)]
pub(super) struct Clock {
    /// Days since the Unix epoch, and `"2026-11-22T`.
    day: Option<(u64, String)>,
}

impl Clock {
    /// Nanoseconds since the Unix epoch, as [`agent_common::event::Time`] writes them, in quotes.
    pub fn time(&mut self, nanos: u64, json: &mut Vec<u8>) {
        let (seconds, below) = (nanos / NANOS, nanos % NANOS);
        let (day, second) = (seconds / DAY, seconds % DAY);
        if self.day.as_ref().is_none_or(|(known, _)| *known != day) {
            let midnight = i128::from(day) * i128::from(DAY * NANOS);
            let text = agent_common::event::Time::from_unix_nanos(midnight).to_string();
            let date = text.split_inclusive('T').next().unwrap_or_default();
            self.day = Some((day, format!("\"{date}")));
        }
        if let Some((_, date)) = &self.day {
            json.extend_from_slice(date.as_bytes());
        }
        for (number, mark) in [
            (second / 3_600, b':'),
            (second / 60 % 60, b':'),
            (second % 60, b'.'),
        ] {
            digits::<2>(number, json);
            json.push(mark);
        }
        digits::<9>(below, json);
        json.extend_from_slice(b"Z\"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::event::Time;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn times_are_the_contracts(nanos in 1..=i64::MAX as u64, more in 0..2_000_000_000_u64) {
            let mut clock = Clock::default();
            for nanos in [nanos, (nanos + more).min(i64::MAX as u64), nanos] {
                let mut json = Vec::new();
                clock.time(nanos, &mut json);
                let due = format!("\"{}\"", Time::from_unix_nanos(nanos.into()));
                prop_assert_eq!(String::from_utf8(json).unwrap(), due);
            }
        }

        #[test]
        fn text_is_serde_jsons(text in any::<String>()) {
            let mut json = Vec::new();
            string(&text, &mut json);
            prop_assert_eq!(String::from_utf8(json).unwrap(), serde_json::to_string(&text).unwrap());
        }

        #[test]
        fn numbers_are_decimal(number in any::<u64>(), small in 0..2_000_u64) {
            for number in [number, small] {
                let mut json = Vec::new();
                whole(number, &mut json);
                prop_assert_eq!(String::from_utf8(json).unwrap(), number.to_string());
            }
        }
    }
}
