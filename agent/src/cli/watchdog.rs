//! systemd's watchdog: the service manager hears that the pipeline still goes round, and starts the agent anew when it
//! hears nothing for `WatchdogSec` (sd_watchdog_enabled(3)).
//!
//! [`Watchdog::beat`] is called by the loop that must not hang, once in each round, never by a thread of its own: a
//! thread that only says that it is alive would say so for ever while the pipeline hangs.
//!
//! Invariant: nothing is sent where the service manager did not ask this very process for it.
//! Invariant: a beat is a comparison of two times but for the one in every half period that is sent.

use std::time::{Duration, Instant};

/// Tells the service manager that the loop goes round.
pub struct Watchdog<N = fn()> {
    /// Half of what the service manager waits, as sd_watchdog_enabled(3) recommends; `None` where nobody asked.
    every: Option<Duration>,
    last: Option<Instant>,
    notify: N,
}

impl Watchdog {
    /// As the environment says: `WATCHDOG_USEC`, if `WATCHDOG_PID` is this process. Call it before threads read or
    /// change the environment, in the process that the service manager knows as the main one (`NotifyAccess=main`).
    pub fn from_environment() -> Self {
        let mut microseconds = 0;
        let asked = sd_notify::watchdog_enabled(false, &mut microseconds);
        Self::new(asked.then_some(microseconds), || {
            // Nobody listens any more: then the service manager draws its own conclusion.
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Watchdog]);
        })
    }
}

impl<N: Fn()> Watchdog<N> {
    /// `microseconds` is the service manager's period; 0 is none.
    fn new(microseconds: Option<u64>, notify: N) -> Self {
        Self {
            every: microseconds
                .filter(|microseconds| *microseconds > 0)
                .map(|microseconds| Duration::from_micros(microseconds / 2)),
            last: None,
            notify,
        }
    }

    /// The loop goes round; `now` is monotonic, and the loop has read it anyway.
    pub fn beat(&mut self, now: Instant) {
        let Some(every) = self.every else { return };
        let due = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= every);
        if due {
            self.last = Some(now);
            (self.notify)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Beats every `step` for `long`; how often the service manager heard of it.
    fn heard(microseconds: Option<u64>, step: Duration, long: Duration) -> u32 {
        let count = Cell::new(0);
        let mut watchdog = Watchdog::new(microseconds, || count.set(count.get() + 1));
        let start = Instant::now();
        let mut at = Duration::ZERO;
        while at < long {
            watchdog.beat(start + at);
            at += step;
        }
        count.get()
    }

    #[test]
    fn twice_in_each_period_however_fast_the_loop_is() {
        const SECOND: u64 = 1_000_000;
        let (fast, slow) = (Duration::from_millis(5), Duration::from_secs(4));
        let minute = Duration::from_secs(60);
        assert_eq!(heard(Some(10 * SECOND), fast, minute), 12);
        assert_eq!(heard(Some(30 * SECOND), fast, minute), 4);
        // As often as it can be.
        assert_eq!(heard(Some(2 * SECOND), slow, minute), 15);
    }

    #[test]
    fn the_first_round_is_heard_at_once() {
        let moment = Duration::from_nanos(1);
        assert_eq!(heard(Some(3_600_000_000), moment, moment), 1);
    }

    #[test]
    fn silence_where_nobody_asked() {
        let minute = Duration::from_secs(60);
        for asked in [None, Some(0)] {
            assert_eq!(heard(asked, Duration::from_secs(1), minute), 0);
        }
    }

    #[test]
    fn time_that_stands_still_or_goes_back_sends_nothing() {
        let count = Cell::new(0);
        let mut watchdog = Watchdog::new(Some(1_000_000), || count.set(count.get() + 1));
        let now = Instant::now() + Duration::from_secs(60);
        for at in [
            now,
            now,
            now.checked_sub(Duration::from_secs(9)).unwrap_or(now),
        ] {
            watchdog.beat(at);
        }
        assert_eq!(count.get(), 1);
    }
}
