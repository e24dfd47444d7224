//! What an HTTP answer means for a batch, by its status and Retry-After.
//!
//! OTLP/HTTP names the statuses that may be sent again (429, 502, 503, 504), and says of all others that they must
//! not; here that holds for both HTTP receivers. <https://opentelemetry.io/docs/specs/otlp/#failures>

use crate::sink::batch::Outcome;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use std::time::Duration;

/// A receiver that names a longer pause is asked again after this one: its clock or ours may be wrong.
pub const LONGEST: Duration = Duration::from_secs(60 * 60);

/// What Go's net/http says of a body over its limit (`http.MaxBytesError`). The OpenTelemetry Collector hands it on
/// with 400 instead of 413, and a whole batch would be given up for its size.
const GO_TOO_LARGE: &str = "http: request body too large";

/// What an answer other than a success means; `said` is the begin of its body, for people.
#[must_use]
pub fn outcome(status: u16, retry_after: Option<&str>, now: Timestamp, said: &str) -> Outcome {
    let mut reason = format!("the receiver answered {status}");
    if !said.is_empty() {
        reason = format!("{reason}: {said}");
    }
    match status {
        429 | 502 | 503 | 504 => Outcome::Retry {
            after: retry_after.and_then(|text| after(text, now)),
            reason,
        },
        413 => Outcome::TooLarge { reason },
        400 if said.contains(GO_TOO_LARGE) => Outcome::TooLarge { reason },
        _ => Outcome::Rejected { reason },
    }
}

/// Retry-After (RFC 9110, section 10.2.3): seconds, or a date, of which the past means now. At most [`LONGEST`];
/// `None` if it is neither.
#[must_use]
pub fn after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are longer than the longest.
        let seconds = text.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(LONGEST));
    }
    // The form that senders must use; the two obsolete ones (RFC 850, asctime) have been forbidden for 25 years.
    let date = DateTimeParser::new()
        .relaxed_weekday(true)
        .parse_timestamp(text)
        .ok()?;
    let pause = date.duration_since(now);
    Some(
        Duration::try_from(pause)
            .unwrap_or(Duration::ZERO)
            .min(LONGEST),
    )
}
