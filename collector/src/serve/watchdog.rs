//! systemd's watchdog: the service manager hears that the collector still works, and starts it anew when it hears
//! nothing for `WatchdogSec` (sd_watchdog_enabled(3)).
//!
//! [`Watchdog::beat`] is called after a round through the runtime and the inbox's thread, the two that everything else
//! waits for, never by a timer alone: that would say for ever that it is alive while the inbox hangs.
//!
//! Invariant: nothing is sent where the service manager did not ask this very process for it.

use std::time::Duration;

/// Tells the service manager that the collector works.
#[derive(Clone, Copy, Debug)]
pub struct Watchdog {
    /// What the service manager waits; `None` where nobody asked.
    period: Option<Duration>,
}

impl Watchdog {
    /// As the environment says: `WATCHDOG_USEC`, if `WATCHDOG_PID` is this process.
    pub fn from_environment() -> Self {
        let mut microseconds = 0;
        let asked = sd_notify::watchdog_enabled(false, &mut microseconds);
        Self::new(asked.then_some(microseconds))
    }

    fn new(microseconds: Option<u64>) -> Self {
        let microseconds = microseconds.filter(|microseconds| *microseconds > 0);
        Self {
            period: microseconds.map(Duration::from_micros),
        }
    }

    /// How often to beat: as often as the work is done anyway, but twice in each period at least, as
    /// sd_watchdog_enabled(3) recommends.
    pub fn every(self, usual: Duration) -> Duration {
        self.period.map_or(usual, |period| usual.min(period / 2))
    }

    pub fn beat(self) {
        if self.period.is_some() {
            // Nobody listens any more: then the service manager draws its own conclusion.
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Watchdog]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_in_each_period_at_least() {
        let usual = Duration::from_secs(10);
        for (asked, seconds) in [
            (None, 10),
            (Some(0), 10),
            (Some(120_000_000), 10),
            (Some(6_000_000), 3),
        ] {
            let every = Watchdog::new(asked).every(usual);
            assert_eq!(every, Duration::from_secs(seconds), "{asked:?}");
        }
    }
}
