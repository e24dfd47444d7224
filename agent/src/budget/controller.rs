//! What is done about what the agent uses.
//!
//! The share of exchanges that is read follows from the CPU time: a change aims at a little less than the limit, and
//! waits until what is measured is all of the share before, so that a share that works is found within some changes and
//! then kept. Between the limit and the mark below it nothing changes.
//!
//! Invariant: within the limits, and while they are passed for less than [`Limits::patience`], nothing is detached.
//! Invariant: the share is never 0: what is read tells whether there is room again.

use super::{Usage, WHOLE, meter::WINDOW};
use std::{
    fmt,
    time::{Duration, Instant},
};

/// What may be used, and for how long more may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Thousandths of one core.
    pub cpu: u64,
    /// Resident bytes.
    pub memory: u64,
    /// How long either may be passed, in spite of all that is done about it, before the probes are detached.
    pub patience: Duration,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Exchanges to be read, of [`WHOLE`].
    pub kept: u16,
    /// What waits is to be given up.
    pub shed: bool,
    /// The probes are to be detached.
    pub detach: Option<Over>,
}

/// What was over for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    pub usage: Usage,
    pub limits: Limits,
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { usage, limits } = self;
        let mut parted = false;
        if usage.cpu > limits.cpu {
            let (used, may) = (usage.cpu as f64 / 10.0, limits.cpu as f64 / 10.0);
            write!(f, "CPU {used:.1} % of {may} %")?;
            parted = true;
        }
        if usage.memory > limits.memory {
            let separator = if parted { ", " } else { "" };
            let (used, may) = (usage.memory, limits.memory);
            write!(f, "{separator}memory {used} of {may} bytes")?;
        }
        write!(f, " for {} s", limits.patience.as_secs())
    }
}

/// Of the limit, in hundredths: what a change aims at, and the mark below which the share grows.
const AIM: u64 = 85;
const MARK: u64 = 70;
/// The share grows by at most this factor at once: what there is to read is not known where little was read.
const FASTEST: u64 = 4;
/// What waits is given up no more often.
const SHED: Duration = Duration::from_secs(5);

/// See the module.
pub struct Controller {
    limits: Limits,
    kept: u16,
    /// Steps since the share was changed.
    steps: usize,
    over_since: Option<Instant>,
    shed_at: Option<Instant>,
}

impl Controller {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            kept: WHOLE,
            steps: 0,
            over_since: None,
            shed_at: None,
        }
    }

    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The probes are attached again: how long it was over begins anew. The share stays, and grows where there is room.
    pub fn begin(&mut self) {
        (self.over_since, self.shed_at, self.steps) = (None, None, 0);
    }

    /// To be called at regular intervals.
    pub fn step(&mut self, now: Instant, usage: Usage) -> Verdict {
        let limits = self.limits;
        self.steps += 1;
        let next = next_share(self.kept, usage.cpu, limits.cpu);
        if self.steps > WINDOW && next != self.kept {
            (self.kept, self.steps) = (next, 0);
        }
        let memory = usage.memory > limits.memory;
        let passed = memory || usage.cpu > limits.cpu;
        let since = match (passed, self.over_since) {
            (false, _) => None,
            (true, since) => Some(since.unwrap_or(now)),
        };
        self.over_since = since;
        let shed = memory
            && self
                .shed_at
                .is_none_or(|at| now.saturating_duration_since(at) >= SHED);
        if shed {
            self.shed_at = Some(now);
        }
        let too_long =
            since.is_some_and(|since| now.saturating_duration_since(since) >= limits.patience);
        Verdict {
            kept: self.kept,
            shed,
            detach: too_long.then_some(Over { usage, limits }),
        }
    }
}

fn next_share(kept: u16, used: u64, limit: u64) -> u16 {
    let steady = used <= limit && used.saturating_mul(100) >= limit.saturating_mul(MARK);
    if steady {
        return kept;
    }
    let kept = u64::from(kept);
    let aimed = (kept * limit).saturating_mul(AIM) / used.saturating_mul(100).max(1);
    let next = aimed.min(kept * FASTEST);
    u16::try_from(next.clamp(1, WHOLE.into())).unwrap_or(WHOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: Limits = Limits {
        cpu: 1_000,
        memory: 1_000_000,
        patience: Duration::from_secs(10),
    };

    /// An agent that uses `fixed` thousandths whatever is read, and `load` for reading everything; measured late, as by
    /// a window of four.
    struct Simulated {
        controller: Controller,
        now: Instant,
        last: [u64; 4],
        kept: u16,
    }

    impl Simulated {
        fn new() -> Self {
            Self {
                controller: Controller::new(LIMITS),
                now: Instant::now(),
                last: [0; 4],
                kept: WHOLE,
            }
        }

        fn step(&mut self, fixed: u64, load: u64, memory: u64) -> (u64, Verdict) {
            let used = fixed + load * u64::from(self.kept) / u64::from(WHOLE);
            self.last.rotate_left(1);
            self.last[3] = used;
            self.now += SECOND;
            let cpu = self.last.iter().sum::<u64>() / 4;
            let verdict = self.controller.step(self.now, Usage { cpu, memory });
            self.kept = verdict.kept;
            (used, verdict)
        }

        fn run(&mut self, steps: usize, fixed: u64, load: u64) -> Vec<(u64, Verdict)> {
            (0..steps).map(|_| self.step(fixed, load, 0)).collect()
        }
    }

    #[test]
    fn within_the_budget_everything_is_read() {
        for load in [0, 100, 500, 950] {
            let steps = Simulated::new().run(100, 30, load);
            assert!(steps.iter().all(|(_, verdict)| *verdict
                == Verdict {
                    kept: WHOLE,
                    shed: false,
                    detach: None
                }));
        }
    }

    #[test]
    fn a_share_is_found_and_kept_and_given_up_when_the_load_goes() {
        for load in [1_100, 1_500, 4_000, 20_000, 150_000] {
            let mut simulated = Simulated::new();
            let steps = simulated.run(200, 30, load);
            assert!(
                steps.iter().all(|(_, verdict)| verdict.detach.is_none()),
                "load {load}"
            );
            let settled = &steps[25..];
            assert!(
                settled.iter().all(|(used, _)| (600..=1_000).contains(used)),
                "load {load}: {steps:?}"
            );
            assert!(settled.iter().all(|(_, verdict)| verdict.kept < WHOLE));
            let after = simulated.run(30, 30, 10);
            assert_eq!(
                after.last().map(|(_, verdict)| verdict.kept),
                Some(WHOLE),
                "load {load}"
            );
        }
    }

    #[test]
    fn what_skipping_does_not_mend_detaches_after_its_time() {
        let mut simulated = Simulated::new();
        let steps = simulated.run(40, 1_200, 50);
        let at = steps
            .iter()
            .position(|(_, verdict)| verdict.detach.is_some());
        // A window of 4 passes the limit with its fourth step, and then 10 seconds pass.
        assert_eq!(at, Some(13));
        assert!(steps.iter().all(|(_, verdict)| verdict.kept > 0));
        let over = steps[13].1.detach.unwrap().to_string();
        assert_eq!(over, "CPU 122.3 % of 100 % for 10 s");
        simulated.controller.begin();
        let again = simulated.run(10, 1_200, 50);
        assert!(again.iter().all(|(_, verdict)| verdict.detach.is_none()));
    }

    #[test]
    fn a_moment_within_the_budget_begins_the_time_anew() {
        let mut controller = Controller::new(LIMITS);
        let mut now = Instant::now();
        for step in 0..100 {
            now += SECOND;
            let cpu = if step % 9 == 8 { 1_000 } else { 5_000 };
            let verdict = controller.step(now, Usage { cpu, memory: 0 });
            assert_eq!(verdict.detach, None);
        }
    }

    #[test]
    fn memory_is_shed_now_and_then_and_skips_nothing() {
        let mut simulated = Simulated::new();
        let steps: Vec<Verdict> = (0..10).map(|_| simulated.step(0, 0, 1_000_001).1).collect();
        let shed: Vec<bool> = steps.iter().map(|verdict| verdict.shed).collect();
        assert_eq!(
            shed,
            [
                true, false, false, false, false, true, false, false, false, false
            ]
        );
        assert!(steps.iter().all(|verdict| verdict.kept == WHOLE));
        let last = simulated.step(0, 0, 1_000_001).1;
        assert_eq!(
            last.detach.unwrap().to_string(),
            "memory 1000001 of 1000000 bytes for 10 s"
        );
        let fine = simulated.step(0, 0, 1_000_000).1;
        assert!(!fine.shed && fine.detach.is_none());
    }

    #[test]
    fn numbers_at_the_ends_are_no_trouble() {
        for (kept, used, limit, expected) in [
            (1, u64::MAX, 1, 1),
            (1, 0, 1, 4),
            (WHOLE, 0, 1_000, WHOLE),
            (WHOLE, 100_000, 1_000, 8),
            (WHOLE, 10_000_000, 1_000, 1),
            (600, 400, 1_000, WHOLE),
            (100, 850, 1_000, 100),
            (3, 3_000, 1_000, 1),
        ] {
            assert_eq!(next_share(kept, used, limit), expected, "{kept} {used}");
        }
    }
}
