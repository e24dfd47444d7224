//! So much in a second, and as much at once after a pause.

use std::time::{Duration, Instant};

pub struct Bucket {
    rate: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    /// `rate`: in a second.
    pub fn full(rate: f64, now: Instant) -> Self {
        Self {
            rate,
            left: rate,
            at: now,
        }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let there = self.has_one(now);
        if there {
            self.left -= 1.0;
        }
        there
    }

    pub fn has_one(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.rate).min(self.rate);
        self.at = now;
        self.left >= 1.0
    }

    /// How long until there is one.
    pub fn wait(&self) -> Duration {
        Duration::from_secs_f64(((1.0 - self.left) / self.rate).max(0.0))
    }

    pub fn is_full(&mut self, now: Instant) -> bool {
        self.has_one(now) && self.left >= self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_in_a_second() {
        let mut now = Instant::now();
        let mut bucket = Bucket::full(100.0, now);
        let taken = |bucket: &mut Bucket, now| (0..1_000).filter(|_| bucket.take(now)).count();
        assert!(bucket.is_full(now));
        assert_eq!(taken(&mut bucket, now), 100);
        assert!(bucket.wait() > Duration::ZERO && bucket.wait() <= Duration::from_millis(10));
        now += Duration::from_millis(100);
        assert!((9..=10).contains(&taken(&mut bucket, now)));
        now += Duration::from_secs(3_600);
        assert_eq!(taken(&mut bucket, now), 100);
    }
}
