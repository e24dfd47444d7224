//! Which key-log points have proven themselves.
//!
//! A point that gives secrets while its processes' connections end unopened, again and again and without one proof, is
//! at the wrong place: it is dropped.
//!
//! Invariant: a point that has opened one record is never dropped.

use crate::kernel::{
    points::{Points, State},
    record::{PointId, ProcessKey},
};
use lru::LruCache;
use std::{collections::BTreeMap, num::NonZeroUsize};

/// Connections that a point may fail before it is dropped.
const FAILURES: u32 = 5;
/// Processes whose last point is remembered.
const PROCESSES: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

#[derive(Default)]
struct Record {
    proven: bool,
    failures: u32,
}

pub struct Proofs {
    points: BTreeMap<PointId, Record>,
    /// Points that gave a process's secrets.
    gave: LruCache<ProcessKey, Vec<PointId>>,
}

impl Default for Proofs {
    fn default() -> Self {
        Self {
            points: BTreeMap::new(),
            gave: LruCache::new(PROCESSES),
        }
    }
}

impl Proofs {
    /// A point gave a secret of this process.
    pub fn hit(&mut self, process: ProcessKey, point: PointId) {
        self.points.entry(point).or_default();
        let gave = self.gave.get_or_insert_mut(process, Vec::new);
        if !gave.contains(&point) {
            gave.push(point);
        }
    }

    /// A point that fits gave secrets of this process.
    pub fn gave_secrets(&self, process: ProcessKey, fits: impl Fn(PointId) -> bool) -> bool {
        let gave = self.gave.peek(&process);
        gave.is_some_and(|gave| gave.iter().any(|point| fits(*point)))
    }

    pub fn proved(&mut self, point: PointId, points: &Points) {
        let record = self.points.entry(point).or_default();
        if !record.proven {
            record.proven = true;
            points.set_state(point, State::Proven);
        }
    }

    /// A connection of these processes ended unopened, which says something about the points that fit. Returns those to
    /// drop.
    pub fn failed(
        &mut self,
        processes: &[ProcessKey],
        fits: impl Fn(PointId) -> bool,
    ) -> Vec<PointId> {
        let mut dropped = Vec::new();
        for process in processes {
            let gave = self.gave.peek(process).into_iter().flatten();
            for point in gave.filter(|point| fits(**point)) {
                let Some(record) = self.points.get_mut(point) else {
                    continue;
                };
                if !record.proven {
                    record.failures += 1;
                    if record.failures == FAILURES {
                        dropped.push(*point);
                    }
                }
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: ProcessKey = ProcessKey { pid: 1, start: 2 };

    #[test]
    fn a_point_that_opens_nothing_is_dropped_once() {
        let mut proofs = Proofs::default();
        proofs.hit(PROCESS, PointId(3));
        for _ in 1..FAILURES {
            assert!(proofs.failed(&[PROCESS], |_| true).is_empty());
        }
        assert_eq!(proofs.failed(&[PROCESS], |_| true), [PointId(3)]);
        assert!(proofs.failed(&[PROCESS], |_| true).is_empty());
    }

    #[test]
    fn what_a_point_came_too_late_for_says_nothing_of_it() {
        let mut proofs = Proofs::default();
        proofs.hit(PROCESS, PointId(3));
        let late = |point: PointId| point != PointId(3);
        assert!((0..10).all(|_| proofs.failed(&[PROCESS], late).is_empty()));
        assert!(!proofs.gave_secrets(PROCESS, late));
    }

    #[test]
    fn a_proven_point_stays() {
        let mut proofs = Proofs::default();
        proofs.hit(PROCESS, PointId(3));
        proofs.proved(PointId(3), &Points::default());
        for _ in 0..10 * FAILURES {
            assert!(proofs.failed(&[PROCESS], |_| true).is_empty());
        }
    }

    #[test]
    fn only_the_processes_of_the_connection_count() {
        let mut proofs = Proofs::default();
        proofs.hit(PROCESS, PointId(3));
        let other = ProcessKey { pid: 9, start: 9 };
        assert!((0..10).all(|_| proofs.failed(&[other], |_| true).is_empty()));
        assert!(proofs.gave_secrets(PROCESS, |_| true) && !proofs.gave_secrets(other, |_| true));
    }
}
