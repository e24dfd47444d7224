//! How much of what: what a load is made of, beside the seed.

/// Sizes of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub events: u64,
    pub hosts: usize,
    pub fingerprints: usize,
    /// First moment, in nanoseconds since the Unix epoch.
    pub from: i64,
    /// Nanoseconds over which the events are spread.
    pub span: i64,
}

/// Nanoseconds of a day.
pub const DAY: i64 = 24 * 3_600 * 1_000_000_000;
/// Events for each of so many there is a credential.
const PER_FINGERPRINT: u64 = 500;
const LEAST_FINGERPRINTS: u64 = 100;

impl Shape {
    /// 20,000 credentials for 10 million events, and as many in proportion.
    pub fn fingerprints_of(events: u64) -> usize {
        (events / PER_FINGERPRINT).max(LEAST_FINGERPRINTS) as usize
    }
}
