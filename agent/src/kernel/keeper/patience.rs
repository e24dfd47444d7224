//! Owners whose files the keeper has not answered for: such a file may hang, and would hold one of its threads each time.
//!
//! Invariant: an owner with [`LATE`] requests in a row without an answer is refused, until [`FORGIVEN`] after the last.

use crate::kernel::owner::Owner;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

const LATE: usize = 4;
const FORGIVEN: Duration = Duration::from_secs(60);

/// How often the keeper did not answer, and when it did not last, by owner.
#[derive(Debug, Default)]
pub struct Late(Mutex<HashMap<Owner, (usize, Instant)>>);

impl Late {
    #[must_use]
    pub fn refuses(&self, owner: &Owner) -> bool {
        let mut late = self.lock();
        late.retain(|_, (_, last)| last.elapsed() < FORGIVEN);
        late.get(owner).is_some_and(|(count, _)| *count >= LATE)
    }

    /// The keeper has answered, or has not.
    pub fn answered(&self, owner: &Owner, in_time: bool) {
        let mut late = self.lock();
        if in_time {
            late.remove(owner);
        } else {
            let now = Instant::now();
            let (count, last) = late.entry(owner.clone()).or_insert((0, now));
            *count += 1;
            *last = now;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, (usize, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_late_again_and_again_is_refused_and_nobody_else() {
        let (slow, other) = (Owner::named("slow"), Owner::named("other"));
        let late = Late::default();
        for _ in 0..LATE {
            assert!(!late.refuses(&slow));
            late.answered(&slow, false);
        }
        assert!(late.refuses(&slow));
        assert!(!late.refuses(&other));
        late.answered(&slow, true);
        assert!(!late.refuses(&slow));
    }
}
