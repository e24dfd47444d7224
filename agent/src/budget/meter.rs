//! How much CPU time and memory some processes use.

use crate::kernel::bare;
use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

/// Measurements that a window spans.
pub(super) const WINDOW: usize = 4;

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Thousandths of one core, over the last window.
    pub cpu: u64,
    /// Resident bytes now, shared ones included (`/proc/PID/statm`).
    pub memory: u64,
}

/// Measures processes; threads that have ended count.
pub struct Meter {
    processes: Vec<u32>,
    window: VecDeque<(Instant, Duration)>,
}

impl Meter {
    pub fn new(processes: Vec<u32>) -> Self {
        Self {
            processes,
            window: VecDeque::new(),
        }
    }

    /// To be called at regular intervals.
    ///
    /// # Errors
    /// If a process is gone, or `/proc` cannot be read.
    pub fn measure(&mut self, now: Instant) -> io::Result<Usage> {
        let (mut cpu, mut memory) = (Duration::ZERO, 0);
        for pid in &self.processes {
            cpu += bare::cpu_time(*pid)?;
            memory += resident(*pid)?;
        }
        Ok(Usage {
            cpu: self.share(now, cpu),
            memory,
        })
    }

    /// What was before does not count: the first measurement after this one tells no share.
    pub fn forget(&mut self) {
        self.window.clear();
    }

    fn share(&mut self, now: Instant, cpu: Duration) -> u64 {
        self.window.push_back((now, cpu));
        if self.window.len() > WINDOW + 1 {
            self.window.pop_front();
        }
        let Some((since, before)) = self.window.front() else {
            return 0;
        };
        let (used, passed) = (cpu.saturating_sub(*before), now.duration_since(*since));
        let share = (used.as_micros() * 1_000).checked_div(passed.as_micros());
        u64::try_from(share.unwrap_or(0)).unwrap_or(u64::MAX)
    }
}

/// Field 2 of `/proc/PID/statm` (proc_pid_statm(5)) is in pages.
fn resident(pid: u32) -> io::Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages = statm
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|field| field.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| io::Error::other(format!("/proc/{pid}/statm: {statm:?}")))?;
    Ok(pages.saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_the_window_alone() {
        let mut meter = Meter::new(Vec::new());
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        // Idle for ten seconds, then one and a half cores.
        for at in 0..10 {
            assert_eq!(meter.share(begin + at * second, second), 0);
        }
        let busy = |at: u32| second + (at - 9) * Duration::from_millis(1_500);
        let shares: Vec<u64> = (10..16)
            .map(|at| meter.share(begin + at * second, busy(at)))
            .collect();
        assert_eq!(shares, [375, 750, 1_125, 1_500, 1_500, 1_500]);
        meter.forget();
        assert_eq!(meter.share(begin + 16 * second, busy(16)), 0);
    }

    #[test]
    fn clocks_that_stand_still_are_no_share() {
        let mut meter = Meter::new(Vec::new());
        let now = Instant::now();
        for used in [2, 3, 1] {
            assert_eq!(meter.share(now, Duration::from_secs(used)), 0);
        }
    }

    #[test]
    fn a_real_process_is_measured() {
        let own = std::process::id();
        let mut meter = Meter::new(vec![own]);
        let begin = Instant::now();
        meter.measure(begin).unwrap();
        let before = bare::cpu_time(own).unwrap();
        // By CPU time, so that a slow machine measures the same.
        while bare::cpu_time(own).unwrap() - before < Duration::from_millis(50) {
            std::hint::black_box(vec![1_u8; 4_096]);
        }
        let usage = meter.measure(begin + Duration::from_millis(50)).unwrap();
        assert!(usage.cpu >= 1_000, "{usage:?}");
        assert!(usage.memory > 100_000, "{usage:?}");
        // Above every kernel's `pid_max`.
        assert!(Meter::new(vec![0x4000_0000]).measure(begin).is_err());
    }
}
