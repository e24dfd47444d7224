//! Wakes consumers when something was appended, and tells them when to stop.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shared by the writer and all consumers.
#[derive(Default)]
pub struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct State {
    appended: u64,
    /// Times that something has changed which a consumer may have waited for.
    changes: u64,
    /// When consumers must have stopped.
    stop: Option<Instant>,
}

impl Signal {
    /// Something was appended.
    pub fn appended(&self) {
        self.lock().appended += 1;
        self.changed.notify_all();
    }

    /// Whoever pauses is to look again.
    pub fn changed(&self) {
        self.lock().changes += 1;
        self.changed.notify_all();
    }

    /// Everyone is to stop by `deadline`.
    pub fn stop(&self, deadline: Instant) {
        self.lock().stop = Some(deadline);
        self.changed.notify_all();
    }

    /// When to have stopped, once that was asked for.
    #[must_use]
    pub fn stopping(&self) -> Option<Instant> {
        self.lock().stop
    }

    /// For [`wait`](Self::wait): to be taken before looking for records, so that none is missed between.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.lock().appended
    }

    /// Until something was appended after `mark`, the stop was asked for, or `most` has passed.
    pub fn wait(&self, mark: u64, most: Duration) {
        let state = self.lock();
        let _ = self
            .changed
            .wait_timeout_while(state, most, |state| {
                state.appended == mark && state.stop.is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
    }

    /// For [`pause`](Self::pause): to be taken before looking for what may change.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Until the stop was asked for, something has changed since `changes`, or `most` has passed.
    pub fn pause(&self, changes: u64, most: Duration) {
        let state = self.lock();
        let _ = self
            .changed
            .wait_timeout_while(state, most, |state| {
                state.changes == changes && state.stop.is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
