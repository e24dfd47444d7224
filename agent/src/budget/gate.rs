//! Which exchanges are read.

use super::WHOLE;
use crate::flow::Nanos;
use std::hash::{BuildHasher as _, RandomState};

/// What was skipped since the last report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Exchanges.
    pub count: u64,
    pub first: Nanos,
    pub last: Nanos,
}

/// Lets a share of the exchanges pass.
///
/// By chance, and not every so many: what comes in a rhythm of its own would else be read always, or never.
pub struct Gate {
    kept: u16,
    state: u64,
    skipped: Option<Skipped>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::seeded(RandomState::new().hash_one(0))
    }
}

impl Gate {
    /// With the same seed the same exchanges pass.
    pub(crate) fn seeded(state: u64) -> Self {
        Self {
            kept: WHOLE,
            state,
            skipped: None,
        }
    }

    /// Exchanges to be read, of [`WHOLE`].
    pub fn set(&mut self, kept: u16) {
        self.kept = kept.min(WHOLE);
    }

    /// Everything passes.
    pub fn is_open(&self) -> bool {
        self.kept == WHOLE
    }

    /// Whether the next exchange is to be read.
    pub fn passes(&mut self) -> bool {
        self.is_open() || self.draw() < self.kept
    }

    /// An exchange was skipped.
    pub fn count(&mut self, now: Nanos) {
        let skipped = self.skipped.get_or_insert(Skipped {
            count: 0,
            first: now,
            last: now,
        });
        skipped.count += 1;
        skipped.first = skipped.first.min(now);
        skipped.last = skipped.last.max(now);
    }

    /// What was skipped since the last call.
    pub fn take(&mut self) -> Option<Skipped> {
        self.skipped.take()
    }

    /// The next of a row of numbers below [`WHOLE`]: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
    /// Generators, 2014).
    fn draw(&mut self) -> u16 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 10 bits: `WHOLE` is 2^10.
        ((z ^ (z >> 31)) >> 54) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_gate_skips_nothing() {
        let mut gate = Gate::default();
        assert!((0..10_000).all(|_| gate.passes()));
    }

    #[test]
    fn a_share_passes_in_every_rhythm() {
        for rhythm in [1, 2, 3, 7, 64] {
            let mut gate = Gate::seeded(1);
            gate.set(WHOLE / 4);
            let (mut passed, mut of_rhythm) = (0_u64, 0_u64);
            for at in 0..64_000 {
                let passes = gate.passes();
                passed += u64::from(passes);
                of_rhythm += u64::from(passes && at % rhythm == 0);
            }
            assert!((15_000..17_000).contains(&passed), "{passed}");
            let expected = 16_000 / rhythm;
            assert!(
                (expected / 2..expected * 2).contains(&of_rhythm),
                "{of_rhythm} of {expected}"
            );
        }
    }

    #[test]
    fn what_is_skipped_is_told_once_with_its_span() {
        let mut gate = Gate::default();
        for now in [7, 5, 9, 8] {
            gate.count(now);
        }
        let expected = Skipped {
            count: 4,
            first: 5,
            last: 9,
        };
        assert_eq!((gate.take(), gate.take()), (Some(expected), None));
    }

    #[test]
    fn the_smallest_share_passes_something() {
        let mut gate = Gate::seeded(7);
        gate.set(1);
        let passed = (0..100_000).filter(|_| gate.passes()).count();
        assert!((50..200).contains(&passed), "{passed}");
    }
}
