//! From the kernel's boot clock to wall-clock time.
//!
//! Probes stamp records with `CLOCK_BOOTTIME` (`bpf_ktime_get_boot_ns`). The distance to `CLOCK_REALTIME` is
//! measured at start and again whenever [`Clock::now`] is asked, so that a stepped clock is followed. Times
//! before a step keep the distance that held then, as far back as the last 16 steps.

use crate::flow::Nanos;
use agent_common::event::Time;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::collections::VecDeque;

/// Smaller changes are the clock's slewing and the measurement's own error.
const STEP: i128 = 1_000_000;
const STEPS: usize = 16;
/// Of several measurements the one with the least time between its two readings is right.
const ATTEMPTS: usize = 3;

/// The distance between boot clock and wall clock, over time.
#[derive(Clone, Debug)]
pub struct Clock {
    /// (boot time from which it holds, wall minus boot), oldest first, never empty.
    distances: VecDeque<(Nanos, i128)>,
    /// It does not follow this machine's clocks.
    fixed: bool,
}

impl Clock {
    /// Measures now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            distances: VecDeque::from([(0, measure().1)]),
            fixed: false,
        }
    }

    /// A clock whose distance is never measured, for replays.
    #[must_use]
    pub fn fixed(distance: i128) -> Self {
        Self {
            distances: VecDeque::from([(0, distance)]),
            fixed: true,
        }
    }

    /// Both clocks now; measures the distance again.
    pub fn now(&mut self) -> (Nanos, Time) {
        let (boot, distance) = measure();
        if !self.fixed {
            self.observe(boot, distance);
        }
        (boot, self.wall(boot))
    }

    /// Wall-clock time now, by the distance last measured: one reading of one clock, for where [`Clock::now`] is asked
    /// some times a second elsewhere.
    #[must_use]
    pub fn reading(&self) -> Time {
        self.wall(boot_now())
    }

    fn observe(&mut self, boot: Nanos, distance: i128) {
        let Some((_, last)) = self.distances.back_mut() else {
            return;
        };
        if (*last - distance).abs() < STEP {
            // Followed, or slewing would add up to a step.
            *last = distance;
            return;
        }
        if self.distances.len() == STEPS {
            self.distances.pop_front();
        }
        self.distances.push_back((boot, distance));
    }

    /// Wall-clock time of a moment on the boot clock.
    #[must_use]
    pub fn wall(&self, boot: Nanos) -> Time {
        let distance = self
            .distances
            .iter()
            .rev()
            .find(|(from, _)| *from <= boot)
            .or(self.distances.front())
            .map_or(0, |(_, distance)| *distance);
        Time::from_unix_nanos(i128::from(boot) + distance)
    }
}

/// `CLOCK_BOOTTIME` now.
#[must_use]
pub fn boot_now() -> Nanos {
    u64::try_from(nanos(clock_gettime(ClockId::Boottime))).unwrap_or_default()
}

/// Boot time now, and wall minus boot.
fn measure() -> (Nanos, i128) {
    let attempt = || {
        let before = nanos(clock_gettime(ClockId::Boottime));
        let wall = nanos(clock_gettime(ClockId::Realtime));
        let after = nanos(clock_gettime(ClockId::Boottime));
        (after - before, after, wall - i128::midpoint(before, after))
    };
    let mut best = attempt();
    for _ in 1..ATTEMPTS {
        let next = attempt();
        if next.0 < best.0 {
            best = next;
        }
    }
    (u64::try_from(best.1).unwrap_or_default(), best.2)
}

fn nanos(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_is_now() {
        let mut clock = Clock::start();
        let (boot, wall) = clock.now();
        let expected = Time::now().unix_nanos();
        assert!(
            (wall.unix_nanos() - expected).abs() < 1_000_000_000,
            "{wall}"
        );
        assert_eq!(clock.wall(boot), wall);
        assert!(boot <= boot_now());
    }

    #[test]
    fn a_step_leaves_the_past_alone() {
        let mut clock = Clock::fixed(1_000_000_000_000);
        clock.observe(500, 1_000_000_000_500);
        assert_eq!(
            clock.wall(400).unix_nanos(),
            1_000_000_000_900,
            "slewing is followed"
        );
        clock.observe(1_000, 5_000_000_000_000);
        assert_eq!(clock.wall(999).unix_nanos(), 1_000_000_001_499);
        assert_eq!(clock.wall(1_000).unix_nanos(), 5_000_000_001_000);
        assert_eq!(clock.wall(2_000).unix_nanos(), 5_000_000_002_000);
    }

    #[test]
    fn steps_are_bounded() {
        let mut clock = Clock::fixed(0);
        for step in 1..1_000 {
            clock.observe(step, i128::from(step) * STEP * 2);
        }
        assert_eq!(clock.distances.len(), STEPS);
        assert_eq!(clock.wall(999).unix_nanos(), 999 + 999 * STEP * 2);
        assert_eq!(
            clock.wall(0).unix_nanos(),
            984 * STEP * 2,
            "older than every step: the oldest"
        );
    }
}
