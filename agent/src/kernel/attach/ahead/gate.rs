//! How much is searched ahead at a time: so many files at once and in a second, of one owner and of all.
//!
//! Invariant: whoever is let in has a [`Permit`], and his place is free again when that is dropped, however.

use super::{Key, bucket::Bucket};
use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Searches of one key, and of all, that are asked for and not done: few, so that what is made meanwhile is soon searched.
const OF_ONE: usize = 4;
const OF_ALL: usize = 256;
/// Files in a second of one key, and of all; as many may come at once after a pause.
const RATE_OF_ONE: f64 = 100.0;
const RATE_OF_ALL: f64 = 400.0;
/// Longest that one waits without looking whether it is the end.
const LOOK: Duration = Duration::from_millis(250);
/// Keys that are remembered without a search under way.
const IDLE: usize = 256;

struct OfOne {
    under_way: usize,
    bucket: Bucket,
}

struct State {
    under_way: usize,
    bucket: Bucket,
    of: HashMap<Key, OfOne>,
    closed: bool,
}

/// See the module.
pub struct Gate {
    state: Mutex<State>,
    left: Condvar,
}

/// A place within the gate.
pub struct Permit {
    gate: Arc<Gate>,
    key: Key,
}

impl Gate {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State {
                under_way: 0,
                bucket: Bucket::full(RATE_OF_ALL, Instant::now()),
                of: HashMap::new(),
                closed: false,
            }),
            left: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until another file of this key may be searched. `None`: it is the end.
    pub fn enter(self: &Arc<Self>, key: &Key) -> Option<Permit> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let Some(wait) = state.try_enter(key, Instant::now()) else {
                return Some(Permit {
                    gate: Arc::clone(self),
                    key: key.clone(),
                });
            };
            state = self
                .left
                .wait_timeout(state, wait.min(LOOK))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Nobody is let in any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.left.notify_all();
    }
}

impl State {
    /// `None`: it is in. Else how long to wait at least.
    fn try_enter(&mut self, key: &Key, now: Instant) -> Option<Duration> {
        if self.of.len() > IDLE {
            self.of
                .retain(|_, of| of.under_way > 0 || !of.bucket.is_full(now));
        }
        let of = self.of.entry(key.clone()).or_insert_with(|| OfOne {
            under_way: 0,
            bucket: Bucket::full(RATE_OF_ONE, now),
        });
        if of.under_way >= OF_ONE || self.under_way >= OF_ALL {
            return Some(LOOK);
        }
        if !of.bucket.has_one(now) || !self.bucket.has_one(now) {
            return Some(of.bucket.wait().max(self.bucket.wait()));
        }
        of.bucket.take(now);
        self.bucket.take(now);
        of.under_way += 1;
        self.under_way += 1;
        None
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.under_way = state.under_way.saturating_sub(1);
        if let Some(of) = state.of.get_mut(&self.key) {
            of.under_way = of.under_way.saturating_sub(1);
        }
        drop(state);
        self.gate.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Lane;
    use super::*;
    use crate::kernel::owner::Owner;

    fn key(name: &str) -> Key {
        (Owner::named(name), Lane::Folders)
    }

    fn state(gate: &Gate) -> MutexGuard<'_, State> {
        gate.lock()
    }

    #[test]
    fn one_owner_does_not_take_the_places_of_others() {
        let gate = Gate::new();
        let now = Instant::now();
        let (one, other) = (key("a"), key("b"));
        let mut state = state(&gate);
        for _ in 0..OF_ONE {
            assert_eq!(state.try_enter(&one, now), None);
        }
        assert_eq!(state.try_enter(&one, now), Some(LOOK));
        assert_eq!(state.try_enter(&other, now), None);
    }

    #[test]
    fn a_second_has_so_many_files() {
        let gate = Gate::new();
        let mut now = Instant::now();
        let one = key("a");
        let enter = |now| {
            let mut state = gate.lock();
            let wait = state.try_enter(&one, now);
            if wait.is_none() {
                state.under_way -= 1;
                state.of.get_mut(&one).unwrap().under_way -= 1;
            }
            wait
        };
        let mut count = 0;
        while enter(now).is_none() {
            count += 1;
        }
        assert_eq!(count, RATE_OF_ONE as usize);
        let wait = enter(now).unwrap();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(10));
        now += Duration::from_millis(100);
        let later = std::iter::from_fn(|| enter(now).is_none().then_some(())).count();
        assert!((9..=11).contains(&later), "{later}");
    }

    #[test]
    fn a_dropped_permit_lets_the_next_in_and_the_end_everybody_out() {
        let gate = Arc::new(Gate::new());
        let one = key("a");
        let mut permits: Vec<_> = (0..OF_ONE).map(|_| gate.enter(&one).unwrap()).collect();
        let waiting = std::thread::spawn({
            let (gate, one) = (Arc::clone(&gate), one.clone());
            move || gate.enter(&one).map(std::mem::forget).is_some()
        });
        permits.pop();
        assert!(waiting.join().unwrap());
        let waiting = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.enter(&one).is_none()
        });
        gate.close();
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn owners_are_forgotten() {
        let gate = Gate::new();
        let now = Instant::now();
        let mut state = state(&gate);
        for number in 0..10 * IDLE {
            // Each a second later, when the buckets are full again.
            let now = now + Duration::from_secs(number as u64);
            assert_eq!(state.try_enter(&key(&number.to_string()), now), None);
            state.under_way -= 1;
            state.of.values_mut().for_each(|of| of.under_way = 0);
        }
        assert!(state.of.len() <= IDLE + 1);
    }
}
